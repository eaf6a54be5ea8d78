//! The agent in a volume, for engines that do not see our files.
//!
//! The volume is named by what is in it, so several servers may share one and an older server's
//! containers keep theirs. It is filled through a container that never runs. Its rule: it counts
//! only when the file in it has its full length, so a broken-off filling is done again.

use std::io;

use bollard::body_full;
use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, VolumeCreateRequest,
};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, UploadToContainerOptions,
};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use stacyvm_provider::ProviderError;

use crate::agent::{PROGRAM, PROGRAM_DIR};
use crate::engine::{QUICK, WORK};
use crate::inner::Inner;
use crate::{removal, trial};

const STEP: &str = "bring the agent to the engine";
/// Digits of a digest that are enough to tell agents apart.
const DIGITS: usize = 16;

/// Makes a volume with the agent be there and returns its name.
pub(crate) async fn with_agent(inner: &Inner, image: &str) -> Result<String, ProviderError> {
    let path = inner.settings.agent.clone();
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
    let name = format!("stacyvm-agent-{}", &digest[..DIGITS]);
    let request = VolumeCreateRequest {
        name: Some(name.clone()),
        labels: Some([("stacyvm.agent".to_owned(), digest)].into()),
        ..VolumeCreateRequest::default()
    };
    let making = inner.engine.ask(STEP, QUICK, |docker| async move {
        docker.create_volume(request).await
    });
    making.await?;
    let container = trial::name(inner);
    let filled = fill(inner, image, &name, &container, program).await;
    removal::container(inner, &container).await?;
    filled.map(|()| name)
}

async fn fill(
    inner: &Inner,
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
        labels: Some(inner.house.names.labels(None)),
        network_disabled: Some(true),
        host_config: Some(HostConfig {
            mounts: Some(vec![mount]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions {
        name: Some(container.to_owned()),
        ..CreateContainerOptions::default()
    };
    let making = inner.engine.ask(STEP, WORK, |docker| async move {
        docker.create_container(Some(options), body).await
    });
    making.await?;
    if size_there(inner, container).await? == Some(program.len() as u64) {
        return Ok(());
    }
    let archive = archive(&program).map_err(|error| {
        ProviderError::backend("pack the agent", error.kind().to_string(), error)
    })?;
    let container = container.to_owned();
    let upload = inner.engine.ask(STEP, WORK, |docker| async move {
        let options = UploadToContainerOptions {
            path: PROGRAM_DIR.to_owned(),
            ..UploadToContainerOptions::default()
        };
        let archive = body_full(Bytes::from(archive));
        docker
            .upload_to_container(&container, Some(options), archive)
            .await
    });
    Ok(upload.await?)
}

/// How long the agent in the volume is, if it is there.
async fn size_there(inner: &Inner, container: &str) -> Result<Option<u64>, ProviderError> {
    let container = container.to_owned();
    let asking = inner.engine.ask(STEP, QUICK, |docker| async move {
        let options = ContainerArchiveInfoOptions {
            path: PROGRAM.to_owned(),
        };
        docker
            .get_container_archive_info(&container, Some(options))
            .await
    });
    match asking.await {
        Ok(stat) => Ok(u64::try_from(stat.size).ok()),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An archive with nothing but the program.
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
