//! The HTTP client for an ACME server: its requests are few and short, so each has its own
//! connection.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long one request may take, its answer included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer in bytes; a chain of certificates has a few thousand.
const MAX_ANSWER: usize = 1024 * 1024;
const HTTPS: u16 = 443;

/// Speaks HTTPS only, to servers whose certificates the system or one file vouches for.
pub(super) struct AcmeClient(TlsConnector);

impl AcmeClient {
    /// `root` is a file in PEM that replaces the system's authorities. Reads files.
    pub(super) fn new(root: Option<&Path>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        match root {
            Some(path) => {
                for one in CertificateDer::pem_file_iter(path).map_err(other)? {
                    roots.add(one.map_err(other)?).map_err(other)?;
                }
            }
            None => {
                // Some of the system's certificates may be unusable; only that all are is an error.
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            return Err(Error::Str("authorities to trust: install ca-certificates"));
        }
        let config = ClientConfig::builder_with_provider(crate::tls::crypto::provider())
            .with_safe_default_protocol_versions()
            .map_err(other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

impl HttpClient for AcmeClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let connector = self.0.clone();
        Box::pin(async move {
            let asking = tokio::time::timeout(REQUEST_TIMEOUT, ask(connector, request));
            let late = |_| other(io::Error::from(io::ErrorKind::TimedOut));
            let (parts, body) = asking.await.map_err(late)??.into_parts();
            Ok(BytesResponse {
                parts,
                body: Box::new(body),
            })
        })
    }
}

async fn ask(
    connector: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Bytes>, Error> {
    let uri = request.uri().clone();
    let host = uri.host().unwrap_or_default();
    if uri.scheme_str() != Some("https") || host.is_empty() {
        return Err(Error::Str("https in an address of the ACME server"));
    }
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    request
        .headers_mut()
        .insert(HOST, HeaderValue::try_from(authority).map_err(other)?);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>()?;

    let bare = host.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((bare.as_str(), uri.port_u16().unwrap_or(HTTPS)));
    let stream = stream.await.map_err(other)?;
    let name = ServerName::try_from(bare).map_err(other)?;
    let stream = connector.connect(name, stream).await.map_err(other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(other)?;
    let exchange = async {
        let (parts, body) = sender
            .send_request(request)
            .await
            .map_err(other)?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(Error::Other)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection drives the exchange; if it ends first, the rest of the answer was read.
        _ = connection => exchange.await,
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}
