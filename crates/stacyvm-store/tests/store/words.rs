//! What each word of the store does.

use std::time::Duration;

use stacyvm_store::{
    IdempotencyClaim, IdempotencyHit, IntentOutcome, Store, StoreError, StoredState,
};
use stacyvm_types::{SandboxId, Timestamp};

use crate::record;

/// Each test over a database in memory and over a file.
fn both() -> Vec<(Store, Option<tempfile::TempDir>)> {
    let directory = tempfile::tempdir().unwrap();
    let file = Store::open(directory.path().join("stacyvm.db")).unwrap();
    vec![(Store::in_memory().unwrap(), None), (file, Some(directory))]
}

#[tokio::test]
async fn a_sandbox_is_kept_as_it_was_written_through_its_life() {
    for (store, _directory) in both() {
        let mut expected = record(7);
        let id = expected.id.clone();
        let outcome = store.insert_intent(expected.clone(), None).await.unwrap();
        assert_eq!(outcome, IntentOutcome::Written);
        assert_eq!(store.get(&id).await.unwrap(), Some(expected.clone()));

        assert!(store.mark_running(&id).await.unwrap());
        expected.state = StoredState::Running;
        assert_eq!(store.list_active().await.unwrap(), [expected.clone()]);

        let later = expected.expires_at.saturating_add(Duration::from_secs(5));
        assert!(store.extend(&id, later).await.unwrap());
        expected.expires_at = later;
        for (marked, state) in [
            (store.mark_stopped(&id).await, StoredState::Stopped),
            (store.mark_error(&id).await, StoredState::Error),
            (store.mark_destroying(&id).await, StoredState::Destroying),
        ] {
            assert!(marked.unwrap());
            expected.state = state;
        }
        assert_eq!(store.get(&id).await.unwrap(), Some(expected));

        assert!(store.mark_destroyed(&id).await.unwrap());
        assert!(!store.mark_destroyed(&id).await.unwrap());
        assert_eq!(store.get(&id).await.unwrap(), None);
        assert_eq!(store.list_active().await.unwrap(), []);
        assert_eq!(store.total_sandboxes().await.unwrap(), 1);
    }
}

#[tokio::test]
async fn words_about_unknown_sandboxes_change_nothing() {
    let store = Store::in_memory().unwrap();
    let id = SandboxId::from_u32(1);
    assert!(!store.mark_running(&id).await.unwrap());
    assert!(!store.extend(&id, Timestamp::now()).await.unwrap());
    assert!(!store.abandon(&id).await.unwrap());
    assert_eq!(store.list_active().await.unwrap(), []);
}

#[tokio::test]
async fn an_id_is_given_out_once_for_ever() {
    for (store, _directory) in both() {
        for number in [0, 1, u32::MAX] {
            let id = SandboxId::from_u32(number);
            let first = store.insert_intent(record(number), None).await.unwrap();
            assert_eq!(first, IntentOutcome::Written);
            let mut again = record(number);
            again.image = "other".to_owned();
            let taken = store.insert_intent(again.clone(), None).await.unwrap();
            assert_eq!(taken, IntentOutcome::IdTaken);
            assert_eq!(store.get(&id).await.unwrap().unwrap().image, "host");
            assert!(store.mark_destroyed(&id).await.unwrap());
            let taken = store.insert_intent(again, None).await.unwrap();
            assert_eq!(taken, IntentOutcome::IdTaken);
            assert_eq!(store.get(&id).await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn keys_belong_to_their_owner_end_in_time_and_are_freed_by_abandoning() {
    let store = Store::in_memory().unwrap();
    let start = Timestamp::from_unix_micros(0);
    let end = start.saturating_add(Duration::from_secs(10));
    let claim = |owner: Option<&str>| IdempotencyClaim {
        owner: owner.map(|owner| owner.parse().unwrap()),
        key: "key".to_owned(),
        digest: [9; 32],
        expires_at: end,
    };
    let hit = |number| {
        Some(IdempotencyHit {
            digest: [9; 32],
            sandbox: SandboxId::from_u32(number),
        })
    };
    let alice = "alice".parse().unwrap();
    let bob = "bob".parse().unwrap();
    for (number, owner) in [(1, None), (2, Some("alice"))] {
        let written = store.insert_intent(record(number), Some(claim(owner)));
        assert_eq!(written.await.unwrap(), IntentOutcome::Written);
    }
    let find = async |owner, now| store.idempotency(owner, "key", now).await.unwrap();
    assert_eq!(find(None, start).await, hit(1));
    assert_eq!(find(Some(&alice), start).await, hit(2));
    assert_eq!(find(Some(&bob), start).await, None);
    assert_eq!(find(None, end).await, None);

    // A destroyed sandbox keeps its key, one that no client got does not.
    store.mark_destroyed(&SandboxId::from_u32(1)).await.unwrap();
    assert_eq!(find(None, start).await, hit(1));
    assert!(store.abandon(&SandboxId::from_u32(2)).await.unwrap());
    assert_eq!(find(Some(&alice), start).await, None);

    // A key whose time is over can be used anew, and is dropped.
    let written = store.insert_intent(record(3), Some(claim(None))).await;
    assert_eq!(written.unwrap(), IntentOutcome::Written);
    assert_eq!(find(None, start).await, hit(3));
    assert_eq!(store.prune_idempotency(start).await.unwrap(), 0);
    assert_eq!(store.prune_idempotency(end).await.unwrap(), 1);
    assert_eq!(find(None, start).await, None);
}

#[tokio::test]
async fn many_writers_at_once_all_get_their_own_answer() {
    for (store, _directory) in both() {
        // Every id twice: exactly one of each pair is refused, in whatever transaction it lands.
        let mut writes = tokio::task::JoinSet::new();
        for number in 0..400_u32 {
            let store = store.clone();
            writes.spawn(async move { store.insert_intent(record(number / 2), None).await });
        }
        let outcomes = writes.join_all().await;
        let written = outcomes
            .into_iter()
            .filter(|outcome| *outcome.as_ref().unwrap() == IntentOutcome::Written);
        assert_eq!(written.count(), 200);
        assert_eq!(store.list_active().await.unwrap().len(), 200);
    }
}

#[tokio::test]
async fn a_closed_store_says_so_and_a_write_without_a_listener_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let store = Store::open(&path).unwrap();
    {
        // Polled once, so that it is queued, and dropped.
        let write = std::pin::pin!(store.insert_intent(record(1), None));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        // A quick writer may even have answered within the one poll.
        let _ = std::future::Future::poll(write, &mut context);
    }
    let twin = store.clone();
    store.close().await;
    store.close().await;
    assert!(matches!(twin.list_active().await, Err(StoreError::Closed)));
    let refused = twin.mark_running(&SandboxId::from_u32(1)).await;
    assert!(matches!(refused, Err(StoreError::Closed)));
    let again = Store::open(&path).unwrap();
    assert_eq!(again.list_active().await.unwrap().len(), 1);
    again.close().await;
}

#[tokio::test]
async fn the_file_stays_small_over_many_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let store = Store::open(&path).unwrap();
    let lives = 5_000_u32;
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for life in (worker..lives).step_by(8) {
                // Scattered as random ids are.
                let mut record = record(life.wrapping_mul(2_654_435_761));
                record.metadata.insert("k".to_owned(), "v".repeat(1000));
                let id = record.id.clone();
                let outcome = store.insert_intent(record, None).await.unwrap();
                assert_eq!(outcome, IntentOutcome::Written);
                store.mark_running(&id).await.unwrap();
                store.mark_destroyed(&id).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(store.total_sandboxes().await.unwrap(), u64::from(lives));
    let log = directory.path().join("stacyvm.db-wal");
    let log = std::fs::metadata(log).unwrap().len();
    store.close().await;
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 400_000, "{size} bytes for {lives} ids");
    // Beyond 16 MB only by what is written during one copying back, which takes the disk a while.
    assert!(log < 64_000_000, "{log} bytes of log");
}
