//! The weights on the device: each buffer is made when its precision is known, filled as values arrive.

use half::f16;

use super::backend::Buffer;
use super::device::{Gpu, Role};
use super::pack::{Order, Placement};
use super::program::Program;
use crate::error::{Error, Result};
use crate::network::Precision;

/// How many bytes of weights are queued before they are handed to the device, which bounds host memory.
const UPLOAD_BATCH: usize = 16 << 20;

/// The weight buffers of a program.
pub(super) struct WeightBuffers {
    buffers: Vec<Slot>,
    queued: usize,
    /// Whether the kernels for unannounced weights are being compiled.
    started: bool,
}

#[derive(Default)]
struct Slot {
    /// The widest precision that a tensor of the buffer was announced in.
    expected: Option<Precision>,
    /// There from the first value on.
    made: Option<Buffer>,
}

impl Slot {
    fn precision(&self) -> Precision {
        self.expected.unwrap_or_default()
    }
}

impl WeightBuffers {
    /// # Errors
    /// [`Error::Gpu`] when a weight does not fit into the device's largest buffer even in bytes.
    pub(super) fn new(gpu: &Gpu, program: &Program) -> Result<Self> {
        for &values in &program.weights {
            gpu.fits("a weight", bytes(values, Precision::I8), Role::Input)?;
        }
        Ok(Self { buffers: program.weights.iter().map(|_| Slot::default()).collect(), queued: 0, started: false })
    }

    /// See [`crate::network::Network::expect`].
    pub(super) fn expect(&mut self, gpu: &Gpu, program: &Program, name: &str, precision: Precision) -> Result<()> {
        let placement = placement(program, name)?;
        if !matches!(placement.order, Order::Tiles { .. }) {
            return Ok(()); // what is no product's weight is little, and always f32
        }
        let slot = &mut self.buffers[placement.buffer];
        if slot.made.is_some() && slot.precision() < precision {
            let found = slot.precision();
            return Err(Error::Weights(format!(
                "{name}: expected {found:?} as its neighbours have, found {precision:?}"
            )));
        }
        slot.expected = slot.expected.max(Some(precision));
        compile(gpu, program, slot.precision(), |buffer| buffer == placement.buffer);
        gpu.fits(name, bytes(program.weights[placement.buffer], slot.precision()), Role::Input)
    }

    /// Takes the rows `first ..` of a parameter.
    pub(super) fn write(
        &mut self,
        gpu: &Gpu,
        program: &Program,
        name: &str,
        first: usize,
        values: &[f32],
    ) -> Result<()> {
        let placement = placement(program, name)?;
        self.make(gpu, program, placement.buffer)?;
        let order = &placement.order;
        let precision = self.buffers[placement.buffer].precision();
        if precision == Precision::I8
            && let Some((buffer, offset)) = placement.scales
        {
            let (numbers, scales) = quantised(values, order.row_len());
            self.make(gpu, program, buffer)?;
            // Rows come in pieces only where channels have no gaps.
            let scales = if let Order::Tiles { output, .. } = order
                && scales.len() == output.real()
            {
                Order::Vector(output.clone()).pack(&scales)
            } else {
                scales
            };
            self.upload(gpu, buffer, (offset + first) * 4, bytemuck::cast_slice(&scales));
            let (at, packed) = order.pack_piece(first, &numbers);
            let packed: Vec<u8> = packed.iter().map(|&n| n as i8 as u8).collect();
            self.upload(gpu, placement.buffer, placement.offset + at, &packed);
        } else {
            let (at, packed) = order.pack_piece(first, values);
            let start = bytes(placement.offset + at, precision) as usize;
            if precision == Precision::F16 {
                let halves: Vec<u16> = packed.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
                self.upload(gpu, placement.buffer, start, bytemuck::cast_slice(&halves));
            } else {
                self.upload(gpu, placement.buffer, start, bytemuck::cast_slice(&packed));
            }
        }
        if self.queued >= UPLOAD_BATCH {
            gpu.device.flush();
            self.queued = 0;
        }
        gpu.check()
    }

    fn upload(&mut self, gpu: &Gpu, buffer: usize, start: usize, bytes: &[u8]) {
        let buffer = self.buffers[buffer].made.as_ref().expect("made before");
        gpu.device.write(buffer, start as u64, bytes);
        self.queued += bytes.len();
    }

    /// Makes a buffer, unless it is there.
    fn make(&mut self, gpu: &Gpu, program: &Program, buffer: usize) -> Result<()> {
        let slot = &mut self.buffers[buffer];
        if slot.made.is_none() {
            let size = bytes(program.weights[buffer], slot.precision());
            slot.made = Some(gpu.buffer("a weight", size, Role::Input)?);
            // Nothing was announced: the kernels compile while the other weights come.
            if slot.expected.is_none() && !self.started {
                compile(gpu, program, Precision::F32, |_| true);
                self.started = true;
            }
        }
        Ok(())
    }

    /// Makes what no value came for.
    pub(super) fn complete(&mut self, gpu: &Gpu, program: &Program) -> Result<()> {
        (0..self.buffers.len()).try_for_each(|buffer| self.make(gpu, program, buffer))
    }

    /// A buffer with its precision.
    ///
    /// # Panics
    /// Before [`WeightBuffers::complete`].
    pub(super) fn get(&self, buffer: usize) -> (&Buffer, Precision) {
        let slot = &self.buffers[buffer];
        (slot.made.as_ref().expect("the weights are complete"), slot.precision())
    }

    /// Bytes of all that there is.
    pub(super) fn bytes(&self) -> u64 {
        self.buffers.iter().filter_map(|slot| slot.made.as_ref()).map(Buffer::size).sum()
    }
}

/// Starts compiling the products' kernels of some weight buffers.
fn compile(gpu: &Gpu, program: &Program, precision: Precision, of: impl Fn(usize) -> bool) {
    for dispatch in program.dispatches.iter().filter(|d| d.weight().is_some_and(&of)) {
        dispatch.shaders().for_each(|shader| drop(gpu.pipeline(&shader.specialised.at(precision))));
    }
}

fn placement<'a>(program: &'a Program, name: &str) -> Result<&'a Placement> {
    let unexpected = || Error::Weights(format!("unexpected tensor {name}: the configuration has no such layer"));
    program.placement(name).ok_or_else(unexpected)
}

/// Bytes of this many values.
fn bytes(values: usize, precision: Precision) -> u64 {
    let each = match precision {
        Precision::I8 => 1,
        Precision::F16 => 2,
        Precision::F32 => 4,
    };
    values as u64 * each
}

/// Each row as whole numbers from −127 to 127, and its largest magnitude, which 127 stands for.
///
/// Rows that were made of such numbers give them back.
fn quantised(values: &[f32], row: usize) -> (Vec<f32>, Vec<f32>) {
    let mut numbers = Vec::with_capacity(values.len());
    let scales = values.chunks_exact(row).map(|row| {
        let scale = row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let factor = if scale > 0.0 { 127.0 / scale } else { 0.0 };
        numbers.extend(row.iter().map(|v| (v * factor).round()));
        scale
    });
    let scales = scales.collect();
    (numbers, scales)
}

#[cfg(test)]
mod tests {
    use super::super::GpuUNet;
    use super::*;
    use crate::consistency::rng::Generator;
    use crate::model::config::UNetConfig;
    use crate::model::unet::{Parameter, UNet};
    use crate::network::{ForwardInput, Network};

    /// Two levels with attention of heads that are no multiples of 4, odd channels, time by scale and shift.
    const NETWORK: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": [10, 18],
        "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 6, "num_class_embeds": 3,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "resnet_time_scale_shift": "scale_shift"}"#;

    #[test]
    fn narrow_weights_compute_what_the_same_numbers_compute_as_f32() {
        let config = UNetConfig::parse(NETWORK).unwrap();
        let gpu = pollster::block_on(Gpu::request()).unwrap();
        let mut normals = Generator::new(5);
        let mut sample = vec![0.0; 2 * 3 * 64];
        normals.randn(&mut sample);
        let weights: Vec<(Parameter, Vec<f32>)> = UNet::new(&config)
            .parameters()
            .into_iter()
            .map(|parameter| {
                let mut values = vec![0.0; parameter.shape.iter().product()];
                normals.randn(&mut values);
                let fan_in: usize = parameter.shape[1..].iter().product();
                values.iter_mut().for_each(|v| *v /= (fan_in as f32).sqrt());
                (parameter, values)
            })
            .collect();
        type Rounding<'a> = &'a dyn Fn(&Parameter, &[f32]) -> Vec<f32>;
        let forward = |precision: Option<Precision>, rounded: Rounding<'_>| {
            let mut network = GpuUNet::new(&gpu, &config).unwrap();
            for (parameter, _) in &weights {
                precision.into_iter().for_each(|p| network.expect(&parameter.name, p).unwrap());
            }
            for (parameter, values) in &weights {
                // In two pieces where that is allowed, as they are streamed.
                let values = rounded(parameter, values);
                let row = values.len() / parameter.shape[0];
                let first =
                    network.piece_granularity(&parameter.name).filter(|&rows| rows < parameter.shape[0]).unwrap_or(0);
                let (head, tail) = values.split_at(first * row);
                network.load_rows(&parameter.name, 0, if first > 0 { head } else { tail }).unwrap();
                if first > 0 {
                    network.load_rows(&parameter.name, first, tail).unwrap();
                }
            }
            let input = ForwardInput { sample: &sample, timestep: &[-400.0, 700.0], class_labels: &[2, 0] };
            let output = pollster::block_on(network.forward(input)).unwrap();
            (output, network.report().unwrap().weight_bytes)
        };
        let f16 = |_: &Parameter, values: &[f32]| values.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
        let i8 = |parameter: &Parameter, values: &[f32]| {
            if parameter.shape.len() < 2 || parameter.name == "class_embedding.weight" {
                return values.to_vec();
            }
            let row = values.len() / parameter.shape[0];
            let (numbers, scales) = quantised(values, row);
            numbers.iter().enumerate().map(|(i, n)| n * (scales[i / row] / 127.0)).collect()
        };
        let cases: [(Precision, Rounding<'_>); 2] = [(Precision::F16, &f16), (Precision::I8, &i8)];
        for (precision, rounded) in cases {
            let (expected, whole) = forward(None, rounded);
            let (found, narrow) = forward(Some(precision), rounded);
            let scale = expected.iter().fold(1.0f32, |most, v| most.max(v.abs()));
            let worst = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-5 * scale, "{precision:?}: off by {worst} of {scale}");
            assert!(narrow * 4 < whole * if precision == Precision::F16 { 3 } else { 2 }, "{narrow} of {whole} bytes");
        }
    }

    #[test]
    fn what_shares_a_buffer_must_be_announced_before_the_first_value() {
        let config = UNetConfig::parse(NETWORK).unwrap();
        let gpu = pollster::block_on(Gpu::request()).unwrap();
        let mut network = GpuUNet::new(&gpu, &config).unwrap();
        let [query, key] = ["to_q", "to_k"].map(|name| format!("mid_block.attentions.0.{name}.weight"));
        network.expect(&query, Precision::F16).unwrap();
        network.expect(&key, Precision::F32).unwrap(); // the wider one counts for both
        network.load(&query, &[0.0; 18 * 18]).unwrap();
        network.expect("conv_in.weight", Precision::F16).unwrap();
        network.load("conv_in.weight", &[0.0; 270]).unwrap();
        let error = network.expect("conv_in.weight", Precision::F32).unwrap_err().to_string();
        assert_eq!(error, "conv_in.weight: expected F16 as its neighbours have, found F32");
    }

    #[test]
    fn rows_become_whole_numbers_and_come_back() {
        let scale = 0.0371_f32;
        let row: Vec<f32> = [-127, 5, 0, 126, 64, -1].iter().map(|&n| n as f32 * scale).collect();
        let values = [row.as_slice(), &[0.0; 6]].concat();
        let (numbers, scales) = quantised(&values, 6);
        assert_eq!(numbers, [-127.0, 5.0, 0.0, 126.0, 64.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(scales, [127.0 * scale, 0.0]);
    }
}
