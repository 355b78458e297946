//! The table of rows: what was seen while something happened.

use std::time::{Duration, Instant};

use crate::{AFTER, WINDOW, load::Load};

/// What is printed, and what was refused so far.
pub struct Report {
    only: String,
    pub refused: u64,
}

impl Report {
    /// With the rows whose names contain `ONLY`.
    pub fn start() -> Self {
        println!(
            "{:<62} {:>8} {:>9} {:>9} {:>9}  refused",
            "worst pause while", "seconds", "p99 ms", "p99.9 ms", "worst ms"
        );
        Self { only: std::env::var("ONLY").unwrap_or_default(), refused: 0 }
    }

    /// Whether one of these rows is to be measured.
    pub fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| name.contains(&self.only))
    }

    /// Measures while something happens, and for [`AFTER`] more.
    pub fn row(&mut self, load: &Load, name: &str, work: impl FnOnce()) {
        if !self.wants(&[name]) {
            return;
        }
        load.begin();
        let start = Instant::now();
        work();
        std::thread::sleep(WINDOW.saturating_sub(start.elapsed()));
        std::thread::sleep(AFTER);
        let seen = load.end();
        println!(
            "{name:<62} {:>8.1} {:>9.1} {:>9.1} {:>9.1}  {}",
            start.elapsed().as_secs_f64(),
            seen.quantile(0.99),
            seen.quantile(0.999),
            seen.worst(),
            seen.refusals()
        );
        self.refused += seen.refused();
    }

    /// The same for something that goes on by itself.
    pub fn row_for(&mut self, load: &Load, name: &str, time: Duration) {
        self.row(load, name, || std::thread::sleep(time));
    }
}
