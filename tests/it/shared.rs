//! Two agents behind one HAProxy, which share sessions and revocations in a real Redis.

use std::time::{Duration, Instant};

use crate::{
    sign_in::{Browser, Changes, LOGIN, Reply, Stage},
    support::{
        ALICES, AgentProcess, BOBS, Version, agent::program, host, machine, port_host,
        redis::Redis, until,
    },
};

/// The stage, its store, and the directory of the store, in the order in which they end.
type World = (Stage, Redis, tempfile::TempDir);

async fn world(version: &Version, shared: &str) -> World {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::start(directory.path()).await;
    let tables = redis.table(shared);
    let changes = Changes { tables: &tables, two: true, ..Changes::default() };
    let stage = Stage::changed(version, &changes).await;
    until("both agents to be asked", async || {
        let log = stage.second.as_ref().unwrap().log();
        log.contains("the sessions in the session store have been read").then_some(())
    })
    .await;
    (stage, redis, directory)
}

/// Asks often enough that each agent is asked several times, and gives all answers.
async fn statuses(browser: &mut Browser, host: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(browser.get(host, "/").await.status);
    }
    all
}

fn all_are(all: &[u16], status: u16) -> Option<()> {
    all.iter().all(|found| *found == status).then_some(())
}

/// A browser whose person has just signed in at the provider, and the redirect back.
async fn at_the_provider(stage: &Stage) -> (Browser, Reply) {
    let mut browser = stage.browser();
    let mut reply = browser.get(&host(ALICES), "/").await;
    while reply.location.as_ref().unwrap().starts_with("https://") {
        reply = browser.follow(&reply).await;
    }
    let back = browser.follow(&reply).await;
    (browser, back)
}

/// The page of a person who cannot sign in without the store, with an id that is in the log of the agent that wrote it.
fn is_store_away(reply: &Reply, stage: &Stage) {
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("<h1>Sign-in is interrupted</h1>"), "{}", reply.body);
    assert!(reply.body.contains("session_store_unreachable"), "{}", reply.body);
    let id = reply.body.split("\"decision\">").nth(1).unwrap().split('<').next().unwrap();
    let logs = [stage.agent.log(), stage.second.as_ref().unwrap().log()];
    assert!(id.starts_with("web-") && logs.iter().any(|log| log.contains(id)), "{id}");
}

async fn sign_out(browser: &mut Browser) -> Reply {
    let path = "/.well-known/identity-spoa/sign-out";
    browser.ask("POST", LOGIN, path, &[("content-type", "application/x-www-form-urlencoded")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_good_at_every_agent_and_ends_at_all_of_them() {
    for version in Version::all() {
        let (stage, redis, _directory) = world(version, "").await;
        let mut alice = stage.browser();
        // Whatever agent each step goes to.
        for _ in 0..4 {
            let mut browser = stage.browser();
            let reply = browser.browse(&host(ALICES), "/some/where").await;
            assert_eq!(reply.status, 200, "{version:?} {reply:?} {}", stage.agent.log());
        }
        assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
        assert_eq!(alice.browse(&port_host(7000, ALICES), "/").await.status, 200);
        let found = statuses(&mut alice, &host(ALICES)).await;
        assert_eq!(found, [200; 8], "{}", stage.agent.log());
        // What the store has is nothing to read.
        let keys: Vec<String> = redis.ask("KEYS *").await;
        assert!(keys.len() > 4, "{keys:?}");
        for key in &keys {
            assert!(key.starts_with("{identity-spoa}:"), "{key}");
            let blob: Vec<u8> = redis.ask(&format!("DUMP {key}")).await;
            for word in ["alice", "pinkpanda", "gitpod", "refresh-canary", "eyJhbGci", "https://"] {
                let has = blob.windows(word.len()).any(|part| part == word.as_bytes());
                assert!(!has && !key.contains(word), "{word} in {key}");
            }
        }
        let since = Instant::now();
        assert_eq!(sign_out(&mut alice).await.status, 303);
        until("the end at every agent", async || {
            all_are(&statuses(&mut alice, &host(ALICES)).await, 302)
        })
        .await;
        let took = since.elapsed();
        eprintln!("{version:?}: signed out at every agent, seen by 8 requests, after {took:?}");
        machine::within(Duration::from_secs(1), "signed out everywhere", since, since + took);
        assert_eq!(statuses(&mut alice, &port_host(7000, ALICES)).await, [302; 8]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_reaches_all_agents_within_a_second_and_one_that_was_away_too() {
    let (mut stage, _redis, _directory) = world(Version::newest(), "").await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    let json = [("accept", "application/json")];
    let ask = |directory: std::path::PathBuf, more: &'static [&'static str]| {
        let output = std::process::Command::new(program())
            .arg("revoke")
            .args(more)
            .arg("--config")
            .arg(directory.join("agent.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let path = stage.directory.path().to_owned();
    let mut took = Vec::new();
    for _ in 0..10 {
        let token = stage.idp.token_of("alice");
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("accept", "*/*")];
        let mut program = stage.browser();
        ask(path.clone(), &["--subject", "sub-alice"]);
        let since = Instant::now();
        until("the revocation at both agents", async || {
            for _ in 0..4 {
                let reply = program.ask("GET", &host(ALICES), "/", &headers).await;
                if reply.status != 401 {
                    return None;
                }
            }
            Some(())
        })
        .await;
        took.push((since, since.elapsed()));
        // Taken back at the other agent.
        ask(path.join("second"), &["--subject", "sub-alice", "--lift"]);
        until("the lift at both agents", async || {
            for _ in 0..4 {
                let reply = program.ask("GET", &host(ALICES), "/", &headers).await;
                if reply.status != 200 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
    for (since, took) in took {
        let what = "a revocation at both agents, seen by 4 requests";
        machine::within(Duration::from_secs(1), what, since, since + took);
    }
    // An agent that is not there hears of it when it comes back, and keeps it on its own.
    stage.second.as_mut().unwrap().kill();
    ask(path.clone(), &["--subject", "sub-alice"]);
    stage.second = Some(AgentProcess::start(&path.join("second")).await);
    until("the agent that was away", async || {
        let kept = std::fs::read_to_string(path.join("second/revocations.jsonl")).unwrap();
        kept.contains("sub-alice").then_some(())
    })
    .await;
    until("both agents to refuse her", async || {
        for _ in 0..8 {
            let status = alice.ask("GET", &host(ALICES), "/", &json).await.status;
            // An agent that begins may not have its keys yet.
            assert!(matches!(status, 401 | 503), "{status}");
            if status != 401 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// For how many seconds an agent has not heard the store.
async fn silent(admin: &std::path::Path) -> u64 {
    let client = reqwest::Client::builder().unix_socket(admin).build().unwrap();
    let text = client.get("http://agent/metrics").send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("identity_spoa_redis_silent_seconds "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_sessions_go_on_and_new_sign_ins_fail() {
    let (stage, mut redis, _directory) = world(Version::newest(), "").await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    assert_eq!(statuses(&mut alice, &host(ALICES)).await, [200; 8]);
    let metrics = stage.directory.path().join("agent-admin.sock");
    assert_eq!(silent(&metrics).await, 0);
    // Two more people are signing in: one is at the provider, one has the page that delivers the ticket.
    let (mut carol, way_back) = at_the_provider(&stage).await;
    let mut dave = stage.browser();
    let ticket_page = dave.up_to_ticket(&host(ALICES), "/").await;
    redis.kill();
    until("the agents to notice", async || {
        stage.agent.log().contains("the session store does not answer").then_some(())
    })
    .await;
    until("Prometheus to hear of it", async || (silent(&metrics).await > 0).then_some(())).await;
    assert_eq!(statuses(&mut alice, &host(ALICES)).await, [200; 8]);
    // Public ports need no session.
    assert_eq!(stage.browser().get(&port_host(3000, ALICES), "/").await.status, 200);
    let mut bob = stage.browser();
    stage.idp.set_user("bob");
    let reply = bob.browse(&host(BOBS), "/").await;
    is_store_away(&reply, &stage);
    // Who was at the provider at that moment is told the same when they come back.
    let reply = carol.follow(&way_back).await;
    is_store_away(&reply, &stage);
    dave.deliver(ticket_page.ticket.as_deref().unwrap()).await;
    let reply = dave.get_address(ticket_page.location.as_deref().unwrap()).await;
    is_store_away(&reply, &stage);
    // Who signs out is out here at once, and everywhere when the store is back.
    let reply = sign_out(&mut alice).await;
    assert_eq!(reply.status, 303);
    redis.restart().await;
    // Empty: it is unknown which sessions ended in between, so all have.
    until("a new start", async || all_are(&statuses(&mut alice, &host(ALICES)).await, 302)).await;
    until("the way in", async || (bob.browse(&host(BOBS), "/").await.status == 200).then_some(()))
        .await;
    until("the end of the alarm", async || (silent(&metrics).await == 0).then_some(())).await;
    assert_eq!(statuses(&mut bob, &host(BOBS)).await, [200; 8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_a_session_that_cannot_be_confirmed_is_unavailable_and_never_allowed() {
    let (stage, redis, _directory) = world(Version::newest(), "max_staleness_seconds = 1").await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    // Silent, not gone.
    redis.signal("-STOP");
    let json = [("accept", "application/json")];
    let reply = until("the sessions to be in doubt", async || {
        let reply = alice.ask("GET", &host(ALICES), "/", &json).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("sessions_unavailable"), "{}", reply.body);
    for _ in 0..8 {
        let reply = alice.ask("GET", &host(ALICES), "/", &json).await;
        assert_eq!(reply.status, 503, "{reply:?}");
    }
    // A cookie that no agent made is not looked up in the store.
    let mut stranger = stage.browser();
    let value = "A".repeat(64);
    let cookie = format!("__Host-identity={value}");
    let headers = [("cookie", cookie.as_str()), ("accept", "application/json")];
    assert_eq!(stranger.ask("GET", &host(ALICES), "/", &headers).await.status, 401);
    redis.signal("-CONT");
    until("the store to respond", async || {
        all_are(&statuses(&mut alice, &host(ALICES)).await, 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_cut_off_hears_what_ended_meanwhile() {
    let (stage, redis, _directory) = world(Version::newest(), "").await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    assert_eq!(statuses(&mut alice, &host(ALICES)).await, [200; 8]);
    // The store is silent; who signs out is out at the agent that was asked, the others hear later.
    redis.signal("-STOP");
    assert_eq!(sign_out(&mut alice).await.status, 303);
    let found = statuses(&mut alice, &host(ALICES)).await;
    assert!(found.iter().any(|status| *status != 200), "{found:?}");
    redis.signal("-CONT");
    until("both agents to know", async || all_are(&statuses(&mut alice, &host(ALICES)).await, 302))
        .await;
    // Emptied under their feet, which loses what ended: all sessions have.
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    let _: String = redis.ask("FLUSHALL").await;
    until("both agents to notice", async || {
        all_are(&statuses(&mut alice, &host(ALICES)).await, 302)
    })
    .await;
    until("the way in", async || {
        (alice.browse(&host(ALICES), "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_ticket_counts_once_among_all_agents() {
    let (stage, _redis, _directory) = world(Version::newest(), "").await;
    let mut browser = stage.browser();
    let reply = browser.up_to_ticket(&host(ALICES), "/").await;
    let ticket = reply.ticket.unwrap();
    let before = browser.cookies[&host(ALICES)].clone();
    browser.deliver(&ticket).await;
    assert!(browser.cookies[&host(ALICES)].contains_key("__Host-identity"));
    for _ in 0..6 {
        browser.cookies.insert(host(ALICES), before.clone());
        browser.deliver(&ticket).await;
        assert!(!browser.cookies[&host(ALICES)].contains_key("__Host-identity"), "again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_all_agents_in_the_store() {
    let (mut stage, _redis, _directory) = world(Version::newest(), "").await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    stage.agent.kill();
    stage.second.as_mut().unwrap().kill();
    let path = stage.directory.path().to_owned();
    stage.agent = AgentProcess::start(&path).await;
    stage.second = Some(AgentProcess::start(&path.join("second")).await);
    until("the sessions to be back", async || {
        all_are(&statuses(&mut alice, &host(ALICES)).await, 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_an_agent_without_the_newest_key_still_knows_who_signed_out() {
    let (mut stage, _redis, _directory) = world(Version::newest(), "").await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    assert_eq!(statuses(&mut alice, &host(ALICES)).await, [200; 8]);
    // The first agent gets a new key at the top; the second one has been running without it.
    let path = stage.directory.path().to_owned();
    let ring = std::fs::read_to_string(path.join("keys")).unwrap();
    std::fs::write(path.join("keys"), format!("{}\n{ring}", "A".repeat(43))).unwrap();
    stage.agent.kill();
    stage.agent = AgentProcess::start(&path).await;
    until("the first agent", async || all_are(&statuses(&mut alice, &host(ALICES)).await, 200))
        .await;
    let output = std::process::Command::new(program())
        .args(["sessions", "--config"])
        .arg(path.join("agent.toml"))
        .args(["end", "--user", "alice"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until("the end at both agents", async || {
        all_are(&statuses(&mut alice, &host(ALICES)).await, 302)
    })
    .await;
    let log = stage.second.as_ref().unwrap().log();
    assert!(log.contains("decrypting a change made by another agent failed"), "{log}");
}
