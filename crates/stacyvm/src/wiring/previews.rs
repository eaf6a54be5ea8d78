//! Who may open previews, and over which certificate, from the configuration.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use stacyvm_config::{Config, PreviewTlsConfig};
use stacyvm_preview::access::{Access, AccessSettings, LinkKey};
use stacyvm_preview::tls::acme::AcmeSettings;
use stacyvm_preview::tls::{Acme, Authority, Source, Tls, authority_dir};
use stacyvm_types::PreviewAccess;

use crate::failure::WithHint;

/// Who may open previews. The key of links is made at the first start.
pub(super) fn access(config: &Config, domain: &str, data: &Path) -> Result<Arc<Access>> {
    let directory = data.join("preview");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let key =
        LinkKey::load(&directory.join("link.key")).context("cannot sign links to previews")?;
    let preview = &config.preview;
    // With a key on the API, previews are private by default too.
    let default = match config.auth.api_key.is_empty() {
        true => PreviewAccess::Public,
        false => PreviewAccess::Private,
    };
    let settings = AccessSettings {
        default: preview.access.unwrap_or(default),
        domain: domain.to_owned(),
        secure: source_is_set(&preview.tls),
        lifetime: preview.link_ttl.to_std(),
        max_lifetime: preview.max_link_ttl.to_std(),
    };
    Ok(Arc::new(Access::new(key, settings)))
}

fn source_is_set(tls: &PreviewTlsConfig) -> bool {
    tls.cert.is_some() || tls.development || tls.acme.hook.is_some()
}

/// TLS, if a certificate can be had.
pub(super) fn tls(config: &Config, data: &Path) -> Result<Option<Arc<Tls>>> {
    let tls = &config.preview.tls;
    let domain = &config.server.preview_domain;
    let source = if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        Source::Files {
            cert: cert.clone(),
            key: key.clone(),
        }
    } else if let Some(hook) = &tls.acme.hook {
        let acme = &tls.acme;
        let domains = match acme.domains.as_slice() {
            [] => vec![format!("*.{domain}")],
            named => named.to_vec(),
        };
        Source::Acme(Acme::new(AcmeSettings {
            directory: acme.directory.clone(),
            email: acme.email.clone(),
            domains,
            hook: hook.clone(),
            hook_timeout: acme.hook_timeout.to_std(),
            root: acme.root.clone(),
            storage: data.join("preview").join("acme"),
        }))
    } else if tls.development {
        let authority = Authority::open_or_make(&authority_dir(data), domain).hint(
            "set server.preview_domain to a host name, or preview.tls.development to false",
        )?;
        Source::Authority(Box::new(authority))
    } else {
        return Ok(None);
    };
    let tls = Tls::new(source)
        .context("cannot serve previews over TLS")
        .hint("set preview.tls.cert and preview.tls.key to files in PEM that belong together")?;
    Ok(Some(Arc::new(tls)))
}
