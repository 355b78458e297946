//! Makes dangerous edits by rule, each kind at each place of the shipped files, and demands a finding that names the
//! added line. Harmless edits must give no finding.

use std::sync::atomic::{AtomicUsize, Ordering};

use identity_spoa::haproxy_config::{
    document::Source,
    lint::{Agent, Finding, Rule, lint},
};

use super::{source, text};
use crate::support::haproxy::root;

/// The files that an edit is made to.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) gate: String,
    pub(crate) spoe: String,
    pub(crate) agent: Agent,
}

impl Base {
    /// The shipped files.
    pub(crate) fn shipped() -> Self {
        let read = |name: &str| source(&root().join("haproxy").join(name)).unwrap().text;
        let (gate, spoe) = (read("haproxy.cfg"), read("identity.spoe.cfg"));
        Self { gate, spoe, agent: Agent::default() }
    }

    pub(super) fn lint(&self) -> Vec<Finding> {
        let sources = [Source { name: "haproxy.cfg".into(), text: self.gate.clone() }];
        let spoe = |name: &str| {
            let text = self.spoe.clone();
            (name == "identity.spoe.cfg").then(|| Source { name: name.into(), text })
        };
        lint(&sources, &spoe, &self.agent)
    }

    /// The files with lines added at a place, and the numbers of the added lines.
    pub(super) fn with(
        &self,
        place: &Place,
        added: &str,
    ) -> Option<(Self, std::ops::Range<usize>)> {
        let lines: Vec<&str> = self.gate.lines().collect();
        let at = match place {
            Place::After(begin) => {
                lines.iter().position(|line| line.trim().starts_with(begin))? + 1
            }
            Place::AfterDeny => lines.iter().position(|line| line.ends_with("unless allowed"))? + 1,
            Place::FrontEnd => {
                lines.iter().position(|line| line.trim().starts_with("log-format"))?
            }
            Place::End => lines.len(),
        };
        let new: Vec<&str> = added.lines().collect();
        let all = [&lines[..at], &new[..], &lines[at..]].concat();
        let gate = all.join("\n") + "\n";
        Some((Self { gate, ..self.clone() }, at + 1..at + 1 + new.len()))
    }

    /// The files with one text in place of another.
    pub(super) fn replaced(&self, old: &str, new: &str) -> Self {
        assert!(self.gate.contains(old), "{old}");
        Self { gate: self.gate.replacen(old, new, 1), ..self.clone() }
    }
}

#[derive(Debug)]
pub(super) enum Place {
    /// After the first line that begins with this text.
    After(&'static str),
    /// After the rule that refuses everything that is not allowed.
    AfterDeny,
    /// At the end of the front end.
    FrontEnd,
    /// At the end of the file.
    End,
}

pub(super) const TOP: Place = Place::After("frontend gate");
pub(super) const ASK: Place = Place::After("http-request send-spoe-group");
pub(super) const FRONT: [Place; 4] = [TOP, ASK, Place::AfterDeny, Place::FrontEnd];
pub(super) const LATE: [Place; 2] = [Place::AfterDeny, Place::FrontEnd];
pub(super) const BACK: [Place; 2] =
    [Place::After("backend workspace"), Place::After("backend named")];

/// Whether a finding names one of these lines.
pub(super) fn names(finding: &Finding, lines: &std::ops::Range<usize>) -> bool {
    lines.contains(&finding.line)
        || lines.clone().any(|line| {
            finding.what.split(|c: char| !c.is_ascii_digit()).any(|n| n == line.to_string())
        })
}

/// Tries every case, on all processors.
pub(super) fn each<T: Sync>(all: &[T], tried: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            tried(one);
        }
    };
    std::thread::scope(|scope| {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Every edit is found in the added line, as it is and within an `.if`.
pub(super) fn all_found(base: &Base, edits: &[&str], places: &[&Place]) {
    found_if(base, edits, places, &|_| true);
}

/// As [`all_found`], by a finding of one kind.
pub(super) fn all_found_as(rule: Rule, base: &Base, edits: &[&str], places: &[&Place]) {
    found_if(base, edits, places, &|finding| finding.rule == rule);
}

fn found_if(
    base: &Base,
    edits: &[&str],
    places: &[&Place],
    is: &(dyn Fn(&Finding) -> bool + Sync),
) {
    let before = base.lint();
    assert!(before.is_empty(), "{}", text(&before));
    let mut tries = Vec::new();
    for edit in edits {
        for (number, place) in places.iter().enumerate() {
            tries.push((place, (*edit).to_owned()));
            if number == 0 {
                tries.push((place, format!(".if defined(EDIT)\n{edit}\n.endif")));
            }
        }
    }
    each(&tries, |(place, form)| {
        let Some((edited, lines)) = base.with(place, form) else { return };
        let found = edited.lint();
        let told = found.iter().any(|f| is(f) && names(f, &lines));
        assert!(told, "{place:?}\n{form}\n{}", text(&found));
    });
}

pub(super) fn none_found(base: &Base, edits: &[&str], places: &[&Place]) {
    let tries: Vec<_> =
        edits.iter().flat_map(|edit| places.iter().map(move |place| (edit, place))).collect();
    each(&tries, |(edit, place)| {
        let Some((edited, _)) = base.with(place, edit) else { return };
        let found = edited.lint();
        assert!(found.is_empty(), "{place:?}\n{edit}\n{}", text(&found));
    });
}

/// Writes to the agent's variables, in every form.
const WRITES: [&str; 13] = [
    "    http-request set-var(txn.identity.allow) bool(true)",
    "    http-request set-var(txn.identity.allow,ifnotexists) bool(true)",
    "    http-request set-var-fmt(txn.identity.user) %[req.hdr(x-user)]",
    "    http-request unset-var(txn.identity.keep)",
    "    http-response set-var(txn.identity.user) str(x)",
    "    http-after-response set-var(txn.identity.user) str(x)",
    "    tcp-request content set-var(txn.identity.backend) str(named)",
    "    http-request do-resolve(txn.identity.dst_ip,dns,ipv4) hdr(x-name)",
    "    acl own req.hdr(x),set-var(txn.identity.allow) -m found",
    "    http-request set-var(sess.identity.reuse_of) str(x)",
    "    \"http-request\" 'set-var(txn.identity.allow)' bool(true) if TRUE || { src 10.0.0.1 }",
    "    http-request set-var(txn.\\x69dentity.allow) bool(true)",
    "    http-request\u{c}set-var(txn.identity.cookie)\u{b}str(x)",
];
/// Routes that the agent does not choose.
const ROUTES: [&str; 9] = [
    "    use_backend named if { path_beg /named }",
    "    use_backend named if { var(txn.identity.allow) -m bool }",
    "    use_backend named if { var(txn.identity.user) -m str alice } || { src 10.0.0.1 }",
    "    use_backend named unless { var(txn.identity.backend) -m found }",
    "    use_backend named if { var(txn.identity.dst_ip) -m found } or { path / }",
    "    use_backend %[req.hdr(x-backend)]",
    "    use_backend %[var(txn.identity.backend),concat(,txn.other)]",
    "    use_backend %[var(txn.identity.backend,named)]",
    "    use_backend \"${SOMEWHERE}\" if { path / }",
];
/// Addresses that are not the agent's.
const DESTINATIONS: [&str; 7] = [
    "    http-request set-dst hdr(x-ip)",
    "    http-request set-dst-port hdr(x-port)",
    "    http-request set-dst-port int(22) if { path_beg /ssh }",
    "    http-request set-dst-port var(txn.identity.dst_port),add(1)",
    "    http-request set-src hdr(x-forwarded-for)",
    "    tcp-request content set-dst src",
    "    tcp-request connection set-src src,ipmask(24)",
];
/// Identity headers from other sources.
const HEADERS: [&str; 11] = [
    "    http-request set-header X-Forwarded-User %[req.hdr(x-user)]",
    "    http-request set-header X-Forwarded-User admin",
    "    http-request add-header X-Forwarded-Groups %[var(txn.own)]",
    "    http-request set-header X-Identity-Subject %[var(txn.identity.subject)]%[req.hdr(x)]",
    "    http-request set-header X-Forwarded-Email %[var(txn.identity.email,root@test)]",
    "    http-request set-header Remote-User %[ssl_c_s_dn(cn)]",
    "    http-request replace-header X-Forwarded-User .* %[req.hdr(x-user)]",
    "    http-request replace-value X-Forwarded-User .* root",
    "    http-request set-header X-Forwarded-For %[req.hdr(x-real-ip)]",
    "    http-request add-headers-bin req.hdr(x),b64dec",
    "    option forwardfor header X-Forwarded-User",
];
/// Sections with their own clients that lead to workspaces.
const SECTIONS: [&str; 11] = [
    "frontend second\n    bind 127.0.0.1:9999\n    default_backend named",
    "frontend second\n    bind 127.0.0.1:9999\n    use_backend named if { path / }",
    "frontend second\n    bind 127.0.0.1:9999\n    use_backend %[req.hdr(x)]",
    "frontend second\n    mode tcp\n    bind 127.0.0.1:9999\n    default_backend named",
    "frontend second\n    bind 127.0.0.1:9999\n    default_backend workspace",
    "defaults open\n    mode http\n    timeout client 1s\n    default_backend named\nfrontend second from open\n    bind 127.0.0.1:9999",
    "defaults a\n    mode http\n    default_backend named\ndefaults b from a\n    timeout client 1s\nfrontend second from b\n    bind 127.0.0.1:9999",
    "listen second\n    bind 127.0.0.1:9999\n    server x localhost:8090",
    "listen second\n    bind 127.0.0.1:9999\n    http-request set-dst hdr(x)\n    server x 0.0.0.0:0",
    "backend other\n    server x ipv4@127.0.0.1:8090\nfrontend second\n    bind 127.0.0.1:9999\n    default_backend other",
    "listen second\n    mode tcp\n    bind 127.0.0.1:9999\n    option transparent",
];
/// Edits that are harmless.
const HARMLESS: [&str; 14] = [
    "    stick-table type ip size 100k expire 30s store http_req_rate(10s)",
    "    http-request track-sc0 src",
    "    http-request deny deny_status 429 if { sc_http_req_rate(0) gt 100 }",
    "    option forwardfor",
    "    option forwardfor header X-Forwarded-For",
    "    compression algo gzip",
    "    filter compression",
    "    monitor-uri /healthz",
    "    http-request redirect scheme https code 301 unless { ssl_fc }",
    "    http-request redirect location / if { path /old }",
    "    option httplog",
    "    http-request capture req.hdr(user-agent) len 64",
    "    timeout http-request 5s",
    "    errorfile 503 /etc/haproxy/503.http",
];

#[test]
fn m5_nothing_but_the_agent_writes_its_variables() {
    let mut places: Vec<&Place> = FRONT.iter().collect();
    places.extend(&BACK);
    all_found(&Base::shipped(), &WRITES, &places);
    let base = Base::shipped();
    for edit in [
        "    set-var proc.identity_epoch str(x)",
        "    presetenv OWN txn.identity\n    set-var-fmt \"proc.identity_epoch\" x",
        "    lua-load own.lua",
    ] {
        all_found(&base, &[edit], &[&Place::After("global")]);
    }
    // Names that are made of variables of the environment.
    let macros = base.replaced("global\n", "global\n    setenv OWN txn.identity\n");
    all_found(&macros, &["    http-request set-var(\"${OWN}.allow\") bool(true)"], &[&TOP]);
    all_found(&base, &["    http-request set-var(\"txn.${X}\") bool(true)"], &[&TOP]);
}

#[test]
fn m5_no_other_agent_and_no_option_writes_them() {
    let mut base = Base::shipped();
    base.spoe += "\n[waf]\nspoe-agent waf\n    messages check\n    option var-prefix identity\n    use-backend waf\nspoe-message check\n    args x=src\n    event on-frontend-http-request\n";
    all_found(&base, &["    filter spoe engine waf config identity.spoe.cfg"], &[&TOP, &BACK[1]]);
    let shipped = Base::shipped();
    for (old, new) in [
        ("set-on-error spoe_error", "set-on-error allow"),
        ("dontlog-normal", "dontlog-normal\n    option set-total-time allow"),
        (
            "unique_id=unique-id method",
            "x=src,set-var(txn.identity.allow) unique_id=unique-id method",
        ),
        ("certificate_result=ssl_c_verify", "certificate_result=int(0)"),
    ] {
        let spoe = shipped.spoe.replacen(old, new, 1);
        assert_ne!(spoe, shipped.spoe, "{old}");
        let found = Base { spoe, ..shipped.clone() }.lint();
        assert!(found.iter().any(|f| f.file == "identity.spoe.cfg"), "{new}: {}", text(&found));
    }
}

#[test]
fn m2_every_route_is_the_agents() {
    let places: Vec<&Place> = FRONT.iter().collect();
    all_found(&Base::shipped(), &ROUTES, &places);
    all_found(
        &Base::shipped(),
        &[
            "    default_backend named",
            "    http-request set-header Host %[req.hdr(x-host)]",
            "    http-request set-uri http://other.test/",
        ],
        &LATE.iter().collect::<Vec<_>>(),
    );
    let base = Base::shipped();
    all_found(
        &base,
        &["    server other 10.0.0.9:80"],
        &[&BACK[0], &Place::After("backend nowhere")],
    );
    all_found(
        &base,
        &["    server b 10.0.0.9:80\n    use-server b if { path_beg /b }"],
        &[&BACK[1]],
    );
    for (old, new) in [
        ("    server direct 0.0.0.0:0\n", "    server direct 10.0.0.9:0\n"),
        ("    server direct 0.0.0.0:0\n", "    server direct 0.0.0.0:8080\n"),
        (
            "    http-request set-dst var(txn.identity.dst_ip) if { var(txn.identity.dst_ip) -m found }\n",
            "",
        ),
    ] {
        let found = base.replaced(old, new).lint();
        assert!(found.iter().any(|f| f.rule == Rule::RouteNotAgents), "{new}: {}", text(&found));
    }
    // The agent's word about the place may choose the route.
    none_found(
        &without_reuse(&base),
        &[
            "    use_backend named if { var(txn.identity.workspace) -m str build }",
            "    use_backend %[var(txn.identity.workspace),map(/etc/haproxy/places.map)]",
        ],
        &[&Place::FrontEnd],
    );
}

/// Without reuse: lint reports rules that reused requests skip.
pub(super) fn without_reuse(base: &Base) -> Base {
    Base { gate: crate::support::haproxy::without_reuse(&base.gate), ..base.clone() }
}

#[test]
fn m3_every_destination_is_the_agents() {
    let mut places: Vec<&Place> = FRONT.iter().collect();
    places.extend(&BACK);
    all_found(&Base::shipped(), &DESTINATIONS, &places);
}

#[test]
fn m4_identity_headers_carry_the_agents_word() {
    let mut places: Vec<&Place> = LATE.iter().collect();
    places.extend(&BACK);
    all_found(&without_reuse(&Base::shipped()), &HEADERS, &places);
    none_found(
        &without_reuse(&Base::shipped()),
        &[
            "    http-request set-header X-Forwarded-User %[var(txn.identity.user),lower]",
            "    http-request set-header X-Forwarded-Port %[dst_port]",
            "    http-request set-header X-Real-IP %[src]",
            "    http-request set-header X-Own \"%[req.hdr(x-own)]\"",
        ],
        &places,
    );
}

#[test]
fn m1_every_way_to_a_workspace_asks() {
    all_found(&Base::shipped(), &SECTIONS, &[&Place::End]);
    none_found(
        &Base::shipped(),
        &[
            "frontend metrics\n    bind 127.0.0.1:9101\n    http-request use-service prometheus-exporter if { path /metrics }",
            "frontend plain\n    bind 127.0.0.1:9102\n    http-request redirect scheme https\n    default_backend named",
            "frontend plain\n    bind 127.0.0.1:9102\n    redirect scheme https if !{ ssl_fc }\n    default_backend named",
            "listen stats\n    bind 127.0.0.1:9103\n    stats enable\n    stats uri /",
            "frontend closed\n    bind 127.0.0.1:9104\n    default_backend nowhere",
        ],
        &[&Place::End],
    );
}

#[test]
fn m0_what_is_lacking_is_lacking_where_the_conditions_leave_it_out() {
    let base = Base::shipped();
    let lines: Vec<&str> = base.gate.lines().collect();
    let needed = |line: &&&str| {
        let line = line.trim();
        line.starts_with("filter spoe")
            || line.starts_with("http-request send-spoe-group")
            || line.ends_with("unless allowed")
            || line.starts_with("http-response ")
            || line.starts_with("http-request del-header ^")
            || line.starts_with("http-request del-header Connection")
    };
    let mut depth = 0;
    let mut tries = Vec::new();
    for line in &lines {
        match line.split(' ').next() {
            Some(".if") => depth += 1,
            Some(".endif") => depth -= 1,
            _ => {}
        }
        if depth > 0 || !needed(&line) || line.contains("spop") {
            continue;
        }
        tries.push((line, ".if defined(USE_GATE)\n", "\n.endif"));
        tries.push((line, ".if !defined(A)\n.elif !defined(B)\n", "\n.endif"));
    }
    each(&tries, |(line, begin, end)| {
        let number = lines.iter().position(|other| other == *line).unwrap() + 1;
        let edited = base.replaced(&format!("{line}\n"), &format!("{begin}{line}{end}\n"));
        let found = edited.lint();
        let near = number..number + 3;
        assert!(found.iter().any(|f| names(f, &near)), "{line}\n{}", text(&found));
    });
    assert!(tries.len() > 16, "{}", tries.len());
    for empty in ["", "global\n", ".if defined(USE_GATE)\nfrontend x\n    bind :80\n.endif\n"] {
        let found = Base { gate: empty.into(), ..base.clone() }.lint();
        assert!(found.iter().any(|f| f.rule == Rule::NotAsked), "{empty}: {}", text(&found));
    }
    let all = format!(".if defined(USE_GATE)\n{}.endif\n", base.gate);
    let found = Base { gate: all, ..base }.lint();
    assert!(found.iter().any(|f| f.rule == Rule::NotAsked), "{}", text(&found));
}

#[test]
fn m6_m7_m11_what_ends_the_rules_early_is_judged_by_what_it_skips() {
    let base = Base::shipped();
    all_found(
        &base,
        &[
            "    http-request allow if allowed",
            "    http-request allow if { var(txn.identity.allow) -m bool }",
            "    http-request cache-use pages",
        ],
        &[&Place::AfterDeny],
    );
    let responses = [
        "    http-response allow",
        "    http-response allow if { status 200 }",
        "    http-response set-var(txn.sign_in) bool(true)",
        "    http-response cache-store pages",
    ];
    all_found(&base, &responses, &[&TOP, &ASK, &Place::AfterDeny]);
    all_found(
        &base,
        &[
            "    http-response cache-store pages",
            "    http-request cache-use pages",
            "    http-request set-var(txn.upgrades) bool(true)",
            "    http-request allow if { path / }\n    http-request del-header Authorization",
        ],
        &[&BACK[1]],
    );
    none_found(
        &without_reuse(&base),
        &[
            "    http-request return status 204 if { path /ping }",
            "    http-request redirect location / if { path /x }",
        ],
        &[&Place::AfterDeny],
    );
}

#[test]
fn m10_m11_m12_the_shipped_rules_that_protect_are_required() {
    let base = Base::shipped();
    let mut tries = Vec::new();
    let front = base.gate.split("\nbackend ").next().unwrap().to_owned();
    let mut depth = 0;
    for line in front.lines() {
        match line.split(' ').next() {
            Some(".if") => depth += 1,
            Some(".endif") => depth -= 1,
            _ => {}
        }
        let words: Vec<_> = line.split_whitespace().collect();
        let protects = match words[..] {
            ["http-request", "del-header", ..] | ["http-response", ..] => true,
            ["http-request", "set-header" | "set-var(txn.upgrades)", ..] => {
                line.contains("Connection") || line.contains("upgrades")
            }
            _ => false,
        };
        if depth > 0 || !protects || line.contains("Sec-WebSocket-Protocol") {
            continue;
        }
        let mut edits = vec![String::new()];
        if line.contains("set-var") {
            edits = vec![line.split(" if ").next().unwrap().to_owned()];
        } else if line.contains(" unless ") {
            edits.push(line.replacen(" unless ", " if ", 1));
        } else if line.contains(" if ") {
            edits.push(line.replacen(" if ", " unless ", 1));
            edits.push(format!("{line} {{ always_false }}"));
        } else {
            edits.push(format!("{line} if {{ ssl_fc }}"));
            edits.push(line.replacen("[^a-z0-9]", "-", 4));
        }
        tries.extend(edits.into_iter().filter(|edit| edit != line).map(|edit| (line, edit)));
    }
    each(&tries, |(line, edit)| {
        let found = base.replaced(&format!("{line}\n"), &format!("{edit}\n")).lint();
        assert!(!found.is_empty(), "{line}\n{edit}");
    });
    assert!(tries.len() > 25, "{}", tries.len());
    // Rules that make the protecting rules useless.
    all_found(
        &base,
        &[
            "    http-request set-var(txn.upgrades) bool(true)",
            "    http-request set-var(txn.upgrades) bool(true) if TRUE",
        ],
        &[&ASK],
    );
}

#[test]
fn m15_m17_servers_are_verified_and_the_runtime_api_is_closed() {
    let base = Base::shipped();
    for (old, new) in [
        ("ssl verify required", "ssl verify none"),
        (" sni var(txn.identity.sni)", ""),
        (" sni var(txn.identity.sni)", " sni req.hdr(x)"),
        (" ssl verify required ca-file \"${GATE_UPSTREAM_CA}\" sni var(txn.identity.sni)", ""),
    ] {
        let found = base.replaced(old, new).lint();
        assert!(found.iter().any(|f| f.rule == Rule::ServerUnverified), "{new}: {}", text(&found));
    }
    all_found(
        &base,
        &[
            "    ssl-server-verify none",
            "    stats socket ipv4@*:9999 level admin",
            "    stats socket :9999 level operator",
            "    stats socket 127.0.0.1:9999",
            "    stats socket ipv6@[::]:9999",
            "    stats socket /run/x.sock mode 666 level admin",
        ],
        &[&Place::After("global")],
    );
    all_found(
        &base,
        &["    default-server ssl verify none"],
        &[&Place::After("defaults"), &BACK[0], &BACK[1]],
    );
    none_found(
        &base,
        &[
            "    stats socket /run/haproxy/admin.sock mode 660 level admin",
            "    stats socket 127.0.0.1:9999 level user",
            "    ssl-server-verify required",
        ],
        &[&Place::After("global")],
    );
}

#[test]
fn harmless_edits_give_no_finding() {
    let base = Base::shipped();
    none_found(&base, &HARMLESS, &[&TOP]);
    none_found(&without_reuse(&base), &HARMLESS[..12], &[&Place::FrontEnd]);
    none_found(
        &base,
        &["    stats socket \"${OTHER}\" mode 600 level admin", "    maxconn 5000"],
        &[&Place::After("global")],
    );
    none_found(
        &without_reuse(&base),
        &["    option httpchk\n    timeout server 10s", "    balance source"],
        &BACK.iter().collect::<Vec<_>>(),
    );
}
