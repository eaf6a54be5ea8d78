//! Commands: what comes back, what is bounded, and what ends them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stacyvm_provider::ops::{ExecControl, ExecEvent, ExecExit, OpError};
use stacyvm_types::{ErrorCode, ExecRequest, ExecResponse, ExitReason, SandboxId};

use crate::operation_error::public_error;
use crate::tests::support::{Rig, argv, code, eventually, pass, settings, settle};
use crate::{Caller, Error, RunningExec, Settings};

async fn captured(rig: &Rig, id: &SandboxId, request: ExecRequest) -> Result<ExecResponse, Error> {
    rig.orchestrator
        .exec_captured(&rig.caller, id, request)
        .await
}

async fn streamed(rig: &Rig, id: &SandboxId, request: ExecRequest) -> RunningExec {
    let running = rig.orchestrator.exec(&rig.caller, id, request);
    running.await.unwrap()
}

/// A captured exec on a task of its own.
fn background(
    rig: &Rig,
    id: &SandboxId,
    request: ExecRequest,
) -> tokio::task::JoinHandle<Result<ExecResponse, Error>> {
    let (orchestrator, id) = (rig.orchestrator.clone(), id.clone());
    tokio::spawn(async move {
        let caller = Caller::default();
        orchestrator.exec_captured(&caller, &id, request).await
    })
}

/// Everything up to the exit; panics when it does not come.
async fn drain(running: &mut RunningExec) -> (usize, ExecExit) {
    let mut bytes = 0;
    loop {
        match running.events.recv().await.unwrap() {
            ExecEvent::Output(_, piece) => bytes += piece.len(),
            // A command that outlives its connection says where its output begins.
            ExecEvent::Resumed(_) => {}
            ExecEvent::End => unreachable!("the end of a look at output"),
            ExecEvent::Exit(exit) => return (bytes, exit),
        }
    }
}

fn with_timeout(words: &[&str], timeout: &str) -> ExecRequest {
    ExecRequest {
        timeout: Some(timeout.to_owned()),
        ..argv(words)
    }
}

#[tokio::test]
async fn results_are_what_the_command_did() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let echo = captured(&rig, &id, argv(&["echo", "hi"])).await.unwrap();
    assert_eq!((echo.exit_code, echo.stdout.as_str()), (0, "hi"));
    assert_eq!(echo.duration, "1.5s");
    assert_eq!((echo.truncated, echo.reason), (false, None));
    let failed = captured(&rig, &id, argv(&["false"])).await.unwrap();
    assert_eq!(
        (failed.exit_code, failed.stderr.as_str()),
        (1, "no\u{FFFD}")
    );
    let bomb = captured(&rig, &id, argv(&["bomb"])).await.unwrap();
    assert_eq!((bomb.exit_code, bomb.reason), (137, Some(ExitReason::Oom)));
}

#[tokio::test]
async fn captured_output_is_capped_and_the_command_still_ends() {
    let rig = Rig::with(Settings {
        max_output_bytes: 100_000,
        ..settings()
    })
    .await;
    let id = rig.spawn("{}").await.id;
    let flood = captured(&rig, &id, argv(&["flood", "200"])).await.unwrap();
    assert_eq!((flood.stdout.len(), flood.truncated), (100_000, true));
    assert_eq!(flood.exit_code, 0);
}

#[tokio::test]
async fn standard_input_arrives_whole_and_ends() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    for size in [0, 1, 64 * 1024, 3_000_000] {
        let request = ExecRequest {
            stdin: Some("x".repeat(size)),
            ..argv(&["cat"])
        };
        let counted = captured(&rig, &id, request).await.unwrap();
        assert_eq!(counted.stdout, size.to_string());
    }
}

#[tokio::test]
async fn a_stream_carries_everything_and_then_the_exit() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let mut running = streamed(&rig, &id, argv(&["flood", "50"])).await;
    assert_eq!((running.exec_id, running.pid), (1, 42));
    let (bytes, exit) = drain(&mut running).await;
    assert_eq!(bytes, 50 * 64 * 1024);
    assert_eq!((exit.exit_code, exit.reason), (0, ExitReason::Exit));
    assert_eq!(running.events.recv().await, None);
}

#[tokio::test]
async fn who_stops_listening_ends_the_command() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let alive = || rig.fake.running.load(Ordering::SeqCst);
    let running = streamed(&rig, &id, argv(&["sleep"])).await;
    // One that is held up by a listener that does not read.
    let flooding = streamed(&rig, &id, argv(&["flood", "1000"])).await;
    let waiting = background(&rig, &id, argv(&["sleep"]));
    eventually("all run", || alive() == 3).await;
    settle(&rig).await;
    assert_eq!(alive(), 3);
    assert_eq!(rig.orchestrator.metrics().active_execs, 3);
    drop((running, flooding));
    eventually("the streamed ones are gone", || alive() == 1).await;
    waiting.abort();
    eventually("the captured one is gone", || alive() == 0).await;
    eventually("none is counted", || {
        rig.orchestrator.metrics().active_execs == 0
    })
    .await;
}

#[tokio::test]
async fn a_running_command_can_be_killed() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let mut running = streamed(&rig, &id, argv(&["sleep"])).await;
    running.control.send(ExecControl::Kill).await.unwrap();
    let (_, exit) = drain(&mut running).await;
    assert_eq!(exit.reason, ExitReason::Signal);
}

#[tokio::test(start_paused = true)]
async fn deadlines_end_in_a_timeout_whoever_keeps_them() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    // The agent keeps it; the agent forgot but obeys; the agent is dead to the world.
    for (program, seconds) in [("sleep", 2), ("late", 6), ("deaf", 8)] {
        let run = background(&rig, &id, with_timeout(&[program], "2s"));
        eventually("it runs", || rig.fake.running.load(Ordering::SeqCst) == 1).await;
        for _ in 0..seconds {
            pass(&rig, Duration::from_secs(1)).await;
        }
        let error = run.await.unwrap().unwrap_err();
        assert_eq!(error.code(), ErrorCode::Timeout, "{program}");
        let text = error.to_string();
        assert!(text.starts_with("exec timeout:"), "{text}");
        assert!(text.contains("2s"), "{text}");
        eventually("it is gone", || {
            rig.fake.running.load(Ordering::SeqCst) == 0
        })
        .await;
    }
    let mut running = streamed(&rig, &id, with_timeout(&["deaf"], "2s")).await;
    assert_eq!(running.timeout, Some(Duration::from_secs(2)));
    for _ in 0..8 {
        pass(&rig, Duration::from_secs(1)).await;
    }
    let (_, exit) = drain(&mut running).await;
    assert_eq!((exit.exit_code, exit.reason), (137, ExitReason::Timeout));
}

#[tokio::test]
async fn destroying_a_sandbox_ends_its_commands_with_the_reason() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let mut quiet = streamed(&rig, &id, argv(&["deaf"])).await;
    let mut flooding = streamed(&rig, &id, argv(&["flood", "1000"])).await;
    let waiting = background(&rig, &id, argv(&["sleep"]));
    let ops = rig.orchestrator.sandbox(&rig.caller, &id).await.unwrap();
    let hanging = tokio::spawn(async move { ops.stat("/hang").await });
    eventually("all run", || rig.fake.running.load(Ordering::SeqCst) == 3).await;
    settle(&rig).await;
    rig.destroy(&id).await.unwrap();
    // Also the one whose listener reads nothing.
    eventually("all let go of the sandbox", || {
        rig.fake.running.load(Ordering::SeqCst) == 0
    })
    .await;
    for running in [&mut quiet, &mut flooding] {
        let (_, exit) = drain(running).await;
        let expected = (137, ExitReason::SandboxDestroyed);
        assert_eq!((exit.exit_code, exit.reason), expected);
    }
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.exit_code, 137);
    assert_eq!(answer.reason, Some(ExitReason::SandboxDestroyed));
    let gone = hanging.await.unwrap().unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound);
    let late = captured(&rig, &id, argv(&["echo", "x"])).await;
    assert_eq!(code(late), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_lost_connection_is_no_result() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let lost = captured(&rig, &id, argv(&["vanish"])).await;
    assert_eq!(code(lost), ErrorCode::ProviderError);
    let mut running = streamed(&rig, &id, argv(&["vanish"])).await;
    let (_, exit) = drain(&mut running).await;
    assert_eq!(exit.exit_code, 137);
}

#[tokio::test]
async fn file_operations_tell_what_is_the_matter() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let ops = rig.orchestrator.sandbox(&rig.caller, &id).await.unwrap();
    let missing = ops.stat("/nowhere").await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound);
    let entry = rig.orchestrator.state.registry.get(&id).unwrap();
    for (error, expected) in [
        (OpError::Invalid(String::new()), ErrorCode::BadRequest),
        (OpError::Denied(String::new()), ErrorCode::BadRequest),
        (OpError::Conflict(String::new()), ErrorCode::Conflict),
        (OpError::Limit(String::new()), ErrorCode::ResourceLimit),
        (OpError::Unsupported(String::new()), ErrorCode::Unsupported),
        (OpError::Gone(String::new()), ErrorCode::ProviderError),
        (
            OpError::Failed("secret".to_owned()),
            ErrorCode::ProviderError,
        ),
    ] {
        let public = public_error(&entry, error);
        assert_eq!(public.code(), expected);
        assert!(!public.to_string().contains("secret"));
    }
}
