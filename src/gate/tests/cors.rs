//! Requests of pages of other origins: who may send them, who is answered, and who may read the response.

use super::*;
use crate::{
    authz::policy::{PolicyMode, PolicySet},
    request::AskedFor,
    workspaces::{
        Admission, CorsAnswers, CrossOrigin, Endpoint, EndpointOrigins, Phase,
        registry::SourceRules,
    },
};

const UNKNOWN: &str = "bluebird-demo-ns35kd21abc";
const LISTED: &str = "https://dashboard.example.com";

/// Origins of other pages than those of alice's workspace.
fn foreign() -> Vec<String> {
    let own = host("3000-", ALICES);
    vec![
        format!("https://{}", host("", BOBS)),
        format!("https://{}", host("3000-", BOBS)),
        format!("https://{own}.evil.test"),
        format!("https://{own}."),
        format!("https://evil-{own}"),
        format!("https://{own}:8443"),
        format!("https://{own}:443"),
        format!("http://{own}"),
        format!("https://{}", own.to_uppercase()),
        format!("https://03000-{}.ws.x.test", ALICES),
        format!("https://99999-{}.ws.x.test", ALICES),
        format!("https://u@{own}"),
        format!("https://{own}/"),
        format!("https://{own} https://{own}"),
        own.clone(),
        "https://login.x.test".into(),
        "https://evil.test".into(),
        "https://x.test".into(),
        "null".into(),
        "*".into(),
        LISTED.into(),
    ]
}

fn sibling() -> String {
    format!("https://{}", host("3000-", ALICES))
}

fn preflight<'a>(host: &'a str, origin: &'a str) -> Request<'a> {
    Request {
        method: Some(b"OPTIONS"),
        browser: Browser {
            origin: Some(origin.as_bytes()),
            mode: Some(b"cors"),
            dest: Some(b"empty"),
            site: Some(b"same-site"),
            ..Browser::default()
        },
        asked_for: AskedFor { method: Some(b"PUT"), headers: Some(b"content-type") },
        ..plain(host)
    }
}

/// Gives alice's main endpoint these settings.
fn set(scene: &Scene, origins: &EndpointOrigins, change: impl FnOnce(&mut Endpoint)) {
    let mut workspace = scene::workspace(ALICES, "alice", 1);
    for endpoint in &mut workspace.endpoints {
        endpoint.origins = origins.clone();
    }
    change(workspace.endpoints.first_mut().unwrap());
    scene.publisher.set(workspace, crate::time::MonotonicTime::now());
}

fn only(origin: &str) -> EndpointOrigins {
    let cross_origin = Some(CrossOrigin::listed([origin]).unwrap());
    EndpointOrigins { cross_origin, ..EndpointOrigins::default() }
}

fn none() -> EndpointOrigins {
    EndpointOrigins { cross_origin: Some(CrossOrigin::none()), ..EndpointOrigins::default() }
}

fn by_workspace() -> EndpointOrigins {
    let cors_answers = Some(CorsAnswers::Workspace);
    EndpointOrigins { cors_answers, ..EndpointOrigins::default() }
}

#[test]
fn q2_a_preflight_is_answered_for_endpoints_of_the_same_workspace_and_no_other_origin() {
    let scene = Scene::new();
    let main = host("", ALICES);
    let reply = ask(&scene, &preflight(&main, &sibling()));
    assert_eq!((reply.decision.reason, reply.cors), (Reason::CorsPreflight, Some(Cors::Preflight)));
    assert!(reply.decision.route.is_none() && reply.decision.identity.is_none());
    for origin in foreign() {
        let reply = ask(&scene, &preflight(&main, &origin));
        assert_eq!((reply.decision.reason, reply.cors), (MISSING, None), "{origin}");
    }
    // The page's own origin needs none.
    let own = format!("https://{main}");
    assert_eq!(ask(&scene, &preflight(&main, &own)).decision.reason, MISSING);
    // The request must be a preflight in every respect.
    let whole = preflight(&main, "https://3000-pinkpanda-demo-ns35kd21abc.ws.x.test");
    for other in [
        Request { method: Some(b"GET"), ..whole },
        Request { asked_for: AskedFor::default(), ..whole },
        Request { upgrades: 1, ..whole },
    ] {
        assert_ne!(ask(&scene, &other).decision.reason, Reason::CorsPreflight, "{other:?}");
    }
}

#[test]
fn q2_a_preflight_does_not_show_whether_a_workspace_exists() {
    let scene = Scene::new();
    let show = |id: &str| {
        let origin = format!("https://{}", host("3000-", id));
        let foreign = format!("https://{}", host("3000-", BOBS));
        [origin, foreign, LISTED.into()].map(|origin| {
            let reply = ask(&scene, &preflight(&host("", id), &origin));
            (reply.decision.reason, reply.cors, reply.decision.workspace.is_some())
        })
    };
    let unknown = show(UNKNOWN);
    assert_eq!(show(ALICES), unknown);
    for origins in [none(), by_workspace()] {
        // Where the workspace itself answers, only a running one does.
        let stops = origins.cors_answers.is_some();
        set(&scene, &origins, |_| ());
        if stops {
            let mut stopped = scene::workspace(ALICES, "alice", 1);
            stopped.phase = Phase::Stopped;
            for endpoint in &mut stopped.endpoints {
                endpoint.origins = by_workspace();
            }
            scene.publisher.set(stopped, crate::time::MonotonicTime::now());
        }
        assert_eq!(show(ALICES), unknown);
    }
}

#[test]
fn q2_a_preflight_reaches_the_workspace_only_where_that_is_configured_and_without_a_credential() {
    let mut scene = Scene::new();
    let main = host("", ALICES);
    set(&scene, &by_workspace(), |_| ());
    let sibling = sibling();
    let bearer = format!("Bearer {}", scene.token(&json!({})));
    let cookie = scene.cookie.clone();
    let request = Request {
        authorization: Some(bearer.as_bytes()),
        cookie: Some(cookie.as_bytes()),
        ..preflight(&main, &sibling)
    };
    let reply = ask(&scene, &request);
    assert_eq!((reply.decision.reason, reply.cors), (Reason::PreflightPassed, None));
    assert!(reply.decision.identity.is_none() && reply.session.is_none());
    assert!(reply.decision.route.is_some());
    for origin in foreign() {
        assert_eq!(ask(&scene, &preflight(&main, &origin)).decision.reason, MISSING, "{origin}");
    }
    // A port that the workspace does not declare is not reached, whatever its owner may.
    let undeclared = host("9000-", ALICES);
    assert_eq!(
        ask(&scene, &preflight(&undeclared, &sibling)).decision.reason,
        Reason::CorsPreflight
    );
    // Nor is one whose setting refuses the page.
    let cors_answers = Some(CorsAnswers::Workspace);
    set(&scene, &EndpointOrigins { cors_answers, ..none() }, |_| ());
    assert_eq!(ask(&scene, &request).decision.reason, Reason::CorsPreflight);
    // Policies see it as a request without an identity.
    set(&scene, &by_workspace(), |_| ());
    let text = "@id(\"no\") forbid(principal, action == Action::\"request\", resource) when { context.path like \"/x*\" };";
    let set = PolicySet::parse("p", text, PolicyMode::Narrow, jiff::tz::TimeZone::UTC).unwrap();
    scene.gate.policies = Some(Arc::new(Policies { enforced: Some(set), shadow: None }));
    assert_eq!(ask(&scene, &request).decision.reason, Reason::PreflightPassed);
    let forbidden = Request { path: Some(b"/x"), ..request };
    assert_eq!(ask(&scene, &forbidden).decision.reason, Reason::CorsPreflight);
}

/// A request of alice's browser that a page of this origin makes.
fn of_page<'a>(scene: &'a Scene, host: &'a str, origin: &'a str) -> Request<'a> {
    let asked = preflight(host, origin);
    let (method, asked_for) = (Some(&b"POST"[..]), AskedFor::default());
    Request { method, asked_for, cookie: Some(scene.cookie.as_bytes()), ..asked }
}

#[test]
fn q3_which_pages_may_use_an_endpoint_is_one_setting() {
    let scene = Scene::new();
    let (main, sibling) = (host("", ALICES), sibling());
    let may = |origin: &str| {
        let fetch = of_page(&scene, &main, origin);
        let upgrade = Browser { upgrade: Some(b"websocket"), ..fetch.browser };
        let socket = Request { method: Some(b"GET"), browser: upgrade, upgrades: 1, ..fetch };
        let [fetch, socket] = [fetch, socket].map(|r| ask(&scene, &r).decision.reason);
        assert_eq!(fetch, socket, "{origin}");
        fetch == Reason::Owner
    };
    assert!(may(&sibling) && !may(LISTED));
    for origin in foreign() {
        assert!(!may(&origin), "{origin}");
    }
    set(&scene, &none(), |_| ());
    assert!(!may(&sibling) && !may(LISTED));
    set(&scene, &only(LISTED), |_| ());
    assert!(!may(&sibling) && may(LISTED));
    set(&scene, &only("same-workspace"), |_| ());
    assert!(may(&sibling) && !may(LISTED));
}

#[test]
fn q3_a_response_is_readable_for_those_who_may_and_a_refusal_for_the_workspaces_own_pages() {
    let scene = Scene::new();
    let (main, sibling) = (host("", ALICES), sibling());
    let cors = |origin: &str| ask(&scene, &of_page(&scene, &main, origin)).cors;
    let without = |origin: &str| {
        let request = Request { cookie: None, ..of_page(&scene, &main, origin) };
        ask(&scene, &request).cors
    };
    let readable = Some(Cors::Readable);
    assert_eq!((cors(&sibling), without(&sibling)), (readable, readable));
    for origin in foreign() {
        assert_eq!((cors(&origin), without(&origin)), (None, None), "{origin}");
    }
    // Same origin: CORS does not apply.
    let own = format!("https://{main}");
    assert_eq!((cors(&own), without(&own)), (None, None));
    // Refused, and told so.
    set(&scene, &none(), |_| ());
    assert_eq!((cors(&sibling), without(&sibling)), (readable, readable));
    set(&scene, &only(LISTED), |_| ());
    assert_eq!((cors(LISTED), without(LISTED)), (readable, None));
    // What the workspace answers itself is left alone; refusals are the gate's.
    set(&scene, &by_workspace(), |_| ());
    assert_eq!((cors(&sibling), without(&sibling)), (None, readable));
    // A public endpoint, without a session.
    set(&scene, &EndpointOrigins::default(), |e| e.admission = Admission::Public);
    assert_eq!(
        (without(&sibling), without(&format!("https://{}", host("", BOBS)))),
        (readable, None)
    );
}

#[test]
fn q3_an_image_or_script_of_a_page_is_judged_by_its_referer() {
    let scene = Scene::new();
    let main = host("", ALICES);
    let part = |referer: Option<&str>, method: &'static [u8], site: &'static [u8]| {
        let browser = Browser {
            mode: Some(b"no-cors"),
            dest: Some(b"image"),
            site: Some(site),
            referer: referer.map(str::as_bytes),
            ..Browser::default()
        };
        let (method, cookie) = (Some(method), Some(scene.cookie.as_bytes()));
        let reply = ask(&scene, &Request { method, cookie, browser, ..plain(&main) });
        reply.decision.reason
    };
    let sibling = format!("{}/", sibling());
    assert_eq!(part(Some(&sibling), b"GET", b"same-site"), Reason::Owner);
    let own = format!("https://{main}/");
    for (referer, method, site) in [
        (None, &b"GET"[..], &b"same-site"[..]),
        (Some(&sibling), b"POST", b"same-site"),
        (Some(&sibling), b"GET", b"cross-site"),
        (Some(&sibling), b"GET", b"something"),
        // By a redirect of another host.
        (Some(&own), b"GET", b"same-site"),
    ] {
        assert_eq!(part(referer.map(|r| &**r), method, site), Reason::OriginForeign, "{referer:?}");
    }
    for origin in foreign().into_iter().filter(|origin| !origin.ends_with('/')) {
        let referer = format!("{origin}/?{sibling}");
        assert_eq!(part(Some(&referer), b"GET", b"same-site"), Reason::OriginForeign, "{referer}");
    }
    set(&scene, &none(), |_| ());
    assert_eq!(part(Some(&sibling), b"GET", b"same-site"), Reason::OriginForeign);
}

#[test]
fn q3_a_source_has_the_setting_for_all_its_workspaces() {
    let rules = SourceRules { cross_origin: CrossOrigin::none(), ..SourceRules::default() };
    let scene = Scene::with_rules(rules);
    let (main, sibling) = (host("", ALICES), sibling());
    let reason = || ask(&scene, &of_page(&scene, &main, &sibling)).decision.reason;
    assert_eq!(reason(), Reason::OriginForeign);
    set(&scene, &only("same-workspace"), |_| ());
    assert_eq!(reason(), Reason::Owner);
    // An endpoint that the workspace does not declare has that of the source.
    let port = host("9000-", ALICES);
    assert_eq!(ask(&scene, &preflight(&port, &sibling)).cors, Some(Cors::Preflight));
}
