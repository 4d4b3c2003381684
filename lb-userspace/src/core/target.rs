//! What is known of one target, and what follows for its flows.

use std::{collections::VecDeque, net::SocketAddr};

use jiff::Timestamp;
use lb_common::{
    abi::{self, target_flags},
    addr::{Ip, Port, V4, V6},
};
use serde::{Deserialize, Serialize};

use super::{
    event::Hop,
    health::{Health, Time, Transition, Verdict},
    rows::Held,
    view::WhyNot,
};
use crate::config::model::{EstablishedFlows, OnTargetDown, Target};

/// Changes of verdict kept per target.
const TRANSITIONS: usize = 16;

/// What an operator says of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Admin {
    /// It takes flows if it can.
    Ready {
        /// Since when.
        since: Timestamp,
    },
    /// It takes no new flows.
    Drain {
        /// Since when.
        since: Timestamp,
        /// When the flows left are ended.
        deadline: Timestamp,
        /// How the drain ended, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<DrainEnd>,
    },
    /// It takes no new flows and is not checked.
    Maintenance {
        /// Since when.
        since: Timestamp,
    },
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainEnd {
    /// No flow was left.
    Empty,
    /// The deadline passed.
    Deadline,
}

impl Admin {
    /// Since when.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Ready { since } | Self::Drain { since, .. } | Self::Maintenance { since } => *since,
        }
    }

    /// Whether it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }
}

/// One configured target.
#[derive(Debug, Clone)]
pub struct TargetState {
    /// As configured.
    pub config: Target,
    /// Its row.
    pub held: Held,
    /// Its verdict; `None` where the group has no check, or in maintenance.
    pub health: Option<Health>,
    /// [`super::health::CheckId::incarnation`] of its checks.
    pub life: u64,
    /// What an operator says.
    pub admin: Admin,
    /// The way to it, or why there is none.
    pub hop: Result<Hop, String>,
    /// The last changes of its verdict, oldest first.
    pub transitions: VecDeque<(Time, Transition)>,
}

impl TargetState {
    /// Its own address and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.config.address, self.config.port)
    }

    /// What its checks say; up where there are none.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.health.as_ref().map_or(Verdict::Up, Health::verdict)
    }

    /// Why it takes no new flows by itself, if it does not; an open group gives it some all the same.
    #[must_use]
    pub fn why_not(&self) -> Option<WhyNot> {
        self.barred().or(match self.verdict() {
            Verdict::Up => None,
            Verdict::Down => Some(WhyNot::Down),
            Verdict::Unknown => Some(WhyNot::Checking),
        })
    }

    /// Why it could take no new flows even if it were up.
    #[must_use]
    pub fn barred(&self) -> Option<WhyNot> {
        match (&self.admin, &self.hop) {
            (Admin::Drain { .. }, _) => Some(WhyNot::Draining),
            (Admin::Maintenance { .. }, _) => Some(WhyNot::Maintenance),
            _ if self.config.weight == 0 => Some(WhyNot::Weight),
            (_, Err(reason)) => Some(WhyNot::NextHop(reason.clone())),
            (Admin::Ready { .. }, Ok(_)) => None,
        }
    }

    pub(super) fn remember(&mut self, now: Time, transition: Transition) {
        if self.transitions.len() == TRANSITIONS {
            self.transitions.pop_front();
        }
        self.transitions.push_back((now, transition));
    }

    /// Its row of the targets. `open` says that targets are used as if they were all up.
    pub(super) fn row(&self, policy: OnTargetDown, open: bool) -> abi::Target {
        let down = self.verdict() == Verdict::Down && !open;
        let flags = match self.admin {
            Admin::Drain { ended: Some(DrainEnd::Deadline), .. } => {
                target_flags::END_TCP | target_flags::END_UDP
            }
            Admin::Maintenance { .. } => end_flags(policy),
            _ if down => end_flags(policy),
            _ => 0,
        };
        row(self.address(), self.held.incarnation, flags)
    }
}

/// A row of the targets.
pub(super) fn row(address: SocketAddr, incarnation: u32, flags: u32) -> abi::Target {
    let words = match address {
        SocketAddr::V4(address) => V4::from(*address.ip()).words(),
        SocketAddr::V6(address) => V6::from(*address.ip()).words(),
    };
    abi::Target { address: words, port: Port::new(address.port()), reserved: 0, incarnation, flags }
}

/// What becomes of the flows of a target that is down or gone.
pub(super) fn end_flags(policy: OnTargetDown) -> u32 {
    let flag = |choice, flag| if choice == EstablishedFlows::End { flag } else { 0 };
    flag(policy.tcp, target_flags::END_TCP) | flag(policy.udp, target_flags::END_UDP)
}

/// The name that a target's row has: it stays the same while group, address and port do.
pub(super) fn key(group: &str, address: SocketAddr) -> String {
    format!("{group}/{address}")
}

/// The address in a [`key`].
pub(super) fn address_of(key: &str) -> Option<SocketAddr> {
    key.rsplit_once('/').and_then(|(_, address)| address.parse().ok())
}
