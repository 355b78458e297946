use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};

use super::{super::MAX_HOSTS, *};
use crate::{identity::profile::MatchBy, sessions::store::Kept};

fn identity() -> Identity {
    let matching = vec![MatchBy::Subject];
    let authority = Authority::new("corp", "https://corp", matching);
    Identity::plain(Arc::new(authority), "https://corp", "s")
}

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::ring(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap())
}

fn sessions() -> Sessions {
    let lifetime = Lifetime { idle: Duration::from_mins(1), absolute: Duration::from_mins(5) };
    Sessions::new(lifetime, sealer())
}

fn tokens() -> Tokens {
    let (asked, due) = (at(0), at(100));
    let refresh = Some(SecretString::from("r"));
    Tokens { id: SecretString::from("t"), refresh, nonce: "n".into(), asked, due }
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_000_000 + secs)
}

fn begin(sessions: &Sessions) -> (String, Arc<Session>) {
    sessions.begin(identity(), tokens(), "login", at(0)).unwrap()
}

#[test]
fn p2_a_cookie_counts_at_its_own_host_only() {
    let sessions = sessions();
    let (login, session) = begin(&sessions);
    let one = sessions.handle(&session, "one", at(0)).unwrap();
    assert!(sessions.find(one.as_bytes(), "one", at(1)).is_some());
    assert!(sessions.find(one.as_bytes(), "two", at(1)).is_none());
    assert!(sessions.find(one.as_bytes(), "login", at(1)).is_none());
    assert!(sessions.find(login.as_bytes(), "one", at(1)).is_none());
    assert!(sessions.find(login.as_bytes(), "login", at(1)).is_some());
}

#[test]
fn c7_sessions_end_when_they_are_idle_and_at_their_end() {
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

/// A session that one agent began, as news for a table that does not have it yet.
fn news(session: &Session, digest: Digest, host: &str) -> Change {
    let cookie = CookieEntry { digest, session: session.key, host: host.into() };
    Change::Begun { kept: session.as_kept(), cookie }
}

#[test]
fn l11_news_of_a_session_that_overtake_its_beginning_leave_no_second_one_that_never_ends() {
    let authorities = vec![identity().authority];
    let sessions =
        Sessions { authorities: arc_swap::ArcSwap::from_pointee(authorities), ..sessions() };
    // As its agent makes it, before it is in the table; the store's news are quicker.
    let (_, session) = begin(&super::tests::sessions());
    let login = hash(b"login cookie");
    sessions.apply(news(&session, login, "login"), at(0));
    let cookie = sessions.handle(&session, "one", at(0)).unwrap();
    for _ in 0..2 {
        let more = sessions.handle(&session, "two", at(0)).unwrap();
        assert!(sessions.find(more.as_bytes(), "two", at(1)).is_some());
    }
    assert!(sessions.find(cookie.as_bytes(), "one", at(1)).is_some());
    assert!(sessions.find(b"login cookie", "login", at(1)).is_some());
    assert_eq!(sessions.end(|other| other.is(&session)).unwrap(), 1);
    assert!(sessions.find(cookie.as_bytes(), "one", at(1)).is_none());
    assert!(sessions.find(b"login cookie", "login", at(1)).is_none());
    assert!(sessions.is_empty());
}

#[test]
fn l11_a_session_that_another_agent_ended_while_it_began_does_not_begin() {
    let sessions = sessions();
    let (_, session) = begin(&super::tests::sessions());
    sessions.apply(Change::Ended(vec![session.key]), at(0));
    assert_eq!(sessions.handle(&session, "one", at(0)), Err(NoRoom));
    assert!(sessions.is_empty());
}

#[test]
fn l11_an_ended_session_is_over_at_every_host() {
    let sessions = sessions();
    let (id, session) = begin(&sessions);
    let one = sessions.handle(&session, "one", at(0)).unwrap();
    assert_eq!(sessions.end(|other| other.is(&session)).unwrap(), 1);
    assert!(sessions.find(id.as_bytes(), "login", at(1)).is_none());
    assert!(sessions.find(one.as_bytes(), "one", at(1)).is_none());
}

#[test]
fn a_session_has_one_cookie_for_each_host_and_a_bounded_number_of_them() {
    let sessions = sessions();
    let (login, session) = begin(&sessions);
    let first = sessions.handle(&session, "one", at(0)).unwrap();
    let second = sessions.handle(&session, "one", at(0)).unwrap();
    assert!(sessions.find(first.as_bytes(), "one", at(1)).is_none());
    assert!(sessions.find(second.as_bytes(), "one", at(1)).is_some());
    assert_eq!(sessions.len(), 2);
    for number in 0..2 * MAX_HOSTS {
        sessions.handle(&session, &format!("host{number}"), at(0)).unwrap();
    }
    assert_eq!(sessions.len(), MAX_HOSTS);
    assert!(sessions.find(second.as_bytes(), "one", at(1)).is_none());
    // Whoever comes and goes that much signs in anew, and no other session is touched.
    assert!(sessions.find(login.as_bytes(), "login", at(1)).is_none());
}

#[test]
fn sessions_outlive_the_agent_in_a_file_and_ended_ones_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions");
    let authority = identity().authority;
    let load = |sealer: Arc<Sealer>, secs| {
        let store = Store::open(&path).unwrap();
        let lifetime = sessions().lifetime;
        let authorities = vec![Arc::clone(&authority)];
        Sessions::load(lifetime, store, sealer, authorities, at(secs)).unwrap()
    };
    let sessions = load(sealer(), 0);
    let (first, one) = begin(&sessions);
    let replaced = sessions.handle(&one, "one", at(0)).unwrap();
    let host = sessions.handle(&one, "one", at(0)).unwrap();
    let (second, two) = begin(&sessions);
    assert!(sessions.find(host.as_bytes(), "one", at(50)).is_some());
    sessions.tidy(at(50)).unwrap();
    assert_eq!(sessions.end(|session| session.is(&two)).unwrap(), 1);
    drop(sessions);
    let text = std::fs::read(&path).unwrap();
    assert!(!text.windows(5).any(|part| part == b"https"), "nothing can be read in it");
    let sessions = load(sealer(), 100);
    assert!(sessions.find(host.as_bytes(), "one", at(100)).is_some(), "used at 50");
    assert!(sessions.find(replaced.as_bytes(), "one", at(100)).is_none());
    assert_eq!(sessions.len(), 2);
    let found = sessions.find(first.as_bytes(), "login", at(100)).unwrap();
    let identity = found.identity();
    assert_eq!((&*identity.subject, identity.expires), ("s", at(300)));
    let kept = found.tokens();
    assert_eq!((kept.id.expose_secret(), &*kept.nonce), ("t", "n"));
    assert_eq!(kept.refresh.unwrap().expose_secret(), "r");
    assert_eq!((kept.asked, kept.due, found.began), (at(0), at(100), at(0)));
    assert!(sessions.find(second.as_bytes(), "login", at(100)).is_none(), "ended");
    drop((sessions, found, identity));
    let other = Arc::new(Sealer::ring(&URL_SAFE_NO_PAD.encode([8; 32])).unwrap());
    assert!(load(other, 101).is_empty(), "keys of somebody else open nothing");
    assert!(load(sealer(), 301).is_empty(), "over");
}

#[test]
fn l9_each_session_and_host_has_an_id_of_its_own() {
    let sessions = sessions();
    let (first, session) = begin(&sessions);
    let (second, _) = begin(&sessions);
    let host = sessions.handle(&session, "one", at(0)).unwrap();
    assert!(first != second && first != host);
    // 24 random bytes among 48.
    assert_eq!(first.len(), 64);
}

#[test]
fn c6_any_other_text_is_no_cookie() {
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
fn a_session_is_asked_about_when_its_time_has_come_and_it_was_used() {
    let sessions = sessions();
    let (id, session) = begin(&sessions);
    assert!(sessions.due(at(30)).is_empty(), "too early");
    assert!(sessions.find(id.as_bytes(), "login", at(50)).is_some());
    assert!(sessions.due(at(99)).is_empty(), "too early");
    assert_eq!(sessions.due(at(100)).len(), 1);
    session.put_off(at(200));
    assert!(sessions.due(at(105)).is_empty(), "is being asked about");
    session.put_off(at(100));
    let renewed = Tokens { asked: at(105), due: at(106), ..tokens() };
    let groups = vec![Box::from("staff")];
    sessions.renew(&session, Identity { groups, ..identity() }, renewed).unwrap();
    assert!(sessions.due(at(107)).is_empty(), "nobody used it since");
    let found = sessions.find(id.as_bytes(), "login", at(108)).unwrap();
    assert_eq!(found.identity().groups.len(), 1, "what the provider says counts from now on");
    assert_eq!(found.identity().expires, at(300), "its end stays");
    assert_eq!(sessions.due(at(108)).len(), 1);
    sessions.end(|other| other.is(&session)).unwrap();
    assert!(sessions.due(at(109)).is_empty(), "over");
}

#[test]
fn a_session_without_a_refresh_token_is_never_asked_about() {
    let sessions = sessions();
    let without = Tokens { refresh: None, due: at(1), ..tokens() };
    let (id, _) = sessions.begin(identity(), without, "login", at(0)).unwrap();
    assert!(sessions.find(id.as_bytes(), "login", at(50)).is_some());
    assert!(sessions.due(at(51)).is_empty());
}

#[test]
fn nobody_fills_the_table_alone_and_it_never_holds_more_than_it_may() {
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
fn what_a_provider_said_while_nothing_was_heard_counts_when_everything_is_read_anew() {
    let kept = |groups: &[&str], asked| {
        let groups = groups.iter().map(|group| Box::from(*group)).collect();
        let identity = Identity { groups, ..identity() };
        Kept::new(&identity, &Tokens { asked, ..tokens() }, [at(0), at(300), at(0)])
    };
    let sessions = Sessions {
        authorities: arc_swap::ArcSwap::from_pointee(vec![identity().authority]),
        ..sessions()
    };
    let (id, session) = begin(&sessions);
    let read = |kept| {
        let key = session.key;
        let cookie =
            CookieEntry { digest: hash(id.as_bytes()), session: key, host: "login".into() };
        sessions.replace(vec![Entry { key, kept, last: Some(at(40)) }], vec![cookie], at(50));
        let found = sessions.find(id.as_bytes(), "login", at(50)).unwrap();
        assert!(found.is(&session));
        found.identity().groups.len()
    };
    assert_eq!(read(kept(&["staff"], at(30))), 1, "asked after what is known here");
    assert_eq!(read(kept(&[], at(20))), 1, "asked before");
    assert_eq!(session.last(), at(50));
    assert_eq!(read(kept(&[], at(45))), 0);
}
