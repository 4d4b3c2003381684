//! A map by its descriptor, its keys and values as the values that they are.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use super::sys;

/// A map of the loaded object.
#[derive(Debug)]
pub struct Map {
    pub(super) fd: OwnedFd,
    pub(super) key_size: usize,
    /// For each processor, in a map per processor.
    pub(super) value_size: usize,
    pub(super) entries: u32,
}

/// A value's bytes. Keys and values of the maps have no padding: `lb_common::abi` asserts it.
pub(super) fn bytes<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: as many bytes as the value has, all of them initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn slice<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: as in `bytes`.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn read<T: Copy>(bytes: &[u8]) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    assert_eq!(bytes.len(), size_of::<T>(), "the size of a key or value");
    // SAFETY: as many bytes as a `T` has are copied to it, and any bytes are one of the integers that it consists of.
    unsafe {
        value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        value.assume_init()
    }
}

impl Map {
    fn fits<K, V>(&self) {
        assert_eq!(
            (self.key_size, self.value_size),
            (size_of::<K>(), size_of::<V>()),
            "a map's key and value sizes"
        );
    }

    /// One element.
    ///
    /// # Errors
    /// What the kernel says; so for the other methods.
    pub fn get<K: Copy, V: Copy>(&self, key: K) -> io::Result<Option<V>> {
        self.fits::<K, V>();
        let mut value = vec![0; size_of::<V>()];
        Ok(sys::lookup(self.fd.as_fd(), bytes(&key), &mut value)?.then(|| read(&value)))
    }

    /// Writes one element.
    pub fn set<K: Copy, V: Copy>(&self, key: K, value: V) -> io::Result<()> {
        self.fits::<K, V>();
        sys::update(self.fd.as_fd(), bytes(&key), bytes(&value))
    }

    /// All keys of a hash map or trie.
    pub fn keys<K: Copy>(&self) -> io::Result<Vec<K>> {
        assert_eq!(self.key_size, size_of::<K>());
        let (mut keys, mut key) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let mut next = vec![0; self.key_size];
            if !sys::next_key(self.fd.as_fd(), key.as_deref(), &mut next)? {
                return Ok(keys);
            }
            keys.push(read(&next));
            key = Some(next);
        }
    }

    /// All elements of a hash map.
    pub fn entries<K: Copy, V: Copy>(&self) -> io::Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        for key in self.keys::<K>()? {
            if let Some(value) = self.get(key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    /// Empties a hash map or trie.
    pub fn clear(&self) -> io::Result<()> {
        let mut key = vec![0; self.key_size];
        while sys::next_key(self.fd.as_fd(), None, &mut key)? {
            sys::delete(self.fd.as_fd(), &key)?;
        }
        Ok(())
    }

    /// Writes the first elements of an array.
    pub fn set_all<V: Copy>(&self, values: &[V]) -> io::Result<()> {
        self.fits::<u32, V>();
        if values.is_empty() {
            return Ok(());
        }
        let keys: Vec<u32> = (0..values.len() as u32).collect();
        sys::update_batch(self.fd.as_fd(), slice(&keys), slice(values), values.len())
    }

    /// All elements of an array.
    pub fn all<V: Copy>(&self) -> io::Result<Vec<V>> {
        self.fits::<u32, V>();
        Ok(self.raw(self.value_size)?.chunks_exact(self.value_size).map(read).collect())
    }

    /// All elements of an array per processor: for each row the processors' values, which must be whole numbers of eight
    /// bytes long.
    pub fn per_processor<V: Copy>(&self, processors: usize) -> io::Result<Vec<Vec<V>>> {
        self.fits::<u32, V>();
        let row = self.value_size * processors;
        Ok(self
            .raw(row)?
            .chunks_exact(row)
            .map(|row| row.chunks_exact(self.value_size).map(read).collect())
            .collect())
    }

    /// Zeroes every element of an array; `processors` is 1 but for a map per processor.
    pub fn zero(&self, processors: usize) -> io::Result<()> {
        let count = self.entries as usize;
        let keys: Vec<u32> = (0..self.entries).collect();
        let values = vec![0u8; count * self.value_size * processors];
        sys::update_batch(self.fd.as_fd(), slice(&keys), &values, count)
    }

    fn raw(&self, row: usize) -> io::Result<Vec<u8>> {
        let count = self.entries as usize;
        let (mut keys, mut values) = (vec![0u8; count * 4], vec![0u8; count * row]);
        sys::lookup_batch(self.fd.as_fd(), &mut keys, &mut values, count)?;
        Ok(values)
    }
}
