//! The listeners: a Unix socket and loopback TCP.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// The socket's mode: its owner and its group may talk to the agent.
const SOCKET_MODE: u32 = 0o660;

/// A bound listener.
#[derive(Debug)]
pub enum Endpoint {
    /// Reads and writes.
    Unix(UnixEndpoint),
    /// Only reads.
    Tcp(TcpListener),
}

/// A Unix socket whose file is removed with it.
#[derive(Debug)]
pub struct UnixEndpoint {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode: a file put in its place by somebody else is left alone.
    file: (u64, u64),
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A running agent answers on the socket.
    #[error(
        "another lbd serves {}: stop that one first, or give this one another socket with --socket",
        path.display()
    )]
    Served {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has the socket's name.
    #[error("{} exists and is not a socket: remove it, or give another path with --socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// TCP requests are not authenticated, so only this host may make them.
    #[error(
        "{address} is not a loopback address: the API is read-only and without authentication over TCP; \
         listen on 127.0.0.1 or ::1"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The system refused.
    #[error("cannot listen on {what}: {source}{}", hint(source))]
    Io {
        /// The socket's path or the address.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run lbd as root, or give a path you may write to with --socket",
        io::ErrorKind::AddrInUse => "; another process listens there: stop it, or choose another port",
        io::ErrorKind::InvalidInput => "; a socket's path may be 107 bytes long at most",
        _ => "",
    }
}

impl Endpoint {
    /// Listens on a Unix socket of mode 0660. Makes its folder if there is none; a socket file that nobody
    /// answers on is replaced.
    pub fn unix(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { what: path.display().to_string(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        // The kernel takes the file's mode from the socket, less the umask: it is never wider than this.
        fchmod(&socket, Mode::from_bits_truncate(SOCKET_MODE)).map_err(|errno| failed(errno.into()))?;
        socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        socket.listen(128).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self::Unix(UnixEndpoint {
            listener: UnixListener::from_std(listener).map_err(failed)?,
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        }))
    }

    /// Listens on a loopback address.
    pub async fn tcp(address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback { address });
        }
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| BindError::Io { what: address.to_string(), source })?;
        Ok(Self::Tcp(listener))
    }

    /// The bound TCP address, with the port that the kernel chose if it was 0.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener) => listener.local_addr().ok(),
        }
    }
}

impl Drop for UnixEndpoint {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes a socket file that an agent left behind; leaves everything else.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { what: path.display().to_string(), source };
    let file_type = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !file_type.is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Served { path: path.to_owned() }),
        // Its queue is full: somebody serves it, if slowly.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::Served { path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}
