//! A run of `soak` as a picture that is readable on light and dark pages.

use std::{fmt::Write as _, path::Path};

use serde::{Deserialize, Serialize};

use crate::probe::Sample;

/// What `soak` writes down.
#[derive(Serialize, Deserialize)]
pub struct Run {
    pub title: String,
    /// Seconds that are left out.
    pub warm_up: f64,
    pub samples: Vec<Sample>,
    /// What happened when.
    pub events: Vec<(f64, String)>,
}

type Line = (&'static str, fn(&Sample) -> f64);

struct Panel {
    title: &'static str,
    lines: &'static [Line],
    /// Latency has bursts that would hide everything else.
    cut_off: bool,
}

const PANELS: [Panel; 8] = [
    Panel {
        title: "memory of the agent, MiB",
        lines: &[("resident", |s| s.rss), ("anonymous", |s| s.anonymous)],
        cut_off: false,
    },
    Panel {
        title: "descriptors and threads",
        lines: &[("descriptors", |s| s.descriptors), ("threads", |s| s.threads)],
        cut_off: false,
    },
    Panel {
        title: "through HAProxy and back, ms",
        lines: &[("p50", |s| s.p50 / 1e3), ("p99", |s| s.p99 / 1e3)],
        cut_off: true,
    },
    Panel {
        title: "within the agent, us (bounds of its histogram)",
        lines: &[("p50", |s| s.decision_p50), ("p99", |s| s.decision_p99)],
        cut_off: true,
    },
    Panel { title: "agent's CPU, us a decision", lines: &[("CPU", |s| s.cpu_each)], cut_off: true },
    Panel { title: "answers a second", lines: &[("answers", |s| s.rate)], cut_off: false },
    Panel {
        title: "what is kept",
        lines: &[("workspaces", |s| s.workspaces), ("revocations", |s| s.revocations)],
        cut_off: false,
    },
    Panel {
        title: "what is open",
        lines: &[
            ("session cookies", |s| s.cookies),
            ("tunnels", |s| s.tunnels),
            ("HAProxy's connections", |s| s.connections),
        ],
        cut_off: false,
    },
];

const WIDTH: f64 = 430.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 24.0;

/// Draws a run that was written down.
pub fn again(samples: &Path, svg: &Path) {
    let run: Run = serde_json::from_str(&std::fs::read_to_string(samples).unwrap()).unwrap();
    std::fs::write(svg, draw(&run)).unwrap();
}

/// The picture.
pub fn draw(run: &Run) -> String {
    let (width, rows) = (WIDTH * 2.0, PANELS.len().div_ceil(2) as f64);
    let height = rows * HEIGHT + 40.0;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" font-family="system-ui, sans-serif" font-size="11">
<style>
svg {{ --ink: #1f2328; --faint: #d0d7de; --soft: #656d76; --a: #0969da; --b: #bc4c00; --c: #1a7f37; --page: #ffffff; }}
@media (prefers-color-scheme: dark) {{ svg {{ --ink: #e6edf3; --faint: #30363d; --soft: #8d96a0; --a: #58a6ff; --b: #f0883e; --c: #3fb950; --page: #0d1117; }} }}
text {{ fill: var(--ink); }} .soft {{ fill: var(--soft); }} .grid {{ stroke: var(--faint); stroke-width: 1; }}
.l0 {{ stroke: var(--a); }} .l1 {{ stroke: var(--b); }} .l2 {{ stroke: var(--c); }} .line {{ fill: none; stroke-width: 1.3; stroke-linejoin: round; }}
.k0 {{ fill: var(--a); }} .k1 {{ fill: var(--b); }} .k2 {{ fill: var(--c); }} .warm {{ fill: var(--faint); opacity: .35; }} .reload {{ stroke: var(--soft); stroke-dasharray: 2 3; }}
</style>
<rect width="{width}" height="{height}" style="fill: var(--page)"/>
<text x="12" y="22" font-size="13" font-weight="600">{}</text>
<text x="12" y="36" class="soft">shaded: warm-up; dotted: HAProxy reloads</text>
"#,
        escape(&run.title)
    );
    for (number, panel) in PANELS.iter().enumerate() {
        let (x, y) = ((number % 2) as f64 * WIDTH, (number / 2) as f64 * HEIGHT + 40.0);
        writeln!(svg, r#"<g transform="translate({x} {y})">"#).unwrap();
        draw_panel(&mut svg, run, panel);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, run: &Run, panel: &Panel) {
    let end = run.samples.last().map_or(1.0, |sample| sample.at.max(1.0));
    let mut all: Vec<f64> = Vec::new();
    for (_, value) in panel.lines {
        all.extend(run.samples.iter().skip(1).map(value));
    }
    all.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = if panel.cut_off { (all.len() as f64 * 0.98) as usize } else { all.len() };
    let top = nice(all.get(at.saturating_sub(1)).copied().unwrap_or(1.0).max(1e-9));
    let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let to_x = |seconds: f64| LEFT + seconds / end * inner_width;
    let to_y = |value: f64| TOP + inner_height * (1.0 - (value / top).clamp(0.0, 1.0));
    writeln!(svg, r#"<text x="{LEFT}" y="18" font-weight="600">{}</text>"#, escape(panel.title))
        .unwrap();
    let mut key = LEFT;
    for (number, (name, _)) in panel.lines.iter().enumerate() {
        writeln!(svg, r#"<rect x="{key}" y="26" width="8" height="8" class="k{number}"/><text x="{}" y="34">{}</text>"#, key + 12.0, escape(name)).unwrap();
        key += 30.0 + name.len() as f64 * 6.0;
    }
    writeln!(
        svg,
        r#"<rect class="warm" x="{LEFT}" y="{TOP}" width="{:.1}" height="{inner_height}"/>"#,
        (to_x(run.warm_up.min(end)) - LEFT).max(0.0)
    )
    .unwrap();
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let y = to_y(value);
        writeln!(svg, r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/><text class="soft" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#, WIDTH - RIGHT, LEFT - 5.0, y + 4.0, short(value)).unwrap();
    }
    let minutes = end / 60.0;
    for step in 0..=6 {
        let minute = minutes * f64::from(step) / 6.0;
        // The last would stand out of the picture.
        let anchor = if step == 6 { "end" } else { "middle" };
        writeln!(
            svg,
            r#"<text class="soft" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{minute:.0} min</text>"#,
            to_x(minute * 60.0),
            HEIGHT - 8.0
        )
        .unwrap();
    }
    for (at, _) in run.events.iter().filter(|(_, what)| what == "reload") {
        writeln!(
            svg,
            r#"<line class="reload" x1="{0:.1}" x2="{0:.1}" y1="{TOP}" y2="{1:.1}"/>"#,
            to_x(*at),
            TOP + inner_height
        )
        .unwrap();
    }
    for (number, (_, value)) in panel.lines.iter().enumerate() {
        let mut points = String::new();
        // The first look has nothing to be compared with.
        for sample in run.samples.iter().skip(1) {
            write!(points, "{:.1},{:.1} ", to_x(sample.at), to_y(value(sample))).unwrap();
        }
        writeln!(svg, r#"<polyline class="line l{number}" points="{}"/>"#, points.trim_end())
            .unwrap();
    }
}

/// The next round number.
fn nice(value: f64) -> f64 {
    let magnitude = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps
        .iter()
        .map(|step| step * magnitude)
        .find(|top| *top >= value * 1.02)
        .unwrap_or(value * 1.1)
}

fn short(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
