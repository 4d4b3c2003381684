//! The program's packet log: lines that it writes for single packets, off unless a level is set when it is loaded.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya_log::EbpfLogger;
use lb_common::verdict::Verdict;
use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::sync::CancellationToken;

use super::{error::OpenError, programs::Programs};

/// The target of the packets' lines in the agent's log.
pub const PACKET_LOG_TARGET: &str = "portside::packet";

/// The program's global that holds the level.
pub(crate) const LEVEL_GLOBAL: &str = aya_log::LEVEL;

/// How much the program logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PacketLogLevel {
    /// What should not happen.
    Error,
    /// Also what is refused.
    Warn,
    /// Also each new flow.
    Info,
    /// Also each packet's verdict.
    Debug,
    /// Everything.
    Trace,
}

impl PacketLogLevel {
    /// As the program's global has it.
    pub(crate) fn value(self) -> &'static u8 {
        match self {
            Self::Error => &1,
            Self::Warn => &2,
            Self::Info => &3,
            Self::Debug => &4,
            Self::Trace => &5,
        }
    }

    /// As the operator writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The reader of the program's packet log.
pub struct PacketLog {
    reader: EbpfLogger<Forward>,
}

impl std::fmt::Debug for PacketLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketLog").finish_non_exhaustive()
    }
}

impl PacketLog {
    /// Opens the log of a loaded version.
    pub(crate) fn open(programs: &Programs) -> Result<Self, OpenError> {
        let mut reason = "the program has no packet log".to_owned();
        for program in programs.iter() {
            match EbpfLogger::init_from_id_with_logger(program.info.id, Forward) {
                Ok(reader) => return Ok(Self { reader }),
                Err(aya_log::Error::MapNotFound) => {}
                Err(error) => reason = super::programs::chain(&error),
            }
        }
        Err(OpenError::Object(format!("packet log: {reason}")))
    }

    /// Passes the lines on to the agent's log under [`PACKET_LOG_TARGET`], until cancelled.
    ///
    /// # Errors
    /// If the log's descriptor cannot be waited for.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        // SAFETY: the reader owns its descriptor and keeps it open until it is dropped with `reader`.
        let mut reader = unsafe { AsyncFd::register_with_interest(self.reader, Interest::READABLE)? };
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ready = reader.readable_mut() => {
                    let mut ready = ready?;
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
            }
        }
    }
}

/// Turns log records into trace events.
struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = readable(&record.args().to_string());
        match record.level() {
            log::Level::Error => tracing::error!(target: PACKET_LOG_TARGET, "{text}"),
            log::Level::Warn => tracing::warn!(target: PACKET_LOG_TARGET, "{text}"),
            log::Level::Info => tracing::info!(target: PACKET_LOG_TARGET, "{text}"),
            log::Level::Debug => tracing::debug!(target: PACKET_LOG_TARGET, "{text}"),
            log::Level::Trace => tracing::trace!(target: PACKET_LOG_TARGET, "{text}"),
        }
    }

    fn flush(&self) {}
}

/// The program logs numbers; people read names and addresses. A line of another shape stays as it is.
fn readable(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let named = words.iter().enumerate().map(|(place, word)| {
        let label = place.checked_sub(1).and_then(|before| words.get(before)).copied().unwrap_or_default();
        match label {
            "verdict" => verdict(word),
            "protocol" => protocol(word).map(str::to_owned),
            "from" | "to" => address(word),
            _ => None,
        }
        .unwrap_or_else(|| (*word).to_owned())
    });
    named.collect::<Vec<_>>().join(" ")
}

fn verdict(number: &str) -> Option<String> {
    Verdict::ALL.get(number.parse::<usize>().ok()?).map(|verdict| verdict.name().to_owned())
}

fn protocol(number: &str) -> Option<&'static str> {
    Some(match number {
        "1" => "ICMP",
        "6" => "TCP",
        "17" => "UDP",
        "58" => "ICMPv6",
        _ => return None,
    })
}

/// Four words, each as a number; an IPv4 address is the first of them.
fn address(hex: &str) -> Option<String> {
    let words: Vec<u32> =
        hex.split(':').map(|word| u32::from_str_radix(word, 16).ok()).collect::<Option<_>>()?;
    match *words.as_slice() {
        [0, 0, 0, 0] => None,
        [word, 0, 0, 0] => Some(Ipv4Addr::from(word).to_string()),
        [a, b, c, d] => {
            let number = [a, b, c, d].iter().fold(0u128, |number, word| number << 32 | u128::from(*word));
            Some(Ipv6Addr::from(number).to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names_and_addresses() {
        let line = "verdict 3 protocol 6 length 74 from a000007:0:0:0 to fd000000:0:0:17";
        assert_eq!(readable(line), "verdict transmitted protocol TCP length 74 from 10.0.0.7 to fd00::17");
        for line in ["verdict 99 protocol 132 from 0:0:0:0", "something else", ""] {
            assert_eq!(readable(line), line);
        }
    }
}
