//! A short trial that chooses the kernels of a device.
//!
//! The register kernels, which tests compare with diffusers, are the reference: a candidate must give their result on the
//! device. Where the first probe takes long, the device is slow in everything, compiling included: the trial ends and the
//! register kernels stay.

use super::device::Gpu;
use super::graph::Graph;
use super::network::GpuUNet;
use super::plan::LaunchTime;
use super::program::{Choice, Products, Tile};
use crate::checkpoint::tensor::{Arrival, Rows, f32_bytes};
use crate::consistency::rng::Generator;
use crate::error::Result;
use crate::model::config::UNetConfig;
use crate::model::unet::{Conv2d, Ops};
use crate::network::{ForwardInput, Network};

/// The candidates: tiles of 128 pixels × 128 channels, 64 × 64, 32 × 64.
pub(super) const TILES: [Tile; 3] = [
    Tile { across: 16, down: 16, rows: 8, vectors: 2 },
    Tile { across: 16, down: 16, rows: 4, vectors: 1 },
    Tile { across: 16, down: 8, rows: 4, vectors: 1 },
];

/// The probe (a 3×3 convolution, 64 to 64 channels, 32² pixels: 75 MFLOP) takes longer on a device that is too slow for
/// a trial to pay.
const SLOW_NANOSECONDS: f64 = 4e6;

/// Samples of the probes that stand for launches with few outputs and with many.
const BATCHES: [usize; 2] = [1, 16];

/// How far a candidate may be from the register kernels, relative to the largest output: f32 sums in another order.
const TOLERANCE: f32 = 1e-4;

/// The device with the fastest kernels that compute correctly on it; those that run everywhere when the trial fails.
///
/// # Errors
/// [`crate::Error::Gpu`] when the device was lost.
pub(super) async fn tuned(mut gpu: Gpu) -> Result<Gpu> {
    match choose(&gpu).await {
        Ok(choice) => gpu.choice = choice,
        Err(error) if !gpu.clear_errors() => return Err(error),
        Err(_) => {}
    }
    Ok(gpu)
}

async fn choose(gpu: &Gpu) -> Result<Choice> {
    if !gpu.has_timestamps() {
        return Ok(Choice::SAFE);
    }
    if probe(gpu, Products::Registers, 1, 1).await? > SLOW_NANOSECONDS {
        return Ok(Choice::SAFE);
    }
    let expected = check(gpu, Products::Registers).await?;
    let mut best = [(f64::INFINITY, Products::Registers); 2];
    for (best, batch) in best.iter_mut().zip(BATCHES) {
        best.0 = time(gpu, Products::Registers, batch).await?;
    }
    for products in TILES.map(Products::Tiled) {
        // An error here speaks against the candidate only, and a wrong result more than a slow one.
        let right = check(gpu, products).await.is_ok_and(|found| agrees(&found, &expected));
        for (best, batch) in best.iter_mut().zip(BATCHES) {
            match time(gpu, products, batch).await {
                Ok(time) if right && time < best.0 => *best = (time, products),
                _ => {}
            }
        }
        if gpu.check().is_err() {
            return Ok(Choice::SAFE);
        }
    }
    let [few, many] = best.map(|(_, products)| products);
    Ok(Choice { few, many })
}

fn agrees(found: &[f32], expected: &[f32]) -> bool {
    let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    // A NaN is close to nothing.
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= TOLERANCE * scale)
}

/// Nanoseconds of many probes one after the other, for browsers round a GPU's clock to 100 µs; the second run counts.
async fn time(gpu: &Gpu, products: Products, batch: usize) -> Result<f64> {
    const LAYERS: usize = 16;
    probe(gpu, products, batch, LAYERS).await?;
    probe(gpu, products, batch, LAYERS).await
}

/// Nanoseconds of `layers` probes; their weights stay 0.
async fn probe(gpu: &Gpu, products: Products, batch: usize, layers: usize) -> Result<f64> {
    let config = images(32);
    let graph = Graph::of(&config, |ops, x, _| {
        let mut x = ops.conv2d(x, &conv("in", 3, 64, 1));
        for i in 0..layers {
            x = ops.conv2d(&x, &conv(&format!("probe{i}"), 64, 64, 1));
        }
        ops.conv2d(&x, &conv("out", 64, 3, 1))
    });
    let mut network = GpuUNet::of_graph(gpu, &config, &graph, Choice { few: products, many: products })?;
    let times = network.times(batch).await?;
    let probes: Vec<&LaunchTime> = times.iter().filter(|launch| launch.label.starts_with("probe")).collect();
    let [first, .., last] = probes.as_slice() else {
        return Ok(probes.iter().map(|launch| launch.nanoseconds).sum());
    };
    Ok(last.begin_nanoseconds + last.nanoseconds - first.begin_nanoseconds)
}

/// The output of a small network of every kind of product, on shapes that fit no tile.
async fn check(gpu: &Gpu, products: Products) -> Result<Vec<f32>> {
    const SIZE: usize = 10;
    const BATCH: usize = 3;
    let config = images(SIZE);
    let layers = [conv("a", 3, 20, 1), conv("b", 20, 72, 2), conv("c", 72, 36, 1), conv("d", 56, 3, 1)];
    let [a, b, c, d] = &layers;
    let d = Conv2d { kernel: 1, padding: [0; 2], ..d.clone() };
    let graph = Graph::of(&config, |ops, x, _| {
        let x = ops.conv2d(x, a);
        let small = ops.conv2d(&x, b);
        let large = ops.upsample(&small);
        let large = ops.conv2d(&large, c);
        let both = ops.concat(&x, &large);
        ops.conv2d(&both, &d)
    });
    let mut network = GpuUNet::of_graph(gpu, &config, &graph, Choice { few: products, many: products })?;
    let mut normals = Generator::new(0);
    for layer in layers[..3].iter().chain([&d]) {
        let fan_in = layer.input * layer.kernel * layer.kernel;
        let mut weight = vec![0.0; layer.output * fan_in];
        normals.randn(&mut weight);
        weight.iter_mut().for_each(|w| *w /= (fan_in as f32).sqrt());
        let name = format!("{}.weight", layer.name);
        network.load(Arrival::Rows(Rows::whole_f32(&name, &f32_bytes(&weight))))?;
        let mut bias = vec![0.0; layer.output];
        normals.randn(&mut bias);
        let name = format!("{}.bias", layer.name);
        network.load(Arrival::Rows(Rows::whole_f32(&name, &f32_bytes(&bias))))?;
    }
    let mut sample = vec![0.0; BATCH * 3 * SIZE * SIZE];
    normals.randn(&mut sample);
    network.forward(ForwardInput { sample: &sample, timestep: &[0.0; BATCH], class_labels: &[] }).await
}

fn conv(name: &str, input: usize, output: usize, stride: usize) -> Conv2d {
    Conv2d { name: name.into(), input, output, kernel: 3, stride, padding: [1; 2] }
}

/// The configuration of RGB images of a size; its layers are of no interest here.
fn images(size: usize) -> UNetConfig {
    UNetConfig::parse(&format!(
        r#"{{"_class_name": "UNet2DModel", "sample_size": {size}, "block_out_channels": [4], "norm_num_groups": 1, "add_attention": false,
            "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}}"#
    ))
    .expect("a configuration written here")
}
