//! The JSON Schema of the configuration file.

use serde_json::{Map, Value, json};

use super::{raw::Document, read::Read as _};

/// The schema, of the 2020-12 dialect. It says the file's shape; what concerns several values together (names that
/// must exist, families that must agree) only [`parse`](super::parse) knows.
pub fn schema() -> Value {
    let mut definitions = Map::new();
    let root = Document::schema(&mut definitions);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Portside configuration",
        "$defs": definitions,
    });
    if let (Some(schema), Some(root)) = (schema.as_object_mut(), root.as_object()) {
        schema.extend(root.clone());
    }
    schema
}
