//! `lbctl`: looks at the agent and steers it.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_userspace::cli::main()
}
