//! Times the plan on this machine's GPU by the device's own clock: each kernel, one large convolution beside the
//! device's multiply-add rate, and the forward of a network shaped like the ImageNet-64 model, with random weights.
//!
//! ```sh
//! cargo bench --no-default-features --features gpu,cpu --bench forward -- \
//!     [mnist | rgb32 | imagenet64] [--batch B,…] [--launches] [--candidates] [--parity] [--json FILE]
//! ```
//!
//! `--launches` lists every launch with the time that it takes at least: by the multiply-adds and by the bytes that it moves.
//! `--candidates` times the forward with each kind of kernels that the trial chooses from. `--parity` compares the outputs with
//! the CPU's. `--json` writes all figures into a file. `pytorch.py` beside this file times the same shapes in PyTorch.
//!
//! GPU clocks are read inside of one submit, which a harness that times closures from outside cannot do.

mod shapes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consistency_sampler::checkpoint::tensor::{Arrival, Rows, f32_bytes};
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::gpu::{Gpu, GpuUNet, LaunchTime};
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::model::unet::UNet;
use consistency_sampler::network::{ForwardInput, Network};
use consistency_sampler::{CpuUNet, Result};
use serde_json::{Value, json};
use shapes::SHAPES;

/// Runs of each case at most; the median counts.
const ROUNDS: usize = 7;

/// After so long no further run is begun.
const ENOUGH: Duration = Duration::from_secs(3);

/// One level of 256 channels at 32²: its middle holds the 256 → 256 convolution.
const CONV256: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 32, "block_out_channels": [256],
    "layers_per_block": 1, "add_attention": false, "norm_num_groups": 32,
    "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}"#;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let is_given = |flag: &str| arguments.iter().any(|a| a == flag);
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1));
    let batches: Vec<usize> = after("--batch")
        .map_or(vec![1, 16], |list| list.split(',').map(|b| b.parse().expect("a batch size")).collect());
    let named: Vec<_> = SHAPES.into_iter().filter(|(name, _)| is_given(name)).collect();
    let shapes = if named.is_empty() { SHAPES.to_vec() } else { named };

    let gpu = pollster::block_on(Gpu::request())?;
    println!("{}, {}", gpu.description(), gpu.kernels());
    let peak = Peak::measure();
    println!("multiply-adds: {:.1} GFLOP/s, copies: {:.1} GB/s, measured", peak.gigaflops, peak.gigabytes);

    let mut forwards = Vec::new();
    // After each figure, for a run may be cut off.
    let report = |forwards: &[Value]| {
        if let Some(path) = after("--json") {
            let report = json!({
                "adapter": gpu.description(),
                "kernels": gpu.kernels(),
                "gigaflops": peak.gigaflops,
                "gigabytesPerSecond": peak.gigabytes,
                "forwards": forwards,
            });
            std::fs::write(path, format!("{report:#}\n")).expect("the report can be written");
        }
    };

    for (name, config) in shapes {
        if is_given("--parity") {
            let worst = parity(&gpu, config)?;
            println!("\n{name}: off by {worst:.1e} of the largest value of the CPU's output");
            forwards.push(json!({ "model": name, "parity": worst }));
        }
        for &batch in &batches {
            let others = if is_given("--candidates") { gpu.candidates() } else { Vec::new() };
            for gpu in std::iter::once(&gpu).chain(&others) {
                let times = measure(gpu, config, batch)?;
                println!("\n{name}, batch {batch}, {} launches, {}", times.len(), gpu.kernels());
                print_forward(&times, &peak);
                if is_given("--launches") {
                    times.iter().for_each(|t| print_row(&t.label, t.kernel, Sum::of(t, &peak)));
                }
                forwards.push(described(name, batch, gpu, &times, &peak));
                report(&forwards);
            }
        }
    }

    let times = measure(&gpu, CONV256, 16)?;
    let conv = times.iter().find(|t| t.label == "mid_block.resnets.0.conv1").expect("the middle block's convolution");
    let flops = gigaflops(conv.multiply_adds, conv.nanoseconds);
    println!(
        "256 → 256 at 32², batch 16: {flops:.1} GFLOP/s, {:.0} % ({})",
        100.0 * flops / peak.gigaflops,
        conv.kernel
    );
    forwards.push(described("conv256", 16, &gpu, std::slice::from_ref(conv), &peak));
    report(&forwards);
    Ok(())
}

/// The configuration's network on any backend, with random weights.
fn load(network: &mut impl Network) -> Result<()> {
    // One table over and over: hundreds of millions of normals would take longer than what is measured.
    let mut normals = vec![0.0; 65_537];
    Generator::new(0).randn(&mut normals);
    let mut normals = normals.iter().cycle();
    for parameter in UNet::new(network.config()).parameters() {
        let len: usize = parameter.shape.iter().product();
        let fan_in: usize = parameter.shape[1..].iter().product();
        let deviation = (fan_in as f32).powf(-0.5);
        let values: Vec<f32> = normals.by_ref().take(len).map(|v| v * deviation).collect();
        network.load(Arrival::Rows(Rows::whole_f32(&parameter.name, &f32_bytes(&values))))?;
    }
    Ok(())
}

/// A batch of noise, timesteps and classes for a network.
fn inputs(config: &UNetConfig, batch: usize) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
    let [h, w] = config.sample_size;
    let mut sample = vec![0.0; batch * config.in_channels * h * w];
    Generator::new(1).randn(&mut sample);
    (sample, vec![100.0; batch], if config.num_class_embeds.is_some() { vec![0; batch] } else { Vec::new() })
}

/// The largest difference between the outputs of GPU and CPU for one sample, relative to the largest value.
fn parity(gpu: &Gpu, config: &str) -> Result<f32> {
    let config = UNetConfig::parse(config)?;
    let (sample, timestep, class_labels) = inputs(&config, 1);
    let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &class_labels };
    let (mut ours, mut reference) = (GpuUNet::new(gpu, &config)?, CpuUNet::new(&config));
    load(&mut ours)?;
    load(&mut reference)?;
    let found = pollster::block_on(ours.forward(input))?;
    let expected = pollster::block_on(reference.forward(input))?;
    let scale = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    Ok(found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max) / scale)
}

/// The median run of a network with random weights; launches as they were in that run.
fn measure(gpu: &Gpu, config: &str, batch: usize) -> Result<Vec<LaunchTime>> {
    let config = UNetConfig::parse(config)?;
    let mut network = GpuUNet::new(gpu, &config)?;
    load(&mut network)?;
    let (sample, timestep, class_labels) = inputs(&config, batch);
    let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &class_labels };
    let begin = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < ROUNDS && (runs.is_empty() || begin.elapsed() < ENOUGH) {
        runs.push(pollster::block_on(network.profile(input))?);
    }
    runs.sort_by(|a, b| whole(a).total_cmp(&whole(b)));
    let middle = runs.len() / 2;
    Ok(runs.swap_remove(middle))
}

/// From the first launch's begin to the last one's end, in nanoseconds.
fn whole(times: &[LaunchTime]) -> f64 {
    times.last().map_or(0.0, |t| t.begin_nanoseconds + t.nanoseconds)
}

/// Launches together.
#[derive(Clone, Copy, Default)]
struct Sum {
    launches: usize,
    multiply_adds: usize,
    nanoseconds: f64,
    /// The sum of what each takes at least.
    least_nanoseconds: f64,
}

impl Sum {
    fn add(&mut self, time: &LaunchTime, peak: &Peak) {
        self.launches += 1;
        self.multiply_adds += time.multiply_adds;
        self.nanoseconds += time.nanoseconds;
        let [products, moves] = [2.0 * time.multiply_adds as f64 / peak.gigaflops, time.bytes as f64 / peak.gigabytes];
        self.least_nanoseconds += products.max(moves);
    }

    fn of(time: &LaunchTime, peak: &Peak) -> Self {
        let mut sum = Self::default();
        sum.add(time, peak);
        sum
    }
}

/// The sums of each kernel, and of all.
fn by_kernel(times: &[LaunchTime], peak: &Peak) -> (BTreeMap<&'static str, Sum>, Sum) {
    let mut kernels: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut all = Sum::default();
    for time in times {
        kernels.entry(time.kernel).or_default().add(time, peak);
        all.add(time, peak);
    }
    // With the gaps between them.
    all.nanoseconds = whole(times);
    (kernels, all)
}

fn print_forward(times: &[LaunchTime], peak: &Peak) {
    let (kernels, all) = by_kernel(times, peak);
    print_row("forward", "", all);
    for (kernel, sum) in kernels {
        print_row(&format!("{} launches", sum.launches), kernel, sum);
    }
}

fn print_row(label: &str, kernel: &str, sum: Sum) {
    let rate = gigaflops(sum.multiply_adds, sum.nanoseconds);
    let [took, least] = [sum.nanoseconds, sum.least_nanoseconds].map(|nanoseconds| nanoseconds / 1e6);
    println!("{label:44} {kernel:12} {took:10.3} ms {rate:10.1} GFLOP/s, at least {least:8.3} ms");
}

/// The figures of a forward.
fn described(name: &str, batch: usize, gpu: &Gpu, times: &[LaunchTime], peak: &Peak) -> Value {
    let (kernels, all) = by_kernel(times, peak);
    let figures = |sum: Sum| {
        json!({
            "launches": sum.launches,
            "milliseconds": sum.nanoseconds / 1e6,
            "leastMilliseconds": sum.least_nanoseconds / 1e6,
            "gigaflops": gigaflops(sum.multiply_adds, sum.nanoseconds),
        })
    };
    let kernels: BTreeMap<&str, Value> = kernels.into_iter().map(|(kernel, sum)| (kernel, figures(sum))).collect();
    json!({ "model": name, "batch": batch, "choice": gpu.kernels(), "forward": figures(all), "kernels": kernels })
}

fn gigaflops(multiply_adds: usize, nanoseconds: f64) -> f64 {
    2.0 * multiply_adds as f64 / nanoseconds
}

/// What the device can do at most.
struct Peak {
    /// Billions of multiplications and additions a second, in registers.
    gigaflops: f64,
    /// Billions of bytes a second that a copy reads and writes together.
    gigabytes: f64,
}

impl Peak {
    fn measure() -> Self {
        const GROUPS: u32 = 4096;
        const STEPS: u32 = 256;
        const SUMS: u32 = 16;
        const COPIED: u64 = 128 << 20;
        let sums = |f: fn(u32) -> String| (0..SUMS).map(f).collect::<String>();
        let code = format!(
            "@group(0) @binding(0) var<storage, read_write> output: array<vec4f>;
            @compute @workgroup_size(64)
            fn main(@builtin(global_invocation_id) id: vec3u) {{
                let x = vec4f(f32(id.x)) * 1e-9;
                let y = vec4f(0.5) + x;
                {}
                for (var i = 0u; i < {STEPS}u; i++) {{ {} }}
                output[id.x % 64u] = {}vec4f();
            }}",
            sums(|i| format!("var s{i} = x + {i}.0;")),
            sums(|i| format!("s{i} = fma(s{i}, y, x);")),
            sums(|i| format!("s{i} + ")),
        );
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = pollster::block_on(instance.request_adapter(&options)).expect("an adapter");
        let device = adapter.request_device(&wgpu::DeviceDescriptor::default());
        let (device, queue) = pollster::block_on(device).expect("a device");
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(code.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let buffer = |size, usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let output = buffer(1024, wgpu::BufferUsages::STORAGE);
        let [from, to] =
            [wgpu::BufferUsages::COPY_SRC, wgpu::BufferUsages::COPY_DST].map(|usage| buffer(COPIED, usage));
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: output.as_entire_binding() }],
        });
        let multiply = |encoder: &mut wgpu::CommandEncoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &bindings, &[]);
            pass.dispatch_workgroups(GROUPS, 1, 1);
        };
        let copy = |encoder: &mut wgpu::CommandEncoder| encoder.copy_buffer_to_buffer(&from, 0, &to, 0, COPIED);
        // Seconds of one, of so many that it takes long enough for the host's clock, and the cost of a submit is small.
        let seconds = |work: &dyn Fn(&mut wgpu::CommandEncoder)| {
            let mut count = 1;
            loop {
                let mut encoder = device.create_command_encoder(&Default::default());
                (0..count).for_each(|_| work(&mut encoder));
                let begin = Instant::now();
                queue.submit([encoder.finish()]);
                device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
                let seconds = begin.elapsed().as_secs_f64();
                if seconds > 0.1 {
                    break seconds / f64::from(count);
                }
                count *= 2;
            }
        };
        let flops = f64::from(GROUPS) * 64.0 * f64::from(STEPS) * f64::from(SUMS) * 8.0;
        Self { gigaflops: flops / seconds(&multiply) / 1e9, gigabytes: 2.0 * COPIED as f64 / seconds(&copy) / 1e9 }
    }
}
