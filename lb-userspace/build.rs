//! Puts the kernel object where `dataplane::object` embeds it.

use std::{env, fs, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    match copy_object() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn copy_object() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).ok_or(format!("cargo sets no {name}"));
    let object = folder("CARGO_MANIFEST_DIR")?.join("../target/bpf/portside.o");
    // Also when it is missing: cargo then runs this again as soon as it is there.
    println!("cargo::rerun-if-changed={}", object.display());
    let copy = folder("OUT_DIR")?.join("portside.o");
    match fs::copy(&object, copy) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err("the kernel object is not built yet: run `cargo xtask build`".to_owned())
        }
        Err(error) => Err(format!("cannot copy {}: {error}; run `cargo xtask build`", object.display())),
    }
}
