//! The reuse of a connection's last allow by HAProxy: only for an equal request, and never for too
//! long.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::support::{
    ALICES, Client, Reply, Stage, Version, agent::program, host, machine, port_host, until,
    workspaces,
};
use dev_idp::DevIdp;

mod ends;
mod http2;
mod same;

const ADMIN: &str = "[admin]\nsocket = 'agent.sock'\nrevocations = 'revocations.jsonl'\n";

/// A stage where HAProxy may reuse an allow for this long, and learns of ends at once or not at all.
async fn stage(version: &Version, millis: u64, told: bool) -> Stage {
    let stage = Stage::changed(version, DevIdp::start().await, |directory, config, _| {
        std::fs::write(directory.join("haproxy.env"), format!("GATE_REUSE={millis}\n")).unwrap();
        *config = config.replace("[agent]\n", &format!("[agent]\nverdict_cache_ms = {millis}\n"));
        config.push_str(ADMIN);
        if told {
            config.push_str("[haproxy]\nsockets = ['unix:admin.sock']\n");
        }
    })
    .await;
    let token = stage.idp.token_of("alice");
    let mut client = stage.client().await;
    until("the first reuse", async || {
        let one = id(&client.get(&host(ALICES), Some(&token)).await);
        let two = id(&client.get(&host(ALICES), Some(&token)).await);
        (one == two).then_some(())
    })
    .await;
    stage
}

/// The id of the decision by which a request passed.
fn id(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.arrived("x-identity-decision-id")[0].to_owned()
}

async fn ask(client: &mut Client, head: &str) -> Reply {
    client.raw(format!("{head}\r\n").as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_reused_and_no_other() {
    for version in Version::all() {
        let stage = stage(version, 60_000, true).await;
        let (alice, carol) = (stage.idp.token_of("alice"), stage.idp.token_of("carol"));
        let at = host(ALICES);
        let base = format!("GET / HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {alice}\r\n");
        let mut client = stage.client().await;
        let first = ask(&mut client, &base).await;
        let ids: BTreeSet<_> = {
            let mut ids = BTreeSet::from([id(&first)]);
            for _ in 0..20 {
                ids.insert(id(&ask(&mut client, &base).await));
            }
            ids
        };
        assert_eq!(ids.len(), 1, "{version:?}");
        let reused = ask(&mut client, &base).await;
        // What arrives is the same in all but the request's own id.
        let arrived = |reply: &Reply| {
            let lines = reply.body.lines().filter(|line| !line.starts_with("x-unique-id"));
            lines.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        assert_eq!(arrived(&reused), arrived(&first), "{version:?}");
        assert!(reused.arrived("authorization").is_empty());
        // What no decision looks at makes no difference.
        for same in [
            base.replace("GET /", "GET /elsewhere?x=1"),
            format!("{base}Accept: text/html\r\nReferer: https://x.test/\r\n"),
        ] {
            assert_eq!(id(&ask(&mut client, &same).await), id(&first), "{version:?} {same}");
        }
        for other in [
            base.replace(&at, &port_host(6000, ALICES)),
            base.replace(&at, &at.to_uppercase()),
            base.replace(&alice, &carol),
            base.replace("Bearer", "bearer"),
            format!("{base}Cookie: a=b\r\n"),
            format!("{base}Cookie:\r\n"),
            // q6: lines of Cookie are one line, and compared as such.
            format!("{base}Cookie: a=b\r\nCookie: a=b\r\n"),
            format!("{base}Origin: https://x.test\r\n"),
            format!("{base}Sec-Fetch-Site: same-site\r\n"),
            // From 3.0 on HAProxy drops one that Connection does not name, or that is empty.
            format!("{base}Connection: upgrade\r\nUpgrade: x-test/1\r\n"),
            base.replace("GET /", "OPTIONS /"),
            base.replace("GET /", "GET /.well-known/x"),
        ] {
            let mut client = stage.client().await;
            let before = id(&ask(&mut client, &base).await);
            let reply = ask(&mut client, &other).await;
            assert_ne!(id(&reply), before, "{version:?} {other}");
            let user = if other.contains(&carol) { "carol" } else { "alice" };
            assert_eq!(reply.arrived("x-forwarded-user"), [user], "{version:?} {other}");
        }
        for (other, status) in [
            (format!("GET / HTTP/1.1\r\nHost: {at}\r\n"), 401),
            (format!("GET / HTTP/1.1\r\nHost: {at}\r\nAuthorization:\r\n"), 401),
            (base.replace(&alice, &stage.idp.token_of("bob")), 403),
            (format!("{base}Authorization: Bearer {alice}\r\n"), 400),
            (base.replace(&at, &port_host(9999, ALICES)), 403),
        ] {
            let mut client = stage.client().await;
            id(&ask(&mut client, &base).await);
            let reply = ask(&mut client, &other).await;
            assert_eq!(reply.status, status, "{version:?} {other} {}", reply.body);
            // Nor does a refusal take the place of the allow, or the allow that of a refusal.
            assert_eq!(ask(&mut client, &other).await.status, status, "{version:?}");
            id(&ask(&mut client, &base).await);
        }
        // Another connection is asked about by itself.
        assert_ne!(id(&ask(&mut stage.client().await, &base).await), id(&first), "{version:?}");
        told(&stage, &first, &mut client, &base).await;
    }
}

/// The log has each request with its decision, and the next record says how often it was reused.
async fn told(stage: &Stage, first: &Reply, client: &mut Client, base: &str) {
    let first = id(first);
    assert_eq!(ask(client, &format!("{base}Cookie: x=y\r\n")).await.status, 200);
    let record = until("the record that counts", async || {
        stage.audit().into_iter().find(|record| record["reused_of"] == *first)
    })
    .await;
    // HAProxy's log arrives when it does: it must say the same in the end.
    until(&format!("one line of {first} that was asked about, and {record}"), async || {
        let log = stage.haproxy.log();
        let lines = log.lines().filter(|line| line.contains(&format!("decision={first} ")));
        let (reused, asked): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains(" reused=1 "));
        assert!(asked.len() <= 1 && reused.iter().all(|line| line.contains("allow=1")), "{log}");
        (asked.len() == 1 && record["reused"] == reused.len()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_a_dead_agent_ends_every_reuse_at_its_deadline() {
    const BOUND: Duration = Duration::from_millis(1500);
    for version in Version::all() {
        let mut stage = stage(version, 1500, false).await;
        let token = stage.idp.token_of("alice");
        let mut client = stage.client().await;
        id(&client.get(&host(ALICES), Some(&token)).await);
        stage.agent.kill();
        let killed = Instant::now();
        let mut reused = 0;
        let last = loop {
            let sent = Instant::now();
            let reply = client.get(&host(ALICES), Some(&token)).await;
            if reply.status == 503 {
                break sent;
            }
            id(&reply);
            assert!(sent.duration_since(killed) <= BOUND, "{version:?}");
            reused += 1;
        };
        assert!(reused > 0, "{version:?}");
        eprintln!(
            "{version:?}: {reused} requests reused, refused {:?} after the end",
            last - killed
        );
        // Permanently, and for all other people at once.
        assert_eq!(client.get(&host(ALICES), Some(&token)).await.status, 503);
        assert_eq!(stage.get(&host(ALICES), Some("alice")).await.status, 503);
    }
}

/// Sends requests without a pause until one is refused. Returns how long after `since` the last
/// allowed one was sent.
async fn last_allow(client: &mut Client, head: &str, since: Instant) -> Duration {
    let mut last = Duration::ZERO;
    loop {
        let sent = since.elapsed();
        if ask(client, head).await.status != 200 {
            return last;
        }
        last = sent;
        assert!(sent < Duration::from_secs(20), "never refused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_is_refused_at_once_where_haproxy_can_be_told() {
    // More of them for figures: REUSE_ROUNDS=300.
    let rounds = std::env::var("REUSE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: usize = rounds.unwrap_or(12);
    for version in Version::all() {
        let stage = stage(version, 60_000, true).await;
        let alice = stage.idp.token_of("alice");
        let base = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {alice}\r\n",
            host(ALICES)
        );
        let mut took = Vec::new();
        for round in 0..rounds {
            let mut client = stage.client().await;
            until("the gate to open", async || {
                let one = ask(&mut client, &base).await;
                let two = ask(&mut client, &base).await;
                (one.status == 200 && two.status == 200 && id(&one) == id(&two)).then_some(())
            })
            .await;
            let since = Instant::now();
            stage.set_phase("stopped");
            let last = last_allow(&mut client, &base, since).await;
            machine::within(Duration::from_secs(2), "last allow", since, since + last);
            took.push(last);
            for _ in 0..3 {
                assert_eq!(ask(&mut client, &base).await.status, 404, "{version:?} {round}");
            }
            stage.set_phase("running");
        }
        took.sort();
        eprintln!(
            "{version:?}: a workspace stops, {rounds} times: last allow sent after p50 {:?}, p99 {:?}, most {:?}",
            took[rounds / 2],
            took[rounds * 99 / 100],
            took[rounds - 1]
        );
        // One person's tokens are revoked: it is over for that one.
        let mut client = stage.client().await;
        until("the gate to open", async || {
            (ask(&mut client, &base).await.status == 200).then_some(())
        })
        .await;
        let since = Instant::now();
        let config = stage.directory.path().join("agent.toml");
        let done = tokio::task::spawn_blocking(move || {
            let mut revoke = std::process::Command::new(program());
            revoke.args(["revoke", "--config"]).arg(config);
            revoke.args(["--issuer", "dev", "--subject", "sub-alice"]).output().unwrap()
        });
        let last = last_allow(&mut client, &base, since).await;
        let done = done.await.unwrap();
        assert!(done.status.success(), "{done:?}");
        eprintln!("{version:?}: revoked: last allow sent {last:?} after the command began");
        machine::within(Duration::from_secs(3), "last allow after revoke", since, since + last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_tell_haproxy_gives_nothing_for_reuse() {
    let stage = stage(Version::newest(), 2000, true).await;
    let token = stage.idp.token_of("alice");
    // The file of the socket goes; HAProxy goes on.
    std::fs::remove_file(stage.directory.path().join("admin.sock")).unwrap();
    // Once it could not be told before HAProxy was there.
    until("the complaint", async || {
        let text = stage.agent.log();
        (text.matches("telling HAProxy to drop reused allows failed").count() == 2).then_some(())
    })
    .await;
    let mut client = stage.client().await;
    until("the end of reuse", async || {
        let one = id(&client.get(&host(ALICES), Some(&token)).await);
        let two = id(&client.get(&host(ALICES), Some(&token)).await);
        (one != two).then_some(())
    })
    .await;
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        ids.insert(id(&client.get(&host(ALICES), Some(&token)).await));
    }
    assert_eq!(ids.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_streams_of_one_http2_connection_never_get_each_others_verdict() {
    for version in Version::all() {
        let stage = stage(version, 200, true).await;
        let https = stage.haproxy.https;
        let client = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(true)
            .resolve(&host(ALICES), https)
            .build()
            .unwrap();
        let url = format!("https://{}:{}/", host(ALICES), https.port());
        let people = ["alice", "carol", "bob"];
        let tokens = people.map(|user| stage.idp.token_of(user));
        let end = Instant::now() + Duration::from_secs(3);
        let streams = (0..24).map(|number| {
            let (client, url, user) = (client.clone(), url.clone(), people[number % 3]);
            let token = tokens[number % 3].clone();
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while Instant::now() < end {
                    let reply = client.get(&url).bearer_auth(&token).send().await.unwrap();
                    assert_eq!(reply.version(), reqwest::Version::HTTP_2);
                    let status = reply.status().as_u16();
                    let text = reply.text().await.unwrap();
                    assert_eq!(status, if user == "bob" { 403 } else { 200 }, "{user} {text}");
                    if status == 200 {
                        assert!(text.contains(&format!("x-forwarded-user: {user}\n")), "{text}");
                        assert!(
                            text.contains(&format!("x-identity-subject: sub-{user}\n")),
                            "{text}"
                        );
                        let line = text.lines().find(|l| l.starts_with("x-identity-decision-id"));
                        ids.push(line.unwrap().to_owned());
                    }
                }
                ids
            })
        });
        let (mut all, mut different) = (0, BTreeSet::new());
        for stream in streams.collect::<Vec<_>>() {
            let ids = stream.await.unwrap();
            all += ids.len();
            different.extend(ids);
        }
        eprintln!("{version:?}: {all} requests, {} decisions", different.len());
        // How many of those were reused is chance on every version: each response replaces the one before,
        // and a response is stored only if no other request of the connection came before it. Streams of one person
        // that follow each other are reused, on each version.
        let one = async || {
            let reply = client.get(&url).bearer_auth(&tokens[0]).send().await.unwrap();
            let text = reply.text().await.unwrap();
            assert!(text.contains("x-forwarded-user: alice\n"), "{text}");
            text.lines().find(|l| l.starts_with("x-identity-decision-id")).unwrap().to_owned()
        };
        until("reuse", async || (one().await == one().await).then_some(())).await;
    }
}

/// A generator of the same random numbers in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// Random histories, compared with an oracle that knows when each person lost and regained which
/// access.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_passes_later_than_a_change_and_the_bound() {
    // Without the runtime API, the bound is all there is.
    for (told, millis) in [(false, 400), (true, 400)] {
        let stage = stage(Version::newest(), millis, told).await;
        // Until a change reaches the agent, and until a request reaches HAProxy.
        let bound = Duration::from_millis(millis) + Duration::from_millis(1500);
        let people = ["alice", "carol", "bob"];
        let tokens = people.map(|user| stage.idp.token_of(user));
        let mut dice = Dice(u64::from(told) + 7);
        // Since when only these people may: (running, carol's grant), and what was before.
        let mut history = vec![(Instant::now().checked_sub(bound * 2).unwrap(), true, true)];
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(stage.client().await);
        }
        let (mut passed, mut ids) = (0, BTreeSet::new());
        let end = Instant::now() + Duration::from_secs(12);
        while Instant::now() < end {
            if dice.roll(60) == 0 {
                let (running, granted) = (dice.roll(2) == 0, dice.roll(2) == 0);
                let phase = if running { "running" } else { "stopped" };
                let mut list = workspaces(&stage.alice, &stage.bob, phase);
                if !granted {
                    list = list.replace("carol@example.com", "dave@example.com");
                }
                test_stage::replace(&stage.workspaces_file(), list);
                history.push((Instant::now(), running, granted));
            }
            let (who, which) = (dice.roll(3), dice.roll(4));
            let odd = ["", "Accept: a\r\n", "Cookie: a=b\r\n"][dice.roll(3)];
            let head = format!(
                "GET /{} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{odd}",
                dice.roll(3),
                host(ALICES),
                tokens[who]
            );
            let sent = Instant::now();
            let reply = ask(&mut clients[which], &head).await;
            if reply.status == 200 {
                passed += 1;
                ids.insert(id(&reply));
                assert_eq!(reply.arrived("x-forwarded-user"), [people[who]]);
                // One of the states since (sent - bound) let this person in.
                let states = history.iter().enumerate().filter(|(at, _)| {
                    history.get(at + 1).is_none_or(|(until, ..)| *until + bound > sent)
                });
                let may = |(_, (_, running, granted)): (usize, &(Instant, bool, bool))| match who {
                    0 => *running,
                    1 => *running && *granted,
                    _ => false,
                };
                assert!(states.into_iter().any(may), "{} told={told} {history:?}", people[who]);
            }
            if dice.roll(8) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        eprintln!(
            "told={told}: {passed} passed by {} decisions, {} changes",
            ids.len(),
            history.len()
        );
        assert!(ids.len() < passed && history.len() > 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_lines_of_cookies_are_compared_as_one_line() {
    for version in Version::all() {
        let stage = stage(version, 60_000, true).await;
        let alice = stage.idp.token_of("alice");
        let base = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {alice}\r\n",
            host(ALICES)
        );
        let with = |cookies: &str| format!("{base}{cookies}");
        let two = with("Cookie: a=1\r\nCookie: __Host-identity=x; b=2\r\n");
        let mut client = stage.client().await;
        let first = ask(&mut client, &two).await;
        assert_eq!(first.arrived("cookie"), ["a=1; b=2"], "{version:?}");
        for same in [&two, &with("Cookie: a=1; __Host-identity=x; b=2\r\n")] {
            let reply = ask(&mut client, same).await;
            assert_eq!(id(&reply), id(&first), "{version:?} {same}");
            assert_eq!(reply.arrived("cookie"), ["a=1; b=2"], "{version:?} {same}");
        }
        for other in [
            "Cookie: b=2\r\nCookie: __Host-identity=x; a=1\r\n",
            "Cookie: a=2\r\nCookie: __Host-identity=x; b=2\r\n",
            "Cookie: a=1\r\nCookie: __Host-identity=y; b=2\r\n",
            "Cookie: __Host-identity=x; b=2\r\n",
        ] {
            let before = id(&ask(&mut client, &two).await);
            let reply = ask(&mut client, &with(other)).await;
            assert_ne!(id(&reply), before, "{version:?} {other}");
        }
    }
}
