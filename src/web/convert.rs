//! A model at another precision, for a page that saves it: the file that `consistency-sampler convert` writes.

use js_sys::{Function, Uint8Array};
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;

use super::{JsResult, hexadecimal, to_js};
use crate::checkpoint::encode::Encoder;
use crate::checkpoint::stream::WeightStream;
use crate::checkpoint::tensor::{Arrival, Precision};
use crate::error::Error;
use crate::model::config::UNetConfig;
use crate::model::unet::UNet;

/// A file of weights that is being made from another one, or from several.
#[wasm_bindgen]
pub struct Converter {
    stream: WeightStream,
    hash: Sha256,
    encoder: Encoder,
}

#[wasm_bindgen]
impl Converter {
    /// Converts to `precision`, "f16" or "int8", from one file if `single_file`, else from several.
    #[wasm_bindgen(constructor)]
    pub fn new(unet_config_json: &str, precision: &str, single_file: bool) -> JsResult<Converter> {
        let precision = match precision {
            "f16" => Precision::F16,
            "int8" => Precision::I8,
            other => return Err(to_js(Error::Input(format!("precision: expected f16 or int8, found {other}")))),
        };
        let parameters = UNet::new(&UNetConfig::parse(unet_config_json).map_err(to_js)?).parameters();
        let stream = WeightStream::new(&parameters, single_file, |_| Some(1));
        Ok(Converter { stream, hash: Sha256::new(), encoder: Encoder::new(parameters, precision) })
    }

    /// Length of the file that is made, in bytes.
    pub fn length(&self) -> f64 {
        self.encoder.length() as f64
    }

    /// Takes the next bytes of the current safetensors file. `put` is called with a position (number) and bytes (Uint8Array)
    /// of the file that is made, for each piece that they complete.
    pub fn push(&mut self, chunk: &[u8], put: &Function) -> JsResult<()> {
        self.hash.update(chunk);
        let encoder = &mut self.encoder;
        let mut put = |at: u64, bytes: &[u8]| {
            let called = put.call2(&JsValue::NULL, &(at as f64).into(), &Uint8Array::from(bytes));
            called.map(drop).map_err(|_| Error::Io("the piece cannot be written".into()))
        };
        let mut sink = |arrival: Arrival<'_>| match arrival {
            Arrival::Announced { .. } => Ok(()),
            Arrival::Rows(rows) => encoder.rows(rows.name, rows.first, &rows.to_f32(), &mut put),
        };
        self.stream.push(chunk, &mut sink).map_err(to_js)
    }

    /// Ends the current file and returns its SHA-256 in hexadecimal; throws when the file was too short.
    #[wasm_bindgen(js_name = endFile)]
    pub fn end_file(&mut self) -> JsResult<String> {
        self.stream.end_file().map_err(to_js)?;
        Ok(hexadecimal(&self.hash.finalize_reset()))
    }

    /// The first bytes of the file that is made; throws when a tensor did not come.
    pub fn finish(self) -> JsResult<Vec<u8>> {
        self.stream.finish().map_err(to_js)?;
        Ok(self.encoder.finish().header)
    }
}

/// SHA-256 of bytes that come in parts.
#[wasm_bindgen]
#[derive(Default)]
pub struct Hasher(Sha256);

#[wasm_bindgen]
impl Hasher {
    /// The hash of nothing yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Hasher {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in hexadecimal.
    pub fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}
