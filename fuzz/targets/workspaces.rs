//! Any text as a list of workspaces, in both languages.
#![no_main]

use std::collections::BTreeSet;

use identity_spoa::{diagnostics::Format, sources::file::document, workspaces::destination::AllowedBackends};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let backends = AllowedBackends::parse(["*"]).unwrap();
    for format in [Format::Toml, Format::Yaml] {
        match document::parse("w", text, format, &BTreeSet::from(["corp"]), &backends) {
            Ok(workspaces) => assert!(workspaces.iter().all(|w| !w.endpoints.is_empty())),
            Err(mistakes) => assert!(!mistakes.as_slice().is_empty()),
        }
    }
});
