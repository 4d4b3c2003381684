//! The host-compiled packet path and the kernel's program side by side: every packet goes through both, and both must
//! agree on everything.

use std::{fmt::Debug, hash::Hash};

use anyhow::{Context, Result, ensure};
use lb_common::{
    abi::{Counters, Flow, FlowKey, Handshake},
    addr::{Ip, V4, V6},
    memory::{Bytes, Memory},
    pipeline,
    tables::Tables,
    verdict::Verdict,
};

use super::{INGRESS, Program, Sizes, action_of};

/// Both sides, from one environment.
pub struct Pair {
    /// The environment, and the host's side. After changing what the agent writes, call [`Self::configure`].
    pub memory: Memory,
    /// The kernel's side.
    pub program: Program,
    sizes: Sizes,
    counts: Vec<u64>,
}

impl Pair {
    /// Loads the program with its clock and the memory's at `clock`.
    ///
    /// # Errors
    /// As [`Program::load`].
    pub fn load(sizes: Sizes, clock: u32) -> Result<Self> {
        let memory = sizes.memory();
        memory.clock.set(clock);
        let program = Program::load(sizes, clock)?;
        let counts = program.verdicts()?;
        Ok(Self { memory, program, sizes, counts })
    }

    /// Starts from an environment, the kernel's tables empty.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(&mut self, memory: Memory) -> Result<()> {
        self.memory = memory;
        self.program.reset()?;
        self.counts = self.program.verdicts()?;
        self.configure()
    }

    /// Takes the memory's configuration over to the kernel.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn configure(&self) -> Result<()> {
        self.program.configure(&self.memory)
    }

    /// Runs one frame through both.
    ///
    /// # Errors
    /// Verdict, action or bytes differ.
    pub fn step(&mut self, frame: &[u8]) -> Result<(Verdict, Vec<u8>)> {
        let mut packet = Bytes { bytes: frame.to_vec(), ingress: INGRESS };
        let action = pipeline::run(&mut packet, &self.memory);
        let (verdict, output) = self.program.verdict(frame, &mut self.counts)?;
        ensure!(
            verdict == action.verdict,
            "the kernel says {verdict:?}, the host {:?}, of {frame:02x?}",
            action.verdict
        );
        ensure!(
            output.action == action_of(verdict),
            "{verdict:?} came to action {} of {frame:02x?}",
            output.action
        );
        ensure!(
            output.bytes == packet.bytes,
            "after {verdict:?} of {frame:02x?}\nthe kernel has {:02x?}\n  the host has {:02x?}",
            output.bytes,
            packet.bytes
        );
        Ok((verdict, packet.bytes))
    }

    /// Lets so many ticks pass, by making everything in the tables so much older.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn age(&mut self, ticks: u32) -> Result<()> {
        for (key, mut flow) in self.memory.v4.flows() {
            flow.seen = flow.seen.wrapping_sub(ticks);
            self.memory.v4.put_flow(key, flow);
        }
        for (key, mut flow) in self.memory.v6.flows() {
            flow.seen = flow.seen.wrapping_sub(ticks);
            self.memory.v6.put_flow(key, flow);
        }
        self.age_family::<V4>(ticks)?;
        self.age_family::<V6>(ticks)
    }

    fn age_family<A: Ip + Hash>(&self, ticks: u32) -> Result<()>
    where
        Memory: Tables<A>,
    {
        for (key, mut flow) in self.program.flows::<A>()? {
            flow.seen = flow.seen.wrapping_sub(ticks);
            self.program.map(lb_common::abi::map::FLOWS[A::IS_V6 as usize]).set(key, flow)?;
        }
        self.edit_handshakes::<A>(|slot| slot.seen = slot.seen.wrapping_sub(ticks))
    }

    /// Changes every handshake slot alike on both sides.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn edit_handshakes<A: Ip + Hash>(&self, edit: impl Fn(&mut Handshake<A>)) -> Result<()>
    where
        Memory: Tables<A>,
    {
        for slot in 0..self.sizes.handshakes {
            if let Some(slot) = Tables::<A>::handshake(&self.memory, slot) {
                edit(slot);
            }
        }
        let mut slots = self.program.handshakes::<A>()?;
        slots.iter_mut().for_each(edit);
        Ok(self.program.map(lb_common::abi::map::HANDSHAKES[A::IS_V6 as usize]).set_all(&slots)?)
    }

    /// Runs the sweep on both sides.
    ///
    /// # Errors
    /// What the kernel says to the run.
    pub fn sweep(&self) -> Result<()> {
        pipeline::reclaim::sweep::<V4, _>(&self.memory, lb_common::abi::SWEEP_STEP);
        pipeline::reclaim::sweep::<V6, _>(&self.memory, lb_common::abi::SWEEP_STEP);
        Ok(self.program.sweep()?)
    }

    /// Holds flow tables, handshakes and counters of both sides against each other.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&mut self) -> Result<()> {
        let flows = self.memory.v4.flows();
        same_flows(flows, self.program.flows::<V4>()?).context("flows of IPv4")?;
        let flows = self.memory.v6.flows();
        same_flows(flows, self.program.flows::<V6>()?).context("flows of IPv6")?;
        self.compare_handshakes::<V4>().context("handshakes of IPv4")?;
        self.compare_handshakes::<V6>().context("handshakes of IPv6")?;
        let counts = self.memory.verdicts();
        for (verdict, kernel) in Verdict::ALL.into_iter().zip(self.program.verdicts()?) {
            let host = counts.get(&verdict).copied().unwrap_or(0);
            ensure!(kernel == host, "{verdict:?}: the kernel counts {kernel}, the host {host}");
        }
        let rows = self.program.service_counters()?;
        same_counters("service", rows, |row| self.memory.service_counters(row))?;
        let rows = self.program.target_counters()?;
        same_counters("target", rows, |row| self.memory.target_counters(row))
    }

    fn compare_handshakes<A: Ip + Hash>(&self) -> Result<()>
    where
        Memory: Tables<A>,
    {
        for (row, kernel) in self.program.handshakes::<A>()?.into_iter().enumerate() {
            let host = Tables::<A>::handshake(&self.memory, row as u32).context("as many rows")?;
            ensure!(kernel == *host, "row {row}: the kernel has {kernel:?}, the host {host:?}");
        }
        Ok(())
    }
}

fn same_flows<A: Ip + Hash + Debug>(
    host: Vec<(FlowKey<A>, Flow<A>)>,
    kernel: Vec<(FlowKey<A>, Flow<A>)>,
) -> Result<()> {
    ensure!(host.len() == kernel.len(), "the kernel has {}, the host {}", kernel.len(), host.len());
    let host: std::collections::HashMap<_, _> = host.into_iter().collect();
    for (key, flow) in kernel {
        let other = host.get(&key);
        ensure!(other == Some(&flow), "{key:?}: the kernel has {flow:?}, the host {other:?}");
    }
    Ok(())
}

fn same_counters(what: &str, kernel: Vec<Counters>, host: impl Fn(u32) -> Counters) -> Result<()> {
    for (row, kernel) in kernel.into_iter().enumerate() {
        let host = host(row as u32);
        ensure!(kernel == host, "{what} {row}: the kernel counts {kernel:?}, the host {host:?}");
    }
    Ok(())
}
