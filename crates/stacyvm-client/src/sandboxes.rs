//! Sandboxes and what runs in them.

use std::num::NonZeroUsize;

use http::{HeaderName, Method};
use stacyvm_types::{
    Admission, ExecRequest, ExecResponse, ExtendRequest, ListSandboxesQuery, LogsQuery,
    NetworkInfo, NetworkRules, PreviewLink, PreviewLinkRequest, PruneResult, Sandbox, SandboxStats,
    SpawnRequest,
};

use crate::request::{Payload, quoted, with_query};
use crate::stream::LineStream;
use crate::{Client, ClientError};

const SANDBOXES: &str = "/api/v1/sandboxes";

impl Client {
    /// Makes a sandbox.
    ///
    /// # Errors
    /// What the server or the connection reports; the same holds for every method here.
    pub async fn spawn(&self, request: &SpawnRequest) -> Result<Sandbox, ClientError> {
        self.fetch(Method::POST, SANDBOXES, Payload::json(request))
            .await
    }

    /// Makes a sandbox at most once for this key.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn spawn_once(
        &self,
        request: &SpawnRequest,
        idempotency_key: &str,
    ) -> Result<Sandbox, ClientError> {
        let header = [(HeaderName::from_static("idempotency-key"), idempotency_key)];
        let answer = self
            .send(Method::POST, SANDBOXES, &header, Payload::json(request))
            .await?;
        let body = answer.bytes().await?;
        serde_json::from_slice(&body).map_err(|error| self.unexpected(error))
    }

    /// Whether a spawn would be accepted now.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn admission(&self, request: &SpawnRequest) -> Result<Admission, ClientError> {
        self.fetch(
            Method::POST,
            "/api/v1/sandboxes/admission",
            Payload::json(request),
        )
        .await
    }

    /// Every sandbox that is alive, newest first.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn list(&self) -> Result<Vec<Sandbox>, ClientError> {
        self.fetch(Method::GET, SANDBOXES, Payload::None).await
    }

    /// Those alive that match every part of `query`.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn list_filtered(
        &self,
        query: &ListSandboxesQuery,
    ) -> Result<Vec<Sandbox>, ClientError> {
        let path = with_query(SANDBOXES, query);
        self.fetch(Method::GET, &path, Payload::None).await
    }

    /// One sandbox.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn get(&self, id: &str) -> Result<Sandbox, ClientError> {
        self.fetch(Method::GET, &sandbox_path(id, ""), Payload::None)
            .await
    }

    /// Ends a sandbox; an unknown id is success.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn destroy(&self, id: &str) -> Result<(), ClientError> {
        self.submit(Method::DELETE, &sandbox_path(id, ""), Payload::None)
            .await
    }

    /// Destroys the expired; returns how many.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn prune(&self) -> Result<u64, ClientError> {
        let answer: PruneResult = self.fetch(Method::DELETE, SANDBOXES, Payload::None).await?;
        Ok(answer.pruned)
    }

    /// Sets the expiry to now plus `ttl`, a Go duration.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn extend(&self, id: &str, ttl: &str) -> Result<Sandbox, ClientError> {
        let body = Payload::json(&ExtendRequest {
            ttl: ttl.to_owned(),
        });
        self.fetch(Method::POST, &sandbox_path(id, "/extend"), body)
            .await
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// See [`Client::spawn`]; a passed deadline is `Api` with status 408.
    pub async fn exec(&self, id: &str, request: &ExecRequest) -> Result<ExecResponse, ClientError> {
        self.fetch(
            Method::POST,
            &sandbox_path(id, "/exec"),
            Payload::json(request),
        )
        .await
    }

    /// Runs a command and hands out its output while it runs. Dropping the stream kills the command.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn exec_stream(
        &self,
        id: &str,
        request: &ExecRequest,
    ) -> Result<LineStream, ClientError> {
        let request = ExecRequest {
            stream: Some(true),
            ..request.clone()
        };
        let body = Payload::json(&request);
        self.send(Method::POST, &sandbox_path(id, "/exec"), &[], body)
            .await
            .map(LineStream::new)
    }

    /// What a sandbox uses.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn stats(&self, id: &str) -> Result<SandboxStats, ClientError> {
        self.fetch(Method::GET, &sandbox_path(id, "/stats"), Payload::None)
            .await
    }

    /// The way to a port of a sandbox in a browser; `expires_in` is a Go duration.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn preview_link(
        &self,
        id: &str,
        port: u16,
        expires_in: Option<&str>,
    ) -> Result<PreviewLink, ClientError> {
        let body = PreviewLinkRequest {
            port: port.into(),
            expires_in: expires_in.map(str::to_owned),
        };
        self.fetch(
            Method::POST,
            &sandbox_path(id, "/preview"),
            Payload::json(&body),
        )
        .await
    }

    /// How a sandbox is connected.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn network(&self, id: &str) -> Result<NetworkInfo, ClientError> {
        self.fetch(Method::GET, &sandbox_path(id, "/network"), Payload::None)
            .await
    }

    /// Changes what a sandbox with a network may reach.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn set_network(
        &self,
        id: &str,
        rules: &NetworkRules,
    ) -> Result<NetworkInfo, ClientError> {
        self.fetch(
            Method::PUT,
            &sandbox_path(id, "/network"),
            Payload::json(rules),
        )
        .await
    }

    /// The last `lines` lines that a sandbox printed; 0 leaves the number to the server.
    ///
    /// # Errors
    /// See [`Client::spawn`].
    pub async fn logs(&self, id: &str, lines: usize) -> Result<Vec<String>, ClientError> {
        let query = LogsQuery {
            lines: NonZeroUsize::new(lines),
            follow: None,
        };
        let path = with_query(&sandbox_path(id, "/logs"), &query);
        self.fetch(Method::GET, &path, Payload::None).await
    }
}

/// The path of a sandbox's route.
pub(crate) fn sandbox_path(id: &str, rest: &str) -> String {
    format!("{SANDBOXES}/{}{rest}", quoted(id).replace('/', "%2F"))
}
