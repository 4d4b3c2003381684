//! What is wrong with a configuration, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Faults told of in one run; more are only counted.
const MAX_FAULTS: usize = 1000;

/// One thing that is wrong (or, as a warning, probably not meant) at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What the text was called by whoever handed it in: a file's name, or `request`.
    pub source: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The key's path, such as `services[2].group`; empty where the text is no YAML.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.source, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything wrong with one configuration, in the text's order; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// The faults, the first thousand at most.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub omitted: usize,
}

impl Faults {
    /// Puts faults into the text's order and bounds their number.
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| (a.line, a.column, &a.path).cmp(&(b.line, b.column, &b.path)));
        let omitted = faults.len().saturating_sub(MAX_FAULTS);
        faults.truncate(MAX_FAULTS);
        Self { faults, omitted }
    }
}

/// One fault a line, as compilers write them.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Faults {}

/// A place in the text: what a fault found there is told with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Line, from 1.
    pub(super) line: u32,
    /// Column in characters, from 1.
    pub(super) column: u32,
    /// The key's path.
    pub(super) path: String,
}

/// Where faults are gathered while a text is read and checked.
#[derive(Debug)]
pub(super) struct Collector {
    source: String,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Collector {
    pub(super) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), faults: Vec::new(), warnings: Vec::new() }
    }

    /// Adds a fault.
    pub(super) fn fault(&mut self, place: &Place, message: impl Into<String>) {
        let fault = self.at(place, message.into());
        self.faults.push(fault);
    }

    /// Adds a warning: the configuration is accepted all the same.
    pub(super) fn warn(&mut self, place: &Place, message: impl Into<String>) {
        let warning = self.at(place, message.into());
        self.warnings.push(warning);
    }

    /// Whether a fault was found at a key or below it, so that what follows from it need not be told.
    pub(super) fn has_under(&self, path: &str) -> bool {
        let under = |fault: &Fault| {
            fault.path.strip_prefix(path).map(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.faults.iter().any(|fault| under(fault) == Some(true))
    }

    /// The warnings if there was no fault, else the faults.
    pub(super) fn finish(self) -> Result<Vec<Fault>, Faults> {
        if self.faults.is_empty() { Ok(self.warnings) } else { Err(Faults::new(self.faults)) }
    }

    fn at(&self, place: &Place, message: String) -> Fault {
        let Place { line, column, path } = place;
        Fault { source: self.source.clone(), line: *line, column: *column, path: path.clone(), message }
    }
}

/// "; did you mean `x`?", where one of the known words is near enough to the one given. Only the first thousand are
/// looked at: a file with many faults and many names must not take long.
pub(super) fn suggestion<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let given = given.to_lowercase();
    known
        .into_iter()
        .take(1000)
        .map(|word| (strsim::damerau_levenshtein(&given, &word.to_lowercase()), word))
        .filter(|&(distance, word)| distance * 3 <= word.chars().count().max(3))
        .min()
        .map(|(_, word)| format!("; did you mean `{word}`?"))
        .unwrap_or_default()
}

/// A text from the file as a message quotes it.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", short(text))
}

/// A text on one line and not longer than a line.
pub(super) fn short(text: &str) -> String {
    const MAX: usize = 60;
    let mut short: String = text.chars().take(MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX).is_some() {
        short.push('…');
    }
    short
}
