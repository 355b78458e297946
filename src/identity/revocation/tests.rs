use std::sync::Arc;

use super::*;
use crate::identity::{Authority, TokenIds, groups::JoinedGroups};

fn identity(authority: &str, subject: &str, issued: Option<u64>) -> Identity {
    let authority = named(authority, authority);
    Identity {
        issuer: authority.identifier.clone(),
        authority,
        subject: subject.into(),
        email: None,
        username: None,
        groups: vec![],
        groups_joined: JoinedGroups::default(),
        groups_overage: false,
        organization: None,
        token: TokenIds {
            id: Some(format!("token of {subject}").into()),
            session: Some(format!("session of {subject}").into()),
            sub: None,
            issued: issued.map(Timestamp::from_millis),
        },
        bound_to: None,
        expires: Timestamp::from_secs(1),
    }
}

/// The issuer of `host`, as the configuration calls it.
fn named(name: &str, host: &str) -> Arc<Authority> {
    Arc::new(Authority::new(name, &format!("https://{host}.test"), vec![]))
}

fn names() -> Vec<Arc<Authority>> {
    vec![named("corp", "corp"), named("partner", "partner")]
}

fn none() -> Revocations {
    Revocations::open(names(), None).unwrap()
}

fn revocation_of(subject: &str) -> Revocation {
    Revocation { issuer: "corp".into(), subject: Some(subject.into()), ..Revocation::default() }
}

const NOW: Timestamp = Timestamp::from_millis(5000);

#[test]
fn a_subject_is_revoked_with_all_it_has_at_its_issuer_only() {
    let revocations = none();
    assert!(!revocations.cover(&identity("corp", "alice", Some(1))));
    revocations.revoke(revocation_of("alice"), NOW).unwrap();
    for issued in [None, Some(1), Some(u64::MAX)] {
        assert!(revocations.cover(&identity("corp", "alice", issued)));
        assert!(!revocations.cover(&identity("corp", "bob", issued)));
        assert!(!revocations.cover(&identity("partner", "alice", issued)), "another person");
    }
    assert!(revocations.lift(revocation_of("alice"), NOW).unwrap());
    assert!(!revocations.lift(revocation_of("alice"), NOW).unwrap());
    assert!(!revocations.cover(&identity("corp", "alice", None)));
}

#[test]
fn what_was_issued_before_a_moment_is_revoked_and_what_does_not_say_when() {
    let revocations = none();
    revocations
        .revoke(Revocation { before_ms: Some(1000), ..revocation_of("alice") }, NOW)
        .unwrap();
    for (issued, revoked) in [(None, true), (Some(0), true), (Some(999), true), (Some(1000), false)]
    {
        assert_eq!(revocations.cover(&identity("corp", "alice", issued)), revoked, "{issued:?}");
    }
    // Neither an earlier moment nor a later one gives back what was revoked.
    revocations.revoke(Revocation { before_ms: Some(500), ..revocation_of("alice") }, NOW).unwrap();
    assert!(revocations.cover(&identity("corp", "alice", Some(999))));
    revocations.revoke(revocation_of("alice"), NOW).unwrap();
    revocations
        .revoke(Revocation { before_ms: Some(2000), ..revocation_of("alice") }, NOW)
        .unwrap();
    assert!(revocations.cover(&identity("corp", "alice", Some(u64::MAX))));
    assert_eq!(revocations.list().len(), 1);
}

#[test]
fn a_session_or_a_token_is_revoked_alone() {
    let revocations = none();
    let session = Some("session of alice".into());
    let token = Some("token of bob".into());
    let issuer: Box<str> = "corp".into();
    let one = Revocation { issuer: issuer.clone(), session, ..Revocation::default() };
    let other = Revocation { issuer, token, ..Revocation::default() };
    revocations.revoke(one, NOW).unwrap();
    revocations.revoke(other, NOW).unwrap();
    for (subject, revoked) in [("alice", true), ("bob", true), ("carol", false)] {
        assert_eq!(revocations.cover(&identity("corp", subject, None)), revoked, "{subject}");
        assert!(!revocations.cover(&identity("partner", subject, None)));
    }
}

#[test]
fn what_does_not_say_exactly_what_is_refused() {
    let revocations = none();
    let text = |text: &str| Some(Box::from(text));
    for (bad, want) in [
        (Revocation { subject: None, ..revocation_of("") }, "exactly one"),
        (Revocation { session: text("s"), ..revocation_of("a") }, "exactly one"),
        (
            Revocation { subject: None, token: text("t"), before_ms: Some(1), ..revocation_of("") },
            "exactly one",
        ),
        (revocation_of(""), "1 to 512 bytes"),
        (revocation_of("a\nb"), "control"),
        (revocation_of(&"x".repeat(513)), "1 to 512 bytes"),
        (Revocation { note: text("\x1b"), ..revocation_of("a") }, "control"),
        (Revocation { issuer: "".into(), ..revocation_of("a") }, "\"corp\", \"partner\""),
        (Revocation { issuer: "unknown".into(), ..revocation_of("a") }, "\"corp\", \"partner\""),
    ] {
        let error = revocations.revoke(bad.clone(), NOW).unwrap_err().to_string();
        assert!(error.contains(want), "{bad:?}: {error}");
    }
    assert!(revocations.list().is_empty());
    let alone = Revocations::open(vec![named("corp", "corp")], None).unwrap();
    alone.revoke(Revocation { issuer: "".into(), ..revocation_of("alice") }, NOW).unwrap();
    assert!(alone.cover(&identity("corp", "alice", None)), "there is only one to mean");
}

#[test]
fn revocations_outlive_a_restart_and_an_unfinished_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("revocations");
    let open = || {
        let revocations = Revocations::open(names(), Some(path.clone()))?;
        revocations.own().map(|()| revocations)
    };
    let first = open().unwrap();
    first.revoke(revocation_of("alice"), NOW).unwrap();
    let error = open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("another agent"), "{error}");
    first.revoke(revocation_of("bob"), NOW).unwrap();
    first.lift(revocation_of("bob"), NOW).unwrap();
    drop(first);
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{whole}{{\"revoke\":{{\"issuer\":\"co")).unwrap();
    let second = open().unwrap();
    assert!(second.cover(&identity("corp", "alice", None)));
    assert!(!second.cover(&identity("corp", "bob", None)));
    second.revoke(revocation_of("carol"), NOW).unwrap();
    drop(second);
    assert!(open().unwrap().cover(&identity("corp", "carol", None)));
    // A broken line in the middle could have revoked any person.
    std::fs::write(&path, format!("nonsense\n{whole}")).unwrap();
    let error = open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn a_file_that_is_not_a_journal_is_refused_without_reading_all_of_it() {
    // Endless zeros.
    let error = Revocations::open(names(), Some("/dev/zero".into())).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

/// An identity of the issuer of `host`, whatever that is called.
fn called(name: &str, host: &str) -> Identity {
    Identity { authority: named(name, host), ..identity(host, "alice", Some(1)) }
}

#[test]
fn s10_what_is_revoked_stays_so_whatever_its_issuer_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("revocations");
    let open = |authorities| Revocations::open(authorities, Some(path.clone())).unwrap();
    let revocations = open(names());
    revocations.own().unwrap();
    revocations.revoke(revocation_of("alice"), NOW).unwrap();
    let (renamed, swapped) = (called("acme", "corp"), called("corp", "partner"));
    assert!(revocations.cover(&renamed));
    assert!(!revocations.cover(&swapped), "another issuer under the old name");
    revocations.set_authorities(vec![named("partner", "partner")]);
    revocations.set_authorities(vec![named("acme", "corp"), named("corp", "partner")]);
    assert!(revocations.cover(&renamed) && !revocations.cover(&swapped));
    let issuer = |one: Arc<Revocation>| revocations.named(Revocation::clone(&one)).issuer;
    let known = revocations.list().into_iter().map(issuer);
    assert_eq!(known.collect::<Vec<_>>(), [Box::<str>::from("acme")]);
    drop(revocations);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("https://corp.test"), "{text}");
    for authorities in [vec![], vec![named("acme", "corp")], vec![named("corp", "partner")]] {
        let revocations = open(authorities);
        assert!(revocations.cover(&renamed) && !revocations.cover(&swapped));
        // Under its identifier it can be lifted even where it is not configured.
        let issuer = "https://corp.test".into();
        let lifted =
            revocations.lift(Revocation { issuer, ..revocation_of("alice") }, NOW).unwrap();
        assert!(lifted && !revocations.cover(&renamed));
        drop(revocations);
        std::fs::write(&path, &text).unwrap();
    }
}

#[test]
fn s10_a_change_of_another_agent_applies_before_its_issuer_is_configured_here() {
    let one = none();
    let revoked = one.revoke(revocation_of("alice"), NOW).unwrap();
    assert_eq!(&*revoked.issuer, "https://corp.test", "names are one agent's own");
    let spread = RevocationChange { revocation: revoked, lifted: false, at_ms: 5000 };
    let other = Revocations::open(vec![named("partner", "partner")], None).unwrap();
    other.learn(&spread);
    other.set_authorities(vec![named("second name", "corp")]);
    assert!(other.cover(&called("second name", "corp")));
    other.learn(&RevocationChange { lifted: true, at_ms: 5001, ..spread });
    assert!(!other.cover(&called("second name", "corp")));
}

#[test]
fn s10_another_spelling_of_the_issuer_lifts_nothing() {
    let spelled = |first: &str, second: &str| {
        Arc::new(Authority {
            accepted: [first.into(), second.into()].into(),
            ..Authority::new("corp", first, vec![])
        })
    };
    let revocations = Revocations::open(vec![spelled("https://a", "https://b")], None).unwrap();
    revocations.revoke(revocation_of("alice"), NOW).unwrap();
    for authority in [spelled("https://a", "https://b"), spelled("https://b", "https://a")] {
        let who = Identity { authority, ..called("corp", "corp") };
        assert!(revocations.cover(&who));
    }
}

#[test]
fn s10_a_rule_about_certificates_is_known_by_what_it_says() {
    let rule = |name: &str| {
        let identifier = "certificate:uri:spiffe://corp/";
        Arc::new(Authority { accepted: [].into(), ..Authority::new(name, identifier, vec![]) })
    };
    let revocations = Revocations::open(vec![rule("machines")], None).unwrap();
    revocations
        .revoke(Revocation { issuer: "machines".into(), ..revocation_of("ci") }, NOW)
        .unwrap();
    let who = |name: &str| Identity { authority: rule(name), ..identity("corp", "ci", None) };
    assert!(revocations.cover(&who("machines")) && revocations.cover(&who("robots")));
}
