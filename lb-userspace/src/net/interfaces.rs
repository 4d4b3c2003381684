//! What there is to know about one interface before the program is attached to it.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use thiserror::Error;

use super::{
    decode,
    netlink::{Netlink, NetlinkError},
    state::Interface,
};

/// How an XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Driver,
    /// In the kernel's stack, after the driver.
    Generic,
    /// In the hardware.
    Hardware,
    /// Several programs, in different places.
    Several,
}

/// The XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedXdp {
    /// Where it runs.
    pub mode: XdpMode,
    /// The kernel's id of the program (the first, if there are several).
    pub program_id: u32,
}

/// An interface as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// Its index, name, addresses and kind.
    pub interface: Interface,
    /// The XDP program on it. Attaching one raises no event, so this is only true at the time it is read.
    pub xdp: Option<AttachedXdp>,
}

/// Why nothing is known about an interface.
#[derive(Debug, Error)]
pub enum InterfaceError {
    /// There is none of that name.
    #[error("interface `{0}` does not exist: `ip link` shows those that do")]
    Missing(String),
    /// The kernel did not say.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Reads the interface with this name, in the network namespace of the calling thread.
pub async fn interface_facts(name: &str) -> Result<InterfaceFacts, InterfaceError> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let answer = Netlink::open()?
        .get(RouteNetlinkMessage::GetLink(request), || format!("show interface {name}"))
        .await;
    let messages = match answer {
        // A name longer than any interface's is answered with the second.
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => {
            return Err(InterfaceError::Missing(name.to_owned()));
        }
        other => other?,
    };
    messages.iter().find_map(facts).ok_or_else(|| InterfaceError::Missing(name.to_owned()))
}

fn facts(message: &RouteNetlinkMessage) -> Option<InterfaceFacts> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let xdp = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(attributes) => attached(attributes),
        _ => None,
    });
    Some(InterfaceFacts { interface: decode::interface(link)?, xdp })
}

fn attached(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(XdpMode::Driver),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpMode::Hardware),
        LinkXdp::Attached(XdpAttached::Multiple) => Some(XdpMode::Several),
        _ => None,
    })?;
    // With several programs there is no common id, only those of the single places.
    let program_id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id)
        }
        _ => None,
    })?;
    Some(AttachedXdp { mode, program_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attached_program_is_known_by_mode_and_id() {
        assert_eq!(attached(&[LinkXdp::Attached(XdpAttached::None)]), None);
        let single = [LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)];
        assert_eq!(attached(&single), Some(AttachedXdp { mode: XdpMode::Driver, program_id: 7 }));
        let both = [LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::DrvProgId(7), LinkXdp::SkbProgId(8)];
        assert_eq!(attached(&both), Some(AttachedXdp { mode: XdpMode::Several, program_id: 7 }));
    }
}
