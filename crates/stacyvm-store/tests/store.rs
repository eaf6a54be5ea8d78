//! The store through its public face, over real files: what it keeps, what it refuses, and what
//! a killed process or a full disk does to it.
#![allow(clippy::unwrap_used)]

#[path = "store/crash.rs"]
mod crash;
#[path = "store/open.rs"]
mod open;
#[path = "store/quotas.rs"]
mod quotas;
#[path = "store/words.rs"]
mod words;

use std::collections::BTreeMap;

use stacyvm_store::{SandboxRecord, StoredState};
use stacyvm_types::{Isolation, PreviewAccess, SandboxId, Timestamp, Vcpus};

/// A record whose every field differs from its default.
fn record(number: u32) -> SandboxRecord {
    let created_at = Timestamp::from_unix_micros(1_700_000_000_000_000);
    SandboxRecord {
        id: SandboxId::from_u32(number),
        state: StoredState::Creating,
        provider: "fake".to_owned(),
        image: "host".to_owned(),
        memory_mb: 512,
        vcpus: Vcpus::from_cores(0.5).unwrap(),
        disk_mb: Some(2048),
        owner: Some("alice".parse().unwrap()),
        template: Some("python".to_owned()),
        isolation: Isolation::UserspaceKernel,
        created_at,
        expires_at: created_at.saturating_add(std::time::Duration::from_secs(60)),
        metadata: BTreeMap::from([("näme".to_owned(), "a \"quoted\" value".to_owned())]),
        preview: Some(PreviewAccess::Private),
    }
}
