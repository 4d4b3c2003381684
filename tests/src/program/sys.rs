//! The bpf(2) calls on elements that program runs need at full speed: plain bytes, whole batches, one call a packet.

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

fn empty_attr() -> bpf_attr {
    // SAFETY: the union consists of integers and arrays of them, for which zero is valid; unused bytes must be zero.
    unsafe { zeroed() }
}

fn field(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// # Safety
/// `attr` must be what `command` expects; pointers in it must be valid for what the kernel reads and writes.
unsafe fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole, initialised `bpf_attr`; the rest is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// `Ok(false)` for `ENOENT`.
fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes an inner map: kind, key size, value size, entries, flags.
pub(super) fn create(kind: u32, key: usize, value: usize, entries: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: the attribute is zeroed, and every bit pattern is valid for the integers of each of its variants.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = kind;
    create.key_size = key as u32;
    create.value_size = value as u32;
    create.max_entries = entries;
    create.map_flags = flags;
    // SAFETY: the command reads the fields above, none of which is a pointer.
    let fd = unsafe { call(bpf_cmd::BPF_MAP_CREATE, &mut attr)? };
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn element(map: BorrowedFd<'_>, key: *const u8, value: u64) -> bpf_attr {
    let mut attr = empty_attr();
    // SAFETY: as in `create`.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = field(map);
    element.key = key as u64;
    element.__bindgen_anon_1.value = value;
    attr
}

/// Reads one element into `value`, which has the map's whole value size; false if there is none.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(map, key.as_ptr(), value.as_mut_ptr() as u64);
    // SAFETY: `super::Map` holds keys and values to the map's sizes.
    found(unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) })
}

/// Writes one element.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = element(map, key.as_ptr(), value.as_ptr() as u64);
    // SAFETY: as in `lookup`.
    unsafe { call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Removes one element; false if there was none.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = element(map, key.as_ptr(), 0);
    // SAFETY: as in `lookup`.
    found(unsafe { call(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) })
}

/// The key after `key`, or the first; false at the end.
pub(super) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(map, key.map_or(std::ptr::null(), <[u8]>::as_ptr), next.as_mut_ptr() as u64);
    // SAFETY: as in `lookup`; `next` is as long as a key.
    found(unsafe { call(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) })
}

/// Writes `count` elements, their keys and values one after the other.
pub(super) fn update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: as in `create`.
    let batch = unsafe { &mut attr.batch };
    batch.map_fd = field(map);
    batch.keys = keys.as_ptr() as u64;
    batch.values = values.as_ptr() as u64;
    batch.count = count as u32;
    // SAFETY: `super::Map` passes `count` whole keys and values.
    unsafe { call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Reads the first `count` elements of an array.
pub(super) fn lookup_batch(
    map: BorrowedFd<'_>,
    keys: &mut [u8],
    values: &mut [u8],
    count: usize,
) -> io::Result<()> {
    let mut next = [0u8; 64];
    let mut attr = empty_attr();
    // SAFETY: as in `create`.
    let batch = unsafe { &mut attr.batch };
    batch.map_fd = field(map);
    batch.out_batch = next.as_mut_ptr() as u64;
    batch.keys = keys.as_mut_ptr() as u64;
    batch.values = values.as_mut_ptr() as u64;
    batch.count = count as u32;
    // SAFETY: `super::Map` passes room for `count` keys and values.
    found(unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) }).map(drop)
}

/// Runs an XDP program once on a frame, into `out`: what it returned, and the length of the frame after it.
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &[u8], out: &mut [u8]) -> io::Result<(u32, usize)> {
    let mut attr = empty_attr();
    // SAFETY: as in `create`.
    let test = unsafe { &mut attr.test };
    test.prog_fd = field(program);
    test.data_in = frame.as_ptr() as u64;
    test.data_size_in = frame.len() as u32;
    test.data_out = out.as_mut_ptr() as u64;
    test.data_size_out = out.len() as u32;
    test.repeat = 1;
    // SAFETY: both buffers are as long as said, and the kernel writes no more than that to `out`.
    unsafe { call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)? };
    // SAFETY: the kernel wrote both integers.
    Ok(unsafe { (attr.test.retval, attr.test.data_size_out as usize) })
}
