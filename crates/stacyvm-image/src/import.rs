//! Importing a root file system from a tar: an image of one layer.

use std::fs::File;
use std::path::Path;

use crate::image_config::{ConfigFile, Rootfs};
use crate::store::{ContentStore, Layer, images, layer, lookup, removal};
use crate::unpack::ArchiveKind;
use crate::{Image, ImageError, Platform, Progress, Reference};

/// Unpacks the archive and gives it a name.
pub(crate) fn import(
    store: &ContentStore,
    archive: &Path,
    name: Option<&str>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let name = match name {
        Some(name) => Reference::parse(name)?,
        None => {
            let file_name = archive.file_name().unwrap_or_default().to_string_lossy();
            Reference::from_file_name(&file_name)?
        }
    };
    if name.digest().is_some() {
        return Err(ImageError::Name {
            name: name.to_string(),
            reason: "what is imported gets its digest by its content: leave it out",
        });
    }
    if lookup::get(store, &name.to_string())?.is_some() {
        return Err(ImageError::Exists(name.to_string()));
    }
    let file = File::open(archive).map_err(ImageError::io("open the archive"))?;
    let layer = layer::unpack_layer(
        store.layout(),
        file,
        None,
        store.unpack_options(ArchiveKind::RootFileSystem),
        &mut |now| {
            progress(now);
            Ok(())
        },
    )?;
    let config = make_config(&layer)?;
    let diff_id = layer.record.diff_id;
    let layers = [layer];
    let digest = diff_id.to_string();
    let image = images::publish(store, &config, &digest, &layers, Some((&name, false)));
    if image.is_err() {
        drop(layers);
        // The layer is of no image now. What cannot be removed here, the next prune removes.
        let _ = removal::forget_layer(store, diff_id);
    }
    image
}

/// A configuration with nothing but the platform and the layer, so that the same archive is always
/// the same image.
fn make_config(layer: &Layer) -> Result<Vec<u8>, ImageError> {
    let Platform {
        os,
        architecture,
        variant,
    } = Platform::of_this_machine();
    let config = ConfigFile {
        architecture: Some(architecture),
        os: Some(os),
        variant,
        created: None,
        config: None,
        rootfs: Rootfs {
            kind: "layers".to_owned(),
            diff_ids: vec![layer.record.diff_id],
        },
    };
    serde_json::to_vec(&config)
        .map_err(|error| ImageError::io("describe the image")(std::io::Error::from(error)))
}
