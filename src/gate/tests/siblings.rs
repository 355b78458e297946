//! Which other hosts of a workspace get a cookie of a session, and when a browser is led through the login host for it.

use std::time::Duration;

use super::*;
use crate::{
    sessions::Session,
    workspaces::{
        Admission, CrossOrigin, Destination, Endpoint, EndpointName, EndpointOrigins, Phase,
        Protocol,
    },
};

fn endpoint(port: u16, admission: Admission) -> Endpoint {
    at([10, 1], port, admission)
}

/// An endpoint of a workspace with addresses that begin like this.
fn at([a, b]: [u8; 2], port: u16, admission: Admission) -> Endpoint {
    Endpoint {
        name: EndpointName::Port(port),
        protocol: Protocol::Http,
        admission,
        destination: Destination::Address(format!("{a}.{b}.1.1:{port}").parse().unwrap()),
        origins: EndpointOrigins::default(),
    }
}

/// Adds endpoints to the workspace of a person.
fn add(scene: &Scene, id: &str, owner: &str, address: u8, more: Vec<Endpoint>) {
    let mut workspace = scene::workspace(id, owner, address);
    workspace.endpoints.extend(more);
    scene.publisher.set(workspace, crate::time::MonotonicTime::now());
}

fn session(scene: &Scene) -> Arc<Session> {
    let id = scene.cookie.split_once('=').unwrap().1.as_bytes();
    let browser = scene.gate.browser.as_ref().unwrap();
    browser.sessions.find(id, &host("", ALICES), scene.now).unwrap()
}

fn hosts(scene: &Scene, here: &str) -> Vec<String> {
    let (workspaces, here) = (scene.gate.registry.snapshot(), here.parse().unwrap());
    let scratch = &mut Scratch::default();
    let gate = &scene.gate;
    let found = gate.hosts_without_cookie(&session(scene), &here, &workspaces, scene.now, scratch);
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn q3_hosts_get_a_cookie_if_the_person_may_reach_them_and_pages_may_use_them() {
    let scene = Scene::new();
    assert!(hosts(&scene, &host("", ALICES)).is_empty(), "there is only one");
    let closed =
        EndpointOrigins { cross_origin: Some(CrossOrigin::none()), ..EndpointOrigins::default() };
    let own = vec![
        endpoint(3000, Admission::Owner),
        endpoint(8080, Admission::Public),
        Endpoint { protocol: Protocol::Tcp, ..endpoint(2222, Admission::Owner) },
        Endpoint { origins: closed, ..endpoint(9000, Admission::Owner) },
    ];
    add(&scene, ALICES, "alice", 1, own.clone());
    let [main, web, api] = ["", "3000-", "8080-"].map(|port| host(port, ALICES));
    assert_eq!(hosts(&scene, &main), [web.clone(), api.clone()]);
    // The host of alice's workspace has a cookie already.
    assert_eq!(hosts(&scene, &web), [&*api]);
    assert!(hosts(&scene, "www.x.test").is_empty() && hosts(&scene, &host("", BOBS)).is_empty());
    // Of another person's workspace, only what is open to her.
    let theirs = vec![
        at([10, 2], 3000, Admission::Authenticated),
        at([10, 2], 4000, Admission::Owner),
        at([10, 2], 5000, Admission::Authenticated),
    ];
    add(&scene, BOBS, "bob", 2, theirs);
    assert_eq!(hosts(&scene, &host("3000-", BOBS)), [host("5000-", BOBS)]);
    // A cookie that was sent is not sent again for a while, whether the browser took it or not.
    session(&scene).note_cookie_sent(&web, scene.now);
    assert_eq!(hosts(&scene, &main), [api]);
    let mut stopped = scene::workspace(ALICES, "alice", 1);
    stopped.endpoints.extend(own);
    stopped.phase = Phase::Stopped;
    scene.publisher.set(stopped, crate::time::MonotonicTime::now());
    assert!(hosts(&scene, &main).is_empty(), "nothing is there to be reached");
}

#[test]
fn q3_the_number_of_hosts_is_bounded() {
    let scene = Scene::new();
    let many = (1000..1100).map(|port| endpoint(port, Admission::Owner)).collect();
    add(&scene, ALICES, "alice", 1, many);
    assert_eq!(hosts(&scene, &host("", ALICES)).len(), 16);
}

#[test]
fn q3_a_browser_is_led_round_only_when_a_person_opens_a_page_and_not_twice() {
    let mut scene = Scene::new();
    add(&scene, ALICES, "alice", 1, vec![endpoint(3000, Admission::Owner)]);
    let main = host("", ALICES);
    let cookie = scene.cookie.clone();
    let opened = Browser {
        mode: Some(b"navigate"),
        dest: Some(b"document"),
        site: Some(b"none"),
        ..Browser::default()
    };
    let page = Request { cookie: Some(cookie.as_bytes()), browser: opened, ..plain(&main) };
    for other in [
        Request { method: Some(b"HEAD"), ..page },
        Request { method: Some(b"POST"), ..page },
        Request { browser: Browser { dest: Some(b"iframe"), ..opened }, ..page },
        Request { browser: Browser { dest: Some(b"empty"), ..opened }, ..page },
        Request { browser: Browser { mode: Some(b"cors"), ..opened }, ..page },
        Request { browser: Browser::default(), ..page },
    ] {
        let reply = ask(&scene, &other);
        assert_eq!(reply.decision.reason, Reason::Owner, "{other:?}");
        assert!(reply.sign_in_redirect.is_none());
    }
    // A program with a token has no session.
    let bearer = format!("Bearer {}", scene.token(&json!({})));
    let program = Request { authorization: Some(bearer.as_bytes()), cookie: None, ..page };
    assert_eq!(ask(&scene, &program).decision.reason, Reason::Owner);
    assert_eq!(ask(&scene, &page).decision.reason, Reason::Owner, "she has just signed in");
    scene.now = scene.now.plus(Duration::from_secs(3));
    let led = ask(&scene, &page);
    assert_eq!(led.decision.reason, Reason::EndpointsWithoutSession);
    assert!(led.decision.route.is_none() && led.sign_in_redirect.is_some());
    assert_eq!(ask(&scene, &page).decision.reason, Reason::Owner, "back again");
    scene.now = scene.now.plus(Duration::from_secs(61));
    assert_eq!(ask(&scene, &page).decision.reason, Reason::Owner, "it took none");
    let more = vec![endpoint(3000, Admission::Owner), endpoint(4000, Admission::Owner)];
    add(&scene, ALICES, "alice", 1, more);
    session(&scene).note_cookie_sent(&host("4000-", ALICES), scene.now);
    assert_eq!(ask(&scene, &page).decision.reason, Reason::Owner, "nothing is to be delivered");
    let more = vec![endpoint(3000, Admission::Owner), endpoint(5000, Admission::Owner)];
    add(&scene, ALICES, "alice", 1, more);
    assert_eq!(ask(&scene, &page).decision.reason, Reason::EndpointsWithoutSession);
}
