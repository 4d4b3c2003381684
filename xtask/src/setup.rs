//! `cargo xtask setup`: makes a fresh machine ready, and does nothing on a ready one.

use anyhow::Result;

use crate::{
    lock, packages, process,
    toolchain::{self, Toolchain},
    workspace,
};

pub(crate) fn run() -> Result<()> {
    let toolchain = ensure()?;
    process::step("Ready");
    process::note(&format!("BPF compiler: {} ({})", toolchain.rustc.display(), toolchain.description));
    process::note(&format!("BPF linker:   {}", toolchain.linker.display()));
    Ok(())
}

/// Makes what is missing; returns the BPF toolchain.
pub(crate) fn ensure() -> Result<Toolchain> {
    let _lock = lock::acquire(&workspace::toolchain())?;
    // First, because a C compiler is needed to build the linker.
    packages::ensure()?;
    toolchain::ensure()
}
