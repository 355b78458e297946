use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};

use super::{super::MAX_HOSTS, *};
use crate::{
    identity::profile::MatchBy,
    sessions::store::{LoadedSession, StoredSession, file::FileStore},
};

fn identity() -> Identity {
    let matching = vec![MatchBy::Subject];
    let authority = Authority::new("corp", "https://corp", matching);
    Identity::plain(Arc::new(authority), "https://corp", "s")
}

fn keyring() -> Arc<Keyring> {
    Arc::new(Keyring::parse(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap())
}

fn sessions() -> Sessions {
    let lifetime = Lifetime { idle: Duration::from_mins(1), absolute: Duration::from_mins(5) };
    Sessions::in_memory(lifetime, keyring())
}

fn tokens() -> Tokens {
    Tokens {
        id_token: SecretString::from("t"),
        refresh_token: Some(SecretString::from("r")),
        nonce: "n".into(),
        refreshed: at(0),
        refresh_due: at(100),
    }
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_000_000 + secs)
}

fn begin(sessions: &Sessions) -> (String, Arc<Session>) {
    sessions.begin(identity(), tokens(), "login", at(0)).unwrap()
}

#[test]
fn p2_a_cookie_is_valid_at_its_own_host_only() {
    let sessions = sessions();
    let (login, session) = begin(&sessions);
    let one = sessions.add_cookie(&session, "one", at(0)).unwrap();
    assert!(sessions.find(one.as_bytes(), "one", at(1)).is_some());
    assert!(sessions.find(one.as_bytes(), "two", at(1)).is_none());
    assert!(sessions.find(one.as_bytes(), "login", at(1)).is_none());
    assert!(sessions.find(login.as_bytes(), "one", at(1)).is_none());
    assert!(sessions.find(login.as_bytes(), "login", at(1)).is_some());
}

#[test]
fn c7_sessions_end_when_they_are_idle_and_at_their_absolute_end() {
    let sessions = sessions();
    let (id, session) = begin(&sessions);
    let find = |secs| sessions.find(id.as_bytes(), "login", at(secs)).is_some();
    assert!(find(59));
    assert!(find(118), "each request counts");
    assert!(!find(178), "idle");
    assert!(!find(179), "and nothing wakes it");
    let (id, _) = begin(&sessions);
    for secs in (0..300).step_by(30) {
        assert!(sessions.find(id.as_bytes(), "login", at(secs)).is_some());
    }
    assert!(sessions.find(id.as_bytes(), "login", at(300)).is_none(), "absolute");
    assert_eq!(session.identity().expires, at(300));
}

/// What another agent says of a session that began, to a table that does not have it yet.
fn learn_begin(sessions: &Sessions, session: &Session, digest: Digest, host: &str) {
    let cookie = StoredCookie { digest, session: session.key, host: host.into() };
    let (key, session) = (session.key, session.to_stored());
    let loaded = LoadedSession { key, session, last_used: None };
    sessions.learn_cookie(Some(loaded), &cookie, at(0));
}

#[test]
fn l11_a_change_that_arrives_before_its_session_leaves_no_second_one_that_never_ends() {
    let authorities = vec![identity().authority];
    let sessions =
        Sessions { authorities: arc_swap::ArcSwap::from_pointee(authorities), ..sessions() };
    // As its agent makes it, before it is in the table; the store's news are quicker.
    let (_, session) = begin(&super::tests::sessions());
    let login = hash(b"login cookie");
    learn_begin(&sessions, &session, login, "login");
    let cookie = sessions.add_cookie(&session, "one", at(0)).unwrap();
    for _ in 0..2 {
        let more = sessions.add_cookie(&session, "two", at(0)).unwrap();
        assert!(sessions.find(more.as_bytes(), "two", at(1)).is_some());
    }
    assert!(sessions.find(cookie.as_bytes(), "one", at(1)).is_some());
    assert!(sessions.find(b"login cookie", "login", at(1)).is_some());
    assert_eq!(sessions.end_where(|other| other.is_same(&session)).unwrap(), 1);
    assert!(sessions.find(cookie.as_bytes(), "one", at(1)).is_none());
    assert!(sessions.find(b"login cookie", "login", at(1)).is_none());
    assert!(sessions.is_empty());
}

#[test]
fn l11_a_session_that_another_agent_ended_while_it_began_does_not_begin() {
    let sessions = sessions();
    let (_, session) = begin(&super::tests::sessions());
    sessions.learn_end(&[session.key]);
    let done = sessions.add_cookie(&session, "one", at(0));
    assert!(matches!(done, Err(BeginError::Ended)), "{done:?}");
    assert!(sessions.is_empty());
}

#[test]
fn l11_an_ended_session_is_invalid_at_every_host() {
    let sessions = sessions();
    let (id, session) = begin(&sessions);
    let one = sessions.add_cookie(&session, "one", at(0)).unwrap();
    assert_eq!(sessions.end_where(|other| other.is_same(&session)).unwrap(), 1);
    assert!(sessions.find(id.as_bytes(), "login", at(1)).is_none());
    assert!(sessions.find(one.as_bytes(), "one", at(1)).is_none());
}

#[test]
fn a_session_has_one_cookie_for_each_host_and_a_bounded_number_of_them() {
    let sessions = sessions();
    let (login, session) = begin(&sessions);
    let first = sessions.add_cookie(&session, "one", at(0)).unwrap();
    let second = sessions.add_cookie(&session, "one", at(0)).unwrap();
    assert!(sessions.find(first.as_bytes(), "one", at(1)).is_none());
    assert!(sessions.find(second.as_bytes(), "one", at(1)).is_some());
    assert_eq!(sessions.len(), 2);
    for number in 0..2 * MAX_HOSTS {
        sessions.add_cookie(&session, &format!("host{number}"), at(0)).unwrap();
    }
    assert_eq!(sessions.len(), MAX_HOSTS);
    assert!(sessions.find(second.as_bytes(), "one", at(1)).is_none());
    // Such a browser must sign in again, and no other session is touched.
    assert!(sessions.find(login.as_bytes(), "login", at(1)).is_none());
}

#[test]
fn sessions_survive_a_restart_in_a_file_and_ended_ones_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions");
    let authority = identity().authority;
    let load = |keyring: Arc<Keyring>, secs| {
        let store = Arc::new(FileStore::open(&path, Arc::clone(&keyring)).unwrap());
        let lifetime = sessions().lifetime;
        let authorities = vec![Arc::clone(&authority)];
        Sessions::load(lifetime, store, keyring, authorities, at(secs)).unwrap()
    };
    let sessions = load(keyring(), 0);
    let (first, one) = begin(&sessions);
    let replaced = sessions.add_cookie(&one, "one", at(0)).unwrap();
    let host = sessions.add_cookie(&one, "one", at(0)).unwrap();
    let (second, two) = begin(&sessions);
    assert!(sessions.find(host.as_bytes(), "one", at(50)).is_some());
    sessions.remove_expired(at(50)).unwrap();
    assert_eq!(sessions.end_where(|session| session.is_same(&two)).unwrap(), 1);
    drop(sessions);
    let text = std::fs::read(&path).unwrap();
    assert!(!text.windows(5).any(|part| part == b"https"), "nothing can be read in it");
    let sessions = load(keyring(), 100);
    assert!(sessions.find(host.as_bytes(), "one", at(100)).is_some(), "used at 50");
    assert!(sessions.find(replaced.as_bytes(), "one", at(100)).is_none());
    assert_eq!(sessions.len(), 2);
    let found = sessions.find(first.as_bytes(), "login", at(100)).unwrap();
    let identity = found.identity();
    assert_eq!((&*identity.subject, identity.expires), ("s", at(300)));
    let tokens = found.tokens();
    assert_eq!((tokens.id_token.expose_secret(), &*tokens.nonce), ("t", "n"));
    assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "r");
    assert_eq!((tokens.refreshed, tokens.refresh_due, found.began), (at(0), at(100), at(0)));
    assert!(sessions.find(second.as_bytes(), "login", at(100)).is_none(), "ended");
    drop((sessions, found, identity));
    let other = Arc::new(Keyring::parse(&URL_SAFE_NO_PAD.encode([8; 32])).unwrap());
    assert!(load(other, 101).is_empty(), "other keys decrypt nothing");
    assert!(load(keyring(), 301).is_empty(), "over");
}

#[test]
fn l9_each_session_and_host_has_an_id_of_its_own() {
    let sessions = sessions();
    let (first, session) = begin(&sessions);
    let (second, _) = begin(&sessions);
    let host = sessions.add_cookie(&session, "one", at(0)).unwrap();
    assert!(first != second && first != host);
    // 24 random bytes among 48.
    assert_eq!(first.len(), 64);
}

#[test]
fn c6_any_other_text_is_not_a_cookie() {
    let sessions = sessions();
    let (id, _) = begin(&sessions);
    for end in 0..id.len() {
        assert!(sessions.find(&id.as_bytes()[..end], "login", at(1)).is_none());
        let mut flipped = id.clone().into_bytes();
        flipped[end] ^= 1;
        assert!(sessions.find(&flipped, "login", at(1)).is_none(), "{end}");
    }
    for odd in ["", "=", "%", &"A".repeat(43), &"A".repeat(64), &"A".repeat(5000), "\u{e9}"] {
        assert!(sessions.find(odd.as_bytes(), "login", at(1)).is_none());
    }
}

#[test]
fn a_session_is_refreshed_when_it_is_due_and_was_used() {
    let sessions = sessions();
    let (id, session) = begin(&sessions);
    assert!(sessions.due_for_refresh(at(30)).is_empty(), "too early");
    assert!(sessions.find(id.as_bytes(), "login", at(50)).is_some());
    assert!(sessions.due_for_refresh(at(99)).is_empty(), "too early");
    assert_eq!(sessions.due_for_refresh(at(100)).len(), 1);
    session.postpone_refresh(at(200));
    assert!(sessions.due_for_refresh(at(105)).is_empty(), "is being asked about");
    session.postpone_refresh(at(100));
    let refreshed = Tokens { refreshed: at(105), refresh_due: at(106), ..tokens() };
    let groups = vec![Box::from("staff")];
    sessions.refresh(&session, Identity { groups, ..identity() }, refreshed).unwrap();
    assert!(sessions.due_for_refresh(at(107)).is_empty(), "not used since");
    let found = sessions.find(id.as_bytes(), "login", at(108)).unwrap();
    assert_eq!(found.identity().groups.len(), 1, "what the provider says counts from now on");
    assert_eq!(found.identity().expires, at(300), "its end stays");
    assert_eq!(sessions.due_for_refresh(at(108)).len(), 1);
    sessions.end_where(|other| other.is_same(&session)).unwrap();
    assert!(sessions.due_for_refresh(at(109)).is_empty(), "over");
}

#[test]
fn a_session_without_a_refresh_token_is_never_refreshed() {
    let sessions = sessions();
    let without = Tokens { refresh_token: None, refresh_due: at(1), ..tokens() };
    let (id, _) = sessions.begin(identity(), without, "login", at(0)).unwrap();
    assert!(sessions.find(id.as_bytes(), "login", at(50)).is_some());
    assert!(sessions.due_for_refresh(at(51)).is_empty());
}

#[test]
fn one_person_cannot_fill_the_table_and_it_never_holds_more_than_it_may() {
    let sessions = Sessions { most: MAX_OF_PERSON + 2, ..sessions() };
    let (first, _) = begin(&sessions);
    let (second, _) = begin(&sessions);
    assert!(sessions.find(first.as_bytes(), "login", at(1)).is_some(), "used last");
    for _ in 2..MAX_OF_PERSON {
        sessions.begin(identity(), tokens(), "login", at(1)).unwrap();
    }
    let (last, _) = sessions.begin(identity(), tokens(), "login", at(2)).unwrap();
    let lasts = |id: &str| sessions.find(id.as_bytes(), "login", at(2)).is_some();
    assert_eq!((lasts(&first), lasts(&second), lasts(&last)), (true, false, true));
    assert_eq!(sessions.len(), MAX_OF_PERSON);
    // Others have room, until there is none.
    for (subject, fits) in [("a", true), ("b", true), ("c", false)] {
        let other = Identity { subject: subject.into(), ..identity() };
        assert_eq!(sessions.begin(other, tokens(), "login", at(2)).is_ok(), fits, "{subject}");
    }
    // Which sessions that are over do not take.
    let other = Identity { subject: "c".into(), ..identity() };
    assert!(sessions.begin(other, tokens(), "login", at(90)).is_ok());
}

#[test]
fn a_refresh_that_was_missed_is_learned_when_everything_is_read_again() {
    let stored = |groups: &[&str], refreshed| {
        let groups = groups.iter().map(|group| Box::from(*group)).collect();
        let identity = Identity { groups, ..identity() };
        let tokens = Tokens { refreshed, ..tokens() };
        StoredSession::new(&identity, &tokens, [at(0), at(300), at(0)])
    };
    let sessions = Sessions {
        authorities: arc_swap::ArcSwap::from_pointee(vec![identity().authority]),
        ..sessions()
    };
    let (id, session) = begin(&sessions);
    let read = |session_now| {
        let key = session.key;
        let cookie =
            StoredCookie { digest: hash(id.as_bytes()), session: key, host: "login".into() };
        let loaded = LoadedSession { key, session: session_now, last_used: Some(at(40)) };
        sessions.replace_all(vec![loaded], vec![cookie], at(50));
        let found = sessions.find(id.as_bytes(), "login", at(50)).unwrap();
        assert!(found.is_same(&session));
        found.identity().groups.len()
    };
    assert_eq!(read(stored(&["staff"], at(30))), 1, "asked after what is known here");
    assert_eq!(read(stored(&[], at(20))), 1, "asked before");
    assert_eq!(session.last_used(), at(50));
    assert_eq!(read(stored(&[], at(45))), 0);
}
