//! The hosts of platforms and of operators, and every pattern that must be refused.

use super::*;

fn resolve(patterns: &HostPatterns, host: &str) -> Option<(String, String)> {
    let host = Host::parse(host.as_bytes()).unwrap();
    let target = patterns.resolve(&host, &mut Scratch::default())?;
    Some((target.workspace.to_string(), target.endpoint.to_string()))
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what resolve gives")]
fn found(workspace: &str, endpoint: &str) -> Option<(String, String)> {
    Some((workspace.into(), endpoint.into()))
}

fn preset(preset: Preset, domain: &str) -> HostPatterns {
    HostPatterns::new(&[preset.spec(domain, "main")]).unwrap()
}

fn custom(regex: &str, id: &str) -> Result<HostPatterns, PatternError> {
    one(regex, IdRule::Template(id.into()))
}

fn fixed(regex: &str, id: &str) -> Result<HostPatterns, PatternError> {
    one(regex, IdRule::Fixed(id.parse().unwrap()))
}

fn one(regex: &str, id: IdRule) -> Result<HostPatterns, PatternError> {
    HostPatterns::new(&[PatternSpec { regex: regex.into(), id, source: None }])
        .map_err(|mut errors| errors.remove(0).1)
}

#[test]
fn gitpod_hosts_name_the_editor_and_ports() {
    let gitpod = preset(Preset::Gitpod, "gitpod.example");
    let id = "pinkpanda-demo-ns35kd21abc";
    for (host, want) in [
        (format!("{id}.ws.gitpod.example"), found(id, "main")),
        (format!("{id}.ws-eu1.gitpod.example"), found(id, "main")),
        (format!("3000-{id}.ws-eu1.gitpod.example"), found(id, "port:3000")),
        (format!("3000-{id}.ws.gitpod.example.evil.com"), None),
        (format!("evil.{id}.ws.gitpod.example"), None),
        (format!("0300-{id}.ws.gitpod.example"), None),
        (format!("65536-{id}.ws.gitpod.example"), None),
        (format!("debug-{id}.ws.gitpod.example"), None),
        (format!("{id}.wsxgitpod.example"), None),
    ] {
        assert_eq!(resolve(&gitpod, &host), want, "{host}");
    }
}

#[test]
fn a_gitpod_id_that_starts_with_digits_is_not_read_as_a_port() {
    let gitpod = preset(Preset::Gitpod, "gitpod.example");
    assert_eq!(
        resolve(&gitpod, "1234-amber-9ba20cc1.ws.gitpod.example"),
        found("1234-amber-9ba20cc1", "main")
    );
}

#[test]
fn ona_hosts_name_a_port_of_an_environment() {
    let ona = preset(Preset::Ona, "gitpod.dev");
    let id = "019a0000-aaaa-bbbb-cccc-0123456789ab";
    assert_eq!(
        resolve(&ona, &format!("3000--{id}.eu-central-1-01.gitpod.dev")),
        found(id, "port:3000")
    );
    assert_eq!(resolve(&ona, &format!("{id}.eu-central-1-01.gitpod.dev")), None);
    assert_eq!(resolve(&ona, &format!("3000--{id}.a.b.gitpod.dev")), None);
}

#[test]
fn coder_hosts_name_ports_of_the_served_agent_and_apps() {
    let coder = preset(Preset::Coder, "apps.example");
    for (host, want) in [
        ("8080--main--dev--alice.apps.example", found("dev--alice", "port:8080")),
        ("8080--gpu--dev--alice.apps.example", found("dev--alice", "app:8080")),
        ("code-server--dev--alice.apps.example", found("dev--alice", "app:code-server")),
        ("code--main--dev--alice.apps.example", found("dev--alice", "app:code")),
        ("dev--alice.apps.example", None),
    ] {
        assert_eq!(resolve(&coder, host), want, "{host}");
    }
}

#[test]
fn a_pattern_is_anchored_even_with_alternatives() {
    let patterns = custom("(?<workspace>a)|(?:b)x", "{workspace}").unwrap();
    assert_eq!(resolve(&patterns, "a.evil"), None);
    assert_eq!(resolve(&patterns, "evil.a"), None);
    assert_eq!(resolve(&patterns, "a"), found("a", "main"));
    assert_eq!(resolve(&patterns, "bx"), None);
}

#[test]
fn a_pattern_that_cannot_work_is_refused_with_the_reason() {
    assert!(matches!(custom("(", "{workspace}"), Err(PatternError::Regex(_))));
    assert_eq!(custom("[a-z]+", "{workspace}").unwrap_err(), PatternError::NoWorkspace);
    assert_eq!(
        custom("(?<workspace>[a-z]+)", "{workspace}--{owner}").unwrap_err(),
        PatternError::NoCapture("owner".into())
    );
    assert_eq!(
        custom("(?<workspace>a)-(?<prot>[0-9]+)", "{workspace}").unwrap_err(),
        PatternError::UnusedCapture("prot".into())
    );
    for template in ["", "fixed", "{", "}", "{}", "{workspace", "a}{workspace}"] {
        assert!(
            matches!(custom("(?<workspace>a)", template), Err(PatternError::Template(_))),
            "{template}"
        );
    }
}

#[test]
fn remembered_answers_are_those_of_these_patterns_and_this_host() {
    let one = custom("(?<workspace>[a-z]+)(?:[.]x)?", "{workspace}").unwrap();
    let two = custom("(?<workspace>[a-z]+)(?:[.]x)?", "two-{workspace}").unwrap();
    let mut scratch = Scratch::default();
    for n in 0..500 {
        let host = Host::parse(format!("{}.x", "a".repeat(n % 60 + 1)).as_bytes()).unwrap();
        for _ in 0..2 {
            let target = one.resolve(&host, &mut scratch).unwrap();
            assert_eq!(target.workspace.len(), n % 60 + 1);
        }
        if n % 7 == 0 {
            let target = two.resolve(&host, &mut scratch).unwrap();
            assert!(target.workspace.starts_with("two-a"));
        }
    }
}

#[test]
fn the_first_pattern_that_matches_decides() {
    let spec = |regex: &str, id: &str| PatternSpec {
        regex: regex.into(),
        id: IdRule::Template(id.into()),
        source: None,
    };
    let patterns = HostPatterns::new(&[
        spec("special-(?<workspace>[a-z]+)", "{workspace}"),
        spec("(?<workspace>[a-z-]+)", "{workspace}"),
    ])
    .unwrap();
    assert_eq!(resolve(&patterns, "special-a"), found("a", "main"));
    assert_eq!(resolve(&patterns, "other-a"), found("other-a", "main"));
}

#[test]
fn a_literal_host_belongs_to_the_workspace_that_the_key_names() {
    let patterns = fixed(r"app\.example\.com", "wiki").unwrap();
    assert_eq!(resolve(&patterns, "app.example.com"), found("wiki", "main"));
    assert_eq!(resolve(&patterns, "APP.Example.com"), found("wiki", "main"));
    let ports = fixed(r"(?:(?<port>[0-9]+)-)?(?:www\.)?app\.example\.com", "wiki").unwrap();
    assert_eq!(resolve(&ports, "3000-app.example.com"), found("wiki", "port:3000"));
    assert_eq!(resolve(&ports, "www.app.example.com"), found("wiki", "main"));
    let apps = fixed(r"(?<app>[a-z]+)--app\.example\.com", "wiki").unwrap();
    assert_eq!(resolve(&apps, "ide--app.example.com"), found("wiki", "app:ide"));
}

#[test]
fn no_other_host_belongs_to_the_workspace_of_a_literal_host() {
    let patterns = fixed(r"app\.example\.com|app\.example\.org", "wiki").unwrap();
    assert_eq!(resolve(&patterns, "app.example.org"), found("wiki", "main"));
    for host in [
        "appxexample.com",
        "other.example.com",
        "x.app.example.com",
        "xapp.example.com",
        "app.example.com.evil.test",
        "app.example.coma",
        "example.com",
        "3000-app.example.com",
    ] {
        assert_eq!(resolve(&patterns, host), None, "{host}");
    }
    let ports = fixed(r"(?<port>[0-9]+)-app\.example\.com", "wiki").unwrap();
    for host in ["app.example.com", "0-app.example.com", "65536-app.example.com"] {
        assert_eq!(resolve(&ports, host), None, "{host}");
    }
}

#[test]
fn a_fixed_workspace_needs_a_literal_pattern_and_no_second_id() {
    for regex in [
        "app.example.com",
        r".*\.example\.com",
        r"[a-z]+\.example\.com",
        r"app\.[a-z]\.example\.com",
        r"app\d\.example\.com",
        r"app(?:-x)+\.example\.com",
        r"(?:app|.+)\.example\.com",
        r"app\.example\.com|.*",
        r"(?i)app\.example\.com",
        "",
    ] {
        assert_eq!(fixed(regex, "app").unwrap_err(), PatternError::NotLiteral, "{regex}");
    }
    let both = fixed(r"(?<workspace>app)\.example\.com", "app").unwrap_err();
    assert_eq!(both, PatternError::TwoIds);
    let unused = fixed(r"(?<owner>app)\.example\.com", "app").unwrap_err();
    assert_eq!(unused, PatternError::UnusedCapture("owner".into()));
}

#[test]
fn a_missing_or_ambiguous_id_says_what_to_write() {
    let message = |result: Result<HostPatterns, PatternError>| result.unwrap_err().to_string();
    let none = message(custom(r"app\.example\.com", "{workspace}"));
    assert!(none.contains("(?<workspace>…)") && none.contains("workspace = \"ID\""), "{none}");
    let text = message(custom(r"app\.example\.com", "app"));
    assert!(text.contains("use 'workspace' instead of 'id'"), "{text}");
    let open = message(fixed("app.example.com", "app"));
    assert!(open.contains(r"write '\.' for a dot"), "{open}");
}
