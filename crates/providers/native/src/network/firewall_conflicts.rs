//! Firewall tables of other programs that drop the packets of sandboxes.

use serde::Deserialize;
use stacyvm_firewall::{TABLE_PREFIX, list};

use super::layout::INTERFACE_PREFIX;

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    chain: Option<Chain>,
}

#[derive(Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}

/// Other tables that drop what sandboxes send, one sentence each, with the command that opens
/// them. Only the policies of chains are checked, not single rules.
pub(super) fn find() -> Vec<String> {
    let Some(text) = list(&["-j", "list", "chains"]) else {
        return Vec::new();
    };
    let Ok(listing) = serde_json::from_str::<Listing>(&text) else {
        return Vec::new();
    };
    let chains: Vec<_> = listing
        .nftables
        .into_iter()
        .filter_map(|item| item.chain)
        .filter(|chain| !chain.table.starts_with(TABLE_PREFIX))
        .collect();
    let docker = chains.iter().any(|chain| chain.name == "DOCKER-USER");
    let mut found = Vec::new();
    for chain in &chains {
        let hook = chain.hook.as_deref().unwrap_or_default();
        if chain.policy.as_deref() != Some("drop")
            || !matches!(hook, "forward" | "input")
            || !matches!(chain.family.as_str(), "ip" | "ip6" | "inet")
            || (chain.family == "ip6" && hook == "input")
            || accepts_sandboxes(chain, docker && hook == "forward")
        {
            continue;
        }
        found.push(sentence(chain, hook, docker));
    }
    found
}

/// Whether the chain has a rule for the interfaces of sandboxes already.
fn accepts_sandboxes(chain: &Chain, docker: bool) -> bool {
    let named = |name: &str| {
        list(&["list", "chain", &chain.family, &chain.table, name])
            .is_some_and(|text| text.contains(&format!("\"{INTERFACE_PREFIX}")))
    };
    named(&chain.name) || (docker && named("DOCKER-USER"))
}

fn sentence(chain: &Chain, hook: &str, docker: bool) -> String {
    let Chain {
        family,
        table,
        name,
        ..
    } = chain;
    let what = if hook == "forward" {
        "sandboxes cannot reach outside"
    } else {
        "sandboxes cannot resolve names"
    };
    let iptables = match (family.as_str(), table.as_str()) {
        ("ip", "filter") => Some("iptables"),
        ("ip6", "filter") => Some("ip6tables"),
        _ => None,
    };
    let remedy = match (iptables, hook) {
        (Some(program), "forward") => {
            let place = if docker && program == "iptables" {
                "DOCKER-USER"
            } else {
                name
            };
            format!(
                "{program} -I {place} -i {INTERFACE_PREFIX}+ -j ACCEPT && {program} -I {place} -o {INTERFACE_PREFIX}+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
            )
        }
        (Some(program), _) => format!("{program} -I {name} -i {INTERFACE_PREFIX}+ -j ACCEPT"),
        (None, "forward") => format!(
            "nft insert rule {family} {table} {name} iifname '\"{INTERFACE_PREFIX}*\"' accept && nft insert rule {family} {table} {name} oifname '\"{INTERFACE_PREFIX}*\"' ct state established,related accept"
        ),
        (None, _) => {
            format!(
                "nft insert rule {family} {table} {name} iifname '\"{INTERFACE_PREFIX}*\"' accept"
            )
        }
    };
    format!(
        "{what}: the firewall chain {family} {table} {name} drops what it does not know; open it with: {remedy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &str, table: &str, name: &str) -> Chain {
        Chain {
            family: family.to_owned(),
            table: table.to_owned(),
            name: name.to_owned(),
            hook: None,
            policy: None,
        }
    }

    #[test]
    fn each_firewall_is_opened_in_its_own_words() {
        let docker = sentence(&chain("ip", "filter", "FORWARD"), "forward", true);
        assert!(
            docker.contains("iptables -I DOCKER-USER -i svm+ -j ACCEPT"),
            "{docker}"
        );
        let plain = sentence(&chain("ip", "filter", "FORWARD"), "forward", false);
        assert!(
            plain.contains("iptables -I FORWARD -i svm+ -j ACCEPT"),
            "{plain}"
        );
        let own = sentence(&chain("inet", "mine", "in"), "input", false);
        assert!(
            own.contains("nft insert rule inet mine in iifname '\"svm*\"' accept"),
            "{own}"
        );
        assert!(own.contains("resolve names"), "{own}");
    }
}
