//! How much of a measured time the machine took: a limit holds for the program, and not for other programs on the machine.
//!
//! The machine does not tell whose tasks waited for a CPU. An agent that keeps all CPUs busy makes its own tasks wait, and
//! that time is not counted either. So no limit is stretched beyond [`MOST`] times, a fault that takes longer fails on any
//! machine, and what is promised to people is measured by the clock on the wall, on a quiet machine (`make cuts`,
//! `make bench`).

use std::{
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

/// How often the machine is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// At least one part in so many of any time counts.
const MOST: u32 = 10;

/// For how long some task of the machine had to wait for a CPU, since it started (Documentation/accounting/psi.rst of
/// Linux); zero where that is not told.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let total = text.lines().next().and_then(|line| line.rsplit_once("total="));
    let micros = total.and_then(|(_, micros)| micros.parse().ok()).unwrap_or_default();
    Duration::from_micros(micros)
}

static SAMPLES: OnceLock<Mutex<Vec<(Instant, Duration)>>> = OnceLock::new();

/// Starts to look at the machine; what was before is not known.
pub fn watch() {
    SAMPLES.get_or_init(|| {
        std::thread::spawn(|| {
            loop {
                let sample = (Instant::now(), waited());
                if let Some(samples) = SAMPLES.get() {
                    samples.lock().unwrap().push(sample);
                }
                std::thread::sleep(EVERY);
            }
        });
        Mutex::default()
    });
}

/// How long it was between two moments, without what tasks had to wait for a CPU. On a quiet machine this is the time
/// itself; on one that is never idle a tenth is left of it.
pub fn counted(since: Instant, until: Instant) -> Duration {
    let took = until.saturating_duration_since(since);
    let Some(samples) = SAMPLES.get() else { return took };
    let samples = samples.lock().unwrap();
    let first = samples.iter().rfind(|(at, _)| *at <= since).or_else(|| samples.first());
    // The one after the end, where there is one already.
    let last = samples.iter().find(|(at, _)| *at >= until).or_else(|| samples.last());
    let (Some((_, before)), Some((_, after))) = (first, last) else { return took };
    without(took, after.saturating_sub(*before))
}

fn without(took: Duration, waited: Duration) -> Duration {
    took.saturating_sub(waited).max(took / MOST)
}

/// Says how long something took, and holds what of it counts against a limit.
pub fn within(limit: Duration, what: &str, since: Instant, until: Instant) {
    let (took, counted) = (until.saturating_duration_since(since), counted(since, until));
    eprintln!("{what}: {took:?}, of which {counted:?} counts");
    assert!(counted <= limit, "{what}: {took:?}, of which {counted:?} counts, limit {limit:?}");
}

/// The same for the time that an answer took, which has just come.
pub fn took(limit: Duration, what: &str, reply: &super::Reply) {
    let now = Instant::now();
    within(limit, what, now.checked_sub(reply.took).unwrap(), now);
}

#[test]
fn no_machine_is_so_busy_that_a_limit_is_stretched_beyond_ten_times() {
    let second = Duration::from_secs(1);
    assert_eq!(without(second, Duration::ZERO), second);
    assert_eq!(without(second, second / 4), second * 3 / 4);
    for waited in [second, second * 5] {
        assert_eq!(without(second, waited), second / 10);
        assert!(without(second * 11, waited * 11) > second);
    }
}
