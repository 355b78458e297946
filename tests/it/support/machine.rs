//! How much of a time was the machine's: a limit holds for the program, and not for what else runs beside it.

use std::{
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

/// How often the machine is looked at.
const EVERY: Duration = Duration::from_millis(20);

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
pub(crate) fn watch() {
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
/// itself; on one that is never idle nothing is left of it, so that a limit says something only where it can.
pub(crate) fn counted(since: Instant, until: Instant) -> Duration {
    let took = until.saturating_duration_since(since);
    let Some(samples) = SAMPLES.get() else { return took };
    let samples = samples.lock().unwrap();
    let first = samples.iter().rfind(|(at, _)| *at <= since).or_else(|| samples.first());
    // The one after the end, where there is one already.
    let last = samples.iter().find(|(at, _)| *at >= until).or_else(|| samples.last());
    let (Some((_, before)), Some((_, after))) = (first, last) else { return took };
    took.saturating_sub(after.saturating_sub(*before))
}

/// Says how long something took, and holds what of it counts against a limit.
pub(crate) fn within(limit: Duration, what: &str, since: Instant, until: Instant) {
    let (took, counted) = (until.saturating_duration_since(since), counted(since, until));
    eprintln!("{what}: {took:?}, of which {counted:?} counts");
    assert!(counted <= limit, "{what}: {took:?}, of which {counted:?} counts, limit {limit:?}");
}

/// The same for the time that an answer took, which has just come.
pub(crate) fn took(limit: Duration, what: &str, reply: &super::Reply) {
    let now = Instant::now();
    within(limit, what, now.checked_sub(reply.took).unwrap(), now);
}
