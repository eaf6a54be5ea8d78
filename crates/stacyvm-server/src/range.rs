//! The part of a file that a `Range` header asks for (RFC 9110, section 14).
//!
//! One range is honoured. Several, other units and malformed ones are ignored, as the RFC allows,
//! and the whole file is sent.

use http::HeaderMap;
use http::header::{IF_RANGE, RANGE};

/// A range of bytes as the request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// From the first byte on, to the last one (included) where given.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

impl ByteRange {
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        // Files have no validators, so a conditional range can never be known to hold.
        if headers.contains_key(IF_RANGE) {
            return None;
        }
        let text = headers.get(RANGE)?.to_str().ok()?;
        let (unit, set) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(Self::From(first, Some(last))),
            (Some(first), None) if last.is_empty() => Some(Self::From(first, None)),
            (None, Some(length)) if first.is_empty() => Some(Self::Last(length)),
            _ => None,
        }
    }

    /// The first byte and the length within a file of `size` bytes; none when nothing is there.
    pub(crate) fn within(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::From(first, last) => (
                first,
                last.map_or(size, |last| last.saturating_add(1).min(size)),
            ),
            Self::Last(length) => (size.saturating_sub(length), size),
        };
        (first < end).then_some((first, end.saturating_sub(first)))
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A number that is too long is past every file's end.
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn asked(text: &'static str) -> Option<ByteRange> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static(text));
        ByteRange::of(&headers)
    }

    #[test]
    fn one_range_is_understood_and_the_rest_ignored() {
        assert_eq!(asked("bytes=0-9"), Some(ByteRange::From(0, Some(9))));
        assert_eq!(asked("Bytes=5-"), Some(ByteRange::From(5, None)));
        assert_eq!(asked("bytes=-3"), Some(ByteRange::Last(3)));
        for ignored in [
            "bytes=9-0",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
            "0-1",
        ] {
            assert_eq!(asked(ignored), None, "{ignored}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(ByteRange::From(2, Some(4)).within(10), Some((2, 3)));
        assert_eq!(ByteRange::From(2, Some(99)).within(10), Some((2, 8)));
        assert_eq!(ByteRange::From(9, None).within(10), Some((9, 1)));
        assert_eq!(ByteRange::From(10, None).within(10), None);
        assert_eq!(ByteRange::From(0, None).within(0), None);
        assert_eq!(ByteRange::Last(3).within(10), Some((7, 3)));
        assert_eq!(ByteRange::Last(30).within(10), Some((0, 10)));
        assert_eq!(ByteRange::Last(0).within(10), None);
        assert_eq!(ByteRange::From(u64::MAX, Some(u64::MAX)).within(10), None);
    }
}
