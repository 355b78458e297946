//! Policies and tunnels: a policy about the time terminates a tunnel when the time comes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{
    scene::{Scene, all_echo},
    versions,
};
use crate::support::until;

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_its_time_ends_a_live_tunnel_and_no_other() {
    for version in versions() {
        // Long enough from now that the gate is open by then.
        let end = since_epoch() + Duration::from_secs(12);
        let time = jiff::Timestamp::from_millisecond(i64::try_from(end.as_millis()).unwrap());
        let policies = format!(
            "@id(\"until\") forbid(principal == User::\"dev/sub-u1\", action == Action::\"request\", resource)
             when {{ context.now >= datetime(\"{:.3}\") && context.path == \"/ws\" && context.method == \"GET\" && context.client.isLoopback() }};",
            time.unwrap()
        );
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("p.cedar"), policies).unwrap();
        let table = format!("[policy]\ndirectory = '{}'\n", directory.path().display());
        let scene = Scene::start(version, 2, 1, &table).await;
        let mut selected = scene.open("u1", 1, 0).await;
        let mut others = vec![scene.open("u0", 0, 0).await];
        selected.echoes().await;
        assert!(since_epoch() < end, "the stage is slow");
        let ended = selected.ended().await;
        let (now, ago) = (since_epoch(), ended.elapsed());
        let late = now.saturating_sub(ago).saturating_sub(end);
        eprintln!("haproxy {version:?}: cut {late:?} after the end of its time");
        assert!(now.saturating_sub(ago) >= end, "terminated before its time");
        all_echo(&mut others).await;
        let terminated =
            until("the record", async || scene.records("tunnel_terminate").pop()).await;
        assert_eq!(
            (&terminated["cause"], &terminated["user"]),
            (&json!("policy_forbidden"), &json!("u1"))
        );
    }
}
