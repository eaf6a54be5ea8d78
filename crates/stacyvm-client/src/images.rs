//! Images of the server.

use std::io;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use http::Method;
use http::header::CONTENT_TYPE;
use stacyvm_types::{
    ImageArchiveKind, ImageDetails, ImageInfo, ImagesRemoved, LoadImagesQuery, PruneRequest,
    PullLine, PullRequest, PulledImage, SaveImagesQuery, TagRequest,
};

use crate::lines::Lines;
use crate::request::{Payload, quoted, streamed, with_query};
use crate::{ByteStream, Client, ClientError};

impl Client {
    /// Every image, sorted by name.
    ///
    /// # Errors
    /// What the server or the connection reports; the same holds for every method here.
    pub async fn images(&self) -> Result<Vec<ImageInfo>, ClientError> {
        self.fetch(Method::GET, "/api/v1/images", Payload::None)
            .await
    }

    /// All that is known about one.
    ///
    /// # Errors
    /// See [`Client::images`].
    pub async fn image(&self, name: &str) -> Result<ImageDetails, ClientError> {
        self.fetch(Method::GET, &image_path(name), Payload::None)
            .await
    }

    /// Pulls an image unless it is there; `progress` is called with every line that says how far
    /// the pull is. When the future is dropped, the server ends the pull.
    ///
    /// # Errors
    /// See [`Client::images`].
    pub async fn pull_image(
        &self,
        request: &PullRequest,
        mut progress: impl FnMut(PullLine),
    ) -> Result<PulledImage, ClientError> {
        let request = PullRequest {
            stream: Some(true),
            ..request.clone()
        };
        let answer = self
            .send(
                Method::POST,
                "/api/v1/images/pull",
                &[],
                Payload::json(&request),
            )
            .await?;
        let mut lines = Lines::new(answer);
        while let Some(line) = lines.next().await {
            match serde_json::from_slice(&line?).map_err(|error| lines.bad(error))? {
                PullLine::Done(pulled) => return Ok(pulled),
                PullLine::Error { error } => return Err(ClientError::Api { status: 200, error }),
                line => progress(line),
            }
        }
        Err(lines.bad("the answer ended before its last line"))
    }

    /// Makes images from an archive of images.
    ///
    /// # Errors
    /// See [`Client::images`].
    pub async fn load_images<S>(
        &self,
        name: Option<&str>,
        archive: S,
    ) -> Result<Vec<ImageInfo>, ClientError>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        self.upload(ImageArchiveKind::Images, name, archive).await
    }

    /// Makes an image from the archive of one root file system.
    ///
    /// # Errors
    /// See [`Client::images`].
    pub async fn import_image<S>(
        &self,
        name: &str,
        archive: S,
    ) -> Result<Vec<ImageInfo>, ClientError>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        self.upload(ImageArchiveKind::Rootfs, Some(name), archive)
            .await
    }

    async fn upload<S>(
        &self,
        kind: ImageArchiveKind,
        name: Option<&str>,
        archive: S,
    ) -> Result<Vec<ImageInfo>, ClientError>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let query = LoadImagesQuery {
            name: name.map(str::to_owned),
            kind: Some(kind),
            provider: None,
        };
        let route = with_query("/api/v1/images/load", &query);
        let header = [(CONTENT_TYPE, "application/x-tar")];
        let body = Payload::Stream(streamed(archive));
        let answer = self.send(Method::POST, &route, &header, body).await?;
        serde_json::from_slice(&answer.bytes().await?).map_err(|error| self.unexpected(error))
    }

    /// Images as one archive, as it comes.
    ///
    /// # Errors
    /// See [`Client::images`].
    pub async fn save_images(&self, names: &[String]) -> Result<ByteStream, ClientError> {
        let query = SaveImagesQuery {
            name: names.to_vec(),
            provider: None,
        };
        let route = with_query("/api/v1/images/save", &query);
        self.send(Method::GET, &route, &[], Payload::None)
            .await
            .map(ByteStream::new)
    }

    /// Gives an image a further name.
    ///
    /// # Errors
    /// See [`Client::images`].
    pub async fn tag_image(&self, request: &TagRequest) -> Result<(), ClientError> {
        let body = Payload::json(request);
        self.submit(Method::POST, "/api/v1/images/tag", body).await
    }

    /// Removes a name, and its image with the last one.
    ///
    /// # Errors
    /// See [`Client::images`].
    pub async fn remove_image(&self, name: &str) -> Result<ImagesRemoved, ClientError> {
        self.fetch(Method::DELETE, &image_path(name), Payload::None)
            .await
    }

    /// Removes images that no sandbox uses.
    ///
    /// # Errors
    /// See [`Client::images`].
    pub async fn prune_images(&self, request: &PruneRequest) -> Result<ImagesRemoved, ClientError> {
        let body = Payload::json(request);
        self.fetch(Method::POST, "/api/v1/images/prune", body).await
    }
}

/// The path of an image's route.
fn image_path(name: &str) -> String {
    format!("/api/v1/images/{}", quoted(name).replace('/', "%2F"))
}
