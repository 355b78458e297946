use std::sync::LazyLock;

use cedar_policy::{Context, Entities, Request, RequestEnv, Schema};
use proptest::prelude::*;

use super::{evaluate::text, *};

fn set_of(mode: PolicyMode, text: &str) -> PolicySet {
    PolicySet::parse("test.cedar", text, mode, TimeZone::UTC).unwrap_or_else(|m| panic!("{m}"))
}

fn mistakes(mode: PolicyMode, text: &str) -> String {
    PolicySet::parse("test.cedar", text, mode, TimeZone::UTC).unwrap_err().to_string()
}

/// A rule with this condition, which forbids.
fn forbids(when: &str) -> PolicySet {
    let text = format!("@id(\"rule\") forbid(principal, action, resource) when {{ {when} }};");
    set_of(PolicyMode::Narrow, &text)
}

/// The same about HTTP requests of people alone.
fn forbids_people(when: &str) -> PolicySet {
    let text = format!(
        "@id(\"rule\") forbid(principal is User, action == Action::\"request\", resource) when {{ {when} }};"
    );
    set_of(PolicyMode::Narrow, &text)
}

static ENGINEERS: LazyLock<Vec<Box<str>>> =
    LazyLock::new(|| vec!["engineers".into(), "oncall".into()]);

fn ask<'q>(set: &PolicySet, change: impl FnOnce(&mut PolicyRequest<'q>)) -> PolicyOutcome {
    let person = Principal {
        issuer: "corp",
        subject: "s-1",
        email: Some("alice@example.com"),
        username: None,
        organization: None,
        groups: Some(&ENGINEERS),
    };
    let mut request = PolicyRequest {
        principal: Some(person),
        workspace: "w1",
        organization: Some("acme"),
        endpoint: &EndpointName::Main,
        declared: true,
        relation: Permission::Granted(Reason::Owner),
        context: RequestContext {
            method: Some(b"GET"),
            path: Some(b"/"),
            client: Some([192, 0, 2, 7].into()),
            // A Friday, 10:20 UTC.
            now: Timestamp::from_secs(1_795_774_800),
            is_stream: false,
        },
    };
    change(&mut request);
    set.decide(&request)
}

fn forbidden<'q>(set: &PolicySet, change: impl FnOnce(&mut PolicyRequest<'q>)) -> bool {
    let outcome = ask(set, change);
    match (outcome.permission, outcome.policy.as_deref()) {
        (Permission::Denied(Reason::PolicyForbidden), Some("rule")) => true,
        (Permission::Granted(Reason::Owner), None) => false,
        other => panic!("{other:?}"),
    }
}

fn unknown<'q>(set: &PolicySet, change: impl FnOnce(&mut PolicyRequest<'q>)) -> bool {
    ask(set, change).permission == Permission::Denied(Reason::PolicyError)
}

#[test]
fn each_thing_that_a_rule_can_be_about_decides() {
    for (when, hits) in [
        ("context.method == \"GET\"", true),
        ("context.method == \"POST\"", false),
        ("context.path like \"/admin*\"", false),
        ("context.path == \"/\"", true),
        ("context.client.isInRange(ip(\"192.0.2.0/24\"))", true),
        ("context.client.isInRange(ip(\"2001:db8::/32\"))", false),
        ("context.now < datetime(\"2026-11-27\")", false),
        ("context.now >= datetime(\"2026-11-27\")", true),
        ("context.hour == 10 && context.minute == 20", true),
        ("context.weekday == \"friday\"", true),
        ("[\"saturday\", \"sunday\"].contains(context.weekday)", false),
        ("context.endpoint == \"main\"", true),
        ("context has port && context.port == 3000", false),
        ("context.relation == \"owner\"", true),
        ("resource == Workspace::\"w1\"", true),
        ("resource.id like \"prod-*\"", false),
        ("resource has organization && resource.organization == \"acme\"", true),
        ("principal == User::\"corp/s-1\"", true),
        ("principal == User::\"other/s-1\"", false),
        ("principal in Group::\"corp/engineers\"", true),
        ("principal in Group::\"other/engineers\"", false),
        ("principal has email && principal.email like \"*@example.com\"", true),
        ("principal has username", false),
        ("principal.issuer == \"corp\" && principal.subject == \"s-1\"", true),
    ] {
        assert_eq!(forbidden(&forbids_people(when), |_| ()), hits, "{when}");
    }
}

#[test]
fn ownership_decides_where_no_policy_is_about_it() {
    let set = forbids("context.hour == 3");
    for relation in [
        Permission::Granted(Reason::GrantedGroup),
        Permission::Granted(Reason::Public),
        Permission::Denied(Reason::NotPermitted),
    ] {
        let outcome = ask(&set, |q| q.relation = relation);
        assert_eq!((outcome.permission, outcome.policy), (relation, None));
    }
}

#[test]
fn every_reading_of_a_path_is_forbidden() {
    let set = forbids_people("context.path == \"/admin\" || context.path like \"/admin/*\"");
    let with = |path: &'static [u8]| forbidden(&set, |q| q.context.path = Some(path));
    for path in [
        &b"/admin"[..],
        b"/admin/x",
        b"/%61dmin",
        b"/%2561dmin/x",
        b"//admin",
        b"/x/..;/admin/",
        b"/x/%2e%2e/admin;a",
        b"/x\\..\\admin",
    ] {
        assert!(with(path), "{}", path.escape_ascii());
    }
    for path in [&b"/"[..], b"/administrator", b"/x/admin", b"/Admin"] {
        assert!(!with(path), "{}", path.escape_ascii());
    }
    for path in [&b"/\xff"[..], b"/%ff", &[b'a'; reading::MAX_PATH + 1]] {
        assert!(unknown(&set, |q| q.context.path = Some(path)));
    }
    // Where no policy reads the path, it need not be readable.
    let other = forbids("context.hour == 3");
    for path in [None, Some(&b"/\xff"[..])] {
        assert!(!forbidden(&other, |q| q.context.path = path));
    }
}

#[test]
fn a_rule_about_a_method_holds_in_any_letter_case() {
    let set = forbids_people("context.method == \"DELETE\"");
    for method in [&b"DELETE"[..], b"delete", b"Delete"] {
        assert!(forbidden(&set, |q| q.context.method = Some(method)));
    }
    // What is written in small letters is no other method either.
    let set = forbids_people("context.method != \"GET\"");
    assert!(forbidden(&set, |q| q.context.method = Some(b"get")));
    assert!(!forbidden(&set, |q| q.context.method = Some(b"GET")));
}

#[test]
fn an_input_that_a_policy_reads_and_that_is_missing_is_refused() {
    let path = forbids_people("context.path == \"/never\"");
    assert!(unknown(&path, |q| q.context.path = None));
    // Asking whether it is there is a look too.
    let path = forbids_people("context has path && context.path == \"/never\"");
    assert!(unknown(&path, |q| q.context.path = None));
    let method = forbids_people("context.method == \"NEVER\"");
    assert!(unknown(&method, |q| q.context.method = None));
    assert!(unknown(&method, |q| q.context.method = Some(b"\xff")));
    let client = forbids("context.client == ip(\"10.0.0.1\")");
    assert!(unknown(&client, |q| q.context.client = None));
    let groups = forbids_people("principal in Group::\"corp/never\"");
    assert!(unknown(&groups, |q| q.principal.as_mut().unwrap().groups = None));
    let other = forbids("context.hour == 3");
    assert!(!forbidden(&other, |q| {
        q.context.client = None;
        q.principal.as_mut().unwrap().groups = None;
    }));
}

#[test]
fn a_policy_that_cannot_be_evaluated_refuses() {
    // An overflow is an error of the evaluation, which no validator sees.
    let set = forbids("context.hour * 9223372036854775807 == 1");
    let outcome = ask(&set, |_| ());
    assert_eq!(outcome.permission, Permission::Denied(Reason::PolicyError));
    assert_eq!(outcome.policy.as_deref(), Some("rule"));
    // One that forbids all the same says more.
    let both = set_of(
        PolicyMode::Narrow,
        "@id(\"a\") forbid(principal, action, resource) when { context.hour * 9223372036854775807 == 1 };
         @id(\"b\") forbid(principal, action, resource);",
    );
    let outcome = ask(&both, |_| ());
    assert_eq!(
        (outcome.permission, outcome.policy.as_deref()),
        (Permission::Denied(Reason::PolicyForbidden), Some("b"))
    );
}

#[test]
fn an_address_is_the_same_over_both_protocols() {
    let set = forbids("context.client.isInRange(ip(\"192.0.2.0/24\"))");
    assert!(forbidden(&set, |q| q.context.client = Some("::ffff:192.0.2.9".parse().unwrap())));
    assert!(!forbidden(&set, |q| q.context.client = Some("::1".parse().unwrap())));
}

#[test]
fn hours_and_weekdays_are_those_of_the_zone() {
    let text = "@id(\"rule\") forbid(principal, action, resource) when { context.weekday == \"saturday\" && context.hour == 0 };";
    let zone = TimeZone::get("Asia/Tokyo").unwrap();
    let tokyo = PolicySet::parse("t", text, PolicyMode::Narrow, zone).unwrap();
    // 15:20 UTC on Friday.
    let later = Timestamp::from_secs(1_795_774_800 + 5 * 3600);
    assert!(forbidden(&tokyo, |q| q.context.now = later));
    assert!(!forbidden(&set_of(PolicyMode::Narrow, text), |q| q.context.now = later));
}

#[test]
fn a_stream_has_rules_of_its_own() {
    let set = set_of(
        PolicyMode::Narrow,
        "@id(\"rule\") forbid(principal, action == Action::\"stream\", resource) when { context.client == ip(\"192.0.2.7\") };
         @id(\"http\") forbid(principal, action == Action::\"request\", resource) when { context.path == \"/never\" };",
    );
    assert!(!forbidden(&set, |_| ()));
    let stream = |q: &mut PolicyRequest<'_>| {
        q.context = RequestContext { is_stream: true, path: None, method: None, ..q.context };
    };
    assert!(forbidden(&set, stream));
}

#[test]
fn in_the_narrow_mode_nothing_is_permitted() {
    let text = "@id(\"open\") permit(principal, action, resource);";
    assert!(
        mistakes(PolicyMode::Narrow, text).starts_with("test.cedar:1:1: "),
        "{}",
        mistakes(PolicyMode::Narrow, text)
    );
    let set = set_of(PolicyMode::Replace, text);
    let stranger = |set: &PolicySet, change: fn(&mut PolicyRequest<'_>)| {
        let outcome = ask(set, |q| {
            q.relation = Permission::Denied(Reason::NotPermitted);
            change(q);
        });
        (outcome.permission, outcome.policy.as_deref().map(str::to_owned))
    };
    let by = Some("open".to_owned());
    assert_eq!(stranger(&set, |_| ()), (Permission::Granted(Reason::PolicyPermitted), by.clone()));
    assert_eq!(
        stranger(&set, |q| q.relation = Permission::Denied(Reason::GroupsOverage)),
        (Permission::Granted(Reason::PolicyPermitted), by)
    );
    // Never without an identity, never an endpoint that is not declared, never past a refusal that is not about rights.
    let not = |change| assert!(!stranger(&set, change).0.is_granted());
    not(|q| q.principal = None);
    not(|q| q.declared = false);
    for reason in Reason::ALL {
        if reason.verdict() == crate::authz::reason::Verdict::Allow {
            continue;
        }
        let outcome = ask(&set, |q| q.relation = Permission::Denied(reason));
        let related = matches!(reason, Reason::NotPermitted | Reason::GroupsOverage);
        assert_eq!(outcome.permission.is_granted(), related, "{reason}");
    }
    // A permit changes nothing about what is allowed already.
    assert_eq!(
        ask(&set, |_| ()),
        PolicyOutcome { permission: Permission::Granted(Reason::Owner), policy: None }
    );
}

#[test]
fn a_permit_must_hold_in_every_reading_and_a_forbid_outweighs_it() {
    let set = set_of(
        PolicyMode::Replace,
        "@id(\"docs\") permit(principal, action == Action::\"request\", resource) when { context.path like \"/docs/*\" };
         @id(\"rule\") forbid(principal, action == Action::\"request\", resource) when { context.method == \"POST\" };",
    );
    let stranger = |path: &'static [u8], method: &'static [u8]| {
        ask(&set, |q| {
            q.relation = Permission::Denied(Reason::NotPermitted);
            q.context.path = Some(path);
            q.context.method = Some(method);
        })
        .permission
    };
    assert_eq!(stranger(b"/docs/a", b"GET"), Permission::Granted(Reason::PolicyPermitted));
    assert_eq!(stranger(b"/docs/%61", b"GET"), Permission::Granted(Reason::PolicyPermitted));
    assert_eq!(stranger(b"/docs/../secret", b"GET"), Permission::Denied(Reason::NotPermitted));
    assert_eq!(
        stranger(b"/docs/%2e%2e%2fsecret", b"GET"),
        Permission::Denied(Reason::NotPermitted)
    );
    assert_eq!(stranger(b"/docs/a", b"POST"), Permission::Denied(Reason::PolicyForbidden));
    assert_eq!(stranger(b"/docs/\xff", b"GET"), Permission::Denied(Reason::PolicyError));
}

#[test]
fn mistakes_are_found_with_their_lines_before_anything_is_decided() {
    let rule = "forbid(principal, action, resource)";
    for (text, place, what) in [
        (format!("{rule};"), "1:1", "@id"),
        (format!("@id(\"a b\") {rule};"), "1:1", "expected 1 to 64"),
        (format!("@id(\"a\") {rule};\n\n@id(\"a\") {rule};"), "3:1", "another policy"),
        (format!("@id(\"a\") {rule}\nwhen {{ context.paht == \"/\" }};"), "2:8", "paht"),
        (format!("@id(\"a\") {rule}\nwhen {{ context.path == \"/\" }};"), "2:8", "path"),
        (format!("@id(\"a\") {rule}\nwhen {{ principal.email == \"a\" }};"), "2:8", "email"),
        (format!("@id(\"a\") {rule}\nwhen {{ context.hour == \"9\" }};"), "2:8", "type"),
        (format!("@id(\"a\") {rule}\nwhen {{ principal == Person::\"a\" }};"), "2:21", "Person"),
        (format!("@id(\"a\") {rule}\nwhen {{ context.hour == \n; }};"), "3:1", "unexpected token"),
        (format!("@id(\"a\") {rule}\nwhen {{ context.hour > 1 && false }};"), "1:1", "impossible"),
        (
            "@id(\"a\")\nforbid(principal == ?principal, action, resource);".into(),
            "1:1",
            "templates",
        ),
    ] {
        let found = mistakes(PolicyMode::Narrow, &text);
        assert!(found.contains(&format!("test.cedar:{place}: ")), "{text}\n{found}");
        assert!(found.contains(what), "{text}\n{found}");
    }
    // All at once.
    let two = format!("{rule};\n@id(\"a\") {rule} when {{ context.hour == \"9\" }};");
    assert_eq!(mistakes(PolicyMode::Narrow, &two).lines().count(), 2);
}

#[test]
fn what_is_handed_over_is_what_the_schema_says() {
    // Every attribute, so that the entities and the context are whole.
    let all = "principal has email && principal has username && principal has user_organization && principal.issuer == principal.subject && principal in Group::\"corp/engineers\" && resource.id == \"w\" && resource has organization && context == context";
    let set = forbids_people(all);
    let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).unwrap();
    assert_eq!(warnings.count(), 0);
    let person = Principal {
        issuer: "corp",
        subject: "s",
        email: Some("a@x"),
        username: Some("a"),
        organization: Some("o"),
        groups: Some(&ENGINEERS),
    };
    for is_stream in [false, true] {
        for principal in [None, Some(person)] {
            let request = PolicyRequest {
                principal,
                workspace: "w",
                organization: Some("o"),
                endpoint: &EndpointName::Port(7),
                declared: true,
                relation: Permission::Granted(Reason::Public),
                context: RequestContext {
                    method: Some(b"GET"),
                    path: Some(b"/"),
                    client: Some([10, 0, 0, 1].into()),
                    now: Timestamp::from_secs(1),
                    is_stream,
                },
            };
            let (entities, principal, resource) = set.entities(&request).unwrap();
            let mut pairs = set.context(&request).unwrap();
            if !is_stream {
                pairs.extend([("path".to_owned(), text("/")), ("method".to_owned(), text("GET"))]);
            }
            let context = Context::from_pairs(pairs).unwrap();
            let action = if is_stream { &set.names.stream } else { &set.names.request };
            Request::new(principal, action.clone(), resource, context, Some(&schema)).unwrap();
            let parts: Vec<_> = entities.into_iter().collect();
            Entities::from_entities(parts, Some(&schema)).unwrap();
        }
    }
    assert_eq!(schema.request_envs().collect::<Vec<RequestEnv>>().len(), 4);
}

#[test]
fn a_fingerprint_tells_files_apart() {
    let hash = |text: &str| set_of(PolicyMode::Narrow, text).hash();
    let rule = "@id(\"a\") forbid(principal, action, resource);";
    assert_eq!(hash(rule), hash(rule));
    assert_ne!(hash(rule), hash(&format!("{rule} ")));
}

static RULES: LazyLock<Vec<PolicySet>> = LazyLock::new(|| {
    let rules = [
        "context.path like \"/admin*\"",
        "context.method == \"POST\"",
        "principal in Group::\"corp/engineers\"",
        "context.relation != \"owner\"",
        "context.hour * 9223372036854775807 == 1",
    ];
    rules.map(forbids_people).into()
});

proptest! {
    #[test]
    fn narrowing_never_allows_what_ownership_denies(
        reason in proptest::sample::select(Reason::ALL.to_vec()),
        refused in any::<bool>(),
        known in any::<bool>(),
        declared in any::<bool>(),
        path in proptest::option::of("(/|admin|%2e|\\.\\.|;a|\\\\){0,6}"),
        rule in 0..RULES.len(),
    ) {
        let set = &RULES[rule];
        let relation = if refused { Permission::Denied(reason) } else { Permission::Granted(reason) };
        let outcome = ask(set, |q| {
            q.relation = relation;
            q.declared = declared;
            q.context.path = path.as_deref().map(str::as_bytes);
            if !known {
                q.principal = None;
            }
        });
        if refused {
            prop_assert_eq!(outcome.permission, relation);
        } else {
            prop_assert!(outcome.permission == relation || !outcome.permission.is_granted());
        }
    }
}
