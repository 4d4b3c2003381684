//! A picture of what the demo has shown: text, or an SVG with the colours of a terminal.

use std::{fmt::Write as _, fs, os::unix::fs::chown, path::Path};

use anyhow::{Context, Result};
use console::{AnsiCodeIterator, measure_text_width, strip_ansi_codes};

/// Size of a character's cell in the picture.
const CELL: (f64, usize) = (8.4, 18);
const MARGIN: usize = 16;

/// Writes the lines to a file; a name that ends in `.svg` makes it a picture.
pub(crate) fn write(file: &Path, lines: &[String]) -> Result<()> {
    let lines: Vec<&str> =
        lines.iter().flat_map(|line| line.lines().chain(line.is_empty().then_some(""))).collect();
    // The first heading has a line before it that sets it off from nothing here.
    let lines = &lines[usize::from(lines.first().is_some_and(|line| line.is_empty()))..];
    let is_svg = file.extension().is_some_and(|extension| extension == "svg");
    let text = if is_svg { svg(lines) } else { plain(lines) };
    fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    give_to_caller(file)
}

/// Through sudo this is root; the file is for who called.
fn give_to_caller(file: &Path) -> Result<()> {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) else { return Ok(()) };
    chown(file, Some(user), Some(group)).with_context(|| format!("give {} to user {user}", file.display()))
}

fn plain(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{}\n", strip_ansi_codes(line).trim_end())).collect()
}

fn svg(lines: &[&str]) -> String {
    let columns = lines.iter().map(|line| measure_text_width(line)).max().unwrap_or_default();
    let width = (columns as f64 * CELL.0).ceil() as usize + 2 * MARGIN;
    let height = lines.len() * CELL.1 + 2 * MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <style>text {{ font: 14px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #d8dee9; \
         white-space: pre }} .b {{ font-weight: bold }} .d {{ fill-opacity: .4 }} .c31 {{ fill: #e06c75 }} \
         .c32 {{ fill: #98c379 }} .c33 {{ fill: #e5c07b }} .c36 {{ fill: #56b6c2 }}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1e222a\"/>\n"
    );
    for (number, line) in lines.iter().enumerate() {
        let y = MARGIN + number * CELL.1 + 14;
        let length = measure_text_width(line) as f64 * CELL.0;
        let _ = writeln!(
            text,
            "<text x=\"{MARGIN}\" y=\"{y}\" textLength=\"{length:.0}\" xml:space=\"preserve\">{}</text>",
            spans(line)
        );
    }
    text + "</svg>\n"
}

/// A line's text in pieces of one look each.
fn spans(line: &str) -> String {
    let (mut looks, mut out) = (Vec::<String>::new(), String::new());
    for (piece, is_code) in AnsiCodeIterator::new(line) {
        if is_code {
            let codes = piece.trim_start_matches("\x1b[").trim_end_matches('m');
            for code in codes.split(';') {
                match code {
                    "0" | "" => looks.clear(),
                    "1" => looks.push("b".to_owned()),
                    "2" => looks.push("d".to_owned()),
                    color => looks.push(format!("c{color}")),
                }
            }
            continue;
        }
        let piece = piece.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = write!(out, "<tspan class=\"{}\">{piece}</tspan>", looks.join(" "));
    }
    out.replace("<tspan class=\"\">", "<tspan>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_classes_and_text_stays_text() {
        assert_eq!(
            spans("a < \x1b[32m\x1b[1mb & c\x1b[0m d"),
            "<tspan>a &lt; </tspan><tspan class=\"c32 b\">b &amp; c</tspan><tspan> d</tspan>"
        );
    }

    #[test]
    fn the_name_says_which_kind() {
        let folder = tempfile::tempdir().unwrap();
        let lines = ["\ntitle".to_owned(), String::new(), "\x1b[31mred\x1b[0m  ".to_owned()];
        write(&folder.path().join("a.txt"), &lines).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("a.txt")).unwrap(), "title\n\nred\n");
        write(&folder.path().join("a.svg"), &lines).unwrap();
        let svg = fs::read_to_string(folder.path().join("a.svg")).unwrap();
        assert!(
            svg.starts_with("<svg ") && svg.contains("class=\"c31\">red<") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
    }
}
