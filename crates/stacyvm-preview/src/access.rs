//! Who may open a preview.
//!
//! A public preview is open to everybody who knows its address. A private one asks for a token that
//! the API has signed: in the address once, after which a browser keeps it as a cookie of that one
//! host, or in a header with every request. Owns the tokens, the cookies and the decision; knows
//! nothing of connections. Its rule: no token is sent to a sandbox, and no token is logged.

mod cookie;
mod decision;
mod key;
mod query;
mod token;

use std::time::Duration;

use stacyvm_types::{PreviewAccess, SandboxId, Timestamp};

pub use decision::TOKEN_HEADER;
pub use key::{KeyError, LinkKey};
pub use query::TOKEN as TOKEN_PARAMETER;
use token::{Purpose, SandboxPort};

/// How access is decided.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// The access of sandboxes whose spawn named none.
    pub default: PreviewAccess,
    /// The domain below which previews have their host names, with a port if clients need one.
    pub domain: String,
    /// Whether previews are served over TLS. If so, links are `https`, and requests without TLS to
    /// port 80 are redirected.
    pub secure: bool,
    /// How long a link is valid that does not ask for a time.
    pub lifetime: Duration,
    /// The longest time that a link may ask for.
    pub max_lifetime: Duration,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            default: PreviewAccess::Public,
            domain: "localhost".to_owned(),
            secure: false,
            lifetime: Duration::from_secs(60 * 60),
            max_lifetime: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// Decides who may open previews.
#[derive(Debug)]
pub struct Access {
    key: LinkKey,
    settings: AccessSettings,
}

/// A link to a preview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The address, with a token in it if the preview is private.
    pub url: String,
    /// When it expires; none when it is valid for as long as the sandbox lives.
    pub expires_at: Option<Timestamp>,
}

impl Access {
    /// Access by tokens that are signed with `key`.
    pub fn new(key: LinkKey, settings: AccessSettings) -> Self {
        Self { key, settings }
    }

    /// The settings.
    pub fn settings(&self) -> &AccessSettings {
        &self.settings
    }

    /// The access of a sandbox whose spawn requested this.
    pub fn effective(&self, requested: Option<PreviewAccess>) -> PreviewAccess {
        requested.unwrap_or(self.settings.default)
    }

    /// A link to a port of a sandbox, valid for `lifetime` if the preview is private.
    pub fn link(
        &self,
        id: &SandboxId,
        port: u16,
        requested: Option<PreviewAccess>,
        lifetime: Duration,
        now: Timestamp,
    ) -> Link {
        let scheme = if self.settings.secure {
            "https"
        } else {
            "http"
        };
        let url = format!("{scheme}://{port}-{id}.{}/", self.settings.domain);
        if self.effective(requested) == PreviewAccess::Public {
            return Link {
                url,
                expires_at: None,
            };
        }
        let port = SandboxPort { id, port };
        let end = round_up_to_second(now.saturating_add(lifetime));
        let token = token::issue(&self.key, Purpose::Link, port, end);
        Link {
            url: query::add(&url, &token),
            expires_at: Some(end),
        }
    }
}

/// Rounds a time up to a whole second, which is what a token holds.
fn round_up_to_second(time: Timestamp) -> Timestamp {
    let micros = time.unix_micros();
    match micros.rem_euclid(1_000_000) {
        0 => time,
        past => Timestamp::from_unix_micros(micros.saturating_add(1_000_000 - past)),
    }
}
