//! Whole directories at once.

use anyhow::{Result, ensure};

use super::harness::{Harness, ensure_equal, ensure_error};
use super::sandbox::{Sandbox, collect, stream};
use crate::ops::OpError;

/// One member of a tar stream in the ustar form (source: POSIX, pax interchange format), with a
/// name that nobody has checked.
fn member(kind: u8, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"14524621000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

/// Content, modes and links survive the way.
pub async fn directories_go_out_and_in(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let ops = &sandbox.ops;
    sandbox.write("from/a", "content").await?;
    sandbox.write("from/deep/b", vec![7; 200_000]).await?;
    sandbox
        .say("cd from && ln -s a link && chmod 751 a && mkdir -m 500 closed")
        .await?;
    let packed = collect(ops.archive_out("from").await?).await?;
    ops.archive_in("/workspace/to/place", stream(packed))
        .await?;
    let describe = async |path: &str| -> Result<Vec<_>> {
        let found = ops.list(path, 9).await?;
        let prefix = format!("/workspace/{path}/");
        Ok(found
            .into_iter()
            .map(|info| {
                (
                    info.path.replace(&prefix, ""),
                    info.mode,
                    info.symlink_target,
                )
            })
            .collect())
    };
    ensure_equal!(describe("to/place").await?, describe("from").await?);
    ensure_equal!(sandbox.read("to/place/a").await?, b"content".to_vec());
    ensure_equal!(sandbox.read("to/place/deep/b").await?, vec![7; 200_000]);
    let single = collect(ops.archive_out("from/a").await?).await?;
    ops.archive_in("single", stream(single)).await?;
    ensure_equal!(sandbox.read("single/a").await?, b"content".to_vec());
    let owner = ops.stat("from/a").await?.owner;
    ensure_equal!(ops.stat("to/place/a").await?.owner, owner);
    ensure_error!(ops.archive_out("missing").await, OpError::NotFound(_));
    Ok(())
}

/// Entries that would leave the target stop the unpacking.
pub async fn hostile_entries_are_refused(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let hostile: [(&str, Vec<Vec<u8>>); 6] = [
        ("absolute", vec![member(b'0', "/tmp/escaped", "", b"x")]),
        ("dots", vec![member(b'0', "../escaped", "", b"x")]),
        (
            "inner dots",
            vec![member(b'0', "a/../../escaped", "", b"x")],
        ),
        (
            "through a link",
            vec![
                member(b'2', "l", "/tmp", b""),
                member(b'0', "l/escaped", "", b"x"),
            ],
        ),
        ("hard link", vec![member(b'1', "h", "../kept", b"")]),
        ("device", vec![member(b'3', "null", "", b"")]),
    ];
    sandbox.write("kept", "kept").await?;
    for (what, mut members) in hostile {
        members.push(member(b'0', "after", "", b"x"));
        let result = sandbox
            .ops
            .archive_in("target", stream(archive(&members)))
            .await;
        ensure!(
            matches!(result, Err(OpError::Invalid(_))),
            "{what}: {}",
            super::harness::shown(&result)
        );
        for path in ["escaped", "/tmp/escaped", "target/after"] {
            let made = sandbox.ops.stat(path).await;
            ensure!(made.is_err(), "{what}: {path} was made");
        }
        ensure_equal!(sandbox.read("kept").await?, b"kept".to_vec());
    }
    Ok(())
}

/// Garbage, and an archive that breaks off.
pub async fn what_is_no_archive_is_invalid(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let whole = archive(&[member(b'0', "file", "", &[1; 5000])]);
    for bytes in [vec![b'x'; 4096], whole[..2000].to_vec(), Vec::new()] {
        let result = sandbox.ops.archive_in("t", stream(bytes)).await;
        ensure_error!(result, OpError::Invalid(_));
    }
    sandbox.ops.archive_in("t", stream(whole)).await?;
    ensure_equal!(sandbox.read("t/file").await?, vec![1; 5000]);
    Ok(())
}
