//! JSON by the browser's own parser.

use js_sys::{Array, Function, JSON, Object, Reflect};
use wasm_bindgen::prelude::*;

use crate::json::Value;

/// How deep values may lie in one another; parsers in Rust stop there, too.
const DEPTH: usize = 128;

/// Parses a document of UTF-8 text.
///
/// # Errors
/// What the parser says, in one line.
pub(crate) fn parse(json: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(json).map_err(|_| "it is not UTF-8 text")?;
    let value = JSON::parse(text).map_err(|e| super::message(&e))?;
    own(&value, DEPTH)
}

fn own(value: &JsValue, depth: usize) -> Result<Value, String> {
    if depth == 0 {
        return Err(format!("more than {DEPTH} values lie in one another"));
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

/// A number as people write it.
pub(crate) fn number(n: f64) -> String {
    text(&n.into())
}

/// A value as JavaScript's `String(value)` writes it.
pub(super) fn text(value: &JsValue) -> String {
    let string = Reflect::get(&js_sys::global(), &"String".into()).unwrap_or_default().unchecked_into::<Function>();
    // It throws for an object whose own conversion throws.
    let text = string.call1(&JsValue::NULL, value).ok().and_then(|text| text.as_string());
    text.unwrap_or_else(|| "an object".to_owned())
}
