//! The form of image references. The mock provider has no images, so it checks nothing else.

use stacyvm_provider::ProviderError;

/// The longest reference, in bytes.
const MAX_BYTES: usize = 255;

/// Refuses references that no registry would accept: `host`, `alpine:latest`, `ghcr.io/a/b:1` and
/// `a@sha256:…` are fine.
pub(crate) fn check(image: &str) -> Result<(), ProviderError> {
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    let parts_are_whole = image
        .split(['/', ':', '@'])
        .all(|part| part.starts_with(|c: char| c.is_ascii_alphanumeric()));
    if image.len() <= MAX_BYTES && image.chars().all(allowed) && parts_are_whole {
        return Ok(());
    }
    let shown: String = image.chars().take(80).collect();
    Err(ProviderError::Invalid(format!(
        "{shown:?} is no image reference, write it like alpine:latest"
    )))
}

#[cfg(test)]
mod tests {
    #[test]
    fn references_are_checked_for_their_form_alone() {
        for fine in [
            "host",
            "alpine:latest",
            "ghcr.io/a/b_c:1.2-x",
            "localhost:5000/a",
            "a@sha256:0f",
        ] {
            assert!(super::check(fine).is_ok(), "{fine}");
        }
        let long = "a".repeat(256);
        for wrong in [
            "",
            " ",
            "a b",
            "/a",
            "a/",
            "a:",
            "a//b",
            "-a",
            "a\0",
            "../a",
            "é",
            long.as_str(),
        ] {
            assert!(super::check(wrong).is_err(), "{wrong:?}");
        }
    }
}
