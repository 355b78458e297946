use std::time::Duration;

use secrecy::SecretString;

use super::*;
use crate::{
    haproxy::runtime,
    identity::{
        TokenIds,
        groups::JoinedGroups,
        profile::{Authority, MatchBy},
    },
    sessions::{Lifetime, Sessions, Tokens, keyring::Keyring, table::SessionValidity},
    workspaces::NamedServer,
};

pub(super) fn identity() -> Identity {
    let matching = vec![MatchBy::Subject];
    Identity {
        authority: Arc::new(Authority::new("corp", "https://corp", matching)),
        issuer: "https://corp".into(),
        subject: "s".into(),
        email: Some("s@corp".into()),
        username: None,
        groups: vec!["g".into()],
        groups_joined: JoinedGroups::new(&["g".into()]),
        groups_overage: false,
        organization: Some("o".into()),
        token: TokenIds { id: Some("t".into()), ..TokenIds::default() },
        bound_to: None,
        expires: Timestamp::from_secs(2_000),
    }
}

pub(super) fn tunnel(credential: TunnelCredential, route: Route) -> Tunnel {
    Tunnel {
        id: DecisionId::from("1-2-3").unwrap(),
        kind: TunnelKind::Upgrade,
        identity: (credential != TunnelCredential::None).then(|| Arc::new(identity())),
        credential,
        session: None,
        workspace: Some("w".parse().unwrap()),
        owner: Some("o".into()),
        endpoint: Some(EndpointName::Port(3000)),
        reason: Reason::Owner,
        host: Host::parse(b"w.test").unwrap(),
        method: Some(b"GET".as_slice().into()),
        path: Some(b"/\xff".as_slice().into()),
        route: Some(route),
        client: None,
        since: Timestamp::from_secs(1_000),
        opened: MonotonicTime::default(),
        location: TunnelLocation {
            frontend: b"gate"[..].into(),
            stream: Some(7),
            started: Some(1_795_548_036_812_610),
            process: Some(8),
            source: Some("127.0.0.1:5".parse().unwrap()),
        },
    }
}

pub(super) fn named(renames: bool) -> Route {
    let gateway = NamedServer::parse("http://name.test:80").unwrap();
    let gateway = if renames { gateway.with_own_host_header() } else { gateway };
    Route::Named("10.0.0.1:80".parse().unwrap(), Arc::new(gateway))
}

/// A stream as HAProxy describes it.
fn detail(text: &str) -> Detail {
    let text = format!("{text}\n\nName: HAProxy\nPid: 8\n\n");
    runtime::details(text.as_bytes()).unwrap().remove(0)
}

#[test]
fn a_stream_is_a_tunnels_by_number_beginning_process_and_frontend() {
    let of = |id: u32, time: &str, frontend: &str, source: &str, mux: &str| {
        detail(&format!(
            "0x7f00: [24/Nov/2026:{time}] id={id} proto=tcpv4 source={source}\n  frontend={frontend} (id=2 mode=http)\n  txn=0x1 rsp.st=MSG_TUNNEL\n      co0=0x1 ctrl=tcpv4 {mux} data=STRM"
        ))
    };
    let Tunnel { location, .. } = tunnel(TunnelCredential::Token, named(false));
    let time = "19:20:36.812610";
    let right = of(7, time, "gate", "127.0.0.1:5", "mux=H2");
    assert!(location.is(&right, 8));
    assert!(!location.is(&right, 9), "another process");
    // The same moment in India.
    assert!(location.is(&of(7, "00:50:36.812610", "gate", "127.0.0.1:5", "mux=H2"), 8));
    for (what, detail) in [
        ("number", of(8, time, "gate", "127.0.0.1:5", "mux=H1")),
        ("moment", of(7, "19:20:36.812611", "gate", "127.0.0.1:5", "mux=H1")),
        ("frontend", of(7, time, "gate2", "127.0.0.1:5", "mux=H1")),
        ("source", of(7, time, "gate", "127.0.0.1:6", "mux=H1")),
    ] {
        assert!(!location.is(&detail, 8), "another {what}");
    }
    // Without a number only a connection with one stream tells.
    let old = TunnelLocation { stream: None, started: None, process: None, ..location };
    assert!(old.is(&of(1, time, "gate", "127.0.0.1:5", "mux=H1"), 3));
    assert!(!old.is(&of(1, time, "gate", "127.0.0.1:5", "mux=H2"), 3));
    let blind = TunnelLocation { source: None, ..old };
    assert!(!blind.can_be_found());
    assert!(!blind.is(&of(1, time, "gate", "127.0.0.1:5", "mux=H1"), 3));
}

#[test]
fn a_tunnel_ends_with_its_token_unless_the_operator_says_otherwise() {
    let at = |credential: TunnelCredential, settings: &TunnelSettings| {
        tunnel(credential, named(false))
            .end(settings)
            .map(|(end, cause)| (end.as_millis() / 1000, cause.id()))
    };
    let usual = TunnelSettings::default();
    for credential in [TunnelCredential::Token, TunnelCredential::Certificate] {
        assert_eq!(at(credential, &usual), Some((2_000, "token_expired")));
    }
    // The session says itself when it is over.
    assert_eq!(
        (at(TunnelCredential::Session, &usual), at(TunnelCredential::None, &usual)),
        (None, None)
    );
    let long = TunnelSettings { outlive_token: true, ..usual.clone() };
    assert_eq!(at(TunnelCredential::Token, &long), None);
    let bounded = TunnelSettings { max_lifetime: Some(Duration::from_secs(100)), ..long };
    for credential in [TunnelCredential::Token, TunnelCredential::Session, TunnelCredential::None] {
        assert_eq!(at(credential, &bounded), Some((1_100, "lifetime_reached")));
    }
    let later = TunnelSettings { max_lifetime: Some(Duration::from_secs(5_000)), ..usual };
    assert_eq!(at(TunnelCredential::Token, &later), Some((2_000, "token_expired")));
}

#[test]
fn c7_an_open_tunnel_keeps_its_session_awake_and_not_beyond_its_end() {
    let lifetime = Lifetime { idle: Duration::from_mins(1), absolute: Duration::from_mins(5) };
    let ring = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, [7; 32]);
    let sessions = Sessions::in_memory(lifetime, Arc::new(Keyring::parse(&ring).unwrap()));
    let tokens = Tokens {
        id_token: SecretString::from("t"),
        refresh_token: None,
        nonce: "n".into(),
        refreshed: Timestamp::from_secs(0),
        refresh_due: Timestamp::from_secs(0),
    };
    let at = |secs: u64| Timestamp::from_secs(1_000_000 + secs);
    let (id, session) = sessions.begin(identity(), tokens.clone(), "login", at(0)).unwrap();
    for secs in [50, 100, 150, 200, 250, 299] {
        assert_eq!(sessions.validity(&session, at(secs)), SessionValidity::Valid, "{secs}");
    }
    assert!(sessions.find(id.as_bytes(), "login", at(299)).is_some());
    assert_eq!(sessions.validity(&session, at(300)), SessionValidity::Ended, "the absolute end");
    // What was asleep is not woken up.
    let (_, other) = sessions.begin(identity(), tokens.clone(), "login", at(0)).unwrap();
    assert_eq!(sessions.validity(&other, at(60)), SessionValidity::Ended);
    assert_eq!(
        sessions.validity(&other, at(60)),
        SessionValidity::Ended,
        "nor by having been asked"
    );
    sessions.end_where(|ended| ended.is_same(&other)).unwrap();
    assert_eq!(sessions.validity(&other, at(1)), SessionValidity::Ended);
}

#[test]
fn strangers_take_no_place_of_peoples_and_one_client_has_one_share() {
    let (audit_log, _writer) =
        crate::audit::AuditLog::to_sink(Box::new(std::io::sink()), 1 << 20).unwrap();
    let settings = TunnelSettings { max: 16, ..TunnelSettings::default() };
    let tunnels = Tunnels::new(settings, 0, Arc::new(audit_log));
    let mut count = 0;
    let mut open = |subject: Option<&str>, client: &str| {
        count += 1;
        let someone =
            subject.map(|subject| Arc::new(Identity { subject: subject.into(), ..identity() }));
        let id = DecisionId::from(&format!("1-2-{count}")).unwrap();
        let client = Some(client.parse().unwrap());
        tunnels.open(Tunnel {
            id,
            identity: someone,
            client,
            ..tunnel(TunnelCredential::None, named(false))
        })
    };
    // A stranger has a whole /64 of addresses.
    for (client, fits) in [("2001:db8::1", true), ("2001:db8::2", true), ("2001:db8::3", false)] {
        assert_eq!(open(None, client).is_ok(), fits, "{client}");
    }
    for client in ["2001:db8:0:1::1", "10.0.0.1", "10.0.0.2"] {
        assert!(open(None, client).is_ok() && open(None, client).is_ok(), "{client}");
    }
    assert_eq!(open(None, "10.0.0.3"), Err(CannotTrack), "half of the table");
    for subject in ["a", "b", "c", "d"] {
        assert!(open(Some(subject), "10.0.0.1").is_ok(), "{subject}");
        assert!(open(Some(subject), "10.0.0.1").is_ok(), "{subject}");
        assert_eq!(open(Some(subject), "10.0.0.9"), Err(CannotTrack), "{subject} has enough");
    }
    assert_eq!(open(Some("e"), "10.0.0.1"), Err(CannotTrack), "there is no more");
    tunnels.ended(&[DecisionId::from("1-2-1").unwrap()]);
    assert!(open(Some("e"), "10.0.0.1").is_ok());
}
