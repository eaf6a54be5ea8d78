//! Opening a database file so that exactly one server works on it, and a damaged or foreign file
//! is refused before anything is written to it.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::StoreError;
use crate::sqlite::migrate::{self, MigrateError};
use crate::sqlite::{damaged, no_space};

/// An opened and migrated database.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The one connection that writes.
    pub(crate) writer: Connection,
    /// Connections that read, and the one that copies the log back; none of a database in memory.
    pub(crate) readers: Vec<Connection>,
    pub(crate) checkpointer: Option<Connection>,
    /// Held as long as the database is in use; the kernel lets go of it with the process.
    pub(crate) lock: Option<File>,
}

/// Opens or creates the file.
pub(crate) fn file(path: &Path, readers: usize) -> Result<Opened, StoreError> {
    let lock = lock(path)?;
    // Made first and private: SQLite gives the files beside it the same permissions.
    private_file(path).map_err(|error| problem(path, "create the file", error.to_string()))?;
    let sqlite = |step| move |error: rusqlite::Error| refused(path, step, &error);
    let mut writer = connect(path).map_err(sqlite("open the file"))?;
    let mode: String = writer
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(sqlite("switch to write-ahead logging"))?;
    if mode != "wal" {
        let reason = format!("its file system allows only journal mode {mode}");
        return Err(problem(path, "switch to write-ahead logging", reason));
    }
    let check: String = writer
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(sqlite("check the file"))?;
    if check != "ok" {
        return Err(StoreError::Corrupt {
            file: path.to_owned(),
            reason: check,
        });
    }
    migrate::migrate(&mut writer).map_err(|error| match error {
        MigrateError::Newer { found } => StoreError::Newer {
            file: path.to_owned(),
            found,
            known: migrate::SCHEMA_VERSION,
        },
        MigrateError::Foreign => StoreError::Corrupt {
            file: path.to_owned(),
            reason: "it is a database of another program".to_owned(),
        },
        MigrateError::Sqlite(error) => refused(path, "bring it to the present schema", &error),
    })?;
    // Copying the log back waits for the disk. The checkpointer does it beside the writer; this
    // larger bound only keeps the log finite when the writer never rests.
    writer
        .execute_batch("PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 16777216")
        .map_err(sqlite("set the log's size"))?;
    let more = |step| connect(path).map_err(sqlite(step));
    Ok(Opened {
        writer,
        readers: (0..readers)
            .map(|_| more("open it for reading"))
            .collect::<Result<_, _>>()?,
        checkpointer: Some(more("open it for checkpoints")?),
        lock: Some(lock),
    })
}

/// A database of this process alone.
pub(crate) fn memory() -> Result<Opened, StoreError> {
    let path = Path::new(":memory:");
    let sqlite = |error: rusqlite::Error| refused(path, "open", &error);
    let mut writer = Connection::open_in_memory().map_err(sqlite)?;
    writer
        .pragma_update(None, "foreign_keys", true)
        .map_err(sqlite)?;
    migrate::migrate(&mut writer)
        .map_err(|error| problem(path, "make the schema", format!("{error:?}")))?;
    Ok(Opened {
        writer,
        readers: Vec::new(),
        checkpointer: None,
        lock: None,
    })
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// Takes the lock file beside the database. SQLite's own locks would let two servers in, and
/// each would take the other's sandboxes for orphans.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = private_file(&PathBuf::from(name))
        .map_err(|error| problem(path, "create its lock file", error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            file: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(problem(path, "lock it", error.to_string())),
    }
}

fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

fn refused(path: &Path, step: &'static str, error: &rusqlite::Error) -> StoreError {
    if no_space(error) {
        StoreError::Full
    } else if damaged(error) {
        StoreError::Corrupt {
            file: path.to_owned(),
            reason: error.to_string(),
        }
    } else {
        problem(path, step, error.to_string())
    }
}

fn problem(path: &Path, step: &'static str, reason: String) -> StoreError {
    StoreError::Open {
        file: path.to_owned(),
        step,
        reason,
    }
}
