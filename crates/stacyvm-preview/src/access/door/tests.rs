#![allow(clippy::unwrap_used)]

use std::time::Duration;

use http::header::COOKIE;
use http::request::Builder;

use super::*;
use crate::access::LinkKey;

const HOST: &str = "3000-sb-00000001.localhost:7423";

struct Rig {
    access: Access,
    id: SandboxId,
    now: Timestamp,
}

impl Rig {
    fn new() -> Self {
        Self {
            access: Access::new(LinkKey::from_bytes(&[1; 32]), PreviewAccess::Private),
            id: SandboxId::from_u32(1),
            now: Timestamp::from_unix_micros(1_800_000_000_000_000),
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            id: &self.id,
            port: 3000,
            said: None,
            scheme: Scheme::Http,
            addressed: Addressed::ByHost(HOST),
        }
    }

    fn link(&self) -> String {
        let life = Duration::from_secs(60);
        let link = self
            .access
            .link(&self.id, 3000, "http://x/", life, self.now);
        link.url
            .strip_prefix("http://x/?stacyvm_token=")
            .unwrap()
            .to_owned()
    }

    fn cookie(&self) -> String {
        let place = Place {
            id: &self.id,
            port: 3000,
        };
        let end = self.now.saturating_add(Duration::from_secs(60));
        token::issue(&self.access.key, Purpose::Cookie, place, end)
    }

    fn decide(&self, asked: &Asked<'_>, request: Builder) -> (Decision, Parts) {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let decision = self.access.decide(asked, &mut parts, self.now);
        (decision, parts)
    }
}

fn get(uri: &str) -> Builder {
    http::Request::builder().uri(uri)
}

fn passes(decision: &Decision) -> bool {
    matches!(decision, Decision::Pass)
}

#[test]
fn a_link_in_a_browser_becomes_a_cookie_and_leaves_the_address() {
    let rig = Rig::new();
    let uri = format!("//evil.example/a?x=1&stacyvm_token={}&y", rig.link());
    let (decision, parts) = rig.decide(&rig.asked(), get(&uri).header(ACCEPT, "text/html,*/*"));
    let Decision::Redirect(headers) = decision else {
        panic!("{decision:?}");
    };
    assert_eq!(
        headers[LOCATION],
        format!("http://{HOST}//evil.example/a?x=1&y")
    );
    assert_eq!(headers[REFERRER_POLICY], "no-referrer");
    assert_eq!(headers[CACHE_CONTROL], "no-store");
    let cookie = headers[SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("; Max-Age=60; HttpOnly"), "{cookie}");
    assert!(!cookie.contains(&rig.link()), "{cookie}");
    assert_eq!(parts.uri, "//evil.example/a?x=1&y");
    let cookie = cookie.split(';').next().unwrap();
    let (decision, parts) = rig.decide(&rig.asked(), get("/a").header(COOKIE, cookie));
    assert!(passes(&decision), "{decision:?}");
    assert!(parts.headers.is_empty(), "{parts:?}");
}

#[test]
fn a_program_needs_no_cookie() {
    let rig = Rig::new();
    let word = rig.link();
    let shared = Asked {
        addressed: Addressed::Otherwise,
        ..rig.asked()
    };
    for asked in [rig.asked(), shared] {
        let (decision, parts) = rig.decide(&asked, get("/").header(TOKEN_HEADER, &word));
        assert!(
            passes(&decision) && parts.headers.is_empty(),
            "{decision:?}"
        );
        let uri = format!("/?stacyvm_token={word}");
        let (decision, parts) = rig.decide(&asked, get(&uri).header(ACCEPT, "*/*"));
        assert!(passes(&decision), "{decision:?}");
        assert_eq!(parts.uri, "/");
    }
    // An upgrade cannot be redirected.
    let uri = format!("/?stacyvm_token={word}");
    let upgrade = get(&uri)
        .header(ACCEPT, "text/html")
        .header(UPGRADE, "websocket");
    assert!(passes(&rig.decide(&rig.asked(), upgrade).0));
}

#[test]
fn what_is_no_word_for_this_port_is_refused() {
    let rig = Rig::new();
    let (link, cookie) = (rig.link(), rig.cookie());
    let other_port = Asked {
        port: 3001,
        ..rig.asked()
    };
    let twice = format!("/?stacyvm_token={link}&stacyvm_token={link}");
    let stale = format!("stacyvm-preview={cookie}");
    for (asked, request) in [
        (rig.asked(), get("/")),
        (rig.asked(), get("/?stacyvm_token=")),
        (rig.asked(), get(&twice)),
        (rig.asked(), get(&format!("/?stacyvm_token={cookie}"))),
        (
            rig.asked(),
            get("/").header(COOKIE, format!("stacyvm-preview={link}")),
        ),
        (
            rig.asked(),
            get("/")
                .header(TOKEN_HEADER, &link)
                .header(TOKEN_HEADER, &link),
        ),
        // A wrong word is not forgiven for the sake of a right cookie.
        (
            rig.asked(),
            get("/").header(TOKEN_HEADER, "x").header(COOKIE, &stale),
        ),
        (other_port, get("/").header(TOKEN_HEADER, &link)),
        (other_port, get("/").header(COOKIE, &stale)),
    ] {
        let (decision, parts) = rig.decide(&asked, request);
        assert!(matches!(decision, Decision::Refuse(_)), "{decision:?}");
        let left = format!("{parts:?}");
        assert!(!left.contains(&link) && !left.contains(&cookie), "{left}");
    }
    let later = Rig {
        now: rig.now.saturating_add(Duration::from_secs(60)),
        ..Rig::new()
    };
    let (decision, _) = later.decide(&later.asked(), get("/").header(TOKEN_HEADER, &link));
    assert!(
        matches!(decision, Decision::Refuse(why) if why.contains("expired")),
        "{decision:?}"
    );
}

#[test]
fn a_public_preview_is_open_and_still_gets_no_word() {
    let rig = Rig::new();
    let asked = Asked {
        said: Some(PreviewAccess::Public),
        ..rig.asked()
    };
    let uri = format!("/a?stacyvm_token={}", rig.link());
    let request = get(&uri)
        .header(TOKEN_HEADER, "x")
        .header(COOKIE, "stacyvm-preview=x; a=1");
    let (decision, parts) = rig.decide(&asked, request);
    assert!(passes(&decision), "{decision:?}");
    assert_eq!(parts.uri, "/a");
    assert_eq!(parts.headers.len(), 1);
    assert_eq!(parts.headers[COOKIE], "a=1");
}

#[test]
fn a_forged_cookie_beside_the_right_one_does_no_harm() {
    let rig = Rig::new();
    let cookie = format!("stacyvm-preview=forged; stacyvm-preview={}", rig.cookie());
    let (decision, _) = rig.decide(&rig.asked(), get("/").header(COOKIE, cookie));
    assert!(passes(&decision), "{decision:?}");
}

#[test]
fn a_cookie_counts_for_the_preview_itself_alone() {
    let rig = Rig::new();
    let own = format!("http://{HOST}");
    let cookie = format!("stacyvm-preview={}", rig.cookie());
    let post = || get("/").method(Method::POST).header(COOKIE, &cookie);
    let read = || get("/").header(COOKIE, &cookie);
    let navigate = |request: Builder, site: &str| {
        request
            .header(FETCH_SITE, site)
            .header(FETCH_MODE, "navigate")
            .header(FETCH_DEST, "document")
    };
    for request in [
        read(),
        read().header(FETCH_SITE, "same-origin"),
        read()
            .header(ORIGIN, &own)
            .header(FETCH_SITE, "same-origin"),
        navigate(read(), "none"),
        navigate(read(), "cross-site"),
        post().header(ORIGIN, &own),
    ] {
        let (decision, _) = rig.decide(&rig.asked(), request);
        assert!(passes(&decision), "{decision:?}");
    }
    let neighbour = "http://3000-sb-00000002.localhost:7423";
    for request in [
        read().header(FETCH_SITE, "same-site"),
        read()
            .header(FETCH_SITE, "cross-site")
            .header(FETCH_MODE, "no-cors"),
        read().header(ORIGIN, neighbour),
        read()
            .header(UPGRADE, "websocket")
            .header(ORIGIN, neighbour),
        post().header(ORIGIN, "null"),
        post().header(ORIGIN, format!("https://{HOST}")),
        navigate(post(), "same-site"),
        read()
            .header(FETCH_SITE, "cross-site")
            .header(FETCH_MODE, "navigate")
            .header(FETCH_DEST, "iframe"),
    ] {
        let (decision, _) = rig.decide(&rig.asked(), request);
        assert!(matches!(decision, Decision::Refuse(_)), "{decision:?}");
    }
    let shared = Asked {
        addressed: Addressed::Otherwise,
        ..rig.asked()
    };
    let (decision, _) = rig.decide(&shared, read());
    assert!(matches!(decision, Decision::Refuse(_)), "{decision:?}");
}
