//! Any path and body as a route that a JupyterHub tells its proxy.
#![no_main]

use identity_spoa::{sources::{http::PlatformApi, hub::{Hub, HubSettings}}, workspaces::{Admission, host::Host, source::IdentityMapping}};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let url = "http://127.0.0.1:9".parse().unwrap();
    let settings = HubSettings {
        host: Host::parse(b"hub.test").unwrap(),
        identity_mapping: IdentityMapping::default(),
        hub_admission: Admission::Authenticated,
        shares: false,
    };
    thread_local!(static API: std::cell::Cell<Option<Hub>> = const { std::cell::Cell::new(None) });
    // A client is dear to make.
    let hub = API.take().unwrap_or_else(|| {
        Hub::new(PlatformApi::new(url, None, "token ", None).unwrap(), settings)
    });
    for route in text.split('\n') {
        let (path, body) = route.split_once(' ').unwrap_or((route, "{}"));
        let Ok(body) = serde_json::from_str(body) else { continue };
        if hub.add(path, body).is_ok() {
            let routes = hub.routes();
            // What was added is listed, below the hub's host or as the hub itself, and can be removed.
            let key = format!("/{}", path.trim_matches('/'));
            assert!(routes.contains_key(&key), "{key}");
            assert!(hub.remove(path));
            assert!(!hub.routes().contains_key(&key));
        }
    }
    API.set(Some(hub));
});
