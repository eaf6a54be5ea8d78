//! What opening refuses, and how it says so.

use std::os::unix::fs::PermissionsExt;

use stacyvm_store::{Store, StoreError};

use crate::record;

#[tokio::test]
async fn what_was_written_is_there_after_closing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let store = Store::open(&path).unwrap();
    let _ = store.insert_intent(record(1), None).await.unwrap();
    store.close().await;
    let store = Store::open(&path).unwrap();
    assert_eq!(store.list_active().await.unwrap(), [record(1)]);
    store.close().await;
    for name in ["stacyvm.db", "stacyvm.db.lock"] {
        let mode = std::fs::metadata(directory.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn two_servers_cannot_share_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let first = Store::open(&path).unwrap();
    let second = Store::open(&path).unwrap_err();
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
    first.close().await;
    Store::open(&path).unwrap().close().await;
}

#[tokio::test]
async fn damaged_foreign_and_newer_files_are_refused_by_name_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let good = directory.path().join("good.db");
    let store = Store::open(&good).unwrap();
    for number in 0..500 {
        let _ = store.insert_intent(record(number), None).await.unwrap();
    }
    store.close().await;
    let good = std::fs::read(&good).unwrap();

    let mut torn = good.clone();
    torn[4096..8192].fill(0x5A);
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    let mut newer = good.clone();
    // `PRAGMA user_version` stands at byte 60 of the header, big-endian; see the file format.
    newer[60..64].copy_from_slice(&900_u32.to_be_bytes());
    let mut foreign = good.clone();
    // `PRAGMA application_id` stands at byte 68.
    foreign[68..72].copy_from_slice(&1_u32.to_be_bytes());

    let cases: [(&str, Vec<u8>, &str); 5] = [
        (
            "text.db",
            b"this is no database, it is a letter to a friend\n".repeat(9),
            "move the file away",
        ),
        ("torn.db", torn, "move the file away"),
        ("cut.db", cut, "move the file away"),
        ("newer.db", newer, "schema 900"),
        ("foreign.db", foreign, "another program"),
    ];
    for (name, bytes, says) in cases {
        let path = directory.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let error = Store::open(&path).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(says), "{name}: {text}");
        let right_kind = match name {
            "newer.db" => matches!(error, StoreError::Newer { found: 900, .. }),
            _ => matches!(error, StoreError::Corrupt { .. }),
        };
        assert!(right_kind, "{name}: {error:?}");
        let still = std::fs::read(&path).unwrap();
        assert!(still[100..] == bytes[100..], "{name} was written to");
    }
}

#[test]
fn a_missing_directory_names_the_file_and_the_step() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent").join("stacyvm.db");
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }));
    assert!(error.to_string().contains("absent/stacyvm.db"), "{error}");
}
