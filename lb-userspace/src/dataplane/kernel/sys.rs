//! The bpf(2) calls that the data plane makes itself: batches of map elements, maps of maps whose template is made at
//! run time, information about objects, and links. Keys and values are plain bytes here; [`super::map`] gives them types.

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of, zeroed},
    os::{
        fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_info, bpf_prog_info,
    perf_event_attr,
};

/// `PERF_TYPE_TRACEPOINT` of `perf_event.h`.
const PERF_TYPE_TRACEPOINT: u32 = 2;
/// `PERF_FLAG_FD_CLOEXEC` of `perf_event.h`.
const PERF_FLAG_FD_CLOEXEC: libc::c_long = 1 << 3;

/// What a map is made of; two maps with equal ones are interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MapShape {
    /// `BPF_MAP_TYPE_*`.
    pub(crate) kind: u32,
    /// Bytes of a key.
    pub(crate) key_size: u32,
    /// Bytes of a value; for each processor if it is a map per processor.
    pub(crate) value_size: u32,
    /// Entries it can hold.
    pub(crate) max_entries: u32,
    /// `BPF_F_*`.
    pub(crate) flags: u32,
}

/// Makes a map. `inner` is the template of a map of maps.
pub(crate) fn map_create(shape: &MapShape, name: &str, inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: the attribute is zeroed, and every bit pattern is valid for the integers of each of its variants.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = shape.kind;
    create.key_size = shape.key_size;
    create.value_size = shape.value_size;
    create.max_entries = shape.max_entries;
    create.map_flags = shape.flags;
    if let Some(inner) = inner {
        create.inner_map_fd = fd_field(inner);
    }
    // The last byte stays zero; the kernel takes 15 characters at most.
    for (to, from) in create.map_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: BPF_MAP_CREATE reads the fields set above, none of which is a pointer.
    unsafe { call_for_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
}

/// Pins an object; the path must not exist.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = name.as_ptr() as u64;
    object.bpf_fd = fd_field(fd);
    // SAFETY: `pathname` points to a terminated string that outlives the call.
    unsafe { call(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens a pinned object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = name.as_ptr() as u64;
    // SAFETY: as in `pin`.
    unsafe { call_for_fd(bpf_cmd::BPF_OBJ_GET, &mut attr) }
}

/// Opens a map by its id.
pub(crate) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(bpf_cmd::BPF_MAP_GET_FD_BY_ID, id)
}

/// Opens a program by its id.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)
}

/// A map's id and shape.
pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<(u32, MapShape)> {
    // SAFETY: all fields of `bpf_map_info` are integers; pointers in it stay null, so the kernel writes to it alone.
    let info: bpf_map_info = unsafe { info(fd, zeroed())? };
    let shape = MapShape {
        kind: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.map_flags,
    };
    Ok((info.id, shape))
}

/// What identifies a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProgramInfo {
    /// The kernel's number for it.
    pub(crate) id: u32,
    /// Hash of its instructions, in hexadecimal.
    pub(crate) tag: String,
    /// Its name, up to 15 characters.
    pub(crate) name: String,
    /// Ids of the maps it uses.
    pub(crate) maps: Vec<u32>,
}

/// Asks what a program is.
pub(crate) fn program_info(fd: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = vec![0u32; 64];
    // SAFETY: all fields are integers, zero is valid for each.
    let mut ask: bpf_prog_info = unsafe { zeroed() };
    ask.nr_map_ids = maps.len() as u32;
    ask.map_ids = maps.as_mut_ptr() as u64;
    // SAFETY: `map_ids` points to `nr_map_ids` words that outlive the call; the other pointers are null with length 0.
    let info: bpf_prog_info = unsafe { info(fd, ask)? };
    maps.truncate(info.nr_map_ids as usize);
    Ok(ProgramInfo {
        id: info.id,
        tag: info.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
        name: info.name.iter().take_while(|&&c| c != 0).map(|&c| char::from(c.cast_unsigned())).collect(),
        maps,
    })
}

/// The program of an XDP link, and its interface's index; 0 once the interface is gone.
pub(crate) fn xdp_link_info(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    // SAFETY: all fields are integers or unions of them, zero is valid for each; pointers in it stay null.
    let info: bpf_link_info = unsafe { info(fd, zeroed())? };
    // SAFETY: every bit pattern is valid for the integer read.
    let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    Ok((info.prog_id, ifindex))
}

/// The program of any link.
pub(crate) fn link_program(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: as in `xdp_link_info`.
    let info: bpf_link_info = unsafe { info(fd, zeroed())? };
    Ok(info.prog_id)
}

/// The id of the XDP link that holds a program on an interface, if one does and this process may look at links.
pub(crate) fn xdp_link_of(program: u32, ifindex: u32) -> Option<u32> {
    let mut id = 0;
    loop {
        let mut attr = empty_attr();
        // SAFETY: as in `map_create`.
        unsafe { &mut attr.__bindgen_anon_6 }.__bindgen_anon_1.start_id = id;
        // SAFETY: BPF_LINK_GET_NEXT_ID reads one integer and writes another.
        unsafe { call(bpf_cmd::BPF_LINK_GET_NEXT_ID, &mut attr) }.ok()?;
        // SAFETY: every bit pattern is valid for the integer read.
        id = unsafe { attr.__bindgen_anon_6.next_id };
        let Ok(fd) = by_id(bpf_cmd::BPF_LINK_GET_FD_BY_ID, id) else { continue };
        // SAFETY: as in `xdp_link_info`.
        let info: bpf_link_info = unsafe { info(fd.as_fd(), zeroed()).ok()? };
        if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32
            && xdp_link_info(fd.as_fd()).is_ok_and(|held| held == (program, ifindex))
        {
            return Some(id);
        }
    }
}

/// Attaches a program to an interface; `flags` are `XDP_FLAGS_*`.
pub(crate) fn xdp_link_create(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let create = unsafe { &mut attr.link_create };
    create.__bindgen_anon_1.prog_fd = fd_field(program);
    create.__bindgen_anon_2.target_ifindex = ifindex;
    create.attach_type = bpf_attach_type::BPF_XDP as u32;
    create.flags = flags;
    // SAFETY: BPF_LINK_CREATE reads the fields set above, none of which is a pointer.
    unsafe { call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Attaches a program to a tracepoint by the number that tracefs gives it.
pub(crate) fn tracepoint_link_create(program: BorrowedFd<'_>, tracepoint: u64) -> io::Result<OwnedFd> {
    // SAFETY: the structure is integers and unions of them, zero is valid for each.
    let mut event: perf_event_attr = unsafe { zeroed() };
    event.type_ = PERF_TYPE_TRACEPOINT;
    event.size = size_of::<perf_event_attr>() as u32;
    event.config = tracepoint;
    // The processor is a formality: the program runs for the tracepoint's hits on all of them.
    // SAFETY: `event` is whole and outlives the call; the other arguments are numbers.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    let event = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let create = unsafe { &mut attr.link_create };
    create.__bindgen_anon_1.prog_fd = fd_field(program);
    create.__bindgen_anon_2.target_fd = event.as_raw_fd().cast_unsigned();
    create.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    // SAFETY: as in `xdp_link_create`.
    unsafe { call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Mounts tracefs where no path leads to it, for as long as the descriptor lives.
pub(crate) fn private_tracefs() -> io::Result<OwnedFd> {
    const CLOEXEC: u32 = 1;
    const CREATE: u32 = 6;
    let own = |fd: libc::c_long| {
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    };
    // SAFETY: the name is terminated and outlives the call.
    let context = own(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), CLOEXEC) })?;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value.
    if unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, null, null, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all arguments are numbers.
    own(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, 0) })
}

/// Puts another program behind a link, in one step.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let update = unsafe { &mut attr.link_update };
    update.link_fd = fd_field(link);
    update.__bindgen_anon_1.new_prog_fd = fd_field(program);
    // SAFETY: BPF_LINK_UPDATE reads the fields set above, none of which is a pointer.
    unsafe { call(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes the program off what the link attached it to, whoever else holds the link.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    unsafe { &mut attr.link_detach }.link_fd = fd_field(link);
    // SAFETY: BPF_LINK_DETACH reads one descriptor.
    unsafe { call(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Runs a program `repeat` times on a packet; gives its last result.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<u32> {
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let test = unsafe { &mut attr.test };
    test.prog_fd = fd_field(program);
    test.data_in = packet.as_ptr() as u64;
    test.data_size_in = packet.len() as u32;
    test.repeat = repeat;
    // SAFETY: `data_in` points to `data_size_in` bytes that the kernel copies; there is no output buffer.
    unsafe { call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)? };
    // SAFETY: the kernel wrote the integer.
    Ok(unsafe { attr.test.retval })
}

/// Returns when every processor has left the programs that it was in.
pub(crate) fn grace_period() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: all arguments are numbers.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } < 0 {
        // Not there with `nohz_full`; a packet takes microseconds.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Reads one element; false if there is none.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(map, key, value.as_mut_ptr() as u64);
    // SAFETY: callers pass a key of the map's key size and a value of its whole value size (`super::map` checks both).
    match unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes one element.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = element(map, key, value.as_ptr() as u64);
    // SAFETY: as in `lookup`; the kernel only reads both.
    unsafe { call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Removes one element; false if there was none.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = element(map, key, 0);
    // SAFETY: as in `lookup`.
    match unsafe { call(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes `count` elements, their keys and values one after the other.
pub(crate) fn update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: u32) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let batch = unsafe { &mut attr.batch };
    batch.map_fd = fd_field(map);
    batch.keys = keys.as_ptr() as u64;
    batch.values = values.as_ptr() as u64;
    batch.count = count;
    // SAFETY: callers pass `count` whole keys and values (`super::map` checks it); the kernel only reads them.
    unsafe { call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Where a batched walk over a map goes on: what the kernel calls the batch, as large as the largest key.
pub(crate) type BatchCursor = [u8; 64];

/// What one step of a batched walk gave.
pub(crate) struct BatchStep {
    /// Elements read.
    pub(crate) count: u32,
    /// Whether the walk is at its end.
    pub(crate) done: bool,
}

/// Reads up to `count` elements from `cursor` on, or from the beginning, and moves the cursor.
///
/// # Errors
/// `ENOSPC` if a single bucket of a hash map holds more than `count` elements.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Option<BatchCursor>,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<BatchStep> {
    let mut next: BatchCursor = [0; 64];
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let batch = unsafe { &mut attr.batch };
    batch.map_fd = fd_field(map);
    batch.in_batch = cursor.as_ref().map_or(0, |cursor| cursor.as_ptr() as u64);
    batch.out_batch = next.as_mut_ptr() as u64;
    batch.keys = keys.as_mut_ptr() as u64;
    batch.values = values.as_mut_ptr() as u64;
    batch.count = count;
    // SAFETY: callers pass room for `count` keys and values (`super::map` checks it); no key, so no cursor, is longer than
    // a `BatchCursor`.
    let result = unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
    // SAFETY: the kernel wrote the integer.
    let read = unsafe { attr.batch.count };
    let done = match result {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    *cursor = Some(next);
    Ok(BatchStep { count: read, done })
}

fn element(map: BorrowedFd<'_>, key: &[u8], value: u64) -> bpf_attr {
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = fd_field(map);
    element.key = key.as_ptr() as u64;
    element.__bindgen_anon_1.value = value;
    attr
}

fn by_id(command: bpf_cmd, id: u32) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    unsafe { &mut attr.__bindgen_anon_6 }.__bindgen_anon_1.start_id = id;
    // SAFETY: the call reads one integer.
    unsafe { call_for_fd(command, &mut attr) }
}

/// # Safety
/// `I` must be the information structure of the kind of object behind `fd`, and pointers in `ask` must be null or point
/// to as much memory as the length beside them says.
unsafe fn info<I: Copy>(fd: BorrowedFd<'_>, ask: I) -> io::Result<I> {
    let mut answer = MaybeUninit::new(ask);
    let mut attr = empty_attr();
    // SAFETY: as in `map_create`.
    let object = unsafe { &mut attr.info };
    object.bpf_fd = fd_field(fd);
    object.info_len = size_of::<I>() as u32;
    object.info = answer.as_mut_ptr() as u64;
    // SAFETY: `info` points to `info_len` bytes; the rest is the caller's promise.
    unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    // SAFETY: it was initialised with `ask`, and the kernel only overwrites it.
    Ok(unsafe { answer.assume_init() })
}

fn empty_attr() -> bpf_attr {
    // SAFETY: the union consists of integers and arrays of them, for which zero is valid; unused bytes must be zero.
    unsafe { zeroed() }
}

fn fd_field(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// # Safety
/// As for [`call`]; the command must give a new descriptor.
unsafe fn call_for_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { call(command, attr)? };
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attr` must be what `command` expects; pointers in it must be valid for what the kernel reads and writes.
unsafe fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole, initialised `bpf_attr`; the rest is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
