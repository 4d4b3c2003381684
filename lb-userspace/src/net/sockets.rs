//! The host's own sockets, by the port that they are bound to.

use std::{
    fmt,
    fs::File,
    io::{BufRead as _, BufReader, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use super::ports::PortError;

/// One socket of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoundSocket {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// What it is bound to.
    pub local: SocketAddr,
}

impl fmt::Display for BoundSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.local)
    }
}

/// Each table, with its name for people. Those of the thread: a thread may be in a namespace of its own.
const TABLES: [(&str, &str); 4] = [
    ("/proc/thread-self/net/tcp", "tcp"),
    ("/proc/thread-self/net/tcp6", "tcp"),
    ("/proc/thread-self/net/udp", "udp"),
    ("/proc/thread-self/net/udp6", "udp"),
];

/// The sockets with a port in the range, bound to one of the addresses or to all; each place once, in order.
pub(super) fn bound_in(
    range: &RangeInclusive<u16>,
    addresses: &[IpAddr],
) -> Result<Vec<BoundSocket>, PortError> {
    let mut found = Vec::new();
    for (path, protocol) in TABLES {
        let failed = |source| PortError::Read { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound && path.ends_with('6') => continue,
            Err(error) => return Err(failed(error)),
        };
        for line in BufReader::new(file).lines().skip(1) {
            let line = line.map_err(failed)?;
            let Some(local) = local_address(&line) else {
                return Err(PortError::Syntax { path: path.to_owned(), reason: format!("`{line}`") });
            };
            let ours = |address: IpAddr| {
                addresses.is_empty() || address.is_unspecified() || addresses.contains(&address)
            };
            if range.contains(&local.port()) && ours(local.ip()) {
                found.push(BoundSocket { protocol, local });
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The second column of a line, an address as hexadecimal words in the host's byte order, and a port.
fn local_address(line: &str) -> Option<SocketAddr> {
    let (address, port) = line.split_ascii_whitespace().nth(1)?.split_once(':')?;
    if !address.is_ascii() || address.len() % 8 != 0 {
        return None;
    }
    let mut bytes = Vec::with_capacity(16);
    for place in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(&address[place..place + 8], 16).ok()?.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        // A dual-stack socket shows its IPv4 peers' side as a mapped address.
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_columns() {
        for (line, local) in [
            (
                "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1",
                "127.0.0.1:8080",
            ),
            (
                "   1: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07",
                "[::]:53",
            ),
            ("   2: B80D0120000000000000000009000000:FFFF 0:0 01", "[2001:db8::9]:65535"),
            ("   3: 0000000000000000FFFF00000900000A:1F90 0:0 01", "10.0.0.9:8080"),
        ] {
            assert_eq!(local_address(line), Some(local.parse().unwrap()), "{line}");
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
        for line in ["", "0: 0100007F", "0: 0100007:1F90", "0: 0100007G:1F90", "0: 0100007F:1F9000", "0: :50"]
        {
            assert_eq!(local_address(line), None, "{line}");
        }
    }
}
