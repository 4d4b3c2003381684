//! The configuration: text in, checked configuration or every fault out.
//!
//! [`parse`] reads YAML (and so JSON) in three steps: the text to a tree of values that know their place (`tree`),
//! the tree to the file's shape (`raw`, declared once for the reader and the JSON Schema), the shape to the checked
//! [`model`] (`check`). Each step goes on after a fault, so that one run reports them all.
//!
//! What was accepted is kept in the state folder: [`revision`] and [`state`].

mod check;
mod fault;
pub mod model;
mod raw;
mod read;
pub mod revision;
mod scalar;
mod schema;
pub mod state;
mod tree;

pub use fault::{Fault, Faults};
pub use model::Config;
pub use schema::schema;
pub use tree::MAX_TEXT;

use read::Read as _;

/// An accepted configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// What is legal but probably not meant, in the text's order.
    pub warnings: Vec<Fault>,
}

/// Parses and checks a configuration. `source` is what faults call the text, such as the file's name.
///
/// # Errors
/// Every fault of the text; where it is no YAML, or too large, that alone.
pub fn parse(text: &str, source: &str) -> Result<Checked, Faults> {
    let mut faults = fault::Collector::new(source);
    let config = read(text, &mut faults);
    let warnings = faults.finish()?;
    match config {
        Some(config) => Ok(Checked { config, warnings }),
        // No reader gives up without a fault; if one did, that must not look like an accepted text.
        None => Err(Faults::new(vec![Fault {
            source: source.to_owned(),
            line: 1,
            column: 1,
            path: String::new(),
            message: "this configuration could not be read".to_owned(),
        }])),
    }
}

fn read(text: &str, faults: &mut fault::Collector) -> Option<Config> {
    let tree = tree::parse(text, faults)?;
    let place = fault::Place { line: tree.line, column: tree.column, path: String::new() };
    match &tree.value {
        tree::Value::Map(_) => {}
        tree::Value::Null => {
            faults.fault(
                &place,
                "there is no configuration here; `interfaces`, `services` and `groups` are the least",
            );
            return None;
        }
        other => {
            faults.fault(
                &place,
                format!("this is {}; a configuration is a map of keys to values", other.kind()),
            );
            return None;
        }
    }
    let document = raw::Document::read(&tree, &place, faults)?;
    check::check(&document, faults)
}

#[cfg(test)]
mod tests;
