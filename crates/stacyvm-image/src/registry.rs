//! Requests to registries: which ones have an image, its manifest, its blobs.
//!
//! Mirrors are asked first, in their order, and the registry itself last; the error of the last one
//! is reported. A request that fails for a reason that may pass is tried again. The API is that of the
//! OCI distribution specification.

mod auth;
mod credentials;
mod destinations;
mod endpoint;
mod http;
mod redirect;
mod request_error;
mod retry;

use std::io::Read;
use std::time::Duration;

use ureq::http::Response;

use crate::manifest::{ACCEPTED, Descriptor, MAX_MANIFEST};
use crate::registries::is_loopback;
use crate::{Digest, ImageError, PullOptions, Reference};
pub(crate) use credentials::find as find_login;
use endpoint::{Endpoint, RequestContext};
use http::{HttpError, header, read_bounded};
pub(crate) use request_error::RequestError;
pub(crate) use retry::wait_before_retry;

/// The registries that may have one image.
#[derive(Debug)]
pub(crate) struct RegistryClient<'a> {
    reference: &'a Reference,
    options: &'a PullOptions,
    endpoints: Vec<Endpoint>,
}

/// A stream of a blob's bytes.
pub(crate) struct Blob {
    /// Where in the blob the stream starts: where it was asked to, or at zero.
    pub(crate) start: u64,
    pub(crate) reader: Box<dyn Read + Send>,
}

impl<'a> RegistryClient<'a> {
    pub(crate) fn new(
        reference: &'a Reference,
        options: &'a PullOptions,
    ) -> Result<Self, ImageError> {
        let registry = reference.registry();
        let registries = &options.registries;
        let mut endpoints = Vec::new();
        for mirror in registries.mirrors.get(registry).into_iter().flatten() {
            endpoints.push(Endpoint::mirror(mirror, registries)?);
        }
        let plain = is_loopback(registry) || registries.insecure.contains(registry);
        endpoints.push(Endpoint::registry(registry, plain));
        Ok(Self {
            reference,
            options,
            endpoints,
        })
    }

    /// The manifest or index behind the tag or digest that the reference names, and the number of
    /// the endpoint that has it.
    pub(crate) fn resolve(&self) -> Result<(Vec<u8>, Digest, usize), ImageError> {
        let mut last = None;
        for number in 0..self.endpoints.len() {
            match self.manifest(number, &self.reference.wanted(), self.reference.digest()) {
                Ok((bytes, digest)) => return Ok((bytes, digest, number)),
                Err(ImageError::Cancelled) => return Err(ImageError::Cancelled),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("the registry itself is always asked"))
    }

    /// The manifest that an index names.
    pub(crate) fn manifest_of(
        &self,
        endpoint: usize,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, ImageError> {
        let wanted = descriptor.digest;
        self.try_endpoints(endpoint, |number| {
            self.manifest(number, &wanted.to_string(), Some(wanted))
                .map(|(bytes, _)| bytes)
        })
    }

    /// A small blob, whole.
    pub(crate) fn small_blob(
        &self,
        endpoint: usize,
        descriptor: &Descriptor,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > limit {
            return Err(ImageError::Limit(format!(
                "{what} has {} bytes, more than {limit}",
                descriptor.size
            )));
        }
        let path = format!("blobs/{}", descriptor.digest);
        self.try_endpoints(endpoint, |number| {
            let bytes = self.retry(|| {
                let mut response = self.get(number, &path, &[])?;
                self.read_body(number, &mut response, limit, what)
            })?;
            expect_digest(what, &bytes, descriptor.digest)?;
            Ok(bytes)
        })
    }

    /// Opens the stream of a blob from `start` on. Makes one attempt; the caller decides how to go on.
    pub(crate) fn blob(
        &self,
        endpoint: usize,
        digest: Digest,
        start: u64,
    ) -> Result<Blob, RequestError> {
        let path = format!("blobs/{digest}");
        let range = format!("bytes={start}-");
        let headers: &[(&str, &str)] = match start {
            0 => &[],
            _ => &[("range", range.as_str())],
        };
        let response = self.get(endpoint, &path, headers)?;
        let begins = match response.status().as_u16() {
            206 => match header(&response, "content-range").and_then(range_start) {
                Some(begins) if begins == start => start,
                _ => return Err(RequestError::Range),
            },
            _ => 0,
        };
        let reader = response
            .into_body()
            .into_with_config()
            .limit(u64::MAX)
            .reader();
        Ok(Blob {
            start: begins,
            reader: Box::new(reader),
        })
    }

    /// How many endpoints there are; blobs may be asked for at each.
    pub(crate) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// The error for a stream that was cut.
    pub(crate) fn stream_error(&self, endpoint: usize, error: std::io::Error) -> ImageError {
        self.unusable(endpoint, HttpError::from(error).reason)
    }

    /// An error of one endpoint.
    pub(crate) fn unusable(&self, endpoint: usize, reason: String) -> ImageError {
        ImageError::Registry {
            registry: self.endpoints[endpoint].label().to_owned(),
            reason,
        }
    }

    /// Tries this endpoint, then those after it.
    fn try_endpoints<T>(
        &self,
        first: usize,
        mut attempt: impl FnMut(usize) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let mut last = None;
        for number in first..self.endpoints.len() {
            match attempt(number) {
                Err(ImageError::Cancelled) => return Err(ImageError::Cancelled),
                Err(error) => last = Some(error),
                done => return done,
            }
        }
        Err(last.expect("the registry itself is always asked"))
    }

    fn manifest(
        &self,
        number: usize,
        wanted: &str,
        expected: Option<Digest>,
    ) -> Result<(Vec<u8>, Digest), ImageError> {
        const WHAT: &str = "the manifest";
        let (bytes, stated) = self.retry(|| {
            let path = format!("manifests/{wanted}");
            let mut response = self.get(number, &path, &[("accept", ACCEPTED)])?;
            let stated = header(&response, "docker-content-digest").and_then(Digest::parse);
            let bytes = self.read_body(number, &mut response, MAX_MANIFEST, WHAT)?;
            Ok((bytes, stated))
        })?;
        // A tag names no digest, but the registry states one: it shows damage on the way.
        if let Some(expected) = expected.or(stated) {
            expect_digest(WHAT, &bytes, expected)?;
        }
        let digest = Digest::of(&bytes);
        Ok((bytes, digest))
    }

    fn read_body(
        &self,
        number: usize,
        response: &mut Response<ureq::Body>,
        limit: u64,
        what: &str,
    ) -> Result<Vec<u8>, RequestError> {
        match read_bounded(response, limit) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(RequestError::Permanent(ImageError::Limit(format!(
                "{what} has more than {limit} bytes"
            )))),
            Err(failure) => Err(self.request_error(number, failure)),
        }
    }

    /// Requests something of the repository. An answer without success is an error.
    fn get(
        &self,
        number: usize,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<ureq::Body>, RequestError> {
        let endpoint = &self.endpoints[number];
        let repository = self.reference.repository();
        let context = RequestContext {
            options: self.options,
            image: self.reference,
        };
        let response = endpoint.get(&context, &format!("{repository}/{path}"), headers)?;
        let (image, registry) = (self.reference.to_string(), endpoint.label().to_owned());
        let permanent = |error| Err(RequestError::Permanent(error));
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            404 => permanent(ImageError::Unknown { image, registry }),
            416 => Err(RequestError::Range),
            429 => {
                let pause = header(&response, "retry-after").and_then(|text| text.parse().ok());
                Err(RequestError::Temporary(
                    ImageError::TooManyRequests { registry },
                    pause.map(Duration::from_secs),
                ))
            }
            status => {
                let error = self.unusable(number, format!("it answers with status {status}"));
                match status >= 500 {
                    true => Err(RequestError::Temporary(error, None)),
                    false => permanent(error),
                }
            }
        }
    }

    fn request_error(&self, number: usize, failure: HttpError) -> RequestError {
        self.endpoints[number].request_error(failure)
    }

    /// Tries until the attempt succeeds, fails for good, or was made as often as the options say.
    fn retry<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, RequestError>,
    ) -> Result<T, ImageError> {
        let mut tried = 0;
        loop {
            self.options.cancel.check()?;
            tried += 1;
            match attempt() {
                Ok(done) => return Ok(done),
                Err(RequestError::Permanent(error)) => return Err(error),
                Err(RequestError::Range) => {
                    return Err(ImageError::Registry {
                        registry: self.reference.registry().to_owned(),
                        reason: "it answers a whole request with a part".to_owned(),
                    });
                }
                Err(RequestError::Temporary(error, pause)) => {
                    if tried >= self.options.attempts {
                        return Err(error);
                    }
                    wait_before_retry(&self.options.cancel, tried, pause)?;
                }
            }
        }
    }
}

fn expect_digest(what: &'static str, bytes: &[u8], expected: Digest) -> Result<(), ImageError> {
    let got = Digest::of(bytes);
    match got == expected {
        true => Ok(()),
        false => Err(ImageError::Digest {
            what,
            expected: expected.to_string(),
            got: got.to_string(),
        }),
    }
}

/// For the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_challenge(text: &str) {
    let _ = auth::Challenge::parse(text);
    let _ = range_start(text);
}

/// The first byte of `bytes 5-9/10`.
fn range_start(text: &str) -> Option<u64> {
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
