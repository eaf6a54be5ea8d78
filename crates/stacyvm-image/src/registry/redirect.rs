//! Where a server sends its client on, and what the client takes along.

use ureq::http::header::{AUTHORIZATION, LOCATION};
use ureq::http::{Method, Request, Response, Uri};

use super::destinations::server_of;

/// The request that follows from a redirect; none when the answer is no redirect. What logs in stays
/// behind unless the server is the same one, in scheme, host and port.
///
/// # Errors
/// When the place is no address.
pub(super) fn follow<B>(
    asked: &Request<()>,
    answer: &Response<B>,
) -> Result<Option<Request<()>>, ()> {
    let moved = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    // A login that is sent on as something else would be no login.
    let reads = matches!(*asked.method(), Method::GET | Method::HEAD);
    let Some(place) = answer.headers().get(LOCATION).filter(|_| moved && reads) else {
        return Ok(None);
    };
    let place = place.to_str().map_err(|_| ())?;
    let uri = join(asked.uri(), place).ok_or(())?;
    let same = uri.scheme() == asked.uri().scheme() && server_of(&uri) == server_of(asked.uri());
    let mut next = Request::new(());
    *next.method_mut() = asked.method().clone();
    *next.headers_mut() = asked.headers().clone();
    if !same {
        next.headers_mut().remove(AUTHORIZATION);
    }
    *next.uri_mut() = uri;
    Ok(Some(next))
}

/// A place relative to an address (RFC 3986 section 5.2, without its dot segments, which servers
/// resolve themselves).
fn join(base: &Uri, place: &str) -> Option<Uri> {
    let place = place.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?.as_str());
    let text = if place.starts_with("http://") || place.starts_with("https://") {
        place.to_owned()
    } else if let Some(rest) = place.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if place.starts_with('/') {
        format!("{scheme}://{authority}{place}")
    } else if place.starts_with('?') {
        format!("{scheme}://{authority}{}{place}", base.path())
    } else {
        let before = base
            .path()
            .rsplit_once('/')
            .map_or("", |(before, _)| before);
        format!("{scheme}://{authority}{before}/{place}")
    };
    let uri: Uri = text.parse().ok()?;
    // A name and a password in an address would be sent to whoever is behind it.
    (!uri.authority()?.as_str().contains('@')).then_some(uri)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn redirected(status: u16, place: &str) -> Option<Request<()>> {
        let asked = Request::get("https://reg.example/v2/app/blobs/x?y")
            .header("authorization", "Bearer secret")
            .header("range", "bytes=1-")
            .body(())
            .unwrap();
        let answer = Response::builder()
            .status(status)
            .header("location", place)
            .body(())
            .unwrap();
        follow(&asked, &answer).unwrap()
    }

    #[test]
    fn a_login_stays_with_the_server_that_asked_for_it() {
        for (place, uri, keeps) in [
            ("/a?b#c", "https://reg.example/a?b", true),
            ("z", "https://reg.example/v2/app/blobs/z", true),
            ("?z", "https://reg.example/v2/app/blobs/x?z", true),
            (
                "https://REG.example:443/a",
                "https://REG.example:443/a",
                true,
            ),
            (
                "https://reg.example:444/a",
                "https://reg.example:444/a",
                false,
            ),
            ("http://reg.example/a", "http://reg.example/a", false),
            ("//cdn.example/a", "https://cdn.example/a", false),
            ("https://cdn.example/a", "https://cdn.example/a", false),
        ] {
            let next = redirected(307, place).unwrap();
            assert!(next.headers().contains_key("range"), "{place}");
            let kept = next.headers().contains_key("authorization");
            assert_eq!(
                (next.uri().to_string().as_str(), kept),
                (uri.parse::<Uri>().unwrap().to_string().as_str(), keeps),
                "{place}"
            );
        }
        assert!(redirected(200, "/a").is_none());
        assert!(redirected(304, "/a").is_none());
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let asked = Request::get("https://reg.example/").body(()).unwrap();
        for place in ["https://", "https://me:pw@cdn.example/", "http://a b/"] {
            let answer = Response::builder().status(302).header("location", place);
            let answer = answer.body(()).unwrap();
            assert!(follow(&asked, &answer).is_err(), "{place}");
        }
        let form = Request::post("https://reg.example/").body(()).unwrap();
        let answer = Response::builder().status(307).header("location", "/a");
        let answer = answer.body(()).unwrap();
        assert!(follow(&form, &answer).unwrap().is_none());
    }
}
