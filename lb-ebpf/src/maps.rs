//! The maps. Sizes that the configuration sets are given by the loader; those here are the least that make sense.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray, ProgramArray},
    macros::btf_map,
};
use lb_common::{
    abi::{
        AccessKey, Control, Counters, FILTER_BITS, Flow, FlowKey, Handshake, NextHop, RingSlot, Service,
        ServiceKey, Target, cursor,
    },
    addr::{V4, V6},
    tables::Scratch,
    verdict::Verdict,
};

/// The control row.
#[btf_map]
pub static CONTROL: Array<Control, 1> = Array::new();
/// The address filter.
#[btf_map]
pub static FILTER: Array<u64, { FILTER_BITS as usize / 64 }> = Array::new();
/// The programs reached by tail call.
#[btf_map]
pub static PROGRAMS: ProgramArray<3> = ProgramArray::new();

/// Services of the two generations.
#[btf_map]
pub static SERVICES4: ArrayOfMaps<HashMap<ServiceKey<V4>, Service, 1024>, 2> = ArrayOfMaps::new();
/// Services of the two generations.
#[btf_map]
pub static SERVICES6: ArrayOfMaps<HashMap<ServiceKey<V6>, Service, 1024>, 2> = ArrayOfMaps::new();
/// Access lists of the two generations.
#[btf_map]
pub static ACCESS4: ArrayOfMaps<LpmTrie<AccessKey<V4>, u32, 1024>, 2> = ArrayOfMaps::new();
/// Access lists of the two generations.
#[btf_map]
pub static ACCESS6: ArrayOfMaps<LpmTrie<AccessKey<V6>, u32, 1024>, 2> = ArrayOfMaps::new();
/// Lookup tables.
#[btf_map]
pub static TABLES: ArrayOfMaps<Array<u32, 16381>, 512> = ArrayOfMaps::new();

/// Targets.
#[btf_map]
pub static TARGETS: Array<Target, 1024> = Array::new();
/// Next hops.
#[btf_map]
pub static NEXT_HOPS: Array<NextHop, 1024> = Array::new();
/// Routes to clients.
#[btf_map]
pub static ROUTES4: LpmTrie<V4, u32, 1024> = LpmTrie::new();
/// Routes to clients.
#[btf_map]
pub static ROUTES6: LpmTrie<V6, u32, 1024> = LpmTrie::new();
/// Source addresses.
#[btf_map]
pub static SNAT4: Array<V4, 256> = Array::new();
/// Source addresses.
#[btf_map]
pub static SNAT6: Array<V6, 256> = Array::new();

/// Flows.
#[btf_map]
pub static FLOWS4: HashMap<FlowKey<V4>, Flow<V4>, 65536> = HashMap::new();
/// Flows.
#[btf_map]
pub static FLOWS6: HashMap<FlowKey<V6>, Flow<V6>, 65536> = HashMap::new();
/// Unfinished handshakes.
#[btf_map]
pub static HANDSHAKES4: Array<Handshake<V4>, 65536> = Array::new();
/// Unfinished handshakes.
#[btf_map]
pub static HANDSHAKES6: Array<Handshake<V6>, 65536> = Array::new();
/// Flows in the order of admission.
#[btf_map]
pub static RING4: Array<RingSlot<V4>, 32768> = Array::new();
/// Flows in the order of admission.
#[btf_map]
pub static RING6: Array<RingSlot<V6>, 32768> = Array::new();
/// Hands of the rings, entries in the flow tables.
#[btf_map]
pub static CURSORS: Array<u32, { cursor::COUNT as usize }> = Array::new();

/// Room for what does not fit the stack.
#[btf_map]
pub static SCRATCH4: PerCpuArray<Scratch<V4>, 1> = PerCpuArray::new();
/// Room for what does not fit the stack.
#[btf_map]
pub static SCRATCH6: PerCpuArray<Scratch<V6>, 1> = PerCpuArray::new();

/// What the logging program is to log: verdict and interface.
#[btf_map]
pub static LOGGED: PerCpuArray<[u32; 2], 1> = PerCpuArray::new();

/// Packets by verdict.
#[btf_map]
pub static VERDICTS: PerCpuArray<u64, { Verdict::COUNT as usize }> = PerCpuArray::new();
/// Counters by service.
#[btf_map]
pub static SERVICE_COUNTERS: PerCpuArray<Counters, 1024> = PerCpuArray::new();
/// Counters by target.
#[btf_map]
pub static TARGET_COUNTERS: PerCpuArray<Counters, 1024> = PerCpuArray::new();
/// Frames that could not be sent, by interface.
#[btf_map]
pub static TRANSMIT_FAILED: HashMap<u32, u64, 64> = HashMap::new();
