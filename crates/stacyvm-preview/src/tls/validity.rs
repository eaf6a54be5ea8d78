//! The validity of a certificate, the only part of one that is read here.
//!
//! A certificate is DER (X.690) with the structure of RFC 5280, 4.1. Only certificates of the server
//! itself are read, but nothing relies on that: every length is checked.

use std::time::Duration;

use stacyvm_types::Timestamp;

/// The validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Validity {
    /// The time to renew it: when two thirds of its lifetime are over.
    pub(super) fn renewal(self) -> Timestamp {
        let lifetime = self.until.saturating_since(self.from);
        self.from.saturating_add(lifetime / 3 * 2)
    }
}

/// Reads the validity; none when `certificate` is malformed.
pub(super) fn of(certificate: &[u8]) -> Option<Validity> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (whole, _) = expect(certificate, SEQUENCE)?;
    let (mut body, _) = expect(whole, SEQUENCE)?;
    if let Some((_, rest)) = expect(body, VERSION) {
        body = rest;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        body = element(body)?.2;
    }
    let (validity, _) = expect(body, SEQUENCE)?;
    let (kind, from, rest) = element(validity)?;
    let (other, until, _) = element(rest)?;
    Some(Validity {
        from: time(kind, from)?,
        until: time(other, until)?,
    })
}

/// The tag and the content of the first element, and the bytes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits
                .iter()
                .fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn expect(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// `YYMMDDHHMMSSZ` (until 2049) or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &text[2..],
            )
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |index: usize| rest[index * 2..index * 2 + 2].parse::<i64>().ok();
    let (month, day) = (part(0)?, part(1)?);
    let (hour, minute, second) = (part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let since = Duration::from_secs(u64::try_from(seconds).ok()?);
    Some(Timestamp::from_unix_micros(0).saturating_add(since))
}

/// Days since 1970-01-01 in the Gregorian calendar, with years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(["*.example.org".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn it_is_read_in_both_spellings() {
        let der = certificate((2026, 2, 28), (2026, 5, 29));
        let validity = of(&der).unwrap();
        assert_eq!(validity.from.to_string(), "2026-02-28T00:00:00Z");
        assert_eq!(validity.until.to_string(), "2026-05-29T00:00:00Z");
        assert_eq!(validity.renewal().to_string(), "2026-04-29T00:00:00Z");
        let der = certificate((2000, 2, 29), (2110, 12, 31));
        let validity = of(&der).unwrap();
        assert_eq!(validity.from.to_string(), "2000-02-29T00:00:00Z");
        assert_eq!(validity.until.to_string(), "2110-12-31T00:00:00Z");
    }

    #[test]
    fn what_is_cut_or_changed_breaks_nothing() {
        let der = certificate((2026, 1, 1), (2026, 4, 1));
        for length in 0..der.len() {
            assert_eq!(of(&der[..length]), None, "{length}");
        }
        for index in 0..der.len().min(200) {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = der.clone();
                changed[index] = byte;
                // Any result will do, as long as there is one.
                let _ = of(&changed);
            }
        }
    }
}
