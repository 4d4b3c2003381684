//! The smallest XDP program, `return XDP_PASS`, on an interface.
//!
//! A veth driver takes frames sent by XDP only if its peer runs XDP too. The program is attached through netlink, so
//! it stays with the interface and goes with it.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use crate::netns::NetNs;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1 << 0;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS; exit`: two instructions of eight bytes (code, registers, offset, immediate).
static PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The head of the kernel's `union bpf_attr` for loading a program.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The head of the kernel's `union bpf_attr` for making a link.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches the program to `interface` of `ns` in driver mode.
pub fn attach(ns: &NetNs, interface: &str) -> Result<()> {
    let program = load().context("load a pass-all XDP program (needs root, or CAP_BPF and CAP_NET_ADMIN)")?;
    ns.block_on(|| set(interface, &program))?
        .with_context(|| format!("attach a pass-all XDP program to {interface} in {ns}"))
}

/// Attaches the program to `interface` of `ns` by a BPF link, as loaders with a process of their own do; it stays as long as
/// the value lives.
pub fn link(ns: &NetNs, interface: &str) -> Result<OwnedFd> {
    let program = load().context("load a pass-all XDP program (needs root, or CAP_BPF and CAP_NET_ADMIN)")?;
    let link = ns.run(|| -> io::Result<OwnedFd> {
        let attr = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_ifindex: nix::net::if_::if_nametoindex(interface)?,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        // SAFETY: `attr` is the kernel's layout and its size is passed along.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attr, size_of::<LinkCreate>())
        };
        owned(fd)
    })?;
    link.with_context(|| format!("link a pass-all XDP program to {interface} in {ns}"))
}

async fn set(interface: &str, program: &OwnedFd) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open netlink")?;
    let connection = tokio::spawn(connection);
    let link = handle.link().get().match_name(interface.to_owned()).execute().try_next().await?;
    let link = link.context("no such interface")?;
    let mut message = LinkMessage::default();
    message.header.index = link.header.index;
    message.attributes.push(LinkAttribute::Xdp(vec![
        LinkXdp::Fd(program.as_raw_fd()),
        LinkXdp::Flags(XDP_FLAGS_UPDATE_IF_NOEXIST | XDP_FLAGS_DRV_MODE),
    ]));
    let result = handle.link().set(message).execute().await;
    connection.abort();
    result.map_err(Into::into)
}

fn load() -> io::Result<OwnedFd> {
    let license = c"GPL";
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: PASS.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: BPF_F_XDP_HAS_FRAGS,
        prog_name: *b"test_pass\0\0\0\0\0\0\0",
    };
    // SAFETY: `attr` is the kernel's layout and its size is passed along; both pointers in it outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<ProgLoad>()) };
    owned(fd)
}

/// What a system call answered that makes a descriptor.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
