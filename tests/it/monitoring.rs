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
    // Sessions are only where people sign in.
    let missing: Vec<_> = known.difference(&there).collect();
    assert_eq!(missing, [&metrics::SESSION_COOKIES.name]);
    assert_eq!(there.difference(&known).count(), 0);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(known.contains(name) || base.is_some_and(|base| known.contains(base)), "{line}");
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
async fn k11_the_agent_is_ready_when_it_has_keys_workspaces_and_a_trail() {
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
