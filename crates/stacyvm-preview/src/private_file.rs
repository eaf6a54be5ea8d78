//! Files with secrets: for their owner alone, and never half written.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes a file that replaces what stood there. A crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let aside = written_aside(path, content)?;
    let moved = std::fs::rename(&aside, path);
    if moved.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    moved
}

/// Writes a file that is not there yet; one that is there is left as it is.
pub(crate) fn make(path: &Path, content: &[u8]) -> io::Result<()> {
    let aside = written_aside(path, content)?;
    let linked = std::fs::hard_link(&aside, path);
    let _ = std::fs::remove_file(&aside);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn written_aside(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let aside = path.with_file_name(name);
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(aside)
}
