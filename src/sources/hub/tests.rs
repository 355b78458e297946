//! Routes as a JupyterHub sends them, and every route that must be refused.

use super::*;
use crate::workspaces::IssuerNames;

fn hub() -> Hub {
    let url = "http://127.0.0.1:9".parse().unwrap();
    let settings = HubSettings {
        host: Host::parse(b"hub.test").unwrap(),
        identity_mapping: IdentityMapping { issuers: IssuerNames::one("corp"), organization: None },
        hub_admission: Admission::Authenticated,
        shares: false,
    };
    Hub::new(PlatformApi::new(url, None, "token ", None).unwrap(), settings)
}

fn body(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap()
}

async fn follow(hub: &Arc<Hub>) -> mpsc::Receiver<SourceEvent> {
    let (sender, mut events) = mpsc::channel(64);
    let following = Arc::clone(hub);
    tokio::spawn(async move { following.watch(sender).await });
    assert_eq!(events.recv().await, Some(SourceEvent::Connected));
    while hub.listener.lock().is_none() {
        tokio::task::yield_now().await;
    }
    events
}

#[tokio::test]
async fn a_server_is_there_from_its_route_on_and_gone_with_it() {
    let hub = Arc::new(hub());
    let mut events = follow(&hub).await;
    let server =
        r#"{"user":"alice","server_name":"","target":"http://127.0.0.1:49083","jupyterhub":true}"#;
    hub.add("/alice.hub.test/user/alice", body(server)).unwrap();
    let Some(SourceEvent::Described(workspace)) = events.recv().await else { panic!() };
    assert_eq!((workspace.id.as_str(), &*workspace.owner_label), ("alice", "alice"));
    assert_eq!(workspace.endpoints[0].destination.to_string(), "127.0.0.1:49083");
    assert_eq!(workspace.endpoints[0].admission, Admission::Grants);
    let routes = hub.routes();
    assert_eq!(routes["/alice.hub.test/user/alice"], Value::Object(body(server)));
    assert!(hub.remove("/alice.hub.test/user/alice"));
    assert_eq!(events.recv().await, Some(SourceEvent::Ended("alice".parse().unwrap())));
    assert!(!hub.remove("/alice.hub.test/user/alice"));
    assert!(hub.routes().is_empty());
}

#[tokio::test]
async fn a_named_server_is_an_endpoint_below_its_path() {
    let hub = Arc::new(hub());
    let mut events = follow(&hub).await;
    for (path, name, port) in [("", "", 1), ("/gpu", "gpu", 2)] {
        let body = body(&format!(
            r#"{{"user":"alice","server_name":"{name}","target":"http://10.0.0.1:{port}"}}"#
        ));
        hub.add(&format!("/alice.hub.test/user/alice{path}"), body).unwrap();
    }
    events.recv().await;
    let Some(SourceEvent::Described(workspace)) = events.recv().await else { panic!() };
    let at = |path: &str| {
        let name = workspace.endpoint_at(&EndpointName::Main, Some(path.as_bytes()));
        workspace.endpoint(&name).unwrap().destination.to_string()
    };
    assert_eq!(at("/user/alice/tree"), "10.0.0.1:1");
    assert_eq!(at("/user/alice/gpu/tree"), "10.0.0.1:2");
    assert_eq!(at("/user/alice/gpux"), "10.0.0.1:1");
    // One of them stops, and the other stays.
    hub.remove("/alice.hub.test/user/alice/gpu");
    let Some(SourceEvent::Described(workspace)) = events.recv().await else { panic!() };
    assert_eq!(workspace.endpoints.len(), 1);
}

#[tokio::test]
async fn no_name_of_a_user_writes_another_header() {
    let hub = Arc::new(hub());
    let mut events = follow(&hub).await;
    let target = r#"{"user":"al\r\nX-Evil: 1\u0085ice","target":"http://10.0.0.1:1"}"#;
    hub.add("/alice.hub.test/user/alice", body(target)).unwrap();
    let Some(SourceEvent::Described(workspace)) = events.recv().await else { panic!() };
    assert_eq!(&*workspace.owner_label, "alX-Evil: 1ice");
}

#[test]
fn a_route_that_cannot_be_served_is_refused_with_the_reason() {
    let hub = hub();
    let target = body(r#"{"user":"alice","target":"http://127.0.0.1:1"}"#);
    for path in [
        "/user/alice",
        "/user/alice/gpu",
        "/ev il.test/user/alice",
        "/alice.other.test/user/alice",
        "/a.b.hub.test/user/alice",
        "/alicehub.test/user/alice",
        "/hub.hub.test/user/hub",
    ] {
        let error = hub.add(path, target.clone()).unwrap_err();
        assert!(error.to_string().contains("subdomain_host"), "{path}: {error}");
    }
    for bad in [r"{}", r#"{"target":"nowhere"}"#, r#"{"target":"https://10.0.0.1:1"}"#] {
        let error = hub.add("/alice.hub.test/user/alice", body(bad)).unwrap_err();
        assert!(matches!(error, RouteError::Target(_)), "{bad}");
    }
}

#[tokio::test]
async fn the_hub_itself_is_open_to_whom_the_operator_says() {
    let hub = Arc::new(hub());
    let mut events = follow(&hub).await;
    hub.add("/", body(r#"{"hub":true,"target":"http://127.0.0.1:8081"}"#)).unwrap();
    let Some(SourceEvent::Described(workspace)) = events.recv().await else { panic!() };
    assert_eq!(workspace.id.as_str(), "hub");
    assert_eq!(workspace.endpoints[0].admission, Admission::Authenticated);
    assert_eq!(workspace.owner, Person::default());
    assert!(hub.routes().contains_key("/"));
}
