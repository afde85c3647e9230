//! A short trial that chooses the kernels of a device, natively and in the browser.
//!
//! The register kernels, which tests compare with diffusers, are the reference: a candidate must give their result on the
//! device. Where the first probe takes long, the device is slow in everything, compiling included: the trial ends and the
//! register kernels stay.

use std::time::Duration;

use web_time::Instant;

use super::device::Gpu;
use super::graph::Graph;
use super::network::{GpuUNet, HALF_TOLERANCE, agrees};
use super::program::{Choice, OUTPUTS, Products, SAFE, Tile};
use crate::checkpoint::tensor::{Arrival, Precision, Rows, f32_bytes};
use crate::consistency::rng::Generator;
use crate::error::Result;
use crate::model::config::UNetConfig;
use crate::model::unet::{Conv2d, Ops};
use crate::network::{ForwardInput, Network};

/// The candidates, the likeliest first: tiles of 64 pixels × 64 channels, 16 × 32 by four teams, 128 × 128, 32 × 64.
pub(super) const TILES: [Tile; 4] = [
    Tile { across: 16, down: 16, rows: 4, vectors: 1, slices: 1, is_half: false },
    Tile { across: 8, down: 8, rows: 2, vectors: 1, slices: 4, is_half: false },
    Tile { across: 16, down: 16, rows: 8, vectors: 2, slices: 1, is_half: false },
    Tile { across: 16, down: 8, rows: 4, vectors: 1, slices: 1, is_half: false },
];

/// The tiles in half precision, where the device has it, and in single precision.
pub(super) fn tiles(gpu: &Gpu) -> Vec<Tile> {
    let half = TILES.map(|tile| Tile { is_half: true, ..tile });
    TILES.iter().chain(half.iter().filter(|_| gpu.has_half())).copied().collect()
}

/// A 3×3 convolution that stands for launches of about as many outputs.
#[derive(Clone, Copy)]
struct Probe {
    /// Pixels of a side.
    size: usize,
    channels: usize,
    batch: usize,
}

/// One probe for each kernel of a [`Choice`]; the first has 75 MFLOP.
const PROBES: [Probe; OUTPUTS.len()] = [
    Probe { size: 8, channels: 256, batch: 1 },
    Probe { size: 32, channels: 64, batch: 3 },
    Probe { size: 32, channels: 64, batch: 16 },
];

/// Seconds of the first probe on a device that is too slow for a trial to pay.
const SLOW: f64 = 4e-3;

/// After so long no further candidate is tried.
const LIMIT: Duration = Duration::from_millis(150);

/// How far a candidate may be from the register kernels, relative to the largest output: f32 sums in another order.
const TOLERANCE: f32 = 1e-4;

/// Whether half precision is a candidate: a page shows 8 bits of a picture; natively outputs are numbers that are compared.
const HALF_COUNTS: bool = cfg!(target_arch = "wasm32");

/// How many times as fast as the best in single precision one in half precision must be, to be worth its rounding.
const WORTH: f64 = 1.25;

/// The device with the fastest kernels that compute correctly on it; those that run everywhere when the trial fails. A device
/// that was lost meanwhile says so at its next use.
pub(super) async fn tuned(mut gpu: Gpu) -> Gpu {
    match choose(&gpu).await {
        Ok(choice) => gpu.choice = choice,
        Err(_) => {
            gpu.clear_errors();
        }
    }
    gpu
}

async fn choose(gpu: &Gpu) -> Result<Choice> {
    let begin = Instant::now();
    let mut best = [(f64::INFINITY, Products::Registers); OUTPUTS.len()];
    best[0].0 = seconds(gpu, Products::Registers, PROBES[0]).await?;
    if best[0].0 > SLOW {
        return Ok(SAFE);
    }
    for (best, probe) in best.iter_mut().zip(PROBES).skip(1) {
        best.0 = seconds(gpu, Products::Registers, probe).await?;
    }
    let expected = check(gpu, Products::Registers).await?;
    for tile in tiles(gpu).into_iter().filter(|tile| HALF_COUNTS || !tile.is_half) {
        if begin.elapsed() > LIMIT {
            break;
        }
        // An error here speaks against the candidate only, and a wrong result more than a slow one.
        let products = Products::Tiled(tile);
        let (tolerance, worth) = if tile.is_half { (HALF_TOLERANCE, WORTH) } else { (TOLERANCE, 1.0) };
        if check(gpu, products).await.is_ok_and(|found| agrees(&found, &expected, tolerance)) {
            for (best, probe) in best.iter_mut().zip(PROBES) {
                match seconds(gpu, products, probe).await {
                    Ok(time) if time * worth < best.0 => *best = (time, products),
                    _ => {}
                }
            }
        }
        if gpu.check().is_err() {
            return Ok(SAFE);
        }
    }
    Ok(best.map(|(_, products)| products))
}

/// Seconds that a probe takes; its weights stay 0, in half precision as those of most models are.
async fn seconds(gpu: &Gpu, products: Products, Probe { size, channels, batch }: Probe) -> Result<f64> {
    const NAME: &str = "probe";
    let config = images(size);
    let layers = [conv("in", 3, channels, 1), conv(NAME, channels, channels, 1), conv("out", channels, 3, 1)];
    let graph = Graph::of(&config, |ops, x, _| layers.iter().fold(*x, |x, layer| ops.conv2d(&x, layer)));
    let mut network = GpuUNet::of_graph(gpu, &config, &graph, [products; OUTPUTS.len()])?;
    for layer in &layers {
        let name = format!("{}.weight", layer.name);
        network.load(Arrival::Announced { name: &name, precision: Precision::F16 })?;
    }
    network.seconds(NAME, batch).await
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
    let mut network = GpuUNet::of_graph(gpu, &config, &graph, [products; OUTPUTS.len()])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_computes_as_the_register_kernels_do() {
        let gpu = pollster::block_on(Gpu::open()).unwrap();
        let expected = pollster::block_on(check(&gpu, Products::Registers)).unwrap();
        let tiles = tiles(&gpu);
        // Mesa's software device has half precision, too.
        assert_eq!(tiles.len(), 2 * TILES.len(), "with and without half precision");
        for tile in tiles {
            let found = pollster::block_on(check(&gpu, Products::Tiled(tile))).unwrap();
            let tolerance = if tile.is_half { HALF_TOLERANCE } else { TOLERANCE };
            assert!(agrees(&found, &expected, tolerance), "{tile:?}");
            assert_eq!(tile.is_half, !agrees(&found, &expected, TOLERANCE), "{tile:?}");
        }
    }

    #[test]
    fn a_candidate_that_computes_otherwise_is_not_chosen() {
        let expected = [1.0, -3.0];
        assert!(agrees(&[1.0, -3.0002], &expected, TOLERANCE));
        for wrong in [&[1.0, -3.01][..], &[1.0, f32::NAN], &[1.0]] {
            assert!(!agrees(wrong, &expected, TOLERANCE), "{wrong:?}");
        }
    }

    #[test]
    fn the_time_of_a_probe_is_that_of_one_launch() {
        let gpu = pollster::block_on(Gpu::open()).unwrap();
        let [small, _, large] =
            PROBES.map(|probe| pollster::block_on(seconds(&gpu, Products::Registers, probe)).unwrap());
        // Sixteen times the multiply-adds; a shared machine's times vary.
        assert!(large > 3.0 * small, "{small} s, {large} s");
    }
}
