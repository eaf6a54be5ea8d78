//! The server itself.

use std::collections::BTreeMap;

use http::Method;
use serde_json::Value;
use stacyvm_types::{Health, ProviderInfo};

use crate::request::{Payload, quoted};
use crate::{Client, ClientError};

impl Client {
    /// Whether the server lives, and which version it is.
    ///
    /// # Errors
    /// What the server or the connection reports; the same holds for every method here.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.fetch(Method::GET, "/api/v1/health", Payload::None)
            .await
    }

    /// The configured providers, sorted by name.
    ///
    /// # Errors
    /// See [`Client::health`].
    pub async fn providers(&self) -> Result<Vec<ProviderInfo>, ClientError> {
        self.fetch(Method::GET, "/api/v1/providers", Payload::None)
            .await
    }

    /// Everything about one provider.
    ///
    /// # Errors
    /// See [`Client::health`].
    pub async fn provider(&self, name: &str) -> Result<Value, ClientError> {
        let path = format!("/api/v1/providers/{}", quoted(name).replace('/', "%2F"));
        self.fetch(Method::GET, &path, Payload::None).await
    }

    /// Probes every provider now; whether each works.
    ///
    /// # Errors
    /// See [`Client::health`].
    pub async fn test_providers(&self) -> Result<BTreeMap<String, bool>, ClientError> {
        self.fetch(Method::POST, "/api/v1/providers/test", Payload::None)
            .await
    }

    /// Whether the server would take work now.
    ///
    /// # Errors
    /// See [`Client::health`]; a server that is not ready is no error.
    pub async fn ready(&self) -> Result<bool, ClientError> {
        match self
            .submit(Method::GET, "/api/v1/ready", Payload::None)
            .await
        {
            Ok(()) => Ok(true),
            Err(ClientError::Api { status: 503, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The server's own figures, as it has them.
    ///
    /// # Errors
    /// See [`Client::health`].
    pub async fn metrics(&self) -> Result<Value, ClientError> {
        self.fetch(Method::GET, "/api/v1/metrics", Payload::None)
            .await
    }
}
