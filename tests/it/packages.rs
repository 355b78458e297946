//! What is shipped with the program: units, manifests, completions, manual pages.

mod debian;
mod image;

use std::{
    path::Path,
    process::{Command, Output},
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    serde::{Serialize, de::DeserializeOwned},
};
use serde_json::Value;

use crate::support::{agent::program, haproxy::root};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn run_program(args: &[&str]) -> Output {
    Command::new(program()).args(args).output().unwrap()
}

/// Reads a manifest as its type and writes it again: what the type does not know would be gone.
fn same_as<T: DeserializeOwned + Serialize>(manifest: &Value) {
    let typed: T = serde_json::from_value(manifest.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), *manifest, "not known to Kubernetes");
}

#[test]
fn each_manifest_is_what_kubernetes_knows() {
    let text = read("packaging/kubernetes/gate.yaml");
    let mut kinds = Vec::new();
    let mut deployment = Value::Null;
    for document in text.split("\n---\n") {
        let manifest: Value = serde_saphyr::from_str(document).unwrap();
        let kind = manifest["kind"].as_str().unwrap().to_owned();
        match kind.as_str() {
            "ServiceAccount" => same_as::<ServiceAccount>(&manifest),
            "Deployment" => {
                same_as::<Deployment>(&manifest);
                deployment = manifest;
            }
            "Service" => same_as::<Service>(&manifest),
            "PodDisruptionBudget" => same_as::<PodDisruptionBudget>(&manifest),
            "NetworkPolicy" => same_as::<NetworkPolicy>(&manifest),
            other => panic!("no type for {other}"),
        }
        kinds.push(kind);
    }
    assert_eq!(kinds.len(), 5);
    let pod = &deployment["spec"]["template"]["spec"];
    let version = format!("identity-spoa:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(pod["initContainers"][0]["image"], *version);
    assert_eq!(pod["initContainers"][0]["restartPolicy"], "Always", "not a sidecar");
    let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
    for container in [&pod["initContainers"][0], &pod["containers"][0]] {
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(volumes.contains(&&mount["name"]), "no volume {}", mount["name"]);
        }
    }
    environment_is_known(
        pod["containers"][0]["env"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| variable["name"].as_str().unwrap()),
    );
}

/// Variables that are set must be those that the shipped configuration reads.
fn environment_is_known<'n>(names: impl Iterator<Item = &'n str>) {
    let gate = read("haproxy/haproxy.cfg");
    for name in names {
        assert!(gate.contains(name), "haproxy.cfg knows no {name}");
    }
}

#[test]
fn the_compose_file_hardens_both_and_sets_what_haproxy_reads() {
    let file: Value = serde_saphyr::from_str(&read("packaging/compose.yaml")).unwrap();
    for (name, service) in file["services"].as_object().unwrap() {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"][0], "ALL", "{name}");
        assert_eq!(service["security_opt"][0], "no-new-privileges:true", "{name}");
        let volumes = service["volumes"].as_array().unwrap();
        assert!(volumes.iter().any(|v| v == "socket:/run/identity-spoa"), "{name}");
    }
    let version = format!("identity-spoa:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(file["services"]["agent"]["image"], *version);
    let set = file["services"]["haproxy"]["environment"].as_object().unwrap();
    environment_is_known(set.keys().map(String::as_str));
}

#[test]
fn the_unit_leaves_the_agent_little_to_do_harm_with() {
    let unit = read("packaging/identity-spoa.service");
    for line in ["DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=yes", "--no-pager", "--threshold=20"]);
    match analyze.arg(root().join("packaging/identity-spoa.service")).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            eprintln!("{}", text.lines().last().unwrap_or_default());
        }
        Err(_) => eprintln!("no systemd-analyze here: the exposure of the unit is not looked at"),
    }
}

/// What packages and images hold, without making them.
#[test]
fn what_packages_hold_is_there() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    for asset in package["assets"].as_array().unwrap() {
        let source = asset[0].as_str().unwrap();
        // Of the build; the rest are files of the tree.
        if source.starts_with("target/") {
            continue;
        }
        let directory = source.split('*').next().unwrap();
        assert!(root().join(directory).exists(), "{source}");
    }
    let scripts = root().join(package["maintainer-scripts"].as_str().unwrap());
    for script in ["postinst", "postrm"] {
        let script = scripts.join(script);
        let checked = Command::new("sh").arg("-n").arg(&script).status().unwrap();
        let text = std::fs::read_to_string(&script).unwrap();
        // Where cargo-deb puts what is to be done with the units.
        assert!(checked.success() && text.contains("\n#DEBHELPER#\n"), "{}", script.display());
    }
    let image = read("packaging/Containerfile");
    for line in ["FROM scratch", "USER 65532:65532", r#"ENTRYPOINT ["/usr/bin/identity-spoa"]"#] {
        assert!(image.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn crates_come_from_one_registry_and_bring_one_tls() {
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    let deny: toml::Table = toml::from_str(&read("deny.toml")).unwrap();
    assert_eq!(deny["sources"]["unknown-registry"].as_str(), Some("deny"));
    assert_eq!(deny["sources"]["unknown-git"].as_str(), Some("deny"));
    let banned = deny["bans"]["deny"].as_array().unwrap();
    let banned: Vec<_> = banned.iter().map(|ban| ban["crate"].as_str().unwrap()).collect();
    for name in ["openssl", "openssl-sys", "native-tls"] {
        assert!(banned.contains(&name), "{name}");
    }
    // What has no source is of this repository.
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap().iter();
    let members: Vec<String> = members
        .map(|member| {
            let path = format!("{}/Cargo.toml", member.as_str().unwrap());
            let member: toml::Table = toml::from_str(&read(&path)).unwrap();
            member["package"]["name"].as_str().unwrap().to_owned()
        })
        .chain(["identity-spoa".to_owned()])
        .collect();
    for locked in lock["package"].as_array().unwrap() {
        let name = locked["name"].as_str().unwrap();
        assert!(!banned.contains(&name), "{name} is banned");
        match locked.get("source").and_then(toml::Value::as_str) {
            Some(source) => assert!(source.contains("crates.io-index"), "{name} from {source}"),
            None => assert!(
                members.iter().any(|member| member == name),
                "{name} is not a member of the workspace"
            ),
        }
    }
}

#[test]
fn the_example_for_the_units_is_a_configuration() {
    let path = root().join("packaging/agent.toml");
    let config = identity_spoa::config::Config::load(&path).map_err(|m| m.to_string()).unwrap();
    assert_eq!(config.issuers.len(), 1);
}

#[test]
fn every_command_has_a_manual_page_and_shells_complete_it() {
    let directory = tempfile::tempdir().unwrap();
    let written = run_program(&["man", directory.path().join("man1").to_str().unwrap()]);
    assert!(written.status.success(), "{written:?}");
    let page = |name: &str| {
        let path: &Path = &directory.path().join("man1").join(format!("{name}.1"));
        std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let bash = String::from_utf8(run_program(&["completions", "bash"]).stdout).unwrap();
    let help = String::from_utf8(run_program(&["--help"]).stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names: Vec<_> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(names.contains(&"haproxy") && names.len() > 8, "{names:?}");
    for name in names {
        assert!(page(&format!("identity-spoa-{name}")).contains(".TH identity-spoa"), "{name}");
        assert!(bash.contains(name), "{name}");
    }
    assert!(page("identity-spoa-haproxy-lint").contains("dangerous mistakes"));
    let script = directory.path().join("completions");
    std::fs::write(&script, bash).unwrap();
    let loads = format!(". {} && complete -p identity-spoa", script.display());
    let loaded = Command::new("bash").args(["-c", &loads]).output().unwrap();
    assert!(loaded.status.success(), "{loaded:?}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let output = run_program(&["completions", shell]);
        assert!(output.status.success() && output.stdout.len() > 1000, "{shell}");
    }
    assert_eq!(run_program(&["completions", "tcsh"]).status.code(), Some(2));
}
