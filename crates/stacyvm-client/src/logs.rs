//! The log of a sandbox, followed.

use std::num::NonZeroUsize;

use futures_util::StreamExt;
use http::Method;
use serde::{Deserialize, Serialize};
use stacyvm_types::LogsQuery;

use crate::lines::Lines;
use crate::request::{Payload, with_query};
use crate::sandboxes::sandbox_path;
use crate::{Client, ClientError};

/// One item of a followed log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FollowedLog {
    /// A line, without its end.
    Line(String),
    /// This many bytes of output are missing here, because the client read too slowly.
    Skipped(u64),
}

/// The lines as they are printed. Its end means that the sandbox has ended.
#[derive(Debug)]
pub struct LogStream(Lines);

impl Client {
    /// The last `lines` lines that a sandbox printed, then every line that it prints; 0 leaves the
    /// number to the server.
    ///
    /// # Errors
    /// What the server or the connection reports.
    pub async fn follow_logs(&self, id: &str, lines: usize) -> Result<LogStream, ClientError> {
        let query = LogsQuery {
            lines: NonZeroUsize::new(lines),
            follow: Some(true),
        };
        let path = with_query(&sandbox_path(id, "/logs"), &query);
        let answer = self.send(Method::GET, &path, &[], Payload::None).await?;
        Ok(LogStream(Lines::new(answer)))
    }
}

impl LogStream {
    /// The next line; none when the sandbox has ended. Safe to drop and call again.
    ///
    /// # Errors
    /// When the connection broke, or what came is not understood.
    pub async fn next(&mut self) -> Option<Result<FollowedLog, ClientError>> {
        let line = match self.0.next().await? {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        Some(serde_json::from_slice(&line).map_err(|error| self.0.bad(error)))
    }
}
