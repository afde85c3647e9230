//! Times a step of training (forward and gradient) on this machine's GPU beside its forward, and beside the CPU backend, with
//! random weights.
//!
//! ```sh
//! cargo bench --features gradient --bench gradient -- [mnist | rgb32 | imagenet64] [--batch B] [--kernels]
//! ```
//!
//! `--kernels` lists the time of each kernel by the device's own clock.

mod shapes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consistency_sampler::Result;
use consistency_sampler::checkpoint::tensor::{Arrival, Rows, f32_bytes};
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::cpu::CpuGraph;
use consistency_sampler::gpu::{Gpu, GpuGradient, GpuUNet};
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::model::unet::{UNet, time_features};
use consistency_sampler::network::{ForwardInput, Network};
use shapes::SHAPES;

/// Runs of each case; the median counts.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let kernels = arguments.iter().any(|a| a == "--kernels");
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1));
    let batch = after("--batch").map_or(16, |b| b.parse().expect("a batch size"));
    let gpu = pollster::block_on(Gpu::request())?;
    println!("{}, {}", gpu.description(), gpu.kernels());
    let named: Vec<_> = SHAPES.into_iter().filter(|(name, _)| arguments.iter().any(|a| a == name)).collect();
    // The largest takes gigabytes: only where it is named.
    for &(name, json) in if named.is_empty() { &SHAPES[..2] } else { &named } {
        measure(&gpu, name, &UNetConfig::parse(json)?, batch, kernels)?;
    }
    Ok(())
}

fn measure(gpu: &Gpu, name: &str, config: &UNetConfig, batch: usize, kernels: bool) -> Result<()> {
    let unet = UNet::new(config);
    let mut normals = Generator::new(0);
    let [h, w] = config.sample_size;
    let mut sample = vec![0.0; batch * config.in_channels * h * w];
    normals.randn(&mut sample);
    let timestep = vec![100.0; batch];
    let labels = vec![0; if config.num_class_embeds.is_some() { batch } else { 0 }];
    let time = time_features(config, &timestep);
    let mut weights = Vec::new();
    let mut sampling = GpuUNet::new(gpu, config)?;
    for parameter in unet.parameters() {
        let mut values = vec![0.0; parameter.shape.iter().product()];
        normals.randn(&mut values);
        let fan_in: usize = parameter.shape[1..].iter().product();
        values.iter_mut().for_each(|v| *v /= (fan_in as f32).sqrt());
        sampling.load(Arrival::Rows(Rows::whole_f32(&parameter.name, &f32_bytes(&values))))?;
        weights.extend(values);
    }
    let mut network = GpuGradient::new(gpu, config)?;
    let cpu = CpuGraph::new(config, &unet);

    let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &labels };
    // In turn, so that what else the machine does falls on all of them.
    let [mut forwards, mut recorded, mut steps, mut on_cpu] = [(); 4].map(|()| Vec::with_capacity(ROUNDS));
    for round in 0..=ROUNDS {
        let begin = Instant::now();
        pollster::block_on(sampling.forward(input))?;
        let forward = begin.elapsed();
        let begin = Instant::now();
        network.load(&weights);
        pollster::block_on(network.forward(&sample, &time, &labels))?;
        let record = begin.elapsed();
        pollster::block_on(network.gradient(&sample))?;
        let step = begin.elapsed();
        let begin = Instant::now();
        let (output, tape) = cpu.record(&weights, &sample, &time, &labels);
        drop(cpu.gradient(&weights, tape, &output));
        let cpu_step = begin.elapsed();
        // The first round compiles kernels.
        if round > 0 {
            let times = [&mut forwards, &mut recorded, &mut steps, &mut on_cpu];
            times.into_iter().zip([forward, record, step, cpu_step]).for_each(|(all, time)| all.push(time));
        }
    }
    let [forward, recorded, step, on_cpu] = [forwards, recorded, steps, on_cpu].map(median);
    let cost = sampling.report().expect("called before");
    let report = network.report().expect("called before");
    let per_second = |seconds: f64| batch as f64 / seconds;
    println!("\n{name}, batch {batch}: {} + {} launches", report.forward_launches, report.reverse_launches);
    println!("forward    {:9.1} ms, recorded {:.1} ms", 1e3 * forward, 1e3 * recorded);
    println!("step       {:9.1} ms, {:.2} forwards, {:.1} images/s", 1e3 * step, step / forward, per_second(step));
    println!("CPU step   {:9.1} ms, {:.1} images/s", 1e3 * on_cpu, per_second(on_cpu));
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "activations {:.1} MB; all of a forward {:.1} MB, alive at once {:.1} MB; weights and gradients {:.1} MB",
        megabytes(report.activation_bytes),
        megabytes(report.forward_bytes),
        megabytes(cost.live_bytes),
        megabytes(report.weight_bytes)
    );
    if kernels {
        let times = pollster::block_on(network.profile())?;
        let mut by_kernel: BTreeMap<(bool, &str), (usize, usize, f64)> = BTreeMap::new();
        for (i, time) in times.iter().enumerate() {
            let sum = by_kernel.entry((i + 2 >= report.forward_launches, time.kernel)).or_default();
            *sum = (sum.0 + 1, sum.1 + time.multiply_adds, sum.2 + time.nanoseconds);
        }
        for ((is_reverse, kernel), (count, products, nanoseconds)) in by_kernel {
            let pass = if is_reverse { "reverse" } else { "forward" };
            let rate = 2.0 * products as f64 / nanoseconds;
            println!("{pass} {count:4} {kernel:18} {:9.2} ms {rate:8.1} GFLOP/s", nanoseconds / 1e6);
        }
    }
    Ok(())
}

/// The median in seconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
