//! Schemas of bodies that are not JSON objects: bytes, lines, events.

use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

fn binary(description: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .description(Some(description))
        .into()
}

/// The bytes of a file.
pub(crate) struct FileContent;

impl ToSchema for FileContent {}
impl PartialSchema for FileContent {
    fn schema() -> RefOr<Schema> {
        binary("The bytes of a file.")
    }
}

/// A directory as one stream.
pub(crate) struct TarArchive;

impl ToSchema for TarArchive {}
impl PartialSchema for TarArchive {
    fn schema() -> RefOr<Schema> {
        binary("A directory as a tar stream, plain or gzip.")
    }
}

/// Images as one stream.
pub(crate) struct ImageArchive;

impl ToSchema for ImageArchive {}
impl PartialSchema for ImageArchive {
    fn schema() -> RefOr<Schema> {
        binary("Images as a tar stream.")
    }
}

/// Text whose lines are objects of a pull.
pub(crate) struct PullLines;

impl ToSchema for PullLines {}
impl PartialSchema for PullLines {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "One `PullLine` object a line, flushed as it happens; the last has the `status` \
                 `done` or `error`.",
            ))
            .into()
    }
}

/// Text whose lines are objects. OpenAPI 3.1 has no word for what a line is.
pub(crate) struct NdjsonLines;

impl ToSchema for NdjsonLines {}
impl PartialSchema for NdjsonLines {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "One `StreamLine` object a line, flushed as it happens; the last has `stream` \
                 `exit` and the exit code.",
            ))
            .into()
    }
}

/// Server-sent events, as the HTML standard defines them.
pub(crate) struct EventStream;

impl ToSchema for EventStream {}
impl PartialSchema for EventStream {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "Blocks of an `id:` line and a `data:` line that holds one `Event` object.",
            ))
            .into()
    }
}

/// A list of what this version does not have.
pub(crate) struct EmptyList;

impl ToSchema for EmptyList {}
impl PartialSchema for EmptyList {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .items(ObjectBuilder::new())
            .max_items(Some(0))
            .description(Some("Always empty in this version."))
            .into()
    }
}
