//! TLS: judged by the name in its first message, never opened.

use std::time::Duration;

use stacyvm_stream::{Activity, ActivityStream, PrefixedStream};
use stacyvm_types::HostName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Caller;
use crate::control::Reason;
use crate::dial::DialError;
use crate::notices::printable;

// Alerts, RFC 8446, 6.
const ACCESS_DENIED: u8 = 49;
pub(super) const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// Bytes that are copied at once, each way.
pub(super) const PIECE: usize = 32 * 1024;
/// How long a refused client may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// What a refused client may still send before it reads why, in bytes.
const FAREWELL_BYTES: u64 = 256 * 1024;

/// Connects the client with the host that it names, if it may.
pub(super) async fn serve(
    caller: &Caller,
    stream: TcpStream,
    begin: Vec<u8>,
    name: Option<Vec<u8>>,
) {
    let Some(name) = name else {
        caller.refused_address(Reason::NoName);
        return refuse(stream, UNRECOGNIZED_NAME).await;
    };
    let host = std::str::from_utf8(&name).ok();
    let Some(host) = host.and_then(|name| name.parse::<HostName>().ok()) else {
        caller.refused(&printable(&name), Reason::Malformed);
        return refuse(stream, UNRECOGNIZED_NAME).await;
    };
    if !caller.allows(&host) {
        caller.refused(&host.to_string(), Reason::NotAllowed);
        return refuse(stream, ACCESS_DENIED).await;
    }
    match caller.dial(&host).await {
        Ok(server) => splice(caller, begin, stream, server, &host).await,
        Err(DialError::Refused(..)) => refuse(stream, ACCESS_DENIED).await,
        Err(DialError::Unresolved(_)) => refuse(stream, UNRECOGNIZED_NAME).await,
        Err(DialError::Unreachable(..)) => refuse(stream, INTERNAL_ERROR).await,
    }
}

/// Copies both ways until both sides have ended, nothing moves, or the policy ends it.
async fn splice(
    caller: &Caller,
    begin: Vec<u8>,
    client: TcpStream,
    server: TcpStream,
    host: &HostName,
) {
    let activity = Activity::new();
    let mut client = PrefixedStream::new(begin, ActivityStream::new(client, &activity));
    let mut server = ActivityStream::new(server, &activity);
    let copying = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, PIECE, PIECE);
    let idle = Duration::from_millis(caller.proxy.limits.idle_ms);
    let source = caller.source.ip();
    tokio::select! {
        // How a connection ends is for its two sides to see.
        _ = copying => {}
        () = activity.idle(idle) => {}
        () = caller.member.until_refused(source, || Some(host.clone())) => {}
    }
}

/// Says no in the client's own protocol.
pub(super) async fn refuse(mut stream: TcpStream, description: u8) {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    let record = [ALERT, 3, 3, 0, 2, FATAL, description];
    let farewell = async {
        stream.write_all(&record).await?;
        stream.shutdown().await?;
        // Closing with bytes unread would take the alert back.
        let mut rest = (&mut stream).take(FAREWELL_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(FAREWELL, farewell).await;
}
