//! Where an answer in the path form sends its client: below the preview's prefix, or nowhere.
//!
//! A place is read as browsers read it and as the program inside means it: relative to the path that
//! was asked for, with the sandbox's own root as the top. What leads to another host, and what two
//! readers could read in two ways, leads nowhere.

use std::fmt::Write as _;

use http::Uri;

/// Where an answer comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The prefix of the path form, without a slash at its end.
    pub(crate) prefix: &'a str,
    /// The host that the client asked, with its port.
    pub(crate) authority: &'a str,
    /// The path that the sandbox was asked for.
    pub(crate) path: &'a str,
}

/// The place below the prefix; none when it is on another host or cannot be told for sure.
pub(crate) fn below_prefix(place: &[u8], origin: Origin<'_>) -> Option<String> {
    let place = escaped(place.trim_ascii())?;
    let (place, fragment) = match place.split_once('#') {
        Some((place, fragment)) => (place, Some(fragment)),
        None => (&*place, None),
    };
    let inside = inside(place, origin)?;
    let (path, query) = match inside.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*inside, None),
    };
    let mut found = format!("{}{}", origin.prefix, without_dots(path));
    for (mark, part) in [('?', query), ('#', fragment)] {
        if let Some(part) = part {
            found.push(mark);
            found.push_str(part);
        }
    }
    Some(found)
}

/// The place as an absolute path of the sandbox, with its query.
fn inside(place: &str, origin: Origin<'_>) -> Option<String> {
    if let Some(rest) = place.strip_prefix("//") {
        return on_host(&format!("http://{rest}"), origin);
    }
    if place.starts_with('/') {
        return Some(own(place, origin.prefix).to_owned());
    }
    // A scheme ends with the first colon, which no relative path has before its first slash.
    let first = place.split(['/', '?']).next().unwrap_or_default();
    if first.contains(':') {
        return on_host(place, origin);
    }
    if place.is_empty() || place.starts_with('?') {
        return Some(format!("{}{place}", origin.path));
    }
    let directory = origin
        .path
        .rsplit_once('/')
        .map_or("", |(before, _)| before);
    Some(format!("{directory}/{place}"))
}

/// The path of an address with a scheme, when it is on the host that was asked.
fn on_host(address: &str, origin: Origin<'_>) -> Option<String> {
    let (scheme, _) = address.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let uri: Uri = address.parse().ok()?;
    let host = uri.authority()?.as_str();
    if !host.eq_ignore_ascii_case(origin.authority) {
        return None;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    match path.starts_with('/') {
        true => Some(own(path, origin.prefix).to_owned()),
        false => Some(format!("/{path}")),
    }
}

/// The path without the prefix, which the sandbox may know from `X-Forwarded-Prefix`.
fn own<'a>(path: &'a str, prefix: &str) -> &'a str {
    match path.strip_prefix(prefix) {
        Some("") => "/",
        Some(rest) if rest.starts_with(['/', '?']) => rest,
        _ => path,
    }
}

/// The text with what is not ASCII escaped; none when it has a character that browsers drop or read
/// as another one.
fn escaped(place: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(place.len());
    for byte in place {
        match byte {
            b'\\' | 0..=0x20 | 0x7f => return None,
            0x80.. => {
                // Writing to a text cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
            other => text.push(char::from(*other)),
        }
    }
    Some(text)
}

/// An absolute path without `.` and `..`, however they are written. None leads above the root.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut pieces = path.split('/').skip(1).peekable();
    while let Some(piece) = pieces.next() {
        let is_last = pieces.peek().is_none();
        match piece.to_ascii_lowercase().replace("%2e", ".").as_str() {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => {
                kept.push(piece);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PREFIX: &str = "/preview/sb-0123abcd/3000";

    fn moved(place: &str) -> Option<String> {
        let origin = Origin {
            prefix: PREFIX,
            authority: "localhost:7423",
            path: "/a/b",
        };
        below_prefix(place.as_bytes(), origin)
    }

    #[test]
    fn places_inside_are_below_the_prefix() {
        for (place, expected) in [
            ("/", "/"),
            ("/x?b#c", "/x?b#c"),
            ("http://localhost:7423/x?b#c", "/x?b#c"),
            ("http://LOCALHOST:7423", "/"),
            ("http://localhost:7423?q", "/?q"),
            ("//localhost:7423/x", "/x"),
            ("/preview/sb-0123abcd/3000/x", "/x"),
            ("/preview/sb-0123abcd/3000", "/"),
            ("/preview/sb-0123abcd/30001", "/preview/sb-0123abcd/30001"),
            ("x/y", "/a/x/y"),
            ("./x", "/a/x"),
            ("?q", "/a/b?q"),
            ("#f", "/a/b#f"),
            ("", "/a/b"),
            ("x:y/z", ""),
            ("x/y:z", "/a/x/y:z"),
            ("?x:y", "/a/b?x:y"),
            (" /x ", "/x"),
            ("/\u{e9}", "/%C3%A9"),
        ] {
            let expected = (!expected.is_empty()).then(|| format!("{PREFIX}{expected}"));
            assert_eq!(moved(place), expected, "{place}");
        }
    }

    #[test]
    fn nothing_leads_above_the_prefix() {
        for (place, expected) in [
            ("..", "/"),
            ("../../../../api/v1/sandboxes", "/api/v1/sandboxes"),
            ("/../../../api", "/api"),
            ("/preview/sb-0123abcd/3000/../../../api", "/api"),
            ("/preview/sb-0123abcd/3000/%2e%2E/.%2e/x", "/x"),
            ("http://localhost:7423/preview/sb-0123abcd/3000/../x", "/x"),
            ("/x/./y/%2e", "/x/y/"),
            ("/x/..", "/"),
        ] {
            assert_eq!(
                moved(place).unwrap(),
                format!("{PREFIX}{expected}"),
                "{place}"
            );
        }
    }

    #[test]
    fn another_host_is_nowhere() {
        for place in [
            "//evil.example/",
            "///evil.example/",
            "https://evil.example/",
            "http://localhost:7424/",
            "http://me@localhost:7423/",
            "http:/evil.example",
            "http:evil.example",
            "https:///evil.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "htt\nps://evil.example",
            "x y",
        ] {
            assert_eq!(moved(place), None, "{place}");
        }
    }

    proptest::proptest! {
        /// Whatever a sandbox writes, a browser that follows it stays below the prefix.
        #[test]
        fn every_place_is_below_the_prefix(place in r"(/|/|\.\.|\.|%2e|%2E|a|:|\?|#){0,12}") {
            if let Some(found) = moved(&place) {
                let path = found.split(['?', '#']).next().unwrap();
                let rest = path.strip_prefix(PREFIX).unwrap();
                proptest::prop_assert!(rest.starts_with('/'));
                let dots = rest.to_ascii_lowercase().replace("%2e", ".");
                proptest::prop_assert!(dots.split('/').all(|piece| piece != ".." && piece != "."));
            }
        }
    }
}
