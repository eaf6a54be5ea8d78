//! Commands that outlive the connection that started them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use stacyvm_types::ExitReason;

use super::harness::{Harness, ensure_equal, ensure_error};
use super::sandbox::{Sandbox, shell};
use crate::Capability;
use crate::ops::{ExecControl, ExecEvent, ExecExit, ExecSpec, OpError, Signal};

/// Whether the provider has them; where it has none, that they are refused.
async fn capable(harness: &dyn Harness, sandbox: &Sandbox) -> Result<bool> {
    let capabilities = harness.provider().capabilities();
    if capabilities.contains(&Capability::DetachedExec) {
        return Ok(true);
    }
    let refused = sandbox.ops.exec_detached(shell("true")).await;
    ensure_error!(refused, OpError::Unsupported(_));
    Ok(false)
}

/// Everything from `offset` to the exit.
async fn read(sandbox: &Sandbox, exec_id: u64, offset: u64) -> Result<(String, ExecExit)> {
    let mut attached = sandbox.ops.attach(exec_id, offset, true).await?;
    let mut text = Vec::new();
    loop {
        match attached.events.recv().await.context("no exit came")? {
            ExecEvent::Resumed(from) => ensure_equal!(from, offset),
            ExecEvent::Output(_, bytes) => text.extend_from_slice(&bytes),
            ExecEvent::Exit(exit) => return Ok((String::from_utf8(text)?, exit)),
            ExecEvent::End => bail!("an end without an exit"),
        }
    }
}

/// Also by another server, from any offset.
pub async fn output_is_kept_and_read_again(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    if !capable(harness, &sandbox).await? {
        return Ok(());
    }
    let script = "echo first; echo $A; read line; echo got $line; exit 3";
    let spec = ExecSpec {
        stdin: true,
        env: BTreeMap::from([("A".to_owned(), "second".to_owned())]),
        ..shell(script)
    };
    let (exec_id, pid) = sandbox.ops.exec_detached(spec).await?;
    ensure!(pid > 0, "it has no process id");
    harness.restart().await;
    let ops = harness.provider().open(&sandbox.id).await?;
    let again = Sandbox {
        id: sandbox.id.clone(),
        ops,
    };
    let all = again.ops.execs().await?;
    ensure_equal!(all.len(), 1);
    ensure_equal!((all[0].exec_id, all[0].detached), (exec_id, true));
    ensure!(all[0].exit.is_none(), "it has ended already");
    let line = ExecControl::Stdin(Bytes::from_static(b"third\n"));
    again.ops.tell_exec(exec_id, line).await?;
    let (whole, exit) = read(&again, exec_id, 0).await?;
    ensure_equal!(whole, "first\nsecond\ngot third\n");
    ensure_equal!((exit.exit_code, exit.reason), (3, ExitReason::Exit));
    for offset in [1, 6, whole.len()] {
        let (rest, _) = read(&again, exec_id, offset as u64).await?;
        ensure_equal!(rest, whole[offset..]);
    }
    ensure_error!(
        again.ops.exec_record(exec_id + 1).await,
        OpError::NotFound(_)
    );
    Ok(())
}

/// A signal from one, the end for all.
pub async fn one_command_is_told_and_waited_for_by_many(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    if !capable(harness, &sandbox).await? {
        return Ok(());
    }
    let (exec_id, _) = sandbox.ops.exec_detached(shell("exec sleep 600")).await?;
    let waiting = (0..5).map(|_| {
        let ops = sandbox.ops.clone();
        tokio::spawn(async move { ops.wait_exec(exec_id).await })
    });
    let waiting: Vec<_> = waiting.collect();
    let term = ExecControl::Signal(Signal(15));
    sandbox.ops.tell_exec(exec_id, term).await?;
    for waiter in waiting {
        let exit = waiter.await??;
        ensure_equal!((exit.exit_code, exit.reason), (143, ExitReason::Signal));
    }
    let late = sandbox.ops.tell_exec(exec_id, ExecControl::Kill).await;
    ensure_error!(late, OpError::Conflict(_));
    Ok(())
}
