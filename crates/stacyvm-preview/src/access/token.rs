//! The token that opens a private preview: signed, for one port of one sandbox, until an expiry.
//!
//! ```text
//! v1.<key id, 8 hex>.<expiry, seconds since 1970>.<HMAC-SHA256, base64url without padding>
//! ```
//! The signature covers the version, the token's purpose, the sandbox, the port and the expiry.
//! Sandbox and port are taken from the request, so the signature of a token for another port does
//! not verify. Links and cookies have different tokens: what a browser keeps is no link.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use stacyvm_types::{SandboxId, Timestamp};

use super::key::LinkKey;

/// The longest token that is looked at, in bytes; valid ones have 76.
const MAX_LENGTH: usize = 128;
const VERSION: &str = "v1";

/// The purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be given to a person or a program, in an address or a header.
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

/// One port of one sandbox, which a token opens.
#[derive(Clone, Copy, Debug)]
pub(super) struct SandboxPort<'a> {
    /// The sandbox.
    pub id: &'a SandboxId,
    /// The TCP port in the sandbox.
    pub port: u16,
}

/// Why a token does not open a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenError {
    /// The token was not made here, was changed, or is for another sandbox or port.
    Invalid,
    /// The token was signed with a key that was replaced.
    OldKey,
    /// The token has expired.
    Expired,
}

impl TokenError {
    /// The sentence that the client is shown.
    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::Invalid => "the link is not for this sandbox and port, or was changed",
            Self::OldKey => "the link is from before the server's key was replaced",
            Self::Expired => "the link has expired",
        }
    }
}

/// A token for `port`, valid until `expires`; fractions of a second are cut off.
pub(super) fn issue(
    key: &LinkKey,
    purpose: Purpose,
    port: SandboxPort<'_>,
    expires: Timestamp,
) -> String {
    let expiry = seconds(expires);
    let signature = key.sign(&message(purpose, port, expiry));
    let id = u32::from_be_bytes(key.id);
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
    format!("{VERSION}.{id:08x}.{expiry}.{signature}")
}

/// The time until which `token` opens `port`.
///
/// # Errors
/// When it does not open it.
pub(super) fn check(
    key: &LinkKey,
    purpose: Purpose,
    port: SandboxPort<'_>,
    token: &str,
    now: Timestamp,
) -> Result<Timestamp, TokenError> {
    if token.len() > MAX_LENGTH {
        return Err(TokenError::Invalid);
    }
    let mut parts = token.split('.');
    let (Some(VERSION), Some(id), Some(expiry), Some(signature), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return Err(TokenError::Invalid);
    };
    if id != format!("{:08x}", u32::from_be_bytes(key.id)) {
        let has_form = id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        return Err(if has_form {
            TokenError::OldKey
        } else {
            TokenError::Invalid
        });
    }
    let expiry = number(expiry).ok_or(TokenError::Invalid)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
    let signature = signature.map_err(|_| TokenError::Invalid)?;
    if !key.is_signed(&message(purpose, port, expiry), &signature) {
        return Err(TokenError::Invalid);
    }
    if expiry <= seconds(now) {
        return Err(TokenError::Expired);
    }
    Ok(from_seconds(expiry))
}

/// The signed message. No part can be mistaken for the next: none of them contains a line break.
fn message(purpose: Purpose, SandboxPort { id, port }: SandboxPort<'_>, expiry: i64) -> Vec<u8> {
    let purpose = purpose.as_str();
    format!("stacyvm preview {VERSION}\n{purpose}\n{id}\n{port}\n{expiry}").into_bytes()
}

/// Parses digits without a sign and leading zeros, so that one time has one spelling.
fn number(text: &str) -> Option<i64> {
    let is_canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_canonical.then(|| text.parse().ok()).flatten()
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
    fn a_token_opens_its_own_port_until_its_end() {
        let key = LinkKey::from_bytes(&[7; 32]);
        let id = SandboxId::from_u32(0x0123_abcd);
        let other = SandboxId::from_u32(0x0123_abce);
        let at_port = |id, port| SandboxPort { id, port };
        let token = issue(&key, Purpose::Link, at_port(&id, 3000), at(NOW + 60));
        let open = |purpose, at_port, now| check(&key, purpose, at_port, &token, at(now));
        assert_eq!(
            open(Purpose::Link, at_port(&id, 3000), NOW),
            Ok(at(NOW + 60))
        );
        assert!(open(Purpose::Link, at_port(&id, 3000), NOW + 59).is_ok());
        for (purpose, at_port, now, why) in [
            (
                Purpose::Link,
                at_port(&id, 3000),
                NOW + 60,
                TokenError::Expired,
            ),
            (Purpose::Link, at_port(&id, 300), NOW, TokenError::Invalid),
            (
                Purpose::Link,
                at_port(&other, 3000),
                NOW,
                TokenError::Invalid,
            ),
            (
                Purpose::Cookie,
                at_port(&id, 3000),
                NOW,
                TokenError::Invalid,
            ),
        ] {
            assert_eq!(open(purpose, at_port, now), Err(why));
        }
        let replaced = LinkKey::from_bytes(&[8; 32]);
        assert_eq!(
            check(
                &replaced,
                Purpose::Link,
                at_port(&id, 3000),
                &token,
                at(NOW)
            ),
            Err(TokenError::OldKey)
        );
    }

    #[test]
    fn no_changed_byte_and_no_other_spelling_opens() {
        let key = LinkKey::from_bytes(&[7; 32]);
        let id = SandboxId::from_u32(1);
        let at_port = SandboxPort { id: &id, port: 80 };
        let token = issue(&key, Purpose::Link, at_port, at(NOW + 60));
        assert!(token.len() <= MAX_LENGTH, "{}", token.len());
        let refused = |token: &str| check(&key, Purpose::Link, at_port, token, at(NOW)).is_err();
        assert!(!refused(&token));
        for index in 0..token.len() {
            for byte in [b'0', b'a', b'.', b'_'] {
                let mut changed = token.clone().into_bytes();
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
            token.to_uppercase(),
            format!("{token}="),
            format!("{token}."),
            format!(" {token}"),
            token.replace(&format!(".{}", NOW + 60), &format!(".+{}", NOW + 60)),
            token.replace(&format!(".{}", NOW + 60), &format!(".0{}", NOW + 60)),
            "x".repeat(100_000),
        ] {
            assert!(refused(&other), "{other:.200}");
        }
    }
}
