//! The text as a tree of values that know their place. Nothing is judged here but the syntax, so that one run
//! can report every fault above it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    DuplicateKeyPolicy, Error, Location, MessageFormatter as _, Spanned, UserMessageFormatter,
    budget::BudgetBreach,
};

use super::fault::{Collector, Place};

/// Longest text accepted, in bytes.
pub const MAX_TEXT: usize = 16 << 20;
/// Deepest nesting accepted; the schema's own is 7. It bounds the stack that reading takes.
const MAX_DEPTH: usize = 32;
/// Most values accepted in one text.
const MAX_NODES: usize = 2_000_000;
/// Most parser events that aliases may repeat: nested aliases multiply.
const MAX_REPEATED: usize = 100_000;

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) value: Value,
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the text's order, repeated keys included.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// What a message calls such a value.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// Reads the text's one document; a fault of the syntax is collected and ends the reading.
pub(super) fn parse(text: &str, faults: &mut Collector) -> Option<Node> {
    let start = Place { line: 1, column: 1, path: String::new() };
    if text.len() > MAX_TEXT {
        faults.fault(
            &start,
            format!("{} bytes are too long; a configuration has at most {MAX_TEXT}", text.len()),
        );
        return None;
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPEATED },
        emit_comments: false,
        reject_unsupported_tags: true,
        // Repeated keys are reported by the reader, together with all else.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `yes`, `no`, `on`, `off` are text: a zone may be called `no`.
        strict_booleans: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(node) => Some(node),
        Err(error) => {
            let place = error.location().map_or(start, place_of);
            faults.fault(&place, syntax_message(&error));
            None
        }
    }
}

fn syntax_message(error: &Error) -> String {
    match error.without_snippet() {
        Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            "a second document begins here; give one".to_owned()
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("this is nested more than {MAX_DEPTH} deep; no configuration needs that")
        }
        Error::AliasError { error, .. } => syntax_message(error),
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } => {
            "this has too many parts; no configuration needs so many".to_owned()
        }
        error => format!("this is no valid YAML: {}", UserMessageFormatter.format_message(error)),
    }
}

fn place_of(at: Location) -> Place {
    let saturate = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: saturate(at.line()).max(1), column: saturate(at.column()).max(1), path: String::new() }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let Place { line, column, .. } = place_of(spanned.referenced);
        Ok(Self { line, column, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Float(f64::INFINITY), Value::Integer))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
