//! The user, directory and variables of commands, as image and spawn set them.

use stacyvm_provider::conformance::{Sandbox, spec};
use stacyvm_provider::prelude::*;
use stacyvm_provider::{BoxSpec, ProviderError};

use crate::support::{Image, Surroundings, World};

async fn make(world: &World, change: impl FnOnce(&mut BoxSpec)) -> Result<Sandbox, ProviderError> {
    let mut spec = spec(&**world.provider());
    change(&mut spec);
    let ops = world.provider().create(&spec).await?;
    Ok(Sandbox { id: spec.id, ops })
}

#[tokio::test]
async fn an_image_says_who_runs_where_and_with_what() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let image = Image::derived(
        &surroundings,
        &[
            "USER games",
            "WORKDIR /usr/share",
            "ENV FROM_IMAGE=yes",
            "ENTRYPOINT [\"/bin/false\"]",
        ],
    );
    let world = World::with(surroundings, |settings| {
        settings.default_image = image.name.clone();
    })
    .await;
    let sandbox = make(&world, |_| {}).await.unwrap();
    let said = sandbox.say("id -un; pwd; echo $FROM_IMAGE").await.unwrap();
    assert_eq!(said, "games\n/usr/share\nyes");
    let again = make(&world, |spec| {
        spec.user = Some("root".to_owned());
        spec.workdir = Some("/tmp".to_owned());
        spec.env.insert("FROM_IMAGE".to_owned(), "no".to_owned());
    });
    let again = again.await.unwrap();
    let said = again.say("id -u; pwd; echo $FROM_IMAGE").await.unwrap();
    assert_eq!(said, "0\n/tmp\nno");
    for sandbox in [sandbox, again] {
        world.provider().destroy(&sandbox.id).await.unwrap();
    }
    assert_eq!(world.remains(), Vec::<String>::new());
}

#[tokio::test]
async fn without_a_word_it_is_user_1000_who_owns_the_workspace() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let world = World::with(surroundings, |_| {}).await;
    let sandbox = make(&world, |_| {}).await.unwrap();
    let said = sandbox.say("id -u; id -un; pwd; stat -c %u:%g /workspace");
    assert_eq!(said.await.unwrap(), "1000\nuser\n/workspace\n1000:1000");
    world.provider().destroy(&sandbox.id).await.unwrap();
}

#[tokio::test]
async fn a_user_that_is_not_in_the_image_is_named_and_leaves_nothing() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let image = Image::derived(&surroundings, &["USER nobody-knows"]);
    let world = World::with(surroundings, |_| {}).await;
    let by_spawn = make(&world, |spec| spec.user = Some("stranger".to_owned())).await;
    let by_image = make(&world, |spec| spec.image = image.name.clone()).await;
    for (refused, hint) in [
        (by_spawn, "\"stranger\" does not exist"),
        (by_image, "name a user in the request"),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, ProviderError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(hint), "{error}");
    }
    assert_eq!(world.remains(), Vec::<String>::new());
}
