//! A namespace with a veth pair, a pin directory, and options small enough to look at.

use std::{
    borrow::Cow,
    fs,
    mem::offset_of,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use lb_common::{
    abi::{Control, Flow, FlowKey, Handshake, cursor, flow_flags, map},
    addr::{Port, V4},
};
use lb_tests::{guard::Guard, netns::NetNs, require};
use lb_userspace::{
    config::model::{Limits, XdpMode},
    dataplane::{
        kernel::{self, KernelDataPlane, KernelOptions},
        object::OBJECT,
    },
};

/// Slots of the lookup tables here.
pub(crate) const SLOTS: u32 = 251;
/// The interface that the program is attached to.
pub(crate) const INTERFACE: &str = "left";

/// Limits small enough for a test's memory.
pub(crate) const LIMITS: Limits =
    Limits { flows: 4096, services: 16, targets: 32, groups: 8, access_prefixes: 64, client_routes: 16 };

/// A namespace whose interface `left` has `right` for a peer, and a pin directory that is removed with it.
pub(crate) struct Setup {
    pub(crate) ns: NetNs,
    pub(crate) pins: PathBuf,
    _unload: Guard,
    _bpffs: Option<Guard>,
}

impl Setup {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        require::root()?;
        let bpffs = require::bpffs()?;
        let ns = NetNs::new("dp")?;
        ns.ip_batch("link add left type veth peer name right\nlink set left up\nlink set right up\n")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pins =
            Path::new(require::BPFFS).join(format!("portside-test-dp-{}-{number}", std::process::id()));
        let left = pins.clone();
        let unload = Guard::new(move || {
            if let Err(error) = kernel::unload(&left) {
                eprintln!("cannot unload {}: {error}", left.display());
            }
        });
        Ok(Self { ns, pins, _unload: unload, _bpffs: bpffs })
    }

    pub(crate) fn options(&self) -> KernelOptions {
        KernelOptions {
            pin_dir: self.pins.clone(),
            interfaces: vec![INTERFACE.to_owned()],
            xdp_mode: XdpMode::Native,
            limits: LIMITS,
            table_slots: SLOTS,
            packet_log: None,
            object: Cow::Borrowed(OBJECT),
        }
    }

    /// Runs `f` in the namespace.
    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.ns.run(f)?
    }

    /// Opens and attaches.
    pub(crate) fn start(&self) -> Result<KernelDataPlane> {
        self.start_with(self.options())
    }

    /// Opens and attaches with other options.
    pub(crate) fn start_with(&self, options: KernelOptions) -> Result<KernelDataPlane> {
        self.inside(|| {
            let mut dataplane = KernelDataPlane::open(options)?;
            dataplane.attach()?;
            Ok(dataplane)
        })
    }

    /// What `ip link` shows of the interface.
    pub(crate) fn link(&self) -> Result<String> {
        self.ns.exec("ip", &["-d", "link", "show", "dev", INTERFACE])
    }

    /// Makes the peer send a frame that is not IP: it asks for an address.
    pub(crate) fn send_arp(&self) -> Result<()> {
        self.ns.ip_batch("address replace 192.0.2.1/24 dev right\n")?;
        self.inside(|| {
            let socket = std::net::UdpSocket::bind("192.0.2.1:0").context("bind at the peer")?;
            socket.send_to(b"?", "192.0.2.2:9").context("send from the peer")?;
            Ok(())
        })
    }

    /// A pinned map in force.
    pub(crate) fn map(&self, name: &str) -> Result<aya::maps::MapData> {
        let path = self.pins.join("maps").join(name);
        aya::maps::MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))
    }

    /// The id of a pinned map in force.
    pub(crate) fn map_id(&self, name: &str) -> Result<u32> {
        Ok(self.map(name)?.info()?.id())
    }

    /// Changes what the pins say of themselves: 0 is the version of all layouts, 1 that of the flows'.
    pub(crate) fn set_meta(&self, field: usize, version: u32) -> Result<()> {
        let mut meta: aya::maps::Array<_, [u32; 10]> = aya::maps::Map::Array(self.map("META")?).try_into()?;
        let mut row = meta.get(&0, 0)?;
        row[field] = version;
        Ok(meta.set(0, row, 0)?)
    }

    /// Puts a flow into the table as the program would: both directions, and the count of entries.
    pub(crate) fn insert_flow(&self, number: u16, service: u32, target: u32) -> Result<()> {
        let client = V4::from(std::net::Ipv4Addr::new(10, 0, (number >> 8) as u8, number as u8));
        let vip = V4::from(std::net::Ipv4Addr::new(10, 9, 0, 1));
        let snat = V4::from(std::net::Ipv4Addr::new(10, 8, 0, 1));
        let to = V4::from(std::net::Ipv4Addr::new(10, 7, 0, 1));
        let snat_port = Port::new(10_000 + number);
        let forward_key =
            FlowKey { src: client, dst: vip, sport: Port::new(40_000), dport: Port::new(80), protocol: 6 };
        let reverse_key =
            FlowKey { src: to, dst: snat, sport: Port::new(8080), dport: snat_port, protocol: 6 };
        let forward = flow(snat, to, snat_port, Port::new(8080), 0, service, target, 3);
        let reverse =
            flow(vip, client, Port::new(80), Port::new(40_000), flow_flags::REVERSE, service, target, 2);
        let mut flows: aya::maps::HashMap<_, [u8; 16], [u8; 96]> =
            aya::maps::Map::HashMap(self.map(map::FLOWS[0])?).try_into()?;
        flows.insert(bytes::<_, 16>(&forward_key), bytes::<_, 96>(&forward), 0)?;
        flows.insert(bytes::<_, 16>(&reverse_key), bytes::<_, 96>(&reverse), 0)?;
        let mut cursors: aya::maps::Array<_, u32> =
            aya::maps::Map::Array(self.map(map::CURSORS)?).try_into()?;
        let entries = cursors.get(&cursor::FLOWS4, 0)?;
        cursors.set(cursor::FLOWS4, entries + 2, 0)?;
        Ok(())
    }
}

impl Setup {
    /// Puts an unfinished handshake, begun when the machine was, into a slot as the program would.
    pub(crate) fn insert_handshake(&self, slot: u32, protocol: u32, state: u32) -> Result<()> {
        const SIZE: usize = size_of::<Handshake<V4>>();
        let mut handshakes: aya::maps::Array<_, [u8; SIZE]> =
            aya::maps::Map::Array(self.map(map::HANDSHAKES[0])?).try_into()?;
        let mut bytes = [0; SIZE];
        for (place, value) in
            [(offset_of!(Handshake<V4>, state), state), (offset_of!(Handshake<V4>, protocol), protocol)]
        {
            bytes[place..place + 4].copy_from_slice(&value.to_ne_bytes());
        }
        Ok(handshakes.set(slot, bytes, 0)?)
    }
}

#[expect(clippy::too_many_arguments, reason = "a flow has many fields")]
fn flow(
    src: V4,
    dst: V4,
    sport: Port,
    dport: Port,
    flags: u32,
    service: u32,
    target: u32,
    packets: u64,
) -> Flow<V4> {
    Flow {
        src,
        dst,
        sport,
        dport,
        flags,
        l4_delta: 0,
        l3_delta: 0,
        next_hop: target,
        target,
        incarnation: 1,
        service,
        epoch: 7,
        seen: 0,
        created: 0,
        ring: 0,
        ifindex: 1,
        mac_client: [0; 6],
        mac_own: [0; 6],
        acknowledged: 0,
        client_ts: 0,
        packets,
        bytes: packets * 100,
    }
}

/// The bytes of a value without padding.
fn bytes<T: Copy, const N: usize>(value: &T) -> [u8; N] {
    assert_eq!(size_of::<T>(), N);
    // SAFETY: the sizes agree, and the types used here have no padding (`lb_common::abi` asserts it).
    unsafe { std::ptr::from_ref(value).cast::<[u8; N]>().read() }
}

/// A control row in which every field differs from its neighbours.
pub(crate) fn control(generation: u32) -> Control {
    Control {
        generation,
        epoch: 7,
        snat_v4: 1,
        snat_v6: 2,
        port_first: 20_000,
        port_count: 10_000,
        handshakes: 65_536,
        ring: LIMITS.flows,
        table_slots: SLOTS,
        tcp_handshake: 10,
        tcp_established: 20,
        tcp_closing: 30,
        tcp_time_wait: 40,
        udp_unanswered: 50,
        udp_established: 60,
        reserved: 0,
    }
}

/// The kernel object with the same meaning and other instructions: constants that were loaded by a 64-bit move are
/// loaded by a 32-bit one, which clears the upper half. The program's tag differs.
pub(crate) fn other_object() -> Result<Vec<u8>> {
    const MOV64_IMM: u8 = 0xb7;
    const MOV32_IMM: u8 = 0xb4;
    let mut object = OBJECT.to_vec();
    let mut changed = 0;
    for (offset, size) in sections(OBJECT, "xdp") {
        for instruction in object[offset..offset + size].chunks_exact_mut(8) {
            let immediate =
                i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
            if instruction[0] == MOV64_IMM && immediate >= 0 {
                instruction[0] = MOV32_IMM;
                changed += 1;
            }
        }
    }
    ensure!(changed > 0, "there is no constant in the object's XDP programs");
    Ok(object)
}

/// Offset and size of the ELF sections whose name begins with `prefix`.
fn sections(elf: &[u8], prefix: &str) -> Vec<(usize, usize)> {
    let number = |at: usize, size: usize| {
        elf[at..at + size].iter().rev().fold(0usize, |number, &byte| number << 8 | usize::from(byte))
    };
    let (table, entry, count, names) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2), number(0x3e, 2));
    let field = |section: usize, at: usize, size: usize| number(table + section * entry + at, size);
    let name_table = field(names, 0x18, 8);
    (0..count)
        .filter(|&section| elf[name_table + field(section, 0, 4)..].starts_with(prefix.as_bytes()))
        .map(|section| (field(section, 0x18, 8), field(section, 0x20, 8)))
        .collect()
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names: Vec<_> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}
