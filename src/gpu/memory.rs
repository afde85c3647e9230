//! Where activations live: several share a buffer, at offsets, when they are never alive together.
//!
//! A launch may not write a buffer that it also reads, so one buffer cannot hold all: a result lies in another pool than
//! what it is made of. Placing is greedy, the largest activation first (as in Pisarchyk & Lee 2020), each where the memory
//! grow least.

use super::program::{Program, Storage};
use crate::compact::sorted;

/// Offsets and lengths are multiples of this many floats per sample: bindings begin at multiples of 256 bytes.
const GRAIN: usize = 64;

/// Where an activation lies, in floats per sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pool: usize,
    pub(super) offset: usize,
}

/// The place of every activation in shared buffers.
#[derive(Debug)]
pub(super) struct MemoryPlan {
    /// The place of each activation.
    pub(super) places: Vec<Place>,
    /// The length of each pool, in floats per sample.
    pub(super) lengths: Vec<usize>,
}

impl MemoryPlan {
    /// A plan without pools of more than `most` floats per sample, unless one activation is longer.
    pub(super) fn within(program: &Program, most: usize) -> Self {
        let lifetimes = lifetimes(program);
        let neighbours = neighbours(program);
        let count = program.activations.len();
        // The longest first.
        let order = sorted((0..count).map(|a| [usize::MAX - program.activations[a], a]));
        let mut placed: Vec<(usize, Place)> = Vec::new();
        let mut lengths: Vec<usize> = Vec::new();
        for [_, a] in order {
            let length = program.activations[a].next_multiple_of(GRAIN);
            let fits = |pool: usize| {
                let rivals = || placed.iter().filter(move |(_, place)| place.pool == pool);
                if rivals().any(|&(b, _)| neighbours.get(a).is_some_and(|of| of.contains(&b))) {
                    return None;
                }
                let [made, last] = lifetimes[a];
                let taken = rivals()
                    .filter(|&&(b, _)| lifetimes[b][0] <= last && made <= lifetimes[b][1])
                    .map(|&(b, place)| [place.offset, place.offset + program.activations[b].next_multiple_of(GRAIN)]);
                // The least gap that is long enough, else the room after the last of them.
                let (mut offset, mut best) = (0, None);
                for [begin, end] in sorted(taken) {
                    if begin >= offset + length && best.is_none_or(|(gap, _)| begin - offset < gap) {
                        best = Some((begin - offset, offset));
                    }
                    offset = offset.max(end);
                }
                let offset = best.map_or(offset, |(_, offset)| offset);
                let growth = (offset + length).saturating_sub(lengths[pool]);
                (offset + length <= most).then_some((growth, Place { pool, offset }))
            };
            let new = (length, Place { pool: lengths.len(), offset: 0 });
            let (_, place) =
                (0..lengths.len()).filter_map(fits).fold(new, |best, next| if next.0 < best.0 { next } else { best });
            if place.pool == lengths.len() {
                lengths.push(0);
            }
            lengths[place.pool] = lengths[place.pool].max(place.offset + length);
            placed.push((a, place));
        }
        let mut places = vec![Place { pool: 0, offset: 0 }; count];
        placed.into_iter().for_each(|(a, place)| places[a] = place);
        Self { places, lengths }
    }
}

/// For each activation those that a launch makes of it, or it of them.
fn neighbours(program: &Program) -> Vec<Vec<usize>> {
    let mut neighbours = vec![Vec::new(); program.activations.len()];
    let mut add = |to: Storage, other: Storage| {
        if let (Storage::Activation(a), Storage::Activation(b)) = (to, other)
            && let Some(of) = neighbours.get_mut(a)
        {
            of.push(b);
        }
    };
    for dispatch in &program.dispatches {
        for &input in &dispatch.inputs {
            add(dispatch.output, input);
            add(input, dispatch.output);
        }
    }
    neighbours
}

/// The launches that write each activation and that read it last. The image is written before the first launch, the result
/// is read after the last.
fn lifetimes(program: &Program) -> Vec<[usize; 2]> {
    let mut lifetimes = vec![[usize::MAX, 0]; program.activations.len()];
    let mut use_at = |storage: Storage, at: usize| {
        if let Storage::Activation(a) = storage {
            let [made, last] = &mut lifetimes[a];
            *made = at.min(*made);
            *last = at.max(*last);
        }
    };
    program.sample.into_iter().for_each(|sample| use_at(sample, 0));
    for (i, dispatch) in program.dispatches.iter().enumerate() {
        std::iter::once(&dispatch.output).chain(&dispatch.inputs).for_each(|&storage| use_at(storage, i + 1));
    }
    program.result.into_iter().for_each(|result| use_at(result, program.dispatches.len() + 1));
    lifetimes
}

/// Floats per sample of the activations that are alive together, at the launch where they are most.
pub(super) fn largest_live_set(program: &Program) -> usize {
    let lifetimes = lifetimes(program);
    let alive = |at: usize| {
        let sizes = lifetimes.iter().zip(&program.activations);
        sizes.filter(|([made, last], _)| (*made..=*last).contains(&at)).map(|(_, size)| size).sum()
    };
    (0..=program.dispatches.len() + 1).map(alive).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::fuse::fuse;
    use super::super::graph::Graph;
    use super::super::kernels::{Kernel, Shader};
    use super::super::program::{Dispatch, Grid, SAFE, Variant};
    use super::super::{Gpu, GpuUNet};
    use super::*;
    use crate::model::config::UNetConfig;
    use crate::model::unet::UNet;
    use crate::network::{ForwardInput, Network};

    fn launch(output: usize, inputs: &[usize]) -> Dispatch {
        Dispatch {
            label: String::new(),
            multiply_adds: 0,
            variants: vec![Variant { from: 0, shader: Shader::new(Kernel::Gemm), grid: Grid::XBatch { x: 1 } }],
            output: Storage::Activation(output),
            inputs: inputs.iter().map(|&i| Storage::Activation(i)).collect(),
            time: [0, 0],
        }
    }

    /// The kinds of networks that are run: weights/mnist, the benchmark's, the published ones.
    const NETWORKS: [(&str, &str); 4] = [
        (
            "mnist",
            r#"{"sample_size": 28, "in_channels": 1, "out_channels": 1, "block_out_channels": [32, 48, 64],
                "layers_per_block": 1, "attention_head_dim": 16, "norm_num_groups": 16, "num_class_embeds": 10,
                "down_block_types": ["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"],
                "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"],
                "downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift","#,
        ),
        (
            "rgb32",
            r#"{"sample_size": 32, "block_out_channels": [64, 128, 128], "layers_per_block": 2, "attention_head_dim": 32,
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
                "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],"#,
        ),
        (
            "imagenet64",
            r#"{"sample_size": 64, "block_out_channels": [192, 384, 576, 768], "layers_per_block": 3,
                "attention_head_dim": 64, "num_class_embeds": 1000, "downsample_type": "resnet",
                "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
                "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
                "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift","#,
        ),
        (
            "lsun256",
            r#"{"sample_size": 256, "block_out_channels": [256, 256, 512, 512, 1024, 1024], "layers_per_block": 2,
                "attention_head_dim": 64, "downsample_type": "resnet", "upsample_type": "resnet",
                "down_block_types": ["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D",
                    "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
                "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D",
                    "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"],
                "resnet_time_scale_shift": "default","#,
        ),
    ];

    fn program(json: &str) -> Program {
        let config = UNetConfig::parse(&format!(r#"{json} "_class_name": "UNet2DModel"}}"#)).unwrap();
        fuse(&Graph::record(&config, &UNet::new(&config)), SAFE)
    }

    #[test]
    fn live_activations_never_overlap_and_no_launch_writes_a_buffer_it_reads() {
        for (name, json) in NETWORKS {
            let program = program(json);
            let (MemoryPlan { places, lengths }, lifetimes) =
                (MemoryPlan::within(&program, usize::MAX), lifetimes(&program));
            let neighbours = neighbours(&program);
            let range = |a: usize| places[a].offset..places[a].offset + program.activations[a];
            for a in 0..places.len() {
                assert!(places[a].offset % GRAIN == 0 && range(a).end <= lengths[places[a].pool], "{name}: {a}");
                for b in 0..a {
                    let together = lifetimes[a][0] <= lifetimes[b][1] && lifetimes[b][0] <= lifetimes[a][1];
                    let overlap = range(a).start < range(b).end && range(b).start < range(a).end;
                    let one_pool = places[a].pool == places[b].pool;
                    assert!(!(one_pool && together && overlap), "{name}: {a} and {b}");
                    assert!(!(one_pool && neighbours[a].contains(&b)), "{name}: {a} is made of {b} or {b} of {a}");
                }
            }
        }
    }

    #[test]
    fn pools_are_little_more_than_what_is_alive() {
        for (name, json) in NETWORKS {
            let program = program(json);
            let (all, live) =
                (MemoryPlan::within(&program, usize::MAX).lengths.iter().sum::<usize>(), largest_live_set(&program));
            println!("{name}: {all} of {live} floats, {:.3}", all as f64 / live as f64);
            // A plan may take a quarter more than the live set, images and parameters included.
            assert!(100 * all <= 115 * live, "{name}: {all} floats per sample for {live}");
        }
    }

    #[test]
    fn a_plan_holds_its_weights_and_a_quarter_more_than_what_is_alive() {
        let gpu = pollster::block_on(Gpu::request()).unwrap();
        for (name, json) in &NETWORKS[..2] {
            let config = UNetConfig::parse(&format!(r#"{json} "_class_name": "UNet2DModel"}}"#)).unwrap();
            let mut network = GpuUNet::new(&gpu, &config).unwrap();
            let [h, w] = config.sample_size;
            let labels = config.num_class_embeds.map_or(0, |_| 1);
            for batch in [1, 4, 16] {
                let sample = vec![0.0; batch * config.in_channels * h * w];
                let (timestep, class_labels) = (vec![0.0; batch], vec![0; batch * labels]);
                let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &class_labels };
                pollster::block_on(network.forward(input)).unwrap();
                let report = network.report().unwrap();
                let all = report.weight_bytes + report.activation_bytes + report.other_bytes;
                let excess = (all - report.weight_bytes) as f64 / report.live_bytes as f64;
                println!(
                    "{name}, batch {batch}: {all} bytes, {} of weights, {excess:.3} × {}",
                    report.weight_bytes, report.live_bytes
                );
                assert!(excess <= 1.25, "{name}, batch {batch}: {report:?}");
            }
        }
    }

    /// WebGPU's default limits, which every adapter has.
    #[test]
    fn one_sample_of_every_network_fits_the_least_device() {
        const BINDING: usize = 128 << 20;
        for (name, json) in NETWORKS {
            let program = program(json);
            let unbounded = MemoryPlan::within(&program, usize::MAX).lengths;
            let lengths = MemoryPlan::within(&program, BINDING / 4).lengths;
            let most = |lengths: &[usize]| lengths.iter().max().unwrap() * 4;
            println!("{name}: pools of at most {}, unbounded {} bytes", most(&lengths), most(&unbounded));
            assert!(most(&lengths) <= BINDING, "{name}");
            let live = largest_live_set(&program);
            assert!(100 * lengths.iter().sum::<usize>() <= 125 * live, "{name}: {lengths:?} floats for {live}");
            assert!(program.weights.iter().all(|floats| floats * 4 <= BINDING), "{name}: a weight is too long");
            for dispatch in &program.dispatches {
                let Variant { shader, grid, .. } = dispatch.at(1);
                assert!(grid.workgroups(1).iter().all(|&n| n <= 65_535), "{name}: {}", dispatch.label);
                assert!(shader.specialised.kernel.bindings().len() <= 8, "{name}: {}", dispatch.label);
            }
        }
    }

    #[test]
    fn a_pool_does_not_grow_beyond_the_longest_buffer() {
        // 0 and 1 are alive together; in one pool they would have 192 floats.
        let program = Program {
            dispatches: vec![launch(0, &[]), launch(1, &[]), launch(2, &[0, 1])],
            activations: vec![128, 64, 64],
            result: Some(Storage::Activation(2)),
            ..Default::default()
        };
        assert_eq!(MemoryPlan::within(&program, 191).lengths.iter().max(), Some(&128));
    }

    #[test]
    fn the_largest_live_set_is_found() {
        // 0 → 1 → 2 → 3, where 3 also reads 0: 0, 1 and 2 are alive while 2 is made.
        let program = Program {
            dispatches: vec![launch(0, &[]), launch(1, &[0]), launch(2, &[1]), launch(3, &[2, 0])],
            activations: vec![128, 64, 256, 64],
            result: Some(Storage::Activation(3)),
            ..Default::default()
        };
        assert_eq!(largest_live_set(&program), 448);
        let MemoryPlan { places, lengths } = MemoryPlan::within(&program, usize::MAX);
        assert_eq!(lengths.iter().sum::<usize>(), 448, "3 takes the place of 1: {places:?}");
    }
}
