//! What must hold for every route.

use serde_json::Value;

use crate::routes;

fn document() -> Value {
    super::document(routes::all())
}

/// Every operation: its method and path, and what it says.
fn operations(document: &Value) -> Vec<(String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, operations)| {
        operations
            .as_object()
            .unwrap()
            .iter()
            .map(move |(method, operation)| (format!("{method} {path}"), operation.clone()))
    });
    all.collect()
}

#[test]
fn what_is_not_described_is_known() {
    let routes = routes::all();
    let paths = routes.unlisted_paths();
    let slashes = [
        "sandboxes",
        "sandboxes/{id}/execs",
        "providers",
        "images",
        "templates",
        "snapshots",
        "quotas",
        "tickets",
    ];
    let mut expected: Vec<String> = slashes.map(|name| format!("/api/v1/{name}/")).into();
    expected.extend(
        [
            "/api/v1/images/{name}/{*rest}",
            "/api/v1/templates",
            "/api/v1/templates/",
            "/api/v1/templates/{*rest}",
            "/openapi.json",
            "/docs",
            "/docs/docs.css",
            "/docs/docs.js",
            "/api/v1/docs",
        ]
        .map(str::to_owned),
    );
    assert_eq!(paths, expected);
}

#[test]
fn every_route_has_a_summary_a_group_and_a_name_of_its_own() {
    let document = document();
    let groups = document["tags"].as_array().unwrap();
    let mut names = std::collections::BTreeSet::new();
    for (route, operation) in operations(&document) {
        assert!(operation["summary"].is_string(), "{route}");
        let group = &operation["tags"][0];
        assert!(groups.iter().any(|tag| tag["name"] == *group), "{route}");
        let name = operation["operationId"].as_str().unwrap().to_owned();
        assert!(names.insert(name), "{route}");
    }
    assert!(names.len() > 25, "{names:?}");
}

#[test]
fn every_body_has_an_example() {
    let document = document();
    let complete = |route: &str, body: &Value| {
        let Some(content) = body["content"].as_object() else {
            return;
        };
        for (kind, media) in content {
            let named = media.get("example").is_some() || media.get("examples").is_some();
            assert!(named, "{route}: {kind} needs a line in openapi/examples.rs");
        }
    };
    for (route, operation) in operations(&document) {
        complete(&route, &operation["requestBody"]);
        for (status, response) in operation["responses"].as_object().unwrap() {
            complete(&format!("{route} {status}"), response);
        }
    }
    for (name, response) in document["components"]["responses"].as_object().unwrap() {
        complete(name, response);
    }
}

#[test]
fn every_failure_has_its_code_and_no_success_has_one() {
    let document = document();
    let codes = &document["components"]["schemas"]["ErrorCode"]["enum"];
    for (route, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let Some(place) = response["$ref"].as_str() else {
                continue;
            };
            let name = place.rsplit('/').next().unwrap();
            let response = &document["components"]["responses"][name];
            let media = &response["content"]["application/json"];
            let code = &media["schema"]["properties"]["code"]["const"];
            assert!(codes.as_array().unwrap().contains(code), "{route} {status}");
            assert_eq!(&media["example"]["code"], code, "{route} {status}");
        }
        assert!(operation["responses"].get("400").is_some(), "{route}");
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let has_code = schema["properties"].get("code").is_some();
        assert_eq!(has_code, name == "ApiError", "{name}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value, seen: &mut usize) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(place)) = object.get("$ref") {
                    let pointer = place.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{place}");
                    *seen += 1;
                }
                object
                    .values()
                    .for_each(|value| walk(document, value, seen));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(document, value, seen)),
            _ => {}
        }
    }
    let (document, mut seen) = (document(), 0);
    walk(&document, &document, &mut seen);
    assert!(seen > 100, "{seen}");
}

#[test]
fn the_key_is_asked_for_where_authentication_asks() {
    for (route, operation) in operations(&document()) {
        let open = route.ends_with("/live") || route.ends_with("/ready");
        let asked = operation["security"].as_array().unwrap().len();
        // Either of two ways to send it.
        assert_eq!(asked, if open { 0 } else { 2 }, "{route}");
        let refused = operation["responses"].get("401").is_some();
        assert_eq!(refused, !open, "{route}");
    }
}
