//! Any bytes as a Host header: a clean name or an error, and patterns take any name.
#![no_main]

use std::sync::LazyLock;

use identity_spoa::workspaces::{host::Host, pattern::{HostPatterns, Preset, Scratch}};
use libfuzzer_sys::fuzz_target;

static PATTERNS: LazyLock<HostPatterns> = LazyLock::new(|| {
    let specs = [Preset::Gitpod, Preset::Ona, Preset::Coder].map(|p| p.spec("x.test", "main"));
    HostPatterns::new(&specs).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let Ok(host) = Host::parse(data) else { return };
    let name = host.as_str();
    assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')));
    assert!(name.len() <= 253 && !name.ends_with('.'));
    if let Some(target) = PATTERNS.resolve(&host, &mut Scratch::default()) {
        assert!(name.ends_with(".x.test") && name.contains(target.workspace.split("--").next().unwrap()));
    }
});
