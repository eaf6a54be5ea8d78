#![allow(clippy::unwrap_used)]

use std::time::Duration;

use http::header::{ACCEPT, COOKIE};
use http::request::Builder;

use super::*;
use crate::access::{AccessSettings, LinkKey};

const HOST: &str = "3000-sb-00000001.localhost:7423";

struct Rig {
    access: Access,
    id: SandboxId,
    now: Timestamp,
}

fn access(settings: AccessSettings) -> Access {
    let settings = AccessSettings {
        default: PreviewAccess::Private,
        domain: "localhost:7423".to_owned(),
        ..settings
    };
    Access::new(LinkKey::from_bytes(&[1; 32]), settings)
}

impl Rig {
    fn new() -> Self {
        Self {
            access: access(AccessSettings::default()),
            id: SandboxId::from_u32(1),
            now: Timestamp::from_unix_micros(1_800_000_000_000_000),
        }
    }

    fn asked(&self) -> AccessRequest<'_> {
        AccessRequest {
            id: &self.id,
            port: 3000,
            requested: None,
            scheme: Scheme::Http,
            form: Form::Host,
            host: HOST,
        }
    }

    fn link(&self) -> String {
        let life = Duration::from_secs(60);
        let link = self.access.link(&self.id, 3000, None, life, self.now);
        let begin = format!("http://{HOST}/?stacyvm_token=");
        link.url.strip_prefix(&begin).unwrap().to_owned()
    }

    fn cookie(&self) -> String {
        let port = SandboxPort {
            id: &self.id,
            port: 3000,
        };
        let end = self.now.saturating_add(Duration::from_secs(60));
        token::issue(&self.access.key, Purpose::Cookie, port, end)
    }

    fn decide(&self, asked: &AccessRequest<'_>, request: Builder) -> Decision {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        self.access.decide(asked, &parts, self.now)
    }
}

fn get(uri: &str) -> Builder {
    http::Request::builder().uri(uri)
}

fn admits(decision: &Decision) -> bool {
    matches!(decision, Decision::Admit(grant)
        if grant.own_headers.contains(&TOKEN_HEADER) && grant.own_cookies == cookie::NAMES)
}

fn refuses(decision: &Decision) -> bool {
    matches!(decision, Decision::Refuse(_) | Decision::Hide)
}

fn inner(decision: &Decision) -> String {
    match decision {
        Decision::Admit(Grant { uri: Some(uri), .. }) => uri.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_link_in_a_browser_becomes_a_cookie_and_leaves_the_address() {
    let rig = Rig::new();
    let uri = format!("//evil.example/a?x=1&stacyvm_token={}&y", rig.link());
    let decision = rig.decide(&rig.asked(), get(&uri).header(ACCEPT, "text/html,*/*"));
    let Decision::Redirect(StatusCode::SEE_OTHER, headers) = decision else {
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
    let cookie = cookie.split(';').next().unwrap();
    let decision = rig.decide(&rig.asked(), get("/a").header(COOKIE, cookie));
    assert!(admits(&decision), "{decision:?}");
}

#[test]
fn a_program_needs_no_cookie() {
    let rig = Rig::new();
    let token = rig.link();
    let shared = AccessRequest {
        form: Form::Path,
        ..rig.asked()
    };
    for asked in [rig.asked(), shared] {
        let decision = rig.decide(&asked, get("/").header(TOKEN_HEADER, &token));
        assert!(admits(&decision), "{decision:?}");
        let uri = format!("/?stacyvm_token={token}");
        let decision = rig.decide(&asked, get(&uri).header(ACCEPT, "*/*"));
        assert!(admits(&decision), "{decision:?}");
        assert_eq!(inner(&decision), "/");
    }
    // An upgrade cannot be redirected.
    let uri = format!("/?stacyvm_token={token}");
    let upgrade = get(&uri)
        .header(ACCEPT, "text/html")
        .header(UPGRADE, "websocket");
    assert!(admits(&rig.decide(&rig.asked(), upgrade)));
}

#[test]
fn what_is_no_token_for_this_port_is_refused() {
    let rig = Rig::new();
    let (link, cookie) = (rig.link(), rig.cookie());
    let other_port = AccessRequest {
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
        // A wrong token is not forgiven for the sake of a right cookie.
        (
            rig.asked(),
            get("/").header(TOKEN_HEADER, "x").header(COOKIE, &stale),
        ),
        (other_port, get("/").header(TOKEN_HEADER, &link)),
        (other_port, get("/").header(COOKIE, &stale)),
    ] {
        let decision = rig.decide(&asked, request);
        assert!(refuses(&decision), "{decision:?}");
    }
    let later = Rig {
        now: rig.now.saturating_add(Duration::from_secs(60)),
        ..Rig::new()
    };
    let decision = later.decide(&later.asked(), get("/").header(TOKEN_HEADER, &link));
    assert!(
        matches!(decision, Decision::Refuse(why) if why.contains("expired")),
        "{decision:?}"
    );
}

#[test]
fn a_public_preview_is_open_and_still_gets_no_token() {
    let rig = Rig::new();
    let asked = AccessRequest {
        requested: Some(PreviewAccess::Public),
        ..rig.asked()
    };
    let uri = format!("/a?stacyvm_token={}", rig.link());
    let request = get(&uri)
        .header(TOKEN_HEADER, "x")
        .header(COOKIE, "stacyvm-preview=x; a=1");
    let decision = rig.decide(&asked, request);
    assert!(admits(&decision), "{decision:?}");
    assert_eq!(inner(&decision), "/a");
}

#[test]
fn a_forged_cookie_beside_the_right_one_does_no_harm() {
    let rig = Rig::new();
    let cookie = format!("stacyvm-preview=forged; stacyvm-preview={}", rig.cookie());
    let decision = rig.decide(&rig.asked(), get("/").header(COOKIE, cookie));
    assert!(admits(&decision), "{decision:?}");
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
        let decision = rig.decide(&rig.asked(), request);
        assert!(admits(&decision), "{decision:?}");
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
        let decision = rig.decide(&rig.asked(), request);
        assert!(refuses(&decision), "{decision:?}");
    }
    let shared = AccessRequest {
        form: Form::Path,
        ..rig.asked()
    };
    let decision = rig.decide(&shared, read());
    assert!(refuses(&decision), "{decision:?}");
}

#[test]
fn a_public_link_is_the_bare_address() {
    let rig = Rig::new();
    let public = Some(PreviewAccess::Public);
    let life = Duration::from_secs(60);
    let link = rig.access.link(&rig.id, 3000, public, life, rig.now);
    assert_eq!(link.url, format!("http://{HOST}/"));
    assert_eq!(link.expires_at, None);
    let odd = Timestamp::from_unix_micros(1_800_000_000_000_001);
    let link = rig.access.link(&rig.id, 3000, None, life, odd);
    let end = Timestamp::from_unix_micros(1_800_000_061_000_000);
    assert_eq!(link.expires_at, Some(end));
}

#[test]
fn what_comes_in_the_clear_to_the_usual_port_is_sent_to_tls() {
    let rig = Rig {
        access: access(AccessSettings {
            secure: true,
            ..AccessSettings::default()
        }),
        ..Rig::new()
    };
    let name = "3000-sb-00000001.box.example.org";
    let usual = format!("{name}:80");
    for host in [name, &usual] {
        let asked = AccessRequest {
            host,
            ..rig.asked()
        };
        let decision = rig.decide(&asked, get("/a?b"));
        let Decision::Redirect(StatusCode::PERMANENT_REDIRECT, headers) = decision else {
            panic!("{decision:?}");
        };
        assert_eq!(headers[LOCATION], format!("https://{name}/a?b"));
    }
    let requested = Some(PreviewAccess::Public);
    let secure = AccessRequest {
        scheme: Scheme::Https,
        host: name,
        requested,
        ..rig.asked()
    };
    let other_port = AccessRequest {
        requested,
        ..rig.asked()
    };
    let path = AccessRequest {
        form: Form::Path,
        host: name,
        requested,
        ..rig.asked()
    };
    for asked in [secure, other_port, path] {
        assert!(admits(&rig.decide(&asked, get("/"))), "{asked:?}");
    }
}
