//! The server's limits, deadlines and sockets.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
};

use identity_spoa::spop::{Status, client, frame::DEFAULT_SIZE};
use tokio::net::UnixStream;

use crate::{
    support::{ALICES, agent::program, host, until},
    wire::{Bare, Heard, Peer},
};
use dev_idp::TokenRequest;

#[tokio::test]
async fn f9_a_peer_that_says_nothing_or_half_a_frame_is_closed() {
    let bare = Bare::start().await;
    let silent = UnixStream::connect(bare.agent.socket()).await.unwrap();
    let mut silent = Peer::silent(Box::new(silent));
    let mut slow = bare.unix().await;
    let notify = slow.authorize(host(ALICES).as_bytes(), None);
    let start = std::time::Instant::now();
    let timeout = Status::Timeout as u32;
    let dripping = async {
        // A byte now and then does not help.
        for byte in &notify[..20] {
            slow.write(&[*byte]).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        slow.hear().await
    };
    let (dripped, said) = tokio::join!(dripping, silent.hear());
    assert_eq!((dripped, said), (Heard::Disconnect(timeout), Heard::Disconnect(timeout)));
    eprintln!("a silent peer and a dripping one were closed after {:?}", start.elapsed());
    assert_eq!(bare.unix().await.ask_public().await.as_deref(), Some("public"));
}

#[tokio::test]
async fn more_connections_than_configured_are_refused_and_others_go_on() {
    let bare = Bare::with("max_connections = 3").await;
    let mut peers = Vec::new();
    // The connection of the stage itself may still be on its way out.
    for _ in 0..2 {
        peers.push(bare.unix().await);
    }
    let mut refused = 0;
    let mut more = Vec::new();
    for _ in 0..10 {
        let stream = UnixStream::connect(bare.agent.socket()).await.unwrap();
        let mut peer = Peer::silent(Box::new(stream));
        let mut hello = Vec::new();
        client::hello(&mut hello, DEFAULT_SIZE, "pipelining", false);
        peer.write(&hello).await;
        match peer.hear().await {
            Heard::Closed => refused += 1,
            _ => more.push(peer),
        }
    }
    assert!(refused >= 9, "{refused}");
    for peer in &mut peers {
        assert_eq!(peer.ask_public().await.as_deref(), Some("public"));
    }
}

#[tokio::test]
async fn what_would_have_to_wait_beyond_the_limit_is_refused_as_overloaded() {
    let bare = Bare::with("max_pending = 0").await;
    let request = TokenRequest { sign_with: "unpublished".into(), ..TokenRequest::default() };
    let token = bare.idp.token(&request);
    let mut peer = bare.unix().await;
    assert_eq!(peer.ask(&host(ALICES), Some(&token)).await.as_deref(), Some("overloaded"));
    assert_eq!(peer.ask_public().await.as_deref(), Some("public"));
}

#[tokio::test]
async fn a_unix_socket_gets_its_mode_and_owner() {
    let bare = Bare::with("socket_owner = ':daemon'").await;
    let file = std::fs::metadata(bare.agent.socket()).unwrap();
    let daemon = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    assert_eq!(file.gid(), daemon.gid.as_raw());
    assert_eq!(file.permissions().mode() & 0o777, 0o666);
}

#[tokio::test]
async fn sockets_of_systemd_are_served() {
    let bare = Bare::start().await;
    let directory = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(bare.directory.path().join("agent.toml")).unwrap();
    let config = config.replace("\"unix:spop.sock\", \"127.0.0.1:0\"", "\"systemd\"");
    std::fs::write(directory.path().join("agent.toml"), config).unwrap();
    std::fs::copy(
        bare.directory.path().join("workspaces.yaml"),
        directory.path().join("workspaces.yaml"),
    )
    .unwrap();
    // What systemd does: a listening socket as descriptor 3, and the pid of who it is for.
    let activate = "use IO::Socket::UNIX; $^F = 9; \
        $s = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 5) or die; \
        die unless fileno($s) == 3; $ENV{LISTEN_FDS} = 1; $ENV{LISTEN_PID} = $$; \
        exec @ARGV[1..$#ARGV]";
    let socket = directory.path().join("passed.sock");
    let mut child = Command::new("perl")
        .args(["-e", activate])
        .arg(&socket)
        .args([program().as_os_str(), "run".as_ref(), "--config".as_ref()])
        .arg(directory.path().join("agent.toml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the socket", async || socket.exists().then_some(())).await;
    let mut peer = Peer::unix(&socket).await;
    assert_eq!(peer.ask_public().await.as_deref(), Some("public"));
    child.kill().unwrap();
    child.wait().unwrap();
    // The socket is systemd's, and stays.
    assert!(socket.exists());
}
