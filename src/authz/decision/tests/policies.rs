//! Policies within the decision: after ownership, before phase and place.

use std::sync::LazyLock;

use jiff::tz::TimeZone;

use super::*;
use crate::authz::policy::PolicyMode;

fn set(mode: PolicyMode, text: &str) -> PolicySet {
    PolicySet::parse("test.cedar", text, mode, TimeZone::UTC).unwrap_or_else(|m| panic!("{m}"))
}

static NARROW: LazyLock<Vec<PolicySet>> = LazyLock::new(|| {
    [
        "true",
        "context.path like \"/a*\"",
        "context.relation == \"owner\"",
        "context.relation == \"public\"",
        "context.client == ip(\"10.0.0.1\")",
        "context.hour * 9223372036854775807 == 1",
    ]
    .map(|when| {
        let scope = "principal, action == Action::\"request\", resource";
        set(PolicyMode::Narrow, &format!("@id(\"no\") forbid({scope}) when {{ {when} }};"))
    })
    .into()
});

static REPLACE: LazyLock<PolicySet> = LazyLock::new(|| {
    set(
        PolicyMode::Replace,
        "@id(\"yes\") permit(principal, action, resource);
         @id(\"no\") forbid(principal, action == Action::\"request\", resource) when { context.path like \"/a*\" };",
    )
});

const fn enforced(set: &PolicySet) -> PolicySets<'_> {
    PolicySets { enforced: Some(set), shadow: None }
}

const fn shadow(set: &PolicySet) -> PolicySets<'_> {
    PolicySets { enforced: None, shadow: Some(set) }
}

/// A person, and a workspace of that person whose editor has this admission.
fn scene(admission: Admission, phase: Phase) -> (Arc<Identity>, Workspace) {
    let who = identity(&profile("corp", &[MatchBy::Subject]), "s");
    let mut workspace = workspace(person(Some("s"), None, None));
    workspace.phase = phase;
    workspace.endpoints.push(Endpoint {
        name: EndpointName::Main,
        protocol: Protocol::Http,
        admission,
        destination: Destination::Backend("b".into()),
        origins: EndpointOrigins::default(),
    });
    (Arc::new(who), workspace)
}

fn ask(who: Option<&Arc<Identity>>, workspaces: &Snapshot, policies: PolicySets<'_>) -> Decision {
    let authentication = match who {
        Some(who) => Authentication::Known(Arc::clone(who)),
        None => Authentication::Absent,
    };
    let context = RequestContext {
        method: Some(b"GET"),
        path: Some(b"/"),
        client: Some([192, 0, 2, 1].into()),
        ..RequestContext::default()
    };
    let limits = permissive();
    decide(&place(EndpointName::Main), &context, authentication, workspaces, &limits, policies)
}

#[test]
fn what_a_policy_forbids_is_not_told_how_the_workspace_is_doing() {
    for phase in [Phase::Running, Phase::Stopped, Phase::Provisioning] {
        let (who, workspace) = scene(Admission::Owner, phase);
        let workspaces = snapshot(vec![workspace]);
        let decision = ask(Some(&who), &workspaces, enforced(&NARROW[0]));
        assert_eq!(decision.reason, Reason::PolicyForbidden);
        assert_eq!(decision.policy.as_deref(), Some("no"));
        assert_eq!(decision.relation, Some(Permission::Granted(Reason::Owner)));
        assert!(decision.route.is_none() && decision.workspace.is_some());
    }
}

#[test]
fn a_public_endpoint_has_policies_too() {
    let (who, workspace) = scene(Admission::Public, Phase::Running);
    let workspaces = snapshot(vec![workspace]);
    for who in [None, Some(&who)] {
        assert_eq!(ask(who, &workspaces, PolicySets::default()).reason, Reason::Public);
        let decision = ask(who, &workspaces, enforced(&NARROW[3]));
        assert_eq!((decision.reason, decision.route), (Reason::PolicyForbidden, None));
        // A person with an identity reaches a public endpoint as everyone does.
        assert_eq!(ask(who, &workspaces, enforced(&NARROW[2])).reason, Reason::Public);
    }
}

#[test]
fn a_permit_never_gets_past_identity_phase_age_or_what_is_offered() {
    let (_, workspace) = scene(Admission::Owner, Phase::Running);
    let stranger = Arc::new(identity(&profile("corp", &[MatchBy::Subject]), "x"));
    let policies = enforced(&REPLACE);
    let workspaces = snapshot(vec![workspace.clone()]);
    let allowed = ask(Some(&stranger), &workspaces, policies);
    assert_eq!(allowed.reason, Reason::PolicyPermitted);
    assert_eq!(allowed.policy.as_deref(), Some("yes"));
    assert!(allowed.route.is_some());
    assert_eq!(ask(None, &workspaces, policies).reason, Reason::CredentialMissing);
    let old = |age| {
        let list = vec![workspace.clone()];
        let workspaces = aged(SourceRules::default(), list, None, Duration::from_secs(age));
        ask(Some(&stranger), &workspaces, policies).reason
    };
    // As whatever is open to others than owner and grants.
    assert_eq!((old(60), old(61)), (Reason::PolicyPermitted, Reason::WorkspaceStale));
    let stopped = Workspace { phase: Phase::Stopped, ..workspace.clone() };
    let stopped = ask(Some(&stranger), &snapshot(vec![stopped]), policies);
    assert_eq!(stopped.reason, Reason::WorkspaceStopped);
    let bare = Workspace { endpoints: vec![], ..workspace };
    let bare = ask(Some(&stranger), &snapshot(vec![bare]), policies);
    assert_eq!(bare.reason, Reason::NotPermitted);
    assert_eq!(ask(Some(&stranger), &snapshot(vec![]), policies).reason, Reason::WorkspaceUnknown);
}

#[test]
fn a_shadow_changes_nothing_and_says_what_it_would_have_done() {
    let (who, workspace) = scene(Admission::Owner, Phase::Running);
    let workspaces = snapshot(vec![workspace]);
    let decision = ask(Some(&who), &workspaces, shadow(&NARROW[0]));
    assert_eq!((decision.reason, decision.policy), (Reason::Owner, None));
    let found = decision.shadow.unwrap();
    assert_eq!((found.reason, found.policy.as_deref()), (Reason::PolicyForbidden, Some("no")));
    let both = PolicySets { enforced: Some(&NARROW[2]), shadow: Some(&NARROW[3]) };
    let decision = ask(Some(&who), &workspaces, both);
    assert_eq!(decision.reason, Reason::PolicyForbidden);
    assert_eq!(decision.shadow.unwrap().reason, Reason::Owner);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn narrowing_never_allows_what_ownership_denies(
        workspace in any_workspace(),
        authentication in any_authentication(),
        endpoint in any_endpoint_name(),
        members in any_members(),
        age in proptest::sample::select(vec![0, 60, 61, 300, 301]),
        path in proptest::option::of("(/|a|%61|\\.\\.|;a|\\\\){0,6}"),
        client in proptest::option::of(Just([10, 0, 0, 1].into())),
        owner_policy: bool,
        rule in 0..NARROW.len(),
    ) {
        let undeclared_ports =
            if owner_policy { UndeclaredPorts::Owner } else { UndeclaredPorts::Deny };
        let of_source = SourceRules { undeclared_ports, ..SourceRules::default() };
        let list = vec![workspace.clone()];
        let workspaces = aged(of_source, list, members, Duration::from_secs(age));
        let context = RequestContext {
            method: Some(b"GET"),
            path: path.as_deref().map(str::as_bytes),
            client,
            ..RequestContext::default()
        };
        let decide = |policies| {
            let (place, who) = (place(endpoint.clone()), authentication.clone());
            decide(&place, &context, who, &workspaces, &permissive(), policies)
        };
        let plain = decide(PolicySets::default());
        let narrowed = decide(enforced(&NARROW[rule]));
        let of_policy = [Reason::PolicyForbidden, Reason::PolicyError];
        if of_policy.contains(&narrowed.reason) {
            prop_assert!(narrowed.route.is_none());
            // Only whom ownership lets in is told of a policy.
            prop_assert!(matches!(narrowed.relation, Some(Permission::Granted(_))), "{:?}", narrowed);
        } else {
            prop_assert_eq!(narrowed.reason, plain.reason);
            prop_assert_eq!(&narrowed.route, &plain.route);
        }
        let replaced = decide(enforced(&REPLACE));
        if replaced.verdict() == Verdict::Allow && plain.verdict() != Verdict::Allow {
            prop_assert_eq!(replaced.reason, Reason::PolicyPermitted);
            prop_assert!(matches!(plain.reason, Reason::NotPermitted | Reason::GroupsOverage));
            prop_assert!(matches!(authentication, Authentication::Known(_)));
            prop_assert!(matches!(workspace.phase, Phase::Running | Phase::Updating));
            prop_assert!(workspace.endpoint(&endpoint).is_some());
        }
        let shadowed = decide(shadow(&NARROW[rule]));
        prop_assert_eq!(shadowed.reason, plain.reason);
        prop_assert_eq!(&shadowed.route, &plain.route);
        if let Some(found) = shadowed.shadow {
            prop_assert_eq!(found.reason, narrowed.reason);
        } else {
            prop_assert_eq!(narrowed.reason, plain.reason);
        }
    }
}
