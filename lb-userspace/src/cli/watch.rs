//! Showing something again and again.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    args::{Format, Watch},
    error::Failure,
    output::{print, remark},
    table::Tone,
    units,
};
use crate::api::client::ClientError;

/// Clears from the top of the screen to its end.
const CLEAR: &str = "\x1b[H\x1b[J";
/// Clears the rest of a line.
const CLEAR_LINE_END: &str = "\x1b[K";

/// Shows what `look` makes, once, or until interrupted. An agent that cannot be reached for a while, as while it is
/// restarted, does not end a watch that has begun.
pub(crate) async fn show(
    watch: Watch,
    format: Format,
    mut look: impl AsyncFnMut() -> Result<String, Failure>,
) -> Result<(), Failure> {
    let mut text = look().await?;
    let Some(interval) = watch.watch else { return print(&text) };
    let screen = format == Format::Table && io::stdout().is_terminal();
    loop {
        print(&if screen { framed(&text, interval) } else { text })?;
        let mut told = false;
        text = loop {
            tokio::time::sleep(interval).await;
            match look().await {
                Ok(text) if screen || format != Format::Table => break text,
                Ok(text) => break format!("\n{text}"),
                Err(Failure::Client(error)) if screen => {
                    break format!("{}\n", Tone::Bad.paint(error.to_string()));
                }
                Err(Failure::Client(
                    error @ (ClientError::Unreachable { .. } | ClientError::Timeout { .. }),
                )) => {
                    if !told {
                        remark(&format!("{error}; trying again"));
                        told = true;
                    }
                }
                Err(failure) => return Err(failure),
            }
        };
    }
}

fn framed(text: &str, interval: Duration) -> String {
    let every = units::duration(interval.as_secs_f64());
    let head = Tone::Faint.paint(format!("every {every}, {}", units::time(Timestamp::now())));
    let body = text.replace('\n', &format!("{CLEAR_LINE_END}\n"));
    format!("{CLEAR}{head}{CLEAR_LINE_END}\n\n{body}")
}
