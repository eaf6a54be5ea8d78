//! Followed logs from a real agent.

use std::time::Duration;

use stacyvm_client::{FollowedLog, LogStream};
use stacyvm_types::ErrorCode;

use crate::http::{TEST_TIMEOUT, get};
use crate::mock::Mocked;
use crate::support::Server;

async fn next(log: &mut LogStream) -> Option<Result<FollowedLog, stacyvm_client::ClientError>> {
    tokio::time::timeout(TEST_TIMEOUT, log.next())
        .await
        .unwrap()
}

fn line(text: &str) -> FollowedLog {
    FollowedLog::Line(text.to_owned())
}

#[tokio::test]
async fn a_followed_log_goes_on_until_the_sandbox_ends() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    server.shell(&id, "seq 1 5").await;
    let mut log = server.client.follow_logs(&id, 2).await.unwrap();
    for old in ["4", "5"] {
        assert_eq!(next(&mut log).await.unwrap().unwrap(), line(old));
    }
    server.shell(&id, "echo new; printf unfinished").await;
    for new in ["new", "unfinished"] {
        assert_eq!(next(&mut log).await.unwrap().unwrap(), line(new));
    }
    server.client.destroy(&id).await.unwrap();
    assert!(next(&mut log).await.is_none(), "a clean end");
    let gone = server.client.follow_logs(&id, 2).await.unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::NotFound));
    server.stop().await;
}

#[tokio::test]
async fn a_stop_breaks_a_followed_log_off_at_once() {
    let mut options = Mocked::options();
    // Waiting for the drain would outlast the patience.
    options.server.drain_timeout = Duration::from_secs(3600);
    let server = Mocked::with(options).await;
    let id = server.spawn().await;
    server.shell(&id, "echo one").await;
    let mut log = server.client.follow_logs(&id, 2).await.unwrap();
    assert_eq!(next(&mut log).await.unwrap().unwrap(), line("one"));
    let stopping = tokio::spawn(server.stop_first());
    let end = next(&mut log).await.unwrap();
    assert!(end.is_err(), "not taken for the sandbox's end: {end:?}");
    tokio::time::timeout(TEST_TIMEOUT, stopping)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_cannot_be_followed_says_so() {
    let (server, _) = Server::with_fake().await;
    let id = server.client.spawn(&Default::default()).await.unwrap().id;
    let path = format!("/api/v1/sandboxes/{id}/logs?follow=");
    let answer = get(server.address, &format!("{path}true")).await;
    answer.expect(422, "UNSUPPORTED");
    let answer = get(server.address, &format!("{path}perhaps")).await;
    answer.expect(400, "BAD_REQUEST");
    server.stop().await;
}
