//! TLS connections: judged by the name in their first message, never decrypted.

use std::time::Duration;

use stacyvm_stream::{Activity, ActivityStream, PrefixedStream};
use stacyvm_types::HostName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::SandboxConnection;
use super::copy::copy_both_ways;
use crate::control::Reason;
use crate::dial::DialError;
use crate::notices::printable;

// Alerts, RFC 8446, 6.
const ACCESS_DENIED: u8 = 49;
pub(super) const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// How long a refused client may take to read the alert.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// What a refused client may still send before it reads the alert, in bytes.
const MAX_UNREAD: u64 = 256 * 1024;

/// Connects the client with the host that it names, if it may reach it.
pub(super) async fn serve(
    connection: &SandboxConnection,
    stream: TcpStream,
    begin: Vec<u8>,
    name: Option<Vec<u8>>,
) {
    let Some(name) = name else {
        connection.refused_address(Reason::NoName);
        return refuse(stream, UNRECOGNIZED_NAME).await;
    };
    let host = std::str::from_utf8(&name).ok();
    let Some(host) = host.and_then(|name| name.parse::<HostName>().ok()) else {
        connection.refused(&printable(&name), Reason::Malformed);
        return refuse(stream, UNRECOGNIZED_NAME).await;
    };
    if !connection.allows(&host) {
        connection.refused(&host.to_string(), Reason::NotAllowed);
        return refuse(stream, ACCESS_DENIED).await;
    }
    match connection.dial(&host).await {
        Ok(server) => splice(connection, begin, stream, server, &host).await,
        Err(DialError::Refused(..)) => refuse(stream, ACCESS_DENIED).await,
        Err(DialError::Unresolved(_)) => refuse(stream, UNRECOGNIZED_NAME).await,
        Err(DialError::Unreachable(..)) => refuse(stream, INTERNAL_ERROR).await,
    }
}

/// Copies both ways until both sides have ended, nothing moves, or the policy ends it.
async fn splice(
    connection: &SandboxConnection,
    begin: Vec<u8>,
    client: TcpStream,
    server: TcpStream,
    host: &HostName,
) {
    let activity = Activity::new();
    let mut client = PrefixedStream::new(begin, ActivityStream::new(client, &activity));
    let mut server = ActivityStream::new(server, &activity);
    let idle_timeout = Duration::from_millis(connection.context.limits.idle_ms);
    let source = connection.source.ip();
    tokio::select! {
        () = copy_both_ways(&mut client, &mut server) => {}
        () = activity.idle(idle_timeout) => {}
        () = connection.sandbox.until_refused(source, || Some(host.clone())) => {}
    }
}

/// Answers with a fatal alert and closes the connection.
pub(super) async fn refuse(mut stream: TcpStream, description: u8) {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    let record = [ALERT, 3, 3, 0, 2, FATAL, description];
    let refusing = async {
        stream.write_all(&record).await?;
        stream.shutdown().await?;
        // Closing with bytes unread would reset the connection and discard the alert.
        let mut rest = (&mut stream).take(MAX_UNREAD);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(REFUSAL_TIMEOUT, refusing).await;
}
