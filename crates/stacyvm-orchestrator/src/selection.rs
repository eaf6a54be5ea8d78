//! Which provider a spawn gets, and at which level of isolation.
//!
//! What a request names is a floor: it gets the weakest level that reaches it, because a stronger
//! one costs more, and never less than it asked for. A spawn that asks for no level gets
//! the usual level of the provider, whatever other levels the provider offers.

use std::collections::BTreeMap;
use std::sync::Arc;

use stacyvm_types::Isolation;

use crate::Error;
use crate::health::ProviderSlot;
use crate::limits::shown;

/// Where a spawn goes.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) slot: Arc<ProviderSlot>,
    pub(crate) isolation: Isolation,
}

/// Finds it for a request that names a provider, a floor, both or none of them. Without a name
/// the default provider gets it when it can, and else the healthy one that gives the least that
/// will do.
pub(crate) fn select(
    providers: &BTreeMap<String, Arc<ProviderSlot>>,
    named: Option<&str>,
    default: &str,
    floor: Option<Isolation>,
) -> Result<Selection, Error> {
    let name = named.unwrap_or(default);
    let slot = providers.get(name).ok_or_else(|| {
        let configured: Vec<&str> = providers.keys().map(String::as_str).collect();
        Error::NotFound(format!(
            "provider {:?} is not configured; configured are {}",
            shown(name),
            configured.join(", ")
        ))
    })?;
    let usual = slot.provider.isolation();
    let Some(floor) = floor else {
        return Ok(selected(slot, usual));
    };
    if let Some(isolation) = reaching(slot, floor) {
        return Ok(selected(slot, isolation));
    }
    if named.is_some() {
        return Err(Error::Unsupported(format!(
            "provider {name} gives isolation {}, less than the {floor} asked for",
            given(slot)
        )));
    }
    let others = providers.values().filter(|slot| slot.healthy());
    let others = others.filter_map(|slot| Some(selected(slot, reaching(slot, floor)?)));
    // In the order of their names, so that of equals the first one stays.
    others.reduce(weaker).ok_or_else(|| {
        let all = providers.iter().map(|(name, slot)| {
            let health = if slot.healthy() { "" } else { ", not healthy" };
            format!("{name} ({}{health})", given(slot))
        });
        let all: Vec<_> = all.collect();
        Error::Unsupported(format!(
            "no provider gives isolation {floor} now; there are {}",
            all.join(", ")
        ))
    })
}

fn selected(slot: &Arc<ProviderSlot>, isolation: Isolation) -> Selection {
    Selection {
        slot: Arc::clone(slot),
        isolation,
    }
}

/// The usual level of a provider when that reaches the floor, else the weakest of the others that
/// does.
fn reaching(slot: &ProviderSlot, floor: Isolation) -> Option<Isolation> {
    let usual = slot.provider.isolation();
    if usual.satisfies(floor) {
        return Some(usual);
    }
    let all = slot.provider.isolations().into_iter();
    all.filter(|level| level.satisfies(floor))
        .reduce(|one, other| if one.satisfies(other) { other } else { one })
}

/// The one that gives less; the first of equals.
fn weaker(one: Selection, other: Selection) -> Selection {
    let stronger = one.isolation.satisfies(other.isolation);
    if stronger && one.isolation != other.isolation {
        other
    } else {
        one
    }
}

/// What a provider can give, in words.
fn given(slot: &ProviderSlot) -> String {
    let all = slot.provider.isolations().into_iter();
    let all: Vec<_> = all.map(Isolation::as_str).collect();
    all.join(" or ")
}
