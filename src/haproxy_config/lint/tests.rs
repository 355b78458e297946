//! How the work of lint grows with the size of a file.

use super::{Agent, lint};
use crate::haproxy_config::{
    condition::work,
    document::Source,
    shipped::{GATE, SPOE},
};

/// The steps of work for the shipped file with `count` more lines of each kind; `@` stands for their number.
fn steps(count: usize, front: &[&str], end: &[&str]) -> usize {
    const ASK: &str = "    http-request send-spoe-group identity authorize\n";
    let lines = |kinds: &[&str]| -> String {
        let numbered = |kind: &&str| -> String {
            (0..count).map(|number| kind.replace('@', &number.to_string()) + "\n").collect()
        };
        kinds.iter().map(numbered).collect()
    };
    let added = format!("{}{ASK}", lines(front));
    let text = GATE.replacen(ASK, &added, 1) + &lines(end);
    let spoe = |_: &str| Some(Source { name: "identity.spoe.cfg".into(), text: SPOE.into() });
    work::take();
    let sources = [Source { name: "haproxy.cfg".into(), text }];
    let found = lint(&sources, &spoe, &Agent::default());
    assert!(found.iter().all(|finding| finding.line > 0));
    work::take()
}

#[test]
fn twice_the_lines_are_twice_the_work() {
    let one_name = [
        "    acl own src 10.0.@.1",
        "    acl host req.hdr(host) -m beg own@",
        "    http-request deny if own { path_beg /x@ }",
        "    http-request deny if !own { path_beg /x@ }",
        "    http-request allow if !own { path_beg /y@ }",
        "    http-request deny unless own allowed",
        "    http-request deny if host { path_beg /z@ }",
        "    http-request set-header X-Own %[src] if own",
        "    use_backend nowhere if own { path_beg /w@ }",
    ];
    let kinds: [(&[&str], &[&str]); 5] = [
        (&one_name, &[]),
        (&["    http-request allow if { path_beg /x@ }"], &[]),
        (&["    http-request deny if { req.hdr(host) -m beg own@ }"], &[]),
        (
            &["    use_backend own@ if { path_beg /x@ }"],
            &["backend own@\n    http-reuse never\n    server x 10.0.0.1:@"],
        ),
        (
            &[],
            &[
                "frontend other@\n    bind 127.0.0.1:@\n    acl own src 10.0.0.1\n    http-request deny if own\n    default_backend nowhere",
            ],
        ),
    ];
    for (front, end) in kinds {
        let (one, two) = (steps(60, front, end), steps(120, front, end));
        assert!(two < one * 5 / 2, "{front:?} {end:?}: {one} steps, then {two}");
    }
    // In a front end that does not ask, with ACLs of many lines.
    let other = "frontend other\n    bind 127.0.0.1:1";
    let rules = ["    acl own src 10.1.@.1", "    http-request deny if own { path_beg /x@ }"];
    let (one, two) = (steps_in(60, other, &rules), steps_in(120, other, &rules));
    assert!(two < one * 5 / 2, "{one} steps, then {two}");
}

/// The steps for a file of 5,000 lines, which lint judges in 48 variants, in at most 0.2 s. A step that is added for each
/// line and variant makes 240,000 more.
#[test]
fn a_file_of_5000_lines_takes_a_bounded_number_of_steps() {
    let front = [
        "    acl own@ src 10.0.0.1",
        "    http-request deny if own@ { path_beg /x@ }",
        "    http-request set-header X-Own@ %[src] if own@",
        "    http-request deny if { path /p@ } || { hdr(user-agent) -m sub bot@ }",
    ];
    let back =
        ["backend own@\n    http-reuse never\n    option httpchk\n    server a 10.1.0.1:@ check"];
    let steps = steps(575, &front, &back);
    assert!(steps < MAX_STEPS, "{steps}");
}

/// A tenth more than what was counted.
const MAX_STEPS: usize = 625_000;

/// The steps of work for a section of its own with `count` lines of each kind.
fn steps_in(count: usize, section: &str, kinds: &[&str]) -> usize {
    let first = [section.to_owned()].into_iter();
    let lines = kinds
        .iter()
        .flat_map(|kind| (0..count).map(move |number| kind.replace('@', &number.to_string())));
    steps(1, &[], &[&first.chain(lines).collect::<Vec<_>>().join("\n")])
}
