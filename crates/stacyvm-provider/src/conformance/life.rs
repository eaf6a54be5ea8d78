//! Making, finding, losing and destroying sandboxes.

use anyhow::{Context, Result, ensure};
use stacyvm_types::SandboxId;

use super::harness::{Harness, WAIT_TIMEOUT, ensure_equal, ensure_error, eventually};
use super::sandbox::{Sandbox, finish, first_line, shell, spec};
use crate::ops::{ExecSpec, OnDisconnect, OpError};
use crate::{BoxInfo, BoxState, Capability, ProviderError};

/// The provider works here, and its words fit together.
pub async fn is_healthy_and_says_what_it_is(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let health = provider.health().await;
    ensure!(health.healthy, "not healthy: {:?}", health.error);
    ensure_equal!(health.error, None);
    let capabilities = provider.capabilities();
    for needed in [Capability::Exec, Capability::Files] {
        ensure!(capabilities.contains(&needed), "{needed:?} is missing");
    }
    let mut once = capabilities.clone();
    once.sort();
    once.dedup();
    ensure_equal!(once.len(), capabilities.len());
    provider
        .check_image(provider.default_image())
        .await
        .context("the default image")
}

/// Create, list, open, destroy, and nothing is left; destroying twice is success.
pub async fn a_sandbox_lives_and_is_gone_when_destroyed(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let sandbox = Sandbox::make(harness).await?;
    sandbox.ops.ping().await?;
    let running = BoxInfo {
        id: sandbox.id.clone(),
        state: BoxState::Running,
    };
    ensure_equal!(provider.list().await?, vec![running]);
    let again = provider.open(&sandbox.id).await?;
    again.ping().await?;
    provider.destroy(&sandbox.id).await?;
    ensure_equal!(provider.list().await?, vec![]);
    ensure_equal!(harness.leftovers(&sandbox.id).await, Vec::<String>::new());
    ensure_error!(sandbox.ops.ping().await, OpError::Gone(_));
    ensure_error!(provider.open(&sandbox.id).await, ProviderError::NotFound(_));
    provider.destroy(&sandbox.id).await.context("destroy again")
}

/// Ids of no box.
pub async fn unknown_ids_are_answered_as_such(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let nobody = SandboxId::from_u32(0);
    ensure_error!(provider.open(&nobody).await, ProviderError::NotFound(_));
    ensure_error!(provider.stats(&nobody).await, ProviderError::NotFound(_));
    provider.destroy(&nobody).await?;
    tokio::time::timeout(WAIT_TIMEOUT, provider.wait_exit(&nobody))
        .await
        .context("waiting for an unknown sandbox's end does not end")
}

/// A second sandbox of the same id is refused, and the first one does not notice.
pub async fn an_id_cannot_be_used_twice(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let sandbox = Sandbox::make(harness).await?;
    let mut second = spec(&*provider);
    second.id = sandbox.id.clone();
    ensure!(provider.create(&second).await.is_err(), "it was made twice");
    ensure_equal!(sandbox.say("echo still here").await?, "still here");
    Ok(())
}

/// An image that makes no sense is refused before anything is made.
pub async fn images_are_checked(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    for image in ["", "no such image", "../../etc", "a\0b"] {
        ensure_error!(
            provider.check_image(image).await,
            ProviderError::Invalid(_) | ProviderError::NotFound(_)
        );
        let mut spec = spec(&*provider);
        spec.image = image.to_owned();
        ensure_error!(
            provider.create(&spec).await,
            ProviderError::Invalid(_) | ProviderError::NotFound(_)
        );
        ensure_equal!(harness.leftovers(&spec.id).await, Vec::<String>::new());
    }
    ensure_equal!(provider.list().await?, vec![]);
    Ok(())
}

/// Variables and directory of the spec are every command's, unless it says otherwise.
pub async fn defaults_of_the_spec_reach_every_command(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make_with(harness, |spec| {
        spec.env
            .insert("COLOUR".to_owned(), "blue $HOME".to_owned());
        spec.env.insert("SHAPE".to_owned(), "round".to_owned());
        spec.workdir = Some("/tmp".to_owned());
    })
    .await?;
    ensure_equal!(sandbox.say("echo \"$COLOUR\"").await?, "blue $HOME");
    let mut own = shell("echo \"$COLOUR $SHAPE\"; touch here");
    own.env.insert("SHAPE".to_owned(), "flat".to_owned());
    ensure_equal!(sandbox.run(own).await?.text(), "blue $HOME flat");
    ensure!(!sandbox.ops.stat("/tmp/here").await?.is_dir);
    Ok(())
}

/// Only `/workspace` and `/tmp` stay writable, or the spec is refused.
pub async fn a_read_only_rootfs_or_a_refusal(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let mut read_only = spec(&*provider);
    read_only.read_only_rootfs = true;
    if !provider
        .capabilities()
        .contains(&Capability::ReadOnlyRootfs)
    {
        ensure_error!(
            provider.create(&read_only).await,
            ProviderError::Unsupported(_)
        );
        ensure_equal!(provider.list().await?, vec![]);
        return Ok(());
    }
    let ops = provider.create(&read_only).await?;
    let sandbox = Sandbox {
        id: read_only.id,
        ops,
    };
    for writable in ["/workspace/new", "/tmp/new"] {
        sandbox.write(writable, "x").await.context(writable)?;
    }
    for refused in ["/new", "/etc/new", "/usr/new", "/home/new"] {
        let written = sandbox.write(refused, "x").await;
        ensure_error!(written, OpError::Denied(_));
        let touched = sandbox.shell(&format!("touch {refused}")).await?;
        ensure!(touched.exit.exit_code != 0, "{refused} could be made");
    }
    Ok(())
}

/// With the capability, a limit of processes holds; without it, the provider says so in words.
pub async fn limits_or_no_claim_of_them(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    if !provider
        .capabilities()
        .contains(&Capability::ResourceLimits)
    {
        let said = provider.degradations().join(" ");
        ensure!(said.contains("limits"), "no word about limits in {said:?}");
        return Ok(());
    }
    let said = provider.degradations().join(" ");
    if said.contains("limit of processes is ") {
        harness.skip(&format!("the number of processes is not limited: {said}"));
        return Ok(());
    }
    let sandbox = Sandbox::make_with(harness, |spec| spec.pids_limit = 32).await?;
    // A shell that goes on without them ends with its tree when the time is over.
    let mut many = shell("i=0; while [ $i -lt 64 ]; do sleep 600 & i=$((i+1)); done; wait");
    many.timeout = Some(WAIT_TIMEOUT / 2);
    let finished = sandbox.run(many).await?;
    ensure!(
        !finished.stderr.is_empty(),
        "64 processes could be made under a limit of 32"
    );
    eventually("the sandbox works again", async || {
        Ok(sandbox
            .say("echo fine")
            .await
            .is_ok_and(|said| said == "fine"))
    })
    .await
}

/// What is claimed about use is plausible.
pub async fn stats_or_no_claim_of_them(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let sandbox = Sandbox::make(harness).await?;
    let stats = provider.stats(&sandbox.id).await?;
    let claimed = provider.capabilities().contains(&Capability::Stats);
    ensure_equal!(stats.supported, claimed);
    if claimed {
        ensure!(stats.pids >= 1, "no process: {stats:?}");
        ensure_equal!(stats.mem_limit_bytes, 512 * 1024 * 1024);
    } else {
        ensure_equal!(stats, stacyvm_types::SandboxStats::default());
    }
    Ok(())
}

/// Several are made, used and destroyed at the same time and stay apart.
pub async fn many_sandboxes_at_once(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let provider = provider.clone();
        tasks.spawn(async move {
            let spec = spec(&*provider);
            let ops = provider.create(&spec).await?;
            let sandbox = Sandbox { id: spec.id, ops };
            sandbox.write("number", number.to_string()).await?;
            ensure_equal!(sandbox.say("cat number").await?, number.to_string());
            ensure_equal!(sandbox.ops.list("/workspace", 1).await?.len(), 1);
            provider.destroy(&sandbox.id).await?;
            Ok(())
        });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    ensure_equal!(provider.list().await?, vec![]);
    Ok(())
}

/// What runs, what was written and the spec's defaults outlive the server.
pub async fn a_restart_keeps_sandboxes_and_what_runs_in_them(
    harness: &mut dyn Harness,
) -> Result<()> {
    let sandbox = Sandbox::make_with(harness, |spec| {
        spec.env.insert("KEPT".to_owned(), "yes".to_owned());
    })
    .await?;
    sandbox.write("file", "content").await?;
    let mut survivor = sandbox
        .ops
        .exec(ExecSpec {
            on_disconnect: OnDisconnect::Detach,
            ..shell("echo $$; exec sleep 600")
        })
        .await?;
    let pid = first_line(&mut survivor).await?;
    drop(survivor);
    let id = sandbox.id.clone();
    drop(sandbox);
    harness.restart().await;

    let provider = harness.provider();
    let running = BoxInfo {
        id: id.clone(),
        state: BoxState::Running,
    };
    ensure_equal!(provider.list().await?, vec![running]);
    let ops = provider.open(&id).await?;
    let sandbox = Sandbox { id, ops };
    ensure_equal!(sandbox.say("cat file; echo \"$KEPT\"").await?, "contentyes");
    ensure!(sandbox.lives(&pid).await?, "what ran did not survive");
    provider.destroy(&sandbox.id).await?;
    ensure_equal!(harness.leftovers(&sandbox.id).await, Vec::<String>::new());
    Ok(())
}

/// A workload that dies by itself is told, shows as dead and can be destroyed.
pub async fn a_dead_workload_is_noticed(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let sandbox = Sandbox::make(harness).await?;
    let waiting = {
        let (provider, id) = (provider.clone(), sandbox.id.clone());
        tokio::spawn(async move { provider.wait_exit(&id).await })
    };
    let session = sandbox.ops.exec(shell("sleep 600")).await?;
    harness.kill_workload(&sandbox.id).await;
    tokio::time::timeout(WAIT_TIMEOUT, waiting)
        .await
        .context("nobody noticed the end")??;
    let dead = BoxInfo {
        id: sandbox.id.clone(),
        state: BoxState::Dead,
    };
    ensure_equal!(provider.list().await?, vec![dead]);
    let heard = finish(session).await;
    ensure!(
        heard.is_err(),
        "a command of a dead sandbox ended: {heard:?}"
    );
    ensure_error!(sandbox.ops.stat("/").await, OpError::Gone(_));
    provider.destroy(&sandbox.id).await?;
    ensure_equal!(harness.leftovers(&sandbox.id).await, Vec::<String>::new());
    Ok(())
}

/// Nothing of a destroyed sandbox runs, and the followers of a command or the sandbox hear of it.
pub async fn destroying_ends_running_commands(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    let sandbox = Sandbox::make(harness).await?;
    let mut session = sandbox
        .ops
        .exec(shell(
            "trap '' TERM; (setsid sleep 600 &) ; echo ready; sleep 600",
        ))
        .await?;
    first_line(&mut session).await?;
    let waiting = {
        let (provider, id) = (provider.clone(), sandbox.id.clone());
        tokio::spawn(async move { provider.wait_exit(&id).await })
    };
    provider.destroy(&sandbox.id).await?;
    ensure_equal!(harness.leftovers(&sandbox.id).await, Vec::<String>::new());
    tokio::time::timeout(WAIT_TIMEOUT, waiting)
        .await
        .context("waiting for the end does not end")??;
    // Either its exit was still told, or the connection was lost; it must not hang.
    let heard = tokio::time::timeout(WAIT_TIMEOUT, finish(session)).await;
    ensure!(heard.is_ok(), "the command's session does not end");
    Ok(())
}
