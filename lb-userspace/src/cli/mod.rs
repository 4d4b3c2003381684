//! `lbctl`'s commands and tables.

mod args;
mod commands;
mod error;
mod output;
mod table;
mod units;
mod views;
mod watch;

use std::process::ExitCode;

pub use args::{Cli, Color, Command, DEFAULT_SOCKET, FlowsArgs, Format, Global, TargetName, Watch};
use clap::Parser as _;

/// Runs `lbctl` with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::set_colors(cli.global.color);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::remark(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                output::remark(message.trim_end());
            }
            failure.exit_code()
        }
    }
}
