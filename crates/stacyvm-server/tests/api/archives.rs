//! Whole directories in and out: the archive row of contract section 5.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use stacyvm_types::ArchiveFormat;

use crate::http::{get, send};
use crate::mock::Mocked;

fn tar_of(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        // Written past the checks of the library: hostile archives are the point.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn whole_directories_go_in_and_out() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let base = format!("/api/v1/sandboxes/{id}/files/archive");
    let archive = tar_of(&[("top.txt", "top"), ("sub/inner.txt", "inner")]);
    for (target, body) in [
        ("/workspace/plain", archive.clone()),
        ("/workspace/packed", gzip(&archive)),
    ] {
        let answer = send(at, "PUT", &format!("{base}?path={target}"), "", &body).await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, "{\"status\":\"written\"}"),
            "{target}"
        );
        let read = server
            .client
            .read_file(&id, &format!("{target}/sub/inner.txt"))
            .await
            .unwrap();
        assert_eq!(read, "inner");
        for form in [ArchiveFormat::Tar, ArchiveFormat::TarGz] {
            let mut out = server.client.archive_out(&id, target, form).await.unwrap();
            let mut bytes = Vec::new();
            while let Some(piece) = out.next().await {
                bytes.extend_from_slice(&piece.unwrap());
            }
            if form == ArchiveFormat::TarGz {
                let packed = std::mem::take(&mut bytes);
                GzDecoder::new(packed.as_slice())
                    .read_to_end(&mut bytes)
                    .unwrap();
            }
            let mut names = Vec::new();
            for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut content = String::new();
                entry.read_to_string(&mut content).unwrap();
                let name = entry
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .trim_start_matches("./")
                    .to_owned();
                names.push((name, content));
            }
            assert!(
                names.contains(&("sub/inner.txt".to_owned(), "inner".to_owned())),
                "{names:?}"
            );
        }
    }
    get(at, &format!("{base}?path=/no/such"))
        .await
        .expect(404, "NOT_FOUND");
    for body in [
        tar_of(&[("../escaped", "x")]),
        tar_of(&[("/../escaped", "x"), ("ok", "y")]),
        b"this is no archive at all".repeat(50),
        gzip(&archive)[..40].to_vec(),
    ] {
        let answer = send(
            at,
            "PUT",
            &format!("{base}?path=/workspace/evil"),
            "",
            &body,
        )
        .await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        answer.expect(400, "BAD_REQUEST");
    }
    let outside = get(
        at,
        &format!("/api/v1/sandboxes/{id}/files?path=/workspace/escaped"),
    )
    .await;
    outside.expect(404, "NOT_FOUND");
    server.stop().await;
}
