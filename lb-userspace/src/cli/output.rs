//! Where text goes, and in which form.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::{
    args::{Color, Format},
    error::Failure,
};

/// Decides once whether standard output and standard error are coloured.
pub(crate) fn set_colors(when: Color) {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let decide = |is_terminal: bool| match when {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => wanted && is_terminal,
    };
    console::set_colors_enabled(decide(io::stdout().is_terminal()));
    console::set_colors_enabled_stderr(decide(io::stderr().is_terminal()));
}

/// A value in the form asked for; the table is only made when it is wanted.
pub(crate) fn render<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(table(value)),
        Format::Json => with_newline(serde_json::to_string_pretty(value).map_err(io::Error::other)),
        Format::Yaml => with_newline(serde_saphyr::to_string(value).map_err(io::Error::other)),
    }
}

/// A value as one of many: JSON on one line, YAML as a document.
pub(crate) fn render_one_of_many<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    match format {
        Format::Json => with_newline(serde_json::to_string(value).map_err(io::Error::other)),
        Format::Yaml => Ok(format!("---\n{}", render(format, value, table)?)),
        Format::Table => render(format, value, table),
    }
}

fn with_newline(text: io::Result<String>) -> Result<String, Failure> {
    let mut text = text.map_err(Failure::Output)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Writes to standard output at once.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Writes a remark to standard error; who cannot read it misses nothing of the answer.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
