//! What the demo shows: bars that move in a terminal, plain lines elsewhere.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    time::{Duration, Instant},
};

use console::{Term, style, truncate_str};

use crate::{network::Target, promise::Claim, summary::Summary, traffic::Spread};

const BAR: usize = 32;
/// Elsewhere than in a terminal: how often a look at the traffic is printed.
const PLAIN: Duration = Duration::from_secs(2);

/// Standard output.
pub(crate) struct Screen {
    term: Term,
    moves: bool,
    /// How many lines of the moving part are on the screen.
    shown: Cell<usize>,
    last: RefCell<Option<Instant>>,
    kept: RefCell<Vec<String>>,
}

/// The traffic at one moment, or over a phase.
pub(crate) struct Frame<'a> {
    pub(crate) targets: &'a [Target],
    pub(crate) states: &'a [String],
    pub(crate) spread: Spread,
    /// The time that `spread` is of.
    pub(crate) over: Duration,
    /// Requests that have failed since the phase began.
    pub(crate) failed: usize,
    /// Time since the phase began.
    pub(crate) elapsed: Duration,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let term = Term::stdout();
        let moves = term.is_term();
        if moves {
            // Only looks: a terminal without it works as well.
            let _ = term.hide_cursor();
        }
        Self { term, moves, shown: Cell::new(0), last: RefCell::new(None), kept: RefCell::default() }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        self.clear();
        self.write(&format!("{text}\n"));
        self.kept.borrow_mut().push(text.to_owned());
    }

    /// The lines that have stayed so far.
    pub(crate) fn kept(&self) -> Vec<String> {
        self.kept.borrow().clone()
    }

    /// The title of what follows.
    pub(crate) fn heading(&self, text: &str) {
        self.line(&format!("\n{}", style(text).bold().cyan()));
    }

    /// A statement, and whether it is true.
    pub(crate) fn claim(&self, claim: &Claim) {
        self.line(&shown_claim(claim));
    }

    /// Shows the traffic as it is, until the next call of anything.
    pub(crate) fn live(&self, frame: &Frame<'_>) {
        if self.moves {
            let width = usize::from(self.term.size().1).max(40);
            let mut lines = frame.bars();
            lines.push(frame.totals());
            let lines: Vec<String> =
                lines.iter().map(|line| truncate_str(line, width - 1, "…").into_owned()).collect();
            let mut text = self.back();
            for line in &lines {
                // Cleared to its end, so that what was longer is gone.
                let _ = writeln!(text, "{line}\x1b[K");
            }
            self.shown.set(lines.len());
            self.write(&text);
        } else if self.last.borrow().is_none_or(|last| last.elapsed() >= PLAIN) {
            self.last.replace(Some(Instant::now()));
            self.write(&format!("{}\n", frame.plain()));
        }
    }

    /// Shows the traffic of a whole phase, to stay.
    pub(crate) fn whole(&self, frame: &Frame<'_>) {
        for line in frame.bars() {
            self.line(&line);
        }
        self.last.replace(None);
    }

    pub(crate) fn show_summary(&self, summary: &Summary) {
        self.heading("Summary");
        for line in summary.lines() {
            self.line(&line);
        }
    }

    fn clear(&self) {
        let text = self.back();
        if !text.is_empty() {
            self.write(&format!("{text}\x1b[J"));
        }
        self.shown.set(0);
    }

    /// To the beginning of the moving part.
    fn back(&self) -> String {
        match self.shown.get() {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r"),
        }
    }

    fn write(&self, text: &str) {
        // Nobody may be looking any more; what was made must be removed all the same.
        let _ = self.term.write_str(text);
        let _ = self.term.flush();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.moves {
            let _ = self.term.show_cursor();
        }
    }
}

impl Frame<'_> {
    fn bars(&self) -> Vec<String> {
        let name_width = self.targets.iter().map(|target| target.name.len()).max().unwrap_or_default();
        let time = self.over.as_secs_f64().max(0.001);
        let rows = self.targets.iter().zip(self.states).enumerate();
        rows.map(|(index, (target, state))| {
            let share = self.spread.share(index);
            let full = (share * BAR as f64).round() as usize;
            let color = match state.as_str() {
                "up" => console::Color::Green,
                "down" => console::Color::Red,
                _ => console::Color::Yellow,
            };
            format!(
                "  {:name_width$}  {}  weight {}  {}{} {:>5.0}/s {:>5.1} %  {}",
                target.name,
                target.zone,
                target.weight,
                style("█".repeat(full)).fg(color),
                style("░".repeat(BAR - full.min(BAR))).dim(),
                self.spread.answers[index] as f64 / time,
                100.0 * share,
                style(state).fg(color),
            )
        })
        .collect()
    }

    fn totals(&self) -> String {
        let rate = self.spread.total() as f64 / self.over.as_secs_f64().max(0.001);
        let failed = format!("{} failed", self.failed);
        let failed = if self.failed == 0 { style(failed).green() } else { style(failed).red().bold() };
        format!(
            "  {:>4.1} s   {rate:.0} requests/s, a connection each   {failed}",
            self.elapsed.as_secs_f64()
        )
    }

    fn plain(&self) -> String {
        let time = self.over.as_secs_f64().max(0.001);
        let mut line = format!("  {:>4.1} s  ", self.elapsed.as_secs_f64());
        for ((target, state), answers) in self.targets.iter().zip(self.states).zip(&self.spread.answers) {
            let _ = write!(line, "{} {:.0}/s", target.name, *answers as f64 / time);
            let _ = if state == "up" { write!(line, ", ") } else { write!(line, " ({state}), ") };
        }
        let _ = write!(line, "{} failed", self.failed);
        line
    }
}

/// A statement with its mark.
pub(crate) fn shown_claim(claim: &Claim) -> String {
    let mark = if claim.holds { style("✓").green() } else { style("✗").red().bold() };
    format!("  {mark} {}", claim.text)
}

/// A command as one would type it.
pub(crate) fn command(text: &str) -> String {
    format!("  {} {}", style("$").dim(), style(text).bold())
}

/// A time for people.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
