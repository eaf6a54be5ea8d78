//! The properties of a container that cannot be changed after its creation, as one comparable value.

use bollard::models::{ContainerCreateBody, ContainerUpdateBody};
use sha2::{Digest as _, Sha256};

use crate::names::{INSTANCE_LABEL, SANDBOX_LABEL};

/// The label with the shape of a warm container, for a server that did not make it.
pub(crate) const SHAPE_LABEL: &str = "stacyvm.shape";

/// A digest of everything that the engine was asked for, except for names and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape(String);

impl Shape {
    pub(super) fn of(body: &ContainerCreateBody) -> Self {
        let mut body = body.clone();
        // A sandbox's host name is its id; a claimed container keeps the host name that it has.
        body.hostname = None;
        if let Some(labels) = &mut body.labels {
            for label in [INSTANCE_LABEL, SANDBOX_LABEL, SHAPE_LABEL] {
                labels.remove(label);
            }
        }
        if let Some(host) = &mut body.host_config {
            host.memory = None;
            host.memory_swap = None;
            host.nano_cpus = None;
            host.pids_limit = None;
        }
        // The maps in the body have no order; a value sorts their keys.
        let text = serde_json::to_value(&body).map(|value| value.to_string());
        let text = text.expect("a body is made of texts, numbers, lists and maps with text keys");
        let digest = Sha256::digest(text.as_bytes());
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Reads the label of a container.
    pub(super) fn from_label(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The value of the label.
    pub(super) fn label(&self) -> String {
        self.0.clone()
    }
}

/// The limits that can be changed while a container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AdjustableLimits {
    memory: Option<i64>,
    memory_swap: Option<i64>,
    nano_cpus: Option<i64>,
    pids: Option<i64>,
}

impl AdjustableLimits {
    pub(super) fn of(body: &ContainerCreateBody) -> Self {
        let host = body.host_config.as_ref();
        Self {
            memory: host.and_then(|host| host.memory),
            memory_swap: host.and_then(|host| host.memory_swap),
            nano_cpus: host.and_then(|host| host.nano_cpus),
            pids: host.and_then(|host| host.pids_limit),
        }
    }

    /// The request that gives a container these limits.
    pub(super) fn update(self) -> ContainerUpdateBody {
        ContainerUpdateBody {
            memory: self.memory,
            memory_swap: self.memory_swap,
            nano_cpus: self.nano_cpus,
            pids_limit: self.pids,
            ..ContainerUpdateBody::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::HostConfig;

    use super::*;

    fn body(change: impl FnOnce(&mut ContainerCreateBody, &mut HostConfig)) -> ContainerCreateBody {
        let mut body = ContainerCreateBody {
            image: Some("sha256:1".to_owned()),
            cmd: Some(vec!["--init".to_owned()]),
            ..ContainerCreateBody::default()
        };
        let mut host = HostConfig {
            memory: Some(1),
            runtime: Some("runc".to_owned()),
            ..HostConfig::default()
        };
        change(&mut body, &mut host);
        body.host_config = Some(host);
        body
    }

    #[test]
    fn what_can_be_changed_does_not_count_and_all_else_does() {
        let usual = Shape::of(&body(|_, _| {}));
        let labels = |name: &str| {
            let label = (name.to_owned(), "x".to_owned());
            body(|body, _| body.labels = Some([label].into()))
        };
        let bare = body(|body, _| body.labels = Some([].into()));
        assert_eq!(Shape::of(&labels(SANDBOX_LABEL)), Shape::of(&bare));
        assert_ne!(Shape::of(&labels("traefik.enable")), Shape::of(&bare));
        let limits = body(|body, host| {
            body.hostname = Some("sb-1".to_owned());
            (host.memory, host.memory_swap) = (Some(2), Some(2));
            (host.nano_cpus, host.pids_limit) = (Some(3), Some(4));
        });
        assert_eq!(Shape::of(&limits), usual);
        assert_ne!(
            AdjustableLimits::of(&limits),
            AdjustableLimits::of(&body(|_, _| {}))
        );
        for other in [
            body(|body, _| body.image = Some("sha256:2".to_owned())),
            body(|body, _| body.cmd = Some(Vec::new())),
            body(|_, host| host.runtime = Some("runsc".to_owned())),
            body(|_, host| host.network_mode = Some("none".to_owned())),
            body(|_, host| host.readonly_rootfs = Some(true)),
            body(|_, host| host.storage_opt = Some([("size".into(), "1m".into())].into())),
        ] {
            assert_ne!(Shape::of(&other), usual, "{other:?}");
        }
    }
}
