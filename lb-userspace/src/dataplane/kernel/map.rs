//! A map with typed keys and values. Sizes are checked against the kernel's at every access, so a wrong type is an error
//! and never a misread.

use std::{
    fs, io,
    mem::{MaybeUninit, size_of, size_of_val},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    slice,
};

use lb_common::{
    abi::{AccessKey, Control, Counters, Flow, FlowKey, Handshake, NextHop, Service, ServiceKey, Target},
    addr::{Ip, V4, V6},
};

use super::sys::{self, BatchCursor, MapShape};
use crate::dataplane::WriteError;

/// Elements that one batched call reads or writes at most.
pub(crate) const BATCH: u32 = 4096;

/// Types that are their bytes.
///
/// # Safety
/// The type has no padding and every bit pattern is a valid value of it.
pub(crate) unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($t:ty),+ $(,)?) => {
        // SAFETY: integers and `repr(C)` structures of integers; `lb_common::abi` asserts at compile time that none of
        // its types has padding.
        $(unsafe impl Plain for $t {})+
    };
}

plain!(u32, u64, V4, V6, Control, Counters, NextHop, Service, Target);

macro_rules! plain_by_family {
    ($($t:ident),+ $(,)?) => {
        // SAFETY: as above; both families' types are asserted there.
        $(unsafe impl<A: Ip + Plain> Plain for $t<A> {})+
    };
}

plain_by_family!(FlowKey, Flow, Handshake, ServiceKey, AccessKey);

// SAFETY: an array has no padding of its own.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Key of a longest-prefix trie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Prefix<K> {
    bits: u32,
    key: K,
}

impl<K: Plain> Prefix<K> {
    /// The first `bits` of `key` must match.
    pub(crate) fn new(bits: u32, key: K) -> Self {
        const { assert!(align_of::<K>() == align_of::<u32>(), "no padding after `bits`") };
        Self { bits, key }
    }

    pub(crate) fn bits(&self) -> u32 {
        self.bits
    }

    pub(crate) fn key(&self) -> K {
        self.key
    }
}

// SAFETY: there is one only of keys aligned as a `u32` (`Prefix::new` asserts it), so without padding.
unsafe impl<K: Plain> Plain for Prefix<K> {}

/// The bytes of a value.
pub(crate) fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    bytes_of_slice(slice::from_ref(value))
}

/// The bytes of some values.
pub(crate) fn bytes_of_slice<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` types have no padding, so all their bytes are initialised.
    unsafe { slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_of_slice_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every bit pattern that is written is a valid value.
    unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// A value whose bytes are all zero.
pub(crate) fn zeroed<T: Plain>() -> T {
    // SAFETY: every bit pattern is a valid value of a `Plain` type.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Elements of one step of a walk over a map.
pub(crate) struct Step<K, V> {
    /// What was read.
    pub(crate) elements: Vec<(K, V)>,
    /// Whether the walk is at its end.
    pub(crate) done: bool,
}

/// An open map.
#[derive(Debug)]
pub(crate) struct Map {
    name: String,
    fd: OwnedFd,
    id: u32,
    shape: MapShape,
}

impl Map {
    /// Makes one; `inner` is the template of a map of maps.
    pub(crate) fn create(name: &str, shape: &MapShape, inner: Option<&Self>) -> Result<Self, WriteError> {
        let fd = sys::map_create(shape, name, inner.map(|inner| inner.fd.as_fd())).map_err(|error| {
            WriteError {
                what: format!("create map {name} of {} entries", shape.max_entries),
                reason: error.to_string(),
            }
        })?;
        Self::from_fd(name, fd)
    }

    /// Takes over an open one.
    pub(crate) fn from_fd(name: &str, fd: OwnedFd) -> Result<Self, WriteError> {
        let (id, shape) = sys::map_info(fd.as_fd())
            .map_err(|error| WriteError { what: format!("inspect map {name}"), reason: error.to_string() })?;
        Ok(Self { name: name.to_owned(), fd, id, shape })
    }

    /// Opens a pinned one; `None` if there is none.
    pub(crate) fn from_pin(name: &str, path: &Path) -> Result<Option<Self>, WriteError> {
        match sys::open_pin(path) {
            Ok(fd) => Self::from_fd(name, fd).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(WriteError {
                what: format!("open the pin {}", path.display()),
                reason: error.to_string(),
            }),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number for it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn shape(&self) -> &MapShape {
        &self.shape
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes that the kernel says it takes.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
        fs::read_to_string(path)
            .ok()
            .and_then(|text| text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok()))
            .unwrap_or(0)
    }

    /// Reads one element.
    pub(crate) fn get<K: Plain, V: Plain>(&self, key: &K) -> Result<Option<V>, WriteError> {
        self.check::<K, V>()?;
        let mut value: V = zeroed();
        let found = sys::lookup(self.fd(), bytes_of(key), bytes_of_slice_mut(slice::from_mut(&mut value)))
            .map_err(|error| self.error("read an element", &error))?;
        Ok(found.then_some(value))
    }

    /// Writes one element and reads it back.
    pub(crate) fn set<K: Plain, V: Plain + PartialEq>(&self, key: &K, value: &V) -> Result<(), WriteError> {
        self.check::<K, V>()?;
        sys::update(self.fd(), bytes_of(key), bytes_of(value))
            .map_err(|error| self.error("write an element", &error))?;
        match self.get::<K, V>(key)? {
            Some(read) if read == *value => Ok(()),
            Some(_) => Err(self.differs("an element")),
            None => Err(self.differs("an element that is missing")),
        }
    }

    /// Removes one element, if it is there, and looks that it is gone.
    pub(crate) fn remove<K: Plain>(&self, key: &K) -> Result<(), WriteError> {
        if size_of::<K>() != self.shape.key_size as usize {
            return Err(self.wrong_layout());
        }
        sys::delete(self.fd(), bytes_of(key)).map_err(|error| self.error("remove an element", &error))?;
        let mut value = vec![0; self.shape.value_size as usize];
        match sys::lookup(self.fd(), bytes_of(key), &mut value) {
            Ok(false) => Ok(()),
            // A trie answers with a shorter prefix that covers the key; removal itself has succeeded.
            Ok(true) if self.shape.kind == super::layout::kind::LPM_TRIE => Ok(()),
            Ok(true) => Err(self.differs("an element that is still there")),
            Err(error) => Err(self.error("read an element", &error)),
        }
    }

    /// Writes elements in batches, without reading back.
    pub(crate) fn set_all<K: Plain, V: Plain>(&self, keys: &[K], values: &[V]) -> Result<(), WriteError> {
        self.check::<K, V>()?;
        for (keys, values) in keys.chunks(BATCH as usize).zip(values.chunks(BATCH as usize)) {
            if keys.len() != values.len() {
                return Err(self.wrong_layout());
            }
            sys::update_batch(self.fd(), bytes_of_slice(keys), bytes_of_slice(values), keys.len() as u32)
                .map_err(|error| self.error("write a batch of elements", &error))?;
        }
        Ok(())
    }

    /// All elements.
    pub(crate) fn all<K: Plain, V: Plain>(&self) -> Result<Vec<(K, V)>, WriteError> {
        let mut cursor = None;
        let mut all = Vec::new();
        loop {
            let mut step = self.walk(&mut cursor, BATCH)?;
            all.append(&mut step.elements);
            if step.done {
                return Ok(all);
            }
        }
    }

    /// The values of an array, by row.
    pub(crate) fn rows<V: Plain>(&self) -> Result<Vec<V>, WriteError> {
        let mut rows = vec![zeroed(); self.shape.max_entries as usize];
        for (row, value) in self.all::<u32, V>()? {
            if let Some(slot) = rows.get_mut(row as usize) {
                *slot = value;
            }
        }
        Ok(rows)
    }

    /// Reads the next elements from `cursor` on, about `count` of them.
    pub(crate) fn walk<K: Plain, V: Plain>(
        &self,
        cursor: &mut Option<BatchCursor>,
        count: u32,
    ) -> Result<Step<K, V>, WriteError> {
        self.check::<K, V>()?;
        let mut count = count.max(1);
        let mut interrupted = 0;
        loop {
            let mut keys: Vec<K> = vec![zeroed(); count as usize];
            let mut values: Vec<V> = vec![zeroed(); count as usize];
            let (key_bytes, value_bytes) = (bytes_of_slice_mut(&mut keys), bytes_of_slice_mut(&mut values));
            match sys::lookup_batch(self.fd(), cursor, key_bytes, value_bytes, count) {
                Ok(step) => {
                    let elements = keys.into_iter().zip(values).take(step.count as usize).collect();
                    return Ok(Step { elements, done: step.done });
                }
                // One bucket of the hash map holds more.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < 1 << 20 => {
                    count *= 2;
                }
                // An element vanished while the kernel was at it, or a signal came.
                Err(error) if error.raw_os_error() == Some(libc::EINTR) && interrupted < 16 => {
                    interrupted += 1;
                }
                Err(error) => return Err(self.error("read a batch of elements", &error)),
            }
        }
    }

    /// The rows of an array per processor: for each row, one value a processor.
    pub(crate) fn rows_per_processor<V: Plain>(&self, processors: usize) -> Result<Vec<Vec<V>>, WriteError> {
        // The kernel rounds each processor's value up to eight bytes.
        if size_of::<V>() != self.shape.value_size as usize || !size_of::<V>().is_multiple_of(8) {
            return Err(self.wrong_layout());
        }
        let rows = self.shape.max_entries as usize;
        let mut result = Vec::with_capacity(rows);
        let mut cursor = None;
        let count = BATCH.min(self.shape.max_entries);
        let mut keys = vec![0u32; count as usize];
        let mut values: Vec<V> = vec![zeroed(); count as usize * processors];
        loop {
            let (key_bytes, value_bytes) = (bytes_of_slice_mut(&mut keys), bytes_of_slice_mut(&mut values));
            let step = sys::lookup_batch(self.fd(), &mut cursor, key_bytes, value_bytes, count)
                .map_err(|error| self.error("read a batch of elements", &error))?;
            result.extend(values.chunks(processors).take(step.count as usize).map(<[V]>::to_vec));
            if step.done || result.len() >= rows {
                return Ok(result);
            }
        }
    }

    /// An error with the system's reason.
    pub(crate) fn error(&self, wanted: &str, error: &io::Error) -> WriteError {
        WriteError { what: format!("map {}: {wanted}", self.name), reason: error.to_string() }
    }

    /// What was read back is not what was written.
    pub(crate) fn differs(&self, what: &str) -> WriteError {
        WriteError {
            what: format!("map {}: read back {what}", self.name),
            reason: "it is not what was written".to_owned(),
        }
    }

    fn wrong_layout(&self) -> WriteError {
        WriteError {
            what: format!("map {}", self.name),
            reason: format!(
                "its keys of {} and values of {} bytes are not what this version uses",
                self.shape.key_size, self.shape.value_size
            ),
        }
    }

    fn check<K, V>(&self) -> Result<(), WriteError> {
        let fits = size_of::<K>() == self.shape.key_size as usize
            && size_of::<V>() == self.shape.value_size as usize;
        if fits { Ok(()) } else { Err(self.wrong_layout()) }
    }
}
