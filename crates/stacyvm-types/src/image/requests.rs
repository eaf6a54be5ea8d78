//! The queries of the image routes. Every one may name the provider whose images are meant.

use serde::{Deserialize, Serialize};

/// The query of routes that need to know the provider and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct ProviderQuery {
    /// The provider whose images are meant; the default one when absent.
    pub provider: Option<String>,
}

/// The query of POST `/images/load`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct LoadImagesQuery {
    /// The name of the image, where the archive has one image. Needed for `rootfs`.
    pub name: Option<String>,
    /// What the archive is: `images`, the default, or `rootfs`.
    #[cfg_attr(feature = "openapi", param(value_type = Option<String>))]
    pub kind: Option<ImageArchiveKind>,
    /// The provider whose images are meant; the default one when absent.
    pub provider: Option<String>,
}

/// What an uploaded archive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageArchiveKind {
    /// One image or more, as `docker save` and other tools write them.
    #[default]
    Images,
    /// The files of one root file system.
    Rootfs,
}

/// The query of GET `/images/save`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct SaveImagesQuery {
    /// The images; given once for each.
    pub name: Vec<String>,
    /// The provider whose images are meant; the default one when absent.
    pub provider: Option<String>,
}
