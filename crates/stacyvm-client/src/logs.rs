//! What a sandbox prints, followed.

use futures_util::StreamExt;
use http::Method;
use serde::{Deserialize, Serialize};

use crate::lines::Lines;
use crate::request::Payload;
use crate::sandboxes::of;
use crate::{Client, ClientError};

/// One thing to know about a followed log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FollowedLog {
    /// A line, without its end.
    Line(String),
    /// So many bytes of output were lost here, because we read too slowly.
    Skipped(u64),
}

/// The lines as they are printed. Its end means that the sandbox has ended.
#[derive(Debug)]
pub struct LogStream(Lines);

impl Client {
    /// The last `lines` lines that a sandbox printed, then every line that it prints.
    ///
    /// # Errors
    /// Whatever the server or the connection says.
    pub async fn follow_logs(&self, id: &str, lines: usize) -> Result<LogStream, ClientError> {
        let path = of(id, &format!("/logs?follow=true&lines={lines}"));
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
