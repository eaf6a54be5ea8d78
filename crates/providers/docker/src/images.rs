//! The engine's images: what sandboxes are made from, and what the API manages.

mod archives;
mod describe;
mod lookup;
mod ops;
mod progress;
mod pull;
mod reference;

pub(crate) use lookup::LocalImage;
pub(crate) use ops::EngineImages;
pub(crate) use pull::Puller;
