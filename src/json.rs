//! JSON documents and numbers in messages: by serde_json, or in the page's module by the browser, which saves 25 KB of it.

use std::fmt;

#[cfg(all(feature = "javascript", target_arch = "wasm32"))]
pub(crate) use browser::{number, parse};
#[cfg(not(all(feature = "javascript", target_arch = "wasm32")))]
pub(crate) use native::{number, parse};

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

/// As JSON for messages. Not every character is escaped.
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

/// By the standard library and serde_json.
#[cfg(not(all(feature = "javascript", target_arch = "wasm32")))]
mod native {
    use serde_json::Value as Parsed;

    use super::Value;

    /// A number for people.
    pub(crate) fn number(n: f64) -> String {
        n.to_string()
    }

    /// Parses a document of UTF-8 text.
    ///
    /// # Errors
    /// The parser's message, in one line.
    pub(crate) fn parse(json: &[u8]) -> Result<Value, String> {
        serde_json::from_slice(json).map(own).map_err(|e| e.to_string())
    }

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
}

/// By the browser.
#[cfg(all(feature = "javascript", target_arch = "wasm32"))]
mod browser {
    use js_sys::{Array, JSON, Number, Object};
    use wasm_bindgen::{JsCast, JsValue};

    use super::Value;
    use crate::error::collapse_whitespace;

    /// How deep values may be nested; serde_json has the same limit.
    const MAX_NESTING: usize = 128;

    /// A number for people. The page's module formats floats by this alone: `{}` would add 20 KB to it.
    pub(crate) fn number(n: f64) -> String {
        Number::from(n).to_string_with_radix(10).map_or_else(|_| String::new(), String::from) // 10 is a valid radix
    }

    /// Parses a document of UTF-8 text.
    ///
    /// # Errors
    /// The parser's message, in one line.
    pub(crate) fn parse(json: &[u8]) -> Result<Value, String> {
        let text = std::str::from_utf8(json).map_err(|_| "it is not UTF-8 text")?;
        let message = |e: JsValue| {
            let error = e.dyn_into::<js_sys::Error>();
            error.map_or_else(|_| String::new(), |e| collapse_whitespace(&String::from(e.message())))
        };
        let value = JSON::parse(text).map_err(message)?;
        own(&value, MAX_NESTING)
    }

    fn own(value: &JsValue, depth: usize) -> Result<Value, String> {
        if depth == 0 {
            return Err(format!("expected values nested at most {MAX_NESTING} deep, found more"));
        }
        Ok(if value.is_null() {
            Value::Null
        } else if let Some(b) = value.as_bool() {
            Value::Bool(b)
        } else if let Some(n) = value.as_f64() {
            Value::Number(n)
        } else if let Some(s) = value.as_string() {
            Value::String(s)
        } else if Array::is_array(value) {
            let values: &Array = value.unchecked_ref();
            Value::Array(values.iter().map(|v| own(&v, depth - 1)).collect::<Result<_, _>>()?)
        } else {
            let entries = Object::entries(value.unchecked_ref());
            let entry = |pair: JsValue| {
                let pair: Array = pair.unchecked_into();
                Ok((pair.get(0).as_string().unwrap_or_default(), own(&pair.get(1), depth - 1)?))
            };
            Value::Object(entries.iter().map(entry).collect::<Result<_, String>>()?)
        })
    }
}
