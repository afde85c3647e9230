//! The weights on the device: each buffer is made when its precision is known, filled as values arrive.

use super::device::{Buffer, Gpu, Role};
use super::pack::{Order, Placement};
use super::program::Program;
use crate::checkpoint::tensor::{Precision, Rows, f32_bytes};
use crate::error::{Error, Result};

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
    /// The precision that was announced for all tensors of the buffer so far.
    announced: Option<Precision>,
    /// Made when the first row comes.
    buffer: Option<Buffer>,
}

impl Slot {
    fn precision(&self) -> Precision {
        self.announced.unwrap_or_default()
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

    /// Learns that a tensor will be stored at `precision`, and compiles the kernels for it.
    ///
    /// # Errors
    /// [`Error::Weights`] when the buffer was already made for another precision, [`Error::Gpu`] when it is too large.
    pub(super) fn announce(&mut self, gpu: &Gpu, program: &Program, name: &str, precision: Precision) -> Result<()> {
        let placement = placement(program, name)?;
        if !matches!(placement.order, Order::Tiles { .. }) {
            return Ok(()); // only the weights of products are stored in less than f32
        }
        let slot = &mut self.buffers[placement.buffer];
        // Tensors that share a buffer share its precision: that of all of them, or else f32, which holds any.
        let common = slot.announced.filter(|&of_others| of_others != precision).map_or(precision, |_| Precision::F32);
        if slot.buffer.is_some() && slot.precision() != common {
            let expected = slot.precision();
            return Err(Error::Weights(format!(
                "{name}: expected {expected:?} as its neighbours have, found {precision:?}"
            )));
        }
        slot.announced = Some(common);
        compile(gpu, program, common, |buffer| buffer == placement.buffer);
        gpu.fits(name, bytes(program.weights[placement.buffer], common), Role::Input)
    }

    /// Takes rows of a tensor.
    pub(super) fn write(&mut self, gpu: &Gpu, program: &Program, rows: &Rows<'_>) -> Result<()> {
        let placement = placement(program, rows.name)?;
        self.make(gpu, program, placement.buffer)?;
        let (order, first) = (&placement.order, rows.first);
        let precision = self.buffers[placement.buffer].precision();
        let (at, packed) = match precision {
            _ if precision != rows.precision => packed::<4>(order, first, &f32_bytes(&rows.to_f32())),
            Precision::F32 => packed::<4>(order, first, rows.bytes),
            Precision::F16 => packed::<2>(order, first, rows.bytes),
            Precision::I8 => packed::<1>(order, first, rows.bytes),
        };
        self.upload(gpu, placement.buffer, bytes(placement.offset + at, precision) as usize, &packed);
        if precision == Precision::I8
            && let Some((buffer, offset)) = placement.scales
        {
            self.make(gpu, program, buffer)?;
            // Pieces come only where channels have no gaps; then their scales lie as they come.
            let whole = match order {
                Order::Tiles { output, .. } if rows.scales.len() == output.real() => {
                    Some(Order::Vector(output.clone()))
                }
                _ => None,
            };
            let scales = whole.map_or_else(|| rows.scales.to_vec(), |order| order.pack(rows.scales));
            self.upload(gpu, buffer, (offset + first) * 4, bytemuck::cast_slice(&scales));
        }
        if self.queued >= UPLOAD_BATCH {
            gpu.flush();
            self.queued = 0;
        }
        gpu.check()
    }

    fn upload(&mut self, gpu: &Gpu, buffer: usize, start: usize, bytes: &[u8]) {
        let buffer = self.buffers[buffer].buffer.as_ref().expect("made before");
        gpu.write(buffer, start as u64, bytes);
        self.queued += bytes.len();
    }

    /// Makes a buffer, unless it is there.
    fn make(&mut self, gpu: &Gpu, program: &Program, buffer: usize) -> Result<()> {
        let slot = &mut self.buffers[buffer];
        if slot.buffer.is_none() {
            let size = bytes(program.weights[buffer], slot.precision());
            slot.buffer = Some(gpu.buffer("a weight", size, Role::Input)?);
            // Nothing was announced: the kernels compile while the other weights come.
            if slot.announced.is_none() && !self.started {
                compile(gpu, program, Precision::F32, |_| true);
                self.started = true;
            }
        }
        Ok(())
    }

    /// Makes the buffers of weights that were not loaded; they are 0.
    pub(super) fn complete(&mut self, gpu: &Gpu, program: &Program) -> Result<()> {
        (0..self.buffers.len()).try_for_each(|buffer| self.make(gpu, program, buffer))
    }

    /// A buffer with its precision.
    ///
    /// # Panics
    /// Before [`WeightBuffers::complete`].
    pub(super) fn get(&self, buffer: usize) -> (&Buffer, Precision) {
        let slot = &self.buffers[buffer];
        (slot.buffer.as_ref().expect("the weights are complete"), slot.precision())
    }

    /// Bytes of all that there is.
    pub(super) fn bytes(&self) -> u64 {
        self.buffers.iter().filter_map(|slot| slot.buffer.as_ref()).map(Buffer::size).sum()
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
    values as u64 * precision.size() as u64
}

/// Elements of N bytes in the kernels' order, and the element of the packed range at which they begin.
fn packed<const N: usize>(order: &Order, first: usize, bytes: &[u8]) -> (usize, Vec<u8>)
where
    [u8; N]: Default,
{
    let (at, packed) = order.pack_piece::<[u8; N]>(first, bytes.as_chunks().0);
    (at, packed.into_flattened())
}

#[cfg(test)]
mod tests {
    use super::super::GpuUNet;
    use half::f16;

    use super::*;
    use crate::checkpoint::tensor::Arrival;
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
                let mut values = vec![0.0; parameter.count()];
                normals.randn(&mut values);
                let fan_in: usize = parameter.shape[1..].iter().product();
                values.iter_mut().for_each(|v| *v /= (fan_in as f32).sqrt());
                (parameter, values)
            })
            .collect();
        // A tensor as stored: its bytes and scales.
        let stored = |precision: Precision, parameter: &Parameter, values: &[f32]| -> (Vec<u8>, Vec<f32>) {
            match precision {
                Precision::F32 => (f32_bytes(values), Vec::new()),
                Precision::F16 => (values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(), Vec::new()),
                Precision::I8 => {
                    let row = values.len() / parameter.shape[0];
                    // Scales that leave the largest number below 127.
                    let scale = |row: &[f32]| row.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 100.0;
                    let scales: Vec<f32> = values.chunks_exact(row).map(scale).collect();
                    let number = |(i, v): (usize, &f32)| (v / scales[i / row]).round() as i8 as u8;
                    (values.iter().enumerate().map(number).collect(), scales)
                }
            }
        };
        // The same numbers, stored narrow or as f32.
        let forward = |precision: Precision, as_f32: bool| {
            let mut network = GpuUNet::new(&gpu, &config).unwrap();
            let of = |p: &Parameter| if p.shape.len() > 1 { precision } else { Precision::F32 };
            for (parameter, _) in &weights {
                let precision = if as_f32 { Precision::F32 } else { of(parameter) };
                network.load(Arrival::Announced { name: &parameter.name, precision }).unwrap();
            }
            for (parameter, values) in &weights {
                let precision = of(parameter);
                let (bytes, scales) = stored(precision, parameter, values);
                let whole = Rows { name: &parameter.name, first: 0, precision, bytes: &bytes, scales: &scales };
                let wide = f32_bytes(&whole.to_f32());
                let whole = if as_f32 { Rows::whole_f32(&parameter.name, &wide) } else { whole };
                // In two pieces where that is allowed, as they are streamed.
                let rows = parameter.shape[0];
                let first = network.piece_granularity(&parameter.name).filter(|&first| first < rows).unwrap_or(0);
                let (head, tail) = whole.bytes.split_at(first * whole.bytes.len() / rows);
                let cut = first.min(whole.scales.len());
                if first > 0 {
                    network.load(Arrival::Rows(Rows { bytes: head, scales: &whole.scales[..cut], ..whole })).unwrap();
                }
                let rest = Rows { first, bytes: tail, scales: &whole.scales[cut..], ..whole };
                network.load(Arrival::Rows(rest)).unwrap();
            }
            let input = ForwardInput { sample: &sample, timestep: &[-400.0, 700.0], class_labels: &[2, 0] };
            let output = pollster::block_on(network.forward(input)).unwrap();
            (output, network.report().unwrap().weight_bytes)
        };
        for precision in [Precision::F16, Precision::I8] {
            let (expected, whole) = forward(precision, true);
            let (found, narrow) = forward(precision, false);
            let scale = expected.iter().fold(1.0f32, |most, v| most.max(v.abs()));
            let worst = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-5 * scale, "{precision:?}: off by {worst} of {scale}");
            assert!(narrow * 4 < whole * if precision == Precision::F16 { 3 } else { 2 }, "{narrow} of {whole} bytes");
        }
    }

    #[test]
    fn tensors_that_share_a_buffer_must_be_announced_before_its_first_row() {
        let config = UNetConfig::parse(NETWORK).unwrap();
        let gpu = pollster::block_on(Gpu::request()).unwrap();
        let mut network = GpuUNet::new(&gpu, &config).unwrap();
        let mut announce = |name: &str, precision| network.load(Arrival::Announced { name, precision });
        let [query, key] = ["to_q", "to_k"].map(|name| format!("mid_block.attentions.0.{name}.weight"));
        announce(&query, Precision::F16).unwrap();
        announce(&key, Precision::I8).unwrap(); // f32 holds both
        announce("conv_in.weight", Precision::F16).unwrap();
        let halves = |name, bytes| Rows { name, first: 0, precision: Precision::F16, bytes, scales: &[] };
        network.load(Arrival::Rows(halves(&query, &[0; 2 * 18 * 18]))).unwrap();
        network.load(Arrival::Rows(halves("conv_in.weight", &[0; 2 * 270]))).unwrap();
        let late = Arrival::Announced { name: "conv_in.weight", precision: Precision::F32 };
        let error = network.load(late).unwrap_err().to_string();
        assert_eq!(error, "conv_in.weight: expected F16 as its neighbours have, found F32");
    }
}
