//! Browser sign-in through a real HAProxy: from a workspace's host to the provider and back.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::header::{LOCATION, REFRESH, SET_COOKIE};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_stage::{Setup, stage_toml};

use crate::support::{
    self, ALICES, AgentProcess, BOBS, Haproxy, Version,
    haproxy::{add_token_header, free_port, root},
    host, port_host, until,
};
use dev_idp::{DevIdp, TokenRequest};
use dev_workspace::DevWorkspace;

pub(crate) use test_stage::LOGIN;

pub(crate) struct Stage {
    pub(crate) haproxy: Haproxy,
    pub(crate) agent: AgentProcess,
    /// A second one, with the same configuration, where it was asked for.
    pub(crate) second: Option<AgentProcess>,
    pub(crate) idp: DevIdp,
    pub(crate) workspaces: [DevWorkspace; 2],
    pub(crate) directory: TempDir,
}

/// What is different from the usual.
#[derive(Default)]
pub(crate) struct Changes<'a> {
    /// Lines in `[sign_in]`.
    pub(crate) sign_in: &'a str,
    /// Tables.
    pub(crate) tables: &'a str,
    /// Whether there are two agents.
    pub(crate) two: bool,
    /// For how long HAProxy may reuse an allow.
    pub(crate) verdict_cache_ms: Option<u64>,
    /// The header in which programs may send tokens.
    pub(crate) token_header: Option<&'a str>,
}

impl Stage {
    async fn start(version: &Version) -> Self {
        Self::with(version, "").await
    }

    /// With more lines in `[sign_in]`.
    pub(crate) async fn with(version: &Version, sign_in: &str) -> Self {
        Self::changed(version, &Changes { sign_in, ..Changes::default() }).await
    }

    pub(crate) async fn changed(version: &Version, changes: &Changes<'_>) -> Self {
        let idp = DevIdp::start().await;
        let workspaces = [DevWorkspace::start("alices").await, DevWorkspace::start("bobs").await];
        let (pages, second_pages) = (free_port(), free_port());
        let mut setup = Setup::new().with_sign_in(pages);
        let second = setup.path().join("second");
        if changes.two {
            std::fs::create_dir(&second).unwrap();
            let socket = format!("unix@{}", second.join("spop.sock").display());
            setup = setup.env("GATE_LOGIN_PAGES_2", second_pages).env("IDENTITY_AGENT_2", socket);
        }
        if let Some(millis) = changes.verdict_cache_ms {
            setup = setup.env("GATE_REUSE", millis);
        }
        let mut tables = changes.tables.to_owned();
        if let Some(header) = changes.token_header {
            add_token_header(&setup.path().join("haproxy"), header);
            tables.push_str(&format!("\n[credentials]\nheader = '{header}'\n"));
        }
        let haproxy = setup.haproxy(version, workspaces[1].address()).await;
        let reuse = changes
            .verdict_cache_ms
            .map_or(String::new(), |millis| format!("verdict_cache_ms = {millis}"));
        let config = stage_toml(idp.issuer())
            .lines("[agent]", &reuse)
            .sign_in(haproxy.https.port(), pages, changes.sign_in)
            .audit()
            .admin();
        setup.write(
            "workspaces.yaml",
            support::workspaces(&workspaces[0], &workspaces[1], "running"),
        );
        let agent = setup.agent(format!("{config}\n{tables}\n")).await;
        let directory = setup.directory;
        let path = directory.path();
        let second = if changes.two {
            let text = std::fs::read_to_string(path.join("agent.toml")).unwrap();
            let text = text
                .replace(&pages.to_string(), &second_pages.to_string())
                .replace("\"keys\"", "\"../keys\"")
                .replace("\"secret\"", "\"../secret\"")
                .replace("\"workspaces.yaml\"", "\"../workspaces.yaml\"");
            std::fs::write(second.join("agent.toml"), text).unwrap();
            Some(AgentProcess::start(&second).await)
        } else {
            None
        };
        let stage = Self { haproxy, agent, second, idp, workspaces, directory };
        let mut browser = stage.browser();
        until("the gate to open", async || {
            let reply = browser.get(&host(ALICES), "/").await;
            (reply.status == 302).then_some(())
        })
        .await;
        stage
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.haproxy.https)
    }
}

/// A browser: follows nothing by itself, keeps the cookies of each host apart.
#[derive(Clone)]
pub(crate) struct Browser {
    gate: SocketAddr,
    pub(crate) http: reqwest::Client,
    pub(crate) cookies: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
    /// The address of the ticket that this page delivers before the browser goes on.
    pub(crate) ticket: Option<String>,
}

impl Browser {
    fn new(gate: SocketAddr) -> Self {
        let redirect = reqwest::redirect::Policy::none();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .redirect(redirect);
        for name in [
            LOGIN.to_owned(),
            host(ALICES),
            host(BOBS),
            port_host(8000, BOBS),
            port_host(8001, BOBS),
            port_host(3000, ALICES),
            port_host(4000, ALICES),
            port_host(5000, ALICES),
            port_host(6000, ALICES),
            port_host(7000, ALICES),
            port_host(7001, ALICES),
            port_host(7002, ALICES),
            port_host(7003, ALICES),
        ] {
            builder = builder.resolve(&name, gate);
        }
        Self { gate, http: builder.build().unwrap(), cookies: BTreeMap::new() }
    }

    /// The port of HAProxy's https.
    pub(crate) fn port(&self) -> u16 {
        self.gate.port()
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Reply {
        let html = [
            ("accept", "text/html"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        self.ask("GET", host, path, &html).await
    }

    pub(crate) async fn ask(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Reply {
        let url = format!("https://{host}:{}{path}", self.gate.port());
        let mut request = self.http.request(method.parse().unwrap(), url);
        let jar = self.cookies.entry(host.into()).or_default();
        if !jar.is_empty() {
            let pairs: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", pairs.join("; "));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        for cookie in response.headers().get_all(SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            // A workspace's own, and those of our names that HAProxy emptied.
            let Some((name, rest)) = cookie.split_once('=') else { continue };
            if !name.starts_with("__Host-identity") {
                continue;
            }
            for part in ["; Path=/;", "; Secure;", "; HttpOnly;", "; SameSite=Lax"] {
                assert!(cookie.contains(part) && !cookie.contains("Domain"), "c1: {cookie}");
            }
            if cookie.contains("Max-Age=0") {
                jar.remove(name);
            } else {
                jar.insert(name.into(), rest.split(';').next().unwrap().into());
            }
        }
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let refresh = text(REFRESH).map(|text| text.strip_prefix("0; url=").unwrap().to_owned());
        let location = text(LOCATION).or_else(|| refresh.clone());
        let body = response.text().await.unwrap();
        let ticket = refresh.map(|_| tickets_of(&body).swap_remove(0));
        Reply { status, location, headers, body, ticket }
    }

    /// Loads the image of a page that delivers a ticket, as browsers do (Fetch section 2.2.5).
    pub(crate) async fn deliver(&mut self, ticket: &str) -> Reply {
        let (host, path) = parts(ticket);
        let origin = format!("https://{LOGIN}:{}", self.gate.port());
        let image = [
            ("accept", "image/*"),
            ("origin", &*origin),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "image"),
        ];
        self.ask("GET", &host, &path, &image).await
    }

    /// Goes the way to a workspace's host up to the page that delivers the ticket, whose image is not loaded.
    pub(crate) async fn up_to_ticket(&mut self, host: &str, path: &str) -> Reply {
        let mut reply = self.get(host, path).await;
        while reply.ticket.is_none() {
            reply = self.follow(&reply).await;
        }
        reply
    }

    /// Goes where a reply leads, to our hosts or the provider's.
    pub(crate) async fn follow(&mut self, reply: &Reply) -> Reply {
        let location = reply.location.clone().unwrap_or_else(|| panic!("{reply:?}"));
        if reply.ticket.is_some() {
            for ticket in tickets_of(&reply.body) {
                self.deliver(&ticket).await;
            }
        }
        if !location.starts_with("https://") {
            let response = self.http.get(&location).send().await.unwrap();
            return Reply {
                status: response.status().as_u16(),
                location: response.headers().get(LOCATION).map(|l| l.to_str().unwrap().to_owned()),
                headers: response.headers().clone(),
                body: String::new(),
                ticket: None,
            };
        }
        self.get_address(&location).await
    }

    /// Opens an address at one of our hosts.
    pub(crate) async fn get_address(&mut self, address: &str) -> Reply {
        let (host, path) = parts(address);
        self.get(&host, &path).await
    }

    /// Follows until there is nowhere to go on.
    pub(crate) async fn browse(&mut self, host: &str, path: &str) -> Reply {
        let mut reply = self.get(host, path).await;
        for _ in 0..10 {
            if reply.location.is_none() {
                return reply;
            }
            reply = self.follow(&reply).await;
        }
        panic!("round and round: {reply:?}");
    }
}

/// Host and path of an address.
fn parts(address: &str) -> (String, String) {
    let rest = address.strip_prefix("https://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    (authority.split(':').next().unwrap().to_owned(), format!("/{path}"))
}

/// The addresses of the images with which a page delivers tickets; that of the host that was opened comes first.
pub(crate) fn tickets_of(page: &str) -> Vec<String> {
    let images = page.split("<img ").filter(|image| image.contains("/finish?"));
    let address = |image: &str| {
        assert!(image.contains("crossorigin=\"use-credentials\""), "{image}");
        image.split('"').nth(1).unwrap().replace("&amp;", "&")
    };
    images.map(address).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_opens_a_workspaces_address_and_is_simply_there() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut browser = stage.browser();
        let reply = browser.browse(&host(ALICES), "/some/where?a=1&b=%20").await;
        assert_eq!(reply.status, 200, "{version:?} {reply:?} {}", stage.agent.log());
        assert!(reply.body.starts_with("workspace alices"), "{}", reply.body);
        assert!(reply.body.contains("/some/where?a=1&b=%20"), "{}", reply.body);
        assert!(reply.body.contains("x-forwarded-user: alice"), "{}", reply.body);
        // p1: no cookie of the gate reaches the workspace.
        assert!(!reply.body.contains("__Host-identity"), "{}", reply.body);
        // Another host of hers: the login host knows her already, the provider is not asked.
        let reply = browser.browse(&port_host(7000, ALICES), "/").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        // Another person's workspace: the page has her name and the reason.
        let reply = browser.browse(&host(BOBS), "/").await;
        assert_eq!(reply.status, 403, "{reply:?}");
        assert!(reply.body.contains("<dd>alice</dd>"), "{}", reply.body);
        assert!(reply.body.contains("not_permitted"), "{}", reply.body);
        let named = reply.body.split("\"decision\">").nth(1).unwrap().split('<').next().unwrap();
        let audit = until("the record", async || {
            let text = std::fs::read_to_string(stage.directory.path().join("audit.jsonl")).unwrap();
            let denied = format!("\"decision_id\":\"{named}\"");
            (text.contains("sign_in_denied") && text.contains(&denied)).then_some(text)
        })
        .await;
        for (event, host) in [
            ("sign_in", None),
            ("session_host", Some(host(ALICES))),
            ("session_host", Some(port_host(7000, ALICES))),
            ("sign_in_denied", Some(host(BOBS))),
        ] {
            let mut lines = audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let is = |line: &Value| {
                line["event"] == event
                    && line["user"] == "alice"
                    && host.as_ref().is_none_or(|host| line["host"] == **host)
            };
            assert!(lines.any(|line| is(&line)), "{event} {audit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_person_can_sign_in_with_another_account_which_ends_the_first_session() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    let mut second = browser.clone();
    let reply = browser.browse(&host(BOBS), "/his").await;
    assert_eq!(reply.status, 403, "{reply:?}");
    stage.idp.set_user("bob");
    let link = reply.body.split("href=\"").find(|link| link.contains("ask=1")).unwrap();
    let link = link.split('"').next().unwrap().replace("&amp;", "&");
    let asked = browser.get(LOGIN, &link).await;
    assert!(asked.location.as_ref().unwrap().contains("prompt=login"), "{asked:?}");
    let reply = browser.browse(LOGIN, &link).await;
    assert_eq!(reply.status, 200, "{reply:?} {}", stage.agent.log());
    assert!(reply.body.contains("x-forwarded-user: bob"), "{}", reply.body);
    assert!(reply.body.contains("/his"), "{}", reply.body);
    // What the browser kept of alice is worth nothing any more, even in a copy of it.
    let reply = second.get(&host(ALICES), "/").await;
    assert_eq!(reply.status, 302, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_gets_a_page_and_a_program_gets_text_when_a_workspace_is_not_to_be_had() {
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        let mut browser = stage.browser();
        assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
        let list = stage.directory.path().join("workspaces.yaml");
        let before = std::fs::read_to_string(&list).unwrap();
        let cases = [
            (before.replace("alice", "carol"), 403, "<h1>No access</h1>", "Not permitted: "),
            ("workspaces: []\n".into(), 404, "<h1>No such workspace</h1>", "No such "),
        ];
        for (list_now, status, page, text) in cases {
            std::fs::write(&list, list_now).unwrap();
            let reply = until("the change", async || {
                let reply = browser.get(&host(ALICES), "/").await;
                (reply.status != 200 && reply.status == status).then_some(reply)
            })
            .await;
            is_page(&reply, page);
            let reply = browser.ask("GET", &host(ALICES), "/", &[("accept", "*/*")]).await;
            assert_eq!(reply.status, status, "{reply:?}");
            assert!(reply.body.starts_with(text), "{}", reply.body);
        }
        stage.agent.kill();
        let reply = browser.get(&host(ALICES), "/").await;
        assert_eq!(reply.status, 503, "{reply:?}");
        is_page(&reply, "<h1>The gate does not answer</h1>");
        let reply = browser.ask("GET", &host(ALICES), "/", &[("accept", "*/*")]).await;
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(
            reply.body.starts_with("Access cannot be checked: the agent did not answer (request "),
            "{}",
            reply.body
        );
    }
}

fn is_page(reply: &Reply, heading: &str) {
    assert!(reply.body.contains(heading), "{}", reply.body);
    assert!(!reply.body.contains("%["), "{}", reply.body);
    assert_eq!(reply.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(reply.headers["cache-control"], "no-store");
    let policy = reply.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_the_cookie_of_one_host_is_nothing_at_another() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    let stolen = browser.cookies[&host(ALICES)].clone();
    assert!(stolen.contains_key("__Host-identity"));
    for other in [port_host(7000, ALICES), LOGIN.into()] {
        let mut thief = stage.browser();
        thief.cookies.insert(other.clone(), stolen.clone());
        let login = stolen["__Host-identity"].clone();
        thief.cookies.get_mut(&other).unwrap().insert("__Host-identity_login".into(), login);
        let reply = thief.get(&other, "/").await;
        assert!(reply.status == 302 || reply.body.contains("Choose where"), "{other} {reply:?}");
    }
    // Two cookies of one name: it is unknown which is the agent's.
    let value = &stolen["__Host-identity"];
    let mut twice = stage.browser();
    let cookies = format!("__Host-identity={value}; __Host-identity=x");
    let headers = [("cookie", cookies.as_str()), ("accept", "application/json")];
    assert_eq!(twice.ask("GET", &host(ALICES), "/", &headers).await.status, 401, "p5");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_ticket_is_worth_nothing_again_elsewhere_or_in_another_browser() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    let reply = browser.up_to_ticket(&host(ALICES), "/").await;
    let ticket = reply.ticket.clone().unwrap();
    assert_eq!(reply.headers["referrer-policy"], "no-referrer", "l7");
    assert_eq!(reply.headers["cache-control"], "no-store", "l7");
    let worth = |reply: &Reply| {
        let cookies = reply.headers.get_all(SET_COOKIE).iter();
        cookies.filter(|cookie| cookie.to_str().unwrap().starts_with("__Host-identity=")).count()
    };
    let elsewhere = ticket.replace(&host(ALICES), &port_host(7000, ALICES));
    let pre = browser.cookies[&host(ALICES)].clone();
    browser.cookies.insert(port_host(7000, ALICES), pre.clone());
    assert_eq!(worth(&browser.deliver(&elsewhere).await), 0, "another host");
    assert_eq!(worth(&browser.deliver(&ticket).await), 1);
    browser.cookies.insert(host(ALICES), pre);
    assert_eq!(worth(&browser.deliver(&ticket).await), 0, "again");
    assert_eq!(browser.follow(&Reply { ticket: None, ..reply }).await.status, 400, "no session");
    // Each other browser is the wrong one, and uses it up.
    let reply = browser.up_to_ticket(&host(ALICES), "/").await;
    let ticket = reply.ticket.clone().unwrap();
    let mut thief = stage.browser();
    assert_eq!(worth(&thief.deliver(&ticket).await), 0, "another browser");
    assert_eq!(worth(&browser.deliver(&ticket).await), 0, "used up");
    assert_eq!(browser.follow(&Reply { ticket: None, ..reply }).await.status, 400, "no session");
}

/// A page of a workspace takes a sign-in that another machine began to a browser that is signed in, and wants to
/// learn of it what the other machine, which has the secret, can use.
#[tokio::test(flavor = "multi_thread")]
async fn s6_a_sign_in_that_another_machine_began_is_worth_nothing_there() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut alice = stage.browser();
        assert_eq!(alice.browse(&port_host(7000, ALICES), "/").await.status, 200);
        let mut thief = stage.browser();
        let begun = thief.get(&host(ALICES), "/").await;
        let start = begun.location.clone().unwrap();
        // In a frame, or by a script, there is nothing to see.
        let (_, path) = parts(&start);
        for (dest, mode) in [
            ("iframe", "navigate"),
            ("frame", "navigate"),
            ("embed", "navigate"),
            ("object", "navigate"),
            ("empty", "cors"),
            ("image", "no-cors"),
            ("script", "no-cors"),
        ] {
            let fetch = [("accept", "*/*"), ("sec-fetch-dest", dest), ("sec-fetch-mode", mode)];
            let reply = alice.ask("GET", LOGIN, &path, &fetch).await;
            assert!(reply.status == 400 && reply.ticket.is_none(), "{dest} {reply:?}");
        }
        // In a window: no address of the workspace's host has the ticket, and the opener loses the window.
        let page = alice.follow(&begun).await;
        let (ticket, next) = (page.ticket.clone().unwrap(), page.location.clone().unwrap());
        assert_eq!((page.status, page.headers.get(LOCATION)), (200, None), "{page:?}");
        let (_, text) = ticket.split_once("?t=").unwrap();
        assert!(!next.contains(text), "{next}");
        is_alone(&page);
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        // She does not have the secret, so that she gets nothing; the response does not say so.
        let delivered = alice.deliver(&ticket).await;
        assert_eq!((delivered.status, &*delivered.body), (204, ""), "{delivered:?}");
        assert!(!delivered.headers.contains_key(SET_COOKIE), "{delivered:?}");
        // Even a ticket that came out is used up by then.
        for round in ["by a program", "by a page"] {
            let reply = thief.deliver(&ticket).await;
            assert!(!reply.headers.contains_key(SET_COOKIE), "{round} {reply:?}");
            let (name, path) = parts(&ticket);
            let reply = thief.get(&name, &path).await;
            assert_eq!(reply.location.as_deref(), Some("/.well-known/identity-spoa/late"));
        }
        assert_eq!(thief.get(&host(ALICES), "/").await.status, 302);
        // With the thief's secret planted in her browser, it is she who is signed in, and the thief is not.
        let begun = thief.get(&host(ALICES), "/").await;
        alice.cookies.insert(host(ALICES), thief.cookies[&host(ALICES)].clone());
        let page = alice.follow(&begun).await;
        let ticket = page.ticket.clone().unwrap();
        assert_eq!(alice.follow(&page).await.status, 303);
        assert_eq!(alice.get(&host(ALICES), "/").await.status, 200);
        let reply = thief.deliver(&ticket).await;
        assert!(!reply.headers.contains_key(SET_COOKIE), "{reply:?}");
    }
}

/// The agent's pages are cut off from the page that opened their window, and are not shown inside another page.
fn is_alone(reply: &Reply) {
    assert_eq!(reply.headers["cross-origin-opener-policy"], "same-origin");
    assert_eq!(reply.headers["cross-origin-resource-policy"], "same-origin");
    assert_eq!(reply.headers["referrer-policy"], "no-referrer");
    assert_eq!(reply.headers["cache-control"], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_a_ticket_that_is_opened_as_a_page_is_used_up_and_leaves_the_address() {
    let stage = Stage::start(Version::newest()).await;
    let port = stage.haproxy.https.port();
    let foreign = format!("https://{}:{port}", host(ALICES));
    let pages = [
        vec![("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
        vec![("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        vec![("sec-fetch-mode", "cors"), ("origin", &*foreign)],
        vec![("origin", "null")],
        vec![],
    ];
    for headers in pages {
        let mut browser = stage.browser();
        let reply = browser.up_to_ticket(&host(ALICES), "/x").await;
        let ticket = reply.ticket.clone().unwrap();
        let (name, path) = parts(&ticket);
        // In the very browser that began it, and in another.
        let opened = browser.ask("GET", &name, &path, &headers).await;
        assert_eq!(opened.status, 303, "{headers:?} {opened:?}");
        assert_eq!(opened.location.as_deref(), Some("/.well-known/identity-spoa/late"));
        assert!(!opened.headers.contains_key(SET_COOKIE), "{opened:?}");
        assert!(!opened.headers.contains_key("access-control-allow-origin"), "{opened:?}");
        is_alone(&opened);
        let page = browser.get(&name, opened.location.as_deref().unwrap()).await;
        assert_eq!(page.status, 400, "{page:?}");
        is_page(&page, "<h1>That took too long</h1>");
        is_alone(&page);
        let late = browser.deliver(&ticket).await;
        assert!(!late.headers.contains_key(SET_COOKIE), "{headers:?} {late:?}");
        // The way on stops without a session, and offers to begin again at the same place.
        let stopped = browser.follow(&Reply { ticket: None, ..reply }).await;
        assert_eq!(stopped.status, 400, "{stopped:?}");
        assert!(stopped.body.contains(&format!("href=\"{foreign}/x\"")), "{}", stopped.body);
        assert_eq!(browser.browse(&name, "/x").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_no_word_about_where_to_go_on_leads_to_another_host() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    let own = format!("https://{}:{}/", host(ALICES), stage.haproxy.https.port());
    for to in
        ["//evil.test/", "https://evil.test", "/%5Cevil.test", "@evil.test", "%0d%0aa:%20b", ""]
    {
        let path = format!("/.well-known/identity-spoa/arrived?to={to}");
        let reply = browser.get(&host(ALICES), &path).await;
        assert_eq!(reply.status, 303, "{to} {reply:?}");
        assert!(reply.location.as_ref().unwrap().starts_with(&own), "{to} {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_l8_a_callback_counts_once_in_the_browser_that_asked() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    let mut reply = browser.get(&host(ALICES), "/").await;
    while !reply.location.as_ref().is_some_and(|l| l.contains("/callback/")) {
        reply = browser.follow(&reply).await;
    }
    let mut other = stage.browser();
    assert_eq!(other.follow(&reply).await.status, 400, "another browser");
    let cookies = browser.cookies.clone();
    let wrong = |from: &str, to: &str| Reply {
        status: 302,
        location: Some(reply.location.as_ref().unwrap().replace(from, to)),
        headers: reply.headers.clone(),
        body: String::new(),
        ticket: None,
    };
    assert_eq!(browser.follow(&wrong("state=", "state=x")).await.status, 400, "l2");
    assert_eq!(browser.follow(&wrong("/callback/dev", "/callback/other")).await.status, 400);
    let reply = reply;
    assert!(browser.follow(&reply).await.ticket.is_some());
    browser.cookies = cookies;
    assert_eq!(browser.follow(&reply).await.status, 400, "l8: the same callback again");
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_an_answer_of_another_issuer_is_refused() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    for change in ["&iss=https%3A%2F%2Fevil.test", ""] {
        let mut reply = browser.get(&host(ALICES), "/").await;
        while !reply.location.as_ref().is_some_and(|l| l.contains("/callback/")) {
            reply = browser.follow(&reply).await;
        }
        let location = reply.location.take().unwrap();
        let (before, _) = location.split_once("&iss=").unwrap();
        let reply = Reply { location: Some(format!("{before}{change}")), ..reply };
        assert_eq!(browser.follow(&reply).await.status, 400, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn j15_an_id_token_of_another_sign_in_or_access_token_is_refused() {
    let stage = Stage::start(Version::newest()).await;
    // What the provider gives as an access token, hashed: the left half of SHA-256, for RS256.
    let hash = |algorithm| {
        let hash = aws_lc_rs::digest::digest(algorithm, b"opaque");
        URL_SAFE_NO_PAD.encode(&hash.as_ref()[..hash.as_ref().len() / 2])
    };
    let (right, long) = (hash(&aws_lc_rs::digest::SHA256), hash(&aws_lc_rs::digest::SHA512));
    for (claims, is_signed_in) in [
        (json!({}), true),
        (json!({ "nonce": null }), false),
        (json!({ "nonce": "" }), false),
        (json!({ "nonce": "of-another-attempt" }), false),
        (json!({ "nonce": ["of-another-attempt"] }), false),
        (json!({ "nonce": 7 }), false),
        (json!({ "at_hash": right }), true),
        (json!({ "at_hash": long }), false),
        (json!({ "at_hash": right.to_lowercase() }), false),
        (json!({ "at_hash": "" }), false),
        (json!({ "at_hash": 7 }), false),
        (json!({ "at_hash": [right] }), false),
    ] {
        stage.idp.set_signed_in(&claims);
        let mut browser = stage.browser();
        let reply = browser.browse(&host(ALICES), "/").await;
        assert_eq!(reply.status == 200, is_signed_in, "{claims}: {reply:?}");
        let again = browser.get(&host(ALICES), "/").await;
        assert_eq!(again.status, if is_signed_in { 200 } else { 302 }, "{claims}");
        assert!(
            is_signed_in
                || !browser.cookies.values().any(|jar| jar.contains_key("__Host-identity"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_l7_no_step_of_the_way_is_kept_framed_or_told_to_the_next_place() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    let mut reply = browser.get(&host(ALICES), "/").await;
    let mut ours = 0;
    while reply.location.is_some() {
        // The provider's own answer is not ours.
        if reply.headers.contains_key("x-content-type-options") || reply.status == 303 {
            ours += 1;
            // A page, which has no form that could be sent on, or a redirect to a GET.
            let status = if reply.ticket.is_some() { 200 } else { 303 };
            assert_eq!(reply.status, status, "l6: {reply:?}");
            assert_eq!(reply.headers["x-content-type-options"], "nosniff");
            let policy = reply.headers["content-security-policy"].to_str().unwrap();
            assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
            assert_eq!(reply.headers["referrer-policy"], "no-referrer");
            assert_eq!(reply.headers["cache-control"], "no-store");
        }
        reply = browser.follow(&reply).await;
    }
    // start, callback, arrived.
    assert_eq!(ours, 3, "{reply:?}");
    let path = "/.well-known/identity-spoa/sign-out";
    let form = ("content-type", "application/x-www-form-urlencoded");
    assert_eq!(browser.ask("POST", LOGIN, path, &[form]).await.status, 303, "l6: after a form");
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_cookies_stay_small_however_long_the_way_and_however_many_the_tabs() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    for tab in 0..12 {
        let path = format!("/{tab}{}", "a".repeat(2000));
        let mut reply = browser.get(&host(ALICES), &path).await;
        for _ in 0..2 {
            for cookie in reply.headers.get_all(SET_COOKIE) {
                assert!(cookie.len() <= 4096, "{} bytes", cookie.len());
            }
            reply = browser.follow(&reply).await;
        }
        // No browser gets an address or headers that are too long for a server.
        let all: usize = browser.cookies[LOGIN].iter().map(|(n, v)| n.len() + v.len() + 3).sum();
        assert!(all <= 12 * 1024, "{all} bytes after {tab} tabs");
        assert!(reply.location.as_ref().is_none_or(|l| l.len() < 8 * 1024), "{reply:?}");
    }
    let path = format!("/{}", "a".repeat(2000));
    let reply = browser.browse(&host(ALICES), &path).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.body.contains(&path));
}

#[test]
fn l13_a_client_secret_is_in_a_file_or_the_environment_and_never_in_a_configuration() {
    let issuer = |keys: &str| {
        support::issuers(&format!(
            "[[issuer]]\nname = 'dev'\nissuer = 'https://idp.test'\naudience = 'a'\nmatch = ['subject']\n\
             [issuer.sign_in]\nclient_id = 'gate'\n{keys}\n"
        ))
    };
    assert!(issuer("client_secret_file = 'f'").is_ok());
    assert!(issuer("client_secret_env = 'E'").is_ok());
    assert!(issuer("private_key_file = 'f'").is_ok());
    for keys in
        ["client_secret = 's3cret'", "", "client_secret_file = 'f'\nclient_secret_env = 'E'"]
    {
        let mistakes = issuer(keys).unwrap_err();
        assert!(mistakes.contains("client_secret"), "{mistakes}");
        assert!(!mistakes.contains("s3cret"), "{mistakes}");
    }
    for file in ["haproxy.cfg", "identity.spoe.cfg", "tcp.cfg"] {
        let text = std::fs::read_to_string(root().join("haproxy").join(file)).unwrap();
        assert!(!text.contains("secret"), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_an_answer_and_not_a_page() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut browser = stage.browser();
        for headers in [
            vec![("accept", "application/json")],
            vec![("accept", "text/html"), ("sec-fetch-mode", "cors")],
            vec![("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")],
            vec![],
        ] {
            let reply = browser.ask("GET", &host(ALICES), "/", &headers).await;
            assert_eq!(reply.status, 401, "{headers:?}");
            assert!(reply.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            let body: Value = serde_json::from_str(&reply.body).unwrap();
            assert_eq!(body["reason"], "credential_missing");
            assert_eq!(body["sign_in"], format!("https://{LOGIN}/"));
        }
        let reply = browser.ask("POST", &host(ALICES), "/", &[("accept", "text/html")]).await;
        assert_eq!(reply.status, 401);
        // A token is valid as before.
        let bearer = format!("Bearer {}", stage.idp.token_of("alice"));
        let reply = browser.ask("GET", &host(ALICES), "/", &[("authorization", &bearer)]).await;
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_with_the_cookie_must_be_of_the_same_origin() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    let own = format!("https://{}:{}", host(ALICES), stage.haproxy.https.port());
    let upgrade = |origin: &'static str| {
        vec![
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("origin", origin),
        ]
    };
    let own: &'static str = own.leak();
    for (origin, status) in [(own, 101), ("https://evil.test", 403), ("null", 403), ("", 403)] {
        let mut http1 = Browser::new(stage.haproxy.https);
        http1.http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .tls_danger_accept_invalid_certs(true)
            .resolve(&host(ALICES), stage.haproxy.https)
            .build()
            .unwrap();
        http1.cookies = browser.cookies.clone();
        let url = format!("https://{}:{}/ws", host(ALICES), stage.haproxy.https.port());
        let mut request = http1.http.get(url);
        let id = &http1.cookies[&host(ALICES)]["__Host-identity"];
        request = request.header("cookie", format!("__Host-identity={id}"));
        for (name, value) in upgrade(origin) {
            request = request.header(name, value);
        }
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status().as_u16(), status, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_another_workspaces_page_are_refused_except_opening_a_page() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut browser = stage.browser();
        assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
        let origin = |name: &str| format!("https://{name}:{}", stage.haproxy.https.port());
        let (bobs, own) = (origin(&host(BOBS)), origin(&host(ALICES)));
        let (sibling, elsewhere) =
            (origin(&port_host(7000, ALICES)), "https://evil.test".to_owned());
        let wrong_port = format!("https://{}:1", port_host(7000, ALICES));
        let plain = format!("http://{}", port_host(7000, ALICES));
        for (method, site, mode, dest, origin, status) in [
            ("GET", "none", "navigate", "document", None, 200),
            ("GET", "same-site", "navigate", "document", None, 200),
            ("GET", "cross-site", "navigate", "iframe", None, 403),
            ("GET", "same-origin", "navigate", "iframe", None, 200),
            // Through a service worker.
            ("GET", "same-origin", "navigate", "empty", None, 200),
            ("POST", "same-origin", "navigate", "document", Some("null"), 200),
            ("POST", "same-origin", "cors", "empty", Some(&*own), 200),
            ("POST", "same-site", "cors", "empty", Some(&sibling), 200),
            ("POST", "same-site", "cors", "empty", Some(&wrong_port), 403),
            ("POST", "same-site", "cors", "empty", Some(&plain), 403),
            ("POST", "same-site", "cors", "empty", Some(&bobs), 403),
            ("POST", "same-site", "navigate", "document", Some(&bobs), 403),
            ("POST", "cross-site", "no-cors", "empty", Some(&elsewhere), 403),
            ("POST", "same-site", "cors", "empty", Some("null"), 403),
            ("GET", "same-site", "no-cors", "image", None, 403),
            ("GET", "same-site", "no-cors", "script", None, 403),
            ("GET", "same-site", "navigate", "object", None, 403),
            ("GET", "nonsense", "cors", "empty", None, 403),
            // A browser that does not say.
            ("GET", "", "", "", None, 200),
            ("POST", "", "", "", Some(&own), 200),
            ("POST", "", "", "", Some(&bobs), 403),
        ] {
            let mut headers = vec![("accept", "*/*")];
            for (name, value) in
                [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
            {
                if !value.is_empty() {
                    headers.push((name, value));
                }
            }
            headers.extend(origin.map(|origin| ("origin", origin)));
            let reply = browser.ask(method, &host(ALICES), "/", &headers).await;
            assert_eq!(reply.status, status, "{version:?} {method} {headers:?}");
            assert_eq!(reply.body.contains("origin_foreign"), status == 403, "{}", reply.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s15_a_page_of_another_workspace_or_site_shows_no_workspace_in_a_frame_unless_the_operator_lets_it()
 {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut browser = stage.browser();
        assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
        let port = stage.haproxy.https.port();
        let own = format!("https://{}:{port}/", port_host(7000, ALICES));
        let others = [
            ("same-site", Some(format!("https://{}:{port}/", host(BOBS)))),
            ("same-site", Some(format!("https://{}:1/", port_host(7000, ALICES)))),
            ("same-site", Some(format!("http://{}:{port}/", port_host(7000, ALICES)))),
            ("same-site", Some(format!("https://{LOGIN}:{port}/?{own}"))),
            ("same-site", Some(format!("https://{}/{}", "a".repeat(400), own))),
            ("same-site", None),
            ("cross-site", Some("https://evil.test/".to_owned())),
            ("cross-site", None),
        ];
        let path = stage.directory.path().join("agent.toml");
        let before = std::fs::read_to_string(&path).unwrap();
        for (setting, may) in [
            (None, [false; 8]),
            (Some("workspace"), [false; 8]),
            (Some("site"), [true, true, true, true, true, true, false, false]),
            (Some("any"), [true; 8]),
        ] {
            if let Some(setting) = setting {
                let lines = format!("[workspaces]\nframing = \"{setting}\"");
                std::fs::write(&path, before.replacen("[workspaces]", &lines, 1)).unwrap();
            }
            let mut frame = async |dest: &str, site: &str, referer: Option<&str>| {
                let mut headers = vec![
                    ("accept", "text/html"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", dest),
                    ("sec-fetch-site", site),
                ];
                headers.extend(referer.map(|from| ("referer", from)));
                browser.ask("GET", &host(ALICES), "/", &headers).await
            };
            let of_all = others.iter().zip(may).rev();
            until("the setting", async || {
                let mut all = of_all.clone();
                let ((site, from), may) = all.next().unwrap();
                let wide = frame("iframe", site, from.as_deref()).await.status == 200;
                let (_, (site, from)) = (all.next(), &others[0]);
                let near = frame("iframe", site, from.as_deref()).await.status == 200;
                ((wide, near) == (may, of_all.clone().next_back().unwrap().1)).then_some(())
            })
            .await;
            for ((site, from), may) in others.iter().zip(may) {
                let reply = frame("iframe", site, from.as_deref()).await;
                let status = if may { 200 } else { 403 };
                assert_eq!(reply.status, status, "{version:?} {setting:?} {site} {from:?}");
                assert_eq!(reply.body.contains("origin_foreign"), !may, "{}", reply.body);
                // A request that is not for a page stays refused.
                for dest in ["embed", "object", "frame"] {
                    let reply = frame(dest, site, from.as_deref()).await;
                    assert_eq!(reply.status, 403, "{version:?} {setting:?} {dest}");
                }
            }
            // Its own pages, at this host and at another port's, may.
            for site in ["same-origin", "none"] {
                assert_eq!(frame("iframe", site, None).await.status, 200, "{setting:?} {site}");
            }
            let reply = frame("iframe", "same-site", Some(&own)).await;
            assert_eq!(reply.status, 200, "{version:?} {setting:?} {reply:?}");
            // And a link opens as before.
            assert_eq!(frame("document", "cross-site", None).await.status, 200, "{setting:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s15_a_cookie_with_other_white_space_before_its_name_is_not_the_agents() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    let value = browser.cookies[&host(ALICES)]["__Host-identity"].clone();
    for (before, status) in [("", 200), ("\t", 200), ("\u{a0}", 401), ("x", 401)] {
        let mut other = stage.browser();
        let cookie = format!("a=1; {before}__Host-identity={value}");
        let headers = [("accept", "application/json"), ("cookie", &*cookie)];
        let reply = other.ask("GET", &host(ALICES), "/", &headers).await;
        assert_eq!(reply.status, status, "{before:?} {reply:?}");
        assert!(!reply.body.contains(&value), "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_says_what_haproxy_says_and_nothing_that_a_client_says() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut browser = stage.browser();
        let said = [
            ("accept", "text/html"),
            ("x-identity-reason", "not_permitted"),
            ("x-identity-user", "mallory"),
            ("x-identity-owner", "mallory"),
            ("x_identity_decision_id", "mallory"),
        ];
        for name in [LOGIN.to_owned(), host(ALICES)] {
            let path = "/.well-known/identity-spoa/refused";
            let reply = browser.ask("GET", &name, path, &said).await;
            assert_eq!(reply.status, 404, "{version:?} {name}");
            assert!(!reply.body.contains("mallory"), "{}", reply.body);
        }
        assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
        let list = stage.directory.path().join("workspaces.yaml");
        let before = std::fs::read_to_string(&list).unwrap();
        std::fs::write(&list, before.replace("alice", "carol")).unwrap();
        let path = "/a?b=\"><script>&c=%27";
        let reply = until("the change", async || {
            let reply = browser.ask("GET", &host(ALICES), path, &said).await;
            (reply.status == 403).then_some(reply)
        })
        .await;
        is_page(&reply, "<h1>No access</h1>");
        assert!(reply.body.contains("<dd>alice</dd>"), "{}", reply.body);
        assert!(!reply.body.contains("mallory") && !reply.body.contains("carol"), "{}", reply.body);
        assert!(!reply.body.contains("<script"), "{}", reply.body);
        // The link to sign in with another account leads back to the same page.
        let link = reply.body.split("href=\"").find(|link| link.contains("/switch?")).unwrap();
        let link = link.split('"').next().unwrap().replace("&amp;", "&");
        let reply = browser.get(&host(ALICES), &link).await;
        assert_eq!(reply.status, 303, "{reply:?}");
        let asked = browser.follow(&reply).await;
        assert!(asked.location.as_ref().unwrap().contains("prompt=login"), "{asked:?}");
        // It is for workspaces' hosts.
        assert_eq!(browser.get(LOGIN, &link).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l11_who_signs_out_is_out_everywhere() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    for name in [host(ALICES), port_host(7000, ALICES)] {
        assert_eq!(browser.browse(&name, "/").await.status, 200);
    }
    let page = browser.get(LOGIN, "/").await;
    assert!(page.body.contains("signed in as alice"), "{}", page.body);
    assert!(
        page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'")
    );
    // A workspace's page cannot do it for her.
    let path = "/.well-known/identity-spoa/sign-out";
    let form = ("content-type", "application/x-www-form-urlencoded");
    let foreign = format!("https://{}:{}", host(ALICES), stage.haproxy.https.port());
    for headers in [
        vec![form, ("origin", &*foreign)],
        vec![form, ("origin", "null")],
        vec![form, ("origin", "null"), ("sec-fetch-site", "same-site")],
        vec![form, ("sec-fetch-site", "cross-site")],
    ] {
        let reply = browser.ask("POST", LOGIN, path, &headers).await;
        assert_eq!(reply.status, 404, "{headers:?}");
    }
    assert_eq!(browser.get(&host(ALICES), "/").await.status, 200);
    let origin = format!("https://{LOGIN}:{}", stage.haproxy.https.port());
    // As a browser that lets no referrer out calls it, or with its name.
    let mut other = stage.browser();
    assert_eq!(other.browse(&host(ALICES), "/").await.status, 200);
    let ours = [form, ("origin", "null"), ("sec-fetch-site", "same-origin")];
    assert_eq!(other.ask("POST", LOGIN, path, &ours).await.status, 303);
    let reply = browser.ask("POST", LOGIN, path, &[form, ("origin", &origin)]).await;
    assert_eq!(reply.status, 303);
    assert!(reply.location.as_ref().unwrap().contains("/end-session?id_token_hint="));
    let back = browser.follow(&reply).await;
    let signed_out = browser.follow(&back).await;
    assert!(signed_out.body.contains("You are signed out"), "{signed_out:?}");
    for name in [host(ALICES), port_host(7000, ALICES)] {
        assert_eq!(browser.get(&name, "/").await.status, 302, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_the_provider_ends_the_sessions_that_its_token_names_once_and_no_others() {
    let stage = Stage::start(Version::newest()).await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    stage.idp.set_user("bob");
    let mut bob = stage.browser();
    assert_eq!(bob.browse(&host(BOBS), "/").await.status, 200);
    let post = async |token: &str| {
        let url = format!(
            "https://{LOGIN}:{}/.well-known/identity-spoa/back-channel/dev",
            stage.haproxy.https.port()
        );
        let request = stage.browser().http.post(url);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let reply = request.body(format!("logout_token={token}")).send().await.unwrap();
        assert_eq!(reply.headers()["cache-control"], "no-store");
        reply.status().as_u16()
    };
    let event = "http://schemas.openid.net/event/backchannel-logout";
    let usual = json!({
        "events": { event: {} }, "jti": "1", "sub": "sub-alice", "nonce": null,
        "email": null, "preferred_username": null, "groups": null, "org": null,
    });
    let token = |change: Value, header: Value, alg: &str| {
        let mut claims = usual.as_object().unwrap().clone();
        claims.extend(change.as_object().unwrap().clone());
        let mut all = json!({ "typ": "logout+jwt" }).as_object().unwrap().clone();
        all.extend(header.as_object().unwrap().clone());
        stage.idp.token(&TokenRequest {
            audience: json!("gate"),
            alg: alg.into(),
            claims,
            header: all,
            ..TokenRequest::default()
        })
    };
    for (number, (change, header, alg)) in [
        (json!({ "events": null }), json!({}), "ES256"),
        (json!({ "events": { "another": {} } }), json!({}), "ES256"),
        (json!({ "events": { event: "no" } }), json!({}), "ES256"),
        (json!({ "nonce": "n" }), json!({}), "ES256"),
        (json!({ "aud": "workspaces" }), json!({}), "ES256"),
        (json!({ "iss": "https://evil.test" }), json!({}), "ES256"),
        (json!({ "iat": 1 }), json!({}), "ES256"),
        (json!({ "iat": null }), json!({}), "ES256"),
        (json!({ "exp": 1 }), json!({}), "ES256"),
        (json!({ "jti": null }), json!({}), "ES256"),
        (json!({ "sub": null }), json!({}), "ES256"),
        (json!({}), json!({ "typ": "at+jwt" }), "ES256"),
        (json!({}), json!({}), "none"),
        (json!({}), json!({}), "HS256"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(post(&token(change, header, alg)).await, 400, "{number}");
    }
    assert_eq!(alice.get(&host(ALICES), "/").await.status, 200);
    // The session is not hers.
    let other = token(json!({ "sid": "another", "jti": "2" }), json!({}), "ES256");
    assert_eq!(post(&other).await, 200);
    assert_eq!(alice.get(&host(ALICES), "/").await.status, 200);
    let right = token(json!({}), json!({}), "ES256");
    assert_eq!(post(&right).await, 200);
    assert_eq!(alice.get(&host(ALICES), "/").await.status, 302);
    assert_eq!(bob.get(&host(BOBS), "/").await.status, 200);
    assert_eq!(post(&right).await, 400, "again");
    let by_session = token(
        json!({ "sub": null, "sid": "idp-session", "jti": "3" }),
        json!({ "typ": "JWT" }),
        "ES256",
    );
    assert_eq!(post(&by_session).await, 200);
    assert_eq!(bob.get(&host(BOBS), "/").await.status, 302);
    // j13: a logout token gives no access.
    let bearer = format!("Bearer {}", token(json!({ "jti": "4" }), json!({}), "ES256"));
    let reply = alice.ask("GET", &host(ALICES), "/", &[("authorization", &bearer)]).await;
    assert_eq!(reply.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_a_session_is_one_of_its_provider_whatever_that_is_called() {
    let stage = Stage::start(Version::newest()).await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    test_stage::reload(&stage.agent, stage.directory.path(), |text| {
        text.replace("name = \"dev\"", "name = \"acme\"")
    })
    .await;
    assert_eq!(alice.get(&host(ALICES), "/").await.status, 200);
    let sessions = |args: &[&str]| {
        let output = std::process::Command::new(support::agent::program())
            .args(["sessions", "--config"])
            .arg(stage.directory.path().join("agent.toml"))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = sessions(&["list", "--json"]);
    assert!(listed.contains("\"acme\"") && !listed.contains("\"dev\""), "{listed}");
    // Its old name is another provider's now: no session of the first is one of that.
    let other = DevIdp::start().await;
    test_stage::reload(&stage.agent, stage.directory.path(), |text| {
        text.replace("name = \"acme\"", "name = \"dev\"")
            .replace(stage.idp.issuer(), other.issuer())
    })
    .await;
    assert_eq!(alice.get(&host(ALICES), "/").await.status, 302);
}

/// Says at the back channel that the provider ended something. Returns the status.
async fn log_out(stage: &Stage, claims: &Value) -> u16 {
    let mut all = json!({
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} }, "nonce": null,
        "email": null, "preferred_username": null, "groups": null, "org": null,
    });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let token = stage.idp.token(&TokenRequest {
        audience: json!("gate"),
        claims: all.as_object().unwrap().clone(),
        header: json!({ "typ": "logout+jwt" }).as_object().unwrap().clone(),
        ..TokenRequest::default()
    });
    let port = stage.haproxy.https.port();
    let url = format!("https://{LOGIN}:{port}/.well-known/identity-spoa/back-channel/dev");
    let request = stage.browser().http.post(url);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    request.body(format!("logout_token={token}")).send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_where_another_claim_is_the_subject_the_provider_ends_sessions_by_its_own_sub() {
    let mut stage = Stage::with(Version::newest(), "sessions_file = 'sessions'").await;
    test_stage::reload(&stage.agent, stage.directory.path(), |text| {
        let claims = "[issuer.claims]\nsubject = \"preferred_username\"\n";
        text.replace("[issuer.claims]\n", claims)
    })
    .await;
    stage.idp.set_user("bob");
    let mut bob = stage.browser();
    assert_eq!(bob.browse(&host(BOBS), "/").await.status, 200);
    // Neither our subject of his nor another's `sub` is his.
    for (number, sub) in ["bob", "sub-alice"].into_iter().enumerate() {
        let claims = json!({ "jti": format!("no-{number}"), "sub": sub });
        assert_eq!(log_out(&stage, &claims).await, 200, "a stranger learns nothing");
        assert_eq!(bob.get(&host(BOBS), "/").await.status, 200, "{sub}");
    }
    let audit_log = || std::fs::read_to_string(stage.directory.path().join("audit.jsonl")).unwrap();
    until("the record of both", async || {
        let unmatched = audit_log().matches("back_channel_logout_unmatched").count();
        (unmatched == 2).then_some(())
    })
    .await;
    // It is kept with the session.
    assert!(stage.agent.end().await);
    stage.agent = AgentProcess::start(stage.directory.path()).await;
    until("the session to be there again", async || {
        (bob.get(&host(BOBS), "/").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(log_out(&stage, &json!({ "jti": "yes", "sub": "sub-bob" })).await, 200);
    assert_eq!(bob.get(&host(BOBS), "/").await.status, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_ends_every_session_of_a_user_and_no_others() {
    let stage = Stage::start(Version::newest()).await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    stage.idp.set_user("bob");
    let mut bob = stage.browser();
    assert_eq!(bob.browse(&host(BOBS), "/").await.status, 200);
    let output = std::process::Command::new(support::agent::program())
        .args(["revoke", "--subject", "sub-alice", "--before", "now", "--config"])
        .arg(stage.directory.path().join("agent.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json = [("accept", "application/json")];
    let reply = alice.ask("GET", &host(ALICES), "/", &json).await;
    assert_eq!(reply.status, 401, "{reply:?}");
    assert_eq!(bob.get(&host(BOBS), "/").await.status, 200);
    // She may sign in again; a person who is revoked permanently may not, and the page says so.
    stage.idp.set_user("alice");
    // Tokens tell their time in seconds, so that those of this very second are too early.
    until("the next sign-in", async || {
        (alice.browse(&host(ALICES), "/").await.status == 200).then_some(())
    })
    .await;
    let output = std::process::Command::new(support::agent::program())
        .args(["revoke", "--subject", "sub-alice", "--config"])
        .arg(stage.directory.path().join("agent.toml"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let reply = alice.browse(&host(ALICES), "/").await;
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.body.contains("token_revoked"), "{}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_sees_who_is_signed_in_and_ends_it() {
    let stage = Stage::start(Version::newest()).await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    stage.idp.set_user("bob");
    let mut bob = stage.browser();
    assert_eq!(bob.browse(&host(BOBS), "/").await.status, 200);
    let ask = |args: &[&str]| {
        let output = std::process::Command::new(support::agent::program())
            .args(["sessions", "--json", "--config"])
            .arg(stage.directory.path().join("agent.toml"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), serde_json::from_str::<Value>(&text).unwrap_or_default())
    };
    let (done, list) = ask(&["list"]);
    assert!(done);
    let found: Vec<_> =
        list.as_array().unwrap().iter().map(|one| one["user"].as_str().unwrap()).collect();
    assert_eq!(found, ["alice", "bob"]);
    let hosts = list[0]["hosts"].as_array().unwrap();
    assert!(hosts.contains(&json!(host(ALICES))) && hosts.contains(&json!(LOGIN)), "{list}");
    // No cookie can be made of what is listed.
    for value in alice.cookies.values().flat_map(BTreeMap::values) {
        assert!(!list.to_string().contains(value.as_str()));
    }
    for args in [&["end"][..], &["end", "--user", "alice", "--subject", "sub-alice"]] {
        assert!(!ask(args).0, "{args:?}");
    }
    let (done, ended) = ask(&["end", "--user", "unknown"]);
    assert!(done && ended.as_array().unwrap().is_empty());
    let (done, ended) = ask(&["end", "--user", "alice", "--issuer", "dev"]);
    assert!(done && ended.as_array().unwrap().len() == 1, "{ended}");
    assert_eq!(alice.get(&host(ALICES), "/").await.status, 302);
    assert_eq!(bob.get(&host(BOBS), "/").await.status, 200);
    let id = list[1]["id"].as_str().unwrap();
    assert!(ask(&["end", "--id", id]).0);
    assert_eq!(bob.get(&host(BOBS), "/").await.status, 302);
    let audit = until("the records", async || {
        let text = std::fs::read_to_string(stage.directory.path().join("audit.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let ends: Vec<_> = lines.filter(|line| line["event"] == "end_session").collect();
        (ends.len() == 2).then_some(ends)
    })
    .await;
    assert!(audit.iter().all(|line| line["uid"].is_string()), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_cookie_heals_itself_and_several_tabs_sign_in_at_once() {
    let mut stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    // Sessions do not survive the agent; cookies do.
    assert!(stage.agent.end().await);
    stage.agent = AgentProcess::start(stage.directory.path()).await;
    until("the way in", async || {
        let reply = browser.get(&host(ALICES), "/").await;
        (reply.status == 302).then_some(())
    })
    .await;
    assert_eq!(browser.browse(&host(ALICES), "/again").await.status, 200);
    // Three tabs, of which none is signed in yet, each go the whole way.
    let mut browser = stage.browser();
    let hosts = [host(ALICES), port_host(7000, ALICES), host(ALICES)];
    let mut tabs = Vec::new();
    for name in &hosts {
        let mut reply = browser.get(name, "/").await;
        while !reply.location.as_ref().is_some_and(|l| l.contains("/callback/")) {
            reply = browser.follow(&reply).await;
        }
        tabs.push(reply);
    }
    for mut reply in tabs {
        while reply.location.is_some() {
            reply = browser.follow(&reply).await;
        }
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l11_tabs_that_signed_in_at_once_are_signed_out_at_once() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    let hosts = [host(ALICES), port_host(7000, ALICES), port_host(6000, ALICES)];
    let mut tabs = Vec::new();
    for name in &hosts {
        let mut reply = browser.get(name, "/").await;
        while !reply.location.as_ref().is_some_and(|l| l.contains("/callback/")) {
            reply = browser.follow(&reply).await;
        }
        tabs.push(reply);
    }
    for mut reply in tabs {
        while reply.location.is_some() {
            reply = browser.follow(&reply).await;
        }
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    // So does a person who signs in again with the same account.
    let reply = browser.browse(LOGIN, "/.well-known/identity-spoa/start?ask=1").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    for name in &hosts {
        assert_eq!(browser.get(name, "/").await.status, 200, "{name}");
    }
    let path = "/.well-known/identity-spoa/sign-out";
    let form = ("content-type", "application/x-www-form-urlencoded");
    assert_eq!(browser.ask("POST", LOGIN, path, &[form]).await.status, 303);
    for name in &hosts {
        assert_eq!(browser.get(name, "/").await.status, 302, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beginning_to_sign_in_causes_no_request_to_the_provider() {
    let stage = Stage::start(Version::newest()).await;
    let before = stage.idp.counters().discovery;
    for _ in 0..40 {
        let mut browser = stage.browser();
        let reply = browser.get(&host(ALICES), "/").await;
        let reply = browser.follow(&reply).await;
        assert_eq!(reply.status, 303, "{reply:?}");
        assert!(reply.location.unwrap().starts_with(stage.idp.issuer()));
    }
    assert!(stage.idp.counters().discovery - before <= 1, "once a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_a_file_outlives_the_agent_and_a_new_key() {
    let mut stage = Stage::with(Version::newest(), "sessions_file = 'sessions'").await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    assert!(stage.agent.end().await);
    // c3: a new key before the old one ends no session.
    let keys = stage.directory.path().join("keys");
    let ring = std::fs::read_to_string(&keys).unwrap();
    std::fs::write(&keys, format!("{}\n{ring}", "A".repeat(43))).unwrap();
    stage.agent = AgentProcess::start(stage.directory.path()).await;
    until("the gate to open", async || {
        (browser.get(&host(ALICES), "/").await.status == 200).then_some(())
    })
    .await;
    // Killed, too: what is confirmed is on disk.
    stage.agent.kill();
    stage.agent = AgentProcess::start(stage.directory.path()).await;
    until("the gate to open", async || {
        (browser.get(&host(ALICES), "/").await.status == 200).then_some(())
    })
    .await;
    // Signed out is signed out.
    let path = "/.well-known/identity-spoa/sign-out";
    let form = ("content-type", "application/x-www-form-urlencoded");
    assert_eq!(browser.ask("POST", LOGIN, path, &[form]).await.status, 303);
    stage.agent.kill();
    stage.agent = AgentProcess::start(stage.directory.path()).await;
    until("the way to sign in", async || {
        (browser.get(&host(ALICES), "/").await.status == 302).then_some(())
    })
    .await;
    for file in ["sessions", "keys"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(stage.directory.path().join(file)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_paths_never_reach_a_workspace() {
    let stage = Stage::start(Version::newest()).await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    for path in ["/.well-known/identity-spoa/", "/.well-known/identity-spoa/nothing"] {
        let reply = browser.get(&host(ALICES), path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.body.contains("There is nothing here"), "{}", reply.body);
    }
    // Pages of the login host are not to be had at a workspace's.
    for page in ["start", "sign-out", "callback/dev?code=x&state=y"] {
        let reply = browser.get(&host(ALICES), &format!("/.well-known/identity-spoa/{page}")).await;
        assert_eq!(reply.status, 404, "{page}");
    }
}
