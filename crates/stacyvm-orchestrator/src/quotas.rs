//! What single owners may use at most: kept in memory beside the store, so that a spawn or an
//! exec looks at it without waiting.
//!
//! A quota only ever tightens what the configuration allows: where both say something, the
//! smaller wins.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use stacyvm_types::{GoDuration, OwnerId, Quota, QuotaRequest, QuotaSummary, Timestamp, Vcpus};

use crate::limits::{self, DISK_BOUND, MEMORY_BOUND, bad};
use crate::{Error, Settings};

/// How many owners may have a quota of their own.
const MAX_QUOTAS: usize = 100_000;
/// The owner id that GET `/quotas/summary` could not be told from.
const RESERVED: &str = "summary";

/// The quotas of all owners that have one.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    held: Mutex<BTreeMap<OwnerId, Quota>>,
    /// Held while a quota is changed, so that memory and store agree.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Quotas {
    /// Builds the table from the quotas in the store.
    pub(crate) fn load(quotas: Vec<Quota>) -> Self {
        let by_owner = |quota: Quota| (quota.owner_id.clone(), quota);
        Self {
            held: Mutex::new(quotas.into_iter().map(by_owner).collect()),
            changing: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn get(&self, owner: &OwnerId) -> Option<Quota> {
        self.lock().get(owner).cloned()
    }

    /// Lists all quotas, sorted by owner.
    pub(crate) fn list(&self) -> Vec<Quota> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn set(&self, quota: Quota) {
        self.lock().insert(quota.owner_id.clone(), quota);
    }

    pub(crate) fn remove(&self, owner: &OwnerId) {
        self.lock().remove(owner);
    }

    /// Whether one more owner can have one.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().len() < MAX_QUOTAS
    }

    pub(crate) fn summary(&self) -> QuotaSummary {
        let held = self.lock();
        let count = |has: fn(&Quota) -> bool| held.values().filter(|quota| has(quota)).count();
        QuotaSummary {
            total: held.len() as u64,
            with_max_sandboxes: count(|quota| quota.max_sandboxes.is_some()) as u64,
            with_max_ttl: count(|quota| quota.max_ttl.is_some()) as u64,
            with_max_exec_timeout: count(|quota| quota.max_exec_timeout.is_some()) as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OwnerId, Quota>> {
        // A map is whole after any panic of its users: each change is one call.
        self.held.lock()
    }
}

/// The settings with a quota laid over them.
pub(crate) fn tightened(settings: &Settings, quota: &Quota) -> Settings {
    let max_ttl = shorter(settings.max_ttl, quota.max_ttl);
    let max_memory_mb = smaller(settings.max_memory_mb, quota.max_memory_mb);
    let max_vcpus = smaller(settings.max_vcpus, quota.max_vcpus);
    let max_disk_mb = smaller(settings.max_disk_mb, quota.max_disk_mb);
    let of_owner = Some(settings.max_owner_sandboxes).filter(|max| *max != 0);
    Settings {
        max_ttl,
        max_exec_timeout: shorter(settings.max_exec_timeout, quota.max_exec_timeout),
        max_memory_mb,
        max_vcpus,
        max_disk_mb,
        max_owner_sandboxes: smaller(of_owner, quota.max_sandboxes).unwrap_or(0),
        // A request that names no value gets no more than the quota allows.
        memory_mb: max_memory_mb.map_or(settings.memory_mb, |max| settings.memory_mb.min(max)),
        vcpus: max_vcpus.map_or(settings.vcpus, |max| settings.vcpus.min(max)),
        ..settings.clone()
    }
}

pub(crate) fn smaller<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn shorter(one: Option<Duration>, other: Option<GoDuration>) -> Option<Duration> {
    let one = one.filter(|duration| !duration.is_zero());
    smaller(one, other.map(GoDuration::to_std))
}

/// The owner that a text names, who may have a quota.
pub(crate) fn owner(text: &str) -> Result<OwnerId, Error> {
    let owner: OwnerId = text
        .parse()
        .map_err(|error| Error::BadRequest(format!("owner_id: {error}")))?;
    if owner.as_str() == RESERVED {
        return bad(format!(
            "an owner called {RESERVED:?} cannot have a quota, /quotas/{RESERVED} is another page"
        ));
    }
    Ok(owner)
}

/// The quota that a request makes of the one before.
pub(crate) fn changed(
    before: Option<&Quota>,
    owner: OwnerId,
    request: &QuotaRequest,
    now: Timestamp,
) -> Result<Quota, Error> {
    let mut quota = before.cloned().unwrap_or(Quota {
        owner_id: owner,
        max_sandboxes: None,
        max_ttl: None,
        max_exec_timeout: None,
        max_memory_mb: None,
        max_vcpus: None,
        max_disk_mb: None,
        created_at: now,
        updated_at: now,
    });
    quota.updated_at = now;
    if let Some(asked) = request.max_sandboxes {
        quota.max_sandboxes = number("max_sandboxes", asked, i64::MAX)?;
    }
    if let Some(text) = &request.max_ttl {
        quota.max_ttl = duration("max_ttl", text)?;
    }
    if let Some(text) = &request.max_exec_timeout {
        quota.max_exec_timeout = duration("max_exec_timeout", text)?;
    }
    if let Some(asked) = request.max_memory_mb {
        quota.max_memory_mb = number("max_memory_mb", asked, MEMORY_BOUND)?;
    }
    if let Some(asked) = request.max_vcpus {
        let cores = limits::vcpus("max_vcpus", asked)?;
        quota.max_vcpus = (cores > Vcpus::NONE).then_some(cores);
    }
    if let Some(asked) = request.max_disk_mb {
        let asked = number("max_disk_mb", asked, DISK_BOUND)?;
        asked.map_or(Ok(()), |asked| limits::disk("max_disk_mb", asked))?;
        quota.max_disk_mb = asked;
    }
    Ok(quota)
}

/// 0 takes the limit away.
fn number(name: &str, asked: i64, bound: i64) -> Result<Option<u64>, Error> {
    if asked > bound {
        return bad(format!("{name} must not be above {bound}"));
    }
    let Ok(asked) = u64::try_from(asked) else {
        return bad(format!("{name} must not be negative"));
    };
    Ok((asked > 0).then_some(asked))
}

/// `0s` takes the limit away.
fn duration(name: &str, text: &str) -> Result<Option<GoDuration>, Error> {
    let asked: GoDuration = text
        .parse()
        .map_err(|error| Error::BadRequest(format!("{name}: {error}")))?;
    if asked < GoDuration::ZERO {
        return bad(format!("{name} must not be negative, not {asked}"));
    }
    Ok(asked.is_positive().then_some(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(before: Option<&Quota>, json: &str) -> Result<Quota, Error> {
        let request: QuotaRequest = serde_json::from_str(json).unwrap();
        let now = Timestamp::from_unix_micros(if before.is_some() { 2 } else { 1 });
        changed(before, "alice".parse().unwrap(), &request, now)
    }

    #[test]
    fn a_change_keeps_what_it_leaves_out_and_zero_takes_away() {
        let first = change(None, r#"{"max_sandboxes":2,"max_ttl":"90m","max_vcpus":1}"#).unwrap();
        let second = change(
            Some(&first),
            r#"{"max_sandboxes":0,"max_ttl":null,"max_exec_timeout":"5s"}"#,
        )
        .unwrap();
        assert_eq!(second.max_sandboxes, None);
        assert_eq!(second.max_ttl, first.max_ttl);
        assert_eq!(second.max_exec_timeout, Some(GoDuration::from_secs(5)));
        assert_eq!(second.max_vcpus, Some(Vcpus::ONE));
        assert_eq!(second.created_at, first.created_at);
        assert!(second.updated_at > first.updated_at);
        let third = change(Some(&second), r#"{"max_ttl":"0s"}"#).unwrap();
        assert_eq!(third.max_ttl, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (json, names) in [
            (r#"{"max_sandboxes":-1}"#, "max_sandboxes"),
            (r#"{"max_ttl":"-1s"}"#, "max_ttl"),
            (r#"{"max_ttl":"1d"}"#, "max_ttl"),
            (r#"{"max_exec_timeout":""}"#, "max_exec_timeout"),
            (r#"{"max_memory_mb":-1}"#, "max_memory_mb"),
            (r#"{"max_vcpus":4097}"#, "max_vcpus"),
            (r#"{"max_vcpus":0.01}"#, "max_vcpus"),
            (r#"{"max_disk_mb":-1}"#, "max_disk_mb"),
            (r#"{"max_disk_mb":15}"#, "max_disk_mb"),
        ] {
            let error = change(None, json).unwrap_err();
            assert!(matches!(error, Error::BadRequest(_)), "{json}");
            assert!(error.to_string().contains(names), "{error}");
        }
        assert!(owner("summary").is_err() && owner("a/b").is_err());
    }

    #[test]
    fn the_smaller_limit_wins_whichever_it_is() {
        let settings = Settings {
            max_ttl: Some(Duration::from_secs(60)),
            max_exec_timeout: Some(Duration::ZERO),
            max_memory_mb: Some(2048),
            max_owner_sandboxes: 5,
            vcpus: Vcpus::whole(2),
            ..Settings::default()
        };
        let quota = change(
            None,
            r#"{"max_sandboxes":9,"max_ttl":"30s","max_exec_timeout":"7s","max_memory_mb":512,"max_vcpus":0.5,"max_disk_mb":64}"#,
        )
        .unwrap();
        let tight = tightened(&settings, &quota);
        assert_eq!(tight.max_owner_sandboxes, 5);
        assert_eq!(tight.max_ttl, Some(Duration::from_secs(30)));
        assert_eq!(tight.max_exec_timeout, Some(Duration::from_secs(7)));
        assert_eq!((tight.max_memory_mb, tight.memory_mb), (Some(512), 512));
        let half = Vcpus::from_cores(0.5).unwrap();
        assert_eq!((tight.max_vcpus, tight.vcpus), (Some(half), half));
        assert_eq!(tight.max_disk_mb, Some(64));
        let loose = tightened(&settings, &change(None, r#"{"max_ttl":"2m"}"#).unwrap());
        assert_eq!(loose.max_ttl, settings.max_ttl);
        assert_eq!(loose.max_owner_sandboxes, 5);
        assert_eq!(loose.max_memory_mb, Some(2048));
        let unlimited = Settings::default();
        let counted = change(None, r#"{"max_sandboxes":2}"#).unwrap();
        assert_eq!(tightened(&unlimited, &counted).max_owner_sandboxes, 2);
    }
}
