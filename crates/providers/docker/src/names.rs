//! The names and labels of a server's containers, volumes, networks and images in an engine.
//!
//! The one rule: a container's name decides which sandbox it is, because the engine changes a name in
//! one step and a label never. Labels only say which server made a container.

use std::collections::HashMap;

use stacyvm_types::SandboxId;

/// The label with the tag of the server that something belongs to: several may share an engine.
pub(crate) const INSTANCE_LABEL: &str = "stacyvm.instance";
/// The label with the sandbox that something was made for, where that was known at its creation.
pub(crate) const SANDBOX_LABEL: &str = "stacyvm.sandbox";
/// The repository of the empty image that trial containers are made from.
pub(crate) const TRIAL_REPOSITORY: &str = "stacyvm/trial";

/// The names that one server uses in an engine.
#[derive(Clone, Debug)]
pub(crate) struct EngineNames {
    tag: String,
}

impl EngineNames {
    /// `tag` tells this server from others on the same engine; see [`is_valid_tag`].
    pub(crate) fn new(tag: impl Into<String>) -> Self {
        Self { tag: tag.into() }
    }

    /// The server's tag.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// The network of sandboxes that have one.
    pub(crate) fn network(&self) -> String {
        format!("stacyvm-{}", self.tag)
    }

    /// The container of a sandbox.
    pub(crate) fn container(&self, id: &SandboxId) -> String {
        format!("stacyvm-{}-{id}", self.tag)
    }

    /// The sandbox that a container's name belongs to; none for containers of other kinds.
    pub(crate) fn sandbox_of(&self, container: &str) -> Option<SandboxId> {
        let name = container.strip_prefix('/').unwrap_or(container);
        name.strip_prefix("stacyvm-")?
            .strip_prefix(self.tag.as_str())?
            .strip_prefix('-')?
            .parse()
            .ok()
    }

    /// The volume at `/workspace` of a sandbox with a read-only root.
    pub(crate) fn workspace(&self, id: &SandboxId) -> String {
        format!("stacyvm-{}-{id}-workspace", self.tag)
    }

    /// A trial container.
    pub(crate) fn trial(&self, number: u64) -> String {
        format!("{}{number:016x}", self.trial_prefix())
    }

    /// Whether a container is a trial container.
    pub(crate) fn is_trial(&self, container: &str) -> bool {
        let name = container.strip_prefix('/').unwrap_or(container);
        name.starts_with(&self.trial_prefix())
    }

    /// A warm container: one that is made ahead and waits for a sandbox.
    pub(crate) fn warm(&self, number: u64) -> String {
        format!("{}{number:016x}", self.warm_prefix())
    }

    /// Whether a container is a warm one.
    pub(crate) fn is_warm(&self, container: &str) -> bool {
        let name = container.strip_prefix('/').unwrap_or(container);
        name.starts_with(&self.warm_prefix())
    }

    fn warm_prefix(&self) -> String {
        format!("stacyvm-{}-warm-", self.tag)
    }

    fn trial_prefix(&self) -> String {
        format!("stacyvm-{}-trial-", self.tag)
    }

    /// The labels of everything that the server creates.
    pub(crate) fn labels(&self, id: Option<&SandboxId>) -> HashMap<String, String> {
        let mut labels = HashMap::from([(INSTANCE_LABEL.to_owned(), self.tag.clone())]);
        if let Some(id) = id {
            labels.insert(SANDBOX_LABEL.to_owned(), id.to_string());
        }
        labels
    }

    /// The filter that limits an engine's lists to what belongs to this server.
    pub(crate) fn filter(&self) -> HashMap<String, Vec<String>> {
        let label = format!("{INSTANCE_LABEL}={}", self.tag);
        HashMap::from([("label".to_owned(), vec![label])])
    }
}

/// Whether a text can be a server's tag, which becomes a part of names in the engine.
pub(crate) fn is_valid_tag(tag: &str) -> bool {
    !tag.is_empty()
        && tag.len() <= 40
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_sandbox_and_to_no_other_server() {
        let (ours, theirs) = (EngineNames::new("ab"), EngineNames::new("ab-c"));
        let id = SandboxId::from_u32(7);
        let name = ours.container(&id);
        assert_eq!(ours.sandbox_of(&name), Some(id.clone()));
        assert_eq!(ours.sandbox_of(&format!("/{name}")), Some(id.clone()));
        assert_eq!(theirs.sandbox_of(&name), None);
        assert_eq!(ours.sandbox_of(&theirs.container(&id)), None);
        assert_eq!(ours.sandbox_of(&ours.workspace(&id)), None);
        let trial = ours.trial(1);
        assert!(ours.is_trial(&trial) && ours.sandbox_of(&trial).is_none());
        let warm = ours.warm(1);
        assert!(ours.is_warm(&warm) && ours.sandbox_of(&warm).is_none());
        assert!(!theirs.is_warm(&warm) && !ours.is_warm(&name) && !ours.is_warm(&trial));
        assert!(!theirs.is_trial(&trial) && !ours.is_trial(&name));
    }

    #[test]
    fn tags_are_plain() {
        assert!(is_valid_tag("0a1b2c") && is_valid_tag("run-1"));
        for wrong in ["", "A", "a/b", "a_b", "ä", &"a".repeat(41)] {
            assert!(!is_valid_tag(wrong), "{wrong:?}");
        }
    }
}
