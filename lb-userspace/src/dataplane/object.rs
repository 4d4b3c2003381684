//! The kernel object that this binary carries.

/// The ELF object, eight-byte aligned as ELF's readers need it.
pub static OBJECT: &[u8] = &EMBEDDED.bytes;

static EMBEDDED: &Aligned<[u8]> =
    &Aligned { align: [], bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/portside.o")) };

/// Bytes with the alignment of the largest field of an ELF header.
#[repr(C)]
struct Aligned<B: ?Sized> {
    align: [u64; 0],
    bytes: B,
}

#[cfg(test)]
mod tests {
    use super::OBJECT;

    #[test]
    fn the_object_is_an_aligned_elf_file_for_bpf() {
        assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
        assert_eq!(&OBJECT[..4], b"\x7fELF");
        const EM_BPF: u16 = 247;
        assert_eq!(u16::from_le_bytes([OBJECT[18], OBJECT[19]]), EM_BPF);
    }
}
