//! Requests as browsers, proxies and load balancers really send them, through every HAProxy.

use crate::{
    credentials,
    sign_in::{self, Browser},
    support::{ALICES, Client, Stage, Version, host, port_host},
};

mod pages;
mod room;

/// The values of several Cookie lines, and what arrives.
type Case = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// Lines of Cookie with these values, with other headers between them.
fn lines(cookies: &[Vec<u8>]) -> Vec<u8> {
    let mut lines = b"X-First: cookie: no\r\nCookie2: no\r\n".to_vec();
    for (number, cookie) in cookies.iter().enumerate() {
        let name = if number % 2 == 0 { "Cookie" } else { "cookie" };
        lines.extend_from_slice(format!("{name}: ").as_bytes());
        lines.extend_from_slice(cookie);
        lines.extend_from_slice(b"\r\n");
        if number % 30 == 1 {
            lines.extend_from_slice(b"X-Between: cookie: no\r\n");
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_several_cookie_lines_are_one_line() {
    let long = |name: &str, size: usize| format!("{name}={}", "x".repeat(size)).into_bytes();
    let crumbs: Vec<Vec<u8>> = (0..80).map(|n| format!("k{n}=v{n}").into_bytes()).collect();
    let cases: Vec<Case> = vec![
        (
            vec![b"a=1".into(), b"b=\"2\"; c= d".into(), b"e=\xff\tf".into()],
            Some(b"a=1; b=\"2\"; c= d; e=\xff\tf".into()),
        ),
        (vec![b"a=1".into(), b"a=1".into()], Some(b"a=1; a=1".into())),
        // Ours is taken out of each line, in whatever spelling.
        (
            vec![b"a=1".into(), b"__Host-identity=x".into(), b"b=2; __host-IDENTITY_pre=y".into()],
            Some(b"a=1; b=2".into()),
        ),
        (vec![b"__Host-identity=x".into(), b"=__Host-identity_pre=y".into()], None),
        (crumbs.clone(), Some(crumbs.join(&b"; "[..]))),
        // Longer than half of HAProxy's buffer, in one line and in all.
        (
            vec![long("a", 9000), b"b=2".into(), long("c", 3000)],
            Some([long("a", 9000), b"b=2".into(), long("c", 3000)].join(&b"; "[..])),
        ),
    ];
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let token = format!("Authorization: Bearer {}\r\n", stage.idp.token_of("alice"));
        for (cookies, want) in &cases {
            let want: Vec<_> = want.iter().map(|want| want.escape_ascii().to_string()).collect();
            for (at, credential) in [(host(ALICES), &*token), (port_host(3000, ALICES), "")] {
                let sent = [credential.as_bytes(), &lines(cookies)].concat();
                let reply = stage.client().await.send(&at, &sent).await;
                assert_eq!(reply.status, 200, "{version:?} {at} {}", reply.body);
                assert_eq!(reply.arrived("cookie"), want, "{version:?} {at}");
                assert_eq!(reply.arrived("x-first"), ["cookie: no"], "{version:?}");
                assert_eq!(reply.arrived("cookie2"), ["no"], "{version:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_a_session_counts_in_any_line_and_never_in_two() {
    for version in Version::all() {
        let stage = sign_in::Stage::with(version, "").await;
        let mut alice: Browser = stage.browser();
        assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
        let ours = format!("__Host-identity={}", alice.cookies[&host(ALICES)]["__Host-identity"]);
        let ask = async |at: &str, cookies: &[&str]| {
            let cookies: Vec<_> = cookies.iter().map(|cookie| cookie.as_bytes().to_vec()).collect();
            let sent = [b"Accept: application/json\r\n", &*lines(&cookies)].concat();
            Client::connect(stage.haproxy.http).await.send(at, &sent).await
        };
        for cookies in [["a=1", &*ours, "b=2"], [&*ours, "a=1", "b=2"], ["a=1", "b=2", &*ours]] {
            let reply = ask(&host(ALICES), &cookies).await;
            assert_eq!(reply.status, 200, "{version:?} {}", reply.body);
            assert_eq!(reply.arrived("cookie"), ["a=1; b=2"], "{version:?}");
            assert_eq!(reply.arrived("x-forwarded-user"), ["alice"], "{version:?}");
        }
        for cookies in [[&*ours, "a=1", &*ours], ["a=1", &*ours, "b=2; __Host-identity=x"]] {
            let reply = ask(&host(ALICES), &cookies).await;
            assert_eq!(reply.status, 401, "{version:?} {}", reply.body);
            assert!(reply.body.contains("credential_missing"), "{version:?} {}", reply.body);
            // Where no session is needed, none is used, and none travels on.
            let reply = ask(&port_host(3000, ALICES), &cookies).await;
            assert_eq!(reply.status, 200, "{version:?} {}", reply.body);
            assert!(!reply.body.contains("__Host-identity"), "{version:?} {}", reply.body);
            assert!(reply.arrived("x-forwarded-user").is_empty(), "{version:?} {}", reply.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_a_token_in_a_cookie_counts_in_any_line_and_never_in_two() {
    for version in Version::all() {
        let stage = credentials::stage(version).await;
        let token = format!("token={}", stage.idp.token_of("alice"));
        let ask = async |cookies: &[&str]| {
            let cookies: Vec<_> = cookies.iter().map(|cookie| cookie.as_bytes().to_vec()).collect();
            stage.client().await.send(&host(ALICES), &lines(&cookies)).await
        };
        crate::support::until("the keys", async || {
            (stage.get(&host(ALICES), Some("alice")).await.status == 200).then_some(())
        })
        .await;
        for cookies in [["a=1", &*token, "b=2"], ["a=1", "b=2", &*token]] {
            let reply = ask(&cookies).await;
            assert_eq!(reply.status, 200, "{version:?} {}", reply.body);
            assert_eq!(reply.arrived("cookie"), ["a=1; b=2"], "{version:?}");
        }
        for cookies in [[&*token, "a=1", &*token], ["a=1", &*token, "b=2; token=x"]] {
            let reply = ask(&cookies).await;
            assert_eq!(reply.status, 400, "{version:?} {}", reply.body);
            assert!(reply.body.contains("credential_repeated"), "{version:?} {}", reply.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q8_a_load_balancers_probe_is_answered_whatever_its_host_is() {
    const ALIVE: &str = "/.well-known/identity-spoa/alive";
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        for head in [
            format!("GET {ALIVE} HTTP/1.0\r\n"),
            format!("GET {ALIVE} HTTP/1.1\r\nHost: 10.0.0.1:8080\r\n"),
            format!("GET {ALIVE} HTTP/1.1\r\nHost: [::1]\r\n"),
            format!("GET {ALIVE} HTTP/1.1\r\nHost: {}\r\n", host(ALICES)),
        ] {
            let reply = stage.client().await.raw(format!("{head}\r\n").as_bytes()).await;
            assert_eq!(reply.status, 200, "{version:?} {head}");
            // Nothing of the gate, its agent or its workspaces.
            for part in ["identity", "workspace", "alice", "agent", "haproxy", "2.6", "3."] {
                let said = format!("{:?} {}", reply.headers, reply.body).to_lowercase();
                assert!(!said.contains(part), "{version:?} {said}");
            }
        }
        // No other path, and no other part of the request, is such a probe.
        let before = stage.alice.requests().len();
        for (target, lines) in [
            (format!("{ALIVE}/"), ""),
            (format!("{ALIVE}?x"), ""),
            (format!("/x{ALIVE}"), ""),
            ("/.well-known/identity-spoa/%61live".into(), ""),
            (format!("/?{ALIVE}"), ""),
            ("/".into(), "X-Original-URL: /.well-known/identity-spoa/alive\r\n"),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", host(ALICES));
            let reply = stage.client().await.raw(request.as_bytes()).await;
            assert_eq!(reply.status, 401, "{version:?} {target} {}", reply.body);
        }
        assert_eq!(stage.alice.requests().len(), before, "{version:?}");
        // A probe is not asked about, so it says nothing about the agent either.
        stage.agent.kill();
        let reply =
            stage.client().await.raw(format!("GET {ALIVE} HTTP/1.0\r\n\r\n").as_bytes()).await;
        assert_eq!(reply.status, 200, "{version:?}");
    }
}
