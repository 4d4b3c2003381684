//! The host's network: what the agent reads from it and writes to it. Only IO; decisions belong to [`crate::core`].
//!
//! - [`Watch`] keeps a [`NetState`], a picture of interfaces, addresses, routes and neighbours; from it
//!   [`NetState::resolve`] finds a destination's next hop as the kernel would.
//! - [`Warmer`] keeps the neighbours resolved that destinations are reached by.
//! - [`Vips`] puts virtual addresses on interfaces; [`announce`] tells the link about them.
//! - [`ports`] keeps the source ports of `nat` apart from the host's own.
//! - [`interface_facts`] says what an interface is, and which XDP program is on it.
//!
//! Every socket and every file below `/proc` belongs to the network namespace of the thread that opens it: the calling
//! thread, inside a tokio runtime. All threads of the runtime must therefore be in one network namespace. Every request
//! has a timeout; every task ends when its owner is dropped.

mod announce;
mod decode;
mod interfaces;
mod netlink;
mod port_set;
pub mod ports;
mod resolve;
mod sockets;
mod state;
mod vip;
mod warm;
mod watch;

pub use announce::{AnnounceError, Announcement, announce};
pub use interfaces::{AttachedXdp, InterfaceError, InterfaceFacts, XdpMode, interface_facts};
pub use netlink::NetlinkError;
pub use port_set::{PortSet, PortSyntaxError};
pub use resolve::{Hop, NextHop, Unresolved};
pub use sockets::BoundSocket;
pub use state::{
    Interface, Mac, Neighbour, NeighbourState, NetState, Route, RouteHop, RouteKind, RouteTable,
};
pub use vip::{Addresses, Placement, Vip, VipError, Vips};
pub use warm::Warmer;
pub use watch::Watch;
