//! Files through a real agent: contract section 5.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::http::{get, post, send};
use crate::mock::Mocked;

#[tokio::test]
async fn what_is_written_is_read_back() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let base = format!("/api/v1/sandboxes/{id}/files");
    for (body, path, content, mode) in [
        (
            json!({"path": "/workspace/a b+c&é.txt", "content": "text é\n"}),
            "/workspace/a%20b%2Bc%26%C3%A9.txt",
            "text é\n",
            "0644",
        ),
        (
            json!({"path": "deep/er/rel.txt", "content": ""}),
            "/workspace/deep/er/rel.txt",
            "",
            "0644",
        ),
        (
            json!({"path": "/tmp/run.sh", "content": "#!", "mode": "755"}),
            "/tmp/run.sh",
            "#!",
            "0755",
        ),
        (
            json!({"path": "/workspace/b64", "content": "aGk=", "encoding": "base64"}),
            "b64",
            "hi",
            "0644",
        ),
        (
            json!({"path": "/workspace/u", "content": "u", "encoding": "utf-8"}),
            "%2Fworkspace%2Fu",
            "u",
            "0644",
        ),
        (
            json!({"path": "/workspace/u", "content": "replaced"}),
            "/workspace/./x/../u",
            "replaced",
            "0644",
        ),
    ] {
        let written = post(at, &base, &body.to_string()).await;
        assert_eq!(
            (written.status, written.text()),
            (200, "{\"status\":\"written\"}"),
            "{body}"
        );
        let read = get(at, &format!("{base}?path={path}")).await;
        assert_eq!((read.status, read.text()), (200, content), "{body}");
        assert_eq!(
            read.header("content-type"),
            Some("application/octet-stream")
        );
        assert_eq!(
            read.header("content-length"),
            Some(content.len().to_string().as_str())
        );
        let info = get(at, &format!("{base}/stat?path={path}")).await.json();
        assert_eq!(info["mode"], mode, "{body}");
    }
    let head = send(at, "HEAD", &format!("{base}?path=u"), "", b"").await;
    assert_eq!(head.header("content-length"), Some("8"));
    server.stop().await;
}

#[tokio::test]
async fn raw_bodies_are_kept_byte_for_byte() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let base = format!("/api/v1/sandboxes/{id}/files");
    let bytes: Vec<u8> = (0..200_000u32)
        .map(|number| (number * 7 % 256) as u8)
        .collect();
    let octets = "Content-Type: application/octet-stream\r\n";
    for (headers, path) in [
        (octets, "/workspace/raw1"),
        (
            "Content-Type: application/x-www-form-urlencoded\r\n",
            "/workspace/raw2",
        ),
        ("", "/workspace/raw3"),
    ] {
        let answer = send(
            at,
            "POST",
            &format!("{base}?path={path}&mode=0600"),
            headers,
            &bytes,
        )
        .await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, "{\"status\":\"written\"}")
        );
        let read = get(at, &format!("{base}?path={path}")).await;
        assert!(read.body == bytes, "{path}");
        assert_eq!(
            server
                .client
                .stat_file(&id, path)
                .await
                .unwrap()
                .mode
                .bits(),
            0o600
        );
    }
    let empty = send(
        at,
        "POST",
        &format!("{base}?path=/workspace/empty"),
        octets,
        b"",
    )
    .await;
    assert_eq!(empty.status, 200, "{}", empty.text());
    assert_eq!(
        get(at, &format!("{base}?path=/workspace/empty"))
            .await
            .text(),
        ""
    );
    send(at, "POST", &base, octets, b"no path")
        .await
        .expect(400, "BAD_REQUEST");
    let wrong = send(at, "POST", &format!("{base}?path=/x&mode=rw"), octets, b"x").await;
    wrong.expect(400, "BAD_REQUEST");
    // In pieces, up and down, larger than every buffer on the way.
    let piece = Bytes::from(vec![b'z'; 100_000]);
    let pieces = stream::iter((0..300).map({
        let piece = piece.clone();
        move |_| Ok(piece.clone())
    }));
    server
        .client
        .write_file_stream(&id, "/workspace/large", Some("0640"), pieces)
        .await
        .unwrap();
    let mut read = server
        .client
        .read_file_stream(&id, "/workspace/large")
        .await
        .unwrap();
    let mut count = 0;
    while let Some(piece) = read.next().await {
        let piece = piece.unwrap();
        assert!(piece.iter().all(|byte| *byte == b'z'));
        count += piece.len();
    }
    assert_eq!(count, 30_000_000);
    // A source that fails leaves the file as it was.
    let failing = stream::iter([Ok(piece), Err(std::io::Error::other("disk"))]);
    let error = server
        .client
        .write_file_stream(&id, "/workspace/large", None, failing)
        .await;
    assert!(error.is_err());
    assert_eq!(
        server
            .client
            .stat_file(&id, "/workspace/large")
            .await
            .unwrap()
            .size,
        30_000_000
    );
    server.stop().await;
}

#[tokio::test]
async fn ranges_are_honoured() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    server
        .client
        .write_file(&id, "/workspace/digits", "0123456789")
        .await
        .unwrap();
    server
        .client
        .write_file(&id, "/workspace/empty", "")
        .await
        .unwrap();
    let path = format!("/api/v1/sandboxes/{id}/files?path=/workspace/digits");
    for (range, body, content_range) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=4-", "456789", "bytes 4-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=7-99", "789", "bytes 7-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
    ] {
        let answer = send(at, "GET", &path, &format!("Range: {range}\r\n"), b"").await;
        assert_eq!((answer.status, answer.text()), (206, body), "{range}");
        assert_eq!(
            answer.header("content-range"),
            Some(content_range),
            "{range}"
        );
    }
    for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
        let answer = send(at, "GET", &path, &format!("Range: {range}\r\n"), b"").await;
        answer.expect(416, "BAD_REQUEST");
        assert_eq!(
            answer.header("content-range"),
            Some("bytes */10"),
            "{range}"
        );
    }
    for range in ["bytes=0-1,3-4", "lines=1-2", "bytes=5-1"] {
        let answer = send(at, "GET", &path, &format!("Range: {range}\r\n"), b"").await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, "0123456789"),
            "{range}"
        );
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    }
    let empty = format!("/api/v1/sandboxes/{id}/files?path=/workspace/empty");
    let answer = send(at, "GET", &empty, "Range: bytes=0-\r\n", b"").await;
    answer.expect(416, "BAD_REQUEST");
    server.stop().await;
}

#[tokio::test]
async fn files_are_listed_moved_changed_found_and_removed() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let client = &server.client;
    let base = format!("/api/v1/sandboxes/{id}/files");
    for name in ["z.txt", "a.py", "sub/inner.py", "sub/deep/er.txt"] {
        client
            .write_file(&id, &format!("/workspace/{name}"), name)
            .await
            .unwrap();
    }
    server.shell(&id, "ln -s a.py link").await;
    let names = |list: Vec<stacyvm_types::FileInfo>| -> Vec<String> {
        list.into_iter().map(|info| info.path).collect()
    };
    let listed = names(client.list_files(&id, "/workspace").await.unwrap());
    assert_eq!(
        listed,
        [
            "/workspace/a.py",
            "/workspace/link",
            "/workspace/sub",
            "/workspace/z.txt"
        ]
    );
    let deep = names(client.list_files_deep(&id, "/workspace", 9).await.unwrap());
    assert!(
        deep.contains(&"/workspace/sub/deep/er.txt".to_owned()),
        "{deep:?}"
    );
    assert!(!names(client.list_files(&id, "/").await.unwrap()).is_empty());
    let default = get(at, &format!("{base}/list")).await;
    let root = get(at, &format!("{base}/list?path=/")).await;
    assert_eq!(default.text(), root.text());
    // Descriptions.
    let info = client.stat_file(&id, "/workspace/a.py").await.unwrap();
    assert_eq!(
        (info.name.as_str(), info.size, info.is_dir),
        ("a.py", 4, false)
    );
    let link = client.stat_file(&id, "/workspace/link").await.unwrap();
    assert!(link.is_symlink);
    assert_eq!(link.symlink_target.as_deref(), Some("a.py"));
    assert_eq!(
        client.read_file(&id, "/workspace/link").await.unwrap(),
        "a.py"
    );
    assert!(
        client
            .stat_file(&id, "/workspace/sub")
            .await
            .unwrap()
            .is_dir
    );
    // Changes.
    let moved = json!({"old_path": "/workspace/z.txt", "new_path": "/workspace/new/home/z.txt"});
    let answer = post(at, &format!("{base}/move"), &moved.to_string()).await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, "{\"status\":\"moved\"}")
    );
    post(at, &format!("{base}/move"), &moved.to_string())
        .await
        .expect(404, "NOT_FOUND");
    let answer = post(
        at,
        &format!("{base}/chmod"),
        "{\"path\":\"a.py\",\"mode\":\"0700\"}",
    )
    .await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, "{\"status\":\"chmod applied\"}")
    );
    assert_eq!(
        client
            .stat_file(&id, "a.py")
            .await
            .unwrap()
            .mode
            .to_string(),
        "0700"
    );
    let answer = post(
        at,
        &format!("{base}/mkdir"),
        "{\"path\":\"/workspace/m/n\",\"mode\":\"0750\"}",
    )
    .await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, "{\"status\":\"created\"}")
    );
    assert_eq!(
        client.stat_file(&id, "m/n").await.unwrap().mode.to_string(),
        "0750"
    );
    // Patterns.
    for (pattern, found) in [
        ("/workspace/*.py", vec!["/workspace/a.py"]),
        (
            "/workspace/**/*.py",
            vec!["/workspace/a.py", "/workspace/sub/inner.py"],
        ),
        ("/workspace/{a,b}.p?", vec!["/workspace/a.py"]),
        ("/workspace/[a-c].py", vec!["/workspace/a.py"]),
        ("/workspace/nothing*", vec![]),
    ] {
        assert_eq!(
            client.glob_files(&id, pattern).await.unwrap(),
            found,
            "{pattern}"
        );
    }
    // Removal.
    let path = format!("{base}?path=/workspace/sub");
    send(at, "DELETE", &path, "", b"")
        .await
        .expect(400, "BAD_REQUEST");
    let answer = send(at, "DELETE", &format!("{path}&recursive=true"), "", b"").await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, "{\"status\":\"deleted\"}")
    );
    send(at, "DELETE", &path, "", b"")
        .await
        .expect(404, "NOT_FOUND");
    client
        .delete_file(&id, "/workspace/link", false)
        .await
        .unwrap();
    assert_eq!(
        client.read_file(&id, "/workspace/a.py").await.unwrap(),
        "a.py"
    );
    // What is not there, and what is no file.
    for path in ["", "/stat", "/list"] {
        get(at, &format!("{base}{path}?path=/no/such"))
            .await
            .expect(404, "NOT_FOUND");
    }
    get(at, &format!("{base}?path=/workspace"))
        .await
        .expect(400, "BAD_REQUEST");
    let directory = format!("{base}?path=/workspace");
    let range = send(at, "GET", &directory, "Range: bytes=0-1\r\n", b"").await;
    range.expect(400, "BAD_REQUEST");
    server.stop().await;
}

#[tokio::test]
async fn no_path_reaches_the_host() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let base = format!("/api/v1/sandboxes/{id}/files");
    let host =
        std::fs::read("/etc/hostname").unwrap_or_else(|_| std::fs::read("/etc/passwd").unwrap());
    server
        .shell(&id, "ln -s /etc/hostname l1; ln -s ../../../../../../../../etc/hostname l2; ln -s /proc/self/root l3; ln -s /etc l4")
        .await;
    for path in [
        "/../../../../../../../../etc/hostname",
        "../../../../../../../../../etc/hostname",
        "l1",
        "l2",
        "l3/etc/hostname",
        "l4/hostname",
        "/proc/self/root/etc/hostname",
    ] {
        let answer = get(at, &format!("{base}?path={path}")).await;
        assert_ne!(answer.status, 500, "{path}");
        assert!(
            answer.status != 200 || answer.body != host,
            "{path} reached the host"
        );
        assert!(
            !answer.text().contains("/tmp/"),
            "{path}: {}",
            answer.text()
        );
    }
    server.stop().await;
}
