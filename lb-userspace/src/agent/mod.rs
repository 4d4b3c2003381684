//! The tasks of `lbd`.
//!
//! One task, the `engine`, owns the control core and the data plane: whatever happens (a check's result, a change of
//! the network, a request, a second passed) is an event to the core, and the core's commands are carried out before
//! the next event is looked at. Everything else only brings events: the prober, the watch of the network, the API's
//! server, signals.
//!
//! - [`run`]: parse, build, serve, drain. `start`: from the state folder and the kernel to a running engine.
//! - `engine`, `perform`, `apply`, `checks`, `network`, `vips`: the engine and what it does.
//! - `backend`, `views`, `flows`: what the API asks, and the answers.

mod apply;
mod backend;
mod changes;
mod checks;
mod engine;
mod error;
mod events;
mod flows;
mod lock;
mod network;
mod perform;
mod run;
mod start;
mod unload;
mod views;
mod vips;

pub use self::{
    error::AgentError,
    run::{Options, run},
    unload::{UnloadOptions, unload},
};
