//! Certificates of previews: one source at most, and a complete one.

use stacyvm_types::GoDuration;

use super::findings::Findings;
use crate::Config;

/// A record that others do not see by then is not seen at all.
const MAX_HOOK_TIMEOUT: GoDuration = GoDuration::from_secs(60 * 60);
/// A link that is good for longer should be a public preview.
const MAX_LINK_TTL: GoDuration = GoDuration::from_secs(366 * 24 * 60 * 60);

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    links(config, found);
    let tls = &config.preview.tls;
    for (key, set, other) in [
        ("preview.tls.cert", tls.cert.is_some(), tls.key.is_some()),
        ("preview.tls.key", tls.key.is_some(), tls.cert.is_some()),
    ] {
        if set && !other {
            found.add(
                key,
                "a certificate is of no use without its key, nor a key without its certificate",
                Some("set preview.tls.cert and preview.tls.key".to_owned()),
            );
        }
    }
    let sources = [
        ("preview.tls.development", tls.development),
        ("preview.tls.acme.hook", tls.acme.hook.is_some()),
        ("preview.tls.cert", tls.cert.is_some()),
    ];
    let mut set = sources.iter().filter(|(_, set)| *set);
    if let (Some((one, _)), Some((other, _))) = (set.next(), set.next()) {
        found.add(
            one,
            format!("there is another source of certificates, {other}"),
            Some("keep one of them".to_owned()),
        );
    }
    acme(config, found);
}

fn links(config: &Config, found: &mut Findings<'_>) {
    let preview = &config.preview;
    let longest = preview.max_link_ttl;
    if !longest.is_positive() || longest > MAX_LINK_TTL {
        found.add(
            "preview.max_link_ttl",
            format!("it must be longer than 0s and not longer than {MAX_LINK_TTL}"),
            None,
        );
    }
    if !preview.link_ttl.is_positive() || preview.link_ttl > longest {
        found.add(
            "preview.link_ttl",
            format!(
                "it must be longer than 0s and not longer than preview.max_link_ttl, {longest}"
            ),
            None,
        );
    }
}

fn acme(config: &Config, found: &mut Findings<'_>) {
    let acme = &config.preview.tls.acme;
    if acme.hook.is_none() {
        return;
    }
    if !acme.directory.starts_with("https://") {
        found.add(
            "preview.tls.acme.directory",
            "it is no address that begins with https://",
            None,
        );
    }
    if !acme.hook_timeout.is_positive() || acme.hook_timeout > MAX_HOOK_TIMEOUT {
        found.add(
            "preview.tls.acme.hook_timeout",
            format!("it must be longer than 0s and not longer than {MAX_HOOK_TIMEOUT}"),
            None,
        );
    }
    let domain = &config.server.preview_domain;
    if acme.domains.is_empty() && !domain.contains('.') {
        found.add(
            "preview.tls.acme.hook",
            format!("nobody issues a certificate for server.preview_domain {domain:?}"),
            Some(
                "set server.preview_domain to a domain of yours, or use preview.tls.development"
                    .to_owned(),
            ),
        );
    }
}
