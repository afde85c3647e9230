//! JSON documents. A browser parses them itself, which spares the page a parser; elsewhere serde_json does.

use std::fmt;

#[cfg(all(feature = "javascript", target_arch = "wasm32"))]
pub(crate) use crate::web::json::{number, parse};

/// A JSON value. Numbers are f64, as in JavaScript: sizes and offsets are exact up to 2⁵³.
#[derive(Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    Array(Vec<Value>),
    /// In the order of the document, or sorted; every key once.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The value of a key; nothing where there is none, or no object.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number(n) => Some(*n),
            _ => None,
        }
    }

    /// A number without fraction, from 0.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        self.as_f64().filter(|n| n.fract() == 0.0 && (0.0..1.8e19).contains(n)).map(|n| n as u64)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }
}

/// As JSON, for messages: what people need to find the value again, so not every character is escaped.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => f.write_str(if *b { "true" } else { "false" }),
            Value::Number(n) => f.write_str(&number(*n)),
            Value::String(s) => write!(f, "\"{s}\""),
            Value::Array(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Object(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}\"{key}\":{value}", if i > 0 { "," } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

/// A number as people write it. The page's code formats floats by this alone: `{}` would bring 20 KB with it.
#[cfg(not(all(feature = "javascript", target_arch = "wasm32")))]
pub(crate) fn number(n: f64) -> String {
    n.to_string()
}

/// Parses a document of UTF-8 text.
///
/// # Errors
/// What the parser says, in one line.
#[cfg(not(all(feature = "javascript", target_arch = "wasm32")))]
pub(crate) fn parse(json: &[u8]) -> Result<Value, String> {
    use serde_json::Value as Parsed;

    fn own(value: Parsed) -> Value {
        match value {
            Parsed::Null => Value::Null,
            Parsed::Bool(b) => Value::Bool(b),
            // Every number that serde_json takes without its feature "arbitrary_precision" is one of f64's range.
            Parsed::Number(n) => Value::Number(n.as_f64().unwrap_or(f64::NAN)),
            Parsed::String(s) => Value::String(s),
            Parsed::Array(values) => Value::Array(values.into_iter().map(own).collect()),
            Parsed::Object(map) => Value::Object(map.into_iter().map(|(key, value)| (key, own(value))).collect()),
        }
    }

    serde_json::from_slice(json).map(own).map_err(|e| e.to_string())
}
