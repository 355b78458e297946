//! Pages for browsers that cannot be redirected to sign-in: those in a frame, and those that sent a form.

use std::collections::BTreeMap;

use crate::{
    sign_in::{Browser, Reply, Stage},
    support::{ALICES, LOGIN, Version, host, port_host, until},
};

const FRAMES: [&str; 5] = ["iframe", "frame", "embed", "object", "fencedframe"];

/// A browser shows an address in a frame of a page of another port of the workspace.
async fn framed(browser: &mut Browser, host: &str, path: &str, dest: &str, site: &str) -> Reply {
    let from = format!("https://{}:{}/", port_host(7000, ALICES), browser.port());
    let headers = [
        ("accept", "text/html,*/*;q=0.8"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", dest),
        ("sec-fetch-site", site),
        ("referer", &*from),
    ];
    browser.ask("GET", host, path, &headers).await
}

/// A browser sends a form that a page of the same host has.
async fn posted(browser: &mut Browser, host: &str, path: &str) -> Reply {
    let origin = format!("https://{host}:{}", browser.port());
    let headers = [
        ("accept", "text/html,*/*;q=0.8"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-site", "same-origin"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("origin", &*origin),
    ];
    browser.ask("POST", host, path, &headers).await
}

/// Whether other pages may show this one in a frame, also those that demand it of all that they load.
fn may_be_framed(reply: &Reply) {
    let text = |name: &str| reply.headers[name].to_str().unwrap();
    assert!(text("content-security-policy").starts_with("default-src 'none'"), "{reply:?}");
    assert!(!text("content-security-policy").contains("frame-ancestors"), "{reply:?}");
    assert!(!reply.headers.contains_key("x-frame-options"), "{reply:?}");
    assert_eq!(text("cross-origin-resource-policy"), "cross-origin");
    assert_eq!(text("cross-origin-embedder-policy"), "require-corp");
}

/// The addresses of a page's links, all of which open a new tab.
fn new_tabs(reply: &Reply) -> Vec<String> {
    let links: Vec<_> = reply.body.split("<a ").skip(1).collect();
    let address = |link: &&str| {
        assert!(link.contains(" target=\"_blank\" rel=\"noopener\">"), "{}", reply.body);
        let address = link.split("href=\"").nth(1).unwrap().split('"').next().unwrap();
        address.replace("&amp;", "&").replace("&quot;", "\"")
    };
    links.iter().map(address).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn q4_a_frame_without_a_session_says_to_sign_in_in_a_new_tab() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut browser = stage.browser();
        let path = "/preview?a=1&b=%22";
        for dest in FRAMES {
            for site in ["same-site", "cross-site", "same-origin"] {
                let reply = framed(&mut browser, &host(ALICES), path, dest, site).await;
                assert_eq!(reply.status, 401, "{version:?} {dest} {site} {reply:?}");
                assert_eq!(reply.location, None, "{version:?} {dest} {site}");
                assert_eq!(reply.headers["www-authenticate"], "Bearer realm=\"workspaces\"");
                may_be_framed(&reply);
                let own = format!("https://{}:{}{path}", host(ALICES), browser.port());
                assert_eq!(new_tabs(&reply), [own], "{version:?} {dest}");
                assert!(reply.body.contains("<h1>Sign in to see this page</h1>"), "{}", reply.body);
                assert!(reply.body.contains("credential_missing"), "{}", reply.body);
            }
        }
        assert!(browser.cookies[&host(ALICES)].is_empty(), "a frame begins no sign-in");
        // The link leads to the page, by way of the sign-in. Then the frame shows the workspace.
        let reply = browser.browse(&host(ALICES), path).await;
        assert_eq!(reply.status, 200, "{version:?} {reply:?}");
        let reply = framed(&mut browser, &host(ALICES), path, "iframe", "same-site").await;
        assert_eq!(reply.status, 200, "{version:?} {reply:?}");
        assert!(reply.body.starts_with("workspace alices"), "{version:?} {}", reply.body);
        // A script that loads data is told as before, and a window is redirected.
        let mut stranger = stage.browser();
        let script = [("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
        let reply = stranger.ask("GET", &host(ALICES), "/", &script).await;
        assert_eq!(reply.headers["content-type"], "application/json", "{version:?} {reply:?}");
        assert_eq!(stranger.get(&host(ALICES), "/").await.status, 302, "{version:?}");
        // The login host's own pages are shown in no frame.
        let reply = framed(&mut stranger, LOGIN, "/", "iframe", "same-site").await;
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{version:?} {policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q4_a_refusal_in_a_frame_is_shown_and_does_not_name_the_person() {
    let stage = Stage::with(Version::newest(), "").await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    let list = stage.directory.path().join("workspaces.yaml");
    let before = std::fs::read_to_string(&list).unwrap();
    let foreign = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
    let foreign = [&foreign[..], &[("sec-fetch-site", "cross-site")]].concat();
    let reply = browser.ask("GET", &host(ALICES), "/x", &foreign).await;
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.body.contains("origin_foreign"), "{}", reply.body);
    may_be_framed(&reply);
    for (from, to, status, reason) in [
        ("phase: running", "phase: stopped", 404, "workspace_stopped"),
        ("phase: running", "phase: provisioning", 503, "workspace_starting"),
        ("alice", "carol", 403, "not_permitted"),
    ] {
        std::fs::write(&list, before.replace(from, to)).unwrap();
        let reply = until("the change", async || {
            let reply = framed(&mut browser, &host(ALICES), "/x", "iframe", "same-site").await;
            (reply.status == status).then_some(reply)
        })
        .await;
        assert!(reply.body.contains(reason), "{}", reply.body);
        may_be_framed(&reply);
        let own = format!("https://{}:{}/x", host(ALICES), browser.port());
        assert_eq!(new_tabs(&reply), [own], "{reason}");
        assert!(!reply.body.contains("alice<") && !reply.body.contains("carol"), "{}", reply.body);
        // In a window, the same page is shown in no frame.
        let reply = browser.get(&host(ALICES), "/x").await;
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{reason} {policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q5_a_form_that_was_sent_after_the_session_ended_gets_a_page_and_no_redirect() {
    for version in Version::all() {
        let stage = Stage::with(version, "").await;
        let mut browser = stage.browser();
        assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
        let reply = posted(&mut browser, &host(ALICES), "/save?x=1").await;
        assert_eq!(reply.status, 200, "{version:?} {reply:?}");
        assert!(reply.body.contains("POST /save?x=1"), "{version:?} {}", reply.body);
        // The session is not valid any more.
        browser.cookies.insert(host(ALICES), BTreeMap::default());
        let reply = posted(&mut browser, &host(ALICES), "/save?x=1").await;
        assert_eq!((reply.status, &reply.location), (401, &None), "{version:?} {reply:?}");
        assert_eq!(reply.headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(reply.headers["www-authenticate"], "Bearer realm=\"workspaces\"");
        assert!(!reply.headers.contains_key("set-cookie"), "{version:?} {reply:?}");
        assert!(reply.body.contains("did not reach the workspace"), "{}", reply.body);
        assert!(reply.body.contains("reload it"), "{}", reply.body);
        // No link leads away from the page, whose reload sends the form again.
        let root = format!("https://{}:{}/", host(ALICES), browser.port());
        assert_eq!(new_tabs(&reply), [root], "{version:?}");
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{version:?} {policy}");
        assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
        let reply = posted(&mut browser, &host(ALICES), "/save?x=1").await;
        assert!(reply.body.contains("POST /save?x=1"), "{version:?} {}", reply.body);
        // A script that posts gets JSON, and a page of another workspace is refused as before.
        let mut stranger = stage.browser();
        let script = [("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
        let reply = stranger.ask("POST", &host(ALICES), "/", &script).await;
        assert_eq!(reply.status, 401, "{version:?} {reply:?}");
        assert_eq!(reply.headers["content-type"], "application/json", "{version:?} {reply:?}");
        let foreign = [("sec-fetch-mode", "navigate"), ("sec-fetch-site", "same-site")];
        let reply = browser.ask("POST", &host(ALICES), "/", &foreign).await;
        assert_eq!(reply.status, 403, "{version:?} {reply:?}");
        assert!(reply.body.contains("origin_foreign"), "{}", reply.body);
        // A form in a frame gets the page of frames.
        let reply = framed(&mut stranger, &host(ALICES), "/", "iframe", "same-origin").await;
        may_be_framed(&reply);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q5_a_form_for_a_workspace_that_is_not_there_is_not_lost_by_a_link() {
    let stage = Stage::with(Version::newest(), "").await;
    let mut browser = stage.browser();
    assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
    let list = stage.directory.path().join("workspaces.yaml");
    let before = std::fs::read_to_string(&list).unwrap();
    for (from, to, status, words) in [
        ("phase: running", "phase: stopped", 404, "Reload this page to send it again"),
        ("phase: running", "phase: provisioning", 503, "Reload this page to send it again"),
        ("alice", "carol", 403, "did not reach the workspace"),
    ] {
        std::fs::write(&list, before.replace(from, to)).unwrap();
        let reply = until("the change", async || {
            let reply = posted(&mut browser, &host(ALICES), "/save").await;
            (reply.status == status).then_some(reply)
        })
        .await;
        assert!(reply.body.contains(words), "{}", reply.body);
        // Another account is chosen in a tab of its own.
        assert_eq!(new_tabs(&reply).len(), usize::from(status == 403), "{}", reply.body);
    }
}
