//! The engine's descriptions of images in the form of the API.

use std::time::{Duration, SystemTime};

use bollard::models::{ImageDeleteResponseItem, ImageInspect, ImageSummary};
use stacyvm_types::{ImageDetails, ImageInfo, ImageLayer, ImageSettings, ImagesRemoved, Timestamp};

use crate::names::TRIAL_REPOSITORY;

/// The engine's name for an image that has none.
const NAMELESS: &str = "<none>:<none>";

/// Whether a text is the name of an image, and not the engine's placeholder.
fn is_name(name: &str) -> bool {
    name != NAMELESS
}

/// An entry for each name of an image, or one for an image without names. The image of trials has
/// none, because it is not the operator's.
pub(super) fn list_entries(image: &ImageSummary) -> Vec<ImageInfo> {
    let trials = format!("{TRIAL_REPOSITORY}:");
    let mut names: Vec<&str> = image.repo_tags.iter().map(String::as_str).collect();
    names.retain(|name| is_name(name));
    if names.iter().any(|name| name.starts_with(&trials)) {
        return Vec::new();
    }
    if names.is_empty() {
        names.push(&image.id);
    }
    let entry = |name: &&str| ImageInfo {
        name: (*name).to_owned(),
        id: image.id.clone(),
        digest: digest(&image.repo_digests, &image.id),
        size: bytes(Some(image.size)),
        entries: 0,
        layers: 0,
        platform: String::new(),
        created: since_epoch(image.created),
    };
    names.iter().map(entry).collect()
}

/// The digest of an image in the registry that it came from, else its id.
fn digest(digests: &[String], id: &str) -> String {
    let known = digests.iter().find_map(|name| name.split_once('@'));
    known.map_or(id, |(_, digest)| digest).to_owned()
}

/// The details of an inspected image, under the name that was asked for.
pub(super) fn details(name: &str, found: ImageInspect) -> ImageDetails {
    let id = found.id.unwrap_or_default();
    let layers = found
        .root_fs
        .and_then(|root| root.layers)
        .unwrap_or_default();
    let digests = found.repo_digests.unwrap_or_default();
    let config = found.config.unwrap_or_default();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let made = found.created.map(|created| created.to_string());
    let created = made.as_deref().and_then(parse_time);
    let parts = [found.os, found.architecture, found.variant];
    let platform: Vec<String> = parts.into_iter().filter_map(filled).collect();
    ImageDetails {
        image: ImageInfo {
            name: name.to_owned(),
            digest: digest(&digests, &id),
            id,
            size: bytes(found.size),
            entries: 0,
            layers: layers.len() as u64,
            platform: platform.join("/"),
            created: created.unwrap_or_else(|| since_epoch(0)),
        },
        names: found.repo_tags.unwrap_or_default(),
        made,
        config: ImageSettings {
            env: config.env.unwrap_or_default(),
            working_dir: filled(config.working_dir),
            user: filled(config.user),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            exposed_ports: config.exposed_ports.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            stop_signal: filled(config.stop_signal),
        },
        layer_list: layers
            .into_iter()
            .map(|diff_id| ImageLayer {
                diff_id,
                size: 0,
                entries: 0,
            })
            .collect(),
    }
}

/// What a removal has removed.
pub(super) fn removed(items: &[ImageDeleteResponseItem]) -> ImagesRemoved {
    ImagesRemoved {
        names: items
            .iter()
            .filter_map(|item| item.untagged.clone())
            .collect(),
        images: items
            .iter()
            .filter_map(|item| item.deleted.clone())
            .collect(),
        ..ImagesRemoved::default()
    }
}

/// The images that no container uses: those without a name, or with `all` the others too.
pub(super) fn unused(images: Vec<ImageSummary>, used: &[String], all: bool) -> ImagesRemoved {
    let mut unused = ImagesRemoved::default();
    for image in images {
        let is_named = image.repo_tags.iter().any(|name| is_name(name));
        if used.contains(&image.id) || (is_named && !all) {
            continue;
        }
        unused.freed += bytes(Some(image.size));
        let names = image.repo_tags.into_iter();
        unused.names.extend(names.filter(|name| is_name(name)));
        unused.images.push(image.id);
    }
    unused
}

/// A size; 0 where the engine gives none.
pub(super) fn bytes(number: Option<i64>) -> u64 {
    number
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or(0)
}

/// Parses a time of the engine.
fn parse_time(text: &str) -> Option<Timestamp> {
    serde_json::from_value(text.into()).ok()
}

fn since_epoch(seconds: i64) -> Timestamp {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str], digests: &[&str]) -> ImageSummary {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ImageSummary {
            id: "sha256:1".to_owned(),
            repo_tags: own(names),
            repo_digests: own(digests),
            size: 10,
            created: 1,
            ..ImageSummary::default()
        }
    }

    #[test]
    fn an_image_has_a_line_for_each_name() {
        let lines = list_entries(&image(&["a:1", "b:2"], &["a@sha256:9"]));
        let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["a:1", "b:2"]);
        assert_eq!((lines[0].digest.as_str(), lines[0].size), ("sha256:9", 10));
        let nameless = list_entries(&image(&[NAMELESS], &[]));
        assert_eq!(nameless[0].name, "sha256:1");
        assert_eq!(nameless[0].digest, "sha256:1");
        assert!(list_entries(&image(&["stacyvm/trial:1"], &[])).is_empty());
    }

    #[test]
    fn unused_images_are_those_without_a_container_and_with_a_name_only_when_asked() {
        let with_id = |id: &str, names: &[&str]| ImageSummary {
            id: id.to_owned(),
            ..image(names, &[])
        };
        let images = || {
            vec![
                with_id("used", &["a:1"]),
                with_id("named", &["b:1", "b:2"]),
                with_id("nameless", &[NAMELESS]),
            ]
        };
        let used = ["used".to_owned()];
        let dangling = unused(images(), &used, false);
        assert_eq!(dangling.images, ["nameless"]);
        assert_eq!((dangling.names.len(), dangling.freed), (0, 10));
        let all = unused(images(), &used, true);
        assert_eq!(all.images, ["named", "nameless"]);
        assert_eq!(all.names, ["b:1", "b:2"]);
    }
}
