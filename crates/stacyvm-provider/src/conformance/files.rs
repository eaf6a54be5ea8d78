//! File operations and their documented errors.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use stacyvm_types::FileMode;
use tokio::sync::mpsc;

use super::harness::{Harness, ensure_equal, ensure_error};
use super::sandbox::{Sandbox, stream};
use crate::ops::{OpError, ReadRange, WriteOptions};

/// Content, mode and owner; parents are made when asked.
pub async fn what_is_written_is_read(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let every_byte: Vec<u8> = (0..=255).collect();
    sandbox.write("a/b/c", every_byte.clone()).await?;
    ensure_equal!(sandbox.read("/workspace/a/b/c").await?, every_byte);
    let info = sandbox.ops.stat("a/b/c").await?;
    ensure_equal!(info.name, "c");
    ensure_equal!(info.path, "/workspace/a/b/c");
    ensure_equal!((info.size, info.mode.to_string()), (256, "0644".to_owned()));
    ensure!(!info.is_dir && !info.is_symlink && info.symlink_target.is_none());
    sandbox.say("touch by-a-command").await?;
    let theirs = sandbox.ops.stat("by-a-command").await?;
    ensure_equal!((info.owner, info.group), (theirs.owner, theirs.group));
    sandbox.write("empty", "").await?;
    ensure_equal!(sandbox.read("empty").await?, Vec::<u8>::new());
    let options = WriteOptions {
        mode: FileMode::from_bits(0o750),
        parents: false,
    };
    let written = sandbox.ops.write("x/y", options, stream("z")).await;
    ensure_error!(written, OpError::NotFound(_));
    sandbox.ops.write("a/run", options, stream("z")).await?;
    ensure_equal!(sandbox.ops.stat("a/run").await?.mode.bits(), 0o750);
    ensure_error!(sandbox.write("a", "x").await, OpError::Invalid(_));
    ensure_error!(sandbox.read("a").await, OpError::Invalid(_));
    ensure_error!(sandbox.read("missing").await, OpError::NotFound(_));
    ensure_error!(sandbox.ops.stat("missing").await, OpError::NotFound(_));
    Ok(())
}

/// Readers see the old content or the new one, and an upload that breaks off changes nothing.
pub async fn writing_is_atomic(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    sandbox.write("file", "old").await?;
    let options = WriteOptions {
        mode: FileMode::FILE,
        parents: true,
    };
    let (sender, receiver) = mpsc::channel(1);
    let writing = {
        let sandbox = sandbox.clone();
        tokio::spawn(async move { sandbox.ops.write("file", options, receiver).await })
    };
    for _ in 0..8 {
        sender.send(Ok(Bytes::from(vec![b'n'; 40_000]))).await?;
        ensure_equal!(sandbox.read("file").await?, b"old".to_vec());
    }
    sender
        .send(Err(OpError::Failed("the client went away".to_owned())))
        .await?;
    drop(sender);
    ensure!(writing.await?.is_err(), "a broken upload was a success");
    ensure_equal!(sandbox.read("file").await?, b"old".to_vec());
    ensure_equal!(sandbox.ops.list("/workspace", 1).await?.len(), 1);
    sandbox.write("file", "new").await?;
    ensure_equal!(sandbox.read("file").await?, b"new".to_vec());
    Ok(())
}

/// 64 MiB each way.
pub async fn a_big_file_goes_in_and_out(harness: &mut dyn Harness) -> Result<()> {
    const SIZE: usize = 64 * 1024 * 1024;
    let sandbox = Sandbox::make(harness).await?;
    // A sequence without a period that the pieces could hide.
    let mut state = 1_u64;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_le_bytes()
    })
    .take(SIZE / 8)
    .flatten()
    .collect();
    let content = Bytes::from(content);
    sandbox.write("big", content.clone()).await?;
    ensure_equal!(sandbox.ops.stat("big").await?.size, SIZE as u64);
    let back = sandbox.read("big").await?;
    ensure!(back == content, "the file was changed on its way");
    Ok(())
}

/// Any part of a file.
pub async fn ranges_are_parts(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    sandbox.write("file", "0123456789").await?;
    for (offset, length, expected) in [
        (0, None, "0123456789"),
        (0, Some(3), "012"),
        (4, Some(3), "456"),
        (8, Some(99), "89"),
        (7, None, "789"),
        (10, None, ""),
        (99, Some(1), ""),
        (3, Some(0), ""),
    ] {
        let part = sandbox
            .read_part("file", ReadRange { offset, length })
            .await?;
        ensure_equal!(
            String::from_utf8_lossy(&part),
            expected,
            "{offset} {length:?}"
        );
    }
    Ok(())
}

/// Made with parents, listed in order, to a depth.
pub async fn directories_are_made_and_listed(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let ops = &sandbox.ops;
    ops.mkdir("d/e/f", FileMode::from_bits(0o711)).await?;
    ops.mkdir("d/e/f", FileMode::DIRECTORY)
        .await
        .context("again")?;
    ensure_equal!(ops.stat("d/e/f").await?.mode.bits(), 0o711);
    for file in ["d/b", "d/a", "d/e/x"] {
        sandbox.write(file, "x").await?;
    }
    sandbox.say("ln -s nowhere d/link").await?;
    let paths = async |depth| -> Result<Vec<String>> {
        let found = ops.list("d", depth).await?;
        Ok(found.into_iter().map(|info| info.path).collect())
    };
    let under = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .map(|name| format!("/workspace/d/{name}"))
            .collect()
    };
    ensure_equal!(paths(1).await?, under(&["a", "b", "e", "link"]));
    ensure_equal!(
        paths(3).await?,
        under(&["a", "b", "e", "e/f", "e/x", "link"])
    );
    let link = ops.stat("d/link").await?;
    ensure!(link.is_symlink && !link.is_dir);
    ensure_equal!(link.symlink_target.as_deref(), Some("nowhere"));
    ensure_error!(ops.list("d/a", 1).await, OpError::Invalid(_));
    ensure_error!(ops.list("missing", 1).await, OpError::NotFound(_));
    ensure_error!(
        ops.mkdir("d/a", FileMode::DIRECTORY).await,
        OpError::Conflict(_)
    );
    ensure_error!(
        ops.mkdir("d/a/below", FileMode::DIRECTORY).await,
        OpError::NotFound(_)
    );
    Ok(())
}

/// Moves make parents; directories go only when asked; the root stays.
pub async fn moving_and_removing_have_their_errors(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let ops = &sandbox.ops;
    sandbox.write("file", "1").await?;
    sandbox.write("tree/a/b", "2").await?;
    ops.rename("file", "new/place").await?;
    ensure_equal!(sandbox.read("new/place").await?, b"1".to_vec());
    ensure_error!(ops.stat("file").await, OpError::NotFound(_));
    ensure_error!(ops.rename("file", "x").await, OpError::NotFound(_));
    ensure_error!(ops.rename("tree", "tree/a/c").await, OpError::Invalid(_));
    ensure_error!(ops.rename("new/place", "tree").await, OpError::Conflict(_));
    ops.rename("tree", "/tmp/tree").await.context("to /tmp")?;
    ensure_equal!(sandbox.read("/tmp/tree/a/b").await?, b"2".to_vec());
    ensure_error!(ops.stat("tree").await, OpError::NotFound(_));
    ensure_error!(ops.remove("/tmp/tree", false).await, OpError::Invalid(_));
    ops.remove("/tmp/tree", true).await?;
    ensure_error!(ops.remove("/tmp/tree", true).await, OpError::NotFound(_));
    ops.remove("new/place", false).await?;
    for path in ["/", "/workspace"] {
        ensure_error!(ops.remove(path, true).await, OpError::Invalid(_));
    }
    sandbox
        .say("mkdir kept && echo x > kept/file && ln -s kept link")
        .await?;
    ops.remove("link", true).await?;
    ensure_equal!(sandbox.read("kept/file").await?, b"x\n".to_vec());
    Ok(())
}

/// Exactly these bits, through links too.
pub async fn modes_are_changed(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    sandbox.write("file", "#!/bin/sh\necho ran\n").await?;
    sandbox.say("ln -s file link").await?;
    for bits in [0o755, 0o600, 0o200, 0o777] {
        let mode = FileMode::from_bits(bits);
        sandbox.ops.chmod("link", mode).await?;
        ensure_equal!(sandbox.ops.stat("file").await?.mode, mode);
    }
    ensure_equal!(sandbox.say("./file").await?, "ran");
    ensure_error!(
        sandbox.ops.chmod("missing", FileMode::FILE).await,
        OpError::NotFound(_)
    );
    Ok(())
}

/// Every wildcard; no match is an empty answer.
pub async fn patterns_find_files(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    for file in ["a.rs", "b.rs", "c.md", "src/d.rs", "src/deep/e.rs"] {
        sandbox.write(file, "").await?;
    }
    for (pattern, expected) in [
        ("*.rs", vec!["a.rs", "b.rs"]),
        ("/workspace/*.rs", vec!["a.rs", "b.rs"]),
        ("?.{md,rs}", vec!["a.rs", "b.rs", "c.md"]),
        ("[bc].*", vec!["b.rs", "c.md"]),
        ("**/*.rs", vec!["a.rs", "b.rs", "src/d.rs", "src/deep/e.rs"]),
        ("src/**", vec!["src/d.rs", "src/deep", "src/deep/e.rs"]),
        ("*.none", vec![]),
    ] {
        let found = sandbox.ops.glob(pattern).await?;
        let expected: Vec<String> = expected
            .into_iter()
            .map(|name| format!("/workspace/{name}"))
            .collect();
        ensure_equal!(found, expected, "{pattern}");
    }
    ensure_error!(sandbox.ops.glob("a[").await, OpError::Invalid(_));
    Ok(())
}

/// The file operations and commands work on the same files with the same rights.
pub async fn commands_and_files_see_the_same(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    sandbox.write("from-outside", "a").await?;
    sandbox
        .say("cat from-outside > copy && echo more >> from-outside && rm -f copy2; mkdir -m 700 own && echo x > own/f && chmod 600 own/f")
        .await?;
    ensure_equal!(sandbox.read("copy").await?, b"a".to_vec());
    ensure_equal!(sandbox.read("from-outside").await?, b"amore\n".to_vec());
    ensure_equal!(sandbox.read("own/f").await?, b"x\n".to_vec());
    sandbox.write("/tmp/file", "t").await?;
    sandbox.ops.remove("own", true).await?;
    ensure_equal!(sandbox.say("ls").await?, "copy\nfrom-outside");
    Ok(())
}

/// What is no path at all.
pub async fn bad_paths_are_invalid(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let long = "x".repeat(300);
    for path in ["", "a\0b", long.as_str()] {
        ensure_error!(sandbox.ops.stat(path).await, OpError::Invalid(_));
        ensure_error!(sandbox.read(path).await, OpError::Invalid(_));
        ensure_error!(sandbox.write(path, "x").await, OpError::Invalid(_));
    }
    sandbox.write("file", "x").await?;
    ensure_error!(sandbox.ops.stat("file/below").await, OpError::NotFound(_));
    sandbox.say("ln -s loop loop && mkfifo pipe").await?;
    ensure_error!(sandbox.read("loop").await, OpError::Invalid(_));
    // A pipe without a writer must not hold the operation up.
    ensure_error!(sandbox.read("pipe").await, OpError::Invalid(_));
    Ok(())
}
