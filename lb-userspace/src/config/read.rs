//! From the tree to the file's shape. A shape is written down once and gives both the reader and the JSON Schema,
//! so that the two cannot disagree.

use serde_json::{Map, json};

use super::{
    fault::{Collector, Place, quoted, short, suggestion},
    tree::{Node, Value},
};

/// The JSON Schema's `$defs`.
pub(super) type Definitions = Map<String, serde_json::Value>;

/// A value with its place, kept for the checks that look at several values together.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What can be read from a node.
pub(super) trait Read: Sized {
    /// Reads the node; collects each fault, and gives `None` only if there was one.
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self>;

    /// The schema of what [`Read::read`] accepts.
    fn schema(definitions: &mut Definitions) -> serde_json::Value;
}

/// A value without parts.
pub(super) trait Scalar: Sized {
    /// Reads the value, or says what is wrong with it and what would be right.
    fn scan(value: &Value) -> Result<Self, String>;

    /// The schema of what [`Scalar::scan`] accepts.
    fn schema() -> serde_json::Value;
}

impl<T: Scalar> Read for T {
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self> {
        T::scan(&node.value).map_err(|message| faults.fault(place, message)).ok()
    }

    fn schema(_: &mut Definitions) -> serde_json::Value {
        <T as Scalar>::schema()
    }
}

/// A list; an element that cannot be read is left out, having been reported. If none can, neither can the list: it
/// must not look empty.
impl<T: Read> Read for Vec<At<T>> {
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self> {
        let Value::List(nodes) = &node.value else {
            faults.fault(place, format!("is {}; give a list", node.value.kind()));
            return None;
        };
        let read = |(index, node): (usize, &Node)| {
            let path = format!("{}[{index}]", place.path);
            read_at(node, Place { line: node.line, column: node.column, path }, faults)
        };
        let read: Vec<_> = nodes.iter().enumerate().filter_map(read).collect();
        (nodes.is_empty() || !read.is_empty()).then_some(read)
    }

    fn schema(definitions: &mut Definitions) -> serde_json::Value {
        json!({ "type": "array", "items": T::schema(definitions) })
    }
}

/// A map whose keys the file chooses, in the file's order. A value that could not be read is `None`, so that its key
/// is still known.
#[derive(Debug)]
pub(super) struct Dictionary<K, V>(pub(super) Vec<(At<K>, Option<At<V>>)>);

impl<K: Scalar, V: Read> Read for Dictionary<K, V> {
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self> {
        let mut read = Vec::new();
        for entry in entries(node, place, faults)? {
            let key = K::scan(&Value::Text(entry.key.to_owned()))
                .map_err(|message| faults.fault(&entry.key_place, message))
                .ok();
            let value = read_at(entry.node, entry.place, faults);
            if let Some(key) = key {
                read.push((At { value: key, place: entry.key_place }, value));
            }
        }
        Some(Self(read))
    }

    fn schema(definitions: &mut Definitions) -> serde_json::Value {
        json!({
            "type": "object",
            "propertyNames": K::schema(),
            "additionalProperties": V::schema(definitions),
        })
    }
}

/// One key of a map with its value.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) key_place: Place,
    pub(super) node: &'a Node,
    pub(super) place: Place,
}

/// A map's entries; repeated keys and keys that are no text are reported and left out.
pub(super) fn entries<'a>(node: &'a Node, place: &Place, faults: &mut Collector) -> Option<Vec<Entry<'a>>> {
    let Value::Map(pairs) = &node.value else {
        faults.fault(place, format!("is {}; give a map of keys to values", node.value.kind()));
        return None;
    };
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut lines = std::collections::HashMap::new();
    for (key, node) in pairs {
        let at = |path: String, node: &Node| Place { line: node.line, column: node.column, path };
        let Value::Text(text) = &key.value else {
            let message = format!("has {} for a key; keys are text: put it in quotes", key.value.kind());
            faults.fault(&at(place.path.clone(), key), message);
            continue;
        };
        let shown = short(text);
        let path = if place.path.is_empty() { shown } else { format!("{}.{shown}", place.path) };
        if let Some(line) = lines.insert(text.as_str(), key.line) {
            faults.fault(&at(path, key), format!("is given twice, first in line {line}; remove one"));
            continue;
        }
        entries.push(Entry { key: text, key_place: at(path.clone(), key), node, place: at(path, node) });
    }
    Some(entries)
}

/// Takes a record's key from its entries.
pub(super) fn field<T: Read>(
    entries: &[Entry<'_>],
    key: &str,
    required: bool,
    record: &Place,
    faults: &mut Collector,
) -> Option<At<T>> {
    match entries.iter().find(|entry| entry.key == key) {
        Some(entry) => read_at(entry.node, entry.place.clone(), faults),
        None => {
            if required {
                faults.fault(record, format!("`{key}` is missing"));
            }
            None
        }
    }
}

/// Reports the keys that a record does not have.
pub(super) fn unknown_keys(entries: &[Entry<'_>], known: &[&str], faults: &mut Collector) {
    for entry in entries.iter().filter(|entry| !known.contains(&entry.key)) {
        let mut near = suggestion(entry.key, known.iter().copied());
        if near.is_empty() {
            near = match known {
                [] => "; there is nothing to set here".to_owned(),
                known => format!("; known are {}", known.join(", ")),
            };
        }
        faults.fault(&entry.key_place, format!("there is no such key{near}"));
    }
}

fn read_at<T: Read>(node: &Node, place: Place, faults: &mut Collector) -> Option<At<T>> {
    if node.value == Value::Null {
        faults.fault(&place, "has no value; give one, or leave the key out");
        return None;
    }
    let value = T::read(node, &place, faults)?;
    Some(At { value, place })
}

/// What a value that is not `what` is told; `form` completes "give …".
pub(super) fn wants(what: &str, form: &str, value: &Value) -> String {
    match value {
        Value::Integer(number) => format!("{number} is a number; put it in quotes to make it text"),
        Value::Float(number) => format!("{number} is a number; put it in quotes to make it text"),
        Value::Bool(truth) => format!("{truth} is a truth value; put it in quotes to make it text"),
        Value::Text(text) => format!("{} is no {what}; give {form}", quoted(text)),
        other => format!("is {} and no {what}; give {form}", other.kind()),
    }
}

/// A record's key, whether it is required, and the schema of its value.
pub(super) type Field = (&'static str, bool, serde_json::Value);

/// A record's schema.
pub(super) fn record_schema(fields: Vec<Field>, docs: &[&str]) -> serde_json::Value {
    let required: Vec<&str> =
        fields.iter().filter(|(_, required, _)| *required).map(|(key, _, _)| *key).collect();
    let properties: Map<_, _> = fields.into_iter().map(|(key, _, schema)| (key.to_owned(), schema)).collect();
    let schema = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    described(schema, docs)
}

/// A schema with the documentation's text.
pub(super) fn described(mut schema: serde_json::Value, docs: &[&str]) -> serde_json::Value {
    if let Some(object) = schema.as_object_mut() {
        let text = docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        object.insert("description".to_owned(), text.into());
    }
    schema
}

/// Declares a record: a map with known keys. Each key is `required` or `optional`; all are `Option` in the struct,
/// since what is missing or faulty has been reported and must not hide other faults.
macro_rules! record {
    (
        $(#[doc = $about:literal])+
        $name:ident { $( $(#[doc = $doc:literal])+ $presence:ident $field:ident: $type:ty, )* }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug)]
        pub(super) struct $name { $( $(#[doc = $doc])+ pub(super) $field: Option<At<$type>>, )* }

        impl Read for $name {
            fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self> {
                let entries = $crate::config::read::entries(node, place, faults)?;
                $crate::config::read::unknown_keys(&entries, &[$(stringify!($field)),*], faults);
                Some(Self { $(
                    $field: $crate::config::read::field(
                        &entries, stringify!($field), record!(@is $presence), place, faults,
                    ),
                )* })
            }

            fn schema(definitions: &mut Definitions) -> serde_json::Value {
                if !definitions.contains_key(stringify!($name)) {
                    let fields: Vec<$crate::config::read::Field> = vec![ $( (
                        stringify!($field),
                        record!(@is $presence),
                        $crate::config::read::described(<$type as Read>::schema(definitions), &[$($doc),+]),
                    ), )* ];
                    let schema = $crate::config::read::record_schema(fields, &[$($about),+]);
                    definitions.insert(stringify!($name).to_owned(), schema);
                }
                serde_json::json!({ "$ref": concat!("#/$defs/", stringify!($name)) })
            }
        }
    };
    (@is required) => { true };
    (@is optional) => { false };
}
pub(super) use record;
