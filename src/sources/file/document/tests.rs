//! Lists of workspaces: what is read, and every mistake with its line.

use super::*;

const WHOLE: &str = r#"
workspaces:
  - id: pinkpanda-demo-ns35kd21abc
    owner: { subject: "00u1", email: Alice@Example.com }
    organization: acme
    phase: running
    destination: 10.1.2.3:23000
    grants:
      - user: { email: bob@example.com }
        endpoints: [3000, main, "app:web"]
      - group: devs
    ports:
      - port: 3000
        admission: public
      - { port: 4000, destination: "backend:shared" }
    apps:
      - { app: web, admission: owner, destination: "[2001:db8::1]:80" }
"#;

fn yaml(text: &str, issuers: &[&str]) -> Result<Vec<Workspace>, Mistakes> {
    let backends = AllowedBackends::parse(["shared", "ssh", "b"]).unwrap();
    parse("w.yaml", text, Format::Yaml, &issuers.iter().copied().collect(), &backends)
}

fn messages(result: Result<Vec<Workspace>, Mistakes>) -> Vec<String> {
    result.unwrap_err().as_slice().iter().map(ToString::to_string).collect()
}

#[test]
fn a_whole_record_is_read() {
    let workspaces = yaml(WHOLE, &["corp"]).unwrap();
    let [workspace] = workspaces.as_slice() else { panic!("{workspaces:?}") };
    assert_eq!(workspace.owner.email.as_deref(), Some("alice@example.com"));
    assert_eq!(&*workspace.owner_label, "alice@example.com");
    let endpoints: Vec<_> = workspace
        .endpoints
        .iter()
        .map(|e| format!("{} {} {}", e.name, e.admission, e.destination))
        .collect();
    assert_eq!(
        endpoints,
        [
            "main grants 10.1.2.3:23000",
            "port:3000 public 10.1.2.3:3000",
            "port:4000 grants backend:shared",
            "app:web owner [2001:db8::1]:80",
        ]
    );
    assert_eq!(workspace.grants[0].endpoints.as_ref().unwrap().len(), 3);
    assert_eq!(workspace.grants[1].endpoints, None);
}

#[test]
fn toml_says_the_same() {
    let text = "[[workspaces]]\nid = 'a'\nowner = { username = 'alice' }\nphase = 'running'\ndestination = '10.0.0.1:80'\n";
    let workspaces =
        parse("w.toml", text, Format::Toml, &BTreeSet::from(["corp"]), &AllowedBackends::default())
            .unwrap();
    assert_eq!(workspaces[0].id.as_str(), "a");
}

#[test]
fn an_empty_list_is_a_list_and_an_empty_file_is_not() {
    assert_eq!(yaml("workspaces: []\n", &[]).unwrap(), []);
    assert!(yaml("", &[]).is_err());
    assert!(yaml("workspaces:\n", &[]).is_err());
}

#[test]
fn every_mistake_in_the_list_is_reported() {
    let text = "\
workspaces:
  - id: A
    owner: {}
    phase: runing
    destination: somewhere
  - id: b
    owner: { subject: 123 }
    phase: running
    ports: [{ port: 0 }]
";
    assert_eq!(
        messages(yaml(text, &["corp"])),
        [
            "w.yaml:2:9: a workspace id has 1 to 128 lower-case letters, digits, '-', '_' or '.', found \"A\"",
            "w.yaml:3:12: a person is named by at least one of 'subject', 'email' and 'username'",
            "w.yaml:4:12: expected one of unknown, provisioning, running, updating, interrupted, stopping, stopped, deleted, failed; found \"runing\"",
            "w.yaml:5:18: expected \"IP:PORT\", \"[IPv6]:PORT\", \"http://NAME:PORT\", \"https://NAME:PORT\" or \"backend:NAME\", found \"somewhere\"",
            "w.yaml:7:23: expected a string, found integer: put it in quotes",
            "w.yaml:9:21: expected a port from 1 to 65535, found 0",
        ]
    );
}

#[test]
fn with_several_issuers_a_subject_must_say_whose_it_is() {
    let text = "\
workspaces:
  - id: a
    owner: { subject: x }
    phase: running
    destination: 10.0.0.1:80
    grants:
      - group: devs
      - { group: devs, issuer: missing }
      - user: { email: a@example.com }
";
    assert!(yaml(text, &["corp"]).unwrap_err().as_slice().len() == 1);
    let found = messages(yaml(text, &["corp", "partner"]));
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].starts_with("w.yaml:3:12: add 'issuer'"), "{found:?}");
    assert!(found[1].starts_with("w.yaml:7:9: add 'issuer'"), "{found:?}");
    assert!(found[2].contains("'missing' is not configured"), "{found:?}");
    assert!(found[3].starts_with("w.yaml:9:15: add 'issuer'"), "{found:?}");
}

#[test]
fn s12_an_email_address_and_an_organization_are_those_of_an_issuer() {
    let record = |issuer: &str, owner: &str, grant: &str| {
        format!(
            "workspaces:\n  - {{ {issuer} id: a, owner: {{ {owner} email: a@x.test }}, organization: acme,\n\
             \x20     phase: running, destination: '10.0.0.1:80', grants: [{{ user: {{ {grant} email: b@x.test }} }}] }}\n"
        )
    };
    let several = ["corp", "partner", "test"];
    let issuers = |workspace: &Workspace| {
        let Grantee::User(user) = &workspace.grants[0].to else { panic!("{workspace:?}") };
        let organization = workspace.organization.clone().unwrap().issuers;
        [workspace.owner.issuers.clone(), organization, user.issuers.clone()]
    };
    let (corp, partner) = (IssuerNames::one("corp"), IssuerNames::one("partner"));
    let both: IssuerNames = ["corp", "partner"].map(Box::from).into_iter().collect();
    for (issuer, owner, grant, expected) in [
        ("", "issuer: corp,", "issuer: partner,", [&corp, &corp, &partner]),
        ("issuer: corp,", "", "", [&corp, &corp, &corp]),
        ("issuer: corp,", "issuer: partner,", "", [&partner, &corp, &corp]),
        ("", "issuer: [corp, partner],", "issuer: corp,", [&both, &both, &corp]),
    ] {
        let workspaces = yaml(&record(issuer, owner, grant), &several).unwrap();
        assert_eq!(issuers(&workspaces[0]).each_ref(), expected);
    }
    for (issuer, owner, grant, count) in [
        ("", "issuer: corp,", "", 1),
        ("", "", "issuer: corp,", 1),
        ("", "", "", 2),
        ("issuer: crop,", "", "", 1),
    ] {
        let found = messages(yaml(&record(issuer, owner, grant), &several));
        assert_eq!(found.len(), count, "{found:?}");
    }
    // With one issuer, all names belong to it.
    let workspaces = yaml(&record("", "", ""), &["corp"]).unwrap();
    assert_eq!(issuers(&workspaces[0]).each_ref(), [&corp; 3]);
}

#[test]
fn a_workspace_listed_twice_is_refused() {
    let one = "  - { id: a, owner: { subject: x }, phase: running, destination: 10.0.0.1:80 }\n";
    let found = messages(yaml(&format!("workspaces:\n{one}{one}"), &["corp"]));
    assert_eq!(found, ["w.yaml:3:5: the workspace 'a' is listed twice"]);
}

#[test]
fn s1_an_endpoint_says_that_it_is_tcp_and_is_http_otherwise() {
    let text = "\
workspaces:
  - id: a
    owner: { subject: x }
    phase: running
    destination: 10.0.0.1:80
    ports:
      - { port: 2222, protocol: tcp }
      - { port: 3000, protocol: http }
    apps:
      - { app: db, protocol: tcp, destination: \"10.0.0.1:5432\" }
  - { id: b, owner: { subject: x }, phase: running, destination: 10.0.0.2:22, protocol: tcp, ports: [{ port: 80 }] }
";
    let workspaces = yaml(text, &["corp"]).unwrap();
    let protocols: Vec<_> = workspaces
        .iter()
        .flat_map(|w| &w.endpoints)
        .map(|e| format!("{} {}", e.name, e.protocol))
        .collect();
    let want =
        ["main http", "port:2222 tcp", "port:3000 http", "app:db tcp", "main tcp", "port:80 http"];
    assert_eq!(protocols, want);
}

#[test]
fn s1_a_tcp_endpoint_without_an_address_of_its_own_is_refused_with_its_line() {
    let record = |rest: &str| {
        format!("workspaces:\n  - id: a\n    owner: {{ subject: x }}\n    phase: running\n{rest}")
    };
    for (rest, want) in [
        (
            "    destination: backend:ssh\n    protocol: tcp\n",
            "w.yaml:5:18: main is 'protocol: tcp', so its 'destination' must be an address of its own",
        ),
        (
            "    ports:\n      - { port: 22, protocol: tcp, destination: \"http://gateway:22\" }\n",
            "w.yaml:6:9: port:22 is 'protocol: tcp', so its 'destination' must be an address of its own",
        ),
        (
            "    apps:\n      - { app: x, protocol: tcp, destination: \"https://gateway\" }\n",
            "w.yaml:6:9: app:x is 'protocol: tcp', so its 'destination' must be an address of its own",
        ),
        (
            "    protocol: tcp\n    ports:\n      - { port: 22, destination: \"10.0.0.1:22\" }\n",
            "w.yaml:5:15: 'protocol' is that of 'destination', which is missing",
        ),
        (
            "    destination: 10.0.0.1:22\n    protocol: ssh\n",
            "w.yaml:6:15: expected one of http, tcp; found \"ssh\"",
        ),
    ] {
        let found = messages(yaml(&record(rest), &["corp"]));
        assert!(found.len() == 1 && found[0].starts_with(want), "{found:?}");
    }
}

#[test]
fn s14_a_backend_that_is_not_permitted_is_refused_with_its_line() {
    let text = "\
workspaces:
  - id: a
    owner: { subject: x }
    phase: running
    destination: backend:workspace
    ports:
      - { port: 80, destination: \"backend:shared\" }
      - { port: 81, destination: \"backend:stats\" }
    apps:
      - { app: x, destination: \"backend:identity-agent\" }
";
    let found = messages(yaml(text, &["corp"]));
    let want = [
        "w.yaml:5:18: the backend \"workspace\" is the gate's own",
        "w.yaml:8:34: the backend \"stats\" is not permitted: add it to the configuration, [destinations] backends = [\"stats\"]",
        "w.yaml:10:32: the backend \"identity-agent\" is the gate's own",
    ];
    assert_eq!(found.len(), want.len(), "{found:?}");
    for (found, want) in found.iter().zip(want) {
        assert!(found.starts_with(want), "{found}");
    }
    let one = "{ id: a, owner: { subject: x }, phase: running, destination: \"backend:nowhere\" }";
    let all = AllowedBackends::parse(["*"]).unwrap();
    let error = parse_one("body", one, &BTreeSet::from(["corp"]), &all).unwrap_err();
    assert!(error.to_string().contains("the gate's own"), "{error}");
}

#[test]
fn unspecified_destinations_are_refused() {
    for destination in [
        "0.0.0.0:80",
        "10.0.0.1:0",
        "backend:",
        "backend:a b",
        "[::]:80",
        "[::ffff:0.0.0.0]:80",
        "[2001:db8::1%1]:80",
    ] {
        let text = format!(
            "workspaces:\n  - {{ id: a, owner: {{ subject: x }}, phase: running, destination: {destination:?} }}\n"
        );
        assert!(yaml(&text, &["corp"]).is_err(), "{destination}");
    }
}

#[test]
fn a_grant_spells_an_endpoint_as_logs_and_variables_do() {
    let grant = |endpoint: &str| {
        let text = format!(
            "workspaces:\n  - {{ id: a, owner: {{ subject: x }}, phase: running, destination: '10.0.0.1:80', ports: [{{ port: 3000 }}],\n\
             \x20     grants: [{{ group: g, endpoints: [{endpoint}] }}] }}\n"
        );
        yaml(&text, &["corp"])
    };
    for (endpoint, want) in [
        ("3000", "port:3000"),
        ("'port:3000'", "port:3000"),
        ("main", "main"),
        ("'app:web'", "app:web"),
    ] {
        let workspaces = grant(endpoint).unwrap();
        let endpoints = workspaces[0].grants[0].endpoints.as_ref().unwrap();
        assert_eq!(endpoints[0].to_string(), want, "{endpoint}");
    }
    for endpoint in [
        "'port:0'",
        "'port:03000'",
        "'port:+80'",
        "'port:65536'",
        "'port:'",
        "'port: 80'",
        "'Port:80'",
        "'port:80x'",
        "'3000'",
        "'port'",
        "'app:'",
        "'app:A'",
        "'tcp:80'",
        "0",
        "65536",
        "'*'",
    ] {
        let found = messages(grant(endpoint));
        assert!(found.len() == 1 && found[0].starts_with("w.yaml:3:"), "{endpoint}: {found:?}");
    }
    let found = messages(grant("'3000'"));
    assert!(
        found[0].contains("a port number, \"port:NUMBER\", \"main\" or \"app:NAME\""),
        "{found:?}"
    );
}
