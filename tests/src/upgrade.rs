//! Another build of the agent, to upgrade to: its kernel program does the same with other instructions, so the kernel
//! gives it another tag.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result, ensure};

/// `r = immediate` over 64 bits, and over 32 bits, which clears the upper half: the same for immediates from 0 up.
const MOV64_IMMEDIATE: u8 = 0xb7;
const MOV32_IMMEDIATE: u8 = 0xb4;
/// How an ELF file for BPF begins, and its machine number at the offset that ELF gives it.
const MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";
const MACHINE: (usize, &[u8]) = (18, &[247, 0]);

/// Writes to `to` a copy of the agent `from` whose embedded kernel object is [`change`]d.
pub fn other_lbd(from: &Path, to: &Path) -> Result<()> {
    let mut bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    let starts: Vec<usize> = (0..bytes.len()).filter(|at| is_object(&bytes[*at..])).collect();
    ensure!(!starts.is_empty(), "there is no kernel object in {}", from.display());
    for start in starts {
        change(&mut bytes[start..]).with_context(|| format!("the kernel object in {}", from.display()))?;
    }
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("allow to run {}", to.display()))
}

/// Gives the XDP programs of a kernel object, which may have more behind it, other instructions of the same meaning.
pub fn change(object: &mut [u8]) -> Result<()> {
    let mut changed = 0;
    for (offset, size) in sections(object, b"xdp").context("not an ELF file")? {
        let code = object.get_mut(offset..offset + size).context("a section beyond the file's end")?;
        for instruction in code.chunks_exact_mut(8) {
            // The last byte is the immediate's most significant: its upper bit is the sign.
            if instruction[0] == MOV64_IMMEDIATE && instruction[7] < 0x80 {
                instruction[0] = MOV32_IMMEDIATE;
                changed += 1;
            }
        }
    }
    ensure!(changed > 0, "no constant is loaded in its XDP programs");
    Ok(())
}

fn is_object(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) && bytes.get(MACHINE.0..).is_some_and(|rest| rest.starts_with(MACHINE.1))
}

/// Offset and size of the sections whose name begins with `prefix`.
fn sections(elf: &[u8], prefix: &[u8]) -> Option<Vec<(usize, usize)>> {
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| (number << 8) | usize::from(*byte)))
    };
    // Fields of the 64-bit header (Elf64_Ehdr) and of a section's (Elf64_Shdr).
    let (table, entry, count, names) = (number(40, 8)?, number(58, 2)?, number(60, 2)?, number(62, 2)?);
    let field = |section: usize, at: usize, size: usize| number(table + section * entry + at, size);
    let names = field(names, 24, 8)?;
    let mut found = Vec::new();
    for section in 0..count {
        if elf.get(names + field(section, 0, 4)?..)?.starts_with(prefix) {
            found.push((field(section, 24, 8)?, field(section, 32, 8)?));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use lb_userspace::dataplane::object::OBJECT;

    use super::*;

    #[test]
    fn a_changed_object_differs_in_opcodes_alone() {
        let mut other = OBJECT.to_vec();
        change(&mut other).unwrap();
        let differing: Vec<_> = OBJECT.iter().zip(&other).filter(|(before, after)| before != after).collect();
        assert!(!differing.is_empty());
        assert!(differing.iter().all(|pair| *pair == (&MOV64_IMMEDIATE, &MOV32_IMMEDIATE)));
        assert!(change(&mut other).is_err(), "all were changed already");
    }

    #[test]
    fn what_holds_no_object_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, [0; 4096]).unwrap();
        assert!(other_lbd(&from, &to).unwrap_err().to_string().contains("no kernel object"));
        fs::write(&from, [&[0; 13], OBJECT].concat()).unwrap();
        other_lbd(&from, &to).unwrap();
        assert_ne!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
    }
}
