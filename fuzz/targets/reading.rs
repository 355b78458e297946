//! What a path may mean: bounded, the path itself among it, and no way from one reading to a path that is none.
#![no_main]

use identity_spoa::authz::policy::reading::{MAX_PATH, MAX_READINGS, readings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(all) = readings(data) else { return };
    assert!(data.len() <= MAX_PATH && all.len() <= MAX_READINGS);
    assert_eq!(all[0].as_bytes(), data);
    for (number, one) in all.iter().enumerate() {
        assert!(one.len() <= data.len() + 1, "nothing grows");
        assert!(!all[..number].contains(one), "each once");
    }
    // Without escapes nothing more can be made of any of them.
    if !data.contains(&b'%') {
        for one in &all {
            let again = readings(one.as_bytes()).expect("a reading can be read");
            assert!(again.iter().all(|next| all.contains(next)));
        }
    }
});
