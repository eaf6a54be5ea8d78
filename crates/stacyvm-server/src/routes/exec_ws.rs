//! Running commands over a WebSocket.
//!
//! What is wrong with the request itself, its key or its sandbox is an ordinary answer; what goes
//! wrong after the upgrade is said in a frame.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use bytes::Bytes;
use stacyvm_orchestrator::{Caller, Interactive};
use tracing::Instrument;

use super::exec::no_detached;
use crate::error::{Failure, Reply};
use crate::front::Shared;
use crate::owner::Asker;
use crate::serve::Seat;
use crate::target::Target;
use crate::ws::{Dialect, Opening, Talk, Voice, converse, dismiss, farewell, first_frame};

/// GET `/exec/ws`.
pub(super) async fn open(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    seat: Option<Extension<Arc<Seat>>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply {
    front.orchestrator.get(&caller, &id).await?;
    let upgrade = upgrade.map_err(|_| {
        Failure::bad_request("this route speaks WebSocket (RFC 6455, version 13) and nothing else")
    })?;
    let limit = front.json_limit;
    let span = tracing::Span::current();
    Ok(upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |socket| {
            async move {
                serve(socket, &front, &caller, &id).await;
                // The connection counts until its last word.
                drop(seat);
            }
            .instrument(span)
        }))
}

/// From the first frame to the last.
async fn serve(mut socket: WebSocket, front: &Shared, caller: &Caller, id: &str) {
    let first = tokio::select! {
        first = first_frame(&mut socket) => first,
        () = front.cut() => return,
    };
    let opening = match first {
        Ok(Some(text)) => Opening::parse(text),
        Ok(None) => return,
        Err(words) => Err(words),
    };
    let opening = match opening {
        Ok(opening) => opening,
        Err(words) => return dismiss(socket, words).await,
    };
    let started = tokio::select! {
        started = start(front, caller, id, opening) => started,
        () = front.cut() => return,
    };
    match started {
        Ok(talk) => converse(socket, talk, front.cut()).await,
        Err(failure) => farewell(socket, failure).await,
    }
}

/// Starts what the first frame asks for.
async fn start(
    front: &Shared,
    caller: &Caller,
    id: &str,
    opening: Opening,
) -> Result<Talk, Failure> {
    if opening.detach {
        return Err(no_detached());
    }
    let mut request = opening.request;
    let typed = opening.dialect != Dialect::Plain;
    let interactive = Interactive {
        tty: opening.tty,
        stdin: typed,
    };
    // In the typed dialect it goes before what the client sends later, on the same way.
    let stdin = match request.stdin.take_if(|_| typed) {
        Some(text) => Bytes::from(text),
        None => Bytes::new(),
    };
    let exec = front
        .orchestrator
        .exec_interactive(caller, id, request, interactive)
        .await?;
    Ok(Talk {
        exec,
        voice: Voice::new(opening.dialect),
        stdin,
        acknowledge: opening.acknowledge,
    })
}
