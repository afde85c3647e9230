//! Pictures from PNG files, as the sampler's numbers.

use std::io::{BufRead, Seek};

use crate::error::{Error, Result};
use crate::image::from_rgba;
use crate::model::config::UNetConfig;

/// Begins a PNG that will be decoded to 8 bits a channel: its header is read, its pixels are not.
///
/// A palette that is not made of whole colours, or has fewer of them than its transparency, is refused here: png 0.18.1
/// panics when it decodes with one (image-png's issue 694).
pub(crate) fn open<R: BufRead + Seek>(file: R) -> std::result::Result<png::Reader<R>, String> {
    let mut decoder = png::Decoder::new(file);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let reader = decoder.read_info().map_err(|e| e.to_string())?;
    let info = reader.info();
    if let Some(palette) = info.palette.as_deref() {
        let transparent = info.trns.as_deref().map_or(0, <[u8]>::len);
        if !palette.len().is_multiple_of(3) {
            return Err(format!("expected a palette of 3 bytes a colour, found {} bytes", palette.len()));
        }
        if info.color_type == png::ColorType::Indexed && transparent > palette.len() / 3 {
            return Err(format!("expected at most {} transparent colours, found {transparent}", palette.len() / 3));
        }
    }
    Ok(reader)
}

/// One pixel of 1 (grey), 2 (grey, alpha), 3 or 4 channels.
pub(crate) fn to_rgba(pixel: &[u8]) -> [u8; 4] {
    match *pixel {
        [v] => [v, v, v, 255],
        [v, alpha] => [v, v, v, alpha],
        [r, g, b] => [r, g, b, 255],
        [r, g, b, alpha] => [r, g, b, alpha],
        _ => unreachable!("PNG has 1 to 4 channels"),
    }
}

/// Reads a PNG of the model's size as (C, H, W) in [−1, 1].
///
/// Grey becomes three equal channels, colours become their luma where the model is grey; transparent pixels are seen on
/// black. A picture of another size is refused before its pixels are decoded.
///
/// # Errors
/// [`Error::Input`] when the file is no PNG, is damaged, or has another size than the model's pictures.
pub fn read_png(file: impl BufRead + Seek, config: &UNetConfig) -> Result<Vec<f32>> {
    let bad = |m: String| Error::Input(m);
    let mut reader = open(file).map_err(|e| bad(format!("not a PNG: {e}")))?;
    let [height, width] = config.sample_size;
    let found = (reader.info().height as usize, reader.info().width as usize);
    if found != (height, width) {
        return Err(bad(format!("expected {height}×{width} pixels, found {}×{}", found.0, found.1)));
    }
    let size = reader.output_buffer_size().ok_or_else(|| bad("too large".into()))?;
    let mut bytes = vec![0; size];
    reader.next_frame(&mut bytes).map_err(|e| bad(format!("damaged PNG: {e}")))?;
    let samples = reader.output_color_type().0.samples();
    let rgba = bytes.chunks_exact(samples).take(height * width).flat_map(to_rgba);
    Ok(from_rgba(&rgba.collect::<Vec<u8>>(), config.in_channels))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use png::{BitDepth, ColorType};

    use super::*;

    /// Indexed, 2 pixels of 2.
    fn indexed(palette: &[u8], transparency: Option<&[u8]>) -> std::result::Result<Vec<[u8; 4]>, String> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 2, 2);
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_palette(palette.to_vec());
        if let Some(transparency) = transparency {
            encoder.set_trns(transparency.to_vec());
        }
        encoder.write_header().unwrap().write_image_data(&[0, 1, 1, 0]).unwrap();
        let mut reader = open(Cursor::new(file))?;
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes.chunks_exact(reader.output_color_type().0.samples()).map(to_rgba).collect())
    }

    #[test]
    fn palettes_are_read_where_they_are_whole_and_refused_where_they_are_not() {
        let (a, b) = ([1, 2, 3, 255], [4, 5, 6, 255]);
        assert_eq!(indexed(&[1, 2, 3, 4, 5, 6], None).unwrap(), [a, b, b, a]);
        let faint = [4, 5, 6, 7];
        assert_eq!(indexed(&[1, 2, 3, 4, 5, 6], Some(&[255, 7])).unwrap(), [a, faint, faint, a]);
        for ragged in [&[1, 2, 3, 4][..], &[1, 2, 3, 4, 5]] {
            let e = indexed(ragged, None).unwrap_err();
            assert_eq!(e, format!("expected a palette of 3 bytes a colour, found {} bytes", ragged.len()));
        }
        let e = indexed(&[1, 2, 3, 4, 5, 6], Some(&[9, 9, 9])).unwrap_err();
        assert_eq!(e, "expected at most 2 transparent colours, found 3");
    }
}
