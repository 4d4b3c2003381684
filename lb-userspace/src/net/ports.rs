//! The source ports that `nat` uses, kept apart from the host's own.
//!
//! All files are those of the calling thread's network namespace. The calls block for as long as the kernel takes to
//! list its sockets: call [`faults`] off the runtime's threads.

use std::{fs, io, net::IpAddr, ops::RangeInclusive};

use thiserror::Error;

use super::{
    port_set::{PortSet, PortSyntaxError},
    sockets::{self, BoundSocket},
};

const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// The kernel takes one write of less than a page.
const RESERVED_LIMIT: usize = 4095;
/// So many sockets are named in a fault; the rest is counted.
const NAMED_SOCKETS: usize = 8;

/// Why ports could not be looked at or reserved.
#[derive(Debug, Error)]
pub enum PortError {
    /// A file of the kernel could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The reservation could not be written.
    #[error(
        "cannot write the reserved ports `{value}` to {RESERVED}: {source} (it needs root; is /proc/sys read-only?)"
    )]
    Write {
        /// What should have been written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("cannot understand {path}: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// So many scattered ports are reserved that the kernel would not take the list.
    #[error(
        "the list of reserved ports would be {0} bytes long, and {RESERVED} takes {RESERVED_LIMIT}: reserve fewer scattered ports"
    )]
    TooLong(usize),
    /// The kernel does not show what was written.
    #[error("{RESERVED} holds `{found}` after `{written}` was written: something else writes it too")]
    NotKept {
        /// What was written.
        written: PortSet,
        /// What was read back.
        found: PortSet,
    },
}

/// Why a range of source ports collides with the host's own use of ports.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PortFault {
    /// The host's own connections take their ports from the same range.
    #[error(
        "source ports {} overlap the host's ephemeral ports {} in {}: choose ports outside, or narrow \
         net.ipv4.ip_local_port_range",
        show(range),
        show(ephemeral),
        show(overlap)
    )]
    Ephemeral {
        /// The range asked about.
        range: RangeInclusive<u16>,
        /// The host's range.
        ephemeral: RangeInclusive<u16>,
        /// What is in both.
        overlap: RangeInclusive<u16>,
    },
    /// Sockets of the host have ports of the range.
    #[error(
        "source ports {} are in use by the host: {}; stop what uses them, or choose others",
        show(range),
        list(sockets, *total)
    )]
    InUse {
        /// The range asked about.
        range: RangeInclusive<u16>,
        /// The first few of them.
        sockets: Vec<BoundSocket>,
        /// How many there are.
        total: usize,
    },
}

fn show(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

fn list(sockets: &[BoundSocket], total: usize) -> String {
    let named: Vec<_> = sockets.iter().map(ToString::to_string).collect();
    let rest = total.saturating_sub(sockets.len());
    named.join(", ") + &if rest == 0 { String::new() } else { format!(" and {rest} more") }
}

/// The ports that the host's own connections are made from (`net.ipv4.ip_local_port_range`; IPv6 uses it too).
pub fn ephemeral_range() -> Result<RangeInclusive<u16>, PortError> {
    let text = read(EPHEMERAL)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(PortError::Syntax { path: EPHEMERAL.to_owned(), reason: format!("`{}`", text.trim()) }),
    }
}

/// The ports that the kernel gives to nobody unasked (`net.ipv4.ip_local_reserved_ports`).
pub fn reserved() -> Result<PortSet, PortError> {
    read(RESERVED)?.parse().map_err(|error: PortSyntaxError| PortError::Syntax {
        path: RESERVED.to_owned(),
        reason: error.to_string(),
    })
}

/// Adds the range to the reserved ports and keeps all others. Returns what was reserved before, for [`release`].
///
/// Repeating it changes nothing; but what it then returns includes the range, so the first answer is the one to keep.
pub fn reserve(range: &RangeInclusive<u16>) -> Result<PortSet, PortError> {
    let before = reserved()?;
    write_reserved(&before, &before.with(range))?;
    Ok(before)
}

/// Takes the range from the reserved ports, except for ports that were reserved before it, and keeps all others.
pub fn release(range: &RangeInclusive<u16>, before: &PortSet) -> Result<(), PortError> {
    let now = reserved()?;
    let rest = before.within(range).ranges().fold(now.without(range), |rest, kept| rest.with(&kept));
    write_reserved(&now, &rest)
}

/// How the range collides with the host's own ports. Sockets count if they are bound to one of the addresses, or to
/// all; with no addresses given, every socket counts.
pub fn faults(range: &RangeInclusive<u16>, addresses: &[IpAddr]) -> Result<Vec<PortFault>, PortError> {
    let mut faults = Vec::new();
    faults.extend(overlap(range, &ephemeral_range()?));
    let mut found = sockets::bound_in(range, addresses)?;
    if !found.is_empty() {
        let total = found.len();
        found.truncate(NAMED_SOCKETS);
        faults.push(PortFault::InUse { range: range.clone(), sockets: found, total });
    }
    Ok(faults)
}

/// The fault if the two ranges share a port.
pub fn overlap(range: &RangeInclusive<u16>, ephemeral: &RangeInclusive<u16>) -> Option<PortFault> {
    let overlap = *range.start().max(ephemeral.start())..=*range.end().min(ephemeral.end());
    (!overlap.is_empty()).then(|| PortFault::Ephemeral {
        range: range.clone(),
        ephemeral: ephemeral.clone(),
        overlap,
    })
}

fn write_reserved(now: &PortSet, wanted: &PortSet) -> Result<(), PortError> {
    if now == wanted {
        return Ok(());
    }
    let value = wanted.to_string();
    if value.len() > RESERVED_LIMIT {
        return Err(PortError::TooLong(value.len()));
    }
    // An empty list is written as an empty line.
    fs::write(RESERVED, format!("{value}\n")).map_err(|source| PortError::Write { value, source })?;
    let found = reserved()?;
    if found == *wanted { Ok(()) } else { Err(PortError::NotKept { written: wanted.clone(), found }) }
}

fn read(path: &str) -> Result<String, PortError> {
    fs::read_to_string(path).map_err(|source| PortError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_when_they_share_a_port() {
        assert_eq!(overlap(&(10..=20), &(21..=30)), None);
        assert_eq!(overlap(&(31..=40), &(21..=30)), None);
        let fault = overlap(&(20_000..=40_000), &(32_768..=60_999)).unwrap();
        assert_eq!(
            fault.to_string(),
            "source ports 20000-40000 overlap the host's ephemeral ports 32768-60999 in 32768-40000: choose ports \
             outside, or narrow net.ipv4.ip_local_port_range"
        );
    }
}
