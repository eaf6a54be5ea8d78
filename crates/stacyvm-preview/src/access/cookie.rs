//! Cookies at the edge between a browser and a sandbox: ours never goes in, and the sandbox's own
//! never reach further than its own host name.

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The word in front of an address.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Browsers take `__Host-` only over TLS, and only for the one host that sets it. In the clear the
/// name is a plain one, and what keeps it apart is that its value fits one host alone.
const SECURE: &str = "__Host-stacyvm-preview";
const PLAIN: &str = "stacyvm-preview";

/// Values under our name that are tried. Another host of the same domain can put some there.
const MOST_TRIED: usize = 8;

const fn name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => PLAIN,
        Scheme::Https => SECURE,
    }
}

/// The header that makes a browser keep `word` for `seconds`.
pub(super) fn set(scheme: Scheme, word: &str, seconds: u64) -> HeaderValue {
    let name = name(scheme);
    let secure = match scheme {
        Scheme::Http => "",
        Scheme::Https => "; Secure",
    };
    let text = format!("{name}={word}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).expect("a word is visible ASCII")
}

/// The words that a browser has kept, the first few.
pub(super) fn words(headers: &HeaderMap, scheme: Scheme) -> impl Iterator<Item = &str> {
    let wanted = name(scheme);
    pairs(headers)
        .filter_map(move |pair| {
            let (name, value) = pair.split_once('=')?;
            (name == wanted).then_some(value)
        })
        .take(MOST_TRIED)
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .map(str::trim)
}

fn is_ours(pair: &[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or(pair);
    let name = name.trim_ascii();
    name.eq_ignore_ascii_case(PLAIN.as_bytes()) || name.eq_ignore_ascii_case(SECURE.as_bytes())
}

/// Takes our cookie out of a request, and leaves the sandbox's own as they are.
pub(super) fn take_out(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b';').any(is_ours);
    if !headers.get_all(COOKIE).iter().any(ours) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let pairs = value.as_bytes().split(|byte| *byte == b';');
            let pairs: Vec<&[u8]> = pairs.filter(|pair| !is_ours(pair)).collect();
            let left = pairs.join(&b';');
            let left = HeaderValue::from_bytes(left.trim_ascii()).ok()?;
            (!left.is_empty()).then_some(left)
        })
        .collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

/// Keeps a sandbox's cookies on its own host: `Domain` goes when it names more than that host, and
/// a cookie of our name goes altogether. `host` is the preview's own name, without a port.
pub fn confine(headers: &mut HeaderMap, host: &str) {
    let touched =
        |value: &HeaderValue| confined(value.as_bytes(), host).as_deref() != Some(value.as_bytes());
    if !headers.get_all(SET_COOKIE).iter().any(touched) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .filter_map(|value| HeaderValue::from_bytes(&confined(value.as_bytes(), host)?).ok())
        .collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

/// The cookie as it may go out; none when it may not.
fn confined(value: &[u8], host: &str) -> Option<Vec<u8>> {
    let mut parts = value.split(|byte| *byte == b';');
    let pair = parts.next().unwrap_or_default();
    if is_ours(pair) {
        return None;
    }
    let widens = |part: &&[u8]| {
        let mut halves = part.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let domain = halves.next().unwrap_or_default().trim_ascii();
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        name.eq_ignore_ascii_case(b"domain") && !domain.eq_ignore_ascii_case(host.as_bytes())
    };
    let kept: Vec<&[u8]> = std::iter::once(pair)
        .chain(parts.filter(|part| !widens(part)))
        .collect();
    Some(kept.join(&b';'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn all(headers: &HeaderMap, name: http::HeaderName) -> Vec<&str> {
        let values = headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn a_word_is_kept_for_one_host() {
        assert_eq!(
            set(Scheme::Https, "w", 60),
            "__Host-stacyvm-preview=w; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
        );
        assert_eq!(
            set(Scheme::Http, "w", 60),
            "stacyvm-preview=w; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn our_cookie_is_read_and_never_goes_in() {
        let mut request = headers(
            COOKIE,
            &["a=1; stacyvm-preview=x;b=\"2\"", "stacyvm-preview=y", "c=3"],
        );
        assert_eq!(
            words(&request, Scheme::Http).collect::<Vec<_>>(),
            ["x", "y"]
        );
        // What was set in the clear counts for nothing over TLS.
        assert_eq!(words(&request, Scheme::Https).count(), 0);
        take_out(&mut request);
        assert_eq!(all(&request, COOKIE), ["a=1;b=\"2\"", "c=3"]);
        let mut other = headers(COOKIE, &["a=1; my-stacyvm-preview=x ;b"]);
        let before = other.clone();
        take_out(&mut other);
        assert_eq!(other, before);
        for shape in [
            "stacyvm-preview",
            " Stacyvm-Preview =x",
            "__host-stacyvm-preview=x",
        ] {
            let mut request = headers(COOKIE, &[shape]);
            take_out(&mut request);
            assert!(request.is_empty(), "{shape}");
        }
        let flood = "stacyvm-preview=x;".repeat(1000);
        let flood = headers(COOKIE, &[&flood]);
        assert_eq!(words(&flood, Scheme::Http).count(), MOST_TRIED);
    }

    #[test]
    fn a_sandbox_sets_cookies_for_its_own_host_alone() {
        let host = "3000-sb-0123abcd.localhost";
        let mut answer = headers(
            SET_COOKIE,
            &[
                "a=1; Domain=localhost; Path=/",
                "b=2; domain = .LOCALHOST;Secure",
                "c=3; Domain=3000-sb-0123abcd.localhost; HttpOnly",
                "d=4; Path=/x",
                "stacyvm-preview=forged; Path=/",
                "__Host-stacyvm-preview=; Max-Age=0",
                "e=domain=localhost; Domain",
            ],
        );
        confine(&mut answer, host);
        assert_eq!(
            all(&answer, SET_COOKIE),
            [
                "a=1; Path=/",
                "b=2;Secure",
                "c=3; Domain=3000-sb-0123abcd.localhost; HttpOnly",
                "d=4; Path=/x",
                "e=domain=localhost",
            ]
        );
    }
}
