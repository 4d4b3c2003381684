//! Which XDP programs an interface carries, as the kernel's link message says.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

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
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(programs_of(&link)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("the kernel answered a link request with {other:?}"))),
    }
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
