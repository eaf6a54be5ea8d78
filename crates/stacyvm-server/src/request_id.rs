//! The id under which a request is found in the log: the client's own, or a new one.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header, in and out.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken over from a client.
const MAX_BYTES: usize = 200;

/// The id of one request; printable ASCII.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The id that was sent, when it is printable and not too long; else a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if let Some(sent) = headers.get(HEADER) {
            let printable = |byte: &u8| (b' '..=b'~').contains(byte);
            let bytes = sent.as_bytes();
            if !bytes.is_empty() && bytes.len() <= MAX_BYTES && bytes.iter().all(printable) {
                return Self(sent.clone());
            }
        }
        let mut buffer = Uuid::encode_buffer();
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
        Self(HeaderValue::from_str(text).expect("hexadecimal digits are a valid header"))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn into_header(self) -> HeaderValue {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn a_proper_id_is_kept_and_any_other_replaced() {
        assert_eq!(of(b"trace-1/2").as_str(), "trace-1/2");
        for wrong in [&b""[..], b"tab\tinside", b"caf\xc3\xa9", &[b'x'; 201]] {
            let id = of(wrong);
            assert_eq!(id.as_str().len(), 36, "{wrong:?}");
        }
        let (one, other) = (of(b""), of(b""));
        assert_ne!(one.as_str(), other.as_str());
    }
}
