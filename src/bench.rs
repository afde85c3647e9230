//! The burn backend for JavaScript, which `cargo xtask bench` compares with the page's plan.
//!
//! A module of its own (feature `bench`), never part of the page. Like `web.rs` it is meant for a Web Worker, knows
//! JavaScript, and lets no panic cross over unless burn panics.

use wasm_bindgen::prelude::*;

use crate::burn::BurnUNet;
use crate::checkpoint::stream::WeightStream;
use crate::model::config::UNetConfig;
use crate::model::unet::UNet;
use crate::network::{ForwardInput, Network};

/// Runs when the module is loaded, so that a panic inside burn is readable.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// The network on burn-wgpu, while its weights arrive and after.
#[wasm_bindgen]
pub struct BurnModel {
    network: BurnUNet,
    stream: WeightStream,
}

#[wasm_bindgen]
impl BurnModel {
    /// A network without weights on the browser's fastest GPU; throws when there is none.
    pub async fn request(unet_config_json: &str) -> Result<BurnModel, JsError> {
        let config = UNetConfig::parse(unet_config_json)?;
        let network = BurnUNet::on_wgpu(&config).await?;
        let stream = WeightStream::new(&UNet::new(&config).parameters(), true, |_| None);
        Ok(BurnModel { network, stream })
    }

    /// Takes the next bytes of `diffusion_pytorch_model.safetensors`; complete tensors become burn's.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), JsError> {
        let Self { network, stream } = self;
        Ok(stream.push(chunk, &mut |arrival| network.load(arrival))?)
    }

    /// Ends the file of weights; throws when it was too short.
    pub fn end(&mut self) -> Result<(), JsError> {
        Ok(self.stream.end_file()?)
    }

    /// The bare network: `sample` (B × C × H × W), `timestep` (B), `class_labels` (B) if the model has classes. Resolves
    /// to B × C × H × W values.
    pub async fn forward(
        &mut self,
        sample: Vec<f32>,
        timestep: Vec<f32>,
        class_labels: Option<Vec<u32>>,
    ) -> Result<Vec<f32>, JsError> {
        let class_labels = class_labels.unwrap_or_default();
        let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &class_labels };
        Ok(self.network.forward(input).await?)
    }
}
