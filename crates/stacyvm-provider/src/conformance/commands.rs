//! Running commands.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use stacyvm_types::{ExitReason, OutputStream};

use super::harness::{Harness, WAIT_TIMEOUT, ensure_equal, ensure_error, eventually};
use super::sandbox::{Sandbox, argv, finish, first_line, next, shell, tell};
use crate::Capability;
use crate::ops::{Credentials, ExecControl, ExecEvent, ExecSpec, OpError, Signal, TtySize};

/// Codes, and both streams apart.
pub async fn exit_codes_and_streams_arrive(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    for code in [0, 1, 42, 255] {
        let finished = sandbox
            .shell(&format!("echo out; echo err >&2; exit {code}"))
            .await?;
        ensure_equal!(finished.exit.exit_code, code);
        ensure_equal!(finished.exit.signal, None);
        ensure_equal!(finished.exit.reason, ExitReason::Exit);
        ensure_equal!(finished.stdout, b"out\n".to_vec());
        ensure_equal!(finished.stderr, b"err\n".to_vec());
    }
    Ok(())
}

/// No shell looks at arguments.
pub async fn arguments_arrive_literally(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let words = [
        "",
        " a  b ",
        "'",
        "\"",
        "$HOME",
        "`id`",
        "*",
        "a\nb",
        "\\n",
        "ä€😀",
        "-n",
        "--",
        ";",
        "|",
    ];
    let mut command = vec![
        "/bin/sh",
        "-c",
        "for word; do printf '[%s]' \"$word\"; done",
        "sh",
    ];
    command.extend(words);
    let finished = sandbox.run(argv(&command)).await?;
    let expected: String = words.iter().map(|word| format!("[{word}]")).collect();
    ensure_equal!(String::from_utf8_lossy(&finished.stdout), expected);
    // Without a slash the program is looked up.
    ensure_equal!(sandbox.run(argv(&["echo", "$x"])).await?.text(), "$x");
    Ok(())
}

/// A command has its own variables and the usual ones.
pub async fn variables_are_visible(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let mut spec = shell("printf %s \"$OWN\"");
    spec.env.insert("OWN".to_owned(), "a b\n'c'".to_owned());
    let finished = sandbox.run(spec).await?;
    ensure_equal!(String::from_utf8_lossy(&finished.stdout), "a b\n'c'");
    let usual = sandbox
        .say("test -n \"$PATH\" && test -d \"$HOME\" && echo fine")
        .await?;
    ensure_equal!(usual, "fine");
    Ok(())
}

/// Where a command runs that names no place.
pub async fn the_default_directory_is_the_workspace(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    sandbox.say("mkdir sub && echo x > made").await?;
    ensure_equal!(sandbox.read("/workspace/made").await?, b"x\n".to_vec());
    for workdir in ["sub", "/workspace/sub"] {
        let mut spec = shell("echo y > there");
        spec.workdir = Some(workdir.to_owned());
        ensure_equal!(sandbox.run(spec).await?.exit.exit_code, 0);
        ensure_equal!(sandbox.read("sub/there").await?, b"y\n".to_vec());
        sandbox.ops.remove("sub/there", false).await?;
    }
    Ok(())
}

/// A place that is not there is said before anything runs.
pub async fn a_missing_directory_is_invalid(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    sandbox.write("file", "x").await?;
    for workdir in ["missing", "/no/such/place", "file"] {
        let mut spec = shell("echo ran > ran");
        spec.workdir = Some(workdir.to_owned());
        ensure_error!(sandbox.ops.exec(spec).await, OpError::Invalid(_));
    }
    ensure_error!(sandbox.ops.stat("ran").await, OpError::NotFound(_));
    Ok(())
}

/// As a shell would answer.
pub async fn a_missing_program_exits_127(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    for program in ["no-such-program", "/no/such/program"] {
        let finished = sandbox.run(argv(&[program, "x"])).await?;
        ensure_equal!(finished.exit.exit_code, 127);
        let complaint = String::from_utf8_lossy(&finished.stderr).into_owned();
        ensure!(
            complaint.contains(program),
            "{complaint:?} does not name it"
        );
    }
    ensure_error!(sandbox.ops.exec(argv(&[])).await, OpError::Invalid(_));
    Ok(())
}

/// Input arrives whole, and its end is seen.
pub async fn standard_input_arrives_and_ends(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let spec = ExecSpec {
        stdin: true,
        ..argv(&["cat"])
    };
    let session = sandbox.ops.exec(spec).await?;
    let pieces: Vec<Bytes> = (0..64_u8).map(|n| Bytes::from(vec![n; 10_000])).collect();
    let expected = pieces.concat();
    let control = session.control.clone();
    let feeding = tokio::spawn(async move {
        for piece in pieces {
            control.send(ExecControl::Stdin(piece)).await?;
        }
        control.send(ExecControl::CloseStdin).await
    });
    let finished = finish(session).await?;
    feeding.await?.context("feed the command")?;
    ensure!(
        finished.stdout == expected,
        "the input was changed on its way"
    );
    ensure_equal!(finished.exit.exit_code, 0);
    Ok(())
}

/// A command that reads does not hang.
pub async fn without_standard_input_it_is_empty(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let finished = sandbox.run(argv(&["cat"])).await?;
    ensure_equal!((finished.exit.exit_code, finished.stdout), (0, Vec::new()));
    Ok(())
}

/// Signals from inside and from outside.
pub async fn death_by_signal_is_128_and_its_number(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    for signal in [9, 15, 6] {
        let finished = sandbox.shell(&format!("kill -{signal} $$")).await?;
        ensure_equal!(finished.exit.exit_code, 128 + signal);
        ensure_equal!(finished.exit.signal, Some(signal));
        ensure_equal!(finished.exit.reason, ExitReason::Signal);
    }
    let mut session = sandbox
        .ops
        .exec(shell(
            "trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done",
        ))
        .await?;
    ensure_equal!(first_line(&mut session).await?, "ready");
    tell(&session, ExecControl::Signal(Signal(10))).await?;
    let finished = finish(session).await?;
    ensure_equal!(finished.text(), "caught");
    ensure_equal!(finished.exit.exit_code, 7);
    Ok(())
}

/// Names and numbers of the sandbox; a name that is not there is no user.
pub async fn users_are_looked_up_inside(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let default = sandbox.say("id -u").await?;
    ensure_equal!(sandbox.ops.stat("/workspace").await?.is_dir, true);
    let run_as = |user: &str| {
        let mut spec = shell("id -u");
        spec.user = Credentials::User(user.to_owned());
        sandbox.ops.exec(spec)
    };
    let finished = finish(run_as(&default).await?).await?;
    ensure_equal!(finished.text(), default);
    for wrong in ["no-such-user", "1000:x"] {
        ensure_error!(
            run_as(wrong).await,
            OpError::NotFound(_) | OpError::Invalid(_)
        );
    }
    Ok(())
}

/// Nothing is lost, and pieces are of a bounded size.
pub async fn much_output_arrives_whole(harness: &mut dyn Harness) -> Result<()> {
    const LINES: usize = 1_000_000;
    let sandbox = Sandbox::make(harness).await?;
    let text = format!("i=0; yes abcdefg | head -n {LINES}; echo end >&2");
    let mut session = sandbox.ops.exec(shell(&text)).await?;
    let (mut bytes, mut end) = (0, Vec::new());
    loop {
        match next(&mut session, WAIT_TIMEOUT).await? {
            ExecEvent::Output(OutputStream::Stdout, piece) => {
                ensure!(piece.len() <= 64 * 1024, "a piece of {} bytes", piece.len());
                let right = piece
                    .iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == b"abcdefg\n"[(bytes + at) % 8]);
                ensure!(right, "the output is out of order near byte {bytes}");
                bytes += piece.len();
            }
            ExecEvent::Output(OutputStream::Stderr, piece) => end.extend_from_slice(&piece),
            // A command that outlives its connection says where its output begins.
            ExecEvent::Resumed(_) => {}
            ExecEvent::End => anyhow::bail!("the end of a look at output"),
            ExecEvent::Exit(exit) => {
                ensure_equal!(exit.exit_code, 0);
                break;
            }
        }
    }
    ensure_equal!(bytes, LINES * 8);
    ensure_equal!(end, b"end\n".to_vec());
    Ok(())
}

/// Fifty commands side by side keep their words to themselves.
pub async fn many_commands_at_once(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let sandbox = sandbox.clone();
        tasks.spawn(async move {
            let finished = sandbox
                .shell(&format!("echo {number}; exit {number}"))
                .await?;
            ensure_equal!(finished.text(), number.to_string());
            ensure_equal!(finished.exit.exit_code, number);
            Ok(())
        });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(())
}

/// A terminal with a size, input, and its end; or a refusal.
pub async fn a_terminal_or_a_refusal(harness: &mut dyn Harness) -> Result<()> {
    let capable = harness.provider().capabilities().contains(&Capability::Pty);
    let sandbox = Sandbox::make(harness).await?;
    let spec = ExecSpec {
        stdin: true,
        tty: Some(TtySize { cols: 91, rows: 17 }),
        ..shell("test -t 0 && test -t 1 && stty size; read answer; echo \"got $answer\"; stty size")
    };
    if !capable {
        ensure_error!(sandbox.ops.exec(spec).await, OpError::Unsupported(_));
        return Ok(());
    }
    let mut session = sandbox.ops.exec(spec).await?;
    ensure_equal!(first_line(&mut session).await?, "17 91");
    tell(
        &session,
        ExecControl::Resize(TtySize { cols: 50, rows: 20 }),
    )
    .await?;
    tell(&session, ExecControl::Stdin(Bytes::from_static(b"hello\n"))).await?;
    let finished = finish(session).await?;
    ensure_equal!(finished.exit.exit_code, 0);
    let text = finished.text();
    ensure!(text.contains("got hello"), "{text:?}");
    ensure!(text.contains("20 50"), "{text:?}");
    Ok(())
}

/// What commands print can be asked for later, newest last.
pub async fn output_is_kept_in_the_log(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    sandbox.say("echo first; echo second >&2").await?;
    sandbox.say("echo third").await?;
    eventually("the log has all lines", async || {
        let lines = sandbox.ops.logs(100).await?;
        let at = |wanted: &str| lines.iter().position(|line| line.contains(wanted));
        Ok(at("first").is_some() && at("second").is_some() && at("third") > at("first"))
    })
    .await?;
    ensure_equal!(sandbox.ops.logs(1).await?.len(), 1);
    ensure!(sandbox.ops.logs(1).await?[0].contains("third"));
    Ok(())
}

/// The agent counts what runs.
pub async fn usage_is_counted(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let mut spec = shell("sleep 600 & echo ready; wait");
    spec.timeout = Some(Duration::from_secs(600));
    let mut session = sandbox.ops.exec(spec).await?;
    first_line(&mut session).await?;
    let usage = sandbox.ops.usage().await?;
    ensure!(usage.pids >= 2, "two processes at least: {usage:?}");
    ensure!(usage.mem_bytes > 0, "they use memory: {usage:?}");
    tell(&session, ExecControl::Kill).await?;
    let exit = finish(session).await?.exit;
    ensure_equal!(exit.exit_code, 137);
    Ok(())
}
