//! Every statement there is, one function each.

use rusqlite::{Connection, OptionalExtension, Row, params};
use stacyvm_types::{OwnerId, PreviewAccess, SandboxId, Timestamp, Vcpus};

use crate::StoreError;
use crate::record::{IdempotencyClaim, IdempotencyHit, IntentOutcome, SandboxRecord, StoredState};
use crate::sqlite::failed;

const COLUMNS: &str = "id, state, provider, image, memory_mb, vcpu_hundredths, owner, template, \
                       isolation, created_at, expires_at, metadata, disk_mb, preview";

pub(crate) fn insert_intent(
    connection: &Connection,
    record: &SandboxRecord,
    metadata: &str,
    claim: Option<&IdempotencyClaim>,
) -> Result<IntentOutcome, StoreError> {
    let wrong = failed("write an intent");
    let id = number(&record.id);
    let taken = connection
        .prepare_cached("INSERT OR IGNORE INTO taken_id (id) VALUES (?1)")
        .and_then(|mut statement| statement.execute([id]))
        .map_err(&wrong)?;
    if taken == 0 {
        return Ok(IntentOutcome::IdTaken);
    }
    connection
        .prepare_cached(
            &format!("INSERT INTO sandbox ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"),
        )
        .and_then(|mut statement| {
            statement.execute(params![
                id,
                StoredState::Creating.as_str(),
                record.provider,
                record.image,
                i64::try_from(record.memory_mb).unwrap_or(i64::MAX),
                record.vcpus.hundredths(),
                record.owner.as_ref().map(OwnerId::as_str),
                record.template,
                record.isolation.as_str(),
                record.created_at.unix_micros(),
                record.expires_at.unix_micros(),
                metadata,
                whole(record.disk_mb),
                record.preview.map(PreviewAccess::as_str),
            ])
        })
        .map_err(&wrong)?;
    if let Some(claim) = claim {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO idempotency (owner, key, digest, sandbox, expires_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    owner_text(claim.owner.as_ref()),
                    claim.key,
                    claim.digest,
                    id,
                    claim.expires_at.unix_micros(),
                ])
            })
            .map_err(&wrong)?;
    }
    Ok(IntentOutcome::Written)
}

pub(crate) fn set_state(
    connection: &Connection,
    id: &SandboxId,
    state: StoredState,
) -> Result<bool, StoreError> {
    connection
        .prepare_cached("UPDATE sandbox SET state = ?2 WHERE id = ?1")
        .and_then(|mut statement| statement.execute(params![number(id), state.as_str()]))
        .map(|changed| changed > 0)
        .map_err(failed("write a state"))
}

pub(crate) fn extend(
    connection: &Connection,
    id: &SandboxId,
    expires_at: Timestamp,
) -> Result<bool, StoreError> {
    connection
        .prepare_cached("UPDATE sandbox SET expires_at = ?2 WHERE id = ?1")
        .and_then(|mut statement| statement.execute(params![number(id), expires_at.unix_micros()]))
        .map(|changed| changed > 0)
        .map_err(failed("write an expiry"))
}

pub(crate) fn delete(connection: &Connection, id: &SandboxId) -> Result<bool, StoreError> {
    connection
        .prepare_cached("DELETE FROM sandbox WHERE id = ?1")
        .and_then(|mut statement| statement.execute([number(id)]))
        .map(|changed| changed > 0)
        .map_err(failed("delete a sandbox"))
}

pub(crate) fn release_keys(connection: &Connection, id: &SandboxId) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM idempotency WHERE sandbox = ?1")
        .and_then(|mut statement| statement.execute([number(id)]))
        .map(drop)
        .map_err(failed("release an idempotency key"))
}

pub(crate) fn delete_expired_keys(
    connection: &Connection,
    now: Timestamp,
) -> Result<u64, StoreError> {
    connection
        .prepare_cached("DELETE FROM idempotency WHERE expires_at <= ?1")
        .and_then(|mut statement| statement.execute([now.unix_micros()]))
        .map(|changed| changed as u64)
        .map_err(failed("delete expired idempotency keys"))
}

pub(crate) fn find_key(
    connection: &Connection,
    owner: Option<&OwnerId>,
    key: &str,
    now: Timestamp,
) -> Result<Option<IdempotencyHit>, StoreError> {
    connection
        .prepare_cached(
            "SELECT digest, sandbox FROM idempotency \
             WHERE owner = ?1 AND key = ?2 AND expires_at > ?3",
        )
        .and_then(|mut statement| {
            statement
                .query_row(params![owner_text(owner), key, now.unix_micros()], |row| {
                    Ok(IdempotencyHit {
                        digest: row.get(0)?,
                        sandbox: SandboxId::from_u32(row.get(1)?),
                    })
                })
                .optional()
        })
        .map_err(failed("look an idempotency key up"))
}

pub(crate) fn get(
    connection: &Connection,
    id: &SandboxId,
) -> Result<Option<SandboxRecord>, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM sandbox WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([number(id)], record).optional())
        .map_err(failed("read a sandbox"))
}

pub(crate) fn list(connection: &Connection) -> Result<Vec<SandboxRecord>, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM sandbox"))
        .and_then(|mut statement| statement.query_map([], record)?.collect())
        .map_err(failed("list sandboxes"))
}

pub(crate) fn count_ids(connection: &Connection) -> Result<u64, StoreError> {
    connection
        .query_row("SELECT count(*) FROM taken_id", [], |row| {
            row.get::<_, i64>(0)
        })
        .map(i64::unsigned_abs)
        .map_err(failed("count sandboxes"))
}

fn record(row: &Row<'_>) -> Result<SandboxRecord, rusqlite::Error> {
    let metadata: String = row.get(11)?;
    let owner: Option<String> = row.get(6)?;
    Ok(SandboxRecord {
        id: SandboxId::from_u32(row.get(0)?),
        state: StoredState::parse(&row.get::<_, String>(1)?).ok_or_else(|| unreadable(1))?,
        provider: row.get(2)?,
        image: row.get(3)?,
        memory_mb: u64::try_from(row.get::<_, i64>(4)?).map_err(|_| unreadable(4))?,
        vcpus: Vcpus::from_hundredths(row.get(5)?).ok_or_else(|| unreadable(5))?,
        owner: owner
            .map(|owner| owner.parse().map_err(|_| unreadable(6)))
            .transpose()?,
        template: row.get(7)?,
        isolation: row
            .get::<_, String>(8)?
            .parse()
            .map_err(|_| unreadable(8))?,
        created_at: Timestamp::from_unix_micros(row.get(9)?),
        expires_at: Timestamp::from_unix_micros(row.get(10)?),
        metadata: serde_json::from_str(&metadata).map_err(|_| unreadable(11))?,
        disk_mb: row
            .get::<_, Option<i64>>(12)?
            .map(u64::try_from)
            .transpose()
            .map_err(|_| unreadable(12))?,
        preview: row
            .get::<_, Option<String>>(13)?
            .map(|word| word.parse().map_err(|_| unreadable(13)))
            .transpose()?,
    })
}

fn unreadable(column: usize) -> rusqlite::Error {
    let name = COLUMNS.split(", ").nth(column).unwrap_or_default();
    let kind = rusqlite::types::Type::Text;
    rusqlite::Error::InvalidColumnType(column, name.to_owned(), kind)
}

/// SQLite's integers have a sign.
pub(super) fn whole(value: Option<u64>) -> Option<i64> {
    value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

/// Ids are stored as the number whose hexadecimal digits they show.
fn number(id: &SandboxId) -> u32 {
    let digits = id.as_str().trim_start_matches("sb-");
    u32::from_str_radix(digits, 16).expect("an id ends in 8 hexadecimal digits")
}

fn owner_text(owner: Option<&OwnerId>) -> &str {
    owner.map_or("", OwnerId::as_str)
}
