//! The packet: an `XdpContext` read and written through one checked accessor.

use aya_ebpf::{helpers::bpf_xdp_adjust_tail, programs::XdpContext};
use lb_common::wire::{Packet, Wire};

/// A frame under treatment by an XDP program.
pub struct Frame<'a> {
    context: &'a XdpContext,
}

impl<'a> Frame<'a> {
    /// The program's frame.
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }

    /// The one bounds check: a pointer to a `T` that lies within the frame. Fetched from the context at each call, since the
    /// frame moves when it is resized.
    #[inline(always)]
    fn at<T: Wire>(&self, offset: usize) -> Option<*mut T> {
        let start = self.context.data() + offset;
        if start + size_of::<T>() > self.context.data_end() {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.context.data_end() - self.context.data()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is the one that the kernel gave the program.
        unsafe { (*self.context.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` checked the bounds, any bytes are a `T`, and BPF loads need no alignment here: the kernel sets
        // strict alignment only on machines that have no unaligned access.
        self.at(offset).map(|at| unsafe { *at })
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as for `load`.
        self.at(offset).map(|at| unsafe { *at = value })
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        let delta = length as i32 - self.length() as i32;
        // SAFETY: the context is the one that the kernel gave the program; no pointer into the frame is kept across.
        let result = unsafe { bpf_xdp_adjust_tail(self.context.ctx, delta) };
        (result == 0).then_some(())
    }
}
