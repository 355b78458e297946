//! Which requests are equal for reuse, and where a reused request goes.

use std::collections::BTreeSet;

use super::{ask, id, stage};
use crate::{
    destinations::{add_port, by_https},
    support::{
        ALICES, BOBS, Haproxy, Stage, Version, certificates::Authority,
        haproxy::copy_with_browser_args, host, port_host, until,
    },
};
use dev_idp::DevIdp;

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_ends_strings_hides_no_difference() {
    for version in Version::all() {
        let stage = stage(version, 60_000, true).await;
        let alice = stage.idp.token_of("alice");
        let odd = format!(
            "{}{}",
            &alice[..alice.len() - 1],
            if alice.ends_with('A') { 'B' } else { 'A' }
        );
        let head = |token: &str, name: &str| {
            format!(
                "GET / HTTP/1.1\r\n{name}: x\0y\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n",
                host(ALICES)
            )
        };
        // A cookie is one of what is compared by itself.
        for name in ["X-A", "Cookie"] {
            let mut client = stage.client().await;
            let first = ask(&mut client, &head(&alice, name)).await;
            if first.status == 400 {
                // HAProxy takes no such request at all.
                continue;
            }
            assert_eq!(first.status, 200, "{version:?} {name} {}", first.body);
            assert_eq!(ask(&mut client, &head(&odd, name)).await.status, 401, "{version:?} {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_client_behind_the_same_connection_is_asked_about() {
    for version in Version::all() {
        let mut stage = stage(version, 60_000, true).await;
        // A proxy in front says who the client is; its header does not tell requests apart.
        let files = tempfile::tempdir().unwrap();
        copy_with_browser_args(files.path());
        let path = files.path().join("haproxy.cfg");
        let text = std::fs::read_to_string(&path).unwrap();
        let place = "    unique-id-format %[uuid()]\n";
        assert_eq!(text.matches(place).count(), 1);
        let rules = "    http-request set-src req.hdr(x-test-client)\n    http-request del-header x-test-client\n";
        std::fs::write(&path, text.replace(place, &format!("{place}{rules}"))).unwrap();
        let (directory, agent) = (stage.directory.path(), stage.agent.socket());
        let named = stage.bob.address();
        stage.haproxy = Haproxy::start_from(files.path(), version, directory, &agent, named).await;
        let token = stage.idp.token_of("alice");
        let head = |client: &str| {
            format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nX-Test-Client: {client}\r\n",
                host(ALICES)
            )
        };
        let mut client = stage.client().await;
        until("reuse", async || {
            let one = ask(&mut client, &head("192.0.2.1")).await;
            let two = ask(&mut client, &head("192.0.2.1")).await;
            (one.status == 200 && two.status == 200 && id(&one) == id(&two)).then_some(())
        })
        .await;
        for other in ["192.0.2.2", "2001:db8::1"] {
            let one = ask(&mut client, &head("192.0.2.1")).await;
            assert_eq!(one.arrived("x-forwarded-for"), ["192.0.2.1"]);
            let two = ask(&mut client, &head(other)).await;
            assert_ne!(id(&one), id(&two), "{version:?} {other}");
            assert_eq!(two.arrived("x-forwarded-for"), [other]);
            assert_eq!(id(&ask(&mut client, &head(other)).await), id(&two), "{version:?} {other}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_of_the_operators_own_is_asked_about_each_time() {
    let stage = stage(Version::newest(), 60_000, true).await;
    let token = stage.idp.token_of("bob");
    let mut client = stage.client().await;
    let mut ids = BTreeSet::new();
    for _ in 0..4 {
        ids.insert(id(&client.get(&port_host(8000, BOBS), Some(&token)).await));
    }
    assert_eq!(ids.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reused_by_https_must_show_the_certificate_of_its_name_too() {
    let authority = Authority::new("ours");
    for version in Version::all() {
        for (name, status) in [("localhost", 200), ("elsewhere.test", 503)] {
            let (_files, server) = by_https(&authority, name);
            let stage =
                Stage::changed(version, DevIdp::start().await, |directory, config, list| {
                    std::fs::write(directory.join("upstream-ca.pem"), authority.pem()).unwrap();
                    std::fs::write(directory.join("haproxy.env"), "GATE_REUSE=60000\n").unwrap();
                    *config = config.replace("[agent]\n", "[agent]\nverdict_cache_ms = 60000\n");
                    *list = add_port(list, 9443, &format!("https://localhost:{}", server.port));
                })
                .await;
            let token = stage.idp.token_of("alice");
            // By HTTP/2: this server ends its connection with each answer, and HAProxy that of the client.
            let (name, https) = (port_host(9443, ALICES), stage.haproxy.https);
            let client = reqwest::Client::builder()
                .no_proxy()
                .tls_danger_accept_invalid_certs(true)
                .resolve(&name, https)
                .build()
                .unwrap();
            let url = format!("https://{name}:{}/hello", https.port());
            let get = async || {
                let reply = client.get(&url).bearer_auth(&token).send().await.unwrap();
                (reply.status(), reply.text().await.unwrap())
            };
            until("the name to be resolved", async || {
                (!get().await.1.contains("destination_unresolved")).then_some(())
            })
            .await;
            for _ in 0..5 {
                assert_eq!(get().await.0, status, "{version:?} {}", stage.haproxy.log());
            }
            until("a line of the log about a reused allow over https", async || {
                let log = stage.haproxy.log();
                let mut lines = log.lines().filter(|line| line.contains(" reused=1 "));
                lines.any(|line| line.contains(" reused/https ")).then_some(())
            })
            .await;
        }
    }
}
