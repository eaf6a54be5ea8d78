//! The owners' quotas: kept whole, replaced, deleted, and there after closing.

use stacyvm_store::Store;
use stacyvm_types::{GoDuration, Quota, Timestamp, Vcpus};

fn quota(owner: &str) -> Quota {
    Quota {
        owner_id: owner.parse().unwrap(),
        max_sandboxes: Some(3),
        max_ttl: Some(GoDuration::from_secs(90)),
        max_exec_timeout: Some(GoDuration::from_nanos(1)),
        max_memory_mb: Some(512),
        max_vcpus: Some(Vcpus::from_cores(1.5).unwrap()),
        max_disk_mb: Some(64),
        created_at: Timestamp::from_unix_micros(1),
        updated_at: Timestamp::from_unix_micros(2),
    }
}

fn nothing(owner: &str) -> Quota {
    Quota {
        max_sandboxes: None,
        max_ttl: None,
        max_exec_timeout: None,
        max_memory_mb: None,
        max_vcpus: None,
        max_disk_mb: None,
        ..quota(owner)
    }
}

async fn sorted(store: &Store) -> Vec<Quota> {
    let mut quotas = store.list_quotas().await.unwrap();
    quotas.sort_by(|one, other| one.owner_id.cmp(&other.owner_id));
    quotas
}

#[tokio::test]
async fn a_quota_is_kept_as_it_was_written_until_it_is_replaced_or_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let store = Store::open(&path).unwrap();
    for written in [quota("bob"), nothing("älice@example.org")] {
        store.set_quota(written).await.unwrap();
    }
    assert_eq!(
        sorted(&store).await,
        [quota("bob"), nothing("älice@example.org")]
    );
    store.set_quota(nothing("bob")).await.unwrap();
    store.close().await;

    let store = Store::open(&path).unwrap();
    assert_eq!(
        sorted(&store).await,
        [nothing("bob"), nothing("älice@example.org")]
    );
    let bob = "bob".parse().unwrap();
    assert!(store.delete_quota(&bob).await.unwrap());
    assert!(!store.delete_quota(&bob).await.unwrap());
    assert_eq!(sorted(&store).await, [nothing("älice@example.org")]);
    store.close().await;
}
