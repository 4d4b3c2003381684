//! Why the agent cannot start, or had to stop.

use std::path::PathBuf;

use crate::{
    api::server::BindError,
    config::{Faults, state::StateError},
    dataplane::{WriteError, kernel::OpenError},
    net::{NetlinkError, VipError, ports::PortError},
};

/// Why the agent cannot start, or had to stop. The text is meant for the operator.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent has the network namespace.
    #[error(
        "another agent is at work on this host ({holder}); stop it first: one balances for all interfaces"
    )]
    HostInUse {
        /// Who has it.
        holder: String,
    },
    /// Another agent has the state folder.
    #[error(
        "another agent is at work with the state folder {} ({holder}), in another network namespace; stop it first, or \
         give this one a folder of its own with --state-dir",
        folder.display()
    )]
    StateInUse {
        /// The folder.
        folder: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// There is nothing to run.
    #[error(
        "{} holds no configuration yet: name a file with --config for the first start", folder.display()
    )]
    NoConfiguration {
        /// The state folder.
        folder: PathBuf,
    },
    /// The configuration is faulty.
    #[error("{faults}")]
    Faulty {
        /// What is wrong with it, one fault a line.
        faults: Faults,
    },
    /// The configuration is sound, but not for this host.
    #[error("{origin} cannot be used on this host:\n  {}", reasons.join("\n  "))]
    Unusable {
        /// The file or the revision.
        origin: String,
        /// Why not.
        reasons: Vec<String>,
    },
    /// The state folder failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The data plane cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data plane refused something.
    #[error("the kernel's maps: {0}")]
    Write(#[from] WriteError),
    /// The API cannot be served.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The kernel's network configuration cannot be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A VIP cannot be removed.
    #[error(transparent)]
    Vip(#[from] VipError),
    /// The host's ports cannot be read or reserved.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// A write of the first configuration was refused.
    #[error("the configuration could not be put in force: {0}")]
    NotInForce(String),
    /// Anything else that the system refused.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A task ended that should not have.
    #[error("the {0} ended unexpectedly; this is a bug in Portside")]
    TaskEnded(&'static str),
}

impl AgentError {
    /// The process's exit code: 3 if the host is not fit, 4 if the configuration is faulty, 5 if somebody else is in
    /// the way, 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Faulty { .. } | Self::Unusable { .. } | Self::NoConfiguration { .. } => 4,
            Self::HostInUse { .. }
            | Self::StateInUse { .. }
            | Self::Open(OpenError::InUse { .. } | OpenError::ForeignProgram { .. })
            | Self::Bind(BindError::Served { .. }) => 5,
            Self::Open(
                OpenError::NotPrivileged { .. }
                | OpenError::KernelTooOld { .. }
                | OpenError::NoBpfFileSystem { .. }
                | OpenError::NoInterface { .. }
                | OpenError::ModeUnsupported { .. },
            ) => 3,
            _ => 1,
        }
    }

    pub(super) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
