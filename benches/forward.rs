//! Times the plan on this machine's GPU by the device's own clock: each kernel, one large convolution beside the
//! device's multiply-add rate, and the forward of a network shaped like the ImageNet-64 model, with random weights.
//!
//! ```sh
//! cargo bench --no-default-features --features gpu --bench forward -- [mnist | rgb32 | imagenet64] [--batch B,…] [--launches]
//! ```
//!
//! `--launches` lists every launch. `pytorch.py` beside this file times the same shapes in PyTorch.
//!
//! GPU clocks are read inside of one submit, which a harness that times closures from outside cannot do.

use std::collections::BTreeMap;

use consistency_sampler::Result;
use consistency_sampler::checkpoint::tensor::{Arrival, Rows, f32_bytes};
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::gpu::{Gpu, GpuUNet, LaunchTime};
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::model::unet::UNet;
use consistency_sampler::network::{ForwardInput, Network};

/// Runs of each case; the median counts.
const ROUNDS: usize = 7;

/// The shape of weights/mnist.
const MNIST: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 28, "in_channels": 1, "out_channels": 1,
    "block_out_channels": [32, 48, 64], "layers_per_block": 1, "attention_head_dim": 16, "norm_num_groups": 16,
    "down_block_types": ["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift"}"#;

/// 6.8 million parameters, 32×32.
const RGB32: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 32, "block_out_channels": [64, 128, 128],
    "layers_per_block": 2, "attention_head_dim": 32, "norm_num_groups": 32,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}"#;

/// The published ImageNet-64 consistency model's shape: 296 million parameters.
const IMAGENET64: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 64, "block_out_channels": [192, 384, 576, 768],
    "layers_per_block": 3, "attention_head_dim": 64, "norm_num_groups": 32, "num_class_embeds": 1000,
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift"}"#;

/// One level of 256 channels at 32²: its middle holds the 256 → 256 convolution.
const CONV256: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 32, "block_out_channels": [256],
    "layers_per_block": 1, "add_attention": false, "norm_num_groups": 32,
    "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}"#;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let launches = arguments.iter().any(|a| a == "--launches");
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1));
    let batches: Vec<usize> = after("--batch")
        .map_or(vec![1, 16], |list| list.split(',').map(|b| b.parse().expect("a batch size")).collect());
    let names: Vec<&str> =
        ["mnist", "rgb32", "imagenet64"].into_iter().filter(|name| arguments.iter().any(|a| a == name)).collect();
    let names = if names.is_empty() { vec!["mnist", "rgb32", "imagenet64"] } else { names };

    let gpu = pollster::block_on(Gpu::request())?;
    println!("{}, {}", gpu.description(), gpu.kernels());
    let rate = multiply_add_rate();
    println!("multiply-adds: {rate:.1} GFLOP/s measured");

    let times = measure(&gpu, CONV256, 16)?;
    let conv = times.iter().find(|t| t.label == "mid_block.resnets.0.conv1").expect("the middle block's convolution");
    let flops = gigaflops(conv.multiply_adds, conv.nanoseconds);
    println!("256 → 256 at 32², batch 16: {flops:.1} GFLOP/s, {:.0} % ({})", 100.0 * flops / rate, conv.kernel);

    for name in names {
        let config = match name {
            "mnist" => MNIST,
            "rgb32" => RGB32,
            _ => IMAGENET64,
        };
        for &batch in &batches {
            let times = measure(&gpu, config, batch)?;
            print_forward(name, batch, &times);
            if launches {
                times.iter().for_each(|t| print_row(&t.label, t.kernel, t.multiply_adds, t.nanoseconds));
            }
        }
    }
    Ok(())
}

/// The median run of a network with random weights; launches as they were in that run.
fn measure(gpu: &Gpu, config: &str, batch: usize) -> Result<Vec<LaunchTime>> {
    let config = UNetConfig::parse(config)?;
    let mut network = GpuUNet::new(gpu, &config)?;
    let mut normals = Generator::new(0);
    for parameter in UNet::new(&config).parameters() {
        let len: usize = parameter.shape.iter().product();
        let mut values = vec![0.0; len];
        normals.randn(&mut values);
        let fan_in: usize = parameter.shape[1..].iter().product();
        values.iter_mut().for_each(|v| *v /= (fan_in as f32).sqrt());
        network.load(Arrival::Rows(Rows::whole_f32(&parameter.name, &f32_bytes(&values))))?;
    }
    let [h, w] = config.sample_size;
    let mut sample = vec![0.0; batch * config.in_channels * h * w];
    normals.randn(&mut sample);
    let timestep = vec![100.0; batch];
    let labels = if config.num_class_embeds.is_some() { vec![0; batch] } else { Vec::new() };
    let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &labels };
    let mut runs =
        (0..ROUNDS).map(|_| pollster::block_on(network.profile(input))).collect::<Result<Vec<Vec<LaunchTime>>>>()?;
    runs.sort_by(|a, b| whole(a).total_cmp(&whole(b)));
    Ok(runs.swap_remove(ROUNDS / 2))
}

/// From the first launch's begin to the last one's end, in nanoseconds.
fn whole(times: &[LaunchTime]) -> f64 {
    times.last().map_or(0.0, |t| t.begin_nanoseconds + t.nanoseconds)
}

fn print_forward(name: &str, batch: usize, times: &[LaunchTime]) {
    let products: usize = times.iter().map(|t| t.multiply_adds).sum();
    println!("\n{name}, batch {batch}, {} launches", times.len());
    print_row("forward", "", products, whole(times));
    let mut kernels: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    for time in times {
        let sum = kernels.entry(time.kernel).or_default();
        *sum = (sum.0 + 1, sum.1 + time.multiply_adds, sum.2 + time.nanoseconds);
    }
    for (kernel, (count, products, nanoseconds)) in kernels {
        print_row(&format!("{count} launches"), kernel, products, nanoseconds);
    }
}

fn print_row(label: &str, kernel: &str, multiply_adds: usize, nanoseconds: f64) {
    let rate = gigaflops(multiply_adds, nanoseconds);
    println!("{label:44} {kernel:12} {:10.3} ms {rate:10.1} GFLOP/s", nanoseconds / 1e6);
}

fn gigaflops(multiply_adds: usize, nanoseconds: f64) -> f64 {
    2.0 * multiply_adds as f64 / nanoseconds
}

/// GFLOP/s of a kernel that does nothing but multiply and add in registers.
fn multiply_add_rate() -> f64 {
    const GROUPS: u32 = 4096;
    const STEPS: u32 = 256;
    const SUMS: u32 = 16;
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
    pollster::block_on(async {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = instance.request_adapter(&options).await.expect("an adapter");
        let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await.expect("a device");
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
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 1024,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
        });
        let run = |count: u32| {
            let mut encoder = device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &bindings, &[]);
                (0..count).for_each(|_| pass.dispatch_workgroups(GROUPS, 1, 1));
            }
            let begin = std::time::Instant::now();
            queue.submit([encoder.finish()]);
            device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
            begin.elapsed().as_secs_f64()
        };
        // More until it takes long enough for the host's clock, and the cost of a submit is small beside it.
        let mut count = 1;
        let mut seconds = run(1);
        while seconds < 0.1 {
            count *= 2;
            seconds = run(count);
        }
        let flops = f64::from(count) * f64::from(GROUPS) * 64.0 * f64::from(STEPS) * f64::from(SUMS) * 8.0;
        flops / seconds / 1e9
    })
}
