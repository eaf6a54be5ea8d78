//! Idempotency keys whose first request is still being worked on. What a finished one made is in
//! the store.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use stacyvm_types::{OwnerId, SpawnRequest};
use tokio_util::sync::CancellationToken;

type Key = (Option<OwnerId>, String);

/// The keys in flight.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    in_flight: Mutex<HashMap<Key, InFlight>>,
}

#[derive(Clone, Debug)]
struct InFlight {
    digest: [u8; 32],
    done: CancellationToken,
}

/// What a request finds at its key.
#[derive(Debug)]
pub(crate) enum Entered {
    /// It is the first; the key is free again when every clone of the guard is dropped.
    First(Arc<KeyGuard>),
    /// The same request is under way; wait for this and look again.
    Wait(CancellationToken),
    /// Another request is under way.
    Other,
}

/// Holds a key while its request is worked on.
#[derive(Debug)]
pub(crate) struct KeyGuard {
    keys: Arc<Keys>,
    key: Key,
    done: CancellationToken,
}

impl Keys {
    pub(crate) fn enter(
        self: &Arc<Self>,
        owner: Option<&OwnerId>,
        key: &str,
        digest: [u8; 32],
    ) -> Entered {
        let key = (owner.cloned(), key.to_owned());
        let mut in_flight = self.lock();
        if let Some(other) = in_flight.get(&key) {
            return if other.digest == digest {
                Entered::Wait(other.done.clone())
            } else {
                Entered::Other
            };
        }
        let done = CancellationToken::new();
        let entry = InFlight {
            digest,
            done: done.clone(),
        };
        in_flight.insert(key.clone(), entry);
        Entered::First(Arc::new(KeyGuard {
            keys: Arc::clone(self),
            key,
            done,
        }))
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<Key, InFlight>> {
        self.in_flight.lock()
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
        self.done.cancel();
    }
}

/// Tells one request from another. Fields that are absent or `null` do not count, so a field
/// that a later version adds does not change the digest of today's requests.
pub(crate) fn digest(request: &SpawnRequest) -> [u8; 32] {
    let value = serde_json::to_value(request).expect("a spawn request is always JSON");
    let mut hash = Sha256::new();
    if let serde_json::Value::Object(fields) = value {
        let mut fields: Vec<_> = fields.into_iter().filter(|(_, v)| !v.is_null()).collect();
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (name, value) in fields {
            hash.update(name.as_bytes());
            hash.update([0]);
            hash.update(value.to_string().as_bytes());
            hash.update([0]);
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_held_by_one_request_of_one_owner() {
        let keys = Arc::new(Keys::default());
        let alice: OwnerId = "alice".parse().unwrap();
        let Entered::First(guard) = keys.enter(Some(&alice), "k", [1; 32]) else {
            panic!("the first request did not get the key");
        };
        let Entered::Wait(done) = keys.enter(Some(&alice), "k", [1; 32]) else {
            panic!("the same request did not wait");
        };
        assert!(matches!(
            keys.enter(Some(&alice), "k", [2; 32]),
            Entered::Other
        ));
        assert!(matches!(keys.enter(None, "k", [2; 32]), Entered::First(_)));
        let second = Arc::clone(&guard);
        drop(guard);
        assert!(!done.is_cancelled());
        drop(second);
        assert!(done.is_cancelled());
        assert!(matches!(
            keys.enter(Some(&alice), "k", [2; 32]),
            Entered::First(_)
        ));
    }

    #[test]
    fn digests_tell_requests_apart_by_what_they_say() {
        let parse = |text| serde_json::from_str::<SpawnRequest>(text).unwrap();
        let one = digest(&parse(
            r#"{"image":"a","ttl":"1m","metadata":{"x":"1","y":"2"}}"#,
        ));
        let same = digest(&parse(
            r#"{"metadata":{"y":"2","x":"1"},"ttl":"1m","image":"a","user":null}"#,
        ));
        let other = digest(&parse(
            r#"{"image":"a","ttl":"2m","metadata":{"x":"1","y":"2"}}"#,
        ));
        assert_eq!(one, same);
        assert_ne!(one, other);
    }
}
