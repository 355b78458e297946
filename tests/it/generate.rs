//! `haproxy generate`: it writes the shipped configuration for one agent, which every HAProxy takes and which guards.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use identity_spoa::haproxy_config::{
    document::Source,
    generate::{Facts, File, Version as Dialect, generate, parts},
    lint::{Agent, lint},
    room::{Groups, HeaderRoom},
};
use strum::VariantArray as _;

use crate::support::{ALICES, Haproxy, Stage, Version, agent::program, haproxy::root, host, until};

/// The facts of an agent that uses everything, or as little as possible.
fn facts(version: Dialect, everything: bool) -> Facts {
    Facts {
        version,
        agent: everything.then(|| "unix@/run/identity-spoa/spop.sock".into()),
        processing: Duration::from_millis(if everything { 1_700 } else { 500 }),
        response_timeout: Duration::from_millis(if everything { 1_500 } else { 300 }),
        sign_in: everything.then(|| ("login.example.com".into(), "127.0.0.1:9099".into())),
        login_port: if everything { 8443 } else { 443 },
        header: everything.then(|| "X-Workspace-Token".into()),
        cookie: everything,
        query: everything,
        subprotocol: everything,
        metadata: everything,
        several: false,
        reuse: everything.then(|| Duration::from_secs(5)),
        room: HeaderRoom::for_headers(
            30,
            if everything { Groups::Possible } else { Groups::Never },
        ),
    }
}

fn agent(facts: &Facts) -> Agent {
    Agent {
        response_timeout: facts.response_timeout,
        sign_in: facts.sign_in.is_some(),
        header: facts.header.clone(),
        cookie: facts.cookie,
        policies: false,
        query: facts.query,
        subprotocol: facts.subprotocol,
        room: Some(facts.room),
        ..Agent::default()
    }
}

fn write(directory: &Path, files: &[File]) {
    for file in files {
        let path = directory.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file.text).unwrap();
    }
}

fn file<'f>(files: &'f [File], name: &str) -> &'f str {
    &files.iter().find(|file| file.path == name).unwrap().text
}

/// The version to generate for a HAProxy of the tests.
fn dialect(version: &Version) -> Dialect {
    match version {
        Version::Container(tag) => {
            *Dialect::VARIANTS.iter().rfind(|dialect| tag.as_str() >= dialect.text()).unwrap()
        }
        Version::Local => Dialect::V2_6,
    }
}

#[test]
fn each_haproxy_takes_what_is_generated_for_it_without_a_warning() {
    for version in Version::all() {
        for everything in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path(), &generate(&facts(dialect(version), everything)));
            let (good, text) = version.check_in(directory.path(), &[]);
            assert!(good, "{version:?} {everything}: {text}");
            // HAProxy 2.6 only notes that routes are evaluated last, as intended.
            let order = "placed after a 'use_backend' rule will still be processed before";
            let mut lines = text.lines().filter(|line| !line.contains(order));
            let complains = |line: &str| line.contains("[WARNING]") || line.contains("[ALERT]");
            assert!(!lines.any(complains), "{version:?} {everything}: {text}");
        }
    }
}

#[test]
fn what_is_generated_has_no_mistakes_and_nothing_superfluous() {
    for version in Dialect::VARIANTS.iter().copied() {
        for everything in [false, true] {
            let facts = facts(version, everything);
            let files = generate(&facts);
            let named = |name: &str| {
                let file = files.iter().find(|file| file.path == name)?;
                Some(Source { name: name.into(), text: file.text.clone() })
            };
            let sources = ["haproxy.cfg", "tcp.cfg"].map(|name| named(name).unwrap());
            let found = lint(&sources, &named, &agent(&facts));
            assert!(found.is_empty(), "{found:#?}");
            let (gate, spoe) = (file(&files, "haproxy.cfg"), file(&files, "identity.spoe.cfg"));
            let args = spoe.lines().find(|line| line.contains("authorization=")).unwrap();
            for (text, part, there) in [
                (gate, "GATE_LOGIN", false),
                (gate, "login.example.com", everything),
                (gate, "https://login.example.com:8443/", everything),
                (gate, "server pages \"127.0.0.1:9099\"", everything),
                (gate, "presetenv IDENTITY_AGENT unix@/run/identity-spoa/spop.sock", everything),
                (gate, "set-query", everything),
                (gate, "\n    http-request del-header Proxy-Authorization\n", true),
                (gate, "\n    http-request del-header X-Workspace-Token\n", everything),
                (gate, "%[req.fhdr(x-workspace-token)]", everything),
                (
                    args,
                    " token=req.fhdr(x-workspace-token) tokens=req.fhdr_cnt(x-workspace-token)",
                    everything,
                ),
                (gate, "Sec-WebSocket-Protocol", everything),
                (gate, "txn.identity.metadata", everything),
                (gate, "if [credentials] accepts tokens there", everything),
                (gate, "unless allowed", true),
                (gate, "    tune.maxrewrite 11264\n", everything),
                (gate, "    tune.maxrewrite 3072\n", !everything),
                (gate, "    monitor-uri /.well-known/identity-spoa/alive\n", true),
                (gate, "Cookies without the gate's own", true),
                (gate, "tests run", false),
                (gate, "mode spop", version >= Dialect::V3_2),
                (spoe, "to the args above", false),
                (spoe, "timeout processing 1700ms", everything),
                (spoe, "within 1500 ms", everything),
                (spoe, "timeout processing 500ms", !everything),
                (args, " query=query", everything),
                (args, " protocol_lines=", everything),
                (args, " origin=", everything),
                (args, " cookies=", true),
            ] {
                assert_eq!(text.contains(part), there, "{version} {everything}: {part}\n{text}");
            }
            assert_eq!(args.matches(" query=").count(), usize::from(everything), "{args}");
            let ifs = |word: &str| gate.lines().filter(|l| l.starts_with(word)).count();
            assert_eq!(ifs(".if "), ifs(".endif"), "{gate}");
            let pages = files.iter().any(|file| file.path.starts_with("pages/"));
            assert_eq!(pages, everything);
            assert_eq!(files, generate(&facts), "not the same again");
        }
    }
}

/// What the generated files do with the header for tokens, `haproxy lint` demands.
#[test]
fn q1_the_header_for_tokens_is_sent_to_the_agent_and_taken_out_everywhere() {
    for header in ["Proxy-Authorization", "X-Workspace-Token"] {
        let facts = Facts {
            query: false,
            subprotocol: false,
            header: Some(header.into()),
            ..facts(Dialect::V3_2, true)
        };
        let files = generate(&facts);
        let (gate, spoe) = (file(&files, "haproxy.cfg"), file(&files, "identity.spoe.cfg"));
        let lint = |gate: &str, spoe: &str, agent: &Agent| {
            let named = |name: &str| {
                let text = if name == "identity.spoe.cfg" { spoe } else { file(&files, name) };
                Some(Source { name: name.into(), text: text.into() })
            };
            lint(&[Source { name: "haproxy.cfg".into(), text: gate.into() }], &named, agent)
        };
        let found = lint(gate, spoe, &agent(&facts));
        assert!(found.is_empty(), "{header}: {found:#?}");
        // Without the agent's configuration, any header may be the one.
        let alone = Agent { header: None, ..agent(&facts) };
        let found = lint(gate, spoe, &alone);
        assert!(found.is_empty(), "{header}: {found:#?}");
        let delete = format!("    http-request del-header {header}\n");
        let lower = header.to_ascii_lowercase();
        let (first, second) = (gate.find(&delete).unwrap(), gate.rfind(&delete).unwrap());
        assert!(first < second, "part 4, and the backend of reused requests");
        let without = |at: usize| format!("{}{}", &gate[..at], &gate[at + delete.len()..]);
        let with =
            |at: usize, line: &str| format!("{}{line}{}", &gate[..at], &gate[at + delete.len()..]);
        let sometimes = format!("    http-request del-header {header} if {{ ssl_fc }}\n");
        let key = format!("%[req.fhdr({lower})]");
        for (what, gate, spoe) in [
            ("not deleted", without(first), spoe.to_owned()),
            ("not deleted where an allow is reused", without(second), spoe.to_owned()),
            ("sometimes deleted", with(first, &sometimes), spoe.to_owned()),
            ("not compared", gate.replace(&key, "%[str(x)]"), spoe.to_owned()),
            ("another is compared", gate.replace(&key, "%[req.fhdr(x-other)]"), spoe.to_owned()),
            (
                "not counted in the comparison",
                gate.replace(&format!("%[req.fhdr_cnt({lower})]"), "%[int(1)]"),
                spoe.to_owned(),
            ),
            ("not sent", gate.to_owned(), spoe.replace(&format!(" token=req.fhdr({lower})"), "")),
            (
                "not counted",
                gate.to_owned(),
                spoe.replace(&format!(" tokens=req.fhdr_cnt({lower})"), ""),
            ),
            (
                "another is sent",
                gate.to_owned(),
                spoe.replace(&format!("fhdr({lower})"), "fhdr(x-other)"),
            ),
            (
                "the first is sent",
                gate.to_owned(),
                spoe.replace(&format!("req.fhdr({lower})"), &format!("req.fhdr({lower},1)")),
            ),
            (
                "it travels under another name",
                gate.replace(
                    "    http-request set-header X-Unique-ID",
                    &format!("    http-request set-header X-Copy %[req.fhdr({lower})]\n    http-request set-header X-Unique-ID"),
                ),
                spoe.to_owned(),
            ),
        ] {
            let found = lint(&gate, &spoe, &agent(&facts));
            assert!(!found.is_empty(), "{header} {what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_generated_guards_in_each_haproxy() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let written = tempfile::tempdir_in(stage.directory.path()).unwrap();
        let agent_toml = stage.directory.path().join("agent.toml");
        let output = run_program(
            &[
                "--haproxy-version",
                dialect(version).text(),
                "--out",
                written.path().to_str().unwrap(),
            ],
            &agent_toml,
        );
        assert!(output.status.success(), "{output:?}");
        let gate = std::fs::read_to_string(written.path().join("haproxy.cfg")).unwrap();
        let socket = stage.directory.path().join("spop.sock");
        assert!(gate.contains(&format!("presetenv IDENTITY_AGENT unix@{}\n", socket.display())));
        let haproxy = Haproxy::start_from(
            written.path(),
            version,
            stage.directory.path(),
            &stage.agent.socket(),
            stage.bob.address(),
        )
        .await;
        let get = async |user: Option<&str>| {
            let token = user.map(|user| stage.idp.token_of(user));
            let mut client = crate::support::Client::connect(haproxy.http).await;
            client.get(&host(ALICES), token.as_deref()).await.status
        };
        until("the gate to open", async || (get(Some("alice")).await == 200).then_some(())).await;
        assert_eq!((get(Some("bob")).await, get(None).await), (403, 401), "{version:?}");
    }
}

/// A configuration that exists already, with the parts in it.
fn with_parts(files: &[File]) -> String {
    const HEAD: &str = "global\n    log stdout format raw local0 info\n";
    const FRONT: &str = "defaults\n    mode http\n    log global\n    timeout client 60s\n    timeout server 60s\n    timeout connect 5s\n\nfrontend mine\n    bind 127.0.0.1:8443\n    http-request deny if { path_beg /internal/ }\n";
    let part = |name: &str| file(files, &format!("parts/{name}.cfg"));
    let (global, frontend) = (part("global"), part("frontend"));
    format!("{HEAD}{global}{FRONT}{frontend}{}\n{}", part("log"), part("backends"))
}

#[test]
fn each_haproxy_takes_the_parts_without_a_warning() {
    for version in Version::all() {
        for everything in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let files = parts(&facts(dialect(version), everything));
            write(directory.path(), &files);
            std::fs::write(directory.path().join("haproxy.cfg"), with_parts(&files)).unwrap();
            std::fs::write(directory.path().join("tcp.cfg"), "global\n").unwrap();
            let (good, text) = version.check_in(directory.path(), &[]);
            assert!(good, "{version:?} {everything}: {text}");
            let order = "placed after a 'use_backend' rule will still be processed before";
            let mut lines = text.lines().filter(|line| !line.contains(order));
            assert!(
                !lines.any(|line| line.contains("[WARNING]")),
                "{version:?} {everything}: {text}"
            );
        }
    }
}

#[test]
fn the_parts_guard_a_front_end_that_exists_already() {
    for version in Dialect::VARIANTS.iter().copied() {
        for everything in [false, true] {
            let facts = facts(version, everything);
            let files = parts(&facts);
            let part = |name: &str| file(&files, &format!("parts/{name}.cfg"));
            let text = with_parts(&files);
            let named = |name: &str| {
                let file = files.iter().find(|file| file.path == name)?;
                Some(Source { name: name.into(), text: file.text.clone() })
            };
            let source = Source { name: "haproxy.cfg".into(), text: text.clone() };
            let found = lint(&[source], &named, &agent(&facts));
            assert!(found.is_empty(), "{found:#?}\n{text}");
            for (part, words, there) in [
                (part("frontend"), "# --- 1.", true),
                (part("frontend"), "default_backend nowhere", true),
                (part("frontend"), "frontend gate", false),
                (part("frontend"), "log-format", false),
                (part("log"), "log-format", true),
                (part("backends"), "backend workspace-tls", true),
                (part("backends"), "backend reused", everything),
                (part("backends"), "backend named", false),
                (part("global"), "presetenv IDENTITY_AGENT ", true),
                (part("global"), "GATE_HTTP", false),
            ] {
                assert_eq!(part.contains(words), there, "{version} {everything}: {words}\n{part}");
            }
            // Settings that the `defaults` of a file that exists already lack.
            for backend in part("backends").split("\n\n") {
                let name = backend.lines().find_map(|line| line.strip_prefix("backend ")).unwrap();
                let there = ["workspace", "workspace-tls", "reused"].contains(&name);
                for words in
                    ["    timeout tunnel 1h\n", "\"The workspace does not answer (request "]
                {
                    assert_eq!(backend.contains(words), there, "{words}\n{backend}");
                }
            }
            assert!(files.iter().all(|file| file.path != "haproxy.cfg" && file.path != "tcp.cfg"));
        }
    }
}

fn run_program(args: &[&str], config: &Path) -> Output {
    let mut command = Command::new(program());
    command.args(["haproxy", "generate", "--config"]).arg(config).args(args);
    command.current_dir(root()).output().unwrap()
}

#[test]
fn a_difference_is_printed_and_shown_by_the_status() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("agent.toml");
    std::fs::write(&config, crate::support::config("https://idp.example.com")).unwrap();
    let written = directory.path().join("haproxy");
    let written = written.to_str().unwrap();
    assert!(run_program(&["--out", written], &config).status.success());
    let same = run_program(&["--check", written], &config);
    assert_eq!((same.status.code(), same.stdout.len()), (Some(0), 0), "{same:?}");
    let spoe = format!("{written}/identity.spoe.cfg");
    let text = std::fs::read_to_string(&spoe).unwrap();
    std::fs::write(&spoe, text.replace("    option set-on-error spoe_error\n", "")).unwrap();
    let output = run_program(&["--check", written], &config);
    assert_eq!(output.status.code(), Some(1));
    let diff = String::from_utf8(output.stdout).unwrap();
    assert!(diff.starts_with(&format!("--- {spoe}\n+++ generated\n")), "{diff}");
    assert!(diff.contains("\n+    option set-on-error spoe_error\n"), "{diff}");
    let printed = String::from_utf8(run_program(&[], &config).stdout).unwrap();
    assert!(printed.contains("##### identity.spoe.cfg\n"), "{printed}");
    for wrong in [&["--haproxy-version", "1.8"][..], &["--out", "a", "--check", "b"]] {
        assert_eq!(run_program(wrong, &config).status.code(), Some(2));
    }
}
