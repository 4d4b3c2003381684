//! VIPs on the first interface: put, announced, taken off.

use std::{collections::BTreeSet, net::IpAddr};

use crate::net::{Announcement, NetState, Placement, Vips, announce};

/// Keeps the VIPs on an interface.
#[derive(Debug)]
pub(super) struct VipKeeper {
    vips: Vips,
    wanted: BTreeSet<IpAddr>,
    announcements: Vec<Announcement>,
    /// What is wrong, in whole sentences.
    pub(super) warnings: Vec<String>,
}

impl VipKeeper {
    pub(super) fn new(vips: Vips) -> Self {
        Self { vips, wanted: BTreeSet::new(), announcements: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn want(&mut self, vips: BTreeSet<IpAddr>) {
        self.wanted = vips;
    }

    /// Puts what is missing on the interface, announces it, and takes off what is ours and no longer wanted. Repeating
    /// it changes nothing; `again` announces all of them in any case.
    pub(super) async fn keep(&mut self, state: &NetState, interface: &str, again: bool) {
        self.warnings.clear();
        let now = match self.vips.addresses().await {
            Ok(now) => now,
            Err(error) => {
                return self.warnings.push(format!("the VIPs on this host cannot be read: {error}"));
            }
        };
        let index = state.interface_named(interface).map(|found| (found.index, found.mac));
        for vip in now.ours() {
            let here = index.is_some_and(|(index, _)| index == vip.ifindex);
            if (!here || !self.wanted.contains(&vip.address))
                && let Err(error) = self.vips.remove_ours(vip).await
            {
                self.warnings.push(format!("VIP {} cannot be taken off: {error}", vip.address));
            }
        }
        let Some((index, mac)) = index else {
            if !self.wanted.is_empty() {
                self.warnings.push(format!("there is no interface {interface} to put the VIPs on"));
            }
            return;
        };
        let placements = match self.vips.put_all(&now, index, &self.wanted).await {
            Ok(placements) => placements,
            Err(error) => {
                return self.warnings.push(format!("the VIPs on this host cannot be read: {error}"));
            }
        };
        let mut new = Vec::new();
        for (address, placement) in placements {
            match placement {
                Ok(Placement::Added) => new.push(address),
                Ok(Placement::AlreadyOurs) if again => new.push(address),
                Ok(Placement::AlreadyOurs) => {}
                Ok(Placement::Operators { ifindex }) if ifindex == index => {}
                Ok(Placement::Operators { ifindex }) => self.warnings.push(format!(
                    "VIP {address} is on interface {ifindex}, not on {interface}: take it off there, or set \
                     `vips: routed`"
                )),
                Err(error) => {
                    self.warnings.push(format!("VIP {address} cannot be put on {interface}: {error}"));
                }
            }
        }
        if let (Some(mac), false) = (mac, new.is_empty()) {
            match announce(index, mac, &new) {
                Ok(announcement) => self.announcing(announcement),
                Err(error) => self.warnings.push(format!("VIPs on {interface} cannot be announced: {error}")),
            }
        }
    }

    /// Its later rounds go on for two seconds; dropping it would stop them.
    fn announcing(&mut self, announcement: Announcement) {
        if self.announcements.len() == 4 {
            drop(self.announcements.remove(0));
        }
        self.announcements.push(announcement);
    }
}
