//! What a private preview asks for: a signed word that names one port of one sandbox and an end.
//!
//! ```text
//! v1.<key id, 8 hex>.<expiry, seconds since 1970>.<HMAC-SHA256, base64url without padding>
//! ```
//! The signature covers the version, what the word is for, the sandbox, the port and the expiry;
//! which sandbox and port, the request says, so a word for another one simply does not fit. A link
//! and a cookie are different words: what a browser keeps cannot be passed on as a link.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use stacyvm_types::{SandboxId, Timestamp};

use super::key::LinkKey;

/// The longest word that is looked at, bytes; ours have 76.
const MAX_LENGTH: usize = 128;
const VERSION: &str = "v1";

/// What a word is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be handed to somebody: in an address, or in a header.
    Link,
    /// To be kept by one browser.
    Cookie,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Cookie => "cookie",
        }
    }
}

/// One port of one sandbox: what a word opens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The sandbox.
    pub id: &'a SandboxId,
    /// The port inside.
    pub port: u16,
}

/// Why a word does not open a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not one of ours, was changed, or is for another sandbox or port.
    Invalid,
    /// It was signed with a key that was replaced.
    OldKey,
    /// Its time is over.
    Expired,
}

impl Refused {
    /// The sentence for whoever tried.
    pub(super) const fn in_words(self) -> &'static str {
        match self {
            Self::Invalid => "the link is not for this sandbox and port, or was changed",
            Self::OldKey => "the link is from before the server's key was replaced",
            Self::Expired => "the link has expired",
        }
    }
}

/// A word for `place`, good until `expires`; fractions of a second are cut off.
pub(super) fn issue(
    key: &LinkKey,
    purpose: Purpose,
    place: Place<'_>,
    expires: Timestamp,
) -> String {
    let expiry = seconds(expires);
    let signature = key.sign(&message(purpose, place, expiry));
    let id = u32::from_be_bytes(key.id);
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
    format!("{VERSION}.{id:08x}.{expiry}.{signature}")
}

/// Until when `word` opens `place`.
///
/// # Errors
/// When it does not.
pub(super) fn check(
    key: &LinkKey,
    purpose: Purpose,
    place: Place<'_>,
    word: &str,
    now: Timestamp,
) -> Result<Timestamp, Refused> {
    if word.len() > MAX_LENGTH {
        return Err(Refused::Invalid);
    }
    let mut parts = word.split('.');
    let (Some(VERSION), Some(id), Some(expiry), Some(signature), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return Err(Refused::Invalid);
    };
    if id != format!("{:08x}", u32::from_be_bytes(key.id)) {
        let known_form = id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        return Err(if known_form {
            Refused::OldKey
        } else {
            Refused::Invalid
        });
    }
    let expiry = number(expiry).ok_or(Refused::Invalid)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
    let signature = signature.map_err(|_| Refused::Invalid)?;
    if !key.is_signed(&message(purpose, place, expiry), &signature) {
        return Err(Refused::Invalid);
    }
    if expiry <= seconds(now) {
        return Err(Refused::Expired);
    }
    Ok(from_seconds(expiry))
}

/// No part can run into the next: only the last one is a free text, and it is one of ours.
fn message(purpose: Purpose, Place { id, port }: Place<'_>, expiry: i64) -> Vec<u8> {
    let purpose = purpose.as_str();
    format!("stacyvm preview {VERSION}\n{purpose}\n{id}\n{port}\n{expiry}").into_bytes()
}

/// Digits alone, as we write them: one time has one spelling.
fn number(text: &str) -> Option<i64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

fn seconds(time: Timestamp) -> i64 {
    time.unix_micros().div_euclid(1_000_000)
}

fn from_seconds(seconds: i64) -> Timestamp {
    let epoch = Timestamp::from_unix_micros(0);
    epoch.saturating_add(Duration::from_secs(seconds.unsigned_abs()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        from_seconds(seconds)
    }

    #[test]
    fn a_word_opens_its_own_place_until_its_end() {
        let key = LinkKey::from_bytes(&[7; 32]);
        let id = SandboxId::from_u32(0x0123_abcd);
        let other = SandboxId::from_u32(0x0123_abce);
        let place = |id, port| Place { id, port };
        let word = issue(&key, Purpose::Link, place(&id, 3000), at(NOW + 60));
        let open = |purpose, place, now| check(&key, purpose, place, &word, at(now));
        assert_eq!(open(Purpose::Link, place(&id, 3000), NOW), Ok(at(NOW + 60)));
        assert!(open(Purpose::Link, place(&id, 3000), NOW + 59).is_ok());
        for (purpose, place, now, why) in [
            (Purpose::Link, place(&id, 3000), NOW + 60, Refused::Expired),
            (Purpose::Link, place(&id, 300), NOW, Refused::Invalid),
            (Purpose::Link, place(&other, 3000), NOW, Refused::Invalid),
            (Purpose::Cookie, place(&id, 3000), NOW, Refused::Invalid),
        ] {
            assert_eq!(open(purpose, place, now), Err(why));
        }
        let replaced = LinkKey::from_bytes(&[8; 32]);
        assert_eq!(
            check(&replaced, Purpose::Link, place(&id, 3000), &word, at(NOW)),
            Err(Refused::OldKey)
        );
    }

    #[test]
    fn no_changed_byte_and_no_other_spelling_opens() {
        let key = LinkKey::from_bytes(&[7; 32]);
        let id = SandboxId::from_u32(1);
        let place = Place { id: &id, port: 80 };
        let word = issue(&key, Purpose::Link, place, at(NOW + 60));
        assert!(word.len() <= MAX_LENGTH, "{}", word.len());
        let refused = |word: &str| check(&key, Purpose::Link, place, word, at(NOW)).is_err();
        assert!(!refused(&word));
        for index in 0..word.len() {
            for byte in [b'0', b'a', b'.', b'_'] {
                let mut changed = word.clone().into_bytes();
                if changed[index] == byte {
                    continue;
                }
                changed[index] = byte;
                let changed = String::from_utf8(changed).unwrap();
                assert!(refused(&changed), "{changed}");
            }
        }
        for other in [
            String::new(),
            word.to_uppercase(),
            format!("{word}="),
            format!("{word}."),
            format!(" {word}"),
            word.replace(&format!(".{}", NOW + 60), &format!(".+{}", NOW + 60)),
            word.replace(&format!(".{}", NOW + 60), &format!(".0{}", NOW + 60)),
            "x".repeat(100_000),
        ] {
            assert!(refused(&other), "{other:.200}");
        }
    }
}
