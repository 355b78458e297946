//! The app's own tokens behind the gate: what stands in Authorization beyond the gate's credentials travels on, and no
//! token for the gate does. Over real HAProxies.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    sign_in::{Changes, Reply, Stage},
    support::{ALICES, BOBS, Client, Version, agent::program, host, port_host, until},
    wire::Bare,
};
use dev_idp::{Fault, Faults, TokenRequest};

const INTROSPECTION: &str =
    "[issuer.introspection]\nclient_id = 'gate'\nclient_secret_file = 'secret'\n";

/// A JWT that an app signs for itself.
fn hs256(claims: &Value) -> String {
    let [header, claims] = [&json!({"alg": "HS256", "typ": "JWT"}), claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}.c2lnbmF0dXJlLXRoYXQtb25seS10aGUtYXBwLWNoZWNrcw")
}

/// The values of an Authorization header that are the app's, with the reason where it is the only credential.
fn apps() -> Vec<(String, &'static str)> {
    let bearer = |token: String| format!("Bearer {token}");
    let jwe = URL_SAFE_NO_PAD.encode(r#"{"alg":"dir","enc":"A256GCM"}"#);
    vec![
        ("Bearer opaque123".into(), "token_malformed"),
        ("bearer  opaque 123".into(), "token_malformed"),
        (bearer(hs256(&json!({"iss": "https://app.test", "sub": "1"}))), "token_issuer"),
        (bearer(hs256(&json!({"sub": "1"}))), "token_issuer"),
        (bearer(format!("{jwe}.a.b.c.d")), "token_encrypted"),
        ("DPoP opaque123".into(), "token_malformed"),
    ]
}

/// What the workspace got of a header.
fn arrived<'r>(reply: &'r Reply, name: &str) -> Vec<&'r str> {
    let prefix = format!("{name}: ");
    reply.body.lines().filter_map(|line| line.strip_prefix(&prefix)).collect()
}

const FETCH: [(&str, &str); 3] =
    [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];

/// A request of the host's own page, with these headers.
fn fetch<'h>(headers: &[(&'h str, &'h str)]) -> Vec<(&'h str, &'h str)> {
    FETCH.iter().copied().chain(headers.iter().copied()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_an_apps_own_token_travels_on_with_a_session() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut alice = stage.browser();
        let hosts = [host(ALICES), port_host(7000, ALICES), port_host(3000, ALICES)];
        for at in &hosts {
            assert_eq!(alice.browse(at, "/").await.status, 200, "{version:?} {at}");
        }
        // The public port needs no session, so she got one at the others only.
        let public = &hosts[2];
        for (value, reason) in apps() {
            let with = [("authorization", &*value)];
            for at in &hosts {
                for method in ["GET", "POST"] {
                    let reply = alice.ask(method, at, "/api", &fetch(&with)).await;
                    assert_eq!(reply.status, 200, "{version:?} {at} {value} {}", reply.body);
                    assert_eq!(arrived(&reply, "authorization"), [&*value], "{version:?} {at}");
                    assert!(!reply.body.contains("__Host-identity"), "{}", reply.body);
                }
            }
            let reply = alice.ask("GET", &hosts[0], "/api", &fetch(&with)).await;
            assert_eq!(arrived(&reply, "x-forwarded-user"), ["alice"]);
            // Without a session it is refused as the only credential, and at a public port it travels on.
            let mut stranger = stage.browser();
            let reply = stranger.ask("GET", &hosts[0], "/api", &with).await;
            assert_eq!(reply.status, 401, "{version:?} {value}");
            assert!(reply.body.contains(reason), "{version:?} {value} {}", reply.body);
            let challenge = reply.headers["www-authenticate"].to_str().unwrap();
            assert!(challenge.contains("no session"), "{challenge}");
            let reply = stranger.ask("GET", public, "/api", &with).await;
            assert_eq!((reply.status, arrived(&reply, "authorization")), (200, vec![&*value]));
            // A page of another workspace cannot use the session with it.
            let origin = format!("https://{}:{}", host(BOBS), stage.haproxy.https.port());
            let foreign = [
                ("sec-fetch-site", "same-site"),
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
                ("origin", &*origin),
                ("authorization", &*value),
            ];
            let reply = alice.ask("GET", &hosts[0], "/api", &foreign).await;
            assert_eq!(reply.status, 403, "{version:?} {value} {}", reply.body);
            assert!(reply.body.contains("origin_foreign"), "{}", reply.body);
            let cookies = &alice.cookies[&hosts[0]];
            let cookies: Vec<_> =
                cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: {origin}\r\nCookie: {}\r\nAuthorization: {value}\r\n\r\n",
                hosts[0],
                cookies.join("; ")
            );
            let mut client = Client::connect(stage.haproxy.http).await;
            let reply = client.raw(request.as_bytes()).await;
            assert_eq!(reply.status, 403, "{version:?} {value} {}", reply.body);
        }
        // Another person's session opens nothing more with it.
        stage.idp.set_user("bob");
        let mut bob = stage.browser();
        assert_eq!(bob.browse(&host(BOBS), "/").await.status, 200);
        let cookies = bob.cookies[&host(BOBS)].clone();
        bob.cookies.insert(host(ALICES), cookies);
        let reply = bob.ask("GET", &hosts[0], "/", &fetch(&[("authorization", "Bearer x1")])).await;
        assert_eq!(reply.status, 401, "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_a_token_of_a_configured_issuer_never_reaches_a_workspace() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut alice = stage.browser();
        for at in [host(ALICES), port_host(3000, ALICES)] {
            alice.browse(&at, "/").await;
        }
        let issuer = stage.idp.issuer().to_owned();
        let good = stage.idp.token_of("alice");
        let expired =
            stage.idp.token(&TokenRequest { expires_in: -3600, ..TokenRequest::default() });
        let others =
            stage.idp.token(&TokenRequest { audience: json!("app"), ..TokenRequest::default() });
        let shared = stage.idp.token(&TokenRequest { alg: "HS256".into(), ..Default::default() });
        let twice = {
            let claims = format!(r#"{{"iss":"https://app.test","iss":"{issuer}"}}"#);
            format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
        };
        let odd = {
            let claims = format!(r#"{{"\u0069ss":"{}"}}"#, issuer.replace('/', "\\/"));
            format!("e30.{}=.c2ln", URL_SAFE_NO_PAD.encode(claims))
        };
        let bearer = |token: &str| format!("Bearer {token}");
        for (value, status, reason) in [
            (bearer(&good), 200, ""),
            (bearer(&expired), 401, "token_expired"),
            (bearer(&others), 401, "token_audience"),
            (bearer(&format!("{}x", &good[..good.len() - 1])), 401, "token_"),
            (bearer(&shared), 401, "token_algorithm"),
            (bearer(&twice), 401, "token_malformed"),
            (bearer(&odd), 401, "token_malformed"),
            (format!("Bearer opaque123, Bearer {good}"), 401, "token_malformed"),
            (format!("DPoP {good}"), 401, "token_bound"),
            // Another scheme is the workspace's, and a token for the gate in it is not.
            (good.clone(), 200, ""),
            (format!("token {good}"), 200, ""),
        ] {
            let headers = fetch(&[("authorization", &value)]);
            let reply = alice.ask("GET", &host(ALICES), "/", &headers).await;
            assert_eq!(reply.status, status, "{version:?} {value} {}", reply.body);
            assert!(status == 200 || reply.body.contains(reason), "{value} {}", reply.body);
            assert_eq!(arrived(&reply, "authorization"), [""; 0], "{version:?} {value}");
            for mut browser in [alice.clone(), stage.browser()] {
                let reply = browser.ask("GET", &port_host(3000, ALICES), "/", &headers).await;
                assert_eq!(reply.status, 200, "{version:?} {value} {}", reply.body);
                assert_eq!(arrived(&reply, "authorization"), [""; 0], "{version:?} {value}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_an_opaque_token_is_the_apps_only_if_its_issuer_says_so_and_there_is_a_session() {
    for version in Version::all() {
        let changes = Changes { tables: INTROSPECTION, ..Changes::default() };
        let stage = Stage::changed(version, &changes).await;
        let (main, public) = (host(ALICES), port_host(7000, ALICES));
        let open = port_host(3000, ALICES);
        let mut alice = stage.browser();
        for at in [&main, &public] {
            assert_eq!(alice.browse(at, "/").await.status, 200, "{version:?} {at}");
        }
        let app = [("authorization", "Bearer opaque-inactive")];
        for at in [&main, &public] {
            let reply = alice.ask("GET", at, "/", &fetch(&app)).await;
            assert_eq!(reply.status, 200, "{version:?} {}", reply.body);
            assert_eq!(arrived(&reply, "authorization"), ["Bearer opaque-inactive"], "{version:?}");
        }
        let mut stranger = stage.browser();
        let reply = stranger.ask("GET", &main, "/", &app).await;
        assert_eq!(reply.status, 401);
        assert!(reply.body.contains("token_inactive"), "{}", reply.body);
        let reply = stranger.ask("GET", &open, "/", &app).await;
        assert_eq!((reply.status, arrived(&reply, "authorization").len()), (200, 0));
        // An active one decides, with a session too, and is taken out.
        let ours = [("authorization", "Bearer opaque-alice")];
        let reply = alice.ask("GET", &main, "/", &fetch(&ours)).await;
        assert_eq!((reply.status, arrived(&reply, "authorization").len()), (200, 0));
        let bobs = [("authorization", "Bearer opaque-bob")];
        assert_eq!(alice.ask("GET", &main, "/", &fetch(&bobs)).await.status, 403);
        // While the issuer is away, a token may be one for the gate.
        stage.idp.set_faults(Faults { introspection: Fault::Status(500), ..Faults::default() });
        let away = [("authorization", "Bearer opaque-unknown")];
        let reply = alice.ask("GET", &main, "/", &fetch(&away)).await;
        assert_eq!(reply.status, 503, "{version:?} {}", reply.body);
        assert!(reply.body.contains("introspection_unavailable"), "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_programs_send_their_token_in_a_header_of_its_own() {
    for version in Version::all() {
        for header in ["Proxy-Authorization", "X-Workspace-Token"] {
            let changes = Changes { token_header: Some(header), ..Changes::default() };
            let stage = Stage::changed(version, &changes).await;
            let (main, open) = (host(ALICES), port_host(3000, ALICES));
            let token = stage.idp.token_of("alice");
            let expired =
                stage.idp.token(&TokenRequest { expires_in: -3600, ..TokenRequest::default() });
            let (ours, bad) = (format!("Bearer {token}"), format!("Bearer {expired}"));
            let lower = header.to_ascii_lowercase();
            let mut program = stage.browser();
            for (value, _) in apps() {
                for at in [&main, &open] {
                    let both = [(header, &*ours), ("authorization", &*value)];
                    let reply = program.ask("GET", at, "/", &both).await;
                    assert_eq!(reply.status, 200, "{version:?} {header} {}", reply.body);
                    assert_eq!(arrived(&reply, "authorization"), [&*value], "{version:?} {header}");
                    assert_eq!(arrived(&reply, "x-forwarded-user"), ["alice"]);
                    assert_eq!(arrived(&reply, &lower), [""; 0], "{version:?} {}", reply.body);
                }
            }
            // A name of one's own needs no scheme; Proxy-Authorization of another scheme is for another proxy.
            let own = header.starts_with("X-");
            let reply = program.ask("GET", &main, "/", &[(header, &token)]).await;
            assert_eq!(reply.status, if own { 200 } else { 401 }, "{version:?} {}", reply.body);
            let basic = [(header, "Basic YTpi"), ("authorization", &*ours)];
            let reply = program.ask("GET", &main, "/", &basic).await;
            assert_eq!(reply.status, if own { 400 } else { 200 }, "{version:?} {}", reply.body);
            assert_eq!(arrived(&reply, &lower), [""; 0], "{version:?}");
            for (lines, reason) in [
                (vec![(header, &*ours), (header, &*ours)], "credential_repeated"),
                (vec![(header, &*ours), (header, "")], "credential_repeated"),
                (vec![(header, &*ours), ("authorization", &*ours)], "credential_repeated"),
                (vec![(header, &*ours), ("authorization", &*bad)], "credential_repeated"),
                (vec![(header, &*bad), ("authorization", "Bearer opaque123")], "token_expired"),
            ] {
                let reply = program.ask("GET", &main, "/", &lines).await;
                let status = if reason == "token_expired" { 401 } else { 400 };
                assert_eq!(reply.status, status, "{version:?} {header} {}", reply.body);
                assert!(reply.body.contains(reason), "{version:?} {reason} {}", reply.body);
            }
            // A bad one is refused with a session too, and taken out at a public port.
            let mut alice = stage.browser();
            assert_eq!(alice.browse(&main, "/").await.status, 200);
            let reply = alice.ask("GET", &main, "/", &fetch(&[(header, &*bad)])).await;
            assert_eq!(reply.status, 401, "{version:?} {}", reply.body);
            let reply = program.ask("GET", &open, "/", &[(header, &*bad)]).await;
            assert_eq!((reply.status, arrived(&reply, &lower).len()), (200, 0), "{version:?}");
            // A tunnel has it taken out as well.
            let mut client = Client::connect(stage.haproxy.http).await;
            let request = format!(
                "GET /x HTTP/1.1\r\nHost: {main}\r\nConnection: Upgrade\r\nUpgrade: none\r\n{header}: {ours}\r\nAuthorization: Bearer opaque123\r\n\r\n"
            );
            let reply = client.raw(request.as_bytes()).await;
            assert_eq!(reply.status, 200, "{version:?} {}", reply.body);
            assert_eq!(reply.arrived("authorization"), ["Bearer opaque123"]);
            assert_eq!(reply.arrived(&lower), [""; 0], "{version:?} {}", reply.body);
            let log = stage.haproxy.log() + &stage.agent.log();
            assert!(!log.contains(&token), "{version:?}: a token in a log");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_an_allow_by_such_a_header_is_reused_for_the_same_header_only() {
    for version in Version::all() {
        for header in ["Proxy-Authorization", "X-Workspace-Token"] {
            let changes = Changes {
                token_header: Some(header),
                verdict_cache_ms: Some(60_000),
                ..Changes::default()
            };
            let stage = Stage::changed(version, &changes).await;
            let alice = stage.idp.token_of("alice");
            let bob = stage.idp.token_of("bob");
            let mut client = Client::connect(stage.haproxy.http).await;
            let lower = header.to_ascii_lowercase();
            let mut ask = async |lines: &str, app: &str| {
                let request = format!(
                    "GET / HTTP/1.1\r\nHost: {}\r\n{lines}Authorization: Bearer {app}\r\n\r\n",
                    host(ALICES)
                );
                let reply = client.raw(request.as_bytes()).await;
                if reply.status == 200 {
                    assert_eq!(reply.arrived("authorization"), [format!("Bearer {app}")]);
                    assert_eq!(reply.arrived(&lower), [""; 0], "{version:?} {}", reply.body);
                }
                let id = reply.arrived("x-identity-decision-id").first().map(|id| (*id).to_owned());
                (reply.status, id)
            };
            let ours = format!("{header}: Bearer {alice}\r\n");
            until("reuse", async || {
                let (one, two) = (ask(&ours, "app1").await, ask(&ours, "app1").await);
                (one.0 == 200 && one == two).then_some(())
            })
            .await;
            // The browser's headers change, so the headers that a decision depends on are compared by themselves.
            let first = ask(&format!("{ours}X-A: 1\r\n"), "app1").await;
            assert_eq!(ask(&format!("{ours}X-A: 2\r\n"), "app1").await, first, "{version:?}");
            for (lines, status) in [
                (String::new(), 401),
                (format!("{header}: Bearer {bob}\r\n"), 403),
                (format!("{header}: Bearer {alice}x\r\n"), 401),
                (format!("{ours}{ours}"), 400),
            ] {
                assert_eq!(ask(&ours, "app1").await.0, 200);
                assert_eq!(ask(&lines, "app1").await.0, status, "{version:?} {header} {lines}");
            }
            // The app's other token is another request.
            let (one, two) = (ask(&ours, "app1").await, ask(&ours, "app2").await);
            assert!(one.0 == 200 && two.0 == 200 && one.1 != two.1, "{version:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_explain_and_doctor_say_that_a_token_is_the_apps() {
    let bare = Bare::start().await;
    let directory = bare.directory.path().to_owned();
    let app = hs256(&json!({"iss": "https://app.test"}));
    let expired = bare.idp.token(&TokenRequest { expires_in: -9, ..TokenRequest::default() });
    for (token, is_apps) in [("opaque123", true), (&*app, true), (&*expired, false)] {
        std::fs::write(directory.join("token"), token).unwrap();
        let run = async |args: &'static [&str]| {
            let directory = directory.clone();
            let output = tokio::task::spawn_blocking(move || {
                let mut command = std::process::Command::new(program());
                command.args(args).args(["--config", "agent.toml", "--token-file", "token"]);
                command.current_dir(directory).output().unwrap()
            });
            String::from_utf8(output.await.unwrap().stdout).unwrap()
        };
        let host: &'static str = Box::leak(host(ALICES).into_boxed_str());
        let args: &'static [&str] = Box::leak(Box::new(["explain", "--host", host]));
        let explained = run(args).await;
        assert_eq!(explained.contains("it is the app's"), is_apps, "{explained}");
        let examined = run(&["doctor"]).await;
        assert_eq!(examined.contains("it is the app's"), is_apps, "{examined}");
        assert!(!examined.contains(token) && !explained.contains(token));
    }
}
