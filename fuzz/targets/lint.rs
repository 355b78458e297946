//! Any text as a configuration of HAProxy, its SPOE file behind it: mistakes have places in it, and the
//! same text has the same mistakes.
#![no_main]

use identity_spoa::haproxy_config::{document::Source, lint::{Agent, lint}};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (text, spoe) = text.split_at(text.find("\n[identity]").unwrap_or(text.len()));
    let sources = [Source { name: "haproxy.cfg".into(), text: text.into() }];
    let files = |name: &str| {
        let spoe = Source { name: name.into(), text: spoe.into() };
        (!spoe.text.is_empty()).then_some(spoe)
    };
    let agent = Agent { sign_in: true, query: true, subprotocol: true, ..Agent::default() };
    let found = lint(&sources, &files, &agent);
    let lines = text.lines().count().max(spoe.lines().count()).max(1);
    assert!(found.iter().all(|finding| (1..=lines).contains(&finding.line)));
    assert_eq!(found, lint(&sources, &files, &agent));
});
