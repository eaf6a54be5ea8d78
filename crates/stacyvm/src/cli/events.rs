//! `stacyvm events`: what happens on the server, as it happens.
//!
//! When the connection breaks it is made again, and goes on after the last event that was shown.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use stacyvm_client::{Client, ClientError, ServerEvent};
use stacyvm_types::EventsQuery;

use super::global::{Global, OutputFormat};
use super::output;

/// The first pause before a connection is made again; each one after it is twice as long.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(15);

/// Follow what happens on the server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this type, like exec.failed, or a family, like "sandbox.*"; may be repeated.
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    types: Vec<String>,
    /// Only what happens to this sandbox.
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// Begin after this event, as far back as the server remembers.
    #[arg(long, value_name = "EVENT", conflicts_with = "replay")]
    after: Option<String>,
    /// Begin with everything that the server remembers.
    #[arg(long)]
    replay: bool,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let client = global.client()?;
    let mut query = EventsQuery {
        types: args.types,
        sandbox_id: args.sandbox,
        last_event_id: args.after,
    };
    if args.replay {
        query.last_event_id = Some("evt-0".to_owned());
    }
    let mut pause = RETRY_PAUSE;
    // What is wrong from the beginning is not tried again.
    let mut known = false;
    loop {
        match follow(&client, &mut query, global, &mut known, &mut pause).await {
            Ok(()) => {}
            Err(FollowError::Output(error)) => return Err(error),
            Err(FollowError::Stream(error)) if !known || !passes(&error) => {
                return Err(error).context("cannot follow the events");
            }
            Err(FollowError::Stream(error)) => {
                eprintln!("stacyvm: {error}, trying again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY_PAUSE);
    }
}

enum FollowError {
    Stream(ClientError),
    Output(anyhow::Error),
}

/// Whether it may work later.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::Transport { .. } => true,
        ClientError::Api { status, .. } => *status >= 500 || *status == 429,
        _ => false,
    }
}

/// Shows events until the stream ends.
async fn follow(
    client: &Client,
    query: &mut EventsQuery,
    global: &Global,
    known: &mut bool,
    pause: &mut Duration,
) -> Result<(), FollowError> {
    let mut stream = client.events(query).await.map_err(FollowError::Stream)?;
    *known = true;
    while let Some(event) = stream.next().await {
        let event = event.map_err(FollowError::Stream)?;
        *pause = RETRY_PAUSE;
        let text = match global.output {
            OutputFormat::Json => serde_json::to_string(&event).map_err(anyhow::Error::from),
            OutputFormat::Table => Ok(row(&event)),
        };
        text.and_then(|text| output::line(&text))
            .map_err(FollowError::Output)?;
        query.last_event_id = Some(event.id);
    }
    Ok(())
}

/// One line, its columns as wide as what usually stands in them.
fn row(event: &ServerEvent) -> String {
    let data: Vec<String> = event
        .data
        .iter()
        .map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}={text:?}"),
            None => format!("{name}={value}"),
        })
        .collect();
    let sandbox = event.sandbox_id.as_deref().unwrap_or("-");
    let line = format!(
        "{:<27}  {:<20}  {sandbox:<11}  {}",
        event.timestamp,
        event.kind,
        data.join(" ")
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::row;

    #[test]
    fn a_line_says_when_what_where_and_more() {
        let json = r#"{"id":"evt-1","type":"exec.completed","sandbox_id":"sb-00000001",
            "timestamp":"2026-01-31T12:00:00.123456Z","data":{"exit_code":0,"reason":"a \"b\n"}}"#;
        let line = row(&serde_json::from_str(json).unwrap());
        assert_eq!(
            line,
            "2026-01-31T12:00:00.123456Z  exec.completed        sb-00000001  exit_code=0 reason=\"a \\\"b\\n\""
        );
    }
}
