//! What things of ours are called in an engine, and whose they are.
//!
//! A container's name is the truth of which sandbox it is, because a name can be changed at once
//! and a label cannot be changed at all. Labels only say which server made it.

use std::collections::HashMap;

use stacyvm_types::SandboxId;

/// The label that tells the servers that share an engine apart.
pub(crate) const INSTANCE_LABEL: &str = "stacyvm.instance";
/// The label with the sandbox that something was made for, where that is known at its making.
pub(crate) const SANDBOX_LABEL: &str = "stacyvm.sandbox";

/// The names of one server's things.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    tag: String,
}

impl Names {
    /// `tag` is the server's own; see [`valid_tag`].
    pub(crate) fn new(tag: impl Into<String>) -> Self {
        Self { tag: tag.into() }
    }

    /// The server's own.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// The network of containers that have one.
    pub(crate) fn network(&self) -> String {
        format!("stacyvm-{}", self.tag)
    }

    /// A sandbox's container.
    pub(crate) fn container(&self, id: &SandboxId) -> String {
        format!("stacyvm-{}-{id}", self.tag)
    }

    /// The sandbox that a container's name stands for; none for containers of other kinds.
    pub(crate) fn sandbox_of(&self, container: &str) -> Option<SandboxId> {
        let name = container.strip_prefix('/').unwrap_or(container);
        name.strip_prefix("stacyvm-")?
            .strip_prefix(self.tag.as_str())?
            .strip_prefix('-')?
            .parse()
            .ok()
    }

    /// The volume at `/workspace` of a sandbox whose root is read-only.
    pub(crate) fn workspace(&self, id: &SandboxId) -> String {
        format!("stacyvm-{}-{id}-workspace", self.tag)
    }

    /// A container that only tries something out.
    pub(crate) fn trial(&self, number: u64) -> String {
        format!("{}{number:016x}", self.trial_prefix())
    }

    /// Whether a container is a trial's.
    pub(crate) fn is_trial(&self, container: &str) -> bool {
        let name = container.strip_prefix('/').unwrap_or(container);
        name.starts_with(&self.trial_prefix())
    }

    /// A container that waits for a sandbox.
    pub(crate) fn warm(&self, number: u64) -> String {
        format!("{}{number:016x}", self.warm_prefix())
    }

    /// Whether a container waits for a sandbox.
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

    /// What every thing of ours is labelled with.
    pub(crate) fn labels(&self, id: Option<&SandboxId>) -> HashMap<String, String> {
        let mut labels = HashMap::from([(INSTANCE_LABEL.to_owned(), self.tag.clone())]);
        if let Some(id) = id {
            labels.insert(SANDBOX_LABEL.to_owned(), id.to_string());
        }
        labels
    }

    /// The filter of an engine's lists that leaves only what is ours.
    pub(crate) fn filter(&self) -> HashMap<String, Vec<String>> {
        let label = format!("{INSTANCE_LABEL}={}", self.tag);
        HashMap::from([("label".to_owned(), vec![label])])
    }
}

/// Whether a text can be a server's tag: it becomes a part of names in the engine.
pub(crate) fn valid_tag(tag: &str) -> bool {
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
        let (ours, theirs) = (Names::new("ab"), Names::new("ab-c"));
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
        assert!(valid_tag("0a1b2c") && valid_tag("run-1"));
        for wrong in ["", "A", "a/b", "a_b", "ä", &"a".repeat(41)] {
            assert!(!valid_tag(wrong), "{wrong:?}");
        }
    }
}
