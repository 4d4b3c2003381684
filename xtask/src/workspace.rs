//! Where things are: the workspace, its target folder and cargo.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder that holds the workspace's manifest.
pub(crate) fn root() -> PathBuf {
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Where cargo puts the binaries.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The kernel object. Its place is fixed: the build script of `lb-userspace` embeds it from there.
pub(crate) fn object() -> PathBuf {
    root().join("target/bpf/portside.o")
}

/// The folder of everything that set-up makes: compiler, linker, tools.
///
/// `PORTSIDE_BPF_TOOLCHAIN` names another one, so that several working copies can share it.
pub(crate) fn toolchain() -> PathBuf {
    env::var_os("PORTSIDE_BPF_TOOLCHAIN")
        .map_or_else(|| root().join("target/bpf-toolchain"), |dir| root().join(dir))
}

/// A call of the cargo that runs this program, from the workspace's root.
pub(crate) fn cargo() -> Command {
    cargo_at(&env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from))
}

/// A call of this cargo, from the workspace's root.
pub(crate) fn cargo_at(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    // `cargo run` describes xtask in these. Build scripts that watch them would run again each time cargo is called
    // by xtask after a plain cargo, and the other way round.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|start| text.starts_with(start))
        {
            command.env_remove(&name);
        }
    }
    command
}
