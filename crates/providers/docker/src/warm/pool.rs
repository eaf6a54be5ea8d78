//! The warm containers that are ready to become sandboxes.

use std::collections::HashSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shape::{AdjustableLimits, Shape};

/// The ready containers of one server.
#[derive(Debug, Default)]
pub(super) struct Pool {
    ready: Mutex<Vec<ReadyContainer>>,
    taken: Notify,
}

/// A container whose agent has answered.
#[derive(Clone, Debug)]
pub(super) struct ReadyContainer {
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) limits: AdjustableLimits,
}

impl Pool {
    pub(super) fn add(&self, container: ReadyContainer) {
        self.ready.lock().push(container);
    }

    /// Takes a container of a shape, preferably one that has the wanted limits already.
    pub(super) fn take(&self, shape: &Shape, wanted: AdjustableLimits) -> Option<ReadyContainer> {
        let mut ready = self.ready.lock();
        let fits = |one: &ReadyContainer| one.shape == *shape;
        let at = ready
            .iter()
            .position(|one| fits(one) && one.limits == wanted)
            .or_else(|| ready.iter().position(fits))?;
        let container = ready.swap_remove(at);
        drop(ready);
        self.taken.notify_one();
        Some(container)
    }

    /// Resolves when a container was taken, also when that was before the call.
    pub(super) async fn wait_for_take(&self) {
        self.taken.notified().await;
    }

    /// How many containers of a shape are ready.
    pub(super) fn count(&self, shape: &Shape) -> usize {
        let ready = self.ready.lock();
        ready.iter().filter(|one| one.shape == *shape).count()
    }

    /// Takes out the containers that do not run or are not wanted any more, and returns their names.
    pub(super) fn take_stale(
        &self,
        running: &HashSet<&str>,
        is_wanted: impl Fn(&Shape) -> bool,
    ) -> Vec<String> {
        let mut stale = Vec::new();
        self.ready.lock().retain(|one| {
            let keeps = running.contains(one.name.as_str()) && is_wanted(&one.shape);
            if !keeps {
                stale.push(one.name.clone());
            }
            keeps
        });
        stale
    }

    pub(super) fn clear(&self) {
        self.ready.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerCreateBody, HostConfig};

    use super::*;

    fn container(name: &str, shape: &str, limits: AdjustableLimits) -> ReadyContainer {
        ReadyContainer {
            name: name.to_owned(),
            shape: Shape::from_label(shape),
            limits,
        }
    }

    #[test]
    fn a_container_with_the_wanted_limits_is_preferred_and_no_other_shape_is_taken() {
        let pool = Pool::default();
        let (wanted, other) = (
            AdjustableLimits::default(),
            AdjustableLimits::of(&ContainerCreateBody {
                host_config: Some(HostConfig {
                    pids_limit: Some(1),
                    ..HostConfig::default()
                }),
                ..ContainerCreateBody::default()
            }),
        );
        pool.add(container("other-limits", "a", other));
        pool.add(container("same", "a", wanted));
        pool.add(container("other-shape", "b", wanted));
        let shape = Shape::from_label("a");
        let take = || pool.take(&shape, wanted).map(|one| one.name);
        assert_eq!(take().as_deref(), Some("same"));
        assert_eq!(take().as_deref(), Some("other-limits"));
        assert_eq!(take(), None);
        assert_eq!(pool.count(&Shape::from_label("b")), 1);
    }

    #[test]
    fn what_has_ended_or_is_not_wanted_is_taken_out() {
        let pool = Pool::default();
        for (name, shape) in [("one", "a"), ("two", "a"), ("three", "b")] {
            pool.add(container(name, shape, AdjustableLimits::default()));
        }
        let running = HashSet::from(["one", "three"]);
        let wanted = Shape::from_label("a");
        let stale = pool.take_stale(&running, |shape| *shape == wanted);
        assert_eq!(stale, ["two", "three"]);
        assert_eq!(pool.count(&wanted), 1);
    }
}
