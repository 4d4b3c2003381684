//! Tells the link that a virtual address is here: gratuitous ARP, and unsolicited neighbour advertisements.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use thiserror::Error;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::state::Mac;

/// A single frame may be lost: each announcement is sent this often, so far apart.
const ROUNDS: u32 = 3;
const ROUND_EVERY: Duration = Duration::from_secs(1);

/// Why nothing was announced.
#[derive(Debug, Error)]
pub enum AnnounceError {
    /// No packet socket could be made.
    #[error("cannot open a packet socket to announce addresses: {0} (it needs root or CAP_NET_RAW)")]
    Open(#[source] io::Error),
    /// The interface did not take the frame.
    #[error("cannot announce {address} on interface {ifindex}: {source} (is the interface up?)")]
    Send {
        /// The address.
        address: IpAddr,
        /// The interface.
        ifindex: u32,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A running announcement: dropping it stops the rounds that are still to come.
#[derive(Debug)]
#[must_use = "dropping an announcement stops it after its first round"]
pub struct Announcement(JoinHandle<()>);

impl Announcement {
    /// Waits until the last round is sent.
    pub async fn finished(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Announces that the addresses are to be found at `mac` on the interface: at once, then twice more a second apart.
///
/// The socket belongs to the calling thread's network namespace. A failure in the first round is returned; later ones
/// are logged.
pub fn announce(ifindex: u32, mac: Mac, addresses: &[IpAddr]) -> Result<Announcement, AnnounceError> {
    // Protocol zero: the socket sends, and no frame is ever queued to it.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).map_err(AnnounceError::Open)?;
    socket.set_nonblocking(true).map_err(AnnounceError::Open)?;
    let frames: Vec<_> = addresses
        .iter()
        .flat_map(|address| frames(mac, *address).into_iter().map(|frame| (*address, frame)))
        .collect();
    let link = link_address(ifindex);
    let send = move || {
        frames.iter().try_for_each(|(address, frame)| match socket.send_to(frame, &link) {
            Ok(_) => Ok(()),
            Err(source) => Err(AnnounceError::Send { address: *address, ifindex, source }),
        })
    };
    send()?;
    Ok(Announcement(tokio::spawn(async move {
        let mut rounds = interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is immediate and stands for the round already sent.
        rounds.tick().await;
        for _ in 1..ROUNDS {
            rounds.tick().await;
            if let Err(error) = send() {
                tracing::warn!(%error, "announcement incomplete");
            }
        }
    })))
}

/// The destination of a raw frame: the interface alone, since the frame has its own Ethernet header.
fn link_address(ifindex: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the address types that the storage is made to hold; all its bit patterns are valid.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_ifindex = ifindex as libc::c_int;
    link.sll_halen = 6;
    // SAFETY: the storage holds a `sockaddr_ll`, whose length this is.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

fn frames(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        // Some hosts only learn from requests, some only from replies.
        IpAddr::V4(address) => vec![gratuitous_arp(mac, address, 1), gratuitous_arp(mac, address, 2)],
        IpAddr::V6(address) => vec![neighbour_advertisement(mac, address)],
    }
}

const BROADCAST: Mac = [0xff; 6];

/// A gratuitous ARP frame (RFC 826, RFC 5227 section 3): `operation` 1 is a request, 2 a reply.
fn gratuitous_arp(mac: Mac, address: Ipv4Addr, operation: u8) -> Vec<u8> {
    let target_mac = if operation == 1 { [0; 6] } else { mac };
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(mac);
    // EtherType ARP; hardware Ethernet, protocol IPv4, address lengths 6 and 4.
    frame.extend([0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(target_mac);
    frame.extend(address.octets());
    frame
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;

/// An unsolicited neighbour advertisement to all nodes, with the override flag (RFC 4861 sections 4.4 and 7.2.6).
fn neighbour_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut body = Vec::with_capacity(32);
    // Type 136, code 0, no checksum yet, the override flag alone.
    body.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
    body.extend(address.octets());
    // Option 2, one unit of eight bytes: the target's link-layer address.
    body.extend([2, 1]);
    body.extend(mac);
    let checksum = icmpv6_checksum(address, ALL_NODES, &body);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend(ALL_NODES_MAC);
    frame.extend(mac);
    // EtherType IPv6; version 6, class and label zero; payload length; next header; receivers insist on hop limit 255.
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, body.len() as u8, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(body);
    frame
}

/// The checksum over the pseudo-header and the message (RFC 8200 section 8.1); the message has an even length.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(body);
    sum += body.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];

    #[test]
    fn arp_is_announced_as_a_request_and_as_a_reply() {
        let frames = frames(MAC, "10.0.0.9".parse().unwrap());
        #[rustfmt::skip]
        let request = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x08, 0x06,
            0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01,
            0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 10, 0, 0, 9,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 10, 0, 0, 9,
        ];
        let mut reply = request;
        reply[21] = 2;
        reply[32..38].copy_from_slice(&MAC);
        assert_eq!(frames, [request.to_vec(), reply.to_vec()]);
    }

    #[test]
    fn a_neighbour_advertisement_is_byte_for_byte_what_the_rfc_says() {
        let frames = frames(MAC, "2001:db8::9".parse().unwrap());
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0x00, 0x00, 0x00, 0x01, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x86, 0xdd,
            0x60, 0x00, 0x00, 0x00, 0x00, 0x20, 0x3a, 0xff,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x09,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01,
            // The checksum is what makes the sum of all 16-bit words, pseudo-header included, come to ffff.
            0x88, 0x00, 0x92, 0x82, 0x20, 0x00, 0x00, 0x00,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x09,
            0x02, 0x01, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55,
        ];
        assert_eq!(frames, [expected.to_vec()]);
    }
}
