//! The kernel object: entry points, and the one match from verdict to XDP action.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::xdp_action,
        helpers::bpf_redirect,
        macros::{tracepoint, xdp},
        programs::{TracePointContext, XdpContext},
    };
    use aya_log_ebpf::{
        debug, info,
        macro_support::{Level, level_enabled},
    };
    use lb_common::{
        abi::{self, SWEEP_STEP},
        addr::{Ip, V4, V6},
        parse,
        pipeline::{self, Action, Next, admit, reclaim},
        verdict::{Outcome, Verdict},
        wire::Packet as _,
    };
    use lb_ebpf::{
        frame::Frame,
        kernel,
        kernel::Kernel,
        maps::{LOGGED, PROGRAMS},
    };

    /// The entry, attached to interfaces.
    #[xdp]
    fn portside(context: XdpContext) -> u32 {
        match pipeline::receive(&mut Frame::new(&context), &Kernel::new(&context)) {
            Next::Done(action) => end(&context, action),
            Next::Admit4 => tail_call(&context, 0),
            Next::Admit6 => tail_call(&context, 1),
        }
    }

    /// Admission of IPv4.
    #[xdp]
    fn portside_admit4(context: XdpContext) -> u32 {
        end(&context, admit::admit::<V4, _, _>(&mut Frame::new(&context), &Kernel::new(&context)))
    }

    /// Admission of IPv6.
    #[xdp]
    fn portside_admit6(context: XdpContext) -> u32 {
        end(&context, admit::admit::<V6, _, _>(&mut Frame::new(&context), &Kernel::new(&context)))
    }

    /// The agent's housekeeping: run by it, never attached.
    #[xdp]
    fn portside_sweep(context: XdpContext) -> u32 {
        let tables = Kernel::new(&context);
        reclaim::sweep::<V4, _>(&tables, SWEEP_STEP);
        reclaim::sweep::<V6, _>(&tables, SWEEP_STEP);
        xdp_action::XDP_DROP
    }

    #[inline(always)]
    fn tail_call(context: &XdpContext, program: u32) -> u32 {
        // SAFETY: the map holds XDP programs alone.
        unsafe { PROGRAMS.tail_call(context, program) };
        // Reached only if the agent has emptied the map: the packet is not lost without a trace.
        lb_common::tables::Common::count(&Kernel::new(context), Verdict::DropInternal);
        xdp_action::XDP_ABORTED
    }

    /// Where a verdict becomes an action: at once, or by way of the logging program, which has a stack of its own. The
    /// verifier takes the second way away unless the agent asked for it.
    #[inline(always)]
    fn end(context: &XdpContext, action: Action) -> u32 {
        if level_enabled(Level::Info)
            && let Some(logged) = LOGGED.get_ptr_mut(0)
        {
            // SAFETY: this processor's own row, of this program run; the map holds XDP programs alone.
            unsafe {
                *logged = [action.verdict as u32, action.ifindex];
                PROGRAMS.tail_call(context, 2);
            }
        }
        act(action.verdict.outcome(), action.ifindex)
    }

    /// The one match from what happens to a packet to the XDP action.
    #[inline(always)]
    fn act(outcome: Outcome, ifindex: u32) -> u32 {
        match outcome {
            Outcome::Passed => xdp_action::XDP_PASS,
            Outcome::Answered => xdp_action::XDP_TX,
            Outcome::Dropped => xdp_action::XDP_DROP,
            Outcome::Forwarded if ifindex == 0 => xdp_action::XDP_TX,
            // SAFETY: the helper takes numbers alone.
            Outcome::Forwarded => unsafe { bpf_redirect(ifindex, 0) as u32 },
        }
    }

    /// Logs a packet's end, drops at info, the rest at debug, and carries it out.
    #[xdp]
    fn portside_log(context: XdpContext) -> u32 {
        let Some(&[verdict, ifindex]) = LOGGED.get(0) else {
            return xdp_action::XDP_ABORTED;
        };
        let Some(outcome) = outcome(verdict) else {
            return xdp_action::XDP_ABORTED;
        };
        let frame = Frame::new(&context);
        let length = frame.length() as u32;
        let ends = match frame.load::<u16>(12) {
            Some(parse::IPV4) => ends::<V4>(&frame),
            Some(parse::IPV6) => ends::<V6>(&frame),
            _ => None,
        };
        let ([s0, s1, s2, s3], [d0, d1, d2, d3], protocol) = ends.unwrap_or_default();
        let (s0, s1, s2, s3) = (s0.swap_bytes(), s1.swap_bytes(), s2.swap_bytes(), s3.swap_bytes());
        let (d0, d1, d2, d3) = (d0.swap_bytes(), d1.swap_bytes(), d2.swap_bytes(), d3.swap_bytes());
        if matches!(outcome, Outcome::Dropped) {
            info!(
                &context,
                "verdict {} protocol {} length {} from {:x}:{:x}:{:x}:{:x} to {:x}:{:x}:{:x}:{:x}",
                verdict,
                protocol,
                length,
                s0,
                s1,
                s2,
                s3,
                d0,
                d1,
                d2,
                d3
            );
        } else {
            debug!(
                &context,
                "verdict {} protocol {} length {} from {:x}:{:x}:{:x}:{:x} to {:x}:{:x}:{:x}:{:x}",
                verdict,
                protocol,
                length,
                s0,
                s1,
                s2,
                s3,
                d0,
                d1,
                d2,
                d3
            );
        }
        act(outcome, ifindex)
    }

    #[inline(always)]
    fn ends<A: Ip>(frame: &Frame<'_>) -> Option<([u32; 4], [u32; 4], u8)> {
        parse::network::<A>(frame).map(|ip| (ip.src.words(), ip.dst.words(), ip.protocol))
    }

    /// What happens to a packet whose verdict has this number.
    #[inline(always)]
    fn outcome(verdict: u32) -> Option<Outcome> {
        Verdict::ALL.get(verdict as usize).map(|verdict| verdict.outcome())
    }

    /// `xdp:xdp_redirect_err`: a redirect that found no way out.
    #[tracepoint]
    fn portside_redirect_err(context: TracePointContext) -> u32 {
        failed(&context, [24, 16], None)
    }

    /// `xdp:xdp_exception`: a transmit that the driver refused, or an aborted program.
    #[tracepoint]
    fn portside_exception(context: TracePointContext) -> u32 {
        failed(&context, [16, 16], None)
    }

    /// `xdp:xdp_devmap_xmit`: frames of a redirect that the device did not take.
    #[tracepoint]
    fn portside_devmap_xmit(context: TracePointContext) -> u32 {
        failed(&context, [16, 8], Some(20))
    }

    /// `xdp:xdp_bulk_tx`: transmits that the device did not take, of drivers that collect them (veth).
    #[tracepoint]
    fn portside_bulk_tx(context: TracePointContext) -> u32 {
        failed(&context, [8, 8], Some(16))
    }

    /// Counts by the interface that the frames should have left by, or the one they came in by if that is none of the agent's any
    /// more: where both stand in the tracepoint's record, and where the number of frames. The offsets are those of the
    /// event formats in include/trace/events/xdp.h.
    #[inline(always)]
    fn failed(context: &TracePointContext, [to, from]: [usize; 2], frames: Option<usize>) -> u32 {
        // SAFETY: all fields lie within the events' records.
        let (to, from, frames) = unsafe {
            let (Ok(to), Ok(from)) = (context.read_at::<u32>(to), context.read_at::<u32>(from)) else {
                return 0;
            };
            let frames = match frames {
                Some(offset) => context.read_at::<u32>(offset).unwrap_or(0),
                None => 1,
            };
            (to, from, frames)
        };
        if frames != 0 && !kernel::count_transmit_failed(to, frames) {
            kernel::count_transmit_failed(from, frames);
        }
        0
    }

    /// The layouts that this object was built with; read by the agent before it adopts anything.
    #[unsafe(no_mangle)]
    static PORTSIDE_ABI: [u32; 2] = [abi::VERSION, abi::FLOW_VERSION];

    /// A reachable panic is an endless loop, which the verifier rejects.
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// Some kernel helpers are for GPL-compatible programs alone.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
