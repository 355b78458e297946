//! `identity-spoa status` with a running agent.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::{
    support::{
        ALICES,
        agent::{AgentProcess, program},
        host, port_host, until,
    },
    wire::Bare,
};

const TABLES: &str = "[metrics]\nlisten = '127.0.0.1:0'\n[admin]\nsocket = 'admin.sock'\nrevocations = 'revocations.jsonl'\n";

async fn stage() -> Bare {
    Bare::changed(|config| *config = format!("{TABLES}{config}")).await
}

fn status(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(["status", "--config", "agent.toml"]).args(args);
    command.current_dir(directory).output().unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_each_part_of_the_running_agent() {
    let bare = stage().await;
    let mut peer = bare.unix().await;
    let token = bare.idp.token_of("bob");
    peer.ask(&host(ALICES), Some(&token)).await;
    for _ in 0..2 {
        peer.ask(&port_host(3000, ALICES), None).await;
    }
    let output = status(bare.directory.path(), &[]);
    let screen = text(&output.stdout);
    assert!(output.status.success(), "{screen}{}", text(&output.stderr));
    let has = |words: &[&str]| {
        let is = |line: &str| line.split_whitespace().collect::<Vec<_>>().starts_with(words);
        assert!(screen.lines().any(is), "{words:?} in\n{screen}");
    };
    has(&["agent", env!("CARGO_PKG_VERSION"), "ready,", "up"]);
    assert!(screen.contains("connections from HAProxy, 0 requests pending"), "{screen}");
    has(&["public", "allow", "0.0", "2"]);
    has(&["not_permitted", "deny", "0.0", "1"]);
    has(&["dev", "usable"]);
    has(&["file", "live"]);
    has(&["sessions", "no", "sign-in"]);
    has(&["tunnels", "not", "tracked:"]);
    has(&["audit"]);
    // In a pipe there are no colours, and on no screen are there people, workspaces or secrets.
    for canary in ["\u{1b}", "alice", "bob", ALICES, &token] {
        assert!(!screen.contains(canary), "{canary:?} in\n{screen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_does_not_work() {
    let tables = format!("{TABLES}[haproxy]\nsockets = ['unix:haproxy.sock']\n");
    let bare = Bare::without_keys(&tables).await;
    let screen = until("HAProxy to be missed", async || {
        let screen = text(&status(bare.directory.path(), &[]).stdout);
        screen.contains("DOWN: ").then_some(screen)
    })
    .await;
    for words in ["NOT READY, up ", "PROBLEM  issuer dev: ", "no usable keys", "haproxy.sock"] {
        assert!(screen.contains(words), "{words:?} in\n{screen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_as_json_has_the_counters_and_the_rates() {
    let bare = stage().await;
    let mut peer = bare.unix().await;
    let token = bare.idp.token_of("bob");
    peer.ask(&host(ALICES), Some(&token)).await;
    let json = text(&status(bare.directory.path(), &["--json"]).stdout);
    let both: Value = serde_json::from_str(&json).unwrap();
    let found = &both["status"];
    assert_eq!((&found["ready"], &found["problems"]), (&true.into(), &Value::Array(vec![])));
    let denied = serde_json::json!({"verdict": "deny", "reason": "not_permitted", "count": 1});
    let decisions = found["decisions"].as_array().unwrap();
    assert!(decisions.contains(&denied), "{json}");
    let sum = |all: &[Value]| all.iter().filter_map(|one| one["count"].as_u64()).sum::<u64>();
    let timed = sum(found["latency"]["buckets"].as_array().unwrap());
    assert_eq!(timed, sum(decisions), "each decision has a reason and a latency");
    assert_eq!(found["tunnels"], Value::Null);
    assert!(both["rates"]["seconds"].as_f64().unwrap() >= 1.0, "{json}");
    assert!(both["rates"]["by_reason"]["not_permitted"].as_f64().unwrap().abs() < 1e-9);
    for canary in ["alice", "bob", ALICES, &token] {
        assert!(!json.contains(canary), "{canary:?} in\n{json}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_goes_on_while_it_watches_and_survives_a_restart() {
    let mut bare = stage().await;
    let mut watch = Command::new(program())
        .args(["status", "--config", "agent.toml", "--watch", "--json"])
        .current_dir(bare.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["status"]["ready"], true);
    assert!(bare.agent.end().await);
    // A request that the end of the agent interrupts has another error first.
    let mut gone = lines.by_ref().map(Result::unwrap);
    let gone = gone.find(|line| line.contains("is the agent running")).unwrap();
    assert!(gone.starts_with("{\"error\":"), "{gone}");
    bare.agent = AgentProcess::start(bare.directory.path()).await;
    let again = lines.map(Result::unwrap).find(|line| line.contains("\"status\":")).unwrap();
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["rates"]["seconds"], 0.0, "{again}");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_fits_the_terminal_and_honours_no_color() {
    let bare = stage().await;
    let on_terminal = |environment: &str| {
        let command = format!(
            "stty cols 72 rows 40; {environment} TERM=xterm {} status --config agent.toml 2>/dev/null",
            program().display()
        );
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env_remove("NO_COLOR");
        let output = script.current_dir(bare.directory.path()).stdin(Stdio::null()).output();
        text(&output.unwrap().stdout)
    };
    let coloured = on_terminal("CLICOLOR=1");
    assert!(coloured.contains("\u{1b}[32mready"), "{coloured:?}");
    let plain = on_terminal("NO_COLOR=1");
    assert!(plain.contains("ready, up") && !plain.contains('\u{1b}'), "{plain:?}");
    let longest = plain.lines().map(|line| line.trim_end().chars().count()).max();
    assert!(longest.is_some_and(|longest| longest <= 72), "{longest:?}\n{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_the_administrators_alone() {
    let bare = stage().await;
    let log = bare.agent.log();
    let line = log.lines().find(|line| line.contains("\"message\":\"metrics\"")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let address = line["fields"]["address"].as_str().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(format!("http://{address}/v1/status")).send().await.unwrap();
    assert_eq!(response.status(), 404, "the listener for metrics has no status");
    let output = status(bare.directory.path(), &["--unknown"]);
    assert_eq!(output.status.code(), Some(2));
    drop(bare);
}

#[test]
fn status_says_when_the_agent_cannot_be_asked() {
    let directory = tempfile::tempdir().unwrap();
    let output = status(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("agent.toml"), "{output:?}");
}
