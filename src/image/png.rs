//! PNG files: decoded to 8-bit RGBA or to a model's (C, H, W), and written as grids of grey or RGB images.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::Path;

use png::{BitDepth, ColorType, Decoder, Encoder, Transformations};

use super::{from_rgba, to_byte};
use crate::error::{Error, Result};
use crate::file::{replace, unreadable};
use crate::model::config::UNetConfig;

/// A decoded PNG.
#[cfg_attr(not(feature = "train"), expect(dead_code, reason = "training data has the size and colours of its files"))]
pub(crate) struct Rgba {
    pub width: usize,
    pub height: usize,
    /// Whether the file stores grey levels.
    pub grey: bool,
    /// R, G, B and alpha of each pixel, row-major.
    pub pixels: Vec<[u8; 4]>,
}

/// Width and height of a PNG, from its header.
#[cfg(feature = "train")]
pub(crate) fn dimensions(file: impl BufRead + Seek) -> std::result::Result<(usize, usize), String> {
    let reader = Decoder::new(file).read_info().map_err(|e| format!("not a PNG: {e}"))?;
    Ok((reader.info().width as usize, reader.info().height as usize))
}

/// Decodes a PNG. A picture of another size than `expected`, (height, width), is refused before its pixels are decoded.
///
/// A palette that is not made of whole colours, or has fewer of them than its transparency, is refused too: png 0.18.1
/// panics when it decodes with one (image-png's issue 694).
pub(crate) fn decode_rgba(
    file: impl BufRead + Seek,
    expected: Option<[usize; 2]>,
) -> std::result::Result<Rgba, String> {
    let mut decoder = Decoder::new(file);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| format!("not a PNG: {e}"))?;
    let info = reader.info();
    if let Some(palette) = info.palette.as_deref() {
        let (length, transparent) = (palette.len(), info.trns.as_deref().map_or(0, <[u8]>::len));
        if !length.is_multiple_of(3) {
            return Err(format!("not a PNG: expected a palette of 3 bytes a colour, found {length} bytes"));
        }
        if info.color_type == ColorType::Indexed && transparent > length / 3 {
            let colours = length / 3;
            return Err(format!("not a PNG: expected at most {colours} transparent colours, found {transparent}"));
        }
    }
    let (height, width) = (info.height as usize, info.width as usize);
    if let Some([h, w]) = expected.filter(|size| *size != [height, width]) {
        return Err(format!("expected {h}×{w} pixels, found {height}×{width}"));
    }
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("too large")?];
    reader.next_frame(&mut bytes).map_err(|e| format!("damaged PNG: {e}"))?;
    let channels = reader.output_color_type().0.samples();
    let pixels = bytes.chunks_exact(channels).take(height * width).map(|pixel| match *pixel {
        [v] => [v, v, v, 255],
        [v, alpha] => [v, v, v, alpha],
        [r, g, b] => [r, g, b, 255],
        [r, g, b, alpha] => [r, g, b, alpha],
        _ => unreachable!("PNG has 1 to 4 channels"),
    });
    Ok(Rgba { width, height, grey: channels < 3, pixels: pixels.collect() })
}

fn open(path: &Path) -> Result<BufReader<File>> {
    File::open(path).map(BufReader::new).map_err(|e| unreadable(path, &e))
}

fn named(path: &Path) -> impl FnOnce(String) -> Error {
    move |message| Error::Input(format!("{}: {message}", path.display()))
}

/// Reads a PNG of any size.
///
/// # Errors
/// [`Error::Io`] when the file is unreadable, [`Error::Input`] when it is no PNG or damaged.
#[cfg(feature = "train")]
pub(crate) fn read_rgba(path: &Path) -> Result<Rgba> {
    decode_rgba(open(path)?, None).map_err(named(path))
}

/// Reads a PNG of the model's size as [`decode`] does.
///
/// # Errors
/// [`Error::Io`] when the file is unreadable, and those of [`decode`], with the file's path.
pub fn read(path: impl AsRef<Path>, config: &UNetConfig) -> Result<Vec<f32>> {
    let path = path.as_ref();
    let image = decode_rgba(open(path)?, Some(config.sample_size)).map_err(named(path))?;
    Ok(from_rgba(image.pixels.as_flattened(), config.in_channels))
}

/// Decodes a PNG of the model's size to (C, H, W) in [−1, 1].
///
/// Grey becomes three equal channels, colours become their luma where the model is grey; transparent pixels are
/// composed on black. A picture of another size is refused before its pixels are decoded.
///
/// # Errors
/// [`Error::Input`] when the file is no PNG, is damaged, or has another size than the model's images.
pub fn decode(file: impl BufRead + Seek, config: &UNetConfig) -> Result<Vec<f32>> {
    let image = decode_rgba(file, Some(config.sample_size)).map_err(Error::Input)?;
    Ok(from_rgba(image.pixels.as_flattened(), config.in_channels))
}

/// Writes images (B, C, H, W) in [−1, 1] as one PNG, in rows of `columns`: grey for C = 1, RGB for C = 3.
///
/// # Errors
/// [`Error::Input`] when `columns` is 0, C is neither 1 nor 3, or there are not B·C·H·W values; [`Error::Io`] when the file
/// cannot be written.
pub fn write_grid(path: impl AsRef<Path>, shape: [usize; 4], columns: usize, images: &[f32]) -> Result<()> {
    replace(path.as_ref(), &encode_grid(shape, columns, images)?)
}

/// The bytes that [`write_grid`] writes.
///
/// # Errors
/// [`Error::Input`] as [`write_grid`].
pub fn encode_grid([batch, channels, height, width]: [usize; 4], columns: usize, images: &[f32]) -> Result<Vec<u8>> {
    let (expected, found) = (batch * channels * height * width, images.len());
    if columns == 0 || !matches!(channels, 1 | 3) || expected == 0 || expected != found {
        return Err(Error::Input(format!(
            "grid: expected columns from 1, 1 or 3 channels and {batch}×{channels}×{height}×{width} values, found {columns} \
             columns and {found} values"
        )));
    }
    let (grid_w, grid_h) = (columns * width, batch.div_ceil(columns) * height);
    let mut bytes = vec![0; grid_w * grid_h * channels];
    for (b, image) in images.chunks_exact(channels * height * width).enumerate() {
        let (top, left) = (b / columns * height, b % columns * width);
        for (i, &v) in image.iter().enumerate() {
            let (c, y, x) = (i / (height * width), i / width % height, i % width);
            bytes[((top + y) * grid_w + left + x) * channels + c] = to_byte(v);
        }
    }
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, grid_w as u32, grid_h as u32);
    encoder.set_color(if channels == 1 { ColorType::Grayscale } else { ColorType::Rgb });
    encoder.set_depth(BitDepth::Eight);
    let write = |encoder: Encoder<_>| {
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&bytes)?;
        writer.finish()
    };
    write(encoder).map_err(|e| Error::Input(format!("grid: {grid_h}×{grid_w} pixels: {e}")))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Indexed, 2 pixels of 2.
    fn indexed(palette: &[u8], transparency: Option<&[u8]>) -> std::result::Result<Vec<[u8; 4]>, String> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 2, 2);
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_palette(palette.to_vec());
        if let Some(transparency) = transparency {
            encoder.set_trns(transparency.to_vec());
        }
        encoder.write_header().unwrap().write_image_data(&[0, 1, 1, 0]).unwrap();
        decode_rgba(Cursor::new(file), None).map(|image| image.pixels)
    }

    #[test]
    fn whole_palettes_are_read_and_ragged_ones_refused() {
        let (a, b) = ([1, 2, 3, 255], [4, 5, 6, 255]);
        assert_eq!(indexed(&[1, 2, 3, 4, 5, 6], None).unwrap(), [a, b, b, a]);
        let faint = [4, 5, 6, 7];
        assert_eq!(indexed(&[1, 2, 3, 4, 5, 6], Some(&[255, 7])).unwrap(), [a, faint, faint, a]);
        for ragged in [&[1, 2, 3, 4][..], &[1, 2, 3, 4, 5]] {
            let e = indexed(ragged, None).unwrap_err();
            assert_eq!(e, format!("not a PNG: expected a palette of 3 bytes a colour, found {} bytes", ragged.len()));
        }
        let e = indexed(&[1, 2, 3, 4, 5, 6], Some(&[9, 9, 9])).unwrap_err();
        assert_eq!(e, "not a PNG: expected at most 2 transparent colours, found 3");
    }

    #[test]
    fn grids_that_do_not_fit_their_images_are_refused_before_a_file_is_made() {
        let images = [0.0; 8];
        for (shape, columns) in
            [([2, 1, 2, 2], 0), ([0, 1, 2, 2], 1), ([3, 1, 2, 2], 1), ([1, 2, 2, 2], 1), ([1, 1, 2, 2], 1)]
        {
            let error = write_grid("never-written.png", shape, columns, &images).unwrap_err();
            assert!(matches!(&error, Error::Input(m) if m.starts_with("grid: expected")), "{shape:?}: {error}");
        }
        assert!(!Path::new("never-written.png").exists());
    }
}
