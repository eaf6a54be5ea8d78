//! Tells from the first bytes of a connection which protocol it is in and which host it names.
//!
//! Owns the reading of a TLS ClientHello, as far as the name in it; decides nothing. Its one rule:
//! every length is checked against the bytes that are there before it is used, and a message that
//! could be read in two ways is malformed.

/// The most bytes that are looked at: a handshake message of [`MAX_HELLO`] in small records.
pub(crate) const MAX_BYTES: usize = 2 * MAX_HELLO;
/// The longest ClientHello, in bytes. Real ones have up to two thousand.
const MAX_HELLO: usize = 16 * 1024;
/// A record's payload has at most this many bytes (RFC 8446, 5.1).
const MAX_RECORD: usize = 16 * 1024;
/// The longest method that is taken for HTTP.
const MAX_METHOD: usize = 24;

/// The protocol that a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// More bytes are needed to tell.
    Incomplete,
    /// A TLS ClientHello, with the name that it asks for as it was sent.
    Tls(Option<Vec<u8>>),
    /// A request of HTTP/1.
    Http,
    /// TLS that breaks its own rules.
    Malformed,
    /// A protocol that names no host.
    Unknown,
}

/// Detects the protocol from all bytes that have come so far.
pub(crate) fn detect(bytes: &[u8]) -> Protocol {
    match bytes.first() {
        None => Protocol::Incomplete,
        Some(&HANDSHAKE_RECORD) => match hello(bytes) {
            Ok(Some(name)) => Protocol::Tls(name),
            Ok(None) if bytes.len() < MAX_BYTES => Protocol::Incomplete,
            Ok(None) | Err(Malformed) => Protocol::Malformed,
        },
        Some(_) => request(bytes),
    }
}

/// A method is upper-case letters before a space, the only form that clients send unasked.
fn request(bytes: &[u8]) -> Protocol {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase());
    match (method.count(), bytes) {
        (0, _) => Protocol::Unknown,
        (length, _) if length > MAX_METHOD => Protocol::Unknown,
        (length, bytes) => match bytes.get(length) {
            None => Protocol::Incomplete,
            // The preface of HTTP/2 has the form of a request and is none.
            Some(b' ') if bytes[..length] != *b"PRI" => Protocol::Http,
            Some(_) => Protocol::Unknown,
        },
    }
}

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

struct Malformed;

/// The name in a ClientHello, which may have none; the outer option is none while the message is
/// incomplete.
fn hello(bytes: &[u8]) -> Result<Option<Option<Vec<u8>>>, Malformed> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let complete = collect(&mut rest, &mut message)?;
        if let [kind, high, middle, low, body @ ..] = message.as_slice() {
            if *kind != CLIENT_HELLO {
                return Err(Malformed);
            }
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            if length > MAX_HELLO {
                return Err(Malformed);
            }
            // A ClientHello ends its record: nothing may follow before the answer.
            if body.len() > length {
                return Err(Malformed);
            }
            if complete && body.len() == length {
                return name(body).map(Some);
            }
        }
        if !complete {
            return Ok(None);
        }
    }
}

/// Takes one record off `rest` and adds its payload, or as much of it as is there, to `message`.
/// Returns whether the payload was complete.
fn collect(rest: &mut &[u8], message: &mut Vec<u8>) -> Result<bool, Malformed> {
    let record = *rest;
    let checks: [fn(u8) -> bool; 2] = [|kind| kind == HANDSHAKE_RECORD, |major| major == 3];
    for (byte, check) in record.iter().zip(checks) {
        if !check(*byte) {
            return Err(Malformed);
        }
    }
    let [_, _, _, high, low, payload @ ..] = record else {
        return Ok(false);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length == 0 || length > MAX_RECORD {
        return Err(Malformed);
    }
    let (payload, after) = payload
        .split_at_checked(length)
        .map_or((payload, None), |(payload, after)| (payload, Some(after)));
    message.extend_from_slice(payload);
    *rest = after.unwrap_or_default();
    Ok(after.is_some())
}

/// Walks the fields of a ClientHello (RFC 8446, 4.1.2) up to its extensions.
fn name(body: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut fields = Fields(body);
    fields.take(2 + 32)?;
    if fields.prefixed(1)?.0.len() > 32 {
        return Err(Malformed);
    }
    let ciphers = fields.prefixed(2)?.0.len();
    if ciphers < 2 || !ciphers.is_multiple_of(2) {
        return Err(Malformed);
    }
    if fields.prefixed(1)?.0.is_empty() {
        return Err(Malformed);
    }
    if fields.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = fields.prefixed(2)?;
    fields.end()?;
    let mut seen = Vec::new();
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.prefixed(2)?;
        // Of two extensions of one type, different readers could use different ones.
        if seen.contains(&kind) {
            return Err(Malformed);
        }
        seen.push(kind);
        if seen.len() > 128 {
            return Err(Malformed);
        }
        if kind == SERVER_NAME {
            name = Some(server_name(content)?);
        }
    }
    Ok(name)
}

/// The one host name of the extension (RFC 6066, 3).
fn server_name(mut content: Fields<'_>) -> Result<Vec<u8>, Malformed> {
    let mut list = content.prefixed(2)?;
    content.end()?;
    if list.take(1)? != [HOST_NAME] {
        return Err(Malformed);
    }
    let name = list.prefixed(2)?.0;
    list.end()?;
    if name.is_empty() {
        return Err(Malformed);
    }
    Ok(name.to_vec())
}

/// Bytes that are read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A field with its length, of so many bytes, before it.
    fn prefixed(&mut self, width: usize) -> Result<Self, Malformed> {
        let length = self.take(width)?;
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.take(length).map(Self)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(test)]
mod tests;
