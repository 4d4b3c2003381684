//! What can keep the data plane from starting, with what to do about it.

use std::{io, path::PathBuf};

use crate::dataplane::WriteError;

/// Why the kernel's data plane could not be opened, attached or unloaded. The text is meant for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process may not load programs.
    #[error(
        "not privileged: {} missing; run lbd as root, or grant it the capabilities CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON",
        missing.join(" and ")
    )]
    NotPrivileged {
        /// Names of the capabilities that are missing.
        missing: Vec<&'static str>,
    },
    /// The kernel cannot carry the program.
    #[error(
        "the kernel is {release}, which is too old: Portside needs Linux 6.1 or newer; boot a newer kernel"
    )]
    KernelTooOld {
        /// As `uname -r` says.
        release: String,
    },
    /// Pins need a BPF file system.
    #[error(
        "{} is not on a BPF file system, which keeps the data plane alive without the agent; mount one: \
         mount -t bpf bpf {}", pin_dir.display(), mount.display()
    )]
    NoBpfFileSystem {
        /// Where the pins are to be.
        pin_dir: PathBuf,
        /// Where to mount one.
        mount: PathBuf,
    },
    /// An interface of the configuration is not there.
    #[error(
        "there is no interface {name}; correct `interfaces` in the configuration (`ip link` lists what there is)"
    )]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// Somebody else's program has the interface.
    #[error(
        "interface {interface} already carries an XDP program that is not this Portside's: id {id}, name {name:?}; \
         {advice}"
    )]
    ForeignProgram {
        /// The interface.
        interface: String,
        /// The program's id.
        id: u32,
        /// The program's name, if the kernel told it.
        name: String,
        /// How to be rid of it.
        advice: String,
    },
    /// Another process has these pins open.
    #[error(
        "another agent is at work on {}, in another network namespace; stop it first, or give this one a pin directory \
         of its own",
        pin_dir.display()
    )]
    InUse {
        /// The pins meant.
        pin_dir: PathBuf,
    },
    /// The interface's driver takes no program in the wanted mode.
    #[error("interface {interface} does not take the program in {mode} mode: {reason}; {advice}")]
    ModeUnsupported {
        /// The interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// The system's reason.
        reason: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// The embedded kernel object is not one.
    #[error("the kernel object is damaged: {0}; build lbd again")]
    Object(String),
    /// The kernel refused a program.
    #[error("the kernel refused program {program}: {reason}")]
    Load {
        /// Its name.
        program: String,
        /// The system's reason and the verifier's log.
        reason: String,
    },
    /// A map could not be made or read.
    #[error(transparent)]
    Map(#[from] WriteError),
    /// Anything else that the system refused.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
