//! Pictures from PNG files, as the sampler's numbers.

use std::io::{BufRead, Seek};

use crate::config::UNetConfig;
use crate::edit::LUMA;
use crate::error::{Error, Result};

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
    let (color, _) = reader.output_color_type();
    let samples = color.samples();
    let pixels = bytes.chunks_exact(samples).take(height * width).map(|p| {
        let alpha = if samples % 2 == 0 { f32::from(p[samples - 1]) / 255.0 } else { 1.0 };
        let channel = |c: usize| f32::from(p[if samples < 3 { 0 } else { c }]) * alpha;
        [channel(0), channel(1), channel(2)]
    });
    let pixels: Vec<[f32; 3]> = pixels.collect();
    let grey = |p: &[f32; 3]| match p[0] == p[1] && p[1] == p[2] {
        true => p[0],
        false => p.iter().zip(LUMA).map(|(p, w)| p * w).sum(),
    };
    let value = |c: usize, p: &[f32; 3]| if config.in_channels == 1 { grey(p) } else { p[c.min(2)] };
    let planes = (0..config.in_channels).flat_map(|c| pixels.iter().map(move |p| value(c, p) / 127.5 - 1.0));
    Ok(planes.collect())
}
