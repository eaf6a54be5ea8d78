//! Unsupported requests are refused with the remedy, and an absent engine is only unavailable.

use stacyvm_docker::{DockerProvider, DockerSettings, EngineAddress};
use stacyvm_provider::conformance::spec;
use stacyvm_provider::prelude::*;
use stacyvm_provider::{NetworkMode, ProviderError};
use stacyvm_types::{Isolation, SandboxId};

use crate::support::{Surroundings, World};

#[tokio::test]
async fn an_engine_that_is_away_is_unavailable_and_not_the_end() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("docker.sock");
    let address = EngineAddress::parse(socket.to_str().unwrap(), None).unwrap();
    let mut settings = DockerSettings::new(address, "test-away", &surroundings.agent);
    settings.default_image = surroundings.image.clone();
    let provider = DockerProvider::new(settings).unwrap();
    let nobody = SandboxId::from_u32(1);
    let health = provider.health().await;
    assert!(!health.healthy, "{health:?}");
    let error = health.error.unwrap();
    assert!(
        error.contains("does not answer") && error.contains("hint: "),
        "{error}"
    );
    let away = |result: Result<(), ProviderError>| {
        assert!(
            matches!(result, Err(ProviderError::Unavailable(_))),
            "{result:?}"
        );
    };
    away(provider.list().await.map(drop));
    away(provider.open(&nobody).await.map(drop));
    away(provider.destroy(&nobody).await);
    away(provider.create(&spec(&provider)).await.map(drop));
    // The engine comes, and the same provider works.
    std::os::unix::fs::symlink(
        surroundings.engine.strip_prefix("unix://").unwrap(),
        &socket,
    )
    .unwrap();
    assert_eq!(provider.list().await.unwrap(), []);
    let health = provider.health().await;
    assert!(health.healthy, "{health:?}");
    provider.close().await;
}

#[tokio::test]
async fn a_runtime_that_is_not_registered_is_named_with_those_that_are() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let address = EngineAddress::parse(&surroundings.engine, None).unwrap();
    let mut settings = DockerSettings::new(address, "test-runtime", &surroundings.agent);
    settings.runtime = "kata-runtime".to_owned();
    let provider = DockerProvider::new(settings).unwrap();
    let error = provider.health().await.error.unwrap();
    assert!(error.contains("no runtime \"kata-runtime\""), "{error}");
    assert!(error.contains("runc"), "{error}");
    assert_eq!(provider.isolation(), Isolation::Container);
}

#[test]
fn a_capability_that_is_none_is_refused_at_once() {
    let address = EngineAddress::parse("/nowhere", None).unwrap();
    let mut settings = DockerSettings::new(address, "test-caps", "/nowhere");
    settings.added_caps = vec!["NET_ADMINN".to_owned()];
    let error = DockerProvider::new(settings).unwrap_err().to_string();
    assert!(error.contains("providers.docker.added_caps"), "{error}");
}

#[tokio::test]
async fn the_native_providers_image_and_strange_levels_are_refused() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let world = World::with(surroundings, |_| {}).await;
    let provider = world.provider();
    let error = provider.check_image("host").await.unwrap_err();
    assert!(error.to_string().contains("hint: name an image"), "{error}");
    let error = provider.check_image("stacyvm/none:1").await.unwrap_err();
    assert!(matches!(error, ProviderError::NotFound(_)), "{error:?}");
    let mut remote = spec(&**provider);
    remote.isolation = Isolation::Remote;
    remote.network = NetworkMode::None;
    let error = provider.create(&remote).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unsupported(_)), "{error:?}");
    let mut large = spec(&**provider);
    large.disk_mb = Some(64);
    if !provider
        .capabilities()
        .contains(&stacyvm_provider::Capability::DiskLimit)
    {
        let error = provider.create(&large).await.unwrap_err();
        assert!(matches!(error, ProviderError::Unsupported(_)), "{error:?}");
    }
    assert_eq!(world.remains(), Vec::<String>::new());
}
