//! Files of a sandbox.

use std::io;
use std::num::NonZeroU32;

use bytes::Bytes;
use futures_core::Stream;
use http::Method;
use http::header::CONTENT_TYPE;
use stacyvm_types::{
    ArchiveFormat, ChangeModeRequest, DeleteFileQuery, FileInfo, FileQuery, GlobQuery,
    ListFilesQuery, MakeDirectoryRequest, MoveFileRequest, ReadArchiveQuery, WriteFileQuery,
    WriteFileRequest,
};

use crate::request::{Answer, Payload, streamed, with_query};
use crate::sandboxes::sandbox_path;
use crate::stream::ByteStream;
use crate::{Client, ClientError};

impl Client {
    /// The bytes of a file.
    ///
    /// # Errors
    /// What the server or the connection reports; the same holds for every method here.
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

    async fn get_file(&self, id: &str, path: &str) -> Result<Answer, ClientError> {
        let route = with_query(&sandbox_path(id, "/files"), &file(path));
        self.send(Method::GET, &route, &[], Payload::None).await
    }

    /// Replaces a text file.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn write_file(&self, id: &str, path: &str, content: &str) -> Result<(), ClientError> {
        let body = WriteFileRequest {
            path: path.to_owned(),
            content: content.to_owned(),
            ..WriteFileRequest::default()
        };
        let route = sandbox_path(id, "/files");
        self.submit(Method::POST, &route, Payload::json(&body))
            .await
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
        let query = WriteFileQuery {
            path: Some(path.to_owned()),
            mode: mode.map(str::to_owned),
        };
        let route = with_query(&sandbox_path(id, "/files"), &query);
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
        self.list_directory(id, path, None).await
    }

    /// What a directory holds, `depth` levels deep; 0 and 1 are the directory alone.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn list_files_deep(
        &self,
        id: &str,
        path: &str,
        depth: u32,
    ) -> Result<Vec<FileInfo>, ClientError> {
        self.list_directory(id, path, NonZeroU32::new(depth)).await
    }

    async fn list_directory(
        &self,
        id: &str,
        path: &str,
        depth: Option<NonZeroU32>,
    ) -> Result<Vec<FileInfo>, ClientError> {
        let path = Some(path.to_owned());
        let query = ListFilesQuery { path, depth };
        let route = with_query(&sandbox_path(id, "/files/list"), &query);
        self.fetch(Method::GET, &route, Payload::None).await
    }

    /// Absolute paths that match a pattern, sorted.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn glob_files(&self, id: &str, pattern: &str) -> Result<Vec<String>, ClientError> {
        let query = GlobQuery {
            pattern: pattern.to_owned(),
        };
        let route = with_query(&sandbox_path(id, "/files/glob"), &query);
        self.fetch(Method::GET, &route, Payload::None).await
    }

    /// Moves a file or directory; the destination's parents are made.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn move_file(&self, id: &str, from: &str, to: &str) -> Result<(), ClientError> {
        let body = Payload::json(&MoveFileRequest {
            old_path: from.to_owned(),
            new_path: to.to_owned(),
        });
        let route = sandbox_path(id, "/files/move");
        self.submit(Method::POST, &route, body).await
    }

    /// Changes permission bits, given as octal text.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn chmod_file(&self, id: &str, path: &str, mode: &str) -> Result<(), ClientError> {
        let body = Payload::json(&ChangeModeRequest {
            path: path.to_owned(),
            mode: mode.to_owned(),
        });
        let route = sandbox_path(id, "/files/chmod");
        self.submit(Method::POST, &route, body).await
    }

    /// One file, described.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn stat_file(&self, id: &str, path: &str) -> Result<FileInfo, ClientError> {
        let route = with_query(&sandbox_path(id, "/files/stat"), &file(path));
        self.fetch(Method::GET, &route, Payload::None).await
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
        let query = DeleteFileQuery {
            path: path.to_owned(),
            recursive: Some(recursive),
        };
        let route = with_query(&sandbox_path(id, "/files"), &query);
        self.submit(Method::DELETE, &route, Payload::None).await
    }

    /// Makes a directory and its parents.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn make_directory(&self, id: &str, path: &str) -> Result<(), ClientError> {
        let body = Payload::json(&MakeDirectoryRequest {
            path: path.to_owned(),
            mode: None,
        });
        let route = sandbox_path(id, "/files/mkdir");
        self.submit(Method::POST, &route, body).await
    }

    /// A file or directory as a tar stream.
    ///
    /// # Errors
    /// See [`Client::read_file`].
    pub async fn archive_out(
        &self,
        id: &str,
        path: &str,
        format: ArchiveFormat,
    ) -> Result<ByteStream, ClientError> {
        let query = ReadArchiveQuery {
            path: path.to_owned(),
            format: Some(format),
        };
        let route = with_query(&sandbox_path(id, "/files/archive"), &query);
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
        let route = with_query(&sandbox_path(id, "/files/archive"), &file(path));
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

fn file(path: &str) -> FileQuery {
    FileQuery {
        path: path.to_owned(),
    }
}
