//! Manifests: which configuration and which layers an image has, and which of several images is
//! for a platform. The formats are those of the OCI image specification and of Docker, version 2.

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageError, Platform};

/// The largest manifest or index, in bytes; registries have the same limit.
pub(crate) const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
/// The most layers that an image may have: overlayfs takes 500, some kernels' mount options fewer.
pub(crate) const MAX_LAYERS: usize = 256;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The media types that can be read, for the header `Accept`.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A reference to other content by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// An image: its configuration and its layers, the lowest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Several images, each for a platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

/// A manifest or an index.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// Reads a manifest or an index; its keys say which it is.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let broken = |error: serde_json::Error| {
            ImageError::Archive(format!("the manifest is not readable: {error}"))
        };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(broken)?;
        if value.get("manifests").is_some() {
            return serde_json::from_value(value)
                .map(Self::Index)
                .map_err(broken);
        }
        if value["schemaVersion"] == 1 {
            return Err(ImageError::Archive(
                "the image has a manifest of version 1, which nobody makes any more: push it again with a newer tool"
                    .to_owned(),
            ));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(broken)?;
        manifest.check()?;
        Ok(Self::Manifest(manifest))
    }
}

impl Manifest {
    fn check(&self) -> Result<(), ImageError> {
        if self.layers.len() > MAX_LAYERS {
            return Err(ImageError::Limit(format!(
                "the image has {} layers, more than {MAX_LAYERS}",
                self.layers.len()
            )));
        }
        match self
            .layers
            .iter()
            .find(|layer| !is_layer(&layer.media_type))
        {
            None => Ok(()),
            Some(other) => {
                let shown: String = other.media_type.chars().take(80).collect();
                Err(ImageError::Archive(format!(
                    "this is no container image: it has a part of the kind {shown:?}"
                )))
            }
        }
    }
}

impl Index {
    /// The image for a platform.
    pub(crate) fn choose(&self, image: &str, wanted: &Platform) -> Result<&Descriptor, ImageError> {
        let fitting = |found: &&Descriptor| {
            let platform = found.platform.as_ref();
            platform.is_some_and(|platform| wanted.accepts(platform))
        };
        let exact = |found: &&Descriptor| found.platform.as_ref() == Some(wanted);
        let mut manifests = self.manifests.iter();
        let chosen = manifests
            .clone()
            .find(exact)
            .or_else(|| manifests.find(fitting));
        if let Some(chosen) = chosen {
            return Ok(chosen);
        }
        // A layout of a single image often says nothing of its platform.
        if let [only] = self.manifests.as_slice()
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let mut available: Vec<String> = self
            .manifests
            .iter()
            .filter_map(|found| found.platform.as_ref())
            // An index lists attestations as images for the platform "unknown".
            .filter(|platform| platform.os != "unknown")
            .map(ToString::to_string)
            .take(20)
            .collect();
        available.sort();
        available.dedup();
        Err(ImageError::Platform {
            image: image.to_owned(),
            wanted: wanted.to_string(),
            available: match available.is_empty() {
                true => "no platform".to_owned(),
                false => available.join(", "),
            },
        })
    }
}

/// Whether a media type is that of a layer of files. Whether it is compressed, its first bytes say.
fn is_layer(media_type: &str) -> bool {
    let kind = media_type
        .trim_end_matches("+gzip")
        .trim_end_matches("+zstd");
    matches!(
        kind,
        OCI_LAYER
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn index(platforms: &[Option<&str>]) -> Index {
        let manifests = platforms
            .iter()
            .enumerate()
            .map(|(number, platform)| Descriptor {
                media_type: OCI_MANIFEST.to_owned(),
                digest: Digest::parse(DIGEST).unwrap(),
                size: number as u64,
                platform: platform.map(|text| text.parse().unwrap()),
                annotations: None,
            });
        Index {
            schema_version: 2,
            media_type: OCI_INDEX.to_owned(),
            manifests: manifests.collect(),
        }
    }

    #[test]
    fn the_image_for_the_platform_is_chosen() {
        let wanted: Platform = "linux/arm/v7".parse().unwrap();
        let chosen = |platforms: &[Option<&str>]| {
            index(platforms)
                .choose("x", &wanted)
                .map(|found| found.size)
                .map_err(|error| error.to_string())
        };
        assert_eq!(chosen(&[Some("linux/amd64"), Some("linux/arm/v7")]), Ok(1));
        assert_eq!(chosen(&[Some("linux/arm"), Some("linux/arm/v7")]), Ok(1));
        assert_eq!(chosen(&[Some("linux/arm")]), Ok(0));
        assert_eq!(chosen(&[None]), Ok(0));
        let error = chosen(&[Some("linux/amd64"), Some("unknown/unknown")]).unwrap_err();
        assert_eq!(
            error,
            "image \"x\" is not there for linux/arm/v7, only for linux/amd64"
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let manifest = |media_type: &str, layers: usize| {
            let layer = serde_json::json!({"mediaType": media_type, "digest": DIGEST, "size": 1});
            serde_json::json!({
                "schemaVersion": 2,
                "config": {"mediaType": OCI_CONFIG, "digest": DIGEST, "size": 1},
                "layers": vec![layer; layers],
            })
            .to_string()
        };
        for ending in ["", "+gzip", "+zstd"] {
            let text = manifest(&format!("{OCI_LAYER}{ending}"), 2);
            assert!(Document::parse(text.as_bytes()).is_ok(), "{ending}");
        }
        for text in [
            manifest("application/vnd.cncf.helm.chart.content.v1.tar+gzip", 1),
            manifest(OCI_LAYER, MAX_LAYERS + 1),
            r#"{"schemaVersion": 1, "fsLayers": []}"#.to_owned(),
            "{}".to_owned(),
            "[".to_owned(),
            manifest(OCI_LAYER, 1).replace("sha256", "md5"),
        ] {
            assert!(Document::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
