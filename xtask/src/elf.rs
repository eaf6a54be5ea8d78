//! Whether a program is static, and which symbols it was linked from.

use anyhow::{Context, Result};
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{ElfFile, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _};

/// What was found in one program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Whether it asks for a dynamic loader.
    pub(crate) has_interpreter: bool,
    /// Names in its symbol table; none when it was stripped.
    pub(crate) symbols: Vec<String>,
}

/// Reads a program's headers and symbol table. Both supported machines make 64-bit ELF files.
pub(crate) fn read(bytes: &[u8]) -> Result<Program> {
    let file = ElfFile::<FileHeader64<Endianness>>::parse(bytes).context("parse the ELF file")?;
    let endian = file.endian();
    let mut segments = file.elf_program_headers().iter();
    let mut symbols = Vec::new();
    for symbol in file.symbols() {
        let name = symbol.name_bytes().context("read a symbol's name")?;
        if !name.is_empty() {
            symbols.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(Program {
        has_interpreter: segments.any(|segment| segment.p_type(endian) == PT_INTERP),
        symbols,
    })
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
        assert!(read(&bytes[..60]).is_err());
        let mut wild = bytes[..4096.min(bytes.len())].to_vec();
        wild[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(read(&wild).is_err());
    }
}
