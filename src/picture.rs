//! Pictures in PNG files.

use std::fs::File;
#[cfg(feature = "train")]
use std::io::BufReader;
use std::io::{BufRead, BufWriter, Seek};
use std::path::Path;
#[cfg(feature = "train")]
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::image::{from_rgba, to_byte};
use crate::model::config::UNetConfig;

/// A decoded picture.
#[cfg(feature = "train")]
#[derive(Debug, Clone)]
pub(crate) struct Rgba {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Whether the file stores grey levels.
    pub(crate) grey: bool,
    /// Row-major.
    pub(crate) pixels: Vec<[u8; 4]>,
}

/// Reads the header of a PNG that will be decoded to 8 bits a channel.
///
/// A palette that is not made of whole colours, or has fewer of them than its transparency, is refused here: png 0.18.1
/// panics when it decodes with one (image-png's issue 694).
fn open<R: BufRead + Seek>(file: R) -> std::result::Result<png::Reader<R>, String> {
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

/// The channels that the file stores, and the pixels, row-major.
fn decode<R: BufRead + Seek>(mut reader: png::Reader<R>) -> std::result::Result<(usize, Vec<[u8; 4]>), String> {
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("too large")?];
    let info = reader.next_frame(&mut bytes).map_err(|e| e.to_string())?;
    let channels = info.color_type.samples();
    let rgba = |pixel: &[u8]| match *pixel {
        [v] => [v, v, v, 255],
        [v, alpha] => [v, v, v, alpha],
        [r, g, b] => [r, g, b, 255],
        [r, g, b, alpha] => [r, g, b, alpha],
        _ => unreachable!("PNG has 1 to 4 channels"),
    };
    Ok((channels, bytes[..info.buffer_size()].chunks_exact(channels).map(rgba).collect()))
}

/// Reads a PNG of any size.
///
/// # Errors
/// [`Error::Io`] when the file cannot be opened, [`Error::Input`] when it is no PNG or damaged.
#[cfg(feature = "train")]
pub(crate) fn read_rgba(path: &Path) -> Result<Rgba> {
    let file = File::open(path).map_err(|e| Error::Io(format!("{}: {e}", path.display())))?;
    let bad = |e: String| Error::Input(format!("{}: not a readable PNG: {e}", path.display()));
    let reader = open(BufReader::new(file)).map_err(bad)?;
    let [width, height] = [reader.info().width, reader.info().height].map(|n| n as usize);
    let (channels, pixels) = decode(reader).map_err(bad)?;
    Ok(Rgba { width, height, grey: channels < 3, pixels })
}

/// Reads a PNG of the model's size as (C, H, W) in [−1, 1].
///
/// Grey becomes three equal channels, colours become their luma where the model is grey; transparent pixels are seen on
/// black. A picture of another size is refused before its pixels are decoded.
///
/// # Errors
/// [`Error::Input`] when the file is no PNG, is damaged, or has another size than the model's pictures.
pub fn read_png(file: impl BufRead + Seek, config: &UNetConfig) -> Result<Vec<f32>> {
    let reader = open(file).map_err(|e| Error::Input(format!("not a PNG: {e}")))?;
    let [height, width] = config.sample_size;
    let found = (reader.info().height as usize, reader.info().width as usize);
    if found != (height, width) {
        return Err(Error::Input(format!("expected {height}×{width} pixels, found {}×{}", found.0, found.1)));
    }
    let (_, pixels) = decode(reader).map_err(|e| Error::Input(format!("damaged PNG: {e}")))?;
    Ok(from_rgba(pixels.as_flattened(), config.in_channels))
}

/// Writes images (B, C, H, W) in [−1, 1] as one PNG, in rows of `columns`; C is 1 or 3.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn write_grid(
    path: impl AsRef<Path>,
    [batch, channels, height, width]: [usize; 4],
    columns: usize,
    images: &[f32],
) -> Result<()> {
    let path = path.as_ref();
    let (grid_w, grid_h) = (columns * width, batch.div_ceil(columns) * height);
    let mut bytes = vec![0; grid_w * grid_h * channels];
    for (b, image) in images.chunks_exact(channels * height * width).enumerate() {
        let (top, left) = (b / columns * height, b % columns * width);
        for (i, &v) in image.iter().enumerate() {
            let (c, y, x) = (i / (height * width), i / width % height, i % width);
            bytes[((top + y) * grid_w + left + x) * channels + c] = to_byte(v);
        }
    }
    let failed = |e: &dyn std::fmt::Display| Error::Io(format!("{}: cannot be written: {e}", path.display()));
    let file = File::create(path).map_err(|e| failed(&e))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), grid_w as u32, grid_h as u32);
    encoder.set_color(if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| failed(&e))?;
    writer.write_image_data(&bytes).map_err(|e| failed(&e))?;
    writer.finish().map_err(|e| failed(&e))
}

/// The paths in a folder, in alphabetical order.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read.
#[cfg(feature = "train")]
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::Io(format!("{}: {e}", folder.display()));
    let read = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths = read.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// The PNG files of a folder, in alphabetical order.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read.
#[cfg(feature = "train")]
pub(crate) fn pngs(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_png = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    Ok(entries(folder)?.into_iter().filter(is_png).collect())
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
        Ok(open(Cursor::new(file)).and_then(decode)?.1)
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
