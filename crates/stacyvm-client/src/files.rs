//! Files of a sandbox.

use std::io;

use bytes::Bytes;
use futures_core::Stream;
use http::Method;
use http::header::CONTENT_TYPE;
use serde_json::json;
use stacyvm_types::FileInfo;

use crate::request::{Payload, quoted, streamed};
use crate::sandboxes::of;
use crate::stream::ByteStream;
use crate::{Client, ClientError};

/// How an archive is packed on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveForm {
    /// Plain tar.
    Tar,
    /// Tar under gzip.
    TarGz,
}

impl Client {
    /// The bytes of a file.
    ///
    /// # Errors
    /// Whatever the server or the connection says; so for every method here.
    pub async fn read_file(&self, id: &str, path: &str) -> Result<Bytes, ClientError> {
        self.get_file(id, path).await?.bytes().await
    }

    /// The bytes of a file, as they come.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn read_file_stream(&self, id: &str, path: &str) -> Result<ByteStream, ClientError> {
        self.get_file(id, path).await.map(ByteStream::new)
    }

    async fn get_file(&self, id: &str, path: &str) -> Result<crate::request::Answer, ClientError> {
        let route = of(id, &format!("/files?path={}", quoted(path)));
        self.send(Method::GET, &route, &[], Payload::None).await
    }

    /// Replaces a text file.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn write_file(&self, id: &str, path: &str, content: &str) -> Result<(), ClientError> {
        let body = Payload::json(&json!({ "path": path, "content": content }));
        self.tell(Method::POST, &of(id, "/files"), body).await
    }

    /// Replaces a file by what `data` brings; an error from it leaves the old file.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn write_file_stream<S>(
        &self,
        id: &str,
        path: &str,
        mode: Option<&str>,
        data: S,
    ) -> Result<(), ClientError>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let mode = mode
            .map(|mode| format!("&mode={}", quoted(mode)))
            .unwrap_or_default();
        let route = of(id, &format!("/files?path={}{mode}", quoted(path)));
        let header = [(CONTENT_TYPE, "application/octet-stream")];
        let answer = self
            .send(
                Method::POST,
                &route,
                &header,
                Payload::Stream(streamed(data)),
            )
            .await?;
        answer.bytes().await.map(drop)
    }

    /// What a directory holds.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn list_files(&self, id: &str, path: &str) -> Result<Vec<FileInfo>, ClientError> {
        let route = of(id, &format!("/files/list?path={}", quoted(path)));
        self.ask(Method::GET, &route, Payload::None).await
    }

    /// What a directory holds, `depth` levels deep; 1 is the directory alone.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn list_files_deep(
        &self,
        id: &str,
        path: &str,
        depth: u32,
    ) -> Result<Vec<FileInfo>, ClientError> {
        let route = of(
            id,
            &format!("/files/list?path={}&depth={depth}", quoted(path)),
        );
        self.ask(Method::GET, &route, Payload::None).await
    }

    /// Absolute paths that match a pattern, sorted.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn glob_files(&self, id: &str, pattern: &str) -> Result<Vec<String>, ClientError> {
        let route = of(id, &format!("/files/glob?pattern={}", quoted(pattern)));
        self.ask(Method::GET, &route, Payload::None).await
    }

    /// Moves a file or directory; the destination's parents are made.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn move_file(&self, id: &str, from: &str, to: &str) -> Result<(), ClientError> {
        let body = Payload::json(&json!({ "old_path": from, "new_path": to }));
        self.tell(Method::POST, &of(id, "/files/move"), body).await
    }

    /// Changes permission bits, given as octal text.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn chmod_file(&self, id: &str, path: &str, mode: &str) -> Result<(), ClientError> {
        let body = Payload::json(&json!({ "path": path, "mode": mode }));
        self.tell(Method::POST, &of(id, "/files/chmod"), body).await
    }

    /// One file, described.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn stat_file(&self, id: &str, path: &str) -> Result<FileInfo, ClientError> {
        let route = of(id, &format!("/files/stat?path={}", quoted(path)));
        self.ask(Method::GET, &route, Payload::None).await
    }

    /// Removes a file, or with `recursive` a directory.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn delete_file(
        &self,
        id: &str,
        path: &str,
        recursive: bool,
    ) -> Result<(), ClientError> {
        let route = of(
            id,
            &format!("/files?path={}&recursive={recursive}", quoted(path)),
        );
        self.tell(Method::DELETE, &route, Payload::None).await
    }

    /// Makes a directory and its parents.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn make_directory(&self, id: &str, path: &str) -> Result<(), ClientError> {
        let body = Payload::json(&json!({ "path": path }));
        self.tell(Method::POST, &of(id, "/files/mkdir"), body).await
    }

    /// A file or directory as a tar stream.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn archive_out(
        &self,
        id: &str,
        path: &str,
        form: ArchiveForm,
    ) -> Result<ByteStream, ClientError> {
        let form = match form {
            ArchiveForm::Tar => "tar",
            ArchiveForm::TarGz => "tar.gz",
        };
        let route = of(
            id,
            &format!("/files/archive?path={}&format={form}", quoted(path)),
        );
        self.send(Method::GET, &route, &[], Payload::None)
            .await
            .map(ByteStream::new)
    }

    /// Unpacks a tar or tar.gz stream into a directory.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn archive_in<S>(&self, id: &str, path: &str, data: S) -> Result<(), ClientError>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let route = of(id, &format!("/files/archive?path={}", quoted(path)));
        let header = [(CONTENT_TYPE, "application/x-tar")];
        let answer = self
            .send(
                Method::PUT,
                &route,
                &header,
                Payload::Stream(streamed(data)),
            )
            .await?;
        answer.bytes().await.map(drop)
    }
}
