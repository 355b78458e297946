//! Live tunnels through real HAProxies: when access ends, this connection is terminated, and no
//! other.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    support::{
        ALICES, AgentProcess, Version, certificates::Authority, config, host, machine, until,
    },
    wire::Peer,
};
use dev_idp::DevIdp;

mod http2;
mod lasting;
mod policies;
pub(crate) mod scene;
mod sessions;
mod tcp;
mod terminations;

use scene::{Figures, Line, Scene, all_echo, id, terminated};

/// The versions that have a number for each stream.
fn versions() -> impl Iterator<Item = &'static Version> {
    let named = |version: &&Version| !matches!(version, Version::Container(tag) if tag == "2.6");
    let all = Version::all().iter().filter(named);
    all.filter(|version| **version != Version::Local || Version::all().len() > 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_terminates_exactly_its_own_of_500_tunnels() {
    for version in versions() {
        let mut scene = Scene::start(version, 20, 1, "").await;
        let mut lines = Vec::new();
        let start = Instant::now();
        for user in 0..50 {
            for number in 0..10 {
                lines.push(scene.open(&format!("u{user}"), (user + number) % 20, 3000).await);
            }
        }
        eprintln!("haproxy {version:?}: {} tunnels in {:?}", lines.len(), start.elapsed());
        lines.push(scene.open("u3", 3, 0).await);
        lines.push(scene.open("u5", 2, 4000).await);
        lines.push(scene.open("u6", 2, 4000).await);
        all_echo(&mut lines).await;
        assert_eq!(scene.tunnels().len(), lines.len());
        let mut figures = Figures::default();

        scene.listed(0).phase = "stopped";
        let took = terminated(&mut lines, scene.write(), |line| line.workspace == 0).await;
        figures.add("workspace stopped", took);

        scene.listed(1).admission = "owner";
        let narrowed = |line: &Line| line.workspace == 1 && line.user != "u1";
        let took = terminated(&mut lines, scene.write(), narrowed).await;
        assert!(lines.iter().any(|line| line.workspace == 1), "the owner's goes on");
        figures.add("endpoint narrowed", took);

        scene.listed(2).grants = vec!["u6".into()];
        let ungranted = |line: &Line| line.port == 4000 && line.user == "u5";
        figures.add("grant removed", terminated(&mut lines, scene.write(), ungranted).await);

        scene.listed(3).owner = "u4".into();
        let disowned = |line: &Line| line.port == 0 && line.user == "u3";
        figures.add("owner changed", terminated(&mut lines, scene.write(), disowned).await);

        let moved = dev_workspace::DevWorkspace::start("elsewhere").await;
        scene.listed(4).destination = moved.address();
        let took = terminated(&mut lines, scene.write(), |line| line.workspace == 4).await;
        figures.add("destination changed", took);

        scene.list[6] = None;
        let took = terminated(&mut lines, scene.write(), |line| line.workspace == 6).await;
        figures.add("workspace deleted", took);

        let since = Instant::now();
        scene.done(&["revoke", "--subject", "sub-u7"]);
        figures
            .add("subject revoked", terminated(&mut lines, since, |line| line.user == "u7").await);

        let (token, since) = scene.token_for(2, "short");
        for workspace in [10, 11, 12] {
            lines.push(scene.try_open(0, "short", &token, workspace, 3000).await.unwrap());
        }
        let took = terminated(&mut lines, since, |line| line.user == "short").await;
        figures.add("token's lifetime reached", took);

        let since = Instant::now();
        assert_eq!(scene.done(&["tunnels", "terminate", "--user", "u9"]).trim(), "10 tunnels");
        figures.add(
            "terminated by user",
            terminated(&mut lines, since, |line| line.user == "u9").await,
        );
        let since = Instant::now();
        scene.done(&["tunnels", "terminate", "--workspace", &id(8)]);
        figures.add(
            "terminated by workspace",
            terminated(&mut lines, since, |line| line.workspace == 8).await,
        );
        figures.judge(&format!("haproxy {version:?}"));

        records_tell_all(&scene, lines.len()).await;
    }
}

async fn records_tell_all(scene: &Scene, left: usize) {
    until("the ends of all that was terminated", async || {
        (scene.tunnels().len() == left).then_some(())
    })
    .await;
    let (opened, closed) = (scene.records("tunnel_open"), scene.records("tunnel_close"));
    let terminated = scene.records("tunnel_terminate");
    assert_eq!(opened.len() - closed.len(), left);
    assert_eq!(terminated.len(), closed.len(), "no tunnel closed by itself");
    for (cause, user) in [
        ("workspace_stopped", None),
        ("not_permitted", Some("u5")),
        ("not_permitted", Some("u3")),
        ("destination_changed", None),
        ("workspace_unknown", None),
        ("token_revoked", Some("u7")),
        ("token_expired", Some("short")),
        ("administrator", Some("u9")),
    ] {
        let is = |record: &&serde_json::Value| {
            record["cause"] == cause && user.is_none_or(|user| record["user"] == user)
        };
        let record = terminated
            .iter()
            .find(is)
            .unwrap_or_else(|| panic!("{cause} {user:?}: {terminated:?}"));
        let of = |records: &[serde_json::Value]| {
            records.iter().filter(|r| r["decision_id"] == record["decision_id"]).count()
        };
        assert_eq!((of(&opened), of(&terminated), of(&closed)), (1, 1, 1), "{record}");
        if cause == "administrator" {
            assert_eq!(record["uid"], json!("0"));
        }
    }
    assert!(scene.records("tunnel_terminate_failed").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_haproxy_changes_nothing_for_tunnels_of_the_old_process() {
    for version in versions() {
        let mut scene = Scene::start(version, 4, 1, "").await;
        let mut lines = Vec::new();
        for user in 0..20 {
            lines.push(scene.open(&format!("u{user}"), user % 4, 3000).await);
        }
        until("their streams", async || {
            scene.tunnels().iter().all(|tunnel| tunnel["found"] == true).then_some(())
        })
        .await;
        let mut figures = Figures::default();
        // While it is under way.
        scene.haproxies[0].0.reload();
        scene.listed(0).phase = "stopped";
        let took = terminated(&mut lines, scene.write(), |line| line.workspace == 0).await;
        figures.add("stopped during a reload", took);
        until("the new process", async || {
            let mut line = scene.open("u40", 1, 3000).await;
            line.echoes().await;
            lines.push(line);
            let processes: std::collections::BTreeSet<_> =
                scene.tunnels().iter().map(|tunnel| tunnel["process"].as_u64()).collect();
            (processes.len() == 2).then_some(())
        })
        .await;
        for user in 0..20 {
            lines.push(scene.open(&format!("u{user}"), 1 + user % 3, 3000).await);
        }
        scene.listed(2).phase = "stopped";
        let took = terminated(&mut lines, scene.write(), |line| line.workspace == 2).await;
        figures.add("stopped after a reload, in both processes", took);
        let since = Instant::now();
        scene.done(&["tunnels", "terminate", "--user", "u40"]);
        figures.add("by user", terminated(&mut lines, since, |line| line.user == "u40").await);
        // The last of the old process end with it, and leave the table.
        scene.done(&["tunnels", "terminate", "--workspace", &id(3)]);
        terminated(&mut lines, Instant::now(), |line| line.workspace == 3).await;
        until("the table to know", async || (scene.tunnels().len() == lines.len()).then_some(()))
            .await;
        figures.judge(&format!("haproxy {version:?}, reload"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_haproxies_at_one_agent_are_not_mistaken_for_each_other() {
    for version in versions() {
        let mut scene = Scene::start(version, 3, 2, "").await;
        let mut lines = Vec::new();
        // Both count their streams from zero.
        for number in 0..20 {
            for haproxy in 0..2 {
                let user = format!("u{haproxy}");
                lines.push(scene.open_at(haproxy, &user, number % 3, 3000).await);
            }
        }
        let mut figures = Figures::default();
        let since = Instant::now();
        scene.done(&["tunnels", "terminate", "--user", "u1"]);
        figures.add(
            "all of the second",
            terminated(&mut lines, since, |line| line.user == "u1").await,
        );
        for number in 0..6 {
            lines.push(scene.open_at(1, "u1", number % 3, 3000).await);
        }
        scene.listed(0).phase = "stopped";
        let took = terminated(&mut lines, scene.write(), |line| line.workspace == 0).await;
        figures.add("stopped, in both", took);
        // One of them goes away at once, and takes its tunnels along.
        drop(scene.haproxies.pop());
        lines.retain(|line| line.user == "u0");
        scene.listed(1).phase = "stopped";
        let took = terminated(&mut lines, scene.write(), |line| line.workspace == 1).await;
        figures.add("stopped, with one HAProxy gone", took);
        figures.judge(&format!("haproxy {version:?}, two processes"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_haproxy_that_stands_still_loses_no_tunnel() {
    let mut scene = Scene::start(Version::newest(), 2, 1, "").await;
    let mut lines = vec![scene.open("u0", 0, 3000).await, scene.open("u1", 1, 3000).await];
    until("both to be found", async || {
        scene.tunnels().iter().all(|tunnel| tunnel["found"] == true).then_some(())
    })
    .await;
    if !scene.haproxies[0].0.pause(true) {
        eprintln!("only a container can be paused");
        return;
    }
    // Longer than the rounding of ages: HAProxy's own clock stands still in it.
    until("the agent to miss it, for a while", async || {
        let missed = scene.agent.log().matches("\"no whole answer within").count() > 0;
        let since = scene.tunnels()[0]["age_seconds"].as_u64().unwrap();
        (missed || since >= 8).then_some(())
    })
    .await;
    scene.listed(0).phase = "stopped";
    let _ = scene.write();
    until("the alarm", async || scene.records("tunnel_terminate_failed").pop()).await;
    assert!(scene.haproxies[0].0.pause(false));
    terminated(&mut lines, Instant::now(), |line| line.workspace == 0).await;
    // It is still followed.
    until("a whole round", async || {
        scene.metrics().await.contains("identity_spoa_tunnels_not_found 0\n").then_some(())
    })
    .await;
    scene.listed(1).phase = "stopped";
    let _ = scene.write();
    lines.remove(0).ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_haproxy_3_a_tunnel_is_found_by_its_clients_address_and_port() {
    let old = Version::all().iter().find(|version| !versions().any(|new| new == *version));
    let Some(version) = old else {
        eprintln!("there is no HAProxy older than 3.0 here");
        return;
    };
    let mut scene = Scene::start(version, 2, 1, "").await;
    let mut lines = Vec::new();
    for user in 0..10 {
        lines.push(scene.open(&format!("u{user}"), user % 2, 3000).await);
    }
    assert!(scene.tunnels().iter().all(|tunnel| tunnel["stream"].is_null()));
    let mut figures = Figures::default();
    let since = Instant::now();
    scene.done(&["tunnels", "terminate", "--user", "u4"]);
    figures.add("by user", terminated(&mut lines, since, |line| line.user == "u4").await);
    scene.listed(1).phase = "stopped";
    figures.add("stopped", terminated(&mut lines, scene.write(), |line| line.workspace == 1).await);
    figures.judge(&format!("haproxy {version:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_goes_on_with_the_tunnels_it_had() {
    let version = Version::newest();
    let mut scene = Scene::start(version, 3, 1, "[tunnels]\nfile = 'tunnels.json'\n").await;
    let mut lines = Vec::new();
    for user in 0..9 {
        lines.push(scene.open(&format!("u{user}"), user % 3, 3000).await);
    }
    let file = scene.directory.path().join("tunnels.json");
    until("the file", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        (text.matches("\"id\"").count() == lines.len()).then_some(())
    })
    .await;
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "people's names are in it");
    scene.agent.kill();
    // Access ends while no agent runs.
    scene.listed(2).phase = "stopped";
    let _ = scene.write();
    scene.agent = AgentProcess::start(scene.directory.path()).await;
    terminated(&mut lines, Instant::now(), |line| line.workspace == 2).await;
    let since = Instant::now();
    scene.done(&["revoke", "--subject", "sub-u1"]);
    let took = terminated(&mut lines, since, |line| line.user == "u1").await;
    let mut figures = Figures::default();
    figures.add("revoked after a restart", took);
    figures.judge("restarted agent");
    until("the table to know", async || (scene.tunnels().len() == lines.len()).then_some(())).await;
    // A file that cannot be read is logged, and the agent starts.
    scene.agent.kill();
    std::fs::write(&file, "what").unwrap();
    scene.agent = AgentProcess::start(scene.directory.path()).await;
    assert!(scene.agent.log().contains("reading the file of tunnels failed"));
    all_echo(&mut lines).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_forgets_no_tunnel_however_new_it_is() {
    let version = Version::newest();
    let mut scene = Scene::start(version, 3, 1, "[tunnels]\nfile = 'tunnels.json'\n").await;
    // The file is written now and then: several times, the agent is killed before it is.
    for round in 0..3 {
        let mut lines = Vec::new();
        for user in 0..4 {
            lines.push(scene.open(&format!("u{user}"), user % 3, 3000).await);
        }
        scene.agent.kill();
        scene.agent = AgentProcess::start(scene.directory.path()).await;
        until("all tunnels to be known", async || {
            (scene.tunnels().len() >= lines.len()).then_some(())
        })
        .await;
        let since = Instant::now();
        scene.done(&["revoke", "--subject", &format!("sub-u{round}")]);
        let user = format!("u{round}");
        terminated(&mut lines, since, |line| line.user == user).await;
        all_echo(&mut lines).await;
        drop(lines);
        until("the table to be empty", async || scene.tunnels().is_empty().then_some(())).await;
        scene.done(&["revoke", "--lift", "--subject", &format!("sub-u{round}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_did_not_allow_is_told_and_terminated_only_where_that_is_wanted() {
    let more = "frontends = ['gate']\n[tunnels]\nterminate_unknown = true\n";
    for terminate_unknown in [true, false] {
        let more = if terminate_unknown { more } else { "frontends = ['gate']\n" };
        let mut scene = Scene::start(Version::newest(), 2, 1, more).await;
        let mut lines = vec![scene.open("u0", 0, 3000).await, scene.open("u1", 1, 3000).await];
        scene.agent.kill();
        scene.agent = AgentProcess::start(scene.directory.path()).await;
        until("the strangers to be met", async || {
            scene.agent.log().contains("this agent did not allow").then_some(())
        })
        .await;
        if terminate_unknown {
            for line in &mut lines {
                line.ended().await;
            }
            until("the records", async || {
                let terminated = scene.records("tunnel_terminate");
                (terminated.len() == 2 && terminated.iter().all(|r| r["cause"] == "unknown_tunnel"))
                    .then_some(())
            })
            .await;
        } else {
            all_echo(&mut lines).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_terminated_is_an_alarm_and_is_terminated_once_it_can_be() {
    let mut scene =
        Scene::start(Version::newest(), 2, 1, "\n[haproxy]\nsockets = ['unix:not-there.sock']\n")
            .await;
    let mut lines = vec![scene.open("u0", 0, 3000).await, scene.open("u1", 1, 3000).await];
    scene.listed(0).phase = "stopped";
    let _ = scene.write();
    let failed =
        until("the record of the failure", async || scene.records("tunnel_terminate_failed").pop())
            .await;
    assert_eq!((&failed["cause"], &failed["user"]), (&json!("workspace_stopped"), &json!("u0")));
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("not-there.sock") && error.contains("No such file"), "{error}");
    let metrics = scene.metrics().await;
    assert!(metrics.contains("identity_spoa_tunnels_termination_failed_total 1\n"), "{metrics}");
    assert!(metrics.contains("identity_spoa_haproxy_up{socket=\"0\"} 0\n"), "{metrics}");
    let doctor = String::from_utf8(scene.command(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("FAIL") && doctor.contains("start HAProxy with -S"), "{doctor}");
    let list = scene.done(&["tunnels"]);
    assert!(list.contains("PROBLEM") && list.contains("terminating: workspace_stopped"), "{list}");
    all_echo(&mut lines).await;
    // The socket comes up.
    let master = scene.haproxies[0].1.path().join("master.sock");
    std::os::unix::fs::symlink(master, scene.directory.path().join("not-there.sock")).unwrap();
    terminated(&mut lines, Instant::now(), |line| line.user == "u0").await;
    until("the alarm to end", async || {
        scene.metrics().await.contains("identity_spoa_haproxy_up{socket=\"0\"} 1\n").then_some(())
    })
    .await;
    assert_eq!(scene.records("tunnel_terminate_failed").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_ends_by_itself_leaves_and_one_that_is_too_many_is_refused() {
    let more = "[tunnels]\nmax = 16\nmax_seconds = 3600\n";
    let scene = Scene::start(Version::newest(), 2, 1, more).await;
    // One person has a share of the table at most.
    let token = scene.idp.token_of("u0");
    let mut lines = Vec::new();
    for _ in 0..2 {
        lines.push(scene.open("u0", 0, 3000).await);
    }
    let refused = scene.try_open(0, "u0", &token, 0, 3000).await.err().unwrap();
    assert!(refused.to_string().contains("503"), "{refused}");
    for user in 1..8 {
        for _ in 0..2 {
            lines.push(scene.open(&format!("u{user}"), 1, 3000).await);
        }
    }
    let other = scene.idp.token_of("u8");
    assert!(scene.try_open(0, "u8", &other, 1, 3000).await.is_err(), "full");
    assert!(scene.haproxies[0].0.log().contains("reason=tunnels_full"));
    // Requests that do not open a tunnel are not affected.
    let mut client = crate::support::Client::connect(scene.haproxies[0].0.http).await;
    assert_eq!(client.get(&scene::at(1, 3000), Some(&other)).await.status, 200);
    // Nor is a request that only claims to want one: it is gone with its answer.
    lines.clear();
    until("room", async || scene.try_open(0, "u8", &other, 1, 3000).await.ok()).await;
    until("the closes", async || (scene.records("tunnel_close").len() >= 16).then_some(())).await;
    assert!(scene.records("tunnel_terminate").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_who_is_connected_to_what() {
    let scene = Scene::start(Version::newest(), 2, 1, "").await;
    let _lines = [scene.open("u0", 0, 0).await, scene.open("u1", 1, 3000).await];
    until("both to be found", async || {
        scene.tunnels().iter().all(|tunnel| tunnel["found"] == true).then_some(())
    })
    .await;
    let text = scene.done(&["tunnels", "list"]);
    let row = |user: &str| text.lines().find(|line| line.starts_with(user)).unwrap().to_owned();
    for (user, words) in [
        ("u0", [&id(0), "main", "owner", "upgrade", "127.0.0.1", "open"]),
        ("u1", [&id(1), "port:3000", "owner", "upgrade", "127.0.0.1", "open"]),
    ] {
        assert!(words.iter().all(|word| row(user).contains(word)), "{text}");
    }
    let one = scene.tunnels().remove(0);
    let nothing = scene.command(&["tunnels", "terminate", "--user", "unknown"]);
    assert_eq!((nothing.status.code(), &*nothing.stdout), (Some(1), &b"0 tunnels\n"[..]));
    assert_eq!(scene.command(&["tunnels", "terminate"]).status.code(), Some(2));
    assert_eq!(
        scene.done(&["tunnels", "terminate", "--id", one["id"].as_str().unwrap()]),
        "1 tunnel\n"
    );
    let metrics = scene.metrics().await;
    assert!(metrics.contains("identity_spoa_tunnels_opened_total 2\n"), "{metrics}");
    let doctor = String::from_utf8(scene.command(&["doctor"]).stdout).unwrap();
    let line = doctor.lines().find(|line| line.contains("master.sock")).unwrap();
    assert!(line.trim_start().starts_with("ok") && line.contains("1 process"), "{doctor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_lasts_as_long_as_the_operator_says_whatever_its_token_says() {
    let more = "[tunnels]\nmax_seconds = 8\noutlive_token = true\n";
    let scene = Scene::start(Version::newest(), 2, 1, more).await;
    let (token, end) = scene.token_for(2, "u0");
    let opened = Instant::now();
    let mut line = scene.try_open(0, "u0", &token, 0, 3000).await.unwrap();
    tokio::time::sleep_until((end + Duration::from_millis(500)).into()).await;
    line.echoes().await;
    let end = line.ended().await;
    assert!(end.saturating_duration_since(opened) >= Duration::from_secs(8));
    machine::within(Duration::from_secs(9), "a tunnel of eight seconds lasted", opened, end);
    let terminated = until("the record", async || scene.records("tunnel_terminate").pop()).await;
    assert_eq!(terminated["cause"], "lifetime_reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_upgrade_hides_behind_repeated_headers() {
    for version in Version::all() {
        let scene = Scene::start(version, 1, 1, "").await;
        let token = scene.idp.token_of("u0");
        let mut upgraded = Vec::new();
        for lines in [
            "Upgrade: websocket\r\nUpgrade:\r\n",
            "Upgrade:\r\nUpgrade: websocket\r\n",
            "Upgrade: websocket\r\nUpgrade: websocket\r\n",
            "upgrade: WebSocket\r\n",
            "Upgrade: other, websocket\r\n",
        ] {
            let mut client = crate::support::Client::connect(scene.haproxies[0].0.http).await;
            let head = format!(
                "GET /ws HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n",
                scene::at(0, 3000)
            );
            if client.raw(head.as_bytes()).await.status == 101 {
                upgraded.push(client);
            }
        }
        assert!(!upgraded.is_empty(), "{version:?}");
        until("the others to leave", async || {
            (scene.tunnels().len() == upgraded.len()).then_some(())
        })
        .await;
        scene.done(&["tunnels", "terminate", "--user", "u0"]);
        for client in &mut upgraded {
            client.closed().await;
        }
    }
}

#[tokio::test]
async fn without_haproxys_word_on_what_is_a_tunnel_nothing_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let idp = DevIdp::start().await;
    let text = format!("{}\n[haproxy]\nsockets = ['unix:none.sock']\n", config(idp.issuer()));
    std::fs::write(directory.path().join("agent.toml"), text).unwrap();
    std::fs::write(directory.path().join("workspaces.yaml"), "workspaces: []\n").unwrap();
    let agent = AgentProcess::start(directory.path()).await;
    let mut peer = Peer::unix(&agent.socket()).await;
    let token = idp.token_of("alice");
    let reason = peer.ask(&host(ALICES), Some(&token)).await;
    assert_eq!(reason.as_deref(), Some("message_unknown"));
    assert!(agent.log().contains("arguments that [haproxy] needs"));
}
