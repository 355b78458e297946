use std::net::Ipv4Addr;

use super::*;
use crate::{
    authz::{decision::Decision, reason::Reason},
    identity::{Authority, credential::TokenLocations},
    request::{Browser, Reuse},
    spop::Value,
    workspaces::{EndpointName, PathRule, Person, Phase, Revision, Workspace},
};

const NOW: u64 = 1_700_000_000_000;

fn identity(expires: Timestamp) -> Identity {
    let authority = Authority::new("dev", "https://idp.test", vec![]);
    Identity { expires, ..Identity::plain(Arc::new(authority), "https://idp.test", "alice") }
}

fn workspace(paths: Vec<PathRule>) -> Arc<Workspace> {
    Arc::new(Workspace {
        id: "w".parse().unwrap(),
        instance: None,
        revision: Revision::default(),
        organization: None,
        owner_label: "alice".into(),
        owner: Person::default(),
        grants: vec![],
        phase: Phase::Running,
        address: None,
        template: None,
        endpoints: vec![],
        paths,
    })
}

fn allow() -> Response {
    decision().into()
}

fn decision() -> Decision {
    Decision {
        identity: Some(Arc::new(identity(Timestamp::from_secs(NOW / 1000 + 3600)))),
        workspace: Some(workspace(vec![])),
        route: Some(Route::Direct((Ipv4Addr::LOCALHOST, 80).into())),
        ..Decision::refuse(Reason::Owner)
    }
}

fn request() -> Request<'static> {
    Request {
        method: Some(b"GET"),
        host: Some(b"w.ws.test"),
        hosts: 1,
        client: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
        reuse: Reuse { id: Some(b"q-1"), now: Some(NOW), epoch: Some(b"e-1"), ..Reuse::default() },
        ..Request::default()
    }
}

fn offer<'r>(response: &Response, request: &Request<'r>) -> Option<ReuseTerms<'r>> {
    let cache = VerdictCache::new(Duration::from_secs(5), 0);
    cache.offer(response, request, Timestamp::from_secs(NOW / 1000))
}

#[test]
fn what_may_be_reused_says_of_which_request_for_whom_and_until_when() {
    let terms = offer(&allow(), &request()).unwrap();
    let client = Ipv4Addr::new(192, 0, 2, 1).into();
    let want =
        ReuseTerms { id: b"q-1", until: NOW + 5000, client, epoch: b"e-1", host: b"w.ws.test" };
    assert_eq!(terms, want);
    // A process that was sent no epoch has one, too.
    let mut fresh = request();
    fresh.reuse.epoch = None;
    assert_eq!(offer(&allow(), &fresh).unwrap().epoch, b"-");
}

#[test]
fn nothing_is_reused_for_longer_than_its_credential_lasts() {
    for (left, until) in [(3, Some(NOW + 3000)), (1, Some(NOW + 1000)), (0, None)] {
        let expires = Timestamp::from_secs(NOW / 1000 + left);
        let decision = Decision { identity: Some(Arc::new(identity(expires))), ..decision() };
        assert_eq!(offer(&decision.into(), &request()).map(|terms| terms.until), until, "{left}");
    }
}

#[test]
fn a_decision_that_may_not_be_reused_is_not_given() {
    let paths = vec![PathRule { prefix: "/a/".into(), endpoint: EndpointName::Main }];
    let locations = |query, subprotocol| {
        Some(Arc::new(TokenLocations { query, subprotocol, ..TokenLocations::default() }))
    };
    let with = |token_locations| Response { token_locations, ..allow() };
    for (why, response) in [
        ("a refusal", Decision { reason: Reason::NotPermitted, ..decision() }.into()),
        ("a look at the path", Decision { workspace: Some(workspace(paths)), ..decision() }.into()),
        ("no workspace", Decision { workspace: None, ..decision() }.into()),
        ("a backend", Decision { route: Some(Route::Backend("b".into())), ..decision() }.into()),
        ("nowhere to go", Decision { route: None, ..decision() }.into()),
        ("a token in the query", with(locations(Some("t".into()), false))),
        ("a token in a subprotocol", with(locations(None, true))),
    ] {
        assert_eq!(offer(&response, &request()), None, "{why}");
    }
}

#[test]
fn a_request_that_may_not_be_reused_is_not_given() {
    let change = |change: fn(&mut Request<'static>)| {
        let mut request = request();
        change(&mut request);
        request
    };
    for (why, request) in [
        ("another method", change(|r| r.method = Some(b"POST"))),
        ("no method", change(|r| r.method = None)),
        ("a tunnel", change(|r| r.upgrades = 1)),
        ("a tunnel by its header", change(|r| r.browser.upgrade = Some(b"websocket"))),
        ("a stream", change(|r| r.is_stream = true)),
        ("no host", change(|r| r.host = None)),
        ("no client", change(|r| r.client = None)),
        ("no name", change(|r| r.reuse.id = None)),
        ("an empty name", change(|r| r.reuse.id = Some(b""))),
        ("a name that is too long", change(|r| r.reuse.id = Some(&[b'a'; 65]))),
        ("no time", change(|r| r.reuse.now = None)),
        ("the end of time", change(|r| r.reuse.now = Some(u64::MAX))),
        ("a page elsewhere", change(|r| r.browser.site = Some(b"same-site"))),
    ] {
        assert_eq!(offer(&allow(), &request), None, "{why}");
    }
    let own = change(|r| r.browser = Browser { site: Some(b"same-origin"), ..Browser::default() });
    assert!(offer(&allow(), &own).is_some());
}

#[test]
fn what_haproxy_says_of_reuse_is_read_and_no_request_is_refused_for_it() {
    let read = |more: &[(&'static [u8], Value<'static>)]| {
        let needed: [(&[u8], Value<'_>); 5] = [
            (b"host", Value::Null),
            (b"hosts", Value::Int32(0)),
            (b"authorization", Value::Null),
            (b"authorizations", Value::Int32(0)),
            (b"cookies", Value::Int32(0)),
        ];
        let args = needed.into_iter().chain(more.iter().copied());
        Request::read(b"authorize", args).unwrap().reuse
    };
    let said = read(&[
        (b"reuse_id", Value::Str(b"q")),
        (b"reuse_now", Value::Int64(5)),
        (b"reuse_epoch", Value::Str(b"e")),
        (b"reused", Value::Int64(7)),
        (b"reused_of", Value::Str(b"d")),
    ]);
    let want =
        Reuse { id: Some(b"q"), now: Some(5), epoch: Some(b"e"), times: 7, last: Some(b"d") };
    assert_eq!(said, want);
    let odd = read(&[
        (b"reuse_id", Value::Int64(1)),
        (b"reuse_now", Value::Int64(-5)),
        (b"reuse_epoch", Value::Bool(true)),
        (b"reused", Value::Str(b"x")),
        (b"reused_of", Value::Null),
    ]);
    assert_eq!(odd, Reuse::default());
}

#[test]
fn an_allow_that_leads_elsewhere_takes_no_other_ones_place() {
    let cache = VerdictCache::new(Duration::from_secs(5), 0);
    let at = Timestamp::from_secs(NOW / 1000);
    let one = allow();
    assert!(cache.offer(&one, &request(), at).is_some());
    let route = Some(Route::Direct((Ipv4Addr::LOCALHOST, 81).into()));
    let moved = Decision { route, ..one.decision }.into();
    assert_eq!(cache.offer(&moved, &request(), at), None);
    cache.invalidate_all();
    assert!(cache.offer(&moved, &request(), at).is_some());
    let CacheStatus { on, offered, invalidated, .. } = cache.status();
    assert_eq!((on, offered, invalidated), (true, 2, 1));
}

#[test]
fn while_a_process_cannot_be_told_nothing_is_given() {
    let cache = VerdictCache::new(Duration::from_secs(5), 1);
    let at = Timestamp::from_secs(NOW / 1000);
    assert_eq!(cache.offer(&allow(), &request(), at), None);
    assert!(!cache.status().on);
}

#[test]
fn what_a_process_is_told_is_never_told_again() {
    let cache = VerdictCache::new(Duration::from_secs(5), 1);
    let other = VerdictCache::new(Duration::from_secs(5), 1);
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..3 {
        assert!(names.insert(cache.epoch_name()) && names.insert(other.epoch_name()));
        // A name is new even if nothing was invalidated: the reply to the last one may have been
        // lost.
        assert!(names.insert(cache.epoch_name()));
        cache.invalidate_all();
    }
}
