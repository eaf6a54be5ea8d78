//! Adds what all routes have in common to the description of each.

use serde_json::{Map, Value, json};

use super::{examples, failures};
use crate::api_key;

/// Routes below these paths look at the owner that the request names.
const OWNED: [&str; 4] = [
    "/api/v1/events",
    "/api/v1/quotas",
    "/api/v1/sandboxes",
    "/api/v1/tickets",
];

/// Adds to a description whatever does not depend on one route.
pub(super) fn complete(mut document: Value) -> Value {
    document["openapi"] = json!("3.1.0");
    document["servers"] = json!([{"url": "/"}]);
    if let Some(info) = document["info"].as_object_mut() {
        info.remove("contact");
    }
    document["components"]["responses"] = failures::components().into();
    document["components"]["securitySchemes"] = json!({
        "ApiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "Asked for when the server has a key configured.",
        },
        "Bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "The same key, for clients that send it as `Authorization: Bearer`.",
        },
    });
    document["components"]["parameters"] = parameters();
    let schemas = document["components"]["schemas"].as_object_mut();
    for (name, schema) in schemas.into_iter().flatten() {
        if let Some(example) = examples::of(name) {
            schema["examples"] = json!([example]);
        }
    }
    let schemas = document["components"]["schemas"].take();
    for (path, operations) in object(&mut document["paths"]) {
        for (_, operation) in object(operations) {
            describe(path, operation, &schemas);
        }
    }
    keep_used_tags(&mut document);
    document["components"]["schemas"] = schemas;
    sorted(document)
}

/// The parameters that many routes take.
fn parameters() -> Value {
    json!({
        "Sandbox": {
            "name": "id", "in": "path", "required": true,
            "description": "The sandbox.",
            "schema": {"$ref": "#/components/schemas/SandboxId"},
        },
        "Exec": {
            "name": "exec_id", "in": "path", "required": true,
            "description": "The command.",
            "schema": {"$ref": "#/components/schemas/ExecId"},
        },
        "User": {
            "name": "X-User-ID", "in": "header", "required": false,
            "description": "Who asks. A new sandbox belongs to them; in pool mode others' \
                sandboxes are not found.",
            "schema": {"$ref": "#/components/schemas/OwnerId"},
        },
    })
}

fn describe(path: &str, operation: &mut Value, schemas: &Value) {
    let tag = operation["tags"][0].as_str().unwrap_or_default();
    let name = operation["operationId"].as_str().unwrap_or_default();
    operation["operationId"] = format!("{tag}_{name}").into();
    let guarded = api_key::guards(path);
    operation["security"] = if guarded {
        json!([{"ApiKey": []}, {"Bearer": []}])
    } else {
        json!([])
    };
    let mut parameters = path_parameters(path, operation);
    if let Some(Value::Array(own)) = operation.get_mut("parameters") {
        parameters.append(own);
    }
    if OWNED.iter().any(|owned| path.starts_with(owned)) {
        parameters.push(json!({"$ref": "#/components/parameters/User"}));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    let common = failures::EVERYWHERE.iter();
    let common = common.chain(failures::GUARDED.iter().filter(|_| guarded));
    let responses = object(&mut operation["responses"]);
    for (status, place) in common.map(|kind| kind.entry()) {
        responses.entry(status).or_insert(place);
    }
    for response in responses.values_mut() {
        fill_examples(response, schemas);
    }
    if let Some(body) = operation.get_mut("requestBody") {
        fill_examples(body, schemas);
    }
}

/// Parameters of the path that the route has not described itself.
fn path_parameters(path: &str, operation: &Value) -> Vec<Value> {
    let own = operation["parameters"].as_array();
    let described = |name: &str| {
        own.into_iter()
            .flatten()
            .any(|parameter| parameter["in"] == "path" && parameter["name"] == name)
    };
    let names = path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(name.trim_start_matches('*'))
    });
    names
        .filter(|name| !described(name))
        .map(|name| {
            if name == "id" && path.starts_with("/api/v1/sandboxes/{id}") {
                return json!({"$ref": "#/components/parameters/Sandbox"});
            }
            if name == "exec_id" {
                return json!({"$ref": "#/components/parameters/Exec"});
            }
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
        })
        .collect()
}

/// A body without an example gets that of its type.
fn fill_examples(body: &mut Value, schemas: &Value) {
    let Some(Value::Object(content)) = body.get_mut("content") else {
        return;
    };
    for (_, media) in content {
        let has_one = media.get("example").is_some() || media.get("examples").is_some();
        if let (false, Some(example)) = (has_one, example(&media["schema"], schemas)) {
            media["example"] = example;
        }
    }
}

fn example(schema: &Value, schemas: &Value) -> Option<Value> {
    if let Some(place) = schema["$ref"].as_str() {
        let name = place.rsplit('/').next().unwrap_or_default();
        return schemas[name]["examples"].get(0).cloned();
    }
    if schema["type"] == "array" {
        return Some(Value::Array(vec![example(&schema["items"], schemas)?]));
    }
    None
}

/// A tag that no route has is of a feature that this version does not have.
fn keep_used_tags(document: &mut Value) {
    let mut used: Vec<Value> = Vec::new();
    for operation in object(&mut document["paths"])
        .values()
        .flat_map(Value::as_object)
    {
        used.extend(
            operation
                .values()
                .map(|operation| operation["tags"][0].clone()),
        );
    }
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.retain(|tag| used.contains(&tag["name"]));
    }
}

/// With the keys of every object in order, whatever kind of map serde_json was built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<(String, Value)> = object.into_iter().collect();
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            let entries = entries.into_iter();
            Value::Object(entries.map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("utoipa writes an object here")
}
