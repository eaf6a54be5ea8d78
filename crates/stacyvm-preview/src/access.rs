//! Who may open a preview.
//!
//! Public previews are open to whoever knows the address. A private one asks for a word that the
//! API has signed ([`token`]): in the address once, after which a browser keeps it as a cookie of
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

pub use cookie::{Scheme, confine as confine_cookies};
pub use door::{Addressed, Asked, Decision, TOKEN_HEADER};
pub use key::{KeyError, LinkKey};
pub use query::TOKEN as TOKEN_PARAMETER;
use token::{Place, Purpose};

/// Decides who may open previews.
#[derive(Debug)]
pub struct Access {
    key: LinkKey,
    default: PreviewAccess,
}

/// A link to a private preview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The address, with the word in it.
    pub url: String,
    /// Until when it opens.
    pub expires_at: Timestamp,
}

impl Access {
    /// `default` is for sandboxes whose spawn said nothing.
    pub fn new(key: LinkKey, default: PreviewAccess) -> Self {
        Self { key, default }
    }

    /// What holds for a sandbox whose spawn said this.
    pub fn of(&self, said: Option<PreviewAccess>) -> PreviewAccess {
        said.unwrap_or(self.default)
    }

    /// A link that opens `base`, the preview's address ending in `/`, for `life`.
    pub fn link(
        &self,
        id: &SandboxId,
        port: u16,
        base: &str,
        life: Duration,
        now: Timestamp,
    ) -> Link {
        let place = Place { id, port };
        let end = now.saturating_add(life);
        // What the link says of itself is what it does: whole seconds, rounded up.
        let micros = end.unix_micros();
        let past = micros.rem_euclid(1_000_000);
        let end = match past {
            0 => end,
            _ => Timestamp::from_unix_micros(micros.saturating_add(1_000_000 - past)),
        };
        let word = token::issue(&self.key, Purpose::Link, place, end);
        Link {
            url: query::add(base, &word),
            expires_at: end,
        }
    }
}
