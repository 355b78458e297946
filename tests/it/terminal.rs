//! What commands print on a terminal, and what in a pipe. `script`, of the package that every Debian has, is the terminal.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{agent::program, haproxy::root};

/// The beginning of every control sequence of a terminal.
const ESCAPE: char = '\u{1b}';

/// Runs a command of the program on a terminal, and returns what it showed there.
fn on_a_terminal(directory: &Path, arguments: &str, no_color: Option<&str>) -> String {
    let line = format!("stty cols 60 rows 24; {} {arguments}", program().display());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(directory).stdin(Stdio::null());
    script.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("CLICOLOR");
    if let Some(value) = no_color {
        script.env("NO_COLOR", value);
    }
    text(&script.output().unwrap())
}

/// Runs a command of the program with its output in a pipe.
fn in_a_pipe(directory: &Path, arguments: &str) -> String {
    let mut command = Command::new(program());
    command.args(arguments.split(' ')).current_dir(directory).env("TERM", "xterm-256color");
    text(&command.env_remove("NO_COLOR").output().unwrap())
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

/// A directory with a long audit log, and the replay of it.
fn replay() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let line = "{\"seq\":1,\"time_ms\":1,\"verdict\":\"allow\",\"reason\":\"public\"}\n";
    std::fs::write(directory.path().join("audit.jsonl"), line.repeat(20_000)).unwrap();
    let policies = root().join("docs/policies");
    let arguments = format!("policy replay --audit audit.jsonl --policy {}", policies.display());
    (directory, arguments)
}

/// A directory with a configuration that names no other machine.
fn configuration() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = "[agent]\nlisten = ['unix:spop.sock']\n[[issuer]]\nname = 'corp'\n\
        issuer = 'http://127.0.0.1:1'\naudience = 'w'\n[[host]]\npreset = 'gitpod'\n\
        domain = 'x.test'\n[workspaces]\nfile = 'list.yaml'\n";
    std::fs::write(directory.path().join("agent.toml"), text).unwrap();
    std::fs::write(directory.path().join("list.yaml"), "workspaces: []\n").unwrap();
    directory
}

#[test]
fn a_long_command_shows_its_progress_on_a_terminal_and_none_in_a_pipe() {
    let (directory, arguments) = replay();
    let shown = on_a_terminal(directory.path(), &arguments, None);
    assert!(shown.contains("replaying") && shown.contains(" left"), "{shown}");
    assert!(shown.contains("decisions    20000"), "{shown}");
    let piped = in_a_pipe(directory.path(), &arguments);
    assert!(!piped.contains("replaying") && !piped.contains(ESCAPE), "{piped}");
    assert!(piped.starts_with("decisions    20000\n"), "{piped}");
}

#[test]
fn a_command_that_waits_for_others_says_for_whom_on_a_terminal_only() {
    let directory = configuration();
    let shown = on_a_terminal(directory.path(), "doctor --config agent.toml", None);
    assert!(shown.contains("asking the issuer"), "{shown}");
    let piped = in_a_pipe(directory.path(), "doctor --config agent.toml");
    assert!(!piped.contains("asking the issuer"), "{piped}");
}

#[test]
fn colours_are_on_a_terminal_only_and_no_color_turns_them_off() {
    let directory = configuration();
    let explain = "explain --config agent.toml --host www.example.com";
    let refused =
        |text: &str| text.lines().find(|line| line.starts_with("verdict")).map(str::to_owned);
    let shown = refused(&on_a_terminal(directory.path(), explain, None)).unwrap();
    assert!(shown.contains("\u{1b}[31m") || shown.contains("\u{1b}[1m"), "{shown:?}");
    for plain in
        [on_a_terminal(directory.path(), explain, Some("1")), in_a_pipe(directory.path(), explain)]
    {
        let line = refused(&plain).unwrap();
        assert!(!line.contains(ESCAPE) && line.contains("host_unmatched"), "{line:?}");
    }
}
