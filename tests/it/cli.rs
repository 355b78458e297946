//! The commands `check` and `explain` as a person uses them.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::support::{self, ALICES, agent::program, haproxy::root, host, port_host};
use dev_idp::DevIdp;
use dev_workspace::DevWorkspace;

fn run_program(args: &[&str], directory: &Path) -> Output {
    Command::new(program()).args(args).current_dir(directory).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[test]
fn check_reports_every_mistake_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let config = "\
[agent]
listen = ['nowhere']
socket_mode = '0999'
wrokers = 2

[[issuer]]
name = 'corp'
isuer = 'https://idp.example.com'
audience = []
algorithms = ['HS256']
match = ['name']

[[issuer]]
name = 'corp'
issuer = 'http://idp.example.com'
audience = 'workspaces'
leeway_seconds = 3600

[[host]]
pattern = '(?<workspace>[a-z]+'

[[host]]
preset = 'gitpd'

[workspaces]
file = 'workspaces.txt'
undeclared_ports = 'allow'
";
    std::fs::write(directory.path().join("agent.toml"), config).unwrap();
    let output = run_program(&["check", "--config", "agent.toml"], directory.path());
    assert_eq!(output.status.code(), Some(2));
    let text = text(&output);
    for (line, message) in [
        (2, "expected \"unix:/path/to/socket\", \"IP:PORT\" or \"systemd\", found \"nowhere\""),
        (3, "expected a file mode in octal such as \"0660\", found \"0999\""),
        (4, "unknown key 'wrokers': did you mean 'workers'?"),
        (6, "the key 'issuer' is missing here"),
        (8, "unknown key 'isuer': did you mean 'issuer'?"),
        (9, "expected the audience that tokens for workspaces carry"),
        (10, "expected one of RS256, RS384"),
        (11, "expected one of subject, email, username; found \"name\""),
        (15, "expected an https URL"),
        (17, "expected a number from 0 to 60"),
        (20, "not a regular expression"),
        (23, "expected one of gitpod, ona, coder; found \"gitpd\""),
        (26, "expected a file name that ends in .toml"),
        (27, "expected one of deny, owner; found \"allow\""),
    ] {
        let found = text
            .lines()
            .any(|l| l.starts_with(&format!("agent.toml:{line}:")) && l.contains(message));
        assert!(found, "line {line}: {message}\n{text}");
    }
}

/// An `agent.toml` whose files and variables are all missing or cannot be used.
const UNREADABLE: &str = "\
[agent]
listen = ['127.0.0.1:0']

[[issuer]]
name = 'corp'
issuer = 'https://idp.example.com'
audience = 'a'
ca_file = 'corp-ca.pem'

[issuer.introspection]
client_id = 'gate'
client_secret_env = 'IDENTITY_SPOA_NO_SUCH_SECRET'

[issuer.sign_in]
client_id = 'gate'
client_secret_file = 'corp-secret'

[[issuer]]
name = 'partner'
issuer = 'https://partner.example.com'
audience = 'a'

[issuer.sign_in]
client_id = 'gate'
private_key_file = 'partner-key.pem'

[sign_in]
host = 'login.example.com'
listen = '127.0.0.1:9011'
encryption_keys_file = 'keys'

[sign_in.pages]
logo_file = 'logo.svg'
texts_file = 'texts.toml'

[redis]
url = 'redis://127.0.0.1:6379/0'
password_file = 'redis-password'
ca_file = 'redis-ca.pem'

[[host]]
preset = 'ona'
domain = 'example.com'

[workspaces]
file = 'workspaces.yaml'

[[source]]
name = 'ona'
kind = 'ona'
issuer = 'corp'
ca_file = 'ona-ca.pem'
token_file = 'ona-token'

[policy]
directory = 'policies'

[audit]
file = 'audit.jsonl'
key_file = 'audit.key'
";

#[test]
fn check_and_run_report_every_file_and_secret_that_cannot_be_used_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("agent.toml", UNREADABLE);
    write("partner-key.pem", "no key");
    write("keys", "too-short\n");
    write("texts.toml", "sign_out = ''\nsing_in_again = 'x'\n");
    write("redis-password", "\n");
    write("workspaces.yaml", "workspaces: 7\n");
    write("audit.key", "no key");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(directory.path().join("audit.key"), private).unwrap();
    let lines = [
        ("agent.toml:8:", "corp-ca.pem"),
        ("agent.toml:12:", "IDENTITY_SPOA_NO_SUCH_SECRET"),
        ("agent.toml:16:", "cannot read corp-secret: No such file"),
        ("agent.toml:25:", "partner-key.pem: expected the PEM"),
        ("agent.toml:30:", "keys: line 1: expected a key"),
        ("agent.toml:33:", "the logo_file cannot be read"),
        ("texts.toml:1:", "expected a text that is not empty"),
        ("texts.toml:2:", "unknown key 'sing_in_again'"),
        ("agent.toml:38:", "expected a secret, found nothing"),
        ("agent.toml:39:", "cannot read redis-ca.pem"),
        ("agent.toml:52:", "ona-ca.pem"),
        ("agent.toml:60:", "audit.key: expected PEM"),
    ];
    let has = |text: &str, start: &str, message: &str| {
        text.lines().any(|line| line.contains(start) && line.contains(message))
    };
    let output = run_program(&["check", "--config", "agent.toml"], directory.path());
    assert_eq!(output.status.code(), Some(2));
    let checked = text(&output);
    for (start, message) in lines {
        assert!(has(&checked, start, message), "{start} {message}\n{checked}");
    }
    // Lists and policies, of which the agent can start without the list.
    assert!(has(&checked, "workspaces.yaml:1:13:", "expected an array"), "{checked}");
    assert!(has(&checked, "policies", "cannot read the policies"), "{checked}");
    assert!(checked.trim_end().ends_with("14 mistakes"), "{checked}");
    // No text of a secret is printed.
    assert!(!checked.contains("too-short") && !checked.contains("no key"), "{checked}");
    let output = run_program(&["run", "--config", "agent.toml"], directory.path());
    assert!(!output.status.success());
    let ran = text(&output);
    for (start, message) in lines {
        assert!(has(&ran, start, message), "{start} {message}\n{ran}");
    }
}

#[test]
fn check_reads_a_token_of_a_platform_and_warns_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let config = "[agent]\nlisten = ['127.0.0.1:0']\n[[issuer]]\nname = 'corp'\nissuer = 'https://idp.example.com'\naudience = 'a'\n\
                  match = ['email']\n[[host]]\npreset = 'ona'\ndomain = 'example.com'\n\
                  [[source]]\nname = 'ona'\nkind = 'ona'\ntoken_file = 'token'\n";
    std::fs::write(directory.path().join("agent.toml"), config).unwrap();
    let check = || run_program(&["check", "--config", "agent.toml"], directory.path());
    let output = check();
    assert!(output.status.success(), "{}", text(&output));
    let line = "agent.toml:14:15: warning: cannot read the credential in token";
    assert!(text(&output).contains("good") && text(&output).contains(line), "{}", text(&output));
    std::fs::write(directory.path().join("token"), "secret\n").unwrap();
    assert!(!text(&check()).contains("warning"), "{}", text(&check()));
}

#[test]
fn check_does_not_need_the_credentials_of_a_service_that_does_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let secret = "/run/credentials/identity-spoa-no-such-unit.service/secrets_corp";
    let config = format!(
        "[agent]\nlisten = ['127.0.0.1:0']\n[[issuer]]\nname = 'corp'\nissuer = 'https://idp.example.com'\naudience = 'a'\n\
         [issuer.introspection]\nclient_id = 'gate'\nclient_secret_file = '{secret}'\n\
         [issuer.sign_in]\nclient_id = 'gate'\nclient_secret_file = '{secret}'\n\
         [sign_in]\nhost = 'login.example.com'\nlisten = '127.0.0.1:9011'\nencryption_keys_file = 'keys'\n\
         [[host]]\npreset = 'ona'\ndomain = 'example.com'\n[workspaces]\nfile = 'workspaces.yaml'\n\
         [admin]\nsocket = 'admin.sock'\nrevocations = 'state/revocations.jsonl'\n"
    );
    std::fs::write(directory.path().join("agent.toml"), config).unwrap();
    std::fs::write(directory.path().join("workspaces.yaml"), "workspaces: []\n").unwrap();
    let output = run_program(&["check", "--config", "agent.toml"], directory.path());
    assert!(output.status.success(), "{}", text(&output));
    for line in [9, 12] {
        let warning =
            format!("agent.toml:{line}:23: warning: not checked: systemd makes {secret} when");
        assert!(text(&output).contains(&warning), "{}", text(&output));
    }
    // Nor does it make what the service makes.
    std::fs::create_dir(directory.path().join("state")).unwrap();
    let output = run_program(&["check", "--config", "agent.toml"], directory.path());
    assert!(output.status.success(), "{}", text(&output));
    for made in ["state/revocations.jsonl", "keys", "admin.sock"] {
        assert!(!directory.path().join(made).exists(), "{made}");
    }
    // The agent itself needs them.
    let output = run_program(&["run", "--config", "agent.toml"], directory.path());
    assert!(
        !output.status.success() && text(&output).contains("secrets_corp"),
        "{}",
        text(&output)
    );
}

#[test]
fn check_reports_two_issuers_of_one_name() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = "[[issuer]]\nname = 'corp'\nissuer = 'https://idp.example.com'\naudience = 'a'\n";
    let config = format!(
        "[agent]\nlisten = ['127.0.0.1:0']\n{issuer}{issuer}[[host]]\npreset = 'ona'\ndomain = 'x.dev'\n[workspaces]\nfile = 'w.yaml'\n"
    );
    std::fs::write(directory.path().join("agent.toml"), config).unwrap();
    let text = text(&run_program(&["check", "--config", "agent.toml"], directory.path()));
    assert!(text.contains("agent.toml:7:1: the name \"corp\" is used"), "{text}");
    assert!(text.contains("the issuer identifier"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_takes_a_good_configuration_and_haproxys_too() {
    let directory = stage().await.0;
    let output = run_program(&["check", "--config", "agent.toml"], directory.path());
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("issuers: 1, host patterns: 1, workspaces: 2"),
        "{}",
        text(&output)
    );
    if Command::new("haproxy").arg("-v").output().is_ok() {
        let config = directory.path().join("agent.toml");
        let output =
            run_program(&["check", "--haproxy", "--config", config.to_str().unwrap()], root());
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("haproxy/haproxy.cfg: good"), "{}", text(&output));
    }
    std::fs::write(directory.path().join("workspaces.yaml"), "workspaces: 7\n").unwrap();
    let output = run_program(&["check", "--config", "agent.toml"], directory.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("workspaces.yaml:1:13: expected an array, found integer"),
        "{}",
        text(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_check_warns_of_a_login_host_of_another_site_than_the_workspaces() {
    let directory = stage().await.0;
    let path = directory.path().join("agent.toml");
    let text_of = std::fs::read_to_string(&path).unwrap();
    std::fs::write(directory.path().join("secret"), "secret\n").unwrap();
    std::fs::write(directory.path().join("keys"), format!("{}\n", "A".repeat(43))).unwrap();
    let checked = |login: &str, domain: &str| {
        let sign_in = format!(
            "[issuer.sign_in]\nclient_id = 'gate'\nclient_secret_file = 'secret'\n\n\
             [sign_in]\nhost = '{login}'\nlisten = '127.0.0.1:9011'\nencryption_keys_file = 'keys'\n\n[[host]]"
        );
        let config = text_of.replace("[[host]]", &sign_in).replace("gitpod.test", domain);
        std::fs::write(&path, config).unwrap();
        let output = run_program(&["check", "--config", "agent.toml"], directory.path());
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("good"), "{}", text(&output));
        text(&output)
    };
    for (login, domain) in [
        ("login.example.com", "example.com"),
        ("login.example.com", "dev.example.com"),
        ("login.gate.example.co.uk", "example.co.uk"),
    ] {
        let said = checked(login, domain);
        assert!(!said.contains("warning"), "{said}");
    }
    for (login, domain) in [
        ("login.example.com", "example.org"),
        ("login.example.com", "workspaces.com"),
        ("login.example.co.uk", "workspaces.co.uk"),
    ] {
        let said = checked(login, domain);
        let wanted = format!(
            "agent.toml: warning: sign-in does not work at the workspaces below '{domain}'"
        );
        assert!(said.contains(&wanted), "{said}");
        assert!(said.contains(&format!("'login.{domain}'")), "it says what to do: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_with_file_and_line_of_what_can_have_no_effect() {
    let directory = stage().await.0;
    let (config, list) =
        (directory.path().join("agent.toml"), directory.path().join("workspaces.yaml"));
    let (config_text, list_text) =
        (std::fs::read_to_string(&config).unwrap(), std::fs::read_to_string(&list).unwrap());
    let check = || {
        let output = run_program(&["check", "--config", "agent.toml"], directory.path());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
            .lines()
            .filter(|l| l.contains("warning"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(check(), Vec::<String>::new(), "the files of the tests have an effect");
    let more = "  - id: extra\n    owner: { username: alice }\n    phase: running\n    destination: '10.0.0.1:80'\n\
                \x20   grants: [{ group: devs, endpoints: [\"port:3000\"] }]\n";
    let list_text = list_text.replace("username: bob", "subject: bob");
    std::fs::write(&list, format!("{list_text}{more}")).unwrap();
    let host = "[[host]]\npattern = 'app\\.example\\.com'\nworkspace = 'app'\n";
    let config_text = config_text.replace(", \"email\", \"username\"]", ", \"email\"]");
    std::fs::write(&config, format!("{config_text}\n{host}{host}")).unwrap();
    let line = |text: &str, part: &str| text.lines().position(|l| l.contains(part)).unwrap() + 1;
    let (list_text, config_text) =
        (std::fs::read_to_string(&list).unwrap(), std::fs::read_to_string(&config).unwrap());
    let first = line(&config_text, "app\\.example\\.com");
    let wanted = [
        format!("agent.toml:{}:12: warning: the patterns before this one match all", first + 3),
        format!("agent.toml:{}:14: warning: no list has a workspace 'app'", first + 1),
        format!("agent.toml:{}:14: warning: no list has a workspace 'app'", first + 4),
        format!(
            "workspaces.yaml:{}:12: warning: no identity can be",
            line(&list_text, "username: alice")
        ),
        format!(
            "workspaces.yaml:{}:41: warning: this grant gives nothing",
            line(&list_text, "port:3000")
        ),
    ];
    let found = check();
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!(found.starts_with(wanted), "{found}, not {wanted}");
    }
}

#[test]
fn the_id_of_a_literal_host_is_named_once_and_well() {
    let directory = tempfile::tempdir().unwrap();
    let check = |host: &str| {
        let config = format!(
            "[agent]\nlisten = ['127.0.0.1:0']\n[[issuer]]\nname = 'corp'\nissuer = 'https://idp.example.com'\naudience = 'a'\n\
             [workspaces]\nfile = 'w.yaml'\n[[host]]\n{host}\n"
        );
        std::fs::write(directory.path().join("agent.toml"), config).unwrap();
        let list = "workspaces: [{ id: app, owner: { subject: x }, phase: running, destination: '10.0.0.1:80' }]\n";
        std::fs::write(directory.path().join("w.yaml"), list).unwrap();
        let output = run_program(&["check", "--config", "agent.toml"], directory.path());
        (output.status.success(), text(&output))
    };
    let literal = r"pattern = 'app\.example\.com'";
    let (good, said) = check(&format!("{literal}\nworkspace = 'app'"));
    assert!(good && !said.contains("warning"), "{said}");
    for (host, wanted) in [
        (literal.to_owned(), "agent.toml:10:12: the pattern has no capture (?<workspace>…)"),
        (
            format!("{literal}\nworkspace = 'App'"),
            "agent.toml:11:14: a workspace id has 1 to 128 lower-case letters",
        ),
        (format!("{literal}\nworkspace = ''"), "agent.toml:11:13: a workspace id has"),
        (
            format!("{literal}\nworkspace = 'app'\nid = '{{workspace}}'"),
            "agent.toml:11:14: the workspace id is given twice: use either 'id'",
        ),
        (
            r"pattern = '(?<workspace>app)\.example\.com'
workspace = 'app'"
                .to_owned(),
            "agent.toml:10:12: the workspace id is given twice, by the key 'workspace'",
        ),
        (
            "pattern = 'app.example.com'\nworkspace = 'app'".to_owned(),
            "agent.toml:10:12: with 'workspace', every host that the pattern matches belongs",
        ),
        (
            "preset = 'ona'\ndomain = 'x.test'\nworkspace = 'app'".to_owned(),
            "agent.toml:9:1: a [[host]] has either 'preset'",
        ),
        ("workspace = 'app'".to_owned(), "agent.toml:9:1: a [[host]] has either 'preset'"),
    ] {
        let (good, said) = check(&host);
        assert!(!good && said.contains(wanted), "{host}: {said}");
        assert!(said.contains("\n1 mistake"), "only one: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_each_stage_and_exits_as_the_verdict_says() {
    let (directory, idp, _workspace) = stage().await;
    let token = directory.path().join("token");
    let explain = |host: &str, user: Option<&str>| {
        let mut args = vec!["explain", "--config", "agent.toml", "--host", host];
        if let Some(user) = user {
            std::fs::write(&token, format!("{}\n", idp.token_of(user))).unwrap();
            args.extend(["--token-file", "token", "--method", "POST", "--path", "/x"]);
        }
        let output = run_program(&args, directory.path());
        (output.status.code().unwrap(), text(&output))
    };
    let (code, text) = explain(&host(ALICES), Some("alice"));
    assert_eq!(code, 0, "{text}");
    for part in [
        &format!("workspace {ALICES}, endpoint main"),
        "Running, owner alice@example.com, main admits grants",
        "identity    alice (issuer 'dev', subject sub-alice), e-mail alice@example.com",
        "verdict     allow: owner",
        "txn.identity.allow = true",
        "txn.identity.dst_ip = 127.0.0.1",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains(&idp.token_of("alice")[..20]), "{text}");
    let (code, text) = explain(&host(ALICES), Some("bob"));
    assert_eq!((code, text.contains("verdict     deny: not_permitted")), (1, true), "{text}");
    let (code, text) = explain(&host(ALICES), None);
    assert_eq!(
        (code, text.contains("verdict     sign_in: credential_missing")),
        (1, true),
        "{text}"
    );
    let (code, text) = explain(&port_host(3000, ALICES), None);
    assert_eq!((code, text.contains("verdict     allow: public")), (0, true), "{text}");
    let (code, text) = explain("www.example.com", None);
    assert_eq!((code, text.contains("no [[host]] pattern matches")), (1, true), "{text}");
    let output =
        run_program(&["explain", "--config", "missing.toml", "--host", "x"], directory.path());
    assert_eq!(output.status.code(), Some(2));
    let output = run_program(&["explain", "--config", "agent.toml"], directory.path());
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_what_a_person_would_get_without_their_token() {
    let (directory, _idp, _workspace) = stage().await;
    let explain = |person: &[&str]| {
        let host = host(ALICES);
        let args = [&["explain", "--config", "agent.toml", "--host", &host], person].concat();
        let output = run_program(&args, directory.path());
        (output.status.code().unwrap(), text(&output))
    };
    for (person, code, verdict) in [
        (&["--subject", "sub-alice"][..], 0, "verdict     allow: owner"),
        (&["--user", "alice@example.com"], 0, "verdict     allow: owner"),
        (&["--user", "Alice@Example.com", "--issuer", "dev"], 0, "verdict     allow: owner"),
        (&["--subject", "sub-bob"], 1, "verdict     deny: not_permitted"),
        (&["--user", "bob"], 1, "verdict     deny: not_permitted"),
    ] {
        let (found, text) = explain(person);
        assert_eq!(found, code, "{person:?}\n{text}");
        assert!(text.contains(&format!("{verdict} (for the ASSUMED person)\n")), "{text}");
        // The first line, the identity and the verdict show that no token was verified.
        assert!(text.starts_with("ASSUMED     "), "{text}");
        assert!(text.contains("no token was verified"), "{text}");
        assert!(text.contains("identity    ASSUMED: "), "{text}");
    }
    let (_, text) = explain(&["--user", "bob", "--groups", "engineers,leads"]);
    assert!(text.contains("groups [\"engineers\", \"leads\"]"), "{text}");
    // A subject that no record has is not known, which matters where people are matched by it.
    assert!(text.contains("subject bob: unknown, so the name stands for it"), "{text}");
    let (code, text) = explain(&["--user", "alice", "--issuer", "other"]);
    assert_eq!((code, text.contains("--issuer: expected one of dev")), (2, true), "{text}");
    for wrong in [
        &["--user", "alice", "--token-file", "agent.toml"][..],
        &["--groups", "engineers"],
        &["--issuer", "dev"],
    ] {
        assert_eq!(explain(wrong).0, 2, "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_assumes_no_person_who_is_revoked() {
    let (directory, idp, _workspace) = stage().await;
    let path = directory.path().join("agent.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let admin = "\n[admin]\nsocket = \"admin.sock\"\nrevocations = \"revocations.jsonl\"\n";
    std::fs::write(&path, config.replace("\n[[host]]", &format!("{admin}\n[[host]]"))).unwrap();
    let issuer = idp.issuer();
    let revoked = format!("{{\"issuer\":\"{issuer}\",\"subject\":\"sub-alice\",\"at_ms\":1}}");
    let journal = format!("{{\"revoke\":{revoked}}}\n");
    std::fs::write(directory.path().join("revocations.jsonl"), journal).unwrap();
    let host = host(ALICES);
    let args = ["explain", "--config", "agent.toml", "--host", &host, "--subject", "sub-alice"];
    let output = run_program(&args, directory.path());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("deny: token_revoked"), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_without_a_credential_says_so_and_what_can_be_given() {
    let (directory, _idp, _workspace) = stage().await;
    let host = host(ALICES);
    let args = ["explain", "--config", "agent.toml", "--host", &host];
    let said = text(&run_program(&args, directory.path()));
    let expected = "identity    none: the request is decided as one without any credential; \
        --token-file takes a token, --user or --subject assumes a person\n";
    assert!(said.contains(expected) && !said.contains("ASSUMED"), "{said}");
}

async fn stage() -> (tempfile::TempDir, DevIdp, DevWorkspace) {
    let directory = tempfile::tempdir().unwrap();
    let idp = DevIdp::start().await;
    let workspace = DevWorkspace::start("a").await;
    let other = DevWorkspace::start("other").await;
    std::fs::write(directory.path().join("agent.toml"), support::config(idp.issuer())).unwrap();
    let list = support::workspaces(&workspace, &other, "running");
    std::fs::write(directory.path().join("workspaces.yaml"), list).unwrap();
    (directory, idp, workspace)
}
