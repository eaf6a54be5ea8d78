//! The engine: how it is reached, and what its answers mean.
//!
//! Owns the one connection description that all parts share. Its rule: no question waits for ever,
//! and an engine that does not answer is never the end of anything: the next question tries again.

mod address;
mod error;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};

pub use address::{EngineAddress, TlsFiles};
pub(crate) use error::EngineError;

/// How long a question may take that moves nothing, on a machine under load.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// How long it may take to make, start or remove something.
pub(crate) const WORK: Duration = Duration::from_secs(120);
/// How long bollard itself waits for the head of an answer; every question of ours is shorter, but
/// for pulls and archives, whose head comes at once.
const CLIENT: u64 = 600;

/// One engine.
#[derive(Debug)]
pub(crate) struct Engine {
    address: EngineAddress,
    /// What speaks to it, in a version that both know; none until it has answered.
    current: Mutex<Option<Docker>>,
}

impl Engine {
    /// Asks nothing yet.
    pub(crate) fn new(address: EngineAddress) -> Self {
        Self {
            address,
            current: Mutex::new(None),
        }
    }

    /// Where it is, as the operator named it.
    pub(crate) fn address(&self) -> &EngineAddress {
        &self.address
    }

    /// What speaks to it.
    pub(crate) async fn docker(&self) -> Result<Docker, EngineError> {
        if let Some(docker) = self.slot().clone() {
            return Ok(docker);
        }
        let step = "reach the engine";
        let failed = |error| EngineError::of(step, &self.address, error);
        let docker = self.address.connect(CLIENT, API_DEFAULT_VERSION);
        let docker = docker.map_err(failed)?;
        let negotiated = tokio::time::timeout(QUICK, docker.negotiate_version()).await;
        let docker = negotiated
            .map_err(|_| EngineError::silent(step, &self.address))?
            .map_err(failed)?;
        *self.slot() = Some(docker.clone());
        Ok(docker)
    }

    /// Asks one question, within `limit`.
    pub(crate) async fn ask<T, F>(
        &self,
        step: &'static str,
        limit: Duration,
        question: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let docker = self.docker().await?;
        let answer = match tokio::time::timeout(limit, question(docker)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => EngineError::of(step, &self.address, error),
            Err(_) => EngineError::silent(step, &self.address),
        };
        self.note(&answer);
        Err(answer)
    }

    /// The failure of a step whose answer came in pieces.
    pub(crate) fn failed(&self, step: &'static str, error: bollard::errors::Error) -> EngineError {
        let error = EngineError::of(step, &self.address, error);
        self.note(&error);
        error
    }

    /// The failure of a step whose answer should not have ended.
    pub(crate) fn ended(&self, step: &'static str) -> EngineError {
        let error = EngineError::cut(step, &self.address);
        self.note(&error);
        error
    }

    /// An engine that comes back may be another version.
    fn note(&self, error: &EngineError) {
        if error.is_absence() {
            *self.slot() = None;
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Docker>> {
        // One pointer: a panic elsewhere cannot have left it half changed.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
