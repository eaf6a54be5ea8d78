//! The table of routes. Every route is here, so that the whole API is seen at once.

mod archive;
mod description;
mod events;
mod exec;
mod exec_ws;
mod execs;
mod files;
mod images;
mod metrics;
mod network;
mod preview;
mod providers;
mod pulls;
mod quotas;
mod sandboxes;
mod system;
mod templates;
mod tickets;

use axum::routing::{any, get, post};
use utoipa_axum::routes;

use crate::openapi::routes::Routes;

/// Every route. What is not described here stands in `unlisted`, with the reason.
pub(crate) fn all() -> Routes {
    let described = Routes::new()
        .collection(routes!(sandboxes::list, sandboxes::spawn, sandboxes::prune))
        .add(routes!(sandboxes::admission))
        .add(routes!(sandboxes::get, sandboxes::destroy))
        .add(routes!(sandboxes::extend))
        .add(routes!(sandboxes::stats))
        .add(routes!(network::get, network::set))
        .add(routes!(preview::link))
        .add(routes!(sandboxes::logs))
        .add(routes!(exec::run))
        .add(routes!(exec_ws::open))
        .collection(routes!(execs::list))
        .add(routes!(execs::get, execs::kill))
        .add(routes!(execs::attach))
        .add(routes!(execs::stdin))
        .add(routes!(execs::signal))
        .add(routes!(execs::resize))
        .add(routes!(execs::wait, execs::wait_posted))
        .add(routes!(files::read, files::write, files::remove))
        .add(routes!(files::list))
        .add(routes!(files::rename))
        .add(routes!(files::chmod))
        .add(routes!(files::stat))
        .add(routes!(files::glob))
        .add(routes!(files::mkdir))
        .add(routes!(archive::read, archive::write))
        .add(routes!(events::follow))
        .collection(routes!(providers::list))
        .add(routes!(providers::test))
        .add(routes!(providers::get))
        .collection(routes!(images::list))
        .add(routes!(pulls::pull))
        .add(routes!(images::load))
        .add(routes!(images::save))
        .add(routes!(images::tag))
        .add(routes!(images::prune))
        .add(routes!(images::inspect, images::remove))
        .collection(routes!(templates::list))
        .add(routes!(system::pool))
        .collection(routes!(system::snapshots))
        .collection(routes!(quotas::list, quotas::create))
        .add(routes!(quotas::summary))
        .add(routes!(quotas::get, quotas::set, quotas::delete))
        .collection(routes!(tickets::issue))
        .add(routes!(system::health))
        .add(routes!(system::live))
        .add(routes!(system::ready))
        .add(routes!(metrics::json))
        .add(routes!(metrics::prometheus))
        .add(routes!(description::document));
    unlisted(described)
}

fn unlisted(routes: Routes) -> Routes {
    const LATER: &str = "not part of this version";
    const PAGE: &str = "for people, not for clients";
    let refuse = || post(templates::refuse);
    let image = get(images::inspect).delete(images::remove);
    routes
        .unlisted(
            "/api/v1/images/{name}/{*rest}",
            image,
            "the same with slashes that are not escaped",
        )
        .unlisted("/api/v1/templates", refuse(), LATER)
        .unlisted("/api/v1/templates/", refuse(), LATER)
        .unlisted("/api/v1/templates/{*rest}", any(templates::refuse), LATER)
        .unlisted(
            "/openapi.json",
            get(description::document),
            "the same without a key",
        )
        .unlisted("/docs", get(description::page), PAGE)
        .unlisted("/docs/docs.css", get(description::style), PAGE)
        .unlisted("/docs/docs.js", get(description::script), PAGE)
        .unlisted("/api/v1/docs", get(description::to_page), PAGE)
}
