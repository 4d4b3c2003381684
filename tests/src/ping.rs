//! Echo requests, both families.

use std::{
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{netns::NetNs, packet::Frame};

/// Sends one echo request from `source` in `ns` and waits for its answer; returns the time it took.
pub fn ping(ns: &NetNs, source: IpAddr, to: IpAddr, limit: Duration) -> Result<Duration> {
    ns.run(|| ping_here(source, to, limit))?.with_context(|| format!("ping {to} from {source}"))
}

fn ping_here(source: IpAddr, to: IpAddr, limit: Duration) -> Result<Duration> {
    let (domain, protocol, headers, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 14 + 20, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 14 + 40, 129),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("open a raw socket (needs root)")?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    let frame = Frame::echo_request(source, to, 0x7073, 1).bytes()?;
    let request = frame.get(headers..).context("a frame without a message")?;
    let begun = Instant::now();
    socket.send_to(request, &SockAddr::from(SocketAddr::new(to, 0)))?;
    let mut buffer = [MaybeUninit::uninit(); 2048];
    while let Some(left) = limit.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        let Ok((size, _)) = socket.recv_from(&mut buffer) else { break };
        // SAFETY: the call has just initialized the first `size` bytes.
        let got = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), size) };
        // A raw IPv4 socket delivers the IP header too.
        let message = if to.is_ipv4() { got.get(20..).unwrap_or_default() } else { got };
        if message.first() == Some(&reply) && message.get(4..) == request.get(4..) {
            return Ok(begun.elapsed());
        }
    }
    bail!("no answer within {limit:?}");
}
