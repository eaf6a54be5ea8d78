//! Unix sockets at paths of any length.
//!
//! The kernel takes at most 107 bytes of socket path. On Linux a longer one is reached through its
//! directory: `/proc/self/fd/N/name` names the same file, shortly.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;

use super::{AgentConnector, ByteStream};
use crate::ops::OpError;

/// Paths up to this length work directly everywhere.
const DIRECT: usize = 100;
/// How long a connection may take to be accepted by the kernel: its queue may be full.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A path short enough for the kernel, and what keeps it valid.
fn short(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().len() <= DIRECT || !cfg!(target_os = "linux") {
        return Ok((path.to_owned(), None));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = File::open(parent)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let short = Path::new("/proc/self/fd")
        .join(number.to_string())
        .join(name);
    Ok((short, Some(directory)))
}

/// Binds and listens on a unix socket.
///
/// # Errors
/// When the directory is missing or the name is taken.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let (short, _directory) = short(path)?;
    UnixListener::bind(short)
}

/// Connects to an agent's unix socket.
#[derive(Clone, Debug)]
pub struct UnixConnector {
    path: PathBuf,
}

impl UnixConnector {
    /// For the socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl AgentConnector for UnixConnector {
    async fn connect(&self) -> Result<ByteStream, OpError> {
        let gone = |error: io::Error| {
            OpError::Gone(format!(
                "the sandbox's agent cannot be reached: {}",
                error.kind()
            ))
        };
        let (short, _directory) = short(&self.path).map_err(gone)?;
        let connected = tokio::time::timeout(CONNECT_WITHIN, UnixStream::connect(short)).await;
        let stream = match connected {
            Ok(stream) => stream.map_err(gone)?,
            Err(_) => return Err(gone(io::ErrorKind::TimedOut.into())),
        };
        let (read, write) = stream.into_split();
        Ok(ByteStream {
            read: Box::new(read),
            write: Box::new(write),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn long_paths_work_both_ways() {
        let directory = std::env::temp_dir()
            .join(format!("stacyvm-unix-{}", std::process::id()))
            .join("d".repeat(120));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("agent.sock");
        let listener = bind_unix(&path).unwrap();
        let connector = UnixConnector::new(&path);
        assert!(connector.connect().await.is_ok());
        drop(listener);
        assert!(matches!(connector.connect().await, Err(OpError::Gone(_))));
        std::fs::remove_dir_all(directory.parent().unwrap()).unwrap();
    }
}
