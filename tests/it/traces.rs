//! `[traces]` of a program that was built without the feature `otel`. With it: `tests/otel`.

#[cfg(not(feature = "otel"))]
use crate::support::config;

#[cfg(not(feature = "otel"))]
#[test]
fn a_program_without_traces_refuses_the_table_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let table = "[traces]\nendpoint = 'http://127.0.0.1:4318/v1/traces'";
    std::fs::write(&path, format!("{}\n{table}", config("http://127.0.0.1:1"))).unwrap();
    let output = std::process::Command::new(crate::support::agent::program())
        .args(["run", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--features otel"), "{said}");
}
