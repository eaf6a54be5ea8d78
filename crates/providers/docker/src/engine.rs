//! The client of the Docker Engine: how it is reached, and what its answers mean.
//!
//! The one rule: every request has a timeout, and an engine that does not answer changes no state:
//! the next request connects again.

mod address;
mod error;

use std::future::Future;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use parking_lot::Mutex;

pub use address::{EngineAddress, TlsFiles};
pub(crate) use error::EngineError;

/// How long a request may take that only reads or changes metadata, on a machine under load.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to create, start or remove something.
pub(crate) const WORK_TIMEOUT: Duration = Duration::from_secs(120);
/// How long bollard itself waits for the head of an answer, seconds. Every timeout of this crate is
/// shorter, except for pulls and archives, whose head comes at once.
const CLIENT_TIMEOUT_SECS: u64 = 600;

/// A client of one engine.
#[derive(Debug)]
pub(crate) struct Engine {
    address: EngineAddress,
    /// The connected client, in an API version that both sides know; none until the engine has
    /// answered.
    connected: Mutex<Option<Docker>>,
}

impl Engine {
    /// Connects only with the first request.
    pub(crate) fn new(address: EngineAddress) -> Self {
        Self {
            address,
            connected: Mutex::new(None),
        }
    }

    /// The engine's address, as the operator named it.
    pub(crate) fn address(&self) -> &EngineAddress {
        &self.address
    }

    /// The connected client, for requests whose answers are streams.
    pub(crate) async fn docker(&self) -> Result<Docker, EngineError> {
        if let Some(docker) = self.connected.lock().clone() {
            return Ok(docker);
        }
        let step = "reach the engine";
        let failed = |error| EngineError::of(step, &self.address, error);
        let docker = self
            .address
            .connect(CLIENT_TIMEOUT_SECS, API_DEFAULT_VERSION);
        let docker = docker.map_err(failed)?;
        let negotiated = tokio::time::timeout(QUERY_TIMEOUT, docker.negotiate_version()).await;
        let docker = negotiated
            .map_err(|_| EngineError::timed_out(step, &self.address))?
            .map_err(failed)?;
        *self.connected.lock() = Some(docker.clone());
        Ok(docker)
    }

    /// Sends one request and waits for its answer, at most for `limit`. `step` says in errors what
    /// was attempted.
    pub(crate) async fn request<T, F>(
        &self,
        step: &'static str,
        limit: Duration,
        send: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let docker = self.docker().await?;
        let error = match tokio::time::timeout(limit, send(docker)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => EngineError::of(step, &self.address, error),
            Err(_) => EngineError::timed_out(step, &self.address),
        };
        self.disconnect_after(&error);
        Err(error)
    }

    /// The error of a step whose streamed answer failed.
    pub(crate) fn failed(&self, step: &'static str, error: bollard::errors::Error) -> EngineError {
        let error = EngineError::of(step, &self.address, error);
        self.disconnect_after(&error);
        error
    }

    /// The error of a step whose streamed answer ended too early.
    pub(crate) fn ended(&self, step: &'static str) -> EngineError {
        let error = EngineError::ended(step, &self.address);
        self.disconnect_after(&error);
        error
    }

    /// Negotiates the API version again after a lost connection: the engine may have been updated.
    fn disconnect_after(&self, error: &EngineError) {
        if error.is_unreachable() {
            *self.connected.lock() = None;
        }
    }
}
