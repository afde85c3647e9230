//! Keeps the left half of a sample and generates the right half anew, four times.
//!
//! ```sh
//! cargo run --release --features png --example inpaint -- weights/mnist inpainted.png
//! ```

use consistency_sampler::{Device, Edit, EditRequest, Pipeline, Request, Result, Task, write_grid};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "weights/mnist".into());
    let output = arguments.next().unwrap_or_else(|| "inpainted.png".into());

    let mut pipeline = Pipeline::open(&model, Device::Auto)?;
    let [height, width] = pipeline.unet().sample_size;
    let channels = pipeline.unet().in_channels;
    let class_labels = pipeline.unet().num_class_embeds.map(|_| vec![0]);
    let first = Request { noise: 4.into(), class_labels: class_labels.clone(), ..Default::default() };
    let picture = pollster::block_on(pipeline.sample(&first))?;

    let hole = (0..height * width).map(|i| i % width >= width / 2).collect();
    let request = Request { noise: 5.into(), batch: 4, class_labels, ..Default::default() };
    let edit = EditRequest { task: Task::Edit(Edit::Inpaint { hole }), picture: picture.clone(), request };
    let edited = pollster::block_on(pipeline.edit(&edit))?;
    write_grid(&output, [5, channels, height, width], 5, &[picture, edited].concat())?;
    println!("{output}: the picture, then four with the right half generated anew");
    Ok(())
}
