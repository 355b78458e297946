//! What Prometheus and supervisors read, and the dashboards and alerts that are shipped.

use std::collections::BTreeSet;

use identity_spoa::metrics;
use serde_json::Value;

use crate::{
    support::{ALICES, host, port_host, until},
    wire::Bare,
};

const LISTEN: &str = "[metrics]\nlisten = '127.0.0.1:0'\n[admin]\nsocket = 'admin.sock'\nrevocations = 'revocations.jsonl'\n";

async fn stage() -> (Bare, String) {
    let bare = Bare::changed(|config| *config = format!("{LISTEN}{config}")).await;
    let log = bare.agent.log();
    let line = log.lines().find(|line| line.contains("\"message\":\"metrics\"")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let address = line["fields"]["address"].as_str().unwrap().to_owned();
    (bare, address)
}

async fn get(address: &str, path: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(format!("http://{address}{path}")).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// The names of the metrics in an exposition, without a histogram's endings.
fn families(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_and_no_other() {
    let (bare, address) = stage().await;
    let mut peer = bare.unix().await;
    peer.ask(&host(ALICES), Some(&bare.idp.token_of("bob"))).await;
    peer.ask(&port_host(3000, ALICES), None).await;
    let (status, text) = get(&address, "/metrics").await;
    assert_eq!(status, 200);
    let known: BTreeSet<_> = metrics::ALL.iter().map(|metric| metric.name).collect();
    let there = families(&text);
    // Sessions are only where people sign in, their store where it is shared, tunnels where they are cut.
    let missing: Vec<_> = known.difference(&there).collect();
    let elsewhere = [
        &metrics::HAPROXY_UP.name,
        &metrics::REDIS_SILENT.name,
        &metrics::SESSION_COOKIES.name,
        &metrics::TUNNELS_TERMINATION_FAILED.name,
    ];
    assert_eq!(missing, elsewhere);
    assert_eq!(there.difference(&known).count(), 0);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(
            known.contains(name) || family.is_some_and(|family| known.contains(family)),
            "{line}"
        );
    }
    for line in [
        "identity_spoa_decisions_total{verdict=\"deny\",reason=\"not_permitted\"} 1",
        "identity_spoa_decisions_total{verdict=\"allow\",reason=\"public\"} 1",
        "identity_spoa_key_set_usable{issuer=\"dev\"} 1",
        "identity_spoa_source_live{source=\"file\"} 1",
        "identity_spoa_audit_lost_total 0",
        "identity_spoa_audit_broken 0",
        "identity_spoa_ready 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    // The same on the administrator's socket; nothing else on the listener.
    let socket = bare.directory.path().join("admin.sock");
    let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
    let admin = client.get("http://agent/metrics").send().await.unwrap().text().await.unwrap();
    assert_eq!(families(&admin), there);
    assert_eq!(get(&address, "/v1/revocations").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn k11_the_agent_is_ready_when_it_has_keys_workspaces_and_an_audit_log() {
    let (bare, address) = stage().await;
    assert_eq!(get(&address, "/livez").await, (200, "alive\n".into()));
    let (status, text) = get(&address, "/readyz").await;
    let ready: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &ready["ready"]), (200, &true.into()), "{text}");
    let parts: Vec<_> =
        ready["checks"].as_array().unwrap().iter().map(|check| check["part"].clone()).collect();
    assert_eq!(parts, ["issuer", "source", "audit"]);
    drop(bare);
    let bare = Bare::without_keys(LISTEN).await;
    let log = bare.agent.log();
    let line = log.lines().find(|line| line.contains("\"message\":\"metrics\"")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let address = line["fields"]["address"].as_str().unwrap();
    let (status, text) = get(address, "/readyz").await;
    let ready: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &ready["ready"]), (503, &false.into()), "{text}");
    assert!(ready["checks"][0]["reason"].as_str().unwrap().contains("no keys"), "{text}");
    assert_eq!(get(address, "/livez").await.0, 200);
    let text = get(address, "/metrics").await.1;
    assert!(text.contains("identity_spoa_ready 0"), "{text}");
    until("a fetch that failed to be counted", async || {
        let text = get(address, "/metrics").await.1;
        let zero = "identity_spoa_key_fetches_total{issuer=\"dev\",result=\"failed\"} 0";
        (!text.contains(zero)).then_some(())
    })
    .await;
}

fn shipped(file: &str) -> String {
    std::fs::read_to_string(crate::support::haproxy::root().join("docs").join(file)).unwrap()
}

/// The metrics that an expression names, without a histogram's endings.
fn named(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("identity_spoa_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

#[test]
fn alerts_and_dashboard_load_and_name_only_metrics_and_labels_that_exist() {
    let mut expressions = Vec::new();
    let alerts = identity_spoa_yaml(&shipped("monitoring/alerts.yaml"));
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        assert!(rule["alert"].is_string() && rule["labels"]["severity"].is_string(), "{rule}");
        assert!(rule["annotations"]["summary"].is_string(), "{rule}");
        expressions.push(rule["expr"].as_str().unwrap().to_owned());
    }
    let dashboard: Value = serde_json::from_str(&shipped("monitoring/dashboard.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    assert!(expressions.len() > 25);
    for expression in &expressions {
        let names = named(expression);
        assert!(!names.is_empty() || expression.starts_with("up{"), "{expression}");
        for name in names {
            let known = metrics::ALL.iter().find(|metric| metric.name == name);
            let known = known.unwrap_or_else(|| panic!("no metric {name}: {expression}"));
            let selector = expression.split(&format!("{name}{{")).nth(1);
            let label = selector.and_then(|rest| rest.split(['=', '!']).next());
            assert!(label.is_none_or(|label| known.labels.contains(&label)), "{expression}");
        }
        let reasons = expression.split("reason=~\"").nth(1).and_then(|r| r.split('"').next());
        for reason in reasons.into_iter().flat_map(|reasons| reasons.split('|')) {
            let known = identity_spoa::identity::TokenError::ALL.iter().any(|r| r.id() == reason);
            assert!(known, "no reason {reason}");
        }
    }
}

fn identity_spoa_yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn the_audit_page_says_what_is_so() {
    let page = shipped("audit.md");
    let block = |opening: &str| -> Vec<String> {
        let parts = page.split(opening).skip(1);
        parts.map(|rest| rest.split("\n```").next().unwrap().trim().to_owned()).collect()
    };
    let record: Value = serde_json::from_str(&block("```json\n")[0]).unwrap();
    for member in record.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{member}`")), "{member} is not explained");
    }
    // Each command is one that the program takes.
    for command in block("```sh\n").iter().flat_map(|block| block.lines()) {
        let command = command.split(['#', '>']).next().unwrap().trim();
        let args: Vec<_> = command.strip_prefix("identity-spoa ").unwrap().split(' ').collect();
        let args = args.into_iter().filter(|arg| !arg.is_empty());
        let parsed = <identity_spoa::cli::Cli as clap::Parser>::try_parse_from(
            std::iter::once("identity-spoa").chain(args),
        );
        assert!(parsed.is_ok(), "{command}: {:?}", parsed.err());
    }
    // The configuration is one that is taken, commented keys included.
    let table = block("```toml\n")[0].replace("\n# ", "\n");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let config = crate::support::config("http://127.0.0.1:1");
    let config = config.split("[audit]").next().unwrap();
    std::fs::write(&path, format!("{config}{table}\n")).unwrap();
    let config = identity_spoa::config::Config::load(&path).unwrap().audit;
    assert!(config.stdout && config.syslog.is_some() && config.dedupe.is_some(), "{config:?}");
}
