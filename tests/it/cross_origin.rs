//! Pages of one endpoint of a workspace use another one, through a real HAProxy: preflights, responses that pages may
//! read, WebSockets, images and scripts; and pages of every other origin, which gain nothing.

use std::collections::BTreeMap;

use reqwest::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, HeaderName, VARY,
};
use test_stage::records;

use crate::{
    sign_in::{Browser, Changes, LOGIN, Reply, Stage, tickets_of},
    support::{ALICES, BOBS, Version, host, port_host, until},
};

type Headers<'h> = Vec<(&'h str, &'h str)>;

/// The page's port; the endpoint that it uses is the workspace's editor.
const PAGE: u16 = 7000;

impl Stage {
    fn origin_of(&self, host: &str) -> String {
        format!("https://{host}:{}", self.haproxy.https.port())
    }

    /// The origin of a page of another endpoint of alice's workspace.
    fn sibling(&self) -> String {
        self.origin_of(&port_host(PAGE, ALICES))
    }

    /// Origins of other pages, some of which look like an endpoint of alice's workspace.
    fn strangers(&self) -> Vec<String> {
        let (page, port) = (port_host(PAGE, ALICES), self.haproxy.https.port());
        vec![
            self.origin_of(&host(BOBS)),
            self.origin_of(&port_host(PAGE, BOBS)),
            self.origin_of(LOGIN),
            format!("https://{page}"),
            format!("https://{page}:443"),
            format!("https://{page}:1"),
            format!("http://{page}:{port}"),
            format!("https://{page}.:{port}"),
            format!("https://{page}.evil.test:{port}"),
            format!("https://0{page}:{port}"),
            format!("https://u@{page}:{port}"),
            format!("https://{}:{port}", page.to_uppercase()),
            format!("https://{page}:{port}/"),
            format!("{page}:{port}"),
            "null".into(),
            "*".into(),
            "https://evil.test".into(),
        ]
    }

    /// Replaces text in the list of workspaces, and waits until the gate has it.
    async fn change(&self, from: &str, to: &str, seen: impl AsyncFnMut() -> Option<()>) {
        let path = self.directory.path().join("workspaces.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        test_stage::replace(&path, text.replacen(from, to, 1));
        until("the list", seen).await;
    }
}

/// Goes to a page as a browser does, which loads all images on the way. Returns the page, and how often it was led to the
/// login host.
async fn open(browser: &mut Browser, host: &str, path: &str) -> (Reply, usize) {
    let mut reply = browser.get(host, path).await;
    let mut rounds = 0;
    for _ in 0..20 {
        if reply.location.is_none() {
            return (reply, rounds);
        }
        rounds += usize::from(reply.location.as_ref().is_some_and(|to| to.contains("/start?r=")));
        reply = browser.follow(&reply).await;
    }
    panic!("round and round: {reply:?}");
}

/// The hosts that have a session's cookie in a browser.
fn with_cookie(browser: &Browser) -> Vec<String> {
    let has = |(_, jar): &(&String, &BTreeMap<String, String>)| jar.contains_key("__Host-identity");
    browser.cookies.iter().filter(has).map(|(host, _)| host.clone()).collect()
}

/// The values of a header.
fn all(reply: &Reply, name: &HeaderName) -> Vec<String> {
    let values = reply.headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// Whether a page of this origin may read the response with its visitor's credentials, as browsers judge it: each header
/// exactly once.
fn is_readable(reply: &Reply, origin: &str) -> bool {
    all(reply, &ACCESS_CONTROL_ALLOW_ORIGIN) == [origin]
        && all(reply, &ACCESS_CONTROL_ALLOW_CREDENTIALS) == ["true"]
}

async fn preflight(browser: &mut Browser, host: &str, origin: &str) -> Reply {
    // Browsers send no cookie with it (Fetch, "CORS-preflight fetch").
    let mut bare = browser.clone();
    bare.cookies.clear();
    let asked = [
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "content-type,x-csrf"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-dest", "empty"),
    ];
    bare.ask("OPTIONS", host, "/cors", &asked).await
}

async fn fetch(browser: &mut Browser, method: &str, host: &str, origin: &str) -> Reply {
    let headers = [
        ("origin", origin),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-dest", "empty"),
    ];
    browser.ask(method, host, "/cors", &headers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_a_preflight_of_the_workspaces_own_pages_is_answered_and_changes_nothing() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut browser = stage.browser();
        let sibling = stage.sibling();
        // Known, unknown to the registry, and of an endpoint that nothing declares: the same.
        for (to, page) in [
            (host(ALICES), sibling.clone()),
            (port_host(4000, ALICES), sibling.clone()),
            (port_host(3000, ALICES), stage.origin_of(&host(ALICES))),
            (host(BOBS), stage.origin_of(&port_host(3000, BOBS))),
        ] {
            let reply = preflight(&mut browser, &to, &page).await;
            assert_eq!((reply.status, &*reply.body), (204, ""), "{version:?} {to} {reply:?}");
            assert!(is_readable(&reply, &page), "{version:?} {reply:?}");
            assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_METHODS), ["PUT"]);
            assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_HEADERS), ["content-type,x-csrf"]);
            assert_eq!(all(&reply, &ACCESS_CONTROL_MAX_AGE), ["60"]);
            assert!(all(&reply, &VARY).join(",").contains("Origin"), "{reply:?}");
        }
        for origin in stage.strangers() {
            let reply = preflight(&mut browser, &host(ALICES), &origin).await;
            assert_eq!(reply.status, 401, "{version:?} {origin} {reply:?}");
            assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_ORIGIN), [""; 0], "{origin}");
            assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_METHODS), [""; 0], "{origin}");
        }
        let arrived: usize = stage.workspaces.iter().map(|one| one.requests().len()).sum();
        assert_eq!(arrived, 0, "{version:?}: nothing reached a workspace");
        let records = records(stage.directory.path());
        let answered = records.iter().filter(|line| line["reason"] == "cors_preflight").count();
        assert_eq!(answered, 4, "{version:?}: each is on record");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_a_page_reads_what_it_may_and_each_header_is_there_once() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut browser = stage.browser();
        let (main, sibling) = (host(ALICES), stage.sibling());
        // Without a session: refused, and the page can read why.
        for method in ["GET", "POST"] {
            let reply = fetch(&mut browser, method, &main, &sibling).await;
            assert_eq!(reply.status, 401, "{version:?}");
            assert!(is_readable(&reply, &sibling), "{version:?} {reply:?}");
            assert!(reply.body.contains("credential_missing"), "{}", reply.body);
        }
        assert_eq!(browser.browse(&main, "/").await.status, 200);
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let reply = fetch(&mut browser, method, &main, &sibling).await;
            assert_eq!((reply.status, &*reply.body), (200, "own answer\n"), "{version:?}");
            // The workspace says "*" and another one, in two lines.
            assert!(is_readable(&reply, &sibling), "{version:?} {reply:?}");
            assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_HEADERS), ["x-app"]);
            let vary = all(&reply, &VARY).join(", ");
            assert_eq!(vary.matches("Origin").count(), 1, "{vary}");
            assert!(vary.contains("Accept"), "{vary}");
        }
        for origin in stage.strangers() {
            for method in ["GET", "POST"] {
                let reply = fetch(&mut browser, method, &main, &origin).await;
                assert_eq!(reply.status, 403, "{version:?} {origin}");
                assert!(reply.body.contains("origin_foreign"), "{}", reply.body);
                assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_ORIGIN), [""; 0], "{origin}");
                assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_CREDENTIALS), [""; 0], "{origin}");
            }
        }
        // A response to the page itself depends on the origin too, and says so to the browser's cache.
        let own = stage.origin_of(&main);
        let headers = [("origin", &*own), ("sec-fetch-site", "same-origin")];
        let reply = browser.ask("POST", &main, "/", &headers).await;
        assert_eq!(reply.status, 200);
        assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_ORIGIN), [""; 0]);
        assert_eq!(all(&reply, &VARY), ["Origin"], "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_where_the_workspace_answers_cors_its_preflights_reach_it_without_a_credential() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut browser = stage.browser();
        let (main, sibling) = (host(ALICES), stage.sibling());
        assert_eq!(browser.browse(&main, "/").await.status, 200);
        let mut probe = browser.clone();
        let probed = (main.clone(), sibling.clone());
        stage
            .change(
                "    phase: running",
                "    phase: running\n    cors_answers: workspace",
                async || {
                    (preflight(&mut probe, &probed.0, &probed.1).await.status == 200).then_some(())
                },
            )
            .await;
        let before = stage.workspaces[0].requests().len();
        // A client that sends a credential with it: none arrives.
        let bearer = format!("Bearer {}", stage.idp.token_of("alice"));
        let asked = [
            ("origin", &*sibling),
            ("access-control-request-method", "PUT"),
            ("authorization", &bearer),
        ];
        let reply = browser.ask("OPTIONS", &main, "/cors?a=b", &asked).await;
        assert_eq!((reply.status, &*reply.body), (200, "own answer\n"), "{version:?}");
        assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_ORIGIN), ["*", "https://app.test"]);
        let arrived = stage.workspaces[0].requests().split_off(before);
        let [seen] = &arrived[..] else { panic!("{arrived:?}") };
        assert_eq!((seen.method.as_str(), seen.uri.query()), ("OPTIONS", Some("a=b")));
        for name in ["authorization", "cookie", "x-forwarded-user", "x-identity-subject"] {
            assert!(!seen.headers.contains_key(name), "{version:?} {name} {seen:?}");
        }
        assert_eq!(seen.headers["access-control-request-method"], "PUT");
        // What the workspace says of the real request is left as it is.
        let reply = fetch(&mut browser, "PUT", &main, &sibling).await;
        assert_eq!(reply.status, 200);
        assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_ORIGIN), ["*", "https://app.test"]);
        assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_CREDENTIALS), [""; 0]);
        // Strangers, and ports that are not declared, get as far as before.
        let before = stage.workspaces[0].requests().len();
        for origin in stage.strangers() {
            assert_eq!(preflight(&mut browser, &main, &origin).await.status, 401, "{origin}");
        }
        assert_eq!(preflight(&mut browser, &port_host(7001, ALICES), &sibling).await.status, 204);
        assert_eq!(stage.workspaces[0].requests().len(), before, "{version:?}");
        let passed = records(stage.directory.path());
        let passed = passed.iter().filter(|line| line["reason"] == "cors_preflight_passed");
        assert!(passed.clone().count() >= 2, "each is on record");
        assert!(passed.into_iter().all(|line| line["user"].is_null()), "and without a person");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_an_image_or_script_of_the_workspaces_own_pages_loads_without_crossorigin() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut browser = stage.browser();
        let main = host(ALICES);
        assert_eq!(browser.browse(&main, "/").await.status, 200);
        let mut load = async |dest: &str, referer: Option<&str>| {
            let mut headers = vec![
                ("accept", "*/*"),
                ("sec-fetch-site", "same-site"),
                ("sec-fetch-mode", "no-cors"),
                ("sec-fetch-dest", dest),
            ];
            headers.extend(referer.map(|from| ("referer", from)));
            browser.ask("GET", &main, "/", &headers).await.status
        };
        let own = format!("{}/", stage.sibling());
        for dest in ["image", "script", "style", "font", "video", "audio"] {
            assert_eq!(load(dest, Some(&own)).await, 200, "{version:?} {dest}");
            assert_eq!(load(dest, None).await, 403, "{version:?} {dest}");
            assert_eq!(load(dest, Some(&stage.origin_of(&main))).await, 403, "{version:?} {dest}");
        }
        for origin in stage.strangers().into_iter().filter(|origin| !origin.ends_with('/')) {
            let referer = format!("{origin}/{own}");
            assert_eq!(load("image", Some(&referer)).await, 403, "{version:?} {referer}");
        }
        let long = format!("https://{}/{own}", "a".repeat(400));
        assert_eq!(load("script", Some(&long)).await, 403, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_a_websocket_of_the_workspaces_own_pages_opens_and_of_no_other() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut browser = stage.browser();
        let main = host(ALICES);
        assert_eq!(browser.browse(&main, "/").await.status, 200);
        let http1 = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .tls_danger_accept_invalid_certs(true)
            .resolve(&main, stage.haproxy.https)
            .build()
            .unwrap();
        let id = browser.cookies[&main]["__Host-identity"].clone();
        let url = format!("{}/ws", stage.origin_of(&main));
        let open = async |origin: &str| {
            let request = http1.get(&url).header("cookie", format!("__Host-identity={id}"));
            let request = request
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("origin", origin);
            request.send().await.unwrap().status().as_u16()
        };
        assert_eq!(open(&stage.sibling()).await, 101, "{version:?}");
        for origin in stage.strangers() {
            assert_eq!(open(&origin).await, 403, "{version:?} {origin}");
        }
        let sibling = stage.sibling();
        stage
            .change(
                "    phase: running",
                "    phase: running\n    cross_origin: none",
                async || (open(&sibling).await == 403).then_some(()),
            )
            .await;
        // Refused, and readable.
        let reply = fetch(&mut browser, "POST", &main, &sibling).await;
        assert_eq!(reply.status, 403, "{version:?}");
        assert!(is_readable(&reply, &sibling) && reply.body.contains("origin_foreign"));
        assert_eq!(open(&stage.origin_of(&main)).await, 101, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_the_setting_of_an_endpoint_lists_origins_and_names_no_others() {
    let stage = Stage::with(Version::newest(), "").await;
    let mut browser = stage.browser();
    let (main, sibling) = (host(ALICES), stage.sibling());
    assert_eq!(browser.browse(&main, "/").await.status, 200);
    let listed = "https://dashboard.example.com";
    let (mut probe, probed) = (browser.clone(), main.clone());
    let lines = format!("    phase: running\n    cross_origin: [\"{listed}\"]");
    stage
        .change("    phase: running", &lines, async || {
            (fetch(&mut probe, "POST", &probed, listed).await.status == 200).then_some(())
        })
        .await;
    assert!(is_readable(&preflight(&mut browser, &main, listed).await, listed));
    assert!(is_readable(&fetch(&mut browser, "POST", &main, listed).await, listed));
    assert_eq!(fetch(&mut browser, "POST", &main, &sibling).await.status, 403);
    for other in ["https://dashboard.example.com.evil.test", "http://dashboard.example.com"] {
        assert_eq!(fetch(&mut browser, "POST", &main, other).await.status, 403, "{other}");
        assert_eq!(preflight(&mut browser, &main, other).await.status, 401, "{other}");
    }
    // Without a session, only the workspace's own pages can read why.
    let mut stranger = stage.browser();
    let reply = fetch(&mut stranger, "POST", &main, listed).await;
    assert_eq!(all(&reply, &ACCESS_CONTROL_ALLOW_ORIGIN), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_an_allow_for_a_page_of_another_endpoint_is_not_reused() {
    for version in Version::all() {
        let changes = Changes { verdict_cache_ms: Some(5000), ..Changes::default() };
        let stage = Stage::changed(version, &changes).await;
        let mut browser = stage.browser();
        let (main, sibling) = (host(ALICES), stage.sibling());
        assert_eq!(browser.browse(&main, "/").await.status, 200);
        for _ in 0..3 {
            // A browser that does not send Sec-Fetch-Site.
            let reply = browser.ask("GET", &main, "/cors", &[("origin", &*sibling)]).await;
            assert_eq!(reply.status, 200);
            assert!(is_readable(&reply, &sibling), "{version:?} {reply:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_signing_in_at_one_endpoint_signs_in_at_the_others_that_the_person_may_reach() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut alice = stage.browser();
        let (page, rounds) = open(&mut alice, &port_host(PAGE, ALICES), "/front?a=b").await;
        assert_eq!((page.status, rounds), (200, 1), "{version:?} {page:?}");
        assert!(page.body.contains("/front?a=b"), "{}", page.body);
        let mut all = [3000, 4000, 5000, 6000, PAGE].map(|port| port_host(port, ALICES)).to_vec();
        all.push(host(ALICES));
        assert_eq!(with_cookie(&alice), all, "{version:?}: each of HTTP, and no stream's");
        // At once, from a page of one endpoint to another that was never opened.
        for port in [4000, 6000] {
            let (to, sibling) = (port_host(port, ALICES), stage.sibling());
            let reply = fetch(&mut alice, "PUT", &to, &sibling).await;
            assert_eq!(reply.status, 200, "{version:?} {port}");
            assert!(is_readable(&reply, &sibling), "{version:?} {reply:?}");
        }
        // Opening it as a page goes straight there.
        assert_eq!(open(&mut alice, &port_host(4000, ALICES), "/").await.1, 0, "{version:?}");
        let records = records(stage.directory.path());
        let given = records.iter().filter(|line| line["event"] == "session_host").count();
        assert_eq!(given, all.len(), "{version:?}: each is on record");
        // What is not open to a person gets no cookie: bob may reach what admits everyone.
        stage.idp.set_user("bob");
        let mut bob = stage.browser();
        let (page, _) = open(&mut bob, &port_host(6000, ALICES), "/").await;
        assert_eq!(page.status, 200, "{version:?} {page:?}");
        // His group has a grant for 4000, his organization has 5000.
        let open_to_bob = [3000, 4000, 5000, 6000].map(|port| port_host(port, ALICES));
        assert_eq!(with_cookie(&bob), open_to_bob, "{version:?}: neither the editor nor 7000");
        stage.idp.set_user("alice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_an_endpoint_that_appears_later_gets_a_session_at_the_next_page_and_no_browser_goes_in_circles()
 {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut alice = stage.browser();
        assert_eq!(open(&mut alice, &host(ALICES), "/").await.0.status, 200);
        let late = port_host(7001, ALICES);
        let address = stage.workspaces[0].address();
        let mut probe = alice.clone();
        let bearer = format!("Bearer {}", stage.idp.token_of("alice"));
        let lines = format!("    ports:\n      - {{ port: 7001, destination: \"{address}\" }}");
        stage
            .change("    ports:", &lines, async || {
                let headers = [("authorization", &*bearer)];
                (probe.ask("GET", &late, "/", &headers).await.status == 200).then_some(())
            })
            .await;
        // Not before a page is opened: a script is answered as before.
        let sibling = stage.sibling();
        let reply = fetch(&mut alice, "GET", &late, &sibling).await;
        assert_eq!(reply.status, 401, "{version:?}");
        assert!(is_readable(&reply, &sibling), "{version:?}");
        let page = until("the way round", async || {
            let (page, rounds) = open(&mut alice, &host(ALICES), "/again?x=y").await;
            assert_eq!(page.status, 200, "{version:?}");
            (rounds == 1).then_some(page)
        })
        .await;
        assert!(page.body.contains("/again?x=y"), "{}", page.body);
        assert_eq!(fetch(&mut alice, "GET", &late, &sibling).await.status, 200, "{version:?}");
        assert_eq!(open(&mut alice, &host(ALICES), "/").await.1, 0, "{version:?}");
        let records = records(stage.directory.path());
        let led = |line: &&serde_json::Value| line["reason"] == "endpoints_without_session";
        assert_eq!(records.iter().filter(led).count(), 1, "{version:?}");
    }
    // A browser that loads only the first image, and one without a session at the login host: each is led round once.
    let stage = Stage::with(Version::newest(), "").await;
    for (number, forget) in [false, true].into_iter().enumerate() {
        let mut alice = stage.browser();
        assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
        let path = stage.directory.path().join("workspaces.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (port, address) = (7002 + number, stage.workspaces[0].address());
        let more = format!("    ports:\n      - {{ port: {port}, destination: \"{address}\" }}");
        test_stage::replace(&path, text.replacen("    ports:", &more, 1));
        if forget {
            alice.cookies.get_mut(LOGIN).unwrap().clear();
        }
        let mut reply = until("the list", async || {
            let reply = alice.get(&host(ALICES), "/there").await;
            (reply.status == 302).then_some(reply)
        })
        .await;
        let mut pages = 0;
        while let Some(to) = reply.location.clone() {
            assert!(to.starts_with("https://"), "the provider is not asked");
            if let Some(ticket) = &reply.ticket {
                alice.deliver(ticket).await;
            }
            reply = alice.get_address(&to).await;
            pages += 1;
        }
        assert_eq!(reply.status, 200, "{forget} {reply:?}");
        assert!(pages <= 4 && reply.body.contains("/there"), "{pages} {}", reply.body);
        for _ in 0..3 {
            assert_eq!(alice.get(&host(ALICES), "/").await.status, 200, "{forget}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_a_ticket_for_another_endpoint_is_worth_nothing_elsewhere_again_or_from_another_page() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        // Each way to use it up takes a page with fresh ones, of a person who has no cookie there.
        let fresh = async || {
            let mut alice = stage.browser();
            let page = alice.up_to_ticket(&host(ALICES), "/").await;
            let of = |port| {
                let to = port_host(port, ALICES);
                tickets_of(&page.body).into_iter().find(|image| image.contains(&to)).unwrap()
            };
            assert!(of(4000).contains("/finish?s="), "{page:?}");
            (alice, of(4000))
        };
        let login = stage.origin_of(LOGIN);
        let image = [
            ("origin", &*login),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "image"),
        ];
        let with = |name: &str, value: &'static str| {
            image.map(|(known, old)| (known, if known == name { value } else { old })).to_vec()
        };
        let path = |address: &str| format!("/{}", address.splitn(4, '/').nth(3).unwrap());
        let here = port_host(4000, ALICES);
        // As it is meant to be.
        let (mut alice, ticket) = fresh().await;
        assert_eq!(alice.ask("GET", &here, &path(&ticket), &image).await.status, 204);
        assert!(with_cookie(&alice).contains(&here), "{version:?}");
        let mut again = stage.browser();
        assert_eq!(again.ask("GET", &here, &path(&ticket), &image).await.status, 204);
        assert_eq!(with_cookie(&again), [""; 0], "{version:?}: again");
        let elsewhere: [(&str, String, Headers<'_>); 8] = [
            ("another port", port_host(6000, ALICES), image.to_vec()),
            ("another workspace", host(BOBS), image.to_vec()),
            ("another page", here.clone(), with("origin", "https://evil.test")),
            ("no page", here.clone(), with("origin", "null")),
            ("a fetch", here.clone(), with("sec-fetch-dest", "empty")),
            ("a page that is opened", here.clone(), with("sec-fetch-dest", "document")),
            ("another site", here.clone(), with("sec-fetch-site", "cross-site")),
            ("no browser", here.clone(), vec![("origin", &*login)]),
        ];
        for (what, to, headers) in elsewhere {
            let (_, ticket) = fresh().await;
            let mut thief = stage.browser();
            thief.ask("GET", &to, &path(&ticket), &headers).await;
            assert_eq!(with_cookie(&thief), [""; 0], "{version:?} {what}");
            if to == here {
                thief.ask("GET", &here, &path(&ticket), &image).await;
                assert_eq!(with_cookie(&thief), [""; 0], "{version:?} {what}: used up");
            }
        }
        // Nor does one kind of ticket pass for the other.
        let (_, ticket) = fresh().await;
        let mut thief = stage.browser();
        thief.ask("GET", &here, &path(&ticket).replace("?s=", "?t="), &image).await;
        assert_eq!(with_cookie(&thief), [""; 0], "{version:?}");
    }
}
