//! The standard test networks: a client, a balancer and targets, each a namespace, joined by veth pairs.
//!
//! ```text
//! SameLink         client ─┬─ balancer           front: 10.10.0.0/24, fd00:10::/64
//!                          └─ targets            back:  10.20.0.0/24, fd00:20::/64
//! BehindRouter     client ─┬─ balancer
//!                          └─ router ── targets (back)
//! OtherInterface   client ─── balancer ── targets (back)
//! ```
//!
//! Every link is a bridge in a namespace of its own, so hosts see each other's real MAC addresses.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};

use crate::{netns::NetNs, xdp_pass};

/// The interface by which every host is on its (first) link.
pub const INTERFACE: &str = "eth0";
/// The balancer's interface to the targets in [`Shape::OtherInterface`], and the router's in [`Shape::BehindRouter`].
pub const BACK_INTERFACE: &str = "eth1";
/// A free IPv4 address on the front link, for a virtual address.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 100);
/// A free IPv6 address on the front link, for a virtual address.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x100);

const FRONT: Link = Link { name: "front", v4: [10, 10, 0], v6: 0x10 };
const BACK: Link = Link { name: "back", v4: [10, 20, 0], v6: 0x20 };
const BALANCER: u8 = 2;
const ROUTER: u8 = 1;
const CLIENT: u8 = 10;
const OTHER_CLIENT: u8 = 11;
const FIRST_TARGET: u8 = 21;
/// The balancer's further addresses on the link to the targets, for source address translation.
const SNAT: [u8; 3] = [3, 4, 5];

/// How the targets are reached from the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Everyone on one link.
    SameLink,
    /// The targets behind a router on the client's and the balancer's link.
    BehindRouter,
    /// The targets on a link of their own, on another interface of the balancer.
    OtherInterface,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SameLink, Self::BehindRouter, Self::OtherInterface];
}

/// One host of the network.
#[derive(Debug)]
pub struct Host {
    /// Short name: `client`, `balancer`, `router`, `target-1`…
    pub name: String,
    /// Its namespace.
    pub ns: NetNs,
    /// Its IPv4 address on its first link.
    pub v4: Ipv4Addr,
    /// Its IPv6 address on its first link.
    pub v6: Ipv6Addr,
    /// The zone it is in; targets alternate between `zone-a` and `zone-b`, half each.
    pub zone: String,
}

impl Host {
    /// Its address and `port`, in the family of `like`.
    #[must_use]
    pub fn address(&self, family: Family, port: u16) -> SocketAddr {
        let ip = match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        };
        SocketAddr::new(ip, port)
    }

    /// The MAC address of one of its interfaces, as text.
    pub fn mac(&self, interface: &str) -> Result<String> {
        let shown = self.ns.exec("ip", &["-o", "link", "show", "dev", interface])?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
        words.next().map(str::to_owned).with_context(|| format!("no MAC address in `{}`", shown.trim()))
    }

    /// Gives an interface another MAC address and announces it, as a host does that takes another's place.
    pub fn set_mac(&self, interface: &str, mac: &str) -> Result<()> {
        self.ns.sysctl(&format!("net.ipv4.conf.{interface}.arp_notify"), "1")?;
        self.ns.sysctl(&format!("net.ipv6.conf.{interface}.ndisc_notify"), "1")?;
        self.ns.ip_batch(&format!("link set {interface} address {mac}\n"))
    }
}

/// An address family, for what is tested in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The standard virtual address of this family, with `port`.
    #[must_use]
    pub fn vip(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::new(VIP4.into(), port),
            Self::V6 => SocketAddr::new(VIP6.into(), port),
        }
    }
}

/// A whole network; dropping it removes every namespace of it.
#[derive(Debug)]
pub struct Topology {
    /// How the targets are reached.
    pub shape: Shape,
    /// Where clients run. It has a second address per family: see [`Topology::other_client`].
    pub client: Host,
    /// Where the agent runs.
    pub balancer: Host,
    /// Where servers run.
    pub targets: Vec<Host>,
    /// The router of [`Shape::BehindRouter`].
    pub router: Option<Host>,
    /// The bridges' namespaces: `front`, and `back` where there is one.
    pub switches: Vec<NetNs>,
}

impl Topology {
    /// Four targets, names made for tests.
    pub fn new(shape: Shape) -> Result<Self> {
        Self::build(shape, 4, None)
    }

    /// A network with `targets` targets. With a prefix the namespaces are named `PREFIX-client` and so on, for people
    /// to use; without, each gets a name that no other process has.
    pub fn build(shape: Shape, targets: u8, prefix: Option<&str>) -> Result<Self> {
        let namespace = |label: &str| match prefix {
            Some(prefix) => NetNs::named(&format!("{prefix}-{label}")),
            None => NetNs::new(label),
        };
        let host = |name: &str, link: Link, number: u8, zone: &str| -> Result<Host> {
            let ns = namespace(name)?;
            let (v4, v6) = (link.v4(number), link.v6(number));
            Ok(Host { name: name.to_owned(), ns, v4, v6, zone: zone.to_owned() })
        };
        let target_link = if shape == Shape::SameLink { FRONT } else { BACK };

        let front = Switch::new(namespace(FRONT.name)?, FRONT)?;
        let client = host("client", FRONT, CLIENT, "zone-a")?;
        let balancer = host("balancer", FRONT, BALANCER, "zone-a")?;
        let targets = (0..targets)
            .map(|index| {
                let zone = if index % 2 == 0 { "zone-a" } else { "zone-b" };
                host(&format!("target-{}", index + 1), target_link, FIRST_TARGET + index, zone)
            })
            .collect::<Result<Vec<_>>>()?;
        front.plug(&client.ns, "client", INTERFACE, CLIENT)?;
        front.plug(&balancer.ns, "balancer", INTERFACE, BALANCER)?;
        front.face_xdp("balancer")?;

        let mut router = None;
        let mut switches = Vec::new();
        let target_switch = match shape {
            Shape::SameLink => front,
            Shape::BehindRouter => {
                let back = Switch::new(namespace(BACK.name)?, BACK)?;
                let host = host("router", FRONT, ROUTER, "zone-a")?;
                front.plug(&host.ns, "router", INTERFACE, ROUTER)?;
                back.plug(&host.ns, "router", BACK_INTERFACE, ROUTER)?;
                host.ns.sysctl("net.ipv4.ip_forward", "1")?;
                host.ns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
                for near in [&client, &balancer] {
                    near.ns.ip_batch(&BACK.route_via(FRONT, ROUTER))?;
                }
                router = Some(host);
                switches.push(front.ns);
                back
            }
            Shape::OtherInterface => {
                let back = Switch::new(namespace(BACK.name)?, BACK)?;
                back.plug(&balancer.ns, "balancer", BACK_INTERFACE, BALANCER)?;
                back.face_xdp("balancer")?;
                switches.push(front.ns);
                back
            }
        };
        for (target, number) in targets.iter().zip(FIRST_TARGET..) {
            target_switch.plug(&target.ns, &target.name, INTERFACE, number)?;
            if shape == Shape::BehindRouter {
                target.ns.ip_batch(&FRONT.route_via(BACK, ROUTER))?;
            }
        }
        switches.push(target_switch.ns);

        let topology = Self { shape, client, balancer, targets, router, switches };
        topology.prepare_client()?;
        topology.prepare_balancer()?;
        Ok(topology)
    }

    /// The client's second address of a family: another source, for access rules.
    #[must_use]
    pub fn other_client(&self, family: Family) -> IpAddr {
        FRONT.ip(family, OTHER_CLIENT)
    }

    /// The balancer's addresses towards the targets, its own among them: a pool for source address translation.
    #[must_use]
    pub fn snat_pool(&self, family: Family) -> Vec<IpAddr> {
        let (link, _) = self.towards_targets();
        let numbers = [BALANCER].into_iter().chain(SNAT);
        numbers.map(|number| link.ip(family, number)).collect()
    }

    /// The interfaces of the balancer that clients and targets are reached by.
    #[must_use]
    pub fn balancer_interfaces(&self) -> &'static [&'static str] {
        match self.shape {
            Shape::OtherInterface => &[INTERFACE, BACK_INTERFACE],
            Shape::SameLink | Shape::BehindRouter => &[INTERFACE],
        }
    }

    /// Every namespace of the network.
    pub fn namespaces(&self) -> impl Iterator<Item = &NetNs> {
        let hosts = [&self.client, &self.balancer].into_iter().chain(&self.targets).chain(&self.router);
        hosts.map(|host| &host.ns).chain(&self.switches)
    }

    /// Lets the network outlive this process.
    pub fn keep(&self) {
        self.namespaces().for_each(NetNs::keep);
    }

    /// One client host stands for thousands: more ports to connect from, free again sooner, and a second address.
    fn prepare_client(&self) -> Result<()> {
        let ns = &self.client.ns;
        ns.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        ns.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
        ns.ip_batch(&FRONT.further_address(INTERFACE, OTHER_CLIENT))
    }

    /// The balancer's ports for its own connections stay as the kernel has them by default: so do most hosts'.
    fn prepare_balancer(&self) -> Result<()> {
        let (link, interface) = self.towards_targets();
        SNAT.iter()
            .try_for_each(|number| self.balancer.ns.ip_batch(&link.further_address(interface, *number)))
    }

    fn towards_targets(&self) -> (Link, &'static str) {
        match self.shape {
            Shape::OtherInterface => (BACK, BACK_INTERFACE),
            Shape::SameLink | Shape::BehindRouter => (FRONT, INTERFACE),
        }
    }
}

/// The prefixes of one link; hosts differ in the last byte.
#[derive(Clone, Copy)]
struct Link {
    name: &'static str,
    v4: [u8; 3],
    v6: u16,
}

impl Link {
    fn v4(self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.v4;
        Ipv4Addr::new(a, b, c, number)
    }

    fn v6(self, number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.v6, 0, 0, 0, 0, 0, u16::from(number))
    }

    fn ip(self, family: Family, number: u8) -> IpAddr {
        match family {
            Family::V4 => self.v4(number).into(),
            Family::V6 => self.v6(number).into(),
        }
    }

    /// An address that is used only by who asks for it: never preferred.
    fn further_address(self, interface: &str, number: u8) -> String {
        self.address(interface, number).replace('\n', " preferred_lft 0\n")
    }

    fn address(self, interface: &str, number: u8) -> String {
        format!(
            "addr add {}/24 dev {interface}\naddr add {}/64 dev {interface} nodad\n",
            self.v4(number),
            self.v6(number)
        )
    }

    /// Routes to this link by the host `number` on `near`.
    fn route_via(self, near: Self, number: u8) -> String {
        format!(
            "route add {}/24 via {}\nroute add {}/64 via {}\n",
            self.v4(0),
            near.v4(number),
            self.v6(0),
            near.v6(number)
        )
    }
}

struct Switch {
    ns: NetNs,
    link: Link,
}

impl Switch {
    fn new(ns: NetNs, link: Link) -> Result<Self> {
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        // Without snooping, neighbour discovery reaches everyone from the first packet on.
        ns.ip_batch("link add bridge0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set bridge0 up\n")?;
        Ok(Self { ns, link })
    }

    /// Joins `host` to the link: a veth pair, `port` on the bridge and `interface` in the host.
    fn plug(&self, host: &NetNs, port: &str, interface: &str, number: u8) -> Result<()> {
        for scope in ["all", "default"] {
            host.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
        }
        let mut lines = String::new();
        writeln!(lines, "link add {port} type veth peer name {interface} netns {}", host.name())?;
        writeln!(lines, "link set {port} master bridge0\nlink set {port} up")?;
        self.ns.ip_batch(&lines)?;
        self.ns.spread_flows(port)?;
        host.spread_flows(interface)?;
        // XDP sees frames as the sender's stack left them: checksums must be whole, not left to a device to fill in.
        host.exec("ethtool", &["-K", interface, "tx", "off"])?;
        host.ip_batch(&format!("link set {interface} up\n{}", self.link.address(interface, number)))
    }

    /// Readies `port` to face an interface that runs XDP.
    fn face_xdp(&self, port: &str) -> Result<()> {
        // What the bridge has merged is cut to frames again before the balancer sees it, each with a whole checksum.
        self.ns.exec("ethtool", &["-K", port, "tx", "off"])?;
        xdp_pass::attach(&self.ns, port)
    }
}
