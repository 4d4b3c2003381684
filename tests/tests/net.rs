//! The agent's view of the host's network, and what it does to it, against a real kernel.
//!
//! Each test has a host and a peer, joined by a veth pair, in network namespaces that exist only as long as their
//! threads do. It needs root (or CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN) and the `ip` program of iproute2.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use lb_userspace::net::{
    AttachedXdp, Hop, Mac, NeighbourState, NetState, Placement, Unresolved, Vip, VipError, Vips, Warmer,
    Watch, XdpMode, announce, interface_facts, ports,
};
use nix::sched::{CloneFlags, unshare};

const HOST: &str = "host0";
const PEER: &str = "peer0";
const HOST_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];
const PEER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x02];
const VIP4: &str = "10.9.0.100";
const VIP6: &str = "2001:db8:9::100";

/// Runs a command in the calling thread's namespace, and fails the test with what it said.
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("`{program}`: {error} (install iproute2 and procps)"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` failed: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace held by a thread of its own, in which closures can be run.
struct Peer(mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl Peer {
    fn new() -> (Self, u32) {
        let (send, receive) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            enter_new_namespace();
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            receive.into_iter().for_each(|work| work());
        });
        (Self(send), told.recv_timeout(Duration::from_secs(5)).expect("the peer's namespace") as u32)
    }

    /// Runs the closure there and waits for its answer.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.0.send(Box::new(move || drop(tell.send(work())))).unwrap();
        told.recv_timeout(Duration::from_secs(10)).expect("the work in the peer's namespace failed")
    }
}

fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root: run the tests with sudo");
}

/// Runs a test on a thread in a fresh host namespace, joined to a fresh peer.
fn with_network<T: Future<Output = ()>>(test: impl FnOnce(Peer) -> T + Send + 'static) {
    let outcome = thread::spawn(|| {
        enter_new_namespace();
        let (peer, thread) = Peer::new();
        run(&format!("ip link add {HOST} address 02:00:00:00:00:01 type veth peer name {PEER} address 02:00:00:00:00:02"));
        run(&format!("ip link set {PEER} netns {thread}"));
        for command in ["link set lo up", "address add 10.9.0.1/24 dev host0", "link set host0 up"] {
            run(&format!("ip {command}"));
        }
        run("ip address add 2001:db8:9::1/64 dev host0 nodad");
        peer.run(|| {
            for command in ["link set lo up", "address add 10.9.0.2/24 dev peer0", "link set peer0 up"] {
                run(&format!("ip {command}"));
            }
            run("ip address add 2001:db8:9::2/64 dev peer0 nodad");
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(30), test(peer)).await.expect("the test took too long");
        });
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until the picture satisfies the condition, and says how long that took.
async fn until(watch: &Watch, what: &str, condition: impl Fn(&NetState) -> bool) -> Duration {
    let began = Instant::now();
    let mut state = watch.subscribe();
    let seen = tokio::time::timeout(Duration::from_secs(5), state.wait_for(|state| condition(state))).await;
    let neighbours: Vec<_> = watch.current().neighbours().copied().collect();
    seen.unwrap_or_else(|_| panic!("{what}: not seen within 5 s; neighbours {neighbours:?}")).unwrap();
    began.elapsed()
}

fn index(watch: &Watch) -> u32 {
    watch.current().interface_named(HOST).expect("the host's interface").index
}

fn direct(watch: &Watch, destination_mac: Mac) -> Hop {
    Hop { ifindex: index(watch), source_mac: HOST_MAC, destination_mac, mtu: 1500, gateway: None }
}

const SOON: Duration = Duration::from_millis(100);

#[test]
fn a_watch_begins_with_the_tables_as_they_are() {
    with_network(async |_peer| {
        run("ip neighbour add 10.9.0.7 lladdr 02:00:00:00:00:07 dev host0");
        run("ip route add blackhole 10.77.0.0/16");
        run("ip link set host0 mtu 1400");
        let watch = Watch::start().await.unwrap();
        let state = watch.current();
        let interface = state.interface_named(HOST).unwrap();
        assert!(interface.is_veth() && interface.up);
        assert_eq!((interface.mac, interface.mtu), (Some(HOST_MAC), 1400));
        assert!(state.is_own_address(ip("10.9.0.1")) && state.is_own_address(ip("2001:db8:9::1")));
        let hop = Hop { mtu: 1400, ..direct(&watch, [2, 0, 0, 0, 0, 7]) };
        assert_eq!(state.resolve(ip("10.9.0.7")), Ok(hop));
        assert_eq!(state.resolve(ip("10.9.0.1")), Err(Unresolved::OwnAddress(ip("10.9.0.1"))));
        assert_eq!(state.resolve(ip("10.9.0.255")), Err(Unresolved::NotUnicast(ip("10.9.0.255"))));
        assert_eq!(state.resolve(ip("192.0.2.1")), Err(Unresolved::NoRoute(ip("192.0.2.1"))));
        assert!(matches!(state.resolve(ip("10.77.0.1")), Err(Unresolved::Refused { .. })));
        let facts = interface_facts(HOST).await.unwrap();
        assert_eq!((&facts.interface, facts.xdp), (interface, None));
        let missing = interface_facts("no-such-interface").await.unwrap_err();
        assert_eq!(
            missing.to_string(),
            "interface `no-such-interface` does not exist: `ip link` shows those that do"
        );
    });
}

#[test]
fn a_neighbours_new_mac_is_seen_within_100_ms() {
    with_network(async |_peer| {
        for address in ["10.9.0.7", "2001:db8:9::7"] {
            run(&format!("ip neighbour add {address} lladdr 02:00:00:00:00:07 dev host0"));
        }
        let watch = Watch::start().await.unwrap();
        for address in ["10.9.0.7", "2001:db8:9::7"] {
            let (old, new) = (direct(&watch, [2, 0, 0, 0, 0, 7]), direct(&watch, [2, 0, 0, 0, 0, 8]));
            assert_eq!(watch.current().resolve(ip(address)), Ok(old));
            run(&format!("ip neighbour replace {address} lladdr 02:00:00:00:00:08 dev host0"));
            let took = until(&watch, "the new MAC", |state| state.resolve(ip(address)) == Ok(new)).await;
            assert!(took < SOON, "{took:?}");
            run(&format!("ip neighbour del {address} dev host0"));
            let took = until(&watch, "the removal", |state| state.resolve(ip(address)).is_err()).await;
            assert!(took < SOON, "{took:?}");
        }
    });
}

#[test]
fn route_changes_are_seen_within_100_ms_also_those_without_an_event_of_their_own() {
    with_network(async |_peer| {
        for (last, gateway) in [(2, "10.9.0.2"), (3, "10.9.0.3"), (2, "2001:db8:9::2"), (3, "2001:db8:9::3")]
        {
            run(&format!("ip neighbour add {gateway} lladdr 02:00:00:00:00:0{last} dev host0"));
        }
        let watch = Watch::start().await.unwrap();
        for (prefix, address, gateways) in [
            ("192.0.2.0/24", "192.0.2.9", ["10.9.0.2", "10.9.0.3"]),
            ("2001:db8:77::/48", "2001:db8:77::9", ["2001:db8:9::2", "2001:db8:9::3"]),
        ] {
            let [first, second] = gateways;
            let leads_to = |state: &NetState, gateway: Option<&str>| {
                state.resolve(ip(address)).ok().and_then(|hop| hop.gateway) == gateway.map(ip)
            };
            for (command, gateway) in [
                (format!("ip route add {prefix} via {first}"), Some(first)),
                (format!("ip route replace {prefix} via {second}"), Some(second)),
                (format!("ip route replace {prefix} nexthop via {first} nexthop via {second}"), Some(first)),
                (format!("ip route replace {prefix} via {second}"), Some(second)),
                (format!("ip route add {prefix} via {first} metric 5000"), Some(second)),
                (format!("ip route del {prefix} via {second}"), Some(first)),
                (format!("ip route del {prefix} metric 5000"), None),
                (format!("ip route add {prefix} via {first}"), Some(first)),
            ] {
                run(&command);
                let took = until(&watch, &command, |state| leads_to(state, gateway)).await;
                assert!(took < SOON, "`{command}` took {took:?}");
            }
        }
        // The kernel removes the routes of an interface that goes down, and says nothing about each.
        run("ip link set host0 down");
        let gone =
            |state: &NetState| state.routes().all(|route| route.prefix != "192.0.2.0/24".parse().unwrap());
        let took = until(&watch, "the routes' end", gone).await;
        assert!(took < SOON, "{took:?}");
        run("ip link set host0 up");
        let back = |state: &NetState| {
            let on_link = "10.9.0.0/24".parse().unwrap();
            state.interface_named(HOST).unwrap().up && state.routes().any(|route| route.prefix == on_link)
        };
        let took = until(&watch, "the interface's return", back).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        run("ip link del host0");
        let took = until(&watch, "the interface's end", |state| state.interface_named(HOST).is_none()).await;
        assert!(took < SOON, "{took:?}");
    });
}

#[test]
fn a_burst_that_overruns_the_socket_ends_in_the_right_picture() {
    with_network(async |_peer| {
        let watch = Watch::start().await.unwrap();
        let batch = tempfile::NamedTempFile::new().unwrap();
        let mut commands = String::new();
        // More events than the socket's buffer holds, while this one thread, busy here, reads none of them.
        for round in 0..12 {
            for last in 0..=255 {
                for third in [1, 2, 3, 4, 5, 6, 7, 8] {
                    let mac = format!("02:00:00:00:{round:02x}:{last:02x}");
                    commands += &format!("neighbour replace 10.8.{third}.{last} lladdr {mac} dev host0\n");
                }
            }
        }
        run("ip route add 10.8.0.0/16 dev host0");
        std::fs::write(batch.path(), commands).unwrap();
        run(&format!("ip -batch {}", batch.path().display()));
        assert!(lost_events(), "the burst was too small to overrun the socket");
        let last = direct(&watch, [2, 0, 0, 0, 11, 255]);
        until(&watch, "the last MAC", |state| state.resolve(ip("10.8.8.255")) == Ok(last)).await;
        let state = watch.current();
        for third in 1..=8 {
            for low in 0..=255 {
                let hop = direct(&watch, [2, 0, 0, 0, 11, low]);
                assert_eq!(state.resolve(IpAddr::from([10, 8, third, low])), Ok(hop));
            }
        }
    });
}

/// Whether a netlink socket of this namespace has lost messages: the ninth column counts them.
fn lost_events() -> bool {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    sockets.lines().skip(1).any(|line| line.split_whitespace().nth(8).is_some_and(|drops| drops != "0"))
}

#[test]
fn the_warmer_resolves_neighbours_that_nothing_talks_to() {
    with_network(async |peer| {
        let watch = Watch::start().await.unwrap();
        let warmer = Warmer::start(watch.subscribe()).unwrap();
        run("ip route add 192.0.2.0/24 via 10.9.0.2");
        for address in ["10.9.0.2", "2001:db8:9::2"] {
            assert!(matches!(watch.current().resolve(ip(address)), Err(Unresolved::NoNeighbour { .. })));
        }
        warmer.keep([ip("192.0.2.9"), ip("2001:db8:9::2"), ip("10.9.0.66")]);
        let hop = direct(&watch, PEER_MAC);
        until(&watch, "the IPv6 neighbour", |state| state.resolve(ip("2001:db8:9::2")) == Ok(hop)).await;
        let through = Hop { gateway: Some(ip("10.9.0.2")), ..hop };
        until(&watch, "the gateway", |state| state.resolve(ip("192.0.2.9")) == Ok(through)).await;
        let failed = |state: &NetState| {
            state.neighbour(hop.ifindex, ip("10.9.0.66")).is_some_and(|n| n.state == NeighbourState::Failed)
        };
        until(&watch, "nobody at 10.9.0.66", failed).await;
        // It is asked for again, so that it is found when it comes up.
        peer.run(|| run("ip address add 10.9.0.66/32 dev peer0"));
        until(&watch, "10.9.0.66", |state| state.resolve(ip("10.9.0.66")) == Ok(hop)).await;
        run("ip neighbour del 10.9.0.2 dev host0");
        until(&watch, "the gateway's return", |state| state.resolve(ip("192.0.2.9")) == Ok(through)).await;
    });
}

#[test]
fn a_vip_is_put_found_again_and_removed_and_the_operators_stays() {
    with_network(async |_peer| {
        let vips = Vips::open().unwrap();
        let ifindex = interface_facts(HOST).await.unwrap().interface.index;
        for address in [VIP4, VIP6].map(ip) {
            assert_eq!(vips.put(ifindex, address).await.unwrap(), Placement::Added);
            assert_eq!(vips.put(ifindex, address).await.unwrap(), Placement::AlreadyOurs);
        }
        // A later run knows them by their mark.
        let later = Vips::open().unwrap();
        let expected = [VIP4, VIP6].map(|vip| Vip { ifindex, address: ip(vip) });
        assert_eq!(later.ours().await.unwrap(), expected);
        let shown = run("ip -o address show dev host0");
        for vip in [VIP4, VIP6] {
            let line = shown.lines().find(|line| line.contains(vip)).unwrap();
            assert!(line.contains("deprecated") && !line.contains("tentative"), "{line}");
        }

        for address in ["10.9.0.101", "2001:db8:9::101"] {
            run(&format!("ip address add {address} dev host0 nodad"));
            let operators = Placement::Operators { ifindex };
            assert_eq!(vips.put(ifindex, ip(address)).await.unwrap(), operators);
            let refusal = vips.remove(ifindex, ip(address)).await.unwrap_err();
            assert!(matches!(refusal, VipError::Operators { .. }), "{refusal}");
        }
        assert_eq!(vips.ours().await.unwrap(), expected);

        for address in [VIP4, VIP6].map(ip) {
            assert!(later.remove(ifindex, address).await.unwrap());
            assert!(!later.remove(ifindex, address).await.unwrap());
        }
        assert_eq!(vips.ours().await.unwrap(), []);
        let left = run("ip -o address show dev host0");
        assert!(
            left.contains("10.9.0.1/24") && left.contains("10.9.0.101/32") && !left.contains(VIP4),
            "{left}"
        );
        let unknown = vips.put(9999, ip(VIP4)).await.unwrap_err().to_string();
        assert!(unknown.contains("add 10.9.0.100 to interface 9999"), "{unknown}");
        assert!(unknown.contains("the interface does not exist"), "{unknown}");
    });
}

#[test]
fn many_vips_are_put_at_once_found_again_and_removed() {
    with_network(async |_peer| {
        let vips = Vips::open().unwrap();
        let ifindex = interface_facts(HOST).await.unwrap().interface.index;
        let many: BTreeSet<IpAddr> = (0..500_u32)
            .flat_map(|i| {
                let v4 = Ipv4Addr::from_bits(0x0a20_0000 + i);
                [IpAddr::from(v4), format!("2001:db8:32::{:x}", 0x100 + i).parse().unwrap()]
            })
            .collect();
        for expected in [Placement::Added, Placement::AlreadyOurs] {
            let now = vips.addresses().await.unwrap();
            let placements = vips.put_all(&now, ifindex, &many).await.unwrap();
            assert_eq!(placements.len(), many.len());
            for (address, placement) in placements {
                assert_eq!(placement.unwrap(), expected, "{address}");
            }
        }
        let ours = vips.ours().await.unwrap();
        assert_eq!(ours.len(), many.len());
        for vip in ours {
            assert!(vips.remove_ours(vip).await.unwrap());
            assert!(!vips.remove_ours(vip).await.unwrap());
        }
        assert_eq!(vips.ours().await.unwrap(), []);
    });
}

#[test]
fn a_peer_finds_a_vip_on_the_link() {
    with_network(async |peer| {
        let vips = Vips::open().unwrap();
        let ifindex = interface_facts(HOST).await.unwrap().interface.index;
        for address in [VIP4, VIP6].map(ip) {
            vips.put(ifindex, address).await.unwrap();
        }
        peer.run(|| {
            for (own, vip) in [("10.9.0.2", VIP4), ("2001:db8:9::2", VIP6)] {
                let socket = UdpSocket::bind((ip(own), 0)).unwrap();
                socket.send_to(b"who has it?", (ip(vip), 9)).unwrap();
            }
            let began = Instant::now();
            loop {
                let table = run("ip neighbour show dev peer0");
                let found =
                    |vip| table.lines().any(|l| l.starts_with(vip) && l.contains("02:00:00:00:00:01"));
                if found(VIP4) && found(VIP6) {
                    break;
                }
                // Well below the second that duplicate-address detection would take.
                assert!(began.elapsed() < Duration::from_millis(500), "not found:\n{table}");
                thread::sleep(Duration::from_millis(10));
            }
        });
    });
}

#[test]
fn the_program_on_an_interface_is_known_by_its_mode_and_id() {
    with_network(async |_peer| {
        let ifindex = interface_facts(HOST).await.unwrap().interface.index;
        let (program, program_id) = pass_all_program();
        for (flags, mode) in [(XDP_FLAGS_SKB_MODE, XdpMode::Generic), (XDP_FLAGS_DRV_MODE, XdpMode::Driver)] {
            let link = attach(&program, ifindex, flags);
            let facts = interface_facts(HOST).await.unwrap();
            assert_eq!(facts.xdp, Some(AttachedXdp { mode, program_id }));
            drop(link);
            assert_eq!(interface_facts(HOST).await.unwrap().xdp, None);
        }
    });
}

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_PASS: u64 = 2;

/// An XDP program of two instructions, `r0 = XDP_PASS; exit`, and the kernel's id of it.
fn pass_all_program() -> (OwnedFd, u32) {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
    const BPF_PROG_TYPE_XDP: u64 = 6;
    let instructions: [u64; 2] = [0xb7 | (XDP_PASS << 32), 0x95];
    let license = c"GPL";
    // Type and count share the first word; then the addresses of instructions and licence.
    let load = [BPF_PROG_TYPE_XDP | (2 << 32), instructions.as_ptr() as u64, license.as_ptr() as u64];
    let program = bpf(BPF_PROG_LOAD, &load);
    let mut info = [0_u32; 2];
    // Descriptor and length share the first word; the program's id is the second field of the information.
    let ask = [program.as_raw_fd() as u64 | (8 << 32), info.as_mut_ptr() as u64];
    bpf_number(BPF_OBJ_GET_INFO_BY_FD, &ask);
    (program, info[1])
}

/// Attaches the program for as long as the link is held.
fn attach(program: &OwnedFd, ifindex: u32, flags: u32) -> OwnedFd {
    const BPF_LINK_CREATE: i32 = 28;
    const BPF_XDP: u64 = 37;
    bpf(
        BPF_LINK_CREATE,
        &[program.as_raw_fd() as u64 | (u64::from(ifindex) << 32), BPF_XDP | (u64::from(flags) << 32)],
    )
}

fn bpf(command: i32, attributes: &[u64]) -> OwnedFd {
    let descriptor = bpf_number(command, attributes);
    // SAFETY: the kernel has just made this descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(descriptor as i32) }
}

fn bpf_number(command: i32, attributes: &[u64]) -> i64 {
    // SAFETY: the attributes are live, of the given length, and the addresses in them are of live buffers.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    assert!(answer >= 0, "bpf command {command}: {}", std::io::Error::last_os_error());
    answer
}

#[test]
fn the_hosts_own_connections_do_not_use_a_vip_as_their_source() {
    with_network(async |_peer| {
        let vips = Vips::open().unwrap();
        let ifindex = interface_facts(HOST).await.unwrap().interface.index;
        // The VIPs come first, and the operator's addresses after them.
        run("ip address flush dev host0");
        for address in [VIP4, VIP6].map(ip) {
            vips.put(ifindex, address).await.unwrap();
        }
        run("ip address add 10.9.0.1/24 dev host0");
        run("ip address add 2001:db8:9::1/64 dev host0 nodad");
        run("ip route add 192.0.2.0/24 dev host0");
        run("ip route add 198.51.100.0/24 via 10.9.0.2");
        run("ip route add 2001:db8:77::/48 via 2001:db8:9::2");
        for (destination, source) in [
            ("10.9.0.2", "10.9.0.1"),
            ("198.51.100.9", "10.9.0.1"),
            ("192.0.2.9", "10.9.0.1"),
            ("2001:db8:9::2", "2001:db8:9::1"),
            ("2001:db8:77::9", "2001:db8:9::1"),
        ] {
            let any = if ip(destination).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect((ip(destination), 9)).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), ip(source), "towards {destination}");
        }
    });
}

#[test]
fn an_announcement_moves_the_address_in_the_peers_tables() {
    with_network(async |peer| {
        let ifindex = interface_facts(HOST).await.unwrap().interface.index;
        // The peer remembers the address at the machine that had it before.
        peer.run(|| {
            for vip in [VIP4, VIP6] {
                run(&format!("ip neighbour add {vip} lladdr 02:00:00:00:00:99 dev peer0 nud reachable"));
            }
        });
        // For its first second of reachability the peer ignores gratuitous ARP (`locktime`).
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let began = Instant::now();
        let announcement = announce(ifindex, HOST_MAC, &[ip(VIP4), ip(VIP6)]).unwrap();
        loop {
            let table = peer.run(|| run("ip neighbour show dev peer0"));
            let moved =
                |vip| table.lines().any(|line| line.starts_with(vip) && line.contains("02:00:00:00:00:01"));
            if moved(VIP4) && moved(VIP6) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(1), "not moved by the first round:\n{table}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        announcement.finished().await;
        let took = began.elapsed();
        assert!((Duration::from_millis(1_900)..Duration::from_secs(4)).contains(&took), "{took:?}");
        let down = announce(9999, HOST_MAC, &[ip(VIP4)]).unwrap_err().to_string();
        assert!(down.contains("10.9.0.100 on interface 9999"), "{down}");
    });
}

#[test]
fn ports_are_reserved_beside_those_of_others_and_released() {
    with_network(async |_peer| {
        let write = |name: &str, value: &str| {
            std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
        };
        write("ip_local_port_range", "32768 60999");
        write("ip_local_reserved_ports", "8080,20100-20199");
        assert_eq!(ports::ephemeral_range().unwrap(), 32768..=60999);
        let before = ports::reserve(&(20_000..=29_999)).unwrap();
        assert_eq!(before.to_string(), "8080,20100-20199");
        assert_eq!(ports::reserved().unwrap().to_string(), "8080,20000-29999");
        ports::reserve(&(20_000..=29_999)).unwrap();
        assert_eq!(ports::reserved().unwrap().to_string(), "8080,20000-29999");
        write("ip_local_reserved_ports", "8080,9090,20000-29999");
        ports::release(&(20_000..=29_999), &before).unwrap();
        assert_eq!(ports::reserved().unwrap().to_string(), "8080,9090,20100-20199");
        // An empty write would be none.
        write("ip_local_reserved_ports", "\n");
        ports::reserve(&(20_000..=29_999)).unwrap();
        ports::release(&(20_000..=29_999), &Default::default()).unwrap();
        assert_eq!(ports::reserved().unwrap().to_string(), "");
    });
}

#[test]
fn the_hosts_own_ports_in_the_range_are_named() {
    with_network(async |_peer| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999").unwrap();
        let range = 20_000..=33_000;
        let faults = |addresses: &[IpAddr]| -> Vec<String> {
            ports::faults(&(20_000..=33_000), addresses).unwrap().iter().map(ToString::to_string).collect()
        };
        let ephemeral = "source ports 20000-33000 overlap the host's ephemeral ports 32768-60999 in 32768-33000: \
                         choose ports outside, or narrow net.ipv4.ip_local_port_range";
        assert_eq!(faults(&[]), [ephemeral]);
        let _udp = UdpSocket::bind("127.0.0.1:20001").unwrap();
        let _tcp = std::net::TcpListener::bind("[::]:20002").unwrap();
        let _outside = std::net::TcpListener::bind("0.0.0.0:19999").unwrap();
        let both = "source ports 20000-33000 are in use by the host: tcp [::]:20002, udp 127.0.0.1:20001; \
                    stop what uses them, or choose others";
        assert_eq!(faults(&[]), [ephemeral, both]);
        let wildcard = "source ports 20000-33000 are in use by the host: tcp [::]:20002; stop what uses them, or choose \
                        others";
        assert_eq!(faults(&[ip("10.9.0.1")]), [ephemeral, wildcard]);
        let many: Vec<_> =
            (21_000..21_020).map(|port| UdpSocket::bind(("10.9.0.1", port)).unwrap()).collect();
        let fault = ports::faults(&range, &[ip("10.9.0.1")]).unwrap().pop().unwrap().to_string();
        assert!(fault.contains("udp 10.9.0.1:21006 and 13 more; stop"), "{fault} with {}", many.len());
    });
}
