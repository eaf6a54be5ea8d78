//! Bringing a database to the schema of this program, one numbered step at a time, each in a
//! transaction of its own. `PRAGMA user_version` is the number of the last step taken.

use rusqlite::Connection;

/// Marks a SQLite file as ours ("stvm" in ASCII), so that another program's is never touched.
const APPLICATION_ID: i32 = 0x7374_766d;

const STEPS: [&str; 4] = [
    include_str!("../../migrations/0001_sandboxes.sql"),
    include_str!("../../migrations/0002_quotas.sql"),
    include_str!("../../migrations/0003_limits.sql"),
    include_str!("../../migrations/0004_preview.sql"),
];

/// The schema this program knows.
pub(crate) const SCHEMA_VERSION: u32 = STEPS.len() as u32;

/// Why a database cannot be used.
#[derive(Debug)]
pub(crate) enum MigrateError {
    Newer { found: u32 },
    Foreign,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for MigrateError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(crate) fn migrate(connection: &mut Connection) -> Result<(), MigrateError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (tables > 0 || found > 0) {
        return Err(MigrateError::Foreign);
    }
    if found > SCHEMA_VERSION {
        return Err(MigrateError::Newer { found });
    }
    for (number, step) in (1_u32..).zip(STEPS).skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stacyvm_types::Vcpus;

    use super::*;

    #[test]
    fn every_step_is_taken_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        let version: u32 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, SCHEMA_VERSION);
    }

    #[test]
    fn what_an_older_program_wrote_is_kept() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(STEPS[0]).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID};
                 PRAGMA user_version = 1;
                 INSERT INTO taken_id (id) VALUES (7), (8);
                 INSERT INTO sandbox VALUES
                   (7, 'running', 'native', 'host', 512, 1, 'alice', NULL, 'container', 1, 2, '{{}}');
                 INSERT INTO idempotency VALUES ('alice', 'key', x'00', 7, 9);"
            ))
            .unwrap();
        migrate(&mut connection).unwrap();
        let kept = |what: &str| -> i64 {
            connection
                .query_row(&format!("SELECT count(*) FROM {what}"), [], |row| {
                    row.get(0)
                })
                .unwrap()
        };
        assert_eq!(kept("taken_id"), 2);
        assert_eq!(kept("sandbox WHERE owner = 'alice' AND id = 7"), 1);
        assert_eq!(
            kept("sandbox WHERE vcpu_hundredths = 100 AND disk_mb IS NULL AND preview IS NULL"),
            1
        );
        assert_eq!(kept("idempotency"), 1);
        assert_eq!(kept("quota"), 0);
    }

    #[test]
    fn whole_cores_of_an_older_program_are_the_same_cores() {
        let mut connection = Connection::open_in_memory().unwrap();
        for step in &STEPS[..2] {
            connection.execute_batch(step).unwrap();
        }
        connection
            .execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID};
                 PRAGMA user_version = 2;
                 INSERT INTO taken_id (id) VALUES (7);
                 INSERT INTO sandbox VALUES
                   (7, 'running', 'native', 'host', 512, 3, NULL, NULL, 'container', 1, 2, '{{}}');
                 INSERT INTO quota VALUES
                   ('alice', NULL, NULL, NULL, NULL, 2, 1, 1),
                   ('bob', 5, NULL, NULL, NULL, NULL, 1, 1),
                   ('carol', NULL, NULL, NULL, NULL, 4000000000, 1, 1);"
            ))
            .unwrap();
        migrate(&mut connection).unwrap();
        let sandboxes = crate::sqlite::statements::list(&connection).unwrap();
        assert_eq!(
            (sandboxes[0].vcpus, sandboxes[0].disk_mb),
            (Vcpus::whole(3), None)
        );
        let mut quotas = crate::sqlite::quotas::list(&connection).unwrap();
        quotas.sort_by(|one, other| one.owner_id.cmp(&other.owner_id));
        let cores: Vec<_> = quotas.iter().map(|quota| quota.max_vcpus).collect();
        let most = Vcpus::whole(Vcpus::MAX_CORES);
        assert_eq!(cores, [Some(Vcpus::whole(2)), None, Some(most)]);
        assert_eq!(
            (quotas[1].max_sandboxes, quotas[1].max_disk_mb),
            (Some(5), None)
        );
    }

    #[test]
    fn a_newer_schema_and_a_foreign_file_are_refused() {
        let mut newer = Connection::open_in_memory().unwrap();
        migrate(&mut newer).unwrap();
        newer
            .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .unwrap();
        assert!(matches!(
            migrate(&mut newer),
            Err(MigrateError::Newer { found }) if found == SCHEMA_VERSION + 1
        ));
        let mut foreign = Connection::open_in_memory().unwrap();
        foreign
            .execute_batch("CREATE TABLE recipe (name TEXT)")
            .unwrap();
        assert!(matches!(migrate(&mut foreign), Err(MigrateError::Foreign)));
    }
}
