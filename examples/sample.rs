//! Draws ten digits and writes them as one PNG.
//!
//! ```sh
//! cargo run --release --features png --example sample -- weights/mnist digits.png
//! ```

use consistency_sampler::{Device, Pipeline, Request, Result, write_grid};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "weights/mnist".into());
    let output = arguments.next().unwrap_or_else(|| "samples.png".into());

    let mut pipeline = Pipeline::open(&model, Device::Auto)?;
    let [height, width] = pipeline.unet().sample_size;
    let channels = pipeline.unet().in_channels;
    let classes = pipeline.unet().num_class_embeds.map(|n| (0..10).map(|i| (i % n) as u32).collect());
    let request = Request { noise: 1.into(), batch: 10, class_labels: classes, ..Default::default() };
    let images = pollster::block_on(pipeline.sample(&request))?;
    write_grid(&output, [10, channels, height, width], 5, &images)?;
    println!("{output}: 10 samples on {}", pipeline.network().device());
    Ok(())
}
