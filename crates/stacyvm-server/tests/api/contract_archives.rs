//! What goes in and out whole: the archive row of contract section 5.

use serde_json::json;

use crate::contract_files::Files;
use crate::http::send;

/// A tar of entries: kind, name, link's target, content.
fn tar_of(entries: &[(tar::EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, target, content) in entries {
        let mut header = tar::Header::new_gnu();
        // Written past the checks of the library: hostile archives are the point.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_link_name_literal(target).unwrap();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn archives_say_what_they_are_and_never_leave_their_target() {
    use tar::EntryType::{Link, Regular, Symlink};
    let files = Files::new().await;
    files.write("/workspace/kept").await;
    let put = async |target: &str, body: &[u8]| {
        let path = format!("{}/archive?path={target}", files.base);
        send(files.server.address, "PUT", &path, "", body).await
    };
    let good = tar_of(&[(Regular, "d/one", "", "1"), (Symlink, "link", "d/one", "")]);
    let answer = put("made/on/the/way", &good).await;
    assert_eq!(answer.text(), "{\"status\":\"written\"}");
    let one = files.stat("/workspace/made/on/the/way/d/one").await;
    let kept = files.stat("/workspace/kept").await;
    assert_eq!(
        (&one["mode"], &one["owner"]),
        (&json!("0640"), &kept["owner"])
    );
    let read = files.get("?path=made/on/the/way/link").await;
    assert_eq!(read.text(), "1");
    for (format, kind, magic) in [
        ("", "application/x-tar", &b"ustar"[..]),
        ("&format=tar", "application/x-tar", b"ustar"),
        ("&format=tar.gz", "application/gzip", b"\x1f\x8b"),
    ] {
        let answer = files.get(&format!("/archive?path=made{format}")).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some(kind))
        );
        let found = answer.body.windows(magic.len()).any(|bytes| bytes == magic);
        assert!(found, "{format}");
    }
    for (what, entries) in [
        ("dots", vec![(Regular, "../kept", "", "x")]),
        ("absolute", vec![(Regular, "/workspace/kept", "", "x")]),
        (
            "a link of its own",
            vec![
                (Symlink, "l", "/workspace", ""),
                (Regular, "l/kept", "", "x"),
            ],
        ),
        ("a hard link", vec![(Link, "h", "../kept", "")]),
    ] {
        let answer = put("/workspace/evil", &tar_of(&entries)).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        answer.expect(400, "BAD_REQUEST");
        let read = files.get("?path=/workspace/kept").await;
        assert_eq!(read.text(), "/workspace/kept", "{what}");
    }
    files.server.stop().await;
}
