//! What travels on, and what does not.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{ALICES, Stage, Version, host, port_host};
use dev_workspace::Seen;

#[tokio::test(flavor = "multi_thread")]
async fn f3_headers_that_a_client_sends_in_our_name_never_arrive() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let spoofed = [
            "X-Forwarded-User",
            "x-forwarded-user",
            "X_Forwarded_User",
            "X.Forwarded.User",
            "X~Forwarded!User",
            "X-Forwarded_User",
            "X-Forwarded-Email",
            "X-Forwarded-Groups",
            "X-Forwarded-Preferred-Username",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded",
            "Forwarded",
            "X-Identity-Subject",
            "X_Identity_Subject",
            "X-Identity-Workspace",
            "X-Identity-Decision-Id",
            "X-Identity",
            "X-Auth-Request-User",
            "X-Remote-User",
            "Remote-User",
            "Remote_User",
            "Remote+User",
            "Remote-Groups",
            "X-Real-IP",
            "X^Client|IP",
            "X-WSProxy-Host",
            "X-Unique-ID",
        ];
        let headers = spoofed.map(|name| format!("{name}: evil\r\n")).concat();
        for (host, user) in [(host(ALICES), Some("alice")), (port_host(3000, ALICES), None)] {
            let mut client = stage.client().await;
            let token =
                user.map(|u| format!("Authorization: Bearer {}\r\n", stage.idp.token_of(u)));
            let lines = format!("{headers}{}X-Mine: kept\r\n", token.unwrap_or_default());
            let reply = client.send(&host, lines.as_bytes()).await;
            assert_eq!(reply.status, 200, "{version:?}");
            assert!(!reply.body.contains("evil"), "{version:?} {}", reply.body);
            assert_eq!(reply.arrived("x-mine"), ["kept"]);
            assert_eq!(reply.arrived("x-forwarded-user"), user.as_slice());
            assert_eq!(reply.arrived("x-identity-workspace"), [ALICES]);
        }
    }
}

/// oauth2-proxy let a health check's User-Agent pass (CVE-2026-34457). The gate has no path, method or header that needs
/// no decision.
#[tokio::test(flavor = "multi_thread")]
async fn f7_no_health_check_preflight_or_acme_challenge_skips_the_check() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let before = stage.alice.requests().len();
        let mut targets = Vec::new();
        for path in [
            "/health",
            "/healthz",
            "/livez",
            "/readyz",
            "/ping",
            "/status",
            "/metrics",
            "/robots.txt",
            "/favicon.ico",
            "/haproxy?stats",
            "/.well-known/acme-challenge/token",
            "/.well-known/security.txt",
            "/.well-known/oauth-protected-resource",
            "/.well-known/identity-spoa/style.css",
        ] {
            targets.extend(["GET", "HEAD", "POST", "OPTIONS"].map(|method| (method, path, "")));
        }
        for lines in [
            "User-Agent: GoogleHC/1.0\r\n",
            "User-Agent: kube-probe/1.30\r\n",
            "User-Agent: ELB-HealthChecker/2.0\r\n",
            "User-Agent: Mozilla/5.0 (compatible; Let's Encrypt validation server)\r\n",
            "Origin: https://evil.test\r\nAccess-Control-Request-Method: GET\r\n",
            "X-HTTP-Method-Override: OPTIONS\r\n",
            "Purpose: prefetch\r\n",
        ] {
            targets.extend(["GET", "OPTIONS"].map(|method| (method, "/", lines)));
        }
        for (method, path, lines) in targets {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\n{lines}Connection: close\r\n\r\n",
                host(ALICES)
            );
            let mut stream = TcpStream::connect(stage.haproxy.http).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            assert!(
                reply.starts_with("HTTP/1.1 401 "),
                "{version:?} {method} {path} {lines} {reply}"
            );
        }
        assert_eq!(stage.alice.requests().len(), before, "{version:?}: nothing arrived");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s15_no_header_that_overrides_the_method_arrives() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut client = stage.client().await;
        let names = [
            "X-HTTP-Method-Override",
            "x-http-method-override",
            "X_HTTP_Method_Override",
            "X.Http~Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "X_METHOD_OVERRIDE",
        ];
        let headers = names.map(|name| format!("{name}: DELETE\r\n")).concat();
        let lines = format!("{headers}X-Method: kept\r\nX-Mine: kept\r\n");
        let reply = client.send(&port_host(3000, ALICES), lines.as_bytes()).await;
        assert_eq!(reply.status, 200, "{version:?}");
        assert!(!reply.body.contains("DELETE"), "{version:?} {}", reply.body);
        assert_eq!(
            (reply.arrived("x-mine"), reply.arrived("x-method")),
            (vec!["kept"], vec!["kept"])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_no_token_and_no_cookie_of_the_gate_reaches_a_workspace_or_a_log() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let token = stage.idp.token_of("alice");
        let mut client = stage.client().await;
        for host in [host(ALICES), port_host(3000, ALICES)] {
            let lines = format!(
                "Authorization: Bearer {token}\r\nCookie: a=1; __Host-identity=canary; b=\"2\"\r\n"
            );
            let reply = client.send(&host, lines.as_bytes()).await;
            assert_eq!(reply.status, 200);
            assert_eq!(reply.arrived("cookie"), ["a=1; b=\\\"2\\\""], "{version:?}");
            assert_eq!(reply.arrived("authorization"), [""; 0]);
            let only_ours = client
                .send(
                    &host,
                    format!(
                        "Authorization: Bearer {token}\r\nCookie: __Host-identity_x=canary\r\n"
                    )
                    .as_bytes(),
                )
                .await;
            assert_eq!(only_ours.arrived("cookie"), [""; 0], "{version:?}");
        }
        let signature = token.rsplit('.').next().unwrap();
        let seen: Vec<Seen> = stage.alice.requests();
        for canary in [signature, "canary"] {
            assert!(!format!("{seen:?}").contains(canary));
            assert!(!stage.agent.log().contains(canary));
            assert!(!stage.haproxy.log().contains(canary));
            assert!(!stage.audit().iter().any(|record| record.to_string().contains(canary)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_other_cookies_and_the_workspaces_own_credentials_arrive_byte_for_byte() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut client = stage.client().await;
        let lines = b"Authorization: Basic dTpw\r\nCookie: a=\xff\xfe; b=%20+\"; __Host-identity=x; c= d\r\n";
        let reply = client.send(&port_host(3000, ALICES), lines).await;
        assert_eq!(reply.arrived("cookie"), [r#"a=\xff\xfe; b=%20+\"; c= d"#], "{version:?}");
        assert_eq!(reply.arrived("authorization"), ["Basic dTpw"], "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_refused_token_of_our_issuer_does_not_travel_to_a_public_port() {
    let stage = Stage::start(Version::newest()).await;
    let request = dev_idp::TokenRequest { expires_in: -3600, ..Default::default() };
    let token = stage.idp.token(&request);
    let reply = stage.get_with(&port_host(3000, ALICES), Some(&token)).await;
    assert_eq!((reply.status, reply.arrived("authorization").len()), (200, 0));
    let foreign = stage.get_with(&port_host(3000, ALICES), Some("an-opaque-token")).await;
    assert_eq!(foreign.arrived("authorization"), ["Bearer an-opaque-token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f4_p5_repeated_headers_are_refused() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let token = stage.idp.token_of("alice");
        let twice = format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n");
        let reply = stage.client().await.send(&host(ALICES), twice.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.body.contains("_repeated")),
            (400, true),
            "{version:?} {}",
            reply.body
        );
        let lines =
            format!("Host: {}\r\nAuthorization: Bearer {token}\r\n", port_host(3000, ALICES));
        let reply = stage.client().await.send(&host(ALICES), lines.as_bytes()).await;
        assert_eq!(reply.status, 400, "{version:?} {}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_cannot_set_cookies_of_our_names() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let cookies = "a=1; Path=/|__Host-identity=evil; Path=/; Secure|b=2|__host-identity_pre=evil|=__Host-identity=evil|= =__HOST-identity=evil|  __Host-identity = evil|x__Host-identity=fine";
        let request = format!(
            "GET /set-cookies HTTP/1.1\r\nHost: {}\r\nX-Cookies: {cookies}\r\n\r\n",
            port_host(3000, ALICES)
        );
        let reply = stage.client().await.raw(request.as_bytes()).await;
        let set: Vec<_> = reply.all("set-cookie").into_iter().filter(|c| !c.is_empty()).collect();
        assert_eq!(set, ["a=1; Path=/", "b=2", "x__Host-identity=fine"], "{version:?}");
    }
}
