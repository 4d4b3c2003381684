//! `cargo xtask`: what cargo cannot do by itself. Every command sets up and builds what it needs.

mod apt;
mod artifacts;
mod build;
mod compiler;
mod demo;
mod fuzz;
mod lint;
mod load;
mod lock;
mod packages;
mod privilege;
mod process;
mod setup;
mod suites;
mod test;
mod toolchain;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Set up, build, run and check Portside")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make this machine ready: the BPF compiler and linker, and the programs that tests and demo use
    Setup,
    /// Build the kernel object and both binaries
    Build {
        /// Build the kernel object only
        #[arg(long)]
        object: bool,
        #[command(flatten)]
        profile: Profile,
    },
    /// Build, then run the agent on an interface
    Load {
        /// The interface whose packets Portside takes
        #[arg(long, value_name = "IF")]
        interface: String,
        /// The configuration of the first start
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        profile: Profile,
    },
    /// Build, then show Portside at work on a network of its own, with real servers and clients
    Demo {
        /// Leave everything running at the end, and say how to play with it, until Ctrl-C
        #[arg(long)]
        keep: bool,
        /// Write what is shown to this file too; a name that ends in .svg makes it a picture
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        #[command(flatten)]
        profile: Profile,
    },
    /// Build, then run every test there is
    Test(test::Options),
    /// Run the fuzz targets: their corpus, then a search for new inputs
    Fuzz(fuzz::Options),
    /// Check format, lints, documentation and licences
    Lint,
}

#[derive(clap::Args, Clone, Copy)]
struct Profile {
    /// Build the binaries without optimisation; the kernel object is always optimised
    #[arg(long)]
    debug: bool,
}

impl Profile {
    fn build(self) -> build::Profile {
        if self.debug { build::Profile::Debug } else { build::Profile::Release }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Setup => setup::run(),
        Task::Build { object: true, .. } => build::object(),
        Task::Build { object: false, profile } => build::run(profile.build()).map(drop),
        Task::Load { interface, config, profile } => {
            load::run(&interface, config.as_deref(), profile.build())
        }
        Task::Demo { keep, record, profile } => demo::run(keep, record.as_deref(), profile.build()),
        Task::Test(options) => test::run(&options),
        Task::Fuzz(options) => fuzz::command(&options),
        Task::Lint => lint::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", console::style("error:").red().bold().for_stderr());
            ExitCode::FAILURE
        }
    }
}
