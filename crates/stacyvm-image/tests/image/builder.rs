//! Making layers and images, honest and hostile ones.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use stacyvm_image::Digest;
use tar::EntryType::{Directory, Link, Regular, Symlink};
use tar::{Builder, EntryType, Header};

/// Name, kind, content or link target, mode, owner.
pub(crate) type TarEntry<'a> = (EntryType, &'a str, &'a str, u32, u64);

/// A tar stream whose names are put into the headers unchecked.
pub(crate) fn tar_of(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content, mode, owner) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(*owner);
        header.set_gid(*owner);
        header.set_mtime(1_600_000_000);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let mut body: &[u8] = b"";
        match kind {
            Regular => body = content.as_bytes(),
            Symlink | Link => header.set_link_name_literal(content).unwrap(),
            _ => {}
        }
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A small root file system.
pub(crate) fn rootfs() -> Vec<TarEntry<'static>> {
    vec![
        (Directory, "./", "", 0o755, 0),
        (Directory, "./etc/", "", 0o755, 0),
        (
            Regular,
            "./etc/passwd",
            "root:x:0:0:root:/root:/bin/sh",
            0o644,
            0,
        ),
        (Directory, "./usr/", "", 0o755, 0),
        (Directory, "./usr/bin/", "", 0o755, 0),
        (Regular, "./usr/bin/sh", "#!shell", 0o755, 0),
        (Symlink, "./bin", "usr/bin", 0o777, 0),
        (Link, "./usr/bin/bash", "./usr/bin/sh", 0o755, 0),
        (Directory, "./var/", "", 0o755, 0),
        (Regular, "./var/owned", "x", 0o640, 33),
    ]
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A file system's change, and how it travels.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) tar: Vec<u8>,
    pub(crate) blob: Vec<u8>,
    pub(crate) packing: Packing,
}

impl Layer {
    pub(crate) fn new(tar: Vec<u8>, packing: Packing) -> Self {
        let blob = match packing {
            Packing::Plain => tar.clone(),
            Packing::Gzip => gzip(&tar),
            Packing::Zstd => zstd::encode_all(tar.as_slice(), 1).unwrap(),
        };
        Self { tar, blob, packing }
    }

    pub(crate) fn of(entries: &[TarEntry<'_>]) -> Self {
        Self::new(tar_of(entries), Packing::Gzip)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.blob)
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that no compression makes smaller, always the same for a seed.
pub(crate) fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(length);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(char::from(b'!' + (state % 90) as u8));
    }
    text
}

/// An image, not in any registry yet.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Value,
}

impl Image {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(&layer.tar)).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": {
                "Env": ["PATH=/usr/bin", "A=b"],
                "WorkingDir": "/srv",
                "User": "33:33",
                "Entrypoint": ["/usr/bin/sh"],
                "Cmd": ["-c", "true"],
                "ExposedPorts": {"80/tcp": {}},
                "Labels": {"who": "me"},
                "Volumes": null,
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [],
        });
        Self { layers, config }
    }

    /// One layer with a small root file system, told apart by a file.
    pub(crate) fn small(what: &str) -> Self {
        let mut entries = rootfs();
        entries.push((Regular, "what", what, 0o644, 0));
        Self::new(vec![Layer::of(&entries)])
    }

    pub(crate) fn config_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.config).unwrap()
    }

    pub(crate) fn manifest(&self) -> Value {
        let config = self.config_bytes();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let ending = match layer.packing {
                    Packing::Plain => "",
                    Packing::Gzip => "+gzip",
                    Packing::Zstd => "+zstd",
                };
                json!({
                    "mediaType": format!("application/vnd.oci.image.layer.v1.tar{ending}"),
                    "digest": layer.digest(),
                    "size": layer.blob.len(),
                })
            })
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config),
                "size": config.len(),
            },
            "layers": layers,
        })
    }

    /// Every blob by its digest, the manifest too.
    pub(crate) fn blobs(&self) -> BTreeMap<Digest, Vec<u8>> {
        let manifest = serde_json::to_vec(&self.manifest()).unwrap();
        let own = [self.config_bytes(), manifest];
        self.layers
            .iter()
            .map(|layer| layer.blob.clone())
            .chain(own)
            .map(|blob| (Digest::of(&blob), blob))
            .collect()
    }

    /// Writes an OCI layout of this image into a directory.
    pub(crate) fn write_layout(&self, place: &Path, annotations: &Value) {
        let blobs = place.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, blob) in self.blobs() {
            std::fs::write(blobs.join(digest.hex()), blob).unwrap();
        }
        let manifest = serde_json::to_vec(&self.manifest()).unwrap();
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(&manifest),
                "size": manifest.len(),
                "annotations": annotations,
            }],
        });
        std::fs::write(place.join("index.json"), index.to_string()).unwrap();
        let version = json!({"imageLayoutVersion": "1.0.0"});
        std::fs::write(place.join("oci-layout"), version.to_string()).unwrap();
    }
}
