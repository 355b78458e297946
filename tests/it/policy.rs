//! Policies beyond ownership: the commands, the agent, and the gate through real HAProxies.

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use identity_spoa::spop::Value as Argument;
use serde_json::{Value, json};

use crate::{
    support::{
        ALICES, BOBS, Client, Stage, Version, agent::program, haproxy::root, host, port_host,
        records, until,
    },
    wire::{Bare, Heard},
};
use dev_idp::DevIdp;

fn run_program(args: &[&str], directory: &Path) -> Output {
    Command::new(program()).args(args).current_dir(directory).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

/// Writes policies into a directory below.
fn write(directory: &Path, name: &str, policies: &str) {
    std::fs::create_dir_all(directory.join(name)).unwrap();
    std::fs::write(directory.join(name).join("p.cedar"), policies).unwrap();
}

const NO_DELETE: &str = "@id(\"no-delete\")
forbid(principal, action == Action::\"request\", resource)
when { context.method == \"DELETE\" };
";

#[test]
fn the_shipped_example_does_what_its_cases_say() {
    let zone = ["--time-zone", "Europe/Berlin"];
    let output = run_program(&["policy", "test", "docs/policies", zone[0], zone[1]], root());
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.ends_with("docs/policies: 6 policies, 11 cases, 0 failed\n"), "{text}");
    // A change of meaning is found.
    let directory = tempfile::tempdir().unwrap();
    for file in ["workspaces.cedar", "workspaces.test.yaml"] {
        let text = std::fs::read_to_string(root().join("docs/policies").join(file)).unwrap();
        std::fs::write(directory.path().join(file), text.replace(">= 20", ">= 21")).unwrap();
    }
    let output = run_program(&["policy", "test", "."], directory.path());
    assert_eq!(output.status.code(), Some(1));
    let text = self::text(&output);
    let line = "a contractor on Friday evening: expected deny by contractors-office-hours, found allow (granted_user)";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("no case is decided by contractors-office-hours"), "{text}");
}

#[test]
fn policies_that_are_wrong_are_told_with_their_lines_by_each_command() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    write(
        at,
        "policies",
        "@id(\"a\")\nforbid(principal, action, resource)\nwhen { context.paht };\n",
    );
    let config = crate::support::config("https://idp.test")
        + "[policy]\ndirectory = 'policies'\ntime_zone = 'Europe/Berlin'\n";
    std::fs::write(at.join("agent.toml"), config).unwrap();
    std::fs::write(at.join("workspaces.yaml"), "workspaces: []\n").unwrap();
    std::fs::write(at.join("audit"), "").unwrap();
    for args in [
        &["check", "--config", "agent.toml"][..],
        &["run", "--config", "agent.toml"],
        &["policy", "test", "policies"],
        &["policy", "replay", "--audit", "audit", "--policy", "policies"],
    ] {
        let output = run_program(args, at);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = text(&output);
        assert!(
            text.contains("policies/p.cedar:3:8: ") && text.contains("paht"),
            "{args:?} {text}"
        );
    }
    write(at, "policies", NO_DELETE);
    let output = run_program(&["check", "--config", "agent.toml"], at);
    assert!(output.status.success(), "{}", text(&output));
    let output = run_program(&["policy", "test", "--config", "agent.toml"], at);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("there are no cases"), "{}", text(&output));
}

#[test]
fn s12_with_several_issuers_a_permit_by_a_name_says_whose_name_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let table = "[policy]\ndirectory = 'policies'\nmode = 'replace'\n";
    let one = crate::support::config("https://idp.test") + table;
    let several = format!("{one}[[certificate]]\nname = 'machines'\nidentity = 'uri'\n");
    let refused = |config: &str, policy: &str| {
        write(at, "policies", &format!("@id(\"open\")\n{policy}"));
        std::fs::write(at.join("agent.toml"), config).unwrap();
        text(&run_program(&["check", "--config", "agent.toml"], at)).contains("principal.issuer ==")
    };
    let permit =
        |when: &str| format!("permit(principal is User, action, resource) when {{ {when} }};");
    for bare in [
        "principal has email && principal.email == \"a@x.test\"",
        "principal.subject like \"admin-*\"",
        "principal has user_organization && resource has organization && principal.user_organization == resource.organization",
    ] {
        assert!(!refused(&one, &permit(bare)), "{bare}");
        assert!(refused(&several, &permit(bare)), "{bare}");
        let bound = format!("principal.issuer == \"dev\" && {bare}");
        assert!(!refused(&several, &permit(&bound)), "{bound}");
        let forbid = permit(bare).replace("permit", "forbid");
        assert!(!refused(&several, &forbid), "{forbid}");
    }
    assert!(!refused(&several, &permit("principal in Group::\"dev/admins\"")));
}

#[test]
fn mistakes_in_the_table_are_found() {
    let directory = tempfile::tempdir().unwrap();
    for (table, what) in [
        ("[policy]\n", "[policy] needs a 'directory'"),
        ("[policy]\ndirectory = 'p'\nmode = 'widen'\n", "expected one of narrow, replace"),
        ("[policy]\ndirectory = 'p'\ntime_zone = 'Berlin'\n", "expected a time zone"),
        ("[policy]\ndirectory = 'p'\nshadow_mode = 'replace'\n", "'shadow_mode' needs a 'shadow'"),
        ("[policy]\ndirectory = 'nowhere'\n", "cannot read the policies"),
        (
            "[policy]\ndirectory = 'p'\n[[certificate]]\nname = 'a/b'\nidentity = 'uri'\n",
            "must have no '/'",
        ),
    ] {
        let config = crate::support::config("https://idp.test") + table;
        std::fs::write(directory.path().join("agent.toml"), config).unwrap();
        let output = run_program(&["check", "--config", "agent.toml"], directory.path());
        assert_eq!(output.status.code(), Some(2), "{table}");
        assert!(text(&output).contains(what), "{table} {}", text(&output));
    }
}

#[test]
fn the_schema_is_printed_as_it_is_shipped() {
    let output = run_program(&["policy", "schema"], root());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), identity_spoa::authz::policy::SCHEMA);
}

#[tokio::test]
async fn without_the_arguments_that_policies_are_about_nothing_is_decided() {
    // Until the table is there, the agent accepts requests without arguments.
    let bare = Bare::changed_in(|directory, _| write(directory, "policies", NO_DELETE)).await;
    let config = bare.directory.path().join("agent.toml");
    let table = "[policy]\ndirectory = 'policies'\n";
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + table).unwrap();
    let Bare { agent, directory, .. } = bare;
    drop(agent);
    let agent = crate::support::AgentProcess::start(directory.path()).await;
    let mut peer = crate::wire::Peer::unix(&agent.socket()).await;
    let public = port_host(3000, ALICES);
    assert_eq!(peer.ask(&public, None).await.as_deref(), Some("message_unknown"));
    let whole: &[identity_spoa::spop::client::Arg<'_>] = &[
        (b"host", Argument::Str(public.as_bytes())),
        (b"hosts", Argument::Int64(1)),
        (b"authorization", Argument::Null),
        (b"authorizations", Argument::Int64(0)),
        (b"cookies", Argument::Int64(0)),
        (b"method", Argument::Str(b"GET")),
        (b"path", Argument::Str(b"/")),
        (b"client", Argument::Ipv4([127, 0, 0, 1].into())),
    ];
    for (args, reason) in [
        (whole, "public"),
        (&whole[..7], "message_unknown"),
        (&[&whole[..5], &whole[6..]].concat()[..], "message_unknown"),
        (&[&whole[..6], &whole[7..]].concat()[..], "message_unknown"),
    ] {
        let bytes = peer.notify(&[(b"authorize", args)]);
        peer.write(&bytes).await;
        let Heard::Ack(_, variables) = peer.hear().await else { panic!() };
        assert!(variables.contains(&("reason".into(), reason.into())), "{variables:?}");
    }
}

/// A stage with these policies; they are written into `policies` and `shadow`.
async fn stage(version: &Version, policies: &str, shadow: &str, table: &str) -> Stage {
    Stage::changed(version, DevIdp::start().await, |directory, config, _| {
        write(directory, "policies", policies);
        write(directory, "shadow", shadow);
        config.push_str(&format!(
            "[admin]\nsocket = 'agent-admin.sock'\nrevocations = 'r.jsonl'\n[policy]\n{table}\n"
        ));
    })
    .await
}

/// One request; returns the status and the record of the decision.
async fn send(stage: &Stage, line: &str, host: &str, user: Option<&str>) -> (u16, Value) {
    let token = user.map(|user| format!("Authorization: Bearer {}\r\n", stage.idp.token_of(user)));
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{}\r\n", token.unwrap_or_default());
    // Records of earlier requests are older than this by a millisecond at least.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let mut client = Client::connect(stage.haproxy.http).await;
    let reply = client.raw(request.as_bytes()).await;
    let record = until("the record", async || {
        let all = records(stage.directory.path()).into_iter();
        let mut decisions = all.filter(|record| record["verdict"].is_string());
        decisions.rfind(|r| u128::from(r["time_ms"].as_u64().unwrap()) >= start)
    })
    .await;
    (reply.status, record)
}

/// Heimdall (CVE-2026-34457's kin) and Envoy (CVE-2021-39206): a rule saw another path than the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn f5_a_forbidden_path_is_forbidden_in_every_disguise_and_others_arrive_as_they_were_sent() {
    let policy = "@id(\"no-admin\") forbid(principal, action == Action::\"request\", resource)
when { context.path like \"/admin/*\" };
@id(\"no-secret\") forbid(principal, action == Action::\"request\", resource)
when { context.path == \"/secret\" };
";
    for version in Version::all() {
        let stage = stage(version, policy, NO_DELETE, "directory = 'policies'").await;
        let editor = host(ALICES);
        for path in [
            "/secret",
            "/secret%00",
            "/secret%00.png",
            "/secret;v=1",
            "/admin/x",
            "//admin/x",
            "/.//admin/x",
            "/./admin/x",
            "/a/../admin/x",
            "/a/%2e%2e/admin/x",
            "/a/.%2E/admin/x",
            "/%61dmin/x",
            "/%61%64%6d%69%6e/x",
            "/%2561dmin/x",
            "/admin%2fx",
            "/admin%2Fx",
            "/%2fadmin/x",
            "/a%2f..%2fadmin/x",
            "/admin;p=1/x",
            "/admin/;p/x",
            "/;/admin/x",
            "/a/..;/admin/x",
            "/a/..;p=1/admin/x",
            "/a/%2e%2e;/admin/x",
            "/admin%5cx",
            "/a%5c..%5cadmin%5cx",
            "/admin\\x",
            "/admin/x?y=/z",
            "/admin/%00x",
        ] {
            let (status, record) =
                send(&stage, &format!("GET {path}"), &editor, Some("alice")).await;
            assert!(matches!(status, 400 | 403), "{version:?} {path}: {status} {record}");
            assert_ne!(record["verdict"], "allow", "{version:?} {path}");
        }
        // In absolute form too, which HTTP/1.1 servers must take (RFC 9112 section 3.2.2).
        let line = format!("GET http://{editor}/a/../admin/x");
        assert_eq!(send(&stage, &line, &editor, Some("alice")).await.0, 403, "{version:?}");
        let arrived = stage.alice.requests();
        assert!(arrived.iter().all(|seen| seen.uri.path() == "/"), "{arrived:?}");
        // What was decided about is what arrives, to the byte.
        for path in ["/a%2fb", "/%41/b;c=d/", "//a//b", "/a%00b", "/%e2%82%ac?x=%2f..%2fadmin"] {
            let (status, _) = send(&stage, &format!("GET {path}"), &editor, Some("alice")).await;
            let arrived = stage.alice.requests().pop().map(|seen| seen.uri.to_string());
            assert_eq!((status, arrived.as_deref()), (200, Some(path)), "{version:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_the_client_address_is_that_of_the_connection() {
    let policies = "@id(\"inside\") forbid(principal, action, resource)
when { context.endpoint == \"port:4000\" && context.client.isInRange(ip(\"127.0.0.0/8\")) };
@id(\"outside\") forbid(principal, action, resource)
when { context.endpoint == \"port:7000\" && !context.client.isInRange(ip(\"127.0.0.0/8\")) };
";
    for version in Version::all() {
        let stage = stage(version, policies, NO_DELETE, "directory = 'policies'").await;
        for spoofed in [
            "X-Forwarded-For: 10.9.9.9",
            "X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-For: 10.9.9.9",
            "X-Forwarded-For: 10.9.9.9, 10.9.9.9",
            "X-Forwarded-For: 10.9.9.9,",
            "x-forwarded-for: 10.9.9.9\r\nConnection: X-Forwarded-For",
            "X_Forwarded_For: 10.9.9.9",
            "Forwarded: for=10.9.9.9;by=10.9.9.9",
            "X-Real-IP: 10.9.9.9",
            "X-Client-IP: 10.9.9.9",
            "X-Cluster-Client-IP: 10.9.9.9",
            "X-Original-Forwarded-For: 10.9.9.9",
            "True-Client-IP: 10.9.9.9",
            "CF-Connecting-IP: 10.9.9.9",
            "Via: 1.1 10.9.9.9",
        ] {
            for (port, status) in [(4000, 403), (7000, 200)] {
                let host = format!("{}\r\n{spoofed}", port_host(port, ALICES));
                let (got, record) = send(&stage, "GET /", &host, Some("alice")).await;
                assert_eq!(got, status, "{version:?} {port} {spoofed}: {record}");
                assert!(record["client"].as_str().unwrap().starts_with("127."), "{record}");
            }
            // What the workspace believes is HAProxy's word alone.
            let seen = stage.alice.requests().pop().unwrap();
            let said: Vec<_> = seen.headers.get_all("x-forwarded-for").iter().collect();
            assert_eq!(said.len(), 1, "{version:?} {spoofed}");
            assert!(said[0].to_str().unwrap().starts_with("127."), "{version:?} {spoofed}");
        }
        // Nor is a PROXY header of a stranger believed.
        let token = stage.idp.token_of("alice");
        let mut client = Client::connect(stage.haproxy.http).await;
        let request = format!(
            "PROXY TCP4 10.9.9.9 10.9.9.9 1 80\r\nGET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
            port_host(4000, ALICES)
        );
        assert_eq!(client.raw(request.as_bytes()).await.status, 400, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_paths_networks_and_the_public_are_forbidden_through_haproxy() {
    let policies = format!(
        "{NO_DELETE}
@id(\"no-admin\") forbid(principal, action == Action::\"request\", resource)
when {{ context.path like \"/admin/*\" }};
@id(\"networks\") forbid(principal, action, resource)
when {{ context.endpoint == \"port:4000\" && context.client.isInRange(ip(\"127.0.0.0/8\")) }};
@id(\"not-elsewhere\") forbid(principal, action, resource)
when {{ context.endpoint == \"port:7000\" && !context.client.isInRange(ip(\"127.0.0.0/8\")) }};
@id(\"people\") forbid(principal is Anonymous, action, resource);
@id(\"bob\") forbid(principal == User::\"dev/sub-bob\", action, resource);
"
    );
    for version in Version::all() {
        let stage = stage(version, &policies, NO_DELETE, "directory = 'policies'").await;
        let (alice, bob) = (Some("alice"), Some("bob"));
        let (editor, port) = (host(ALICES), |port| port_host(port, ALICES));
        for (line, host, user, status, policy) in [
            ("GET /", editor.clone(), alice, 200, None),
            ("DELETE /", editor.clone(), alice, 403, Some("no-delete")),
            ("GET /admin", editor.clone(), alice, 200, None),
            ("GET /admin/x", editor.clone(), alice, 403, Some("no-admin")),
            ("GET /a/..;/%61dmin/x", editor.clone(), alice, 403, Some("no-admin")),
            ("GET //admin//x?a=b", editor.clone(), alice, 403, Some("no-admin")),
            ("GET /", port(4000), alice, 403, Some("networks")),
            ("GET /", port(7000), alice, 200, None),
            ("GET /", port(3000), None, 403, Some("people")),
            ("GET /", port(3000), alice, 200, None),
            ("GET /", port(3000), bob, 403, Some("bob")),
            // Ownership comes first, and a policy is not evaluated for another person's workspace.
            ("DELETE /", host(BOBS), alice, 403, None),
        ] {
            let (got, record) = send(&stage, line, &host, user).await;
            assert_eq!(got, status, "{version:?} {line} {host} {user:?}");
            assert_eq!(record["policy_id"], json!(policy), "{record}");
            let allowed = status == 200;
            assert_eq!(record["verdict"], if allowed { "allow" } else { "deny" });
            if policy.is_some() {
                assert_eq!(record["reason"], "policy_forbidden");
            }
            assert!(record["policy"].is_string(), "{record}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_changes_nothing_and_is_on_record_and_counted() {
    for version in Version::all() {
        let stage = stage(version, NO_DELETE, NO_DELETE, "shadow = 'shadow'").await;
        let alice = Some("alice");
        let (status, first) = send(&stage, "GET /", &host(ALICES), alice).await;
        assert_eq!(status, 200);
        assert_eq!(first["shadow"]["verdict"], "allow");
        assert_eq!(first["shadow"]["policy_id"], json!(null));
        let (status, last) = send(&stage, "DELETE /", &host(ALICES), alice).await;
        assert_eq!(status, 200);
        assert_eq!((&last["verdict"], &last["policy"]), (&json!("allow"), &json!(null)));
        let shadow = &last["shadow"];
        assert_eq!(shadow["verdict"], "deny");
        assert_eq!(shadow["reason"], "policy_forbidden");
        assert_eq!(shadow["policy_id"], "no-delete");
        assert!(shadow["policy"].is_string());
        assert_eq!(last["inputs"]["relation"], "owner");
        let socket = stage.directory.path().join("agent-admin.sock");
        let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
        let text = client.get("http://agent/metrics").send().await.unwrap().text().await.unwrap();
        let line = "identity_spoa_policy_shadow_total{result=\"would_refuse\"} 1";
        assert!(text.lines().any(|l| l == line), "{text}");
        // The same policies over the same past come to the same.
        let replayed = run_program(
            &[
                "policy",
                "replay",
                "--audit",
                "audit.jsonl",
                "--policy",
                "shadow",
                "--json",
                "--config",
                "agent.toml",
            ],
            stage.directory.path(),
        );
        assert!(replayed.status.success(), "{}", self::text(&replayed));
        let report: Value = serde_json::from_slice(&replayed.stdout).unwrap();
        assert_eq!((&report["different"], &report["lacking"]), (&json!(1), &json!(0)), "{report}");
        let change = &report["changes"][0];
        assert_eq!((&change["was"], &change["policy"]), (&json!("owner"), &json!("no-delete")));
        assert_eq!(change["workspace"], ALICES);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_mode_replace_a_policy_lets_a_stranger_in_and_no_further() {
    let policies = "@id(\"support\")
permit(principal in Group::\"dev/leads\", action == Action::\"request\", resource)
when { context.endpoint == \"main\" && context.method == \"GET\" };
";
    for version in Version::all() {
        let table = "directory = 'policies'\nmode = 'replace'";
        let stage = stage(version, policies, NO_DELETE, table).await;
        let alice = Some("alice");
        for (line, host, user, status) in [
            ("GET /", host(BOBS), alice, 200),
            ("POST /", host(BOBS), alice, 403),
            ("GET /", port_host(8000, BOBS), alice, 403),
            ("GET /", host(BOBS), Some("carol"), 403),
            ("GET /", host(BOBS), None, 401),
            ("GET /", host("nosuch-demo-ns35kd21abc"), alice, 404),
        ] {
            let (got, record) = send(&stage, line, &host, user).await;
            assert_eq!(got, status, "{version:?} {line} {host} {user:?}");
            if status == 200 {
                assert_eq!(record["reason"], "policy_permitted");
                assert_eq!(record["policy_id"], "support");
                assert_eq!(record["inputs"]["relation"], "not_permitted");
            }
        }
    }
}
