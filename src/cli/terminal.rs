//! What commands show a person: the progress of long work, tables that fit the terminal, and colours.
//!
//! Progress goes to standard error, and only if that is a terminal, so that it never mixes with output in a pipe or a
//! file. Cells of a table are cut only if standard output is a terminal: a program that reads a table gets whole cells.
//! Colours are used on a terminal without `NO_COLOR` (<https://no-color.org>) and without `CLICOLOR=0`. Nothing here
//! decides what a command does or how it ends.

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    time::Duration,
};

use console::{Style, Term, measure_text_width, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a line of progress is drawn while nothing advances, so that a person sees that the command lives.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);
/// No column of a table is cut below this width.
const MIN_COLUMN: usize = 8;
/// What stands between two columns of a table.
const GAP: &str = "  ";

/// When a command prints its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Once, after the work.
    AtTheEnd,
    /// Line by line, during the work: on a terminal the lines themselves are the progress.
    Meanwhile,
}

/// The progress of one long work; its line disappears when this is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Progress through the bytes of some files, with the time that is left.
    pub(super) fn of_files(what: &'static str, files: &[PathBuf], output: Output) -> Self {
        let sizes = files.iter().filter_map(|file| std::fs::metadata(file).ok());
        let total = sizes.map(|about| about.len()).sum();
        let template = "{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left";
        Self::new(Some(total), template, what, output)
    }

    /// Progress of work whose length is unknown: a sign that moves, and what is done at the moment.
    pub(super) fn of_steps(what: &'static str) -> Self {
        Self::new(None, "{spinner} {msg} ({elapsed})", what, Output::AtTheEnd)
    }

    fn new(total: Option<u64>, template: &str, what: &'static str, output: Output) -> Self {
        let lines_scroll = output == Output::Meanwhile && io::stdout().is_terminal();
        let target = if lines_scroll || !io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(total, target).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            // The line appears before the work begins, and then moves by itself.
            bar.tick();
            bar.enable_steady_tick(REDRAW_INTERVAL);
        }
        Self(bar)
    }

    /// So much more is done.
    pub(super) fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// What is done from now on.
    pub(super) fn step(&self, what: String) {
        self.0.set_message(what);
    }

    /// Writes output while the line of progress is out of the way.
    pub(super) fn print<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What a word says of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong, or refused.
    Bad,
}

/// A word for standard output, in the colour of its tone where colours are used.
pub(super) fn paint(tone: Tone, word: &str) -> String {
    let style = match tone {
        Tone::Good => Style::new().green(),
        Tone::Warning => Style::new().yellow(),
        Tone::Bad => Style::new().red().bold(),
    };
    style.apply_to(word).to_string()
}

/// Writes rows in columns. On a terminal the widest cells are cut so that each row is one line; columns whose numbers
/// are in `whole` never are, since people copy what stands there.
pub(super) fn columns<const N: usize>(
    out: &mut impl Write,
    rows: &[[String; N]],
    whole: &[usize],
) -> io::Result<()> {
    let terminal = Term::stdout();
    let width = terminal.is_term().then(|| terminal.size_checked()).flatten();
    write_rows(out, rows, whole, width.map(|(_, columns)| columns.into()))
}

fn write_rows<const N: usize>(
    out: &mut impl Write,
    rows: &[[String; N]],
    whole: &[usize],
    limit: Option<usize>,
) -> io::Result<()> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = measure_text_width(cell).max(*width);
        }
    }
    if let Some(limit) = limit {
        narrow(&mut widths, whole, limit);
    }
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let cell = truncate_str(cell, width, "…");
            line.push_str(&cell);
            line.push_str(&" ".repeat(width.saturating_sub(measure_text_width(&cell))));
            line.push_str(GAP);
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Narrows the widest columns, one character at a time, until a row fits into `limit`.
fn narrow<const N: usize>(widths: &mut [usize; N], whole: &[usize], limit: usize) {
    let gaps = GAP.len() * N.saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let cuttable = widths.iter_mut().enumerate().filter(|(number, _)| !whole.contains(number));
        let widest = cuttable.map(|(_, width)| width).max();
        match widest {
            Some(width) if *width > MIN_COLUMN => *width -= 1,
            // The terminal breaks the lines then: nothing more can be cut and still be read.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(limit: Option<usize>) -> Vec<String> {
        let rows = [
            ["NAME", "OWNER", "ID"].map(String::from),
            ["a-very-long-workspace-name", "alice@example.com", "0123456789abcdef0123"]
                .map(String::from),
            ["日本語のとても長い名前の作業場所", "bob", "x"].map(String::from),
        ];
        let mut out = Vec::new();
        write_rows(&mut out, &rows, &[2], limit).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn in_a_pipe_no_cell_is_cut() {
        let lines = table(None);
        assert_eq!(
            lines[1],
            "a-very-long-workspace-name        alice@example.com  0123456789abcdef0123"
        );
    }

    #[test]
    fn on_a_terminal_each_row_is_one_line_and_ids_stay_whole() {
        for limit in [50, 60, 70] {
            let lines = table(Some(limit));
            for line in &lines {
                assert!(measure_text_width(line) <= limit, "{limit}: {line}");
            }
            assert!(lines[1].ends_with("  0123456789abcdef0123"), "{limit}: {}", lines[1]);
            assert!(lines.iter().any(|line| line.contains('…')), "{limit}");
        }
        // Nothing is cut beyond recognition: such a terminal breaks lines.
        assert!(table(Some(10))[1].ends_with("  0123456789abcdef0123"));
    }

    #[test]
    fn a_table_that_fits_stays_as_it_is() {
        assert_eq!(table(Some(200)), table(None));
    }
}
