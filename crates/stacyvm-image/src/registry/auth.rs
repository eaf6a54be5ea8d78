//! Authentication: what a registry demands with status 401, and the header that answers it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Request;

use super::http::{HttpClient, HttpError, read_bounded};
use crate::{Login, Secret};

/// The largest answer of a token service, in bytes.
const MAX_TOKEN: u64 = 256 * 1024;

/// The kind of authentication that a registry demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token from a service.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// Why a token service gave no token.
#[derive(Debug)]
pub(super) enum TokenError {
    /// It demands a login, or another one.
    Refused,
    /// It limits requests, and there were too many.
    TooMany,
    /// It cannot be reached.
    Failed(HttpError),
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Challenge {
    /// Reads the header `WWW-Authenticate`.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        Some(Self::Bearer {
            realm: realm?,
            service,
            scope,
        })
    }
}

/// `name="value"` or `name=value`, separated by commas; values in quotes may have commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim().trim_start_matches(',').trim().to_owned();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name, value.trim().to_owned()));
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    found
}

/// The header `Authorization` for a name and a password.
pub(super) fn basic(user: &str, password: &Secret) -> Secret {
    let pair = STANDARD.encode(format!("{user}:{}", password.reveal()));
    Secret::new(format!("Basic {pair}"))
}

/// Fetches a token and makes the header `Authorization` of it.
pub(super) fn bearer(
    http: &HttpClient,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    login: Option<&Login>,
) -> Result<Secret, TokenError> {
    let request = match login {
        Some(Login::IdentityToken(token)) => {
            let mut form = vec![
                ("grant_type", "refresh_token"),
                ("client_id", "stacyvm"),
                ("refresh_token", token.reveal()),
                ("scope", scope),
            ];
            form.extend(service.map(|service| ("service", service)));
            Request::post(realm)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(query(&form))
        }
        login => {
            let mut form = vec![("scope", scope)];
            form.extend(service.map(|service| ("service", service)));
            let separator = if realm.contains('?') { '&' } else { '?' };
            let mut request = Request::get(format!("{realm}{separator}{}", query(&form)));
            if let Some(Login::Password { user, password }) = login {
                request = request.header("authorization", basic(user, password).reveal());
            }
            request.body(String::new())
        }
    };
    let odd = |reason: &str| TokenError::Failed(HttpError::permanent(reason));
    let request = request.map_err(|_| odd("the address of its token service is none"))?;
    let mut response = http.send(request).map_err(TokenError::Failed)?;
    match response.status().as_u16() {
        200 => {}
        400 | 401 | 403 => return Err(TokenError::Refused),
        429 => return Err(TokenError::TooMany),
        status => {
            return Err(TokenError::Failed(HttpError {
                reason: format!("its token service answers with status {status}"),
                temporary: status >= 500,
                not_tls: false,
                detail: None,
            }));
        }
    }
    let body = read_bounded(&mut response, MAX_TOKEN).map_err(TokenError::Failed)?;
    let answer = body.and_then(|body| serde_json::from_slice::<TokenAnswer>(&body).ok());
    let token = answer.map(|answer| match answer.token.is_empty() {
        true => answer.access_token,
        false => answer.token,
    });
    match token {
        Some(token) if !token.is_empty() => Ok(Secret::new(format!("Bearer {token}"))),
        _ => Err(odd("its token service gives no token")),
    }
}

/// Pairs as the query of an address, or as a form.
fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            use std::fmt::Write;
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let _ = match plain {
                true => write!(text, "{}", char::from(byte)),
                false => write!(text, "%{byte:02X}"),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (header, challenge) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:b/c:pull,push\"",
                Some(bearer(
                    "https://a/t",
                    Some("s"),
                    Some("repository:b/c:pull,push"),
                )),
            ),
            (
                "bearer  realm=https://a/t , error=\"x\"",
                Some(bearer("https://a/t", None, None)),
            ),
            ("Bearer service=\"s\"", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), challenge, "{header}");
        }
    }

    #[test]
    fn forms_are_escaped() {
        let text = query(&[("scope", "repository:a/b:pull"), ("service", "x&y=z")]);
        assert_eq!(text, "scope=repository%3Aa%2Fb%3Apull&service=x%26y%3Dz");
    }
}
