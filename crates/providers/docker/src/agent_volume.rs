//! A volume with the agent program, for engines that do not see this machine's files.
//!
//! The volume is named after its content, so several servers may share one, and the containers of an
//! older server keep theirs. It is filled through a container that is never started. The one rule:
//! a volume is complete only when the file in it has its full length, so an interrupted upload is
//! repeated.

use std::io;
use std::path::Path;

use bollard::body_full;
use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, VolumeCreateRequest,
};
use bollard::query_parameters::{ContainerArchiveInfoOptions, UploadToContainerOptions};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use stacyvm_provider::ProviderError;

use crate::agent::{PROGRAM, PROGRAM_DIR};
use crate::containers::Containers;
use crate::engine::{QUERY_TIMEOUT, WORK_TIMEOUT};

const STEP: &str = "bring the agent to the engine";
/// How many digits of the program's digest are in the volume's name.
const DIGEST_DIGITS: usize = 16;

/// Makes a volume with the agent program unless there is one, and returns its name.
pub(crate) async fn ensure(
    containers: &Containers,
    agent: &Path,
    image: &str,
) -> Result<String, ProviderError> {
    let path = agent.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(path));
    let program = read
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(|error| {
            ProviderError::backend("read the agent", error.kind().to_string(), error)
        })?;
    let digest = Sha256::digest(&program);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("stacyvm-agent-{}", &digest[..DIGEST_DIGITS]);
    let request = VolumeCreateRequest {
        name: Some(name.clone()),
        labels: Some([("stacyvm.agent".to_owned(), digest)].into()),
        ..VolumeCreateRequest::default()
    };
    let creating = containers
        .engine
        .request(STEP, QUERY_TIMEOUT, |docker| async move {
            docker.create_volume(request).await
        });
    creating.await?;
    let container = containers.new_trial_name();
    let filled = fill(containers, image, &name, &container, program).await;
    containers.remove(&container).await?;
    filled.map(|()| name)
}

async fn fill(
    containers: &Containers,
    image: &str,
    volume: &str,
    container: &str,
    program: Vec<u8>,
) -> Result<(), ProviderError> {
    let mount = Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.to_owned()),
        target: Some(PROGRAM_DIR.to_owned()),
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(true),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    };
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec!["/never".to_owned()]),
        labels: Some(containers.names.labels(None)),
        network_disabled: Some(true),
        host_config: Some(HostConfig {
            mounts: Some(vec![mount]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    containers.create(STEP, container, body).await?;
    if uploaded_size(containers, container).await? == Some(program.len() as u64) {
        return Ok(());
    }
    let archive = archive(&program).map_err(|error| {
        ProviderError::backend("pack the agent", error.kind().to_string(), error)
    })?;
    let engine = &containers.engine;
    let upload = engine.request(STEP, WORK_TIMEOUT, |docker| async move {
        let options = UploadToContainerOptions {
            path: PROGRAM_DIR.to_owned(),
            ..UploadToContainerOptions::default()
        };
        let archive = body_full(Bytes::from(archive));
        docker
            .upload_to_container(container, Some(options), archive)
            .await
    });
    Ok(upload.await?)
}

/// The size of the program in the volume; none when there is no file.
async fn uploaded_size(
    containers: &Containers,
    container: &str,
) -> Result<Option<u64>, ProviderError> {
    let engine = &containers.engine;
    let asking = engine.request(STEP, QUERY_TIMEOUT, |docker| async move {
        let options = ContainerArchiveInfoOptions {
            path: PROGRAM.to_owned(),
        };
        docker
            .get_container_archive_info(container, Some(options))
            .await
    });
    match asking.await {
        Ok(stat) => Ok(u64::try_from(stat.size).ok()),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An archive of the program alone.
fn archive(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    let name = PROGRAM.rsplit('/').next().unwrap_or(PROGRAM);
    let mut archive = tar::Builder::new(Vec::with_capacity(program.len() + 4096));
    archive.append_data(&mut header, name, program)?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_archive_has_the_program_where_it_is_mounted() {
        let archive = archive(b"program").unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries: Vec<_> = archive.entries().unwrap().collect();
        assert_eq!(entries.len(), 1);
        let entry = entries[0].as_ref().unwrap();
        let path = std::path::Path::new(PROGRAM_DIR).join(entry.path().unwrap());
        assert_eq!(path, std::path::Path::new(PROGRAM));
        assert_eq!((entry.size(), entry.header().mode().unwrap()), (7, 0o755));
    }
}
