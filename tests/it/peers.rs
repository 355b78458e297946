//! What went wrong with others that stand at a door like ours, tried against us. docs/threat-model.md lists all of it,
//! with the tests elsewhere that try the rest.

use crate::{
    sign_in::{LOGIN, Reply, Stage as SignInStage},
    support::{self, ALICES, BOBS, Client, Stage, Version, host, port_host},
};
use dev_idp::TokenRequest;

/// The stage of sign-in, with the usual lines in `[sign_in]`.
async fn sign_in(version: &Version) -> SignInStage {
    SignInStage::with(version, "").await
}

/// A request in the clear, to the byte.
async fn raw(stage: &SignInStage, request: &str) -> support::Reply {
    Client::connect(stage.haproxy.http).await.raw(request.as_bytes()).await
}

fn location(reply: &Reply) -> &str {
    reply.location.as_deref().unwrap_or_else(|| panic!("{reply:?}"))
}

/// The host of an address.
fn host_of(address: &str) -> String {
    url::Url::parse(address).unwrap().host_str().unwrap().to_owned()
}

/// CVE-2026-25748: an authentik session cookie that is none let a request pass. criteo's agent ended with the
/// process at `authsession=AAAA`; mod_auth_openidc at others (CVE-2023-28625).
#[tokio::test(flavor = "multi_thread")]
async fn peers_authentik_cve_2026_25748_and_criteo_a_malformed_cookie_is_refused() {
    for version in Version::all() {
        let stage = sign_in(version).await;
        let mut browser = stage.browser();
        assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
        let good = browser.cookies[&host(ALICES)]["__Host-identity"].clone();
        let bad = [
            String::new(),
            "=".into(),
            "AAAA".into(),
            "\"".into(),
            "A".repeat(64),
            "A".repeat(4000),
            "%00".into(),
            "\u{e9}".into(),
            good[1..].into(),
            format!("{good}A"),
            format!("\"{good}\""),
            format!("{good}; __Host-identity={good}"),
        ];
        for cookie in bad {
            let alices = host(ALICES);
            let request = format!(
                "GET / HTTP/1.1\r\nHost: {alices}\r\nAccept: */*\r\nCookie: __Host-identity={cookie}\r\n\r\n"
            );
            let reply = raw(&stage, &request).await;
            assert_eq!(reply.status, 401, "{version:?} {cookie:?} {}", reply.body);
        }
        assert_eq!(browser.get(&host(ALICES), "/").await.status, 200, "the agent is there");
    }
}

/// CVE-2020-4037, CVE-2020-5233, CVE-2020-11053 of oauth2-proxy, CVE-2021-29456 of Authelia, CVE-2021-35206 of Gitpod,
/// CVE-2021-32786 of mod_auth_openidc: after signing in, a browser was led anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn peers_oauth2_proxy_cve_2020_5233_no_redirect_leads_elsewhere_after_signing_in() {
    let stage = sign_in(Version::newest()).await;
    let idp = host_of(stage.idp.issuer());
    let ours = [host(ALICES), LOGIN.to_owned(), idp];
    for to in [
        "//evil.test/",
        "/%5C/evil.test",
        "/%09/evil.test",
        "/%0a/evil.test",
        "%5C%5Cevil.test",
        "https://evil.test/",
        "https%3A%2F%2Fevil.test",
        "@evil.test/",
        ".evil.test/",
        ":80@evil.test/",
        "javascript:alert(1)",
        "/%0d%0aLocation:%20https://evil.test",
    ] {
        let mut browser = stage.browser();
        let path = format!("/.well-known/identity-spoa/switch?to={to}");
        let mut reply = browser.get(&host(ALICES), &path).await;
        while reply.location.is_some() {
            let address = location(&reply);
            assert!(ours.contains(&host_of(address)), "{to}: {address}");
            assert!(!address.contains(['\\', '\r', '\n', '\t']), "{to}: {address:?}");
            reply = browser.follow(&reply).await;
        }
        assert_eq!(reply.status, 200, "{to} {reply:?}");
        assert!(reply.body.starts_with("workspace alices"), "{to} {}", reply.body);
    }
}

/// CVE-2026-40575, CVE-2025-54576 and CVE-2026-41059 of oauth2-proxy: what needs no identity was told by a header, the
/// query or a fragment. CVE-2026-34457: by the User-Agent of a health check. What needs none here is a path of our own
/// pages, by HAProxy's own reading of the request, and leads to no workspace.
#[tokio::test(flavor = "multi_thread")]
async fn peers_oauth2_proxy_cve_2026_40575_no_header_or_query_skips_the_check() {
    for version in Version::all() {
        let stage = sign_in(version).await;
        let page = "/.well-known/identity-spoa/style.css";
        let alices = host(ALICES);
        for (target, lines) in [
            ("/", format!("X-Forwarded-Uri: {page}\r\n")),
            (
                "/",
                format!(
                    "X-Original-URL: {page}\r\nX-Original-URI: {page}\r\nX-Rewrite-URL: {page}\r\n"
                ),
            ),
            ("/", format!("X-Forwarded-Host: {LOGIN}\r\nForwarded: host={LOGIN}\r\n")),
            ("/", "X-HTTP-Method-Override: OPTIONS\r\n".to_owned()),
            ("/", "User-Agent: GoogleHC/1.0\r\n".to_owned()),
            ("/", "User-Agent: kube-probe/1.30\r\n".to_owned()),
            (&*format!("/?{page}"), String::new()),
            (&*format!("/x;{page}"), String::new()),
            (&*format!("//{}", &page[1..]), String::new()),
            (&*format!("/.{page}"), String::new()),
            (&*format!("/x/..{page}"), String::new()),
            ("/.well-known/identity%2dspoa/style.css", String::new()),
            ("/.WELL-KNOWN/identity-spoa/style.css", String::new()),
            ("/.well-known/identity-spoa", String::new()),
        ] {
            let request =
                format!("GET {target} HTTP/1.1\r\nHost: {alices}\r\nAccept: */*\r\n{lines}\r\n");
            let reply = raw(&stage, &request).await;
            assert_eq!(reply.status, 401, "{version:?} {target} {lines} {}", reply.body);
        }
        for target in [format!("/#{page}"), format!("{page}#/../x")] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {alices}\r\nAccept: */*\r\n\r\n");
            assert_eq!(raw(&stage, &request).await.status, 400, "{version:?} {target}");
        }
        // A path that begins like one of the gate's is the gate's, whatever follows.
        let request =
            format!("GET {page}/../../../x HTTP/1.1\r\nHost: {alices}\r\nAccept: */*\r\n\r\n");
        let reply = raw(&stage, &request).await;
        assert!(reply.body.contains("There is nothing here"), "{version:?} {}", reply.body);
    }
}

/// CVE-2021-21291 of oauth2-proxy: `.example.com` matched `badexample.com`; criteo's sample compares how hosts begin.
/// CVE-2026-48794 of Authelia and CVE-2021-39155 of Istio: letters in upper case met another rule.
#[tokio::test(flavor = "multi_thread")]
async fn peers_oauth2_proxy_cve_2021_21291_and_authelia_cve_2026_48794_a_host_is_one_host() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let (alices, public) = (host(ALICES), port_host(3000, ALICES));
        for name in [
            format!("{public}.evil.test"),
            format!("evil-{}", public.replace('.', "-")),
            format!("evil{public}"),
            public.replace(".ws.", ".wsx."),
            public.replace("gitpod.test", "xgitpod.test"),
            public.replace("gitpod.test", "gitpodxtest"),
        ] {
            let reply = stage.get(&name, Some("alice")).await;
            assert_eq!(reply.status, 421, "{version:?} {name} {}", reply.body);
        }
        for name in [alices.to_uppercase(), alices.replace("ws", "Ws"), format!("{alices}:80")] {
            assert_eq!(stage.get(&name, Some("alice")).await.status, 200, "{version:?} {name}");
            assert_eq!(stage.get(&name, Some("bob")).await.status, 403, "{version:?} {name}");
            assert_eq!(stage.get(&name, None).await.status, 401, "{version:?} {name}");
        }
    }
}

/// CVE-2026-40574 of oauth2-proxy and CVE-2024-27918 of Coder: an address that ends like a colleague's was one.
#[tokio::test(flavor = "multi_thread")]
async fn peers_oauth2_proxy_cve_2026_40574_and_coder_cve_2024_27918_an_address_is_compared_as_a_whole()
 {
    let stage = Stage::start(Version::newest()).await;
    let ask = async |email: &str| {
        let claims = serde_json::json!({"email": email, "email_verified": true, "sub": "sub-mallory", "preferred_username": "mallory"});
        let claims = claims.as_object().unwrap().clone();
        let token = stage.idp.token(&TokenRequest { claims, ..TokenRequest::default() });
        stage.get_with(&host(ALICES), Some(&token)).await.status
    };
    assert_eq!(ask("carol@example.com").await, 200);
    assert_eq!(ask("CAROL@Example.com").await, 200);
    for email in [
        "mallory@evil.test@carol@example.com",
        "mallory+carol@example.com",
        "xcarol@example.com",
        "carol@example.com.evil.test",
        "carol@example.com ",
        "<carol@example.com>",
        "carol@example.com,mallory@evil.test",
        "carol@example.com\u{0}",
    ] {
        assert_eq!(ask(email).await, 403, "{email:?}");
    }
}

/// CVE-2024-47070 of authentik: an X-Forwarded-For that is not an address skipped a check. Other proxies believed it:
/// what a client says of its address is nothing to us, and does not travel on.
#[tokio::test(flavor = "multi_thread")]
async fn peers_authentik_cve_2024_47070_the_address_that_a_client_claims_is_ignored() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let spoofed = "X-Forwarded-For: nonsense, 10.9.9.9\r\nX-Real-IP: 10.9.9.9\r\nX-Client-IP: 10.9.9.9\r\nForwarded: for=10.9.9.9\r\n";
        let reply = stage.client().await.send(&host(ALICES), spoofed.as_bytes()).await;
        assert_eq!(reply.status, 401, "{version:?}");
        let bearer = format!("Authorization: Bearer {}\r\n{spoofed}", stage.idp.token_of("alice"));
        let reply = stage.client().await.send(&host(ALICES), bearer.as_bytes()).await;
        assert_eq!(reply.status, 200, "{version:?}");
        let arrived = reply.arrived("x-forwarded-for");
        assert!(arrived.len() == 1 && arrived[0].starts_with("127."), "{version:?} {arrived:?}");
        assert!(!reply.body.contains("10.9.9.9"), "{version:?} {}", reply.body);
        let audit = support::until("the records", async || {
            let records = stage.audit();
            let decided = records.iter().filter(|record| record["client"].is_string());
            (decided.count() >= 2).then_some(records)
        })
        .await;
        assert!(!format!("{audit:?}").contains("10.9.9.9"), "{version:?}");
    }
}

/// haproxy-lua-oauth sets `txn.oauth.<claim>` before it looks at the signature.
#[tokio::test(flavor = "multi_thread")]
async fn peers_haproxy_lua_oauth_no_claim_of_an_unverified_token_leaves_the_agent() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let claims = serde_json::json!({"sub": "canary-sub", "preferred_username": "canary-user", "email": "canary@example.com", "groups": ["canary-group"]});
        let claims = claims.as_object().unwrap().clone();
        let token = stage.idp.token(&TokenRequest { claims, ..TokenRequest::default() });
        let at = token.rfind('.').unwrap() + 10;
        let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        let forged = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        for name in [host(ALICES), port_host(3000, ALICES)] {
            let reply = stage.get_with(&name, Some(&forged)).await;
            // The public port opens for every client, and the client stays anonymous.
            assert_eq!(reply.status, if name == host(ALICES) { 401 } else { 200 }, "{version:?}");
            assert!(!reply.body.contains("canary"), "{version:?} {}", reply.body);
        }
        support::until("the record", async || {
            let records = stage.audit();
            records.iter().any(|record| record["reason"] == "token_signature").then_some(())
        })
        .await;
        assert!(!format!("{:?}", stage.audit()).contains("canary"), "{version:?}");
        assert!(!stage.haproxy.log().contains("canary"), "{version:?}");
        assert!(!stage.agent.log().contains("canary"), "{version:?}");
    }
}

/// CVE-2026-40934 of Jupyter Server: a stolen cookie outlived the change of the password; criteo's logout only asks the
/// browser to forget.
#[tokio::test(flavor = "multi_thread")]
async fn peers_jupyter_server_cve_2026_40934_a_copied_cookie_ends_with_what_is_revoked() {
    let stage = sign_in(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    let mut stolen = browser.clone();
    assert_eq!(stolen.get(&host(ALICES), "/").await.status, 200);
    let output = std::process::Command::new(support::agent::program())
        .args(["revoke", "--subject", "sub-alice", "--before", "now", "--config"])
        .arg(stage.directory.path().join("agent.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json = [("accept", "application/json")];
    assert_eq!(stolen.ask("GET", &host(ALICES), "/", &json).await.status, 401);
    // The login host's cookie gives no new one either: the provider is asked.
    let reply = stolen.get(&host(ALICES), "/").await;
    let reply = stolen.follow(&reply).await;
    assert!(location(&reply).starts_with(stage.idp.issuer()), "{reply:?}");
}

/// CVE-2025-47269 of code-server: a path with an `@` led the proxy, with the cookie, to another host.
#[tokio::test(flavor = "multi_thread")]
async fn peers_code_server_cve_2025_47269_a_path_leads_nowhere_else() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let bearer = format!("Authorization: Bearer {}\r\n", stage.idp.token_of("alice"));
        let evil = stage.bob.address();
        for target in [
            format!("/proxy/test@{evil}/x"),
            format!("/absproxy/{evil}/"),
            format!("/@{evil}/"),
            format!("//{evil}/"),
            format!("/?url=http://{evil}/"),
        ] {
            let alices = host(ALICES);
            let request = format!("GET {target} HTTP/1.1\r\nHost: {alices}\r\n{bearer}\r\n");
            let reply = stage.client().await.raw(request.as_bytes()).await;
            assert_eq!(reply.status, 200, "{version:?} {target} {}", reply.body);
            assert!(reply.body.starts_with("workspace alices"), "{version:?} {}", reply.body);
        }
        assert!(stage.bob.requests().is_empty(), "{version:?}");
        assert_eq!(stage.get(&host(BOBS), Some("alice")).await.status, 403);
    }
}

/// CVE-2025-55162 of Envoy: signing out did not clear a `__Host-` cookie for want of `Secure`.
#[tokio::test(flavor = "multi_thread")]
async fn peers_envoy_cve_2025_55162_a_cookie_is_taken_back_with_what_it_was_set_with() {
    let stage = sign_in(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    assert!(browser.cookies[LOGIN].contains_key("__Host-identity_login"));
    let form = ("content-type", "application/x-www-form-urlencoded");
    let path = "/.well-known/identity-spoa/sign-out";
    let reply = browser.ask("POST", LOGIN, path, &[form]).await;
    let taken: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
    assert!(!taken.is_empty());
    for cookie in taken {
        let cookie = cookie.to_str().unwrap();
        for part in ["__Host-", "; Path=/;", "; Secure;", "Max-Age=0"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(!cookie.contains("Domain"), "{cookie}");
    }
    assert!(!browser.cookies[LOGIN].contains_key("__Host-identity_login"));
}
