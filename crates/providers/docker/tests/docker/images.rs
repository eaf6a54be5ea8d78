//! The engine's images through the provider.

use bytes::Bytes;
use stacyvm_provider::ops::OpError;
use stacyvm_provider::prelude::*;
use stacyvm_provider::{ArchiveKind, ProviderError};
use tokio::sync::mpsc;

use crate::support::{Image, Surroundings, World};

#[tokio::test]
async fn an_image_is_saved_loaded_named_and_removed() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let image = Image::derived(&surroundings, &["USER games", "LABEL made=here"]);
    let world = World::with(surroundings, |_| {}).await;
    let images = world.provider().images().unwrap();

    let details = images.inspect(&image.name).await.unwrap();
    assert_eq!(details.config.user.as_deref(), Some("games"));
    assert_eq!(details.config.labels["made"], "here");
    assert!(details.image.layers >= 1 && details.image.platform.starts_with("linux/"));
    let listed = images.list().await.unwrap();
    let line = listed.iter().find(|line| line.name == image.name).unwrap();
    assert_eq!(line.id, details.image.id);
    assert!(
        listed
            .iter()
            .all(|line| !line.name.starts_with("stacyvm/trial"))
    );

    // The name contains this process's id, so that two runs do not interfere.
    let second = format!("{}-second:1", image.name.trim_end_matches(":1"));
    images.tag(&image.name, &second).await.unwrap();
    assert_eq!(images.inspect(&second).await.unwrap().image.id, line.id);
    let archive = images.save(std::slice::from_ref(&second)).await.unwrap();
    let removed = images.remove(&second).await.unwrap();
    assert_eq!(removed.names, std::slice::from_ref(&second));
    drop(archive);

    let archive = images
        .save(std::slice::from_ref(&image.name))
        .await
        .unwrap();
    let third = format!("{}-third:1", image.name.trim_end_matches(":1"));
    let loaded = images
        .load(archive, ArchiveKind::Images, Some(&third))
        .await
        .unwrap();
    assert_eq!((loaded.len(), &loaded[0].id), (1, &line.id));
    let taken = images.tag(&image.name, &third).await;
    assert!(taken.is_ok(), "the same name for the same image: {taken:?}");
    images.remove(&third).await.unwrap();
    let error = images.inspect(&third).await.unwrap_err();
    assert!(matches!(error, ProviderError::NotFound(_)), "{error:?}");
}

#[tokio::test]
async fn a_root_file_system_becomes_an_image_and_a_broken_one_does_not() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let name = Image::free_name();
    let world = World::with(surroundings, |_| {}).await;
    let images = world.provider().images().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, "greeting", &b"hello"[..])
        .unwrap();
    let archive = archive.into_inner().unwrap();

    let broken = vec![
        Ok(Bytes::from(archive[..512].to_vec())),
        Err(OpError::Gone("the client went away".to_owned())),
    ];
    let refused = images
        .load(stream(broken), ArchiveKind::Rootfs, Some(&name))
        .await;
    assert!(refused.is_err(), "{refused:?}");
    let error = images.inspect(&name).await.unwrap_err();
    assert!(matches!(error, ProviderError::NotFound(_)), "{error:?}");

    let whole = vec![Ok(Bytes::from(archive))];
    let loaded = images
        .load(stream(whole), ArchiveKind::Rootfs, Some(&name))
        .await
        .unwrap();
    assert_eq!(loaded.len(), 1);
    let again = images
        .load(stream(Vec::new()), ArchiveKind::Rootfs, Some(&name))
        .await;
    assert!(
        matches!(again, Err(ProviderError::Conflict(_))),
        "{again:?}"
    );
    images.remove(&name).await.unwrap();
}

fn stream(pieces: Vec<Result<Bytes, OpError>>) -> stacyvm_provider::ops::ByteReceiver {
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        sender.try_send(piece).unwrap();
    }
    receiver
}
