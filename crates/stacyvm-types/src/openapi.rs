//! How the types that are texts on the wire are described in OpenAPI. All others derive theirs.

use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::{DomainPattern, ExecId, FileMode, GoDuration, OwnerId, SandboxId, Timestamp, Vcpus};

fn text(description: &str, example: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .examples([example])
}

/// Names the schema as the type and makes it from what follows.
macro_rules! described {
    ($($name:ident => $schema:expr;)*) => {$(
        impl ToSchema for $name {}
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }
    )*};
}

described! {
    SandboxId => text("Names one sandbox for ever.", "sb-0123abcd")
        .pattern(Some("^sb-[0-9a-f]{8}$"));
    ExecId => text("Names one exec within its sandbox.", "ex-1")
        .pattern(Some("^ex-(0|[1-9][0-9]*)$"));
    OwnerId => text(
        "Who a sandbox belongs to. No white space, control character, `/` or `\\`; at most 128 bytes.",
        "alice",
    )
        .pattern(Some(r"^[^\s/\\]+$"))
        .max_length(Some(OwnerId::MAX_BYTES));
    DomainPattern => text(
        "A host name, `*.` and a name for every name below it, or an address; international names as punycode.",
        "*.example.com",
    );
    FileMode => text("Permission bits, octal.", "0644").pattern(Some("^[0-7]{4}$"));
    Timestamp => text("An instant, UTC.", "2026-01-02T03:04:05.678901Z")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .pattern(Some("Z$"));
    GoDuration => text("A length of time in the style of Go.", "1h30m0s")
        .pattern(Some(r"^-?(\d+h)?(\d+m)?\d+(\.\d+)?(s|ms|µs|ns)$"));
    Vcpus => ObjectBuilder::new()
        .schema_type(Type::Number)
        .description(Some("Cores: a whole number, or a decimal of at most two digits."))
        .examples([0.5])
        .minimum(Some(0.05))
        .maximum(Some(f64::from(Vcpus::MAX_CORES)));
}
