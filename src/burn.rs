//! The burn backend: the forward on burn tensors.
//!
//! Layout is burn's own (B, C, H, W). Weights are kept flat under their checkpoint names and reshaped where they are used.

use std::collections::HashMap;

use burn::tensor::module::{attention, avg_pool2d, conv2d};
use burn::tensor::ops::{AttentionModuleOptions, ConvOptions};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use crate::checkpoint::tensor::Arrival;
use crate::consistency::sampler::ConsistencyFunction;
use crate::consistency::schedule::Step;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::model::unet::{self, Conv2d, Embedding, GroupNorm, Linear, Ops, SelfAttention, UNet};
use crate::network::{self, ForwardInput, Network};

/// The U-Net on a burn device.
pub struct BurnUNet {
    config: UNetConfig,
    unet: UNet,
    device: Device,
    /// By their checkpoint names, each flat.
    weights: HashMap<String, Tensor<1>>,
}

impl BurnUNet {
    /// A network without weights on burn's CPU backend.
    #[cfg(feature = "burn")]
    pub fn on_cpu(config: &UNetConfig) -> Self {
        Self::new(config, Device::flex())
    }

    /// A network without weights on the fastest GPU, through burn-wgpu with fusion of elementwise operations.
    ///
    /// Call it once: burn keeps one such device for the life of the process.
    ///
    /// # Errors
    /// [`Error::Gpu`] when there is no adapter, it refuses a device, or the device exists already.
    #[cfg(feature = "burn-wgpu")]
    pub async fn on_wgpu(config: &UNetConfig) -> Result<Self> {
        let unusable = |e: burn_wgpu::WgpuInitError| Error::Gpu(format!("burn-wgpu: {e}"));
        let device = Device::wgpu_options().init_async().await.map_err(unusable)?;
        Ok(Self::new(config, device))
    }

    /// A network without weights on any burn device.
    pub fn new(config: &UNetConfig, device: Device) -> Self {
        let unet = UNet::new(config);
        Self { config: config.clone(), unet, device, weights: HashMap::new() }
    }
}

impl Network for BurnUNet {
    fn config(&self) -> &UNetConfig {
        &self.config
    }

    fn piece_granularity(&self, _: &str) -> Option<usize> {
        None
    }

    fn load(&mut self, arrival: Arrival<'_>) -> Result<()> {
        if let Arrival::Rows(rows) = arrival {
            let values = rows.to_f32();
            let shape = [values.len()];
            self.weights.insert(rows.name.to_owned(), Tensor::from_data(TensorData::new(values, shape), &self.device));
        }
        Ok(())
    }

    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        let batch = input.check(&self.config)?;
        let [h, w] = self.config.sample_size;
        let shape = [batch, self.config.in_channels, h, w];
        let sample = Tensor::<4>::from_data(TensorData::new(input.sample.to_vec(), shape), &self.device);
        let time = unet::time_features(&self.config, input.timestep);
        let time =
            Tensor::<2>::from_data(TensorData::new(time, [batch, self.config.block_out_channels[0]]), &self.device);
        let labels = self.config.num_class_embeds.map(|_| {
            let rows: Vec<i32> = input.class_labels.iter().map(|&l| l as i32).collect();
            Tensor::from_data(TensorData::new(rows, [batch]), &self.device)
        });
        let output = self.unet.forward(&mut BurnOps { weights: &self.weights }, &sample, &time, labels.as_ref());
        let data = output.into_data_async().await.map_err(|e| Error::Gpu(format!("burn: {e:?}")))?;
        data.try_to_vec().map_err(|e| Error::Gpu(format!("burn: {e:?}")))
    }
}

impl ConsistencyFunction for BurnUNet {
    async fn denoise(&mut self, x: &[f32], step: &Step, labels: &[u32]) -> Result<Vec<f32>> {
        network::denoise(self, x, step, labels).await
    }
}

/// The operations of the forward on burn tensors.
struct BurnOps<'a> {
    weights: &'a HashMap<String, Tensor<1>>,
}

impl BurnOps<'_> {
    fn weight<const D: usize>(&self, layer: &str, shape: [usize; D]) -> Tensor<D> {
        self.weights[&format!("{layer}.weight")].clone().reshape(shape)
    }

    fn bias(&self, layer: &str) -> Tensor<1> {
        self.weights[&format!("{layer}.bias")].clone()
    }
}

impl Ops for BurnOps<'_> {
    type Map = Tensor<4>; // (B, C, H, W)
    type Vector = Tensor<2>; // (B, N)
    type Labels = Tensor<1, Int>; // (B), classes

    fn conv2d(&mut self, x: &Tensor<4>, layer: &Conv2d) -> Tensor<4> {
        let weight = self.weight(&layer.name, [layer.output, layer.input, layer.kernel, layer.kernel]);
        let padding = (layer.padding[0], layer.padding[1]);
        let options = ConvOptions::new_with_padding([layer.stride; 2], [padding; 2], [1; 2], 1);
        conv2d(x.clone(), weight, Some(self.bias(&layer.name)), options)
    }

    fn group_norm(&mut self, x: &Tensor<4>, layer: &GroupNorm) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let grouped = x.clone().reshape([b, layer.groups, c / layer.groups * h * w]);
        let centred = grouped.clone() - grouped.mean_dim(2);
        let variance = centred.clone().powi_scalar(2).mean_dim(2);
        let normed = centred / (variance + layer.eps).sqrt();
        let (weight, bias) = (self.weight(&layer.name, [1, c, 1, 1]), self.bias(&layer.name).reshape([1, c, 1, 1]));
        normed.reshape([b, c, h, w]) * weight + bias
    }

    fn silu(&mut self, x: &Tensor<4>) -> Tensor<4> {
        activation::silu(x.clone())
    }

    fn add(&mut self, a: &Tensor<4>, b: &Tensor<4>) -> Tensor<4> {
        a.clone() + b.clone()
    }

    fn add_channels(&mut self, x: &Tensor<4>, v: &Tensor<2>) -> Tensor<4> {
        let [b, c] = v.dims();
        x.clone() + v.clone().reshape([b, c, 1, 1])
    }

    fn scale_shift(&mut self, x: &Tensor<4>, v: &Tensor<2>) -> Tensor<4> {
        let [b, c2] = v.dims();
        let half = |from: usize| v.clone().slice([0..b, from..from + c2 / 2]).reshape([b, c2 / 2, 1, 1]);
        x.clone() * (half(0) + 1.0) + half(c2 / 2)
    }

    fn concat(&mut self, a: &Tensor<4>, b: &Tensor<4>) -> Tensor<4> {
        Tensor::cat(vec![a.clone(), b.clone()], 1)
    }

    fn upsample(&mut self, x: &Tensor<4>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        x.clone().reshape([b, c, h, 1, w, 1]).expand([b, c, h, 2, w, 2]).reshape([b, c, 2 * h, 2 * w])
    }

    fn downsample(&mut self, x: &Tensor<4>) -> Tensor<4> {
        avg_pool2d(x.clone(), burn::tensor::ops::AvgPoolOptions::new([2, 2]))
    }

    fn attention(&mut self, x: &Tensor<4>, layer: &SelfAttention) -> Tensor<4> {
        let [b, _, h, w] = x.dims();
        let mut head = |linear: &Linear| {
            let x = self.pointwise(x, linear).reshape([b, layer.heads, layer.head_dim, h * w]);
            x.swap_dims(2, 3) // (B, heads, HW, head_dim)
        };
        let (q, k, v) = (head(&layer.query), head(&layer.key), head(&layer.value));
        let out = attention(q, k, v, None, None, AttentionModuleOptions::default());
        out.swap_dims(2, 3).reshape([b, layer.heads * layer.head_dim, h, w])
    }

    fn pointwise(&mut self, x: &Tensor<4>, layer: &Linear) -> Tensor<4> {
        let weight = self.weight(&layer.name, [layer.output, layer.input, 1, 1]);
        conv2d(x.clone(), weight, Some(self.bias(&layer.name)), ConvOptions::new([1; 2], [0; 2], [1; 2], 1))
    }

    fn linear(&mut self, x: &Tensor<2>, layer: &Linear) -> Tensor<2> {
        let weight = self.weight(&layer.name, [layer.output, layer.input]);
        x.clone().matmul(weight.transpose()) + self.bias(&layer.name).reshape([1, layer.output])
    }

    fn silu_vector(&mut self, x: &Tensor<2>) -> Tensor<2> {
        activation::silu(x.clone())
    }

    fn add_vector(&mut self, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
        a.clone() + b.clone()
    }

    fn embedding(&mut self, labels: &Tensor<1, Int>, layer: &Embedding) -> Tensor<2> {
        self.weight(&layer.name, [layer.rows, layer.dim]).select(0, labels.clone())
    }
}
