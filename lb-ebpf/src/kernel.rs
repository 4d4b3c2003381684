//! The tables over the maps.

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::lpm_trie::Key,
    helpers::{bpf_ktime_get_coarse_ns, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::XdpContext,
};
use lb_common::{
    abi::{
        ACCESS_SERVICE_BITS, ALLOW, AccessKey, Control, Counters, Flow, FlowKey, Handshake, NONE, NextHop,
        RingSlot, Service, ServiceKey, TCP, TICK_SHIFT, Target, cursor,
    },
    addr::{Ip, V4, V6},
    tables::{Common, Refused, Scratch, Tables},
    verdict::Verdict,
};

use crate::{
    atomic,
    maps::{
        ACCESS4, ACCESS6, CONTROL, CURSORS, FILTER, FLOWS4, FLOWS6, HANDSHAKES4, HANDSHAKES6, NEXT_HOPS,
        RING4, RING6, ROUTES4, ROUTES6, SCRATCH4, SCRATCH6, SERVICE_COUNTERS, SERVICES4, SERVICES6, SNAT4,
        SNAT6, TABLES, TARGET_COUNTERS, TARGETS, TRANSMIT_FAILED, VERDICTS,
    },
};

/// The clock stands still at this tick unless it is 0: for runs that must be repeatable. Set before the program is loaded,
/// so that the verifier takes the other branch away.
#[unsafe(no_mangle)]
pub static PORTSIDE_FIXED_CLOCK: Global<u32> = Global::new(0);

/// The maps, as the packet path sees them.
pub struct Kernel<'a> {
    context: &'a XdpContext,
}

impl<'a> Kernel<'a> {
    /// The maps, for a program run on `context`.
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }
}

/// A value of a map as a reference.
///
/// Map memory outlives the program run and is never unmapped; other processors may write it, as
/// `lb_common::tables` says.
#[inline(always)]
fn shared<'t, T>(pointer: Option<*mut T>) -> Option<&'t mut T> {
    // SAFETY: the pointer was returned by a map lookup of this program run, so it is aligned and points to a whole `T`.
    pointer.map(|pointer| unsafe { &mut *pointer })
}

#[inline(always)]
fn add(counter: &mut u64, n: u64) {
    *counter += n;
}

/// Adds to a row of `CURSORS`; the value before.
#[inline(always)]
fn advance(row: u32, by: u32) -> u32 {
    match shared(CURSORS.get_ptr_mut(row)) {
        Some(word) => atomic::add32(word, by),
        None => 0,
    }
}

impl Common for Kernel<'_> {
    #[inline(always)]
    fn now(&self) -> u32 {
        let fixed = PORTSIDE_FIXED_CLOCK.load();
        if fixed != 0 {
            return fixed;
        }
        // SAFETY: the helper takes no argument.
        (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
    }

    #[inline(always)]
    fn control(&self) -> Option<&Control> {
        CONTROL.get(0)
    }

    #[inline(always)]
    fn filter(&self, index: u32) -> u64 {
        FILTER.get(index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn choose(&self, table: u32, slot: u32) -> u32 {
        TABLES.get_value(table, &slot).copied().unwrap_or(NONE)
    }

    #[inline(always)]
    fn target(&self, row: u32) -> Option<&Target> {
        TARGETS.get(row)
    }

    #[inline(always)]
    fn next_hop(&self, row: u32) -> Option<&NextHop> {
        NEXT_HOPS.get(row)
    }

    #[inline(always)]
    fn count(&self, verdict: Verdict) {
        if let Some(counter) = shared(VERDICTS.get_ptr_mut(verdict as u32)) {
            add(counter, 1);
        }
    }

    #[inline(always)]
    fn count_flow(&self, service: u32, target: u32, from_target: bool, bytes: u64) {
        for counters in [SERVICE_COUNTERS.get_ptr_mut(service), TARGET_COUNTERS.get_ptr_mut(target)] {
            if let Some(Counters { packets_in, bytes_in, packets_out, bytes_out, .. }) = shared(counters) {
                if from_target {
                    add(packets_out, 1);
                    add(bytes_out, bytes);
                } else {
                    add(packets_in, 1);
                    add(bytes_in, bytes);
                }
            }
        }
    }

    #[inline(always)]
    fn count_opened(&self, service: u32, target: u32) {
        for counters in [SERVICE_COUNTERS.get_ptr_mut(service), TARGET_COUNTERS.get_ptr_mut(target)] {
            if let Some(counters) = shared(counters) {
                add(&mut counters.opened, 1);
            }
        }
    }

    #[inline(always)]
    fn count_closed(&self, service: u32, target: u32) {
        for counters in [SERVICE_COUNTERS.get_ptr_mut(service), TARGET_COUNTERS.get_ptr_mut(target)] {
            if let Some(counters) = shared(counters) {
                add(&mut counters.closed, 1);
            }
        }
    }

    #[inline(always)]
    fn fetch_or(&self, word: &mut u32, bits: u32) -> u32 {
        atomic::or(word, bits)
    }

    #[inline(always)]
    fn try_lock(&self, word: &mut u32) -> bool {
        atomic::set_if_zero(word, 1)
    }

    #[inline(always)]
    fn unlock(&self, word: &mut u32) {
        atomic::swap(word, 0);
    }
}

/// `BPF_F_CURRENT_NETNS`: the network namespace that the packet is in.
const CURRENT_NETNS: u64 = u64::MAX;

/// Binds one family to its maps.
macro_rules! family {
    ($family:ty, $flows:ident, $handshakes:ident, $ring:ident, $services:ident, $access:ident, $routes:ident, $snat:ident, $scratch:ident,
     $hand:expr, $sweep:expr, $entries:expr, $tuple:expr) => {
        impl Tables<$family> for Kernel<'_> {
            #[inline(always)]
            fn scratch(&self) -> Option<&mut Scratch<$family>> {
                shared($scratch.get_ptr_mut(0))
            }

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$family>) -> Option<&mut Flow<$family>> {
                shared($flows.get_ptr_mut(key))
            }

            #[inline(always)]
            fn insert_flow(
                &self,
                key: &FlowKey<$family>,
                flow: &Flow<$family>,
                replace: bool,
            ) -> Result<(), Refused> {
                let present = replace && $flows.get_ptr(key).is_some();
                let flags = if replace { BPF_ANY } else { BPF_NOEXIST };
                match $flows.insert(key, flow, flags as u64) {
                    Ok(()) => {
                        if !present {
                            advance($entries, 1);
                        }
                        Ok(())
                    }
                    Err(error) if error == -EEXIST => Err(Refused::Exists),
                    Err(_) => Err(Refused::Full),
                }
            }

            #[inline(always)]
            fn remove_flow(&self, key: &FlowKey<$family>) -> bool {
                let removed = $flows.remove(key).is_ok();
                if removed {
                    advance($entries, u32::MAX);
                }
                removed
            }

            #[inline(always)]
            fn handshake(&self, slot: u32) -> Option<&mut Handshake<$family>> {
                shared($handshakes.get_ptr_mut(slot))
            }

            #[inline(always)]
            fn ring(&self, place: u32) -> Option<&mut RingSlot<$family>> {
                shared($ring.get_ptr_mut(place))
            }

            #[inline(always)]
            fn next_ring(&self, by: u32) -> u32 {
                advance($hand, by)
            }

            #[inline(always)]
            fn next_sweep(&self) -> u32 {
                advance($sweep, 1)
            }

            #[inline(always)]
            fn service(&self, generation: u32, key: &ServiceKey<$family>) -> Option<&Service> {
                shared($services.get_value_ptr_mut(generation, key)).map(|service| &*service)
            }

            #[inline(always)]
            fn allowed(&self, generation: u32, service: u32, source: $family) -> bool {
                let key = Key::new(
                    ACCESS_SERVICE_BITS + <$family as Ip>::BITS,
                    AccessKey { service, address: source },
                );
                shared($access.get_value_ptr_mut(generation, &key)).is_some_and(|allow| *allow == ALLOW)
            }

            #[inline(always)]
            fn route(&self, client: $family) -> u32 {
                $routes.get(&Key::new(<$family as Ip>::BITS, client)).copied().unwrap_or(NONE)
            }

            #[inline(always)]
            fn source_address(&self, row: u32) -> Option<$family> {
                $snat.get(row).copied()
            }

            #[inline(always)]
            fn host_owns(&self, key: &FlowKey<$family>) -> bool {
                // A flow key begins as the helpers' tuple does: source, destination, ports.
                let tuple = core::ptr::from_ref(key).cast_mut().cast();
                let context = self.context.as_ptr();
                // SAFETY: `$tuple` bytes of the key are readable, which the helpers do not write.
                let socket = unsafe {
                    if key.protocol == TCP {
                        bpf_skc_lookup_tcp(context, tuple, $tuple, CURRENT_NETNS, 0)
                    } else {
                        bpf_sk_lookup_udp(context, tuple, $tuple, CURRENT_NETNS, 0)
                    }
                };
                if socket.is_null() {
                    return false;
                }
                // SAFETY: a reference that the lookup gave.
                unsafe { bpf_sk_release(socket.cast()) };
                true
            }
        }
    };
}

/// `EEXIST`.
const EEXIST: i32 = 17;

family!(
    V4,
    FLOWS4,
    HANDSHAKES4,
    RING4,
    SERVICES4,
    ACCESS4,
    ROUTES4,
    SNAT4,
    SCRATCH4,
    cursor::RING4,
    cursor::SWEEP4,
    cursor::FLOWS4,
    12
);
family!(
    V6,
    FLOWS6,
    HANDSHAKES6,
    RING6,
    SERVICES6,
    ACCESS6,
    ROUTES6,
    SNAT6,
    SCRATCH6,
    cursor::RING6,
    cursor::SWEEP6,
    cursor::FLOWS6,
    36
);

/// Counts frames that could not be sent, if the interface is one of the agent's; whether it is.
#[inline(always)]
pub fn count_transmit_failed(ifindex: u32, frames: u32) -> bool {
    let counter = shared(TRANSMIT_FAILED.get_ptr_mut(ifindex));
    let ours = counter.is_some();
    if let Some(counter) = counter {
        atomic::add64(counter, frames as u64);
    }
    ours
}
