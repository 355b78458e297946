//! More dangerous edits, in other spellings and at other places, and more harmless ones.

use identity_spoa::{
    haproxy_config::{
        document::Source,
        lint::{Agent, Finding, Rule, lint},
    },
    workspaces::destination::AllowedBackends,
};

use super::{
    edits::{
        ASK, BACK, Base, FRONT, LATE, Place, TOP, all_found, all_found_as, each, names, none_found,
        without_reuse,
    },
    text,
};

const END: Place = Place::End;
const GLOBAL: Place = Place::After("global");
const DEFAULTS: Place = Place::After("defaults");
const NAMED: Place = Place::After("backend named");

/// Each change of `haproxy.cfg` is found in a changed line, by a finding of this kind.
fn changes_found(base: &Base, rule: Rule, changes: &[(&str, &str)]) {
    each(changes, |(old, new)| {
        let place = base.gate.find(old).unwrap_or_else(|| panic!("not there: {old}"));
        let first = base.gate[..place].lines().count().max(1);
        let lines = first..first + new.lines().count() + 1;
        let found = base.replaced(old, new).lint();
        let told = found.iter().any(|f| f.rule == rule && names(f, &lines));
        assert!(told, "{old}\n{new}\n{}", text(&found));
    });
}

fn has(found: &[Finding], rule: Rule) -> bool {
    found.iter().any(|finding| finding.rule == rule)
}

#[test]
fn m2_a_route_to_an_address_waits_for_all_that_belongs_to_it() {
    let base = without_reuse(&Base::shipped());
    let mut changes = Vec::new();
    for line in base.gate.lines().filter(|line| line.starts_with("    use_backend workspace")) {
        let (route, condition) = line.split_once(" if ").unwrap();
        let terms: Vec<&str> = condition.split_inclusive(" }").map(str::trim).collect();
        assert!(terms.len() > 1, "{line}");
        for left in 0..terms.len() {
            let kept: Vec<_> = terms.iter().enumerate().filter(|(n, _)| *n != left).collect();
            let kept: Vec<_> = kept.into_iter().map(|(_, term)| *term).collect();
            changes.push((line, format!("{route} if {}", kept.join(" "))));
            // The same term as one of two alternatives.
            changes.push((line, format!("{line} or {}", kept.join(" "))));
        }
        changes.push((line, route.to_owned()));
    }
    assert!(changes.len() > 20, "{}", changes.len());
    let changes: Vec<_> = changes.iter().map(|(old, new)| (*old, new.as_str())).collect();
    changes_found(&base, Rule::RouteNotAgents, &changes);
    changes_found(
        &base,
        Rule::RouteNotAgents,
        &[
            ("default_backend nowhere", "default_backend workspace"),
            ("default_backend nowhere", "default_backend workspace-tls"),
        ],
    );
    none_found(
        &base,
        &[
            "    use_backend workspace if { var(txn.identity.dst_ip) -m ip 10.0.0.0/8 } { var(txn.identity.dst_port) -m int 80 }",
            "    acl placed var(txn.identity.dst_ip) -m found\n    use_backend workspace if placed { var(txn.identity.dst_port) -m found } { ssl_fc }",
        ],
        &[&Place::FrontEnd],
    );
}

#[test]
fn m2_only_names_that_the_agent_may_give_lead_to_back_ends() {
    let base = without_reuse(&Base::shipped());
    all_found_as(
        Rule::RouteNotAgents,
        &base,
        &[
            "    use_backend %[var(txn.identity.workspace)]",
            "    use_backend %[var(txn.identity.endpoint)] if { var(txn.identity.endpoint) -m found }",
            "    use_backend %[var(txn.identity.owner),lower]",
            "    use_backend ws-%[var(txn.identity.workspace)]",
            "    use_backend ws-%[var(txn.identity.backend)]",
            "    use_backend %[var(txn.identity.backend)]-old",
            "    use_backend %[var(txn.identity.backend),lower]",
            "    use_backend %[var(txn.identity.backend),map(x.map,named)]",
            "    use_backend \"%[var(txn.identity.user),map(x.map)]\"",
            "    use_backend %[path,map_beg(x.map)]",
            "    use_backend %[src,map_ip(x.map)] if { var(txn.identity.allow) -m bool }",
            "    use_backend named if { sc_get_gpt0(0) eq 1 }",
            "    use_backend named if { nbsrv(workspace) lt 1 }",
            "    use_backend named unless { ssl_fc }",
        ],
        &[&TOP, &ASK, &Place::FrontEnd],
    );
    all_found_as(
        Rule::RouteNotAgents,
        &base,
        &[
            "    option transparent",
            "    dispatch 0.0.0.0:0",
            "    server any *:0",
            "    server any 0.0.0.0:80",
            "    source 0.0.0.0 usesrc hdr_ip(x-client,-1)",
            "    default-server source 0.0.0.0 usesrc hdr_ip(x-client)",
        ],
        &[&NAMED],
    );
    none_found(&base, &["    source 0.0.0.0 usesrc clientip"], &[&NAMED]);
}

/// An agent that may name only these backends.
fn names_only(backends: &[&str]) -> Agent {
    let backends = AllowedBackends::parse(backends.iter().copied()).unwrap();
    Agent { backends: Some(backends), ..Agent::default() }
}

#[test]
fn m1_a_public_site_is_not_a_workspace_if_the_agent_must_not_name_it() {
    const SITE: &str = "backend site\n    server x 10.9.9.9:80\nfrontend public\n    bind 127.0.0.1:9999\n    default_backend site";
    const SAME: &str = "backend site\n    server x localhost:8090\nfrontend public\n    bind 127.0.0.1:9999\n    default_backend site";
    let base = Base::shipped();
    let with = |agent: Agent, added: &str| {
        let base = Base { agent, ..base.clone() };
        base.with(&END, added).unwrap().0.lint()
    };
    for permitted in [&[][..], &["named"], &["ws-*"]] {
        let found = with(names_only(permitted), SITE);
        assert!(found.is_empty(), "{permitted:?}: {}", text(&found));
    }
    for permitted in [&["site"][..], &["*"], &["named", "s*"]] {
        assert!(has(&with(names_only(permitted), SITE), Rule::Unguarded), "{permitted:?}");
    }
    assert!(has(&with(Agent::default(), SITE), Rule::Unguarded));
    // The server of the site is that of a workspace.
    assert!(has(&with(names_only(&["named"]), SAME), Rule::Unguarded));
    let to_named = "frontend public\n    bind 127.0.0.1:9999\n    default_backend named";
    assert!(has(&with(names_only(&["named"]), to_named), Rule::Unguarded));
    // Another rule could lead anywhere.
    let (other, _) = base
        .with(&Place::FrontEnd, "    use_backend %[var(txn.identity.workspace),map(x.map)]")
        .unwrap();
    let other = Base { agent: names_only(&["named"]), ..other };
    assert!(has(&other.with(&END, SITE).unwrap().0.lint(), Rule::Unguarded));
}

#[test]
fn m1_the_gates_own_back_ends_are_not_for_workspaces_or_for_others() {
    let base = Base::shipped();
    all_found_as(
        Rule::Unguarded,
        &base,
        &[
            "frontend other\n    mode tcp\n    bind 127.0.0.1:9999\n    default_backend identity-agent",
            "frontend other\n    mode tcp\n    bind 127.0.0.1:9999\n    use_backend identity-agent if { src 10.0.0.0/8 }",
        ],
        &[&END],
    );
    let renamed = Base {
        gate: base.gate.replace("backend identity-agent", "backend agents"),
        spoe: base.spoe.replace("use-backend identity-agent", "use-backend agents"),
        agent: names_only(&["*"]),
    };
    assert!(has(&renamed.lint(), Rule::RouteNotAgents));
    let named = Base { agent: names_only(&["named"]), ..renamed };
    assert!(named.lint().is_empty(), "{}", text(&named.lint()));
}

#[test]
fn m12_connect_is_refused_by_haproxys_own_word() {
    let base = without_reuse(&Base::shipped());
    let line =
        base.gate.lines().find(|line| line.ends_with(" if METH_CONNECT")).unwrap().to_owned();
    let changed = |end: &str| line.replace(" if METH_CONNECT", end);
    let forms = [
        changed(" if METH_CONNECT { src 10.0.0.0/8 }"),
        changed(" if !METH_CONNECT"),
        changed(" unless METH_CONNECT"),
        changed(" if { method CONNECT } { ssl_fc }"),
        changed(" if METH_POST"),
        format!("    acl own method CONNECT\n{}", changed(" if own { ssl_fc }")),
        line.replace("http-request return status 405", "http-request set-log-level silent #"),
    ];
    for form in forms.iter().map(String::as_str).chain([""]) {
        let found = base.replaced(&line, form).lint();
        assert!(has(&found, Rule::RuleMissing), "{form}\n{}", text(&found));
    }
    let found = base.replaced(&line, &changed(" if { method CONNECT }")).lint();
    assert!(found.is_empty(), "{}", text(&found));
    all_found_as(
        Rule::RuleMissing,
        &base,
        &["    acl METH_CONNECT always_false", "    acl METH_CONNECT method GET"],
        &[&TOP, &Place::FrontEnd, &DEFAULTS],
    );
    all_found_as(
        Rule::RuleMissing,
        &base,
        &[
            "    http-request set-var(txn.rounds) int(0)",
            "    http-request set-var(txn.rounds) int(0) if { req.fhdr(x-identity-rounds) -m reg ^[1-9]$ }",
            "    http-request unset-var(txn.rounds)",
        ],
        &[&TOP, &Place::FrontEnd],
    );
    all_found_as(
        Rule::RuleMissing,
        &base,
        &[
            "    http-request set-header Connection X-Forwarded-User",
            "    http-request add-header connection \"Upgrade, HTTP2-Settings\"",
            "    http-request set-header Upgrade h2c",
            "    http-request add-header Upgrade %[req.hdr(x-up)]",
            "    http-request replace-header Connection .* X-Identity-User",
            "    http-request add-header Transfer-Encoding chunked",
            "    http-request set-header TE trailers",
            "    http-response set-status 200",
            "    http-response set-status 200 if { status 101 }",
            "    http-response set-status 200 if { status 100:199 }",
        ],
        &[&Place::FrontEnd, &NAMED],
    );
    none_found(&base, &["    http-response set-status 404 if { status 403 }"], &[&TOP, &NAMED]);
}

#[test]
fn several_requests_at_a_time_are_found_where_haproxy_cannot_do_it() {
    let base = Base::shipped();
    let option = ".if version_atleast(3.1)\n    no option pipelining\n.endif\n";
    for changed in [
        String::new(),
        option.replace("no option", "option"),
        option.replace("3.1", "3.3"),
        option.replace("version_atleast(3.1)", "version_before(3.2)"),
        option.replace("version_atleast(3.1)", "defined(SLOW)"),
        format!("{option}    option pipelining\n"),
        format!("{option}.if defined(X)\n    option pipelining\n.endif\n"),
        ".if defined(X)\n.else\n    no option pipelining\n.endif\n".to_owned(),
    ] {
        assert!(base.spoe.contains(option));
        let found = Base { spoe: base.spoe.replacen(option, &changed, 1), ..base.clone() }.lint();
        let told =
            found.iter().any(|f| f.rule == Rule::Pipelining && f.file == "identity.spoe.cfg");
        assert!(told && found.len() == 1, "{changed}\n{}", text(&found));
    }
    for fine in [
        "    no option pipelining\n",
        ".if version_atleast(2.9)\n    no option pipelining\n.endif\n",
    ] {
        let found = Base { spoe: base.spoe.replacen(option, fine, 1), ..base.clone() }.lint();
        assert!(found.is_empty(), "{fine}\n{}", text(&found));
    }
}

#[test]
fn plain_http_is_found_wherever_the_address_comes_from() {
    let base = Base::shipped();
    let preset = "    presetenv GATE_HTTP 127.0.0.1:8080\n";
    let bind = "    bind \"${GATE_HTTP}\"\n";
    for (old, new) in [
        (preset, "    presetenv GATE_HTTP 0.0.0.0:80\n"),
        (preset, "    setenv GATE_HTTP :80\n"),
        (preset, "    presetenv GATE_HTTP *:80\n"),
        (preset, "    presetenv GATE_HTTP [::]:80\n"),
        (preset, "    presetenv GATE_HTTP 192.0.2.1:80\n"),
        (preset, ".if defined(OUTSIDE)\n    setenv GATE_HTTP :80\n.endif\n"),
        (preset, "    setenv GATE_PLAIN 1\n    setenv GATE_CERT x\n    setenv GATE_HTTP :80\n"),
        (preset, "    presetenv GATE_PLAIN 1\n    presetenv GATE_HTTP :80\n"),
        (
            preset,
            "    setenv GATE_CERT x\n    setenv GATE_HTTP :80\n    presetenv GATE_PLAIN yes\n",
        ),
        (preset, ""),
        (bind, "    bind \"${GATE_HTTP_2-:80}\"\n"),
        (bind, "    bind \"${GATE_HTTP_2-0.0.0.0:80}\"\n"),
        (bind, "    bind \"${GATE_HTTP_2}\"\n"),
        (bind, "    bind 127.0.0.1:80,192.0.2.1:80\n"),
        (bind, ".if defined(OUTSIDE)\n    bind :80\n.else\n    bind 127.0.0.1:80\n.endif\n"),
        (bind, "    bind 127.0.0.1:80\n    bind ipv6@:80 interface eth0\n"),
    ] {
        let edited = base.replaced(old, new);
        let found = edited.lint();
        let lines: Vec<_> = edited.gate.lines().collect();
        let is =
            |f: &Finding| f.rule == Rule::PlainHttp && lines[f.line - 1].trim().starts_with("bind");
        assert!(found.iter().any(is), "{old}{new}{}", text(&found));
    }
    for (old, new) in [
        (preset, "    presetenv GATE_HTTP localhost:80\n"),
        (preset, "    presetenv GATE_HTTP unix@/run/gate.sock\n"),
        (bind, "    bind \"${GATE_HTTP_2-127.0.0.1:80}\"\n"),
        (bind, "    bind :443 ssl crt x.pem\n"),
    ] {
        let found = base.replaced(old, new).lint();
        assert!(found.is_empty(), "{new}{}", text(&found));
    }
}

/// A second front end, for TCP streams, with this route.
fn for_streams(route: &str) -> String {
    format!(
        "frontend streams\n    mode tcp\n    bind 127.0.0.1:9999\n    filter spoe engine identity config identity.spoe.cfg\n    tcp-request inspect-delay 2s\n    tcp-request content send-spoe-group identity authorize-tcp\n    tcp-request content reject unless {{ var(txn.identity.allow) -m bool }}\n    tcp-request content set-dst var(txn.identity.dst_ip) if {{ var(txn.identity.dst_ip) -m found }}\n    tcp-request content set-dst-port var(txn.identity.dst_port) if {{ var(txn.identity.dst_port) -m found }}\n{route}\nbackend streamed\n    mode tcp\n    server direct 0.0.0.0:0"
    )
}

#[test]
fn what_was_judged_as_a_stream_goes_on_as_one() {
    const ADDRESSED: &str =
        "if { var(txn.identity.dst_ip) -m found } { var(txn.identity.dst_port) -m found }";
    let base = Base::shipped();
    let fine = for_streams(&format!("    use_backend streamed {ADDRESSED}"));
    none_found(&base, &[&fine], &[&END]);
    for route in [
        format!("    use_backend workspace {ADDRESSED}"),
        "    use_backend %[var(txn.identity.backend)] if { var(txn.identity.backend) -m found }"
            .into(),
        format!("    use_backend streamed {ADDRESSED}\n    default_backend nowhere"),
        format!("    tcp-request content switch-mode http\n    use_backend streamed {ADDRESSED}"),
    ] {
        all_found_as(Rule::ModeDiffers, &base, &[&for_streams(&route)], &[&END]);
    }
    let base = without_reuse(&base);
    changes_found(
        &base,
        Rule::ModeDiffers,
        &[("default_backend nowhere\n", "default_backend identity-agent\n")],
    );
    all_found(&base, &["    mode tcp"], &[&TOP]);
}

/// Credentials under other names.
const COPIES: [&str; 18] = [
    "    http-request return status 200 content-type text/plain lf-string %[req.hdrs] if { path /echo }",
    "    http-response set-header X-Debug %[req.hdr(cookie)]",
    "    http-after-response add-header X-Debug %[req.cook(__Host-identity)]",
    "    http-request set-header X-Copy %[req.hdr(authorization)]",
    "    http-request add-header X-Copy \"token=%[req.fhdr(Authorization),word(2,' ')]\"",
    "    http-request set-header X-Copy %[req.fhdr(cookie)]",
    "    http-request set-header X-Copy %[hdr(Cookie),lower]",
    "    http-request set-header X-Copy %[req.cook(__Host-identity)]",
    "    http-request set-header X-Copy %[cook(__host-identity-x)]",
    "    http-request set-header X-Copy %[req.hdrs]",
    "    http-request set-header X-Copy %[req.hdrs_bin,base64]",
    "    http-request set-header X-Copy %[http_auth_bearer]",
    "    http-request set-header X-Copy \"%{+Q}[req.hdr(authorization,1)]\"",
    "    http-request replace-header X-Copy .* %[req.hdr(authorization)]",
    "    http-request set-var(txn.own) req.hdr(authorization)\n    http-request set-header X-Copy %[var(txn.own)]",
    "    http-request set-var-fmt(txn.own) \"%[req.fhdr(cookie)]\"\n    http-request set-header X-Copy %[str(),concat(,txn.own)]",
    "    http-request set-query t=%[req.hdr(authorization),url_enc]",
    "    http-request redirect location https://other.test/?t=%[req.cook(__Host-identity)] if { path /x }",
];

#[test]
fn m7_credentials_do_not_travel_on_under_other_names() {
    let base = without_reuse(&Base::shipped());
    all_found_as(Rule::CredentialTravels, &base, &COPIES, &[&TOP, &Place::FrontEnd, &NAMED]);
    all_found_as(
        Rule::CredentialTravels,
        &base,
        &[
            "    http-request set-header Authorization %[req.hdr(authorization)]",
            "    http-request add-header Cookie \"x=%[req.cook(__Host-identity)]\"",
        ],
        &[&Place::FrontEnd, &NAMED],
    );
    let cookies =
        Base { agent: Agent { cookie: true, frames: false, ..Agent::default() }, ..base.clone() };
    let copied = "    http-request set-header X-Copy %[req.cook(token)]";
    let found = cookies.with(&TOP, copied).unwrap().0.lint();
    assert!(has(&found, Rule::CredentialTravels), "{}", text(&found));
    none_found(
        &base,
        &[
            copied,
            "    http-request set-header X-Key %[req.hdr(authorization),sha2(256),hex]",
            "    http-request set-var(txn.own) req.hdr(authorization)",
            "    http-request set-header X-Theme %[req.cook(theme)]",
            "    http-request set-header X-Lang %[req.hdr(accept-language)]",
        ],
        &[&TOP, &Place::FrontEnd],
    );
    // The client's own token from another part of the request is allowed.
    none_found(
        &base,
        &[
            "    http-request set-header Authorization \"Bearer %[url_param(token)]\" if { url_param(token) -m found }",
        ],
        &[&TOP],
    );
}

#[test]
fn m5_the_agent_is_asked_with_the_clients_own_credential() {
    let base = Base::shipped();
    all_found_as(
        Rule::VerdictMade,
        &base,
        &[
            "    http-request set-header Authorization \"Bearer x.y.z\"",
            "    http-request set-header authorization \"Bearer ${TOKEN}\"",
            "    http-request add-header Authorization \"Bearer %[env(TOKEN)]\" if { src 10.0.0.0/8 }",
            "    http-request add-header Cookie __Host-identity=abc",
            "    http-request replace-header Authorization .* \"Bearer x.y.z\"",
            "    http-request replace-header Cookie (.*) \"\\1; __Host-identity=x\"",
            "    http-request set-header Authorization %[src,map_ip(tokens.map)]",
            "    http-request set-var(txn.own) str(x)\n    http-request set-header Authorization %[var(txn.own)]",
        ],
        &[&TOP, &Place::After("http-request set-var(txn.upgrades)")],
    );
    none_found(&base, &["    http-request replace-header Cookie (^|;)x=[^;]* \\1"], &[&TOP]);
}

#[test]
fn m11_no_rule_gives_browsers_a_cookie_of_the_agents_name() {
    let base = without_reuse(&Base::shipped());
    let given = [
        "    http-after-response set-header Set-Cookie __Host-identity=x",
        "    http-after-response add-header Set-Cookie %[res.hdr(x-cookie)]",
        "    http-after-response add-header set-cookie \"  __host-Identity-pre=x; Secure\"",
        "    http-after-response replace-header Set-Cookie x-(.*) \\1",
    ];
    all_found_as(Rule::CookieNotDropped, &base, &given, &[&TOP, &Place::FrontEnd, &NAMED]);
    all_found_as(
        Rule::CookieNotDropped,
        &base,
        &[
            "    http-response add-header Set-Cookie %[res.hdr(x-cookie)]",
            "    http-response set-header Set-Cookie __Host-identity=x",
            "    http-response replace-header Set-Cookie x-(.*) \\1",
            "    http-response add-headers-bin res.hdr(x),b64dec",
            "    http-request return status 302 hdr Location / hdr Set-Cookie __Host-identity=%[url_param(t)] if { path /x }",
        ],
        &[&Place::FrontEnd],
    );
    none_found(
        &base,
        &[
            "    http-response add-header Set-Cookie \"lb=%[srv_name]; Path=/\"",
            "    http-response replace-header Set-Cookie (.*) \"\\1; SameSite=Lax\"",
            "    http-after-response set-header X-Frame-Options DENY",
        ],
        &[&TOP, &Place::FrontEnd],
    );
    none_found(&base, &["    cookie SERVER insert indirect nocache"], &[&NAMED]);
}

#[test]
fn m3_what_arrives_is_what_was_judged() {
    let base = without_reuse(&Base::shipped());
    let places = [&ASK, &Place::AfterDeny, &Place::FrontEnd];
    all_found_as(
        Rule::NotAsJudged,
        &base,
        &[
            "    http-request set-path /admin%[path]",
            "    http-request set-path %[req.hdr(x-path)]",
            "    http-request set-pathq %[url_param(to)] if { path /go }",
            "    http-request replace-path (.*) /x\\1",
            "    http-request replace-pathq ^/a(.*) \\1",
            "    http-request normalize-uri path-merge-dotdot",
            "    http-request set-method GET",
            "    http-request set-method %[req.hdr(x-method)]",
            "    http-request set-header X-HTTP-Method-Override %[req.hdr(x-method)]",
            "    http-request add-header x_method_override DELETE",
        ],
        &places,
    );
    all_found_as(
        Rule::NotAsJudged,
        &base,
        &[
            "    http-request set-path %[req.hdr(x-path)]",
            "    http-request set-uri %[url_param(to)]",
            "    http-request set-method POST",
        ],
        &[&NAMED],
    );
    // Above the request to the agent, the agent judges the changed request. A backend may add the prefix that its
    // workspace needs.
    let above = Place::After("http-request set-var(txn.upgrades)");
    none_found(&base, &["    http-request replace-path ^/old(/.*) /new\\1"], &[&TOP, &above]);
    none_found(&base, &["    http-request replace-path (.*) /prefix\\1"], &[&NAMED]);
    none_found(&base, &["    http-request set-query x=1"], &[&Place::FrontEnd]);
}

#[test]
fn m4_identity_headers_in_every_spelling_and_place() {
    let base = without_reuse(&Base::shipped());
    let mut places: Vec<&Place> = LATE.iter().collect();
    places.extend(&BACK);
    all_found_as(
        Rule::HeaderForged,
        &base,
        &[
            "    http-request set-header X.Forwarded.User %[req.hdr(x)]",
            "    http-request set-header X~Identity~User admin",
            "    http-request add-header x_auth_request_user %[req.cook(user)]",
            "    http-request set-header REMOTE_USER %[ssl_c_s_dn(cn)]",
            "    http-request set-header X-Unique-ID %[req.hdr(x)]",
            "    http-request replace-header X-Identity-Subject .* root",
            "    http-request set-header X-Forwarded-For %[req.hdr(x-forwarded-for,-2)]",
            "    http-request set-header Forwarded for=%[req.hdr(x)]",
            "    unique-id-header X-Forwarded-User",
            "    http-send-name-header X-Identity-User",
        ],
        &places,
    );
    all_found_as(
        Rule::HeaderForged,
        &base,
        &[
            "fcgi-app x\n    docroot /x\n    set-param REMOTE_USER %[req.hdr(x)]",
            "fcgi-app x\n    docroot /x\n    set-param HTTP_X_FORWARDED_USER admin",
        ],
        &[&END],
    );
    none_found(&base, &["fcgi-app x\n    docroot /x\n    set-param PATH_INFO %[path]"], &[&END]);
    all_found_as(
        Rule::HeaderNotStripped,
        &base,
        &[
            "    option accept-invalid-http-request",
            "    option accept-unsafe-violations-in-http-request",
        ],
        &[&TOP, &DEFAULTS],
    );
}

#[test]
fn m17_the_page_of_statistics_has_a_section_of_its_own() {
    let base = Base::shipped();
    all_found_as(
        Rule::StatisticsOpen,
        &base,
        &[
            "    stats enable",
            "    stats uri /statistics",
            "    stats enable\n    stats refresh 5s",
            "    stats show-legends",
            "    stats http-request allow",
        ],
        &[&TOP, &DEFAULTS, &NAMED],
    );
    all_found_as(
        Rule::SocketOpen,
        &base,
        &["    stats admin if TRUE", "    stats admin if { src 10.0.0.0/8 }"],
        &[&TOP, &DEFAULTS, &NAMED],
    );
    none_found(&base, &["    stats enable\n    stats auth operator:secret"], &[&TOP]);
}

#[test]
fn m5_scripts_are_read_for_all_that_they_can_do() {
    let base = Base::shipped();
    let (with, _) = base.with(&GLOBAL, "    lua-load own.lua").unwrap();
    let found = |script: &str| {
        let gate = Source { name: "haproxy.cfg".into(), text: with.gate.clone() };
        let files = |name: &str| {
            let text = if name == "own.lua" { script.to_owned() } else { with.spoe.clone() };
            Some(Source { name: name.into(), text })
        };
        lint(&[gate], &files, &Agent::default())
    };
    for script in [
        "txn:set_var(\"txn.identity.allow\", true)",
        "txn:set_var('txn.iden' .. 'tity.allow', true)",
        "txn:set_var(\"txn.\\105dentity.allow\", true)",
        "txn:set_var(name, true)",
        "local f = txn.set_var",
        "txn.http:req_set_header('X-Forwarded-User', 'root')",
        "txn.http:req_del_header('X-Identity-User')",
        "msg:set_header('X-Forwarded-User', 'root')",
        "msg:set_path('/admin')",
        "core.register_filter('x', X, function() end)",
        "core.register_service('x', 'http', f)",
        "core.set_map('places.map', 'a', 'b')",
        "local s = core.tcp()",
        "load(text)()",
    ] {
        assert!(has(&found(script), Rule::VerdictMade), "{script}");
    }
    assert!(has(&found("local x = require('x')"), Rule::NotJudged));
    for script in [
        "txn:set_var(\"txn.mine\", txn.f:src())",
        "core.register_fetches('x', function(txn) return 'y' end)",
        "txn.http:res_set_header('X-Served-By', 'gate')",
    ] {
        assert!(found(script).is_empty(), "{script}: {}", text(&found(script)));
    }
}

#[test]
fn credentials_are_not_logged_in_any_format() {
    let base = without_reuse(&Base::shipped());
    all_found_as(
        Rule::SecretLogged,
        &base,
        &[
            "    log-format %[req.hdrs]",
            "    log-format-sd \"[x y=\\\"%[http_auth_bearer]\\\"]\"",
            "    error-log-format %[req.fhdr(cookie)]",
            "    unique-id-format %[req.hdr(authorization)]",
            "    http-request capture req.hdrs len 1000",
            "    http-request capture req.cook(__Host-identity) len 64",
            "    capture cookie __Host-identity len 64",
        ],
        &[&TOP],
    );
}

/// Edits of a front end, above its rules, that are harmless.
const HARMLESS: [&str; 34] = [
    "    stick-table type ipv6 size 100k expire 30s store gpc0,http_req_rate(10s),conn_cur\n    tcp-request connection track-sc0 src\n    tcp-request connection reject if { sc_conn_cur(0) gt 100 }",
    "    http-request track-sc0 src table rates\n    http-request deny deny_status 429 if { sc_http_req_rate(0) gt 100 }",
    "    http-request tarpit if { sc_http_err_rate(0) gt 20 }",
    "    http-request silent-drop if { src -f /etc/haproxy/blocked.lst }",
    "    http-request reject if { req.hdr_cnt(host) gt 1 }",
    "    option forwardfor except 127.0.0.0/8",
    "    option forwardfor if-none",
    "    option forwarded",
    "    compression algo gzip\n    compression type text/html text/css",
    "    filter bwlim-out limit default-limit 10m default-period 1s",
    "    monitor-uri /healthz\n    monitor fail if { nbsrv(named) lt 1 }",
    "    http-request return status 200 content-type text/plain string ok if { path /healthz }",
    "    http-request redirect prefix https://www.example.com if { req.hdr(host) -i -m str example.com }",
    "    redirect scheme https if !{ ssl_fc }",
    "    http-request deny if { path_beg /.git } || { path_sub .. }",
    "    acl blocked src 192.0.2.0/24\n    acl blocked src 198.51.100.0/24\n    http-request deny if blocked",
    "    acl internal src 10.0.0.0/8\n    http-request deny unless internal or { path_beg /public }",
    "    http-request set-log-level silent if { path /healthz }",
    "    http-request capture req.hdr(user-agent) len 128",
    "    capture request header Host len 64",
    "    log 127.0.0.1:514 local0",
    "    option dontlognull\n    option logasap",
    "    log-tag gate",
    "    maxconn 20000\n    backlog 1024",
    "    timeout http-request 5s\n    timeout http-keep-alive 10s",
    "    option http-keep-alive\n    option tcp-smart-accept",
    "    bind :8443 ssl crt /etc/haproxy/certs/ alpn h2,http/1.1 strict-sni tfo",
    "    bind quic4@:8443 ssl crt /etc/haproxy/x.pem alpn h3",
    "    errorfile 403 /etc/haproxy/403.http\n    errorfile 502 /etc/haproxy/502.http",
    "    http-error status 503 content-type text/html file pages/unavailable.html",
    "    errorfiles mine",
    "    http-response set-header X-Content-Type-Options nosniff\n    http-response del-header Server",
    "    http-after-response set-header Referrer-Policy no-referrer",
    "    description \"The gate\"\n    id 7\n    email-alert level notice",
];
/// Sections that are harmless.
const SECTIONS: [&str; 12] = [
    "listen stats\n    bind 127.0.0.1:8404\n    stats enable\n    stats uri /\n    stats refresh 10s",
    "frontend metrics\n    bind 127.0.0.1:8405\n    http-request use-service prometheus-exporter if { path /metrics }\n    no log",
    "peers mine\n    peer one 10.0.0.1:1024\n    peer two 10.0.0.2:1024",
    "resolvers dns\n    nameserver one 10.0.0.53:53\n    hold valid 10s",
    "backend rates\n    stick-table type ipv6 size 100k expire 30s store http_req_rate(10s)",
    "http-errors mine\n    errorfile 503 /etc/haproxy/503.http",
    "userlist operators\n    user one password $5$x",
    "ring logs\n    size 32764\n    server log 127.0.0.1:514",
    "log-forward syslog\n    dgram-bind 127.0.0.1:1514\n    log global",
    "cache pages\n    total-max-size 4",
    "frontend closed\n    bind 127.0.0.1:8406\n    http-request return status 204\n    default_backend named",
    "mailers mine\n    mailer one 10.0.0.25:25",
];

#[test]
fn more_harmless_edits_give_no_finding() {
    let base = Base::shipped();
    none_found(&base, &HARMLESS, &[&TOP]);
    none_found(&base, &SECTIONS, &[&END]);
    // A public site that the agent must not name.
    let only = Base { agent: names_only(&["named"]), ..base.clone() };
    none_found(
        &only,
        &[
            "frontend www\n    bind :443 ssl crt www.pem\n    http-request set-header X-Forwarded-Proto https\n    default_backend www\nbackend www\n    balance roundrobin\n    cookie SERVER insert\n    option httpchk GET /\n    server one 10.9.0.1:80 check\n    server two 10.9.0.2:80 check backup",
            "listen www\n    bind 127.0.0.1:9000\n    server one 10.9.0.1:80 check",
        ],
        &[&END],
    );
    none_found(
        &base,
        &[
            "    maxconn 50000\n    nbthread 4\n    log 127.0.0.1:514 local0",
            "    ssl-default-bind-ciphers ECDHE+AESGCM\n    tune.ssl.default-dh-param 2048",
            "    server-state-file /var/lib/haproxy/state\n    hard-stop-after 1h",
        ],
        &[&GLOBAL],
    );
    none_found(
        &base,
        &[
            "    option httpchk GET /\n    option redispatch\n    retries 2",
            "    balance leastconn\n    fullconn 100",
        ],
        &[&NAMED],
    );
    let places: Vec<&Place> = FRONT.iter().collect();
    none_found(
        &without_reuse(&base),
        &[
            "    http-request set-header X-Region eu",
            "    acl own path_beg /own\n    http-request deny if own { method POST }",
            "    http-request set-var(txn.own) src,map_ip(/etc/haproxy/countries.map)",
        ],
        &places,
    );
    // Above the rules that delete them, they would be deleted.
    none_found(
        &without_reuse(&base),
        &[
            "    http-request set-header X-Forwarded-Port %[dst_port]",
            "    http-request set-header X-SSL-Client-CN %[ssl_c_s_dn(cn)]",
        ],
        &[&LATE[0], &LATE[1]],
    );
}

#[test]
fn no_request_changes_what_decides_where_others_go() {
    let route = "    use_backend %[var(txn.identity.workspace),map(/etc/haproxy/places.map)]";
    let listed = "    acl own src -f /etc/haproxy/own.lst\n    use_backend nowhere if own { var(txn.identity.workspace) -m str x }";
    let header = "    http-request set-header X-Forwarded-User %[var(txn.identity.user),map(/etc/haproxy/users.map)]";
    let base = without_reuse(&Base::shipped());
    let (base, _) = base.with(&Place::FrontEnd, &format!("{listed}\n{route}")).unwrap();
    let (base, _) = base.with(&LATE[0], header).unwrap();
    assert!(base.lint().is_empty(), "{}", text(&base.lint()));
    let other = "frontend other\n    bind 127.0.0.1:9999\n    http-request set-map(/etc/haproxy/places.map) %[src] named\n    http-request return status 204";
    all_found_as(Rule::RouteNotAgents, &base, &[other], &[&END]);
    let front: Vec<&Place> = FRONT.iter().chain(&BACK).collect();
    all_found_as(
        Rule::RouteNotAgents,
        &base,
        &[
            "    http-request set-map(/etc/haproxy/places.map) %[req.hdr(x-name)] %[req.hdr(x-place)]",
            "    http-request del-map(/etc/haproxy/places.map) %[src] if { path /x }",
            "    http-response set-map(/etc/haproxy/places.map) %[src] %[res.hdr(x-place)]",
            "    http-request set-map(file@/etc/haproxy/places.map) x y",
            "    http-request set-map(\"/etc/haproxy/users.map\") %[var(txn.identity.user)] root",
            "    http-request add-acl(/etc/haproxy/own.lst) %[src]",
            "    http-request del-acl(/etc/haproxy/own.lst) %[src] unless { ssl_fc }",
            "    http-request set-map(\"${SOMEWHERE}\") %[src] x",
        ],
        &front,
    );
    none_found(
        &base,
        &[
            "    http-request set-map(/etc/haproxy/seen.map) %[src] %[date]",
            "    http-request add-acl(/etc/haproxy/blocked.lst) %[src] if { path /trap }\n    http-request deny if { src -f /etc/haproxy/blocked.lst }",
        ],
        &[&TOP],
    );
}

#[test]
fn the_agents_pages_are_reached_by_the_gate_alone() {
    const PLAIN: &str = "    bind 127.0.0.1:9999\n";
    let base = Base::shipped();
    let pages = base.replaced("global\n", "global\n    setenv GATE_LOGIN_HOST login.test\n");
    for base in [&base, &pages] {
        all_found(
            base,
            &[
                &format!("frontend login\n{PLAIN}    default_backend identity-web"),
                &format!(
                    "frontend login\n{PLAIN}    use_backend identity-web if {{ path_beg /x }}\n    default_backend nowhere"
                ),
                &format!("frontend login\n    mode tcp\n{PLAIN}    default_backend identity-web"),
                &format!(
                    "listen login\n{PLAIN}    server pages \"${{GATE_LOGIN_PAGES-127.0.0.1:9011}}\""
                ),
                &format!(
                    "backend other\n    server x localhost:9011\nfrontend login\n{PLAIN}    default_backend other"
                ),
                &format!(
                    "frontend login\n{PLAIN}    http-request del-header ^x-identity- -m reg\n    default_backend identity-web"
                ),
                &format!(
                    "frontend login\n{PLAIN}    http-request del-header ^x[^a-z0-9]identity([^a-z0-9]|$) -m reg if {{ ssl_fc }}\n    default_backend identity-web"
                ),
            ],
            &[&END],
        );
        none_found(
            base,
            &[
                &format!(
                    "frontend login\n{PLAIN}    http-request del-header ^x[^a-z0-9]identity([^a-z0-9]|$) -m reg\n    default_backend identity-web"
                ),
                &format!(
                    "frontend login\n{PLAIN}    http-request redirect scheme https\n    default_backend identity-web"
                ),
            ],
            &[&END],
        );
    }
    // In the gate itself.
    let pages = without_reuse(&pages);
    all_found_as(
        Rule::ReservedPath,
        &pages,
        &["    use_backend identity-web if { path_beg /x }", "    default_backend identity-web"],
        &[&Place::FrontEnd],
    );
}

#[test]
fn programs_are_not_judged() {
    let base = Base::shipped();
    all_found_as(
        Rule::NotJudged,
        &base,
        &[
            "program api\n    command /usr/bin/dataplaneapi -f /etc/haproxy/dataplaneapi.yml",
            "program other\n    no option start-on-reload\n    command /bin/sh -c \"exec other\"\n    user other",
        ],
        &[&END],
    );
}

#[test]
fn no_client_of_the_network_chooses_its_address() {
    let base = Base::shipped();
    all_found_as(
        Rule::AddressForged,
        &base,
        &[
            "    bind :8444 ssl crt gate.pem accept-proxy",
            "    bind *:8444 accept-proxy ssl crt gate.pem",
            "    bind ipv6@[::]:8444 ssl crt gate.pem accept-proxy",
            "    bind 192.0.2.7:8444 ssl crt gate.pem accept-proxy",
            "    bind 127.0.0.1:8444,0.0.0.0:8445 ssl crt gate.pem accept-proxy",
            "    bind quic4@:8444 ssl crt gate.pem accept-proxy",
            "    bind :8444 ssl crt gate.pem\n    tcp-request connection expect-proxy layer4",
            "    bind \"${OUTSIDE-:8444}\" ssl crt gate.pem accept-proxy",
        ],
        &[&TOP, &Place::FrontEnd],
    );
    none_found(
        &base,
        &[
            "    bind 127.0.0.1:8444 accept-proxy",
            "    bind /run/gate.sock accept-proxy",
            "    bind abns@gate accept-proxy",
            "    bind 10.0.0.7:8444 ssl crt gate.pem accept-proxy",
            "    bind fd00::7:8444 ssl crt gate.pem accept-proxy",
            "    bind :8444 ssl crt gate.pem\n    tcp-request connection expect-proxy layer4 if { src 10.0.0.0/8 }",
        ],
        &[&TOP],
    );
}

#[test]
fn rules_that_backends_inherit_are_judged_as_their_own() {
    let base = without_reuse(&Base::shipped());
    let old = "backend named\n";
    for rule in [
        "http-request set-header X-Forwarded-User %[req.hdr(x-user)]",
        "http-request set-dst hdr(x-ip)",
        "http-request set-path %[req.hdr(x-path)]",
        "http-request set-method POST",
        "http-request allow if { path / }\n    http-request del-header X-Own",
        "http-request cache-use pages",
        "http-response set-status 200 if { status 101 }",
        "http-request set-header X-Own %[req.hdr(authorization)]",
        "http-request set-header Connection X-Forwarded-User",
        "http-after-response set-header Set-Cookie %[req.hdr(x)]",
        "http-request set-var(txn.identity.user) str(root)",
    ] {
        let defaults = format!(
            "defaults own\n    mode http\n    timeout connect 1s\n    timeout server 1s\n    {rule}\n\nbackend named from own\n"
        );
        let edited = base.replaced(old, &defaults);
        let lines: Vec<&str> = edited.gate.lines().collect();
        let first = lines.iter().position(|line| *line == "defaults own").unwrap() + 1;
        let found = edited.lint();
        assert!(
            found.iter().any(|f| names(f, &(first + 4..first + 6))),
            "{rule}\n{}",
            text(&found)
        );
    }
}
