//! Running the program's own housekeeping.

use lb_common::abi::{SWEEP_STEP, program};

use super::{KernelDataPlane, sys};
use crate::dataplane::WriteError;

/// The kernel wants at least an Ethernet header.
const PACKET: [u8; 64] = [0; 64];
/// Runs in one call: between calls a signal can be answered.
const RUNS: u32 = 1024;

impl KernelDataPlane {
    /// Examines every place of the rings once.
    pub(super) fn run_sweep(&self) -> Result<(), WriteError> {
        let what = || format!("run program {}", program::SWEEP);
        let sweep = self
            .programs
            .get(program::SWEEP)
            .ok_or_else(|| WriteError { what: what(), reason: "the kernel object has none".to_owned() })?;
        let mut left = self.meta.flows.div_ceil(SWEEP_STEP);
        while left > 0 {
            let runs = left.min(RUNS);
            match sys::test_run(sweep.fd(), &PACKET, runs) {
                Ok(_) => left -= runs,
                // A signal; what was swept before it is swept again, which does no harm.
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(WriteError { what: what(), reason: error.to_string() }),
            }
        }
        Ok(())
    }
}
