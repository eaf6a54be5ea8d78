//! Just enough of the ELF format to see whether a program is static and what it is made of
//! (source: elf(5)). Reads 64-bit little-endian files only: both supported machines make those.

use anyhow::{Context, Result, bail, ensure};

const PT_INTERP: u32 = 3;
const SHT_SYMTAB: u32 = 2;

/// What was found in one program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Whether it asks for a dynamic loader.
    pub(crate) has_interpreter: bool,
    /// Names in its symbol table; none when it was stripped.
    pub(crate) symbols: Vec<String>,
}

/// Reads a program's headers and symbol table.
pub(crate) fn read(bytes: &[u8]) -> Result<Program> {
    ensure!(bytes.starts_with(b"\x7fELF"), "not an ELF file");
    ensure!(
        bytes.get(4..6) == Some(&[2, 1]),
        "not a 64-bit little-endian ELF file"
    );
    Ok(Program {
        has_interpreter: has_interpreter(bytes)?,
        symbols: symbols(bytes)?,
    })
}

fn has_interpreter(bytes: &[u8]) -> Result<bool> {
    let table = u64_at(bytes, 32)?;
    let size = usize::from(u16_at(bytes, 54)?);
    let count = usize::from(u16_at(bytes, 56)?);
    for index in 0..count {
        if u32_at(bytes, position(table, index * size)?)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

fn symbols(bytes: &[u8]) -> Result<Vec<String>> {
    let table = u64_at(bytes, 40)?;
    let size = usize::from(u16_at(bytes, 58)?);
    let count = usize::from(u16_at(bytes, 60)?);
    let section = |index: usize| {
        let start = position(table, index * size)?;
        part(bytes, start, size).context("a section's header lies outside")
    };
    let mut names = Vec::new();
    for index in 0..count {
        let header = section(index)?;
        if u32_at(header, 4)? != SHT_SYMTAB {
            continue;
        }
        let strings = content(bytes, section(usize::try_from(u32_at(header, 40)?)?)?)?;
        for entry in content(bytes, header)?.chunks_exact(24) {
            let start = usize::try_from(u32_at(entry, 0)?)?;
            let name = strings
                .get(start..)
                .context("a symbol's name lies outside")?;
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            if !name.is_empty() {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(names)
}

/// The bytes of the section that has this header.
fn content<'a>(bytes: &'a [u8], header: &[u8]) -> Result<&'a [u8]> {
    let start = position(u64_at(header, 24)?, 0)?;
    let length = position(u64_at(header, 32)?, 0)?;
    part(bytes, start, length).context("a section lies outside the file")
}

fn part(bytes: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    bytes.get(start..start.checked_add(length)?)
}

fn position(base: u64, offset: usize) -> Result<usize> {
    let Some(sum) = usize::try_from(base)?.checked_add(offset) else {
        bail!("an offset is too large");
    };
    Ok(sum)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .context("the file is cut short")
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(field(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(field(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(field(bytes, at)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_very_test_program_is_dynamic_and_has_its_symbols() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let program = read(&bytes).unwrap();
        assert!(program.has_interpreter);
        assert!(program.symbols.iter().any(|name| name == "main"));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(read(b"#!/bin/sh\n").is_err());
        assert!(read(&bytes[..64]).is_err());
        let mut wild = bytes[..4096.min(bytes.len())].to_vec();
        wild[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(read(&wild).is_err());
    }
}
