//! A box between the task that made it and the caller who asked for it.
//!
//! The caller may have gone meanwhile, and then nothing would ever destroy the box. Its rule: the caller that
//! drops it unclaimed sets its removal going; the removal itself is the provider's.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::AgentSandbox;

/// A box that is removed unless it is claimed.
pub struct Unclaimed {
    sandbox: Arc<AgentSandbox>,
    removal: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Unclaimed {
    /// `removal` runs as a task of its own when the box is not claimed, and is dropped otherwise, with
    /// whatever it holds.
    pub fn new(
        sandbox: Arc<AgentSandbox>,
        removal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            sandbox,
            removal: Some(Box::pin(removal)),
        }
    }

    /// Hands the box over to the caller.
    pub fn claim(mut self) -> Arc<AgentSandbox> {
        self.removal = None;
        self.sandbox.clone()
    }
}

impl fmt::Debug for Unclaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unclaimed").field(&self.sandbox).finish()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        // Without a runtime the program is at its end, and the next one finds the box.
        if let (Some(removal), Ok(runtime)) =
            (self.removal.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(removal);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use async_trait::async_trait;
    use tokio::sync::oneshot;

    use super::*;
    use crate::ops::OpError;
    use crate::{AgentConnector, ByteStream};

    #[derive(Debug)]
    struct Nobody;

    #[async_trait]
    impl AgentConnector for Nobody {
        async fn connect(&self) -> Result<ByteStream, OpError> {
            Err(OpError::Gone("nobody is there".to_owned()))
        }
    }

    fn unclaimed() -> (Unclaimed, oneshot::Receiver<()>) {
        let (removed, removal) = oneshot::channel();
        let sandbox = Arc::new(AgentSandbox::new(Nobody, None));
        let removing = async move {
            let _ = removed.send(());
        };
        (Unclaimed::new(sandbox, removing), removal)
    }

    #[tokio::test]
    async fn who_is_dropped_is_removed_and_who_is_claimed_is_not() {
        let (made, removed) = unclaimed();
        drop(made);
        removed.await.unwrap();
        let (made, removed) = unclaimed();
        let _sandbox = made.claim();
        removed.await.unwrap_err();
    }
}
