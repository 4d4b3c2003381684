//! Tables without borders, and colours.

use console::{StyledObject, style};
use tabled::{
    builder::Builder,
    settings::{Alignment, Padding, Style, object::Columns},
};

/// What a text says about the state of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Warning,
    Bad,
    Faint,
    Strong,
}

impl Tone {
    /// The text in this tone's colour; as it is when colours are off.
    pub(crate) fn paint(self, text: impl Into<String>) -> String {
        let text: StyledObject<String> = style(text.into());
        match self {
            Self::Good => text.green(),
            Self::Warning => text.yellow(),
            Self::Bad => text.red(),
            Self::Faint => text.dim(),
            Self::Strong => text.bold(),
        }
        .to_string()
    }
}

/// A table: its head says which columns hold numbers.
#[derive(Debug)]
pub(crate) struct Table {
    numbers: Vec<bool>,
    cells: Builder,
    rows: usize,
}

impl Table {
    /// A table of these columns; one whose name begins with `#` holds numbers and is aligned right.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let numbers = columns.iter().map(|name| name.starts_with('#')).collect();
        let mut cells = Builder::default();
        cells.push_record(columns.iter().map(|name| Tone::Strong.paint(name.trim_start_matches('#'))));
        Self { numbers, cells, rows: 0 }
    }

    /// Adds a row, with a cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows += 1;
        self.cells.push_record(cells);
    }

    /// The table's lines, or what to say when it has no rows.
    pub(crate) fn render(self, when_empty: &str) -> String {
        if self.rows == 0 {
            return format!("{when_empty}\n");
        }
        let mut table = self.cells.build();
        table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
        for (column, _) in self.numbers.iter().enumerate().filter(|(_, numbers)| **numbers) {
            table.modify(Columns::one(column), Alignment::right());
        }
        let mut text = String::new();
        for line in table.to_string().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A value that may be absent.
pub(crate) fn or_dash(value: Option<impl Into<String>>) -> String {
    value.map_or_else(|| "-".to_owned(), Into::into)
}
