//! What the API says, as tables for people.

mod changes;
mod events;
mod flows;
mod status;
mod targets;
mod traffic;

pub(crate) use changes::{applied, state_changed};
pub(crate) use events::{event, event_list};
pub(crate) use flows::flows;
pub(crate) use status::status;
pub(crate) use targets::{target, targets};
pub(crate) use traffic::{drops, services};
