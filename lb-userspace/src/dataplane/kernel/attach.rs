//! Putting the program behind the interfaces' links, which is the only switch between versions.

use std::{collections::BTreeMap, io, os::fd::AsFd};

use tracing::{info, warn};

use super::{
    KernelDataPlane, OpenError, netlink,
    pins::{self, Pins},
    preflight, sys, tracepoints,
};
use crate::config::model::XdpMode;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of `if_link.h`.
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// In the interface's driver.
    Native,
    /// In the kernel's generic hook, after it has made a socket buffer: slower.
    Generic,
}

impl AttachMode {
    /// As the configuration and status name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn flags(self) -> u32 {
        match self {
            Self::Native => DRV_MODE,
            Self::Generic => SKB_MODE,
        }
    }
}

/// The program on one interface, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Where the program runs.
    pub mode: AttachMode,
    /// The kernel's number for the program.
    pub program_id: u32,
    /// Hash of its instructions, in hexadecimal.
    pub program_tag: String,
    /// Whether the link was there before this agent, so that no packet was missed.
    pub adopted: bool,
}

impl KernelDataPlane {
    /// Puts the opened program behind every interface's link and drops what it replaces. An interface that had the
    /// program before misses no packet. Once it has succeeded, repeating it is [`Self::ensure_attached`].
    ///
    /// # Errors
    /// [`OpenError`]; the interfaces that did not fail have the program then, and what it replaces stays until the call is
    /// repeated.
    pub fn attach(&mut self) -> Result<&[Attachment], OpenError> {
        self.ensure_attached()?;
        if !self.settled {
            self.promote_next()?;
            self.drop_other_interfaces()?;
            self.attach_tracepoints();
            self.drop_other_versions()?;
            self.settled = true;
        }
        Ok(&self.attachments)
    }

    /// Looks that every interface still has the program, and attaches it again where the interface was made anew or the
    /// program was taken off.
    ///
    /// # Errors
    /// The first failure; the other interfaces are seen to all the same.
    pub fn ensure_attached(&mut self) -> Result<&[Attachment], OpenError> {
        let mut attachments = Vec::new();
        let mut failure = None;
        for interface in &self.options.interfaces {
            match preflight::interface(interface).and_then(|ifindex| self.attach_one(interface, ifindex)) {
                Ok(attachment) => attachments.push(attachment),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        self.attachments = attachments;
        for place in 0..self.attachments.len() {
            self.watch_transmit(self.attachments[place].ifindex);
        }
        failure.map_or(Ok(&self.attachments), Err)
    }

    fn attach_one(&self, interface: &str, ifindex: u32) -> Result<Attachment, OpenError> {
        let path = self.pins.link(interface);
        let mut adopted = false;
        if let Ok(link) = sys::open_pin(&path) {
            let info = sys::xdp_link_info(link.as_fd()).map_err(inspect(interface))?;
            let programs = netlink::xdp_programs(ifindex).map_err(inspect(interface))?;
            match live_mode(&programs, info.0).filter(|_| info.1 == ifindex) {
                Some(mode) if self.permits(mode) => {
                    if info.0 != self.programs.entry()?.info.id {
                        sys::link_update(link.as_fd(), self.programs.entry()?.fd())
                            .map_err(OpenError::system(format!("replace the program of {interface}")))?;
                    }
                    adopted = true;
                }
                live => {
                    match live {
                        Some(mode) => warn!(
                            interface,
                            "the program ran in {} mode, which the configuration does not permit: attaching it anew",
                            mode.name()
                        ),
                        None => warn!(interface, "the interface was made anew: attaching the program again"),
                    }
                    // Detaching what is gone already fails, which is as good.
                    let _ = sys::link_detach(link.as_fd());
                    pins::remove_pin(&path)?;
                }
            }
        }
        if !adopted {
            preflight::no_foreign_program(&self.pins, interface, ifindex)?;
            self.create_link(interface, ifindex)?;
        }
        self.read_back(interface, ifindex, adopted)
    }

    fn permits(&self, mode: AttachMode) -> bool {
        match self.options.xdp_mode {
            XdpMode::Native => mode == AttachMode::Native,
            XdpMode::Generic => mode == AttachMode::Generic,
            XdpMode::NativeOrGeneric => true,
        }
    }

    fn create_link(&self, interface: &str, ifindex: u32) -> Result<(), OpenError> {
        let program = self.programs.entry()?;
        let create = |mode: AttachMode| sys::xdp_link_create(program.fd(), ifindex, mode.flags());
        let refused = |mode: AttachMode, advice| {
            move |reason| OpenError::ModeUnsupported {
                interface: interface.to_owned(),
                mode: mode.name(),
                reason,
                advice,
            }
        };
        let link = match self.options.xdp_mode {
            XdpMode::Native => create(AttachMode::Native).map_err(refused(
                AttachMode::Native,
                "use an interface whose driver supports XDP (and an MTU that it supports with XDP), or permit the \
                 slower way with `xdp: native-or-generic`",
            ))?,
            XdpMode::Generic => create(AttachMode::Generic)
                .map_err(refused(AttachMode::Generic, "no interface is known that refuses this; see the kernel's log"))?,
            XdpMode::NativeOrGeneric => match create(AttachMode::Native) {
                Ok(link) => link,
                Err(reason) => {
                    warn!(
                        interface,
                        %reason,
                        "the driver does not take the program: falling back to the slower generic mode, as permitted"
                    );
                    create(AttachMode::Generic).map_err(refused(
                        AttachMode::Generic,
                        "the driver refused it too; use another interface",
                    ))?
                }
            },
        };
        let path = self.pins.link(interface);
        sys::pin(link.as_fd(), &path).map_err(OpenError::system(format!("pin {}", path.display())))
    }

    /// What the kernel says is attached.
    fn read_back(&self, interface: &str, ifindex: u32, adopted: bool) -> Result<Attachment, OpenError> {
        let entry = &self.programs.entry()?.info;
        let programs = netlink::xdp_programs(ifindex).map_err(inspect(interface))?;
        let mode = live_mode(&programs, entry.id).ok_or_else(|| OpenError::System {
            what: format!("attach the program to {interface}"),
            source: io::Error::other("the kernel does not show it on the interface"),
        })?;
        let attachment = Attachment {
            interface: interface.to_owned(),
            ifindex,
            mode,
            program_id: entry.id,
            program_tag: entry.tag.clone(),
            adopted,
        };
        if !self.attachments.contains(&attachment) {
            info!(
                interface,
                mode = mode.name(),
                program = entry.id,
                tag = entry.tag,
                adopted,
                "program attached"
            );
        }
        Ok(attachment)
    }

    fn drop_other_interfaces(&self) -> Result<(), OpenError> {
        for interface in self.pins.linked_interfaces() {
            if !self.options.interfaces.contains(&interface) {
                detach(&self.pins, &interface)?;
                info!(interface, "program taken off: the interface is no longer configured");
            }
        }
        Ok(())
    }

    /// Counting failures after the verdict is worth having but not worth standing still for.
    fn attach_tracepoints(&mut self) {
        let mut missing = BTreeMap::new();
        for (program, tracepoint) in lb_common::abi::program::TRACEPOINTS {
            let Some(loaded) = self.programs.get(program) else { continue };
            let path = self.pins.tracepoints().join(program);
            if let Err(error) = tracepoints::attach(loaded, tracepoint, &path) {
                missing.insert(tracepoint, error.to_string());
            }
        }
        for (tracepoint, reason) in missing {
            let text = format!("transmit failures seen by xdp:{tracepoint} are not counted: {reason}");
            warn!("{text}");
            self.warnings.push(text);
        }
    }

    fn drop_other_versions(&self) -> Result<(), OpenError> {
        // A processor may still be in the replaced program, and removing the pin of its program array empties that.
        sys::grace_period();
        for version in pins::names(&self.pins.programs()) {
            let folder = self.pins.programs().join(version);
            if folder != self.programs.folder {
                pins::remove_folder(&folder)?;
            }
        }
        Ok(())
    }
}

/// Takes the program off an interface and removes the pin.
pub(super) fn detach(pins: &Pins, interface: &str) -> Result<(), OpenError> {
    let path = pins.link(interface);
    if let Ok(link) = sys::open_pin(&path) {
        // A link whose interface is gone cannot be detached, and need not be.
        let _ = sys::link_detach(link.as_fd());
    }
    pins::remove_pin(&path)
}

fn live_mode(programs: &netlink::XdpPrograms, id: u32) -> Option<AttachMode> {
    if programs.native == Some(id) {
        Some(AttachMode::Native)
    } else if programs.generic == Some(id) {
        Some(AttachMode::Generic)
    } else {
        None
    }
}

fn inspect(interface: &str) -> impl FnOnce(io::Error) -> OpenError {
    OpenError::system(format!("ask which program {interface} carries"))
}
