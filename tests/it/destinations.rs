//! Where allowed requests go when a workspace is at a name, through a real HAProxy.

use tempfile::TempDir;

use crate::{
    keys::TlsFiles,
    support::{
        ALICES, Client, Reply, Stage, Version, certificates::Authority, host, port_host, until,
    },
};
use dev_idp::DevIdp;

async fn get(stage: &Stage, host: &str, path: &str, user: &str) -> Reply {
    let token = stage.idp.token_of(user);
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
    Client::connect(stage.haproxy.http).await.raw(request.as_bytes()).await
}

/// Adds a port with a destination to alice's workspace.
pub(crate) fn add_port(list: &str, port: u16, destination: &str) -> String {
    let entry = format!("    ports:\n      - {{ port: {port}, destination: \"{destination}\" }}\n");
    list.replacen("    ports:\n", &entry, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_at_a_name_is_reached_where_the_name_leads() {
    for version in Version::all() {
        let idp = DevIdp::start().await;
        let mut stage = Stage::with(version, idp).await;
        let list = std::fs::read_to_string(stage.workspaces_file()).unwrap();
        let named = format!("http://localhost:{}", stage.alice.address().port());
        // A name that leads nowhere, and one that leads where no request may be sent.
        let list = add_port(&list, 8100, &named);
        let list = add_port(&list, 8200, "http://no-such-name.invalid:80");
        std::fs::write(stage.workspaces_file(), list).unwrap();
        until("the named place", async || {
            let reply = get(&stage, &port_host(8100, ALICES), "/", "alice").await;
            (reply.status == 200).then_some(())
        })
        .await;
        let reply = get(&stage, &port_host(8100, ALICES), "/", "alice").await;
        assert!(reply.body.starts_with("workspace alices"), "{}", reply.body);
        // Its own host, as the client sent it: links and origins stay what they are.
        assert_eq!(reply.arrived("host"), [port_host(8100, ALICES)]);
        let reply = get(&stage, &port_host(8200, ALICES), "/", "alice").await;
        assert_eq!(reply.status, 503);
        assert!(reply.body.contains("destination_unresolved"), "{}", reply.body);
        // Without the exception, no request goes to this machine, by any name.
        let config = std::fs::read_to_string(stage.directory.path().join("agent.toml")).unwrap();
        let config = config.replace("allow = [\"127.0.0.0/8\", \"::1\"]", "");
        std::fs::write(stage.directory.path().join("agent.toml"), config).unwrap();
        assert!(stage.agent.end().await);
        stage.agent = crate::support::AgentProcess::start(stage.directory.path()).await;
        for host in [host(ALICES), port_host(8100, ALICES)] {
            until("the refusal", async || {
                let reply = get(&stage, &host, "/", "alice").await;
                reply.body.contains("destination_forbidden").then_some(())
            })
            .await;
        }
    }
}

/// A workspace that shows a certificate of this name, and has `/hello`.
pub(crate) fn by_https(authority: &Authority, name: &str) -> (TempDir, TlsFiles) {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("hello"), "hello").unwrap();
    let name = [rcgen::SanType::DnsName(name.try_into().unwrap())];
    let certificate = authority.certificate("server", &name, |_| ());
    let server = TlsFiles::start(files.path(), &certificate.pem);
    (files, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_by_https_must_show_the_certificate_of_its_name() {
    let authority = Authority::new("ours");
    for version in Version::all() {
        for (name, status) in [("localhost", 200), ("elsewhere.test", 503)] {
            let (_files, server) = by_https(&authority, name);
            let stage = Stage::changed(version, DevIdp::start().await, |directory, _, list| {
                std::fs::write(directory.join("upstream-ca.pem"), authority.pem()).unwrap();
                *list = add_port(list, 9443, &format!("https://localhost:{}", server.port));
            })
            .await;
            let answered = until("the name to be resolved", async || {
                let reply = get(&stage, &port_host(9443, ALICES), "/hello", "alice").await;
                (!reply.body.contains("destination_unresolved")).then_some(reply.status)
            })
            .await;
            assert_eq!(answered, status, "{version:?} {}", stage.haproxy.log());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_another_spelling_of_an_address_leads_nowhere_else() {
    let stage = Stage::changed(Version::newest(), DevIdp::start().await, |_, _, list| {
        for port in 9101..=9106 {
            *list = add_port(list, port, "10.0.0.1:1");
        }
    })
    .await;
    let port = stage.alice.address().port();
    let list = std::fs::read_to_string(stage.workspaces_file()).unwrap();
    let at_bobs = |spelling: &str| {
        let bobs = format!("destination: {}", stage.bob.address());
        list.replace(&bobs, &format!("destination: \"{spelling}\""))
    };
    // Alice's own process, in other words: neither of the two is routed to.
    for spelling in [format!("[::ffff:127.0.0.1]:{port}"), format!("[64:ff9b::7f00:1]:{port}")] {
        std::fs::write(stage.workspaces_file(), at_bobs(&spelling)).unwrap();
        until("the contest", async || {
            let reply = get(&stage, &host(ALICES), "/", "alice").await;
            reply.body.contains("destination_contested").then_some(())
        })
        .await;
        std::fs::write(stage.workspaces_file(), &list).unwrap();
        until("its end", async || {
            (get(&stage, &host(ALICES), "/", "alice").await.status == 200).then_some(())
        })
        .await;
    }
    // Without an exception, this machine and the metadata of clouds are refused in all words.
    let config = std::fs::read_to_string(stage.directory.path().join("agent.toml")).unwrap();
    let config =
        config.replace("allow = [\"127.0.0.0/8\", \"::1\"]", "allow = [\"169.254.0.0/16\"]");
    let mut list = list;
    for (number, spelling) in [
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::127.0.0.1]:{port}"),
        format!("[64:ff9b:1::7f00:1]:{port}"),
        "[fd20:ce::254]:80".into(),
        "[fd00:ec2::23]:80".into(),
        "[::ffff:169.254.169.254]:80".into(),
    ]
    .iter()
    .enumerate()
    {
        let entry = format!("port: {}, destination: \"10.0.0.1:1\"", 9101 + number);
        assert!(list.contains(&entry), "{list}");
        list = list.replace(&entry, &entry.replace("10.0.0.1:1", spelling));
    }
    std::fs::write(stage.workspaces_file(), &list).unwrap();
    std::fs::write(stage.directory.path().join("agent.toml"), config).unwrap();
    for port in 9101..=9106 {
        until("the refusal", async || {
            let reply = get(&stage, &port_host(port, ALICES), "/", "alice").await;
            reply.body.contains("destination_forbidden").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_a_destination_that_is_the_gate_itself_makes_no_loop() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let list = std::fs::read_to_string(stage.workspaces_file()).unwrap();
        let list = add_port(&list, 9200, &stage.haproxy.http.to_string());
        let list =
            list.replace("port: 9200, destination", "port: 9200, admission: public, destination");
        std::fs::write(stage.workspaces_file(), list).unwrap();
        let looping = port_host(9200, ALICES);
        let reply = until("the way back to the gate", async || {
            let reply = stage.get(&looping, None).await;
            (reply.status != 401 && reply.status != 403).then_some(reply)
        })
        .await;
        assert_eq!(reply.status, 508, "{version:?} {}", reply.body);
        assert!(reply.body.contains("the gate itself"), "{version:?} {}", reply.body);
        // A client that sends the header itself only uses up its own rounds, and a value that is not a number is ignored.
        for (rounds, status) in [("9", 508), ("4", 508), ("3", 200), ("-9", 200), ("x", 200)] {
            let lines = format!("X-Identity-Rounds: {rounds}\r\n");
            let reply = stage.client().await.send(&port_host(3000, ALICES), lines.as_bytes()).await;
            assert_eq!(reply.status, status, "{version:?} {rounds} {}", reply.body);
        }
        // Nothing more is shown to a workspace than before.
        let reply = stage.get(&port_host(3000, ALICES), None).await;
        assert!(reply.arrived("x-identity-rounds").is_empty(), "{version:?} {}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_accepts_no_connection_is_told_with_the_id_of_the_log() {
    for version in Version::all() {
        let stage = Stage::with(version, DevIdp::start().await).await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let list = std::fs::read_to_string(stage.workspaces_file()).unwrap();
        let list = add_port(&list, 8300, &closed.to_string());
        std::fs::write(stage.workspaces_file(), list).unwrap();
        let reply = until("the closed port", async || {
            let reply = get(&stage, &port_host(8300, ALICES), "/", "alice").await;
            reply.body.starts_with("The workspace does not answer (request ").then_some(reply)
        })
        .await;
        assert_eq!(reply.status, 503, "{version:?}");
        let id = reply.body.split(['(', ')', ' ']).find(|part| part.len() == 36).unwrap();
        until("the line of the log", async || {
            let log = stage.haproxy.log();
            let is_it = |line: &str| line.contains(id) && line.contains(" allow=1 ");
            log.lines().any(is_it).then_some(())
        })
        .await;
    }
}
