//! Pictures from PNG files, as the sampler's numbers.

use std::io::{BufRead, Seek};

use crate::config::UNetConfig;
use crate::error::{Error, Result};
use crate::image::from_rgba;

/// Reads a PNG of the model's size as (C, H, W) in [−1, 1].
///
/// Grey becomes three equal channels, colours become their luma where the model is grey; transparent pixels are seen on
/// black. A picture of another size is refused before its pixels are decoded.
///
/// # Errors
/// [`Error::Input`] when the file is no PNG, is damaged, or has another size than the model's pictures.
pub fn read_png(file: impl BufRead + Seek, config: &UNetConfig) -> Result<Vec<f32>> {
    let bad = |m: String| Error::Input(m);
    let mut decoder = png::Decoder::new(file);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| bad(format!("not a PNG: {e}")))?;
    let [height, width] = config.sample_size;
    let found = (reader.info().height as usize, reader.info().width as usize);
    if found != (height, width) {
        return Err(bad(format!("expected {height}×{width} pixels, found {}×{}", found.0, found.1)));
    }
    let size = reader.output_buffer_size().ok_or_else(|| bad("too large".into()))?;
    let mut bytes = vec![0; size];
    reader.next_frame(&mut bytes).map_err(|e| bad(format!("damaged PNG: {e}")))?;
    let samples = reader.output_color_type().0.samples();
    let rgba = bytes.chunks_exact(samples).take(height * width).flat_map(|p| match *p {
        [v] => [v, v, v, 255],
        [v, alpha] => [v, v, v, alpha],
        [r, g, b] => [r, g, b, 255],
        _ => [p[0], p[1], p[2], p[3]],
    });
    Ok(from_rgba(&rgba.collect::<Vec<u8>>(), config.in_channels))
}
