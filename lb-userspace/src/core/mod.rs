//! The pure control core: `(state, event) → (state, commands)`, no IO, time passed in.
//!
//! [`Core::handle`] takes what happened and answers what is to be done. What the kernel should hold is an [`Image`],
//! made from the configuration and what is known of targets and network; the difference from what it holds
//! becomes an ordered list of writes.
//!
//! - [`maglev`]: lookup tables. [`health`]: a target's verdict.
//! - `rows`: which row a service, target or route has, stable while flows may name it.
//! - `fit`: whether a configuration fits the maps. `desired`: from state to image. `diff`: from two images to writes.
//! - `apply`, `network`, `drain`, `drift`: what the events do.

mod apply;
mod desired;
mod diff;
mod drain;
mod drift;
mod event;
mod fit;
pub mod health;
mod image;
pub mod maglev;
mod network;
mod rows;
mod saved;
mod state;
mod target;
mod view;

#[cfg(test)]
mod tests;

pub use self::{
    event::{Checks, Command, Difference, Event, Facts, Hop, Kernel, Notice, Sizes, Start},
    image::{Image, Policy},
    rows::{Held, Rows},
    saved::{SavedAdmin, SavedRows},
    state::Core,
    target::{Admin, DrainEnd, TargetState},
    view::{GroupState, WhyNot},
};
