//! JSON Schemas of both files, for editors: made from the same tables that the files are checked against.

use serde_json::{Map, Value, json};

use super::keys::{BUILD_YML, PKGBUILD_YML};
use super::shape::{Field, Shape};

/// Returns the schema of `build.yml` (JSON Schema, draft 2020-12).
pub fn build_yml() -> Value {
    let mut schema = document("build.yml", "A package of pkgbuild or linuxkit", BUILD_YML);
    schema["required"] = json!(["image"]);
    schema["not"] = json!({"required": ["arches", "platforms"]});
    narrow(&mut schema["properties"]);
    schema["properties"]["image"] = json!({
        "description": schema["properties"]["image"]["description"].clone(),
        "anyOf": [{"type": "string", "minLength": 1}, {"type": ["number", "boolean"]}],
    });
    schema
}

/// Returns the schema of `pkgbuild.yml` (JSON Schema, draft 2020-12).
pub fn pkgbuild_yml() -> Value {
    let mut schema = document("pkgbuild.yml", "A workspace of pkgbuild", PKGBUILD_YML);
    let defaults = &mut schema["properties"]["defaults"];
    narrow(&mut defaults["properties"]);
    if let Some(properties) = defaults["properties"].as_object_mut() {
        properties.remove("image");
    }
    schema["properties"]["registries"]["additionalProperties"]["properties"]["mirror"]["anyOf"] = {
        let url = json!({"type": "string", "pattern": "^https?://"});
        json!([url, {"type": "array", "items": url}, {"type": "null"}])
    };
    schema
}

fn document(name: &str, title: &str, fields: &'static [Field]) -> Value {
    let Value::Object(record) = of(&Shape::Record(fields)) else { return Value::Null };
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("$id".to_owned(), json!(format!("{name}.schema.json")));
    schema.insert("title".to_owned(), json!(title));
    schema.extend(record);
    schema["type"] = json!("object");
    Value::Object(schema)
}

/// Adds the forms of texts that the tables do not hold.
fn narrow(properties: &mut Value) {
    for (key, pattern) in [("extra-sources", "^[^:]*:[^:]*$"), ("buildArgs", "^[^=]+="), ("arches", "^[A-Za-z0-9_]+$")] {
        properties[key]["items"] = json!({"type": "string", "pattern": pattern});
    }
    let part = "[A-Za-z0-9_.-]+";
    properties["platforms"]["items"] = json!({"type": "string", "pattern": format!("^{part}(/{part}){{0,2}}$")});
}

fn of(shape: &Shape) -> Value {
    match shape {
        Shape::Text => json!({"type": ["string", "number", "boolean", "null"]}),
        Shape::Word(words) => json!({"enum": words.iter().map(|word| json!(word)).chain([Value::Null]).collect::<Vec<_>>()}),
        // Editors read YAML 1.2, where the words of YAML 1.1 are text.
        Shape::Bool => json!({"anyOf": [{"type": ["boolean", "null"]},
            {"enum": ["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF"]}]}),
        Shape::Integer(low, high) => json!({"type": ["integer", "null"], "minimum": number(*low), "maximum": number(*high)}),
        Shape::Any => json!({}),
        Shape::List(item) => json!({"type": ["array", "null"], "items": of(item)}),
        Shape::Map(value) => json!({"type": ["object", "null"], "additionalProperties": of(value)}),
        Shape::OneOrMore(item) => json!({"anyOf": [of(item), {"type": "array", "items": of(item)}]}),
        Shape::Record(fields) => {
            let mut properties = Map::new();
            for field in *fields {
                let mut property = of(&field.shape);
                if !field.doc.is_empty() {
                    property["description"] = json!(field.doc);
                }
                properties.insert(field.key.to_owned(), property);
            }
            json!({"type": ["object", "null"], "properties": properties, "additionalProperties": false})
        }
    }
}

fn number(number: i128) -> Value {
    i64::try_from(number).map(Value::from).or_else(|_| u64::try_from(number).map(Value::from)).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Fails when the files in `docs/schemas` are not what the tables say; `UPDATE_SCHEMAS=1` writes them.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "how a developer asks for new files")]
    fn the_published_schemas_are_those_of_the_tables() {
        for (name, schema) in [("build.yml", build_yml()), ("pkgbuild.yml", pkgbuild_yml())] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schemas/{name}.schema.json"));
            let text = serde_json::to_string_pretty(&schema).expect("serializes") + "\n";
            if std::env::var_os("UPDATE_SCHEMAS").is_some() {
                fs_err::create_dir_all(path.parent().expect("has one")).expect("creates");
                fs_err::write(&path, &text).expect("writes");
            }
            assert_eq!(fs_err::read_to_string(&path).expect("published"), text, "{name}");
        }
    }
}
