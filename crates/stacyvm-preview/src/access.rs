//! Who may open a preview.
//!
//! Public previews are open to whoever knows the address. A private one asks for a word that the
//! API has signed (`token`): in the address once, after which a browser keeps it as a cookie of
//! that one host, or in a header with every request. Owns the words, the cookies and the decision;
//! knows nothing of connections. The one rule: no word of ours goes into a sandbox, and no word is
//! logged.

mod cookie;
mod door;
mod key;
mod query;
mod token;

use std::time::Duration;

use stacyvm_types::{PreviewAccess, SandboxId, Timestamp};

pub use door::TOKEN_HEADER;
pub use key::{KeyError, LinkKey};
pub use query::TOKEN as TOKEN_PARAMETER;
use token::{Place, Purpose};

/// How access is decided.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// For sandboxes whose spawn said nothing.
    pub default: PreviewAccess,
    /// Below which previews have their host names, with a port where clients need one.
    pub domain: String,
    /// Whether previews are served over TLS. Links say so then, and what comes in the clear to the
    /// usual port is sent there.
    pub secure: bool,
    /// How long a link is good that asks for nothing.
    pub life: Duration,
    /// How long one may ask for.
    pub longest_life: Duration,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            default: PreviewAccess::Public,
            domain: "localhost".to_owned(),
            secure: false,
            life: Duration::from_secs(60 * 60),
            longest_life: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// Decides who may open previews.
#[derive(Debug)]
pub struct Access {
    key: LinkKey,
    settings: AccessSettings,
}

/// The way to a preview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The address, with the word in it when the preview is private.
    pub url: String,
    /// Until when it opens; none when for as long as the sandbox lives.
    pub expires_at: Option<Timestamp>,
}

impl Access {
    /// Signs with `key`.
    pub fn new(key: LinkKey, settings: AccessSettings) -> Self {
        Self { key, settings }
    }

    /// How it was set.
    pub fn settings(&self) -> &AccessSettings {
        &self.settings
    }

    /// What holds for a sandbox whose spawn said this.
    pub fn of(&self, said: Option<PreviewAccess>) -> PreviewAccess {
        said.unwrap_or(self.settings.default)
    }

    /// A link to a port of a sandbox, good for `life` when the preview is private.
    pub fn link(
        &self,
        id: &SandboxId,
        port: u16,
        said: Option<PreviewAccess>,
        life: Duration,
        now: Timestamp,
    ) -> Link {
        let scheme = if self.settings.secure {
            "https"
        } else {
            "http"
        };
        let url = format!("{scheme}://{port}-{id}.{}/", self.settings.domain);
        if self.of(said) == PreviewAccess::Public {
            return Link {
                url,
                expires_at: None,
            };
        }
        let place = Place { id, port };
        let end = whole_second(now.saturating_add(life));
        let word = token::issue(&self.key, Purpose::Link, place, end);
        Link {
            url: query::add(&url, &word),
            expires_at: Some(end),
        }
    }
}

/// The second that ends at or after a time: what a link says of itself is then what it does.
fn whole_second(time: Timestamp) -> Timestamp {
    let micros = time.unix_micros();
    match micros.rem_euclid(1_000_000) {
        0 => time,
        past => Timestamp::from_unix_micros(micros.saturating_add(1_000_000 - past)),
    }
}
