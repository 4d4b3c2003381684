//! The core driven by events against a model of the kernel's maps.

mod fixture;
mod model;
mod sequences;
