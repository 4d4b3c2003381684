//! Which XDP programs an interface carries, as the kernel's link message says.

use std::{io, time::Duration};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

/// The engine waits for the answer, and everybody for the engine.
const LIMIT: Duration = Duration::from_secs(3);

/// Ids of the programs on an interface, by where they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct XdpPrograms {
    /// In the driver.
    pub(crate) native: Option<u32>,
    /// In the kernel's generic hook.
    pub(crate) generic: Option<u32>,
    /// In the device.
    pub(crate) offloaded: Option<u32>,
}

impl XdpPrograms {
    /// The program ids with the keyword of `ip link` for each.
    pub(crate) fn by_keyword(&self) -> impl Iterator<Item = (&'static str, u32)> {
        [("xdpdrv", self.native), ("xdpgeneric", self.generic), ("xdpoffload", self.offloaded)]
            .into_iter()
            .filter_map(|(keyword, id)| Some((keyword, id?)))
    }
}

/// Asks the kernel which programs an interface carries.
pub(crate) fn xdp_programs(ifindex: u32) -> io::Result<XdpPrograms> {
    let socket = open(LIMIT)?;
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    match answer(&socket)?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(programs_of(&link)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("the kernel answered a link request with {other:?}"))),
    }
}

/// A socket whose answers are waited for no longer than `limit`.
fn open(limit: Duration) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let limit = TimeVal::new(limit.as_secs().cast_signed(), limit.subsec_micros().into());
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    Ok(socket)
}

fn answer(socket: &Socket) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
    let (bytes, _) = socket.recv_from_full().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer a link request in time")
        }
        _ => error,
    })?;
    NetlinkMessage::deserialize(&bytes).map_err(io::Error::other)
}

fn programs_of(link: &LinkMessage) -> XdpPrograms {
    let mut programs = XdpPrograms::default();
    for attribute in &link.attributes {
        let LinkAttribute::Xdp(attributes) = attribute else { continue };
        for attribute in attributes {
            match attribute {
                LinkXdp::DrvProgId(id) => programs.native = Some(*id),
                LinkXdp::SkbProgId(id) => programs.generic = Some(*id),
                LinkXdp::HwProgId(id) => programs.offloaded = Some(*id),
                _ => {}
            }
        }
    }
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_answer_is_not_waited_for_without_end() {
        let socket = open(Duration::from_millis(20)).unwrap();
        let error = answer(&socket).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "the kernel did not answer a link request in time");
    }

    #[test]
    fn the_loopback_interface_carries_no_program() {
        assert_eq!(xdp_programs(1).unwrap(), XdpPrograms::default());
    }
}
