//! The decision against an oracle that is written the other way round: it lists what must hold for
//! each verdict, not the order in which things are looked at.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    identity::{Authority, TokenError, profile::MatchBy},
    time::MonotonicTime,
    workspaces::{
        Endpoint, EndpointOrigins, Grant, Grantee, IssuerNames, Organization, Person, Revision,
        WorkspaceId,
        destination::{AllowedBackends, DestinationLimits, resolver::Resolver},
        directory::{Directory, Member, is_person},
        registry::{ListExtent, Publisher, Registry, SourceRules, UndeclaredPorts},
        source::SourceId,
    },
};

mod policies;
mod streams;

fn profile(name: &str, matching: &[MatchBy]) -> Arc<Authority> {
    let identifier = format!("https://{name}.example.com");
    Arc::new(Authority::new(name, &identifier, matching.to_vec()))
}

fn identity(authority: &Arc<Authority>, subject: &str) -> Identity {
    let issuer = format!("https://{}.example.com", authority.name);
    Identity::plain(Arc::clone(authority), &issuer, subject)
}

fn person(subject: Option<&str>, email: Option<&str>, username: Option<&str>) -> Person {
    let text = |t: Option<&str>| t.map(Box::from);
    let (subject, email, username) = (text(subject), text(email), text(username));
    Person { issuers: IssuerNames::one("corp"), subject, email, username, ..Person::default() }
}

fn of_corp(name: &str) -> Organization {
    Organization { issuers: IssuerNames::one("corp"), name: name.into() }
}

fn workspace(owner: Person) -> Workspace {
    Workspace {
        id: "w".parse().unwrap(),
        instance: None,
        revision: Revision::default(),
        organization: Some(of_corp("acme")),
        owner_label: "owner".into(),
        owner,
        grants: vec![],
        phase: Phase::Running,
        address: Some([10, 0, 0, 1].into()),
        template: None,
        endpoints: vec![],
        paths: vec![],
    }
}

fn registry(rules: SourceRules) -> (Arc<Registry>, Publisher) {
    let registry = Arc::new(Registry::new(&[("test", rules)], Arc::new(Resolver::default())));
    let publisher = Publisher::new(Arc::clone(&registry), SourceId::new(0));
    (registry, publisher)
}

/// Workspaces that were confirmed `age` ago.
fn aged(
    rules: SourceRules,
    workspaces: Vec<Workspace>,
    members: Option<Vec<Member>>,
    age: Duration,
) -> Snapshot {
    let (registry, publisher) = registry(rules);
    let then = MonotonicTime::at(Duration::from_secs(1));
    publisher.complete(workspaces, then, then, ListExtent::Snapshot);
    if let Some(members) = members {
        publisher.set_directory(Directory::new(members));
    }
    publisher.confirm(then);
    registry.snapshot_at(then.plus(age))
}

fn ruled(rules: SourceRules, workspaces: Vec<Workspace>) -> Snapshot {
    aged(rules, workspaces, None, Duration::ZERO)
}

fn snapshot(workspaces: Vec<Workspace>) -> Snapshot {
    ruled(SourceRules::default(), workspaces)
}

/// What an operator decided who lets the backend `b` be named.
fn permissive() -> Limits {
    let backends = AllowedBackends::parse(["b"]).unwrap();
    Limits { ranges: DestinationLimits::default().with_backends(backends), ..Limits::default() }
}

fn place(endpoint: EndpointName) -> HostMatch {
    let workspace = arrayvec::ArrayString::from("w").unwrap();
    HostMatch::Matched(
        Host::parse(b"w.example.com").unwrap(),
        PatternMatch { source: None, workspace, endpoint },
    )
}

#[test]
fn the_first_rule_that_a_record_has_a_field_for_decides_alone() {
    use MatchBy::{Email, Subject, Username};
    let mut who = identity(&profile("corp", &[Subject, Email, Username]), "s");
    who.email = Some("a@x".into());
    who.username = Some("a".into());
    assert!(is_person(&who, &person(Some("s"), None, None)));
    assert!(is_person(&who, &person(None, Some("a@x"), None)));
    assert!(is_person(&who, &person(None, None, Some("a"))));
    // A subject that differs is not outweighed by an e-mail address that fits.
    assert!(!is_person(&who, &person(Some("other"), Some("a@x"), Some("a"))));
    assert!(!is_person(&who, &person(None, Some("b@x"), Some("a"))));
    assert!(!is_person(&who, &person(None, None, None)));
}

#[test]
fn a_person_is_matched_only_by_the_rules_of_their_issuer() {
    use MatchBy::{Email, Subject};
    let mut who = identity(&profile("corp", &[Subject]), "s");
    who.email = Some("a@x".into());
    assert!(!is_person(&who, &person(None, Some("a@x"), None)), "e-mail is not among the rules");
    let mut elsewhere = person(Some("s"), None, None);
    elsewhere.issuers = IssuerNames::one("partner");
    assert!(!is_person(&who, &elsewhere), "the same subject at another issuer is another person");
    elsewhere.issuers = IssuerNames::one("corp");
    assert!(is_person(&who, &elsewhere));
    let unverified = identity(&profile("corp", &[Email]), "s");
    assert!(!is_person(&unverified, &person(None, Some("a@x"), None)));
    assert!(!is_person(&identity(&profile("corp", &[]), "s"), &person(Some("s"), None, None)));
}

#[test]
fn s12_an_email_address_a_group_and_an_organization_count_only_from_their_issuer() {
    let admitted = |who: Identity, change: &dyn Fn(&mut Workspace)| {
        let mut workspace = workspace(person(Some("owner"), None, None));
        workspace.endpoints.push(Endpoint {
            name: EndpointName::Main,
            protocol: Protocol::Http,
            admission: Admission::Organization,
            destination: Destination::Backend("b".into()),
            origins: EndpointOrigins::default(),
        });
        change(&mut workspace);
        let known = Authentication::Known(Arc::new(who));
        let (context, limits) = (RequestContext::default(), permissive());
        let place = place(EndpointName::Main);
        decide(&place, &context, known, &snapshot(vec![workspace]), &limits, PolicySets::default())
            .reason
    };
    let who = |issuer: &str| Identity {
        email: Some("a@x".into()),
        organization: Some("acme".into()),
        groups: vec!["devs".into()],
        ..identity(&profile(issuer, &[MatchBy::Subject, MatchBy::Email]), "s")
    };
    let to = |to: Grantee| {
        move |workspace: &mut Workspace| {
            workspace.organization = None;
            workspace.grants = vec![Grant { to: to.clone(), endpoints: None }];
        }
    };
    let by_email = to(Grantee::User(person(None, Some("a@x"), None)));
    let group = |issuers| to(Grantee::Group { issuers, name: "devs".into() });
    let (of_one, by_no_issuer) = (group(IssuerNames::one("corp")), group(IssuerNames::default()));
    let owns = |workspace: &mut Workspace| workspace.owner = person(None, Some("a@x"), None);
    assert_eq!(admitted(who("corp"), &|_| {}), Reason::Organization);
    assert_eq!(admitted(who("corp"), &by_email), Reason::GrantedUser);
    assert_eq!(admitted(who("corp"), &of_one), Reason::GrantedGroup);
    assert_eq!(admitted(who("corp"), &owns), Reason::Owner);
    assert_eq!(admitted(who("corp"), &by_no_issuer), Reason::NotPermitted);
    for change in [&(|_: &mut Workspace| {}) as &dyn Fn(&mut Workspace), &by_email, &of_one, &owns]
    {
        assert_eq!(admitted(who("partner"), change), Reason::NotPermitted);
    }
}

#[test]
fn no_organization_is_not_the_same_organization() {
    let mut workspace = workspace(person(Some("owner"), None, None));
    workspace.organization = None;
    workspace.endpoints.push(Endpoint {
        name: EndpointName::Main,
        protocol: Protocol::Http,
        admission: Admission::Organization,
        destination: Destination::Backend("b".into()),
        origins: EndpointOrigins::default(),
    });
    let who = identity(&profile("corp", &[MatchBy::Subject]), "s");
    let known = Authentication::Known(Arc::new(who));
    let decision = decide(
        &place(EndpointName::Main),
        &RequestContext::default(),
        known,
        &snapshot(vec![workspace]),
        &permissive(),
        PolicySets::default(),
    );
    assert_eq!(decision.reason, Reason::NotPermitted);
}

#[test]
fn before_the_first_list_no_workspace_is_called_unknown() {
    let who = identity(&profile("corp", &[MatchBy::Subject]), "s");
    let known = Authentication::Known(Arc::new(who));
    let (registry, _) = registry(SourceRules::default());
    let decision = decide(
        &place(EndpointName::Main),
        &RequestContext::default(),
        known,
        &registry.snapshot(),
        &permissive(),
        PolicySets::default(),
    );
    assert_eq!(decision.reason, Reason::WorkspacesNotLoaded);
}

#[test]
fn the_owner_reaches_undeclared_ports_only_where_the_policy_says_so() {
    let mut workspace = workspace(person(Some("s"), None, None));
    workspace.endpoints.push(Endpoint {
        name: EndpointName::Main,
        protocol: Protocol::Http,
        admission: Admission::Public,
        destination: Destination::Backend("b".into()),
        origins: EndpointOrigins::default(),
    });
    let corp = profile("corp", &[MatchBy::Subject]);
    let ask = |subject: &str, endpoint: EndpointName, undeclared_ports, address| {
        let mut workspace = workspace.clone();
        workspace.address = address;
        let known = Authentication::Known(Arc::new(identity(&corp, subject)));
        let rules = SourceRules { undeclared_ports, ..SourceRules::default() };
        decide(
            &place(endpoint),
            &RequestContext::default(),
            known,
            &ruled(rules, vec![workspace]),
            &permissive(),
            PolicySets::default(),
        )
    };
    let (owner, deny) = (UndeclaredPorts::Owner, UndeclaredPorts::Deny);
    let (at, port) = (Some([10, 0, 0, 1].into()), EndpointName::Port(99));
    let allowed = ask("s", port.clone(), owner, at);
    assert_eq!(allowed.reason, Reason::Owner);
    assert_eq!(allowed.route, Some(Route::Direct("10.0.0.1:99".parse().unwrap())));
    let app = EndpointName::App(crate::workspaces::AppName::new("x").unwrap());
    for (subject, endpoint, policy, address, reason) in [
        ("s", port.clone(), deny, at, Reason::EndpointUndeclared),
        ("s", port.clone(), owner, None, Reason::EndpointUndeclared),
        ("s", app, owner, at, Reason::EndpointUndeclared),
        // A public editor opens no port.
        ("other", port, owner, at, Reason::NotPermitted),
    ] {
        assert_eq!(ask(subject, endpoint, policy, address).reason, reason);
    }
}

/// Names from a small pool, so that they meet.
fn name() -> impl Strategy<Value = Box<str>> {
    prop_oneof![Just("a".into()), Just("b".into())]
}

fn maybe() -> impl Strategy<Value = Option<Box<str>>> {
    proptest::option::of(name())
}

fn any_issuers() -> impl Strategy<Value = IssuerNames> {
    proptest::sample::subsequence(vec!["a", "b"], 0..=2)
        .prop_map(|names| names.into_iter().map(Box::from).collect())
}

fn any_person() -> impl Strategy<Value = Person> {
    (any_issuers(), maybe(), maybe(), maybe()).prop_map(|(issuers, subject, email, username)| {
        Person { account: None, issuers, subject, email, username }
    })
}

/// A person as a platform with accounts names one, or one without.
fn any_named() -> impl Strategy<Value = Person> {
    let account = name().prop_map(|account| Person { account: Some(account), ..Person::default() });
    prop_oneof![any_person(), account]
}

fn any_members() -> impl Strategy<Value = Option<Vec<Member>>> {
    let member = (name(), any_person(), any::<bool>(), proptest::collection::vec(name(), 0..2));
    let member = member.prop_map(|(account, person, active, platform_groups)| Member {
        label: "label".into(),
        account,
        person,
        active,
        platform_groups,
    });
    let members = proptest::collection::vec(member, 0..3).prop_map(|mut members| {
        members.sort_by(|a: &Member, b| a.account.cmp(&b.account));
        members.dedup_by(|a, b| a.account == b.account);
        members
    });
    proptest::option::of(members)
}

fn any_endpoint_name() -> impl Strategy<Value = EndpointName> {
    prop_oneof![Just(EndpointName::Main), (1..3_u16).prop_map(EndpointName::Port)]
}

fn any_admission() -> impl Strategy<Value = Admission> {
    proptest::sample::select(vec![
        Admission::Owner,
        Admission::Grants,
        Admission::Organization,
        Admission::Authenticated,
        Admission::Public,
    ])
}

fn any_workspace() -> impl Strategy<Value = Workspace> {
    let phase = proptest::sample::select(vec![
        Phase::Unknown,
        Phase::Provisioning,
        Phase::Running,
        Phase::Running,
        Phase::Updating,
        Phase::Interrupted,
        Phase::Stopping,
        Phase::Stopped,
        Phase::Deleted,
        Phase::Failed,
    ]);
    let grantee = prop_oneof![
        any_named().prop_map(Grantee::User),
        name().prop_map(Grantee::PlatformGroup),
        (any_issuers(), name()).prop_map(|(issuers, name)| Grantee::Group { issuers, name }),
    ];
    let covered = proptest::option::of(proptest::collection::vec(any_endpoint_name(), 0..2));
    let grant = (grantee, covered).prop_map(|(to, endpoints)| Grant { to, endpoints });
    let endpoint = (any_endpoint_name(), any_admission());
    (
        any_named(),
        proptest::option::of((any_issuers(), name())),
        phase,
        proptest::collection::vec(grant, 0..3),
        proptest::collection::vec(endpoint, 0..3),
        any::<bool>(),
    )
        .prop_map(|(owner, organization, phase, grants, endpoints, addressed)| {
            let mut workspace = workspace(owner);
            workspace.organization =
                organization.map(|(issuers, name)| Organization { issuers, name });
            workspace.phase = phase;
            workspace.grants = grants;
            workspace.address = addressed.then(|| [10, 0, 0, 1].into());
            for (name, admission) in endpoints {
                if workspace.endpoint(&name).is_none() {
                    let destination = Destination::Backend("b".into());
                    workspace.endpoints.push(Endpoint {
                        name,
                        protocol: Protocol::Http,
                        admission,
                        destination,
                        origins: EndpointOrigins::default(),
                    });
                }
            }
            workspace
        })
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let rules = proptest::sample::subsequence(
        vec![MatchBy::Subject, MatchBy::Email, MatchBy::Username],
        0..=3,
    );
    let groups = proptest::collection::vec(name(), 0..2);
    (name(), name(), rules, maybe(), maybe(), groups, maybe()).prop_map(
        |(issuer, subject, rules, email, username, groups, organization)| Identity {
            email,
            username,
            groups,
            organization,
            ..identity(&profile(&issuer, &rules), &subject)
        },
    )
}

fn any_authentication() -> impl Strategy<Value = Authentication> {
    prop_oneof![
        1 => Just(Authentication::Absent),
        1 => Just(Authentication::KeysUnavailable),
        1 => Just(Authentication::IntrospectionUnavailable),
        1 => Just(Authentication::SessionsUnavailable),
        1 => Just(Authentication::OriginForeign),
        1 => proptest::sample::select(TokenError::ALL.to_vec()).prop_map(Authentication::Refused),
        5 => any_identity().prop_map(|identity| Authentication::Known(Arc::new(identity))),
    ]
}

/// Whether the identity may be taken for the person, said by what must not be.
fn same(identity: &Identity, person: &Person) -> bool {
    let field = |rule: &MatchBy| match rule {
        MatchBy::Subject => (person.subject.as_deref(), Some(&*identity.subject)),
        MatchBy::Email => (person.email.as_deref(), identity.email.as_deref()),
        MatchBy::Username => (person.username.as_deref(), identity.username.as_deref()),
    };
    let mut stated =
        identity.authority.matching.iter().map(field).filter(|(said, _)| said.is_some());
    person.issuers.include(identity) && stated.next().is_some_and(|(said, is)| said == is)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn nothing_is_allowed_without_a_ground(
        workspace in any_workspace(),
        authentication in any_authentication(),
        endpoint in any_endpoint_name(),
        members in any_members(),
        (max_admission, source_max) in (any_admission(), any_admission()),
        age in proptest::sample::select(vec![0, 60, 61, 300, 301]),
        owner_policy: bool,
        known: bool,
    ) {
        let rules = SourceRules {
            undeclared_ports:
                if owner_policy { UndeclaredPorts::Owner } else { UndeclaredPorts::Deny },
            max_admission: source_max,
            ..SourceRules::default()
        };
        let limits = Limits { max_admission, ..permissive() };
        let list = if known { vec![workspace.clone()] } else { vec![] };
        let age = Duration::from_secs(age);
        let workspaces = aged(rules, list, members.clone(), age);
        let decision =
            decide(&place(endpoint.clone()), &RequestContext::default(), authentication.clone(), &workspaces, &limits, PolicySets::default());
        let identity = match &authentication {
            Authentication::Known(identity) => Some(identity),
            _ => None,
        };
        let declared = workspace.endpoint(&endpoint);
        let admits = |level| {
            declared.is_some_and(|e| e.admission >= level)
                && max_admission >= level
                && source_max >= level
        };
        // The accounts that the identity may be.
        let accounts: Vec<&Member> = members
            .iter()
            .flatten()
            .filter(|member| identity.is_some_and(|i| same(i, &member.person)))
            .collect();
        let is_unambiguous = accounts.len() < 2 && accounts.iter().all(|member| member.active);
        let account = accounts.first();
        let is = |person: &Person| match &person.account {
            Some(id) => account.is_some_and(|member| member.account == *id),
            None => identity.is_some_and(|i| same(i, person)),
        };
        let owner = is(&workspace.owner);
        let granted = identity.is_some_and(|identity| workspace.grants.iter().any(|grant| {
            grant.endpoints.as_ref().is_none_or(|e| e.contains(&endpoint)) && match &grant.to {
                Grantee::User(person) => is(person),
                Grantee::PlatformGroup(team) => account.is_some_and(|member| member.platform_groups.contains(team)),
                Grantee::Group { issuers, name } => identity.groups.contains(name)
                    && issuers.include(identity),
            }
        }));
        let colleague = account.is_some()
            || identity.zip(workspace.organization.as_ref()).is_some_and(|(i, organization)| {
                i.organization.as_ref() == Some(&organization.name) && organization.issuers.include(i)
            });
        let fresh = age <= Duration::from_mins(5);
        let fresh_open = age <= Duration::from_mins(1);
        let ground = match decision.reason {
            Reason::Owner => is_unambiguous && fresh && owner
                && (declared.is_some() || owner_policy && workspace.address.is_some()),
            Reason::GrantedUser | Reason::GrantedGroup =>
                is_unambiguous && fresh && granted && admits(Admission::Grants),
            Reason::Organization =>
                is_unambiguous && fresh_open && colleague && admits(Admission::Organization),
            Reason::Authenticated =>
                is_unambiguous && fresh_open && identity.is_some() && admits(Admission::Authenticated),
            Reason::Public => fresh_open && admits(Admission::Public),
            _ => false,
        };
        let owner_there = match (&members, &workspace.owner.account) {
            (Some(members), Some(id)) => members.iter().any(|m| m.account == *id && m.active),
            _ => true,
        };
        let up = matches!(workspace.phase, Phase::Running | Phase::Updating) && owner_there;
        if decision.verdict() == Verdict::Allow {
            prop_assert!(known && up && ground, "{decision:?}");
            prop_assert!(decision.route.is_some());
        } else {
            // And who has a ground is not kept out.
            prop_assert!(decision.route.is_none());
            let reachable = declared.is_some() && (is_unambiguous && fresh && owner
                || is_unambiguous && fresh && granted && admits(Admission::Grants)
                || is_unambiguous && fresh_open && colleague && admits(Admission::Organization)
                || is_unambiguous && fresh_open && identity.is_some() && admits(Admission::Authenticated)
                || fresh_open && admits(Admission::Public));
            prop_assert!(!(known && up && reachable), "{decision:?}");
        }
        // Strangers learn the same whether the workspace exists or not.
        let was_public = known && admits(Admission::Public);
        if identity.is_none() && decision.verdict() != Verdict::Allow && !was_public {
            let nowhere =
                decide(&place(endpoint), &RequestContext::default(), authentication.clone(), &snapshot(vec![]), &limits, PolicySets::default());
            prop_assert_eq!(decision.reason, nowhere.reason);
            prop_assert!(decision.workspace.is_none());
        }
    }
}

#[test]
fn an_id_is_borrowed_as_the_text_it_is() {
    // A map keyed by ids is searched by text: both must hash alike.
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    let id: WorkspaceId = "abc".parse().unwrap();
    assert_eq!(state.hash_one(&id), state.hash_one("abc"));
}
