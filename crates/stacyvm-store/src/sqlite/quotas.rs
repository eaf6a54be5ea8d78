//! The statements about quotas.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use stacyvm_types::{GoDuration, OwnerId, Quota, Timestamp, Vcpus};

use crate::StoreError;
use crate::sqlite::failed;
use crate::sqlite::statements::whole;

const COLUMNS: &str = "owner, max_sandboxes, max_ttl, max_exec_timeout, max_memory_mb, \
                       max_vcpu_hundredths, created_at, updated_at, max_disk_mb";

pub(crate) fn list(connection: &Connection) -> Result<Vec<Quota>, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM quota"))
        .and_then(|mut statement| statement.query_map([], quota)?.collect())
        .map_err(failed("list quotas"))
}

pub(crate) fn set(connection: &Connection, quota: &Quota) -> Result<(), StoreError> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO quota ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        ))
        .and_then(|mut statement| {
            statement.execute(params![
                quota.owner_id.as_str(),
                whole(quota.max_sandboxes),
                quota.max_ttl.map(GoDuration::nanos),
                quota.max_exec_timeout.map(GoDuration::nanos),
                whole(quota.max_memory_mb),
                quota.max_vcpus.map(Vcpus::hundredths),
                quota.created_at.unix_micros(),
                quota.updated_at.unix_micros(),
                whole(quota.max_disk_mb),
            ])
        })
        .map(drop)
        .map_err(failed("write a quota"))
}

pub(crate) fn delete(connection: &Connection, owner: &OwnerId) -> Result<bool, StoreError> {
    connection
        .prepare_cached("DELETE FROM quota WHERE owner = ?1")
        .and_then(|mut statement| statement.execute([owner.as_str()]))
        .map(|changed| changed > 0)
        .map_err(failed("delete a quota"))
}

fn quota(row: &Row<'_>) -> Result<Quota, rusqlite::Error> {
    let owner = row.get::<_, String>(0)?.parse();
    let number = |column: usize, value: Option<i64>| {
        value
            .map(u64::try_from)
            .transpose()
            .map_err(|_| unreadable(column, Type::Integer))
    };
    let duration = |value: Option<i64>| value.map(GoDuration::from_nanos);
    Ok(Quota {
        owner_id: owner.map_err(|_| unreadable(0, Type::Text))?,
        max_sandboxes: number(1, row.get(1)?)?,
        max_ttl: duration(row.get(2)?),
        max_exec_timeout: duration(row.get(3)?),
        max_memory_mb: number(4, row.get(4)?)?,
        max_vcpus: row
            .get::<_, Option<u32>>(5)?
            .map(|cores| Vcpus::from_hundredths(cores).ok_or_else(|| unreadable(5, Type::Integer)))
            .transpose()?,
        max_disk_mb: number(8, row.get(8)?)?,
        created_at: Timestamp::from_unix_micros(row.get(6)?),
        updated_at: Timestamp::from_unix_micros(row.get(7)?),
    })
}

fn unreadable(column: usize, kind: Type) -> rusqlite::Error {
    let name = COLUMNS.split(", ").nth(column).unwrap_or_default();
    rusqlite::Error::InvalidColumnType(column, name.to_owned(), kind)
}
