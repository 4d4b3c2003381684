//! A UDP server that answers with its name and what it got, and its client.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{net::UdpSocket, time::timeout};

use crate::{
    netns::{NetNs, Task},
    topology::{Host, Topology},
};

/// Separates the name from the payload in an answer; no name contains it.
const SEPARATOR: u8 = b'\n';

/// An echo server: answers each datagram with `NAME\nPAYLOAD`, from the address it was sent to.
#[derive(Debug)]
pub struct UdpServer {
    _tasks: [Task<()>; 2],
}

impl UdpServer {
    /// Listens on `port` of `host`, both families, on the host's own addresses.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let v4 = serve(host, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
        let v6 = serve(host, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
        Ok(Self { _tasks: [v4, v6] })
    }

    /// One on every target.
    pub fn on_all(topology: &Topology, port: u16) -> Result<Vec<Self>> {
        topology.targets.iter().map(|host| Self::start(host, port)).collect()
    }
}

fn serve(host: &Host, at: SocketAddr) -> Result<Task<()>> {
    let socket = host.ns.run(|| bind(at))?.with_context(|| format!("listen on UDP {at} in {}", host.name))?;
    let name = host.name.clone();
    host.ns.spawn_task(move || async move {
        if let Err(error) = answer(socket, &name).await {
            eprintln!("the UDP server of {name} has ended: {error:#}");
        }
    })
}

fn bind(at: SocketAddr) -> Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(at))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn answer(socket: std::net::UdpSocket, name: &str) -> Result<()> {
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (size, peer) = match socket.recv_from(&mut buffer).await {
            Ok(got) => got,
            // An earlier answer was refused; that client is gone, the next is not.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error.into()),
        };
        let mut reply = Vec::with_capacity(name.len() + 1 + size);
        reply.extend_from_slice(name.as_bytes());
        reply.push(SEPARATOR);
        reply.extend_from_slice(&buffer[..size]);
        // An answer that cannot be sent is a lost datagram: the client's matter.
        let _ = socket.send_to(&reply, peer).await;
    }
}

/// A client with one socket, hence one flow.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    /// A socket in this thread's namespace, connected to `to`.
    pub async fn new(to: SocketAddr) -> Result<Self> {
        let any: SocketAddr =
            if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await.context("make a UDP socket")?;
        socket.connect(to).await.with_context(|| format!("connect to UDP {to}"))?;
        Ok(Self { socket })
    }

    /// Sends `payload`, waits up to `limit`, checks that it came back whole; returns the name of the target.
    pub async fn exchange(&self, payload: &[u8], limit: Duration) -> Result<String> {
        self.socket.send(payload).await.context("send")?;
        let mut buffer = vec![0; payload.len() + 256];
        let size = timeout(limit, self.socket.recv(&mut buffer)).await;
        let size = size.with_context(|| format!("no answer to {} bytes within {limit:?}", payload.len()))?;
        let size = size.context("receive")?;
        let at =
            buffer[..size].iter().position(|byte| *byte == SEPARATOR).context("an answer without a name")?;
        ensure!(&buffer[at + 1..size] == payload, "other bytes came back than were sent");
        String::from_utf8(buffer[..at].to_vec()).context("a name that is not text")
    }
}

/// `count` exchanges of `size` bytes from `ns` to `to`, each from a socket of its own; answers by target.
pub fn exchanges(ns: &NetNs, to: SocketAddr, count: usize, size: usize) -> Result<BTreeMap<String, u64>> {
    ns.block_on(|| async move {
        let mut spread = BTreeMap::new();
        for number in 0..count {
            let mut payload = vec![0x5a; size];
            let mark = (number as u64).to_be_bytes();
            let head = mark.len().min(size);
            payload[..head].copy_from_slice(&mark[..head]);
            let client = UdpClient::new(to).await?;
            let name = client.exchange(&payload, Duration::from_secs(2)).await;
            let name = name.with_context(|| format!("exchange {number} with {to}"))?;
            *spread.entry(name).or_insert(0) += 1;
        }
        Ok(spread)
    })?
}
