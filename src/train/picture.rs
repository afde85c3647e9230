//! A picture file in memory: decoded, turned as its camera was held, and scaled.

use std::io::Cursor;
use std::path::Path;

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::error::{Error, Result};
use crate::file;
use crate::image::png::{Rgba, decode_rgba, dimensions as png_dimensions};

/// Decodes a PNG or JPEG, whichever its bytes are: names do not always tell.
pub fn read(path: &Path) -> Result<Rgba> {
    by_kind(path, decode_jpeg, |png| decode_rgba(Cursor::new(png), None))
}

/// The shorter side of a picture, from its header.
///
/// # Errors
/// Those of [`read`].
pub fn shorter_side(path: &Path) -> Result<usize> {
    let of_jpeg = |jpeg: &[u8]| {
        let mut decoder = JpegDecoder::new(Cursor::new(jpeg));
        decoder.decode_headers().map_err(|e| damaged(&e))?;
        decoder.dimensions().ok_or_else(|| NO_SIZE.into())
    };
    let (width, height) = by_kind(path, of_jpeg, |png| png_dimensions(Cursor::new(png)))?;
    Ok(width.min(height))
}

/// What one of two decoders makes of a file, with errors that name it.
fn by_kind<T>(
    path: &Path,
    of_jpeg: impl FnOnce(&[u8]) -> Decoded<T>,
    of_png: impl FnOnce(&[u8]) -> Decoded<T>,
) -> Result<T> {
    let bytes = file::read(path)?;
    let decoded = match bytes.as_slice() {
        [0xff, 0xd8, 0xff, ..] => of_jpeg(&bytes),
        [0x89, b'P', b'N', b'G', ..] => of_png(&bytes),
        _ => Err("expected a PNG or JPEG, found neither".into()),
    };
    decoded.map_err(|m| Error::Input(format!("{}: {m}", path.display())))
}

type Decoded<T> = std::result::Result<T, String>;

const NO_SIZE: &str = "damaged JPEG: it has no size";

fn damaged(e: &DecodeErrors) -> String {
    format!("damaged JPEG: {e}")
}

/// Decodes a JPEG, and turns it as its camera was held.
fn decode_jpeg(bytes: &[u8]) -> Decoded<Rgba> {
    // Strict: a file that is cut off is an error, not a picture that ends in grey.
    let options = DecoderOptions::default().set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(Cursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| damaged(&e))?;
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let space = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let values = decoder.decode().map_err(|e| damaged(&e))?;
    let (width, height) = decoder.dimensions().ok_or(NO_SIZE)?;
    let pixels = match grey {
        true => values.iter().map(|&v| [v, v, v, 255]).collect(),
        false => values.as_chunks().0.iter().map(|&[r, g, b]| [r, g, b, 255]).collect(),
    };
    let orientation = decoder.exif().and_then(|exif| orientation(exif)).unwrap_or(1);
    Ok(Rgba { width, height, grey, pixels }.turned(orientation))
}

/// The tag Orientation of EXIF data (a TIFF header and its first directory), 1 to 8.
fn orientation(exif: &[u8]) -> Option<u16> {
    let is_little = match exif.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes = exif.get(at..at + 2)?.try_into().ok()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let u32_at = |at: usize| {
        let (first, second) = (u32::from(u16_at(at)?), u32::from(u16_at(at + 2)?));
        Some(if is_little { second << 16 | first } else { first << 16 | second } as usize)
    };
    let directory = u32_at(4)?;
    let entries = usize::from(u16_at(directory)?);
    let entry = (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| u16_at(at) == Some(0x0112))?;
    u16_at(entry + 8).filter(|value| (1..=8).contains(value))
}

impl Rgba {
    /// The picture as EXIF's `orientation` says that it is seen: 1 as it is, 2 mirrored, 3 upside down, 4 both, 5 to 8 with rows and
    /// columns exchanged.
    fn turned(self, orientation: u16) -> Self {
        let (width, height) = (self.width, self.height);
        let is_exchanged = orientation >= 5;
        let (new_width, new_height) = if is_exchanged { (height, width) } else { (width, height) };
        let [flip_x, flip_y] = match orientation {
            5 => [false, false],
            2 | 8 => [true, false],
            4 | 6 => [false, true],
            3 | 7 => [true, true],
            _ => return self,
        };
        let from = |y: usize, x: usize| {
            let (y, x) = if is_exchanged { (x, y) } else { (y, x) };
            let x = if flip_x { width - 1 - x } else { x };
            let y = if flip_y { height - 1 - y } else { y };
            self.pixels[y * width + x]
        };
        let pixels =
            (0..new_height).flat_map(|y| (0..new_width).map(move |x| (y, x))).map(|(y, x)| from(y, x)).collect();
        Self { width: new_width, height: new_height, grey: self.grey, pixels }
    }

    /// The square in the middle at `side` × `side` pixels, each the mean of the area that it covers; none where the picture is
    /// smaller. A `side` of 0 leaves it as it is.
    pub fn fitted(self, side: usize) -> Option<Self> {
        let (width, height) = (self.width, self.height);
        let square = width.min(height);
        if side == 0 || (width, height) == (side, side) {
            return Some(self);
        }
        if square < side {
            return None;
        }
        let (left, top) = ((width - square) / 2, (height - square) / 2);
        // For each new row or column those that it covers, with the share of each.
        let covered = |i: usize| {
            let [from, to] = [i, i + 1].map(|edge| edge as f64 * square as f64 / side as f64);
            (from as usize..(to.ceil() as usize).min(square))
                .map(move |at| (at, to.min(at as f64 + 1.0) - from.max(at as f64)))
        };
        let mean = |y: usize, x: usize| {
            let mut sums = [0.0; 4];
            for (row, high) in covered(y) {
                for (column, wide) in covered(x) {
                    let pixel = self.pixels[(top + row) * width + left + column];
                    // Colours count as much as they are seen.
                    let alpha = f64::from(pixel[3]) * high * wide;
                    (0..3).for_each(|c| sums[c] += f64::from(pixel[c]) * alpha);
                    sums[3] += alpha;
                }
            }
            let area = (square as f64 / side as f64).powi(2);
            let colour = |c: usize| (sums[c] / sums[3].max(1e-9)).round() as u8;
            [colour(0), colour(1), colour(2), (sums[3] / area).round() as u8]
        };
        let pixels = (0..side).flat_map(|y| (0..side).map(move |x| (y, x))).map(|(y, x)| mean(y, x)).collect();
        Some(Self { width: side, height: side, grey: self.grey, pixels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_turned_as_their_camera_was_held() {
        // Of 2×3 pixels; as Pillow's ImageOps.exif_transpose turns them.
        let expected: [(u16, usize, [u8; 6]); 8] = [
            (1, 2, [1, 2, 3, 4, 5, 6]),
            (2, 2, [2, 1, 4, 3, 6, 5]),
            (3, 2, [6, 5, 4, 3, 2, 1]),
            (4, 2, [5, 6, 3, 4, 1, 2]),
            (5, 3, [1, 3, 5, 2, 4, 6]),
            (6, 3, [5, 3, 1, 6, 4, 2]),
            (7, 3, [6, 4, 2, 5, 3, 1]),
            (8, 3, [2, 4, 6, 1, 3, 5]),
        ];
        for (orientation, width, values) in expected {
            let pixels = (1..=6).map(|v| [v, v, v, 255]).collect();
            let turned = Rgba { width: 2, height: 3, grey: true, pixels }.turned(orientation);
            let found: Vec<u8> = turned.pixels.iter().map(|p| p[0]).collect();
            assert_eq!((turned.width, found.as_slice()), (width, &values[..]), "orientation {orientation}");
        }
        let tiff = |start: &[u8], entry: &[u8]| [start, entry].concat();
        let little = tiff(b"II*\0\x08\0\0\0\x01\0", b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0");
        let big = tiff(b"MM\0*\0\0\0\x08\0\x01", b"\x01\x12\0\x03\0\0\0\x01\0\x08\0\0");
        assert_eq!((orientation(&little), orientation(&big)), (Some(6), Some(8)));
        assert_eq!((orientation(&little[..19]), orientation(b"II")), (None, None));
    }

    #[test]
    fn pictures_are_cut_to_their_middle_and_scaled_by_areas() {
        let grey = |width: usize, values: &[u8]| Rgba {
            width,
            height: values.len() / width,
            grey: true,
            pixels: values.iter().map(|&v| [v, v, v, 255]).collect(),
        };
        let values = |image: Option<Rgba>| image.map(|i| i.pixels.iter().map(|p| p[0]).collect::<Vec<_>>());
        // 4×2: the middle is 2×2.
        assert_eq!(values(grey(4, &[9, 10, 20, 9, 9, 30, 40, 9]).fitted(1)), Some(vec![25]));
        assert_eq!(values(grey(4, &[9, 10, 20, 9, 9, 30, 40, 9]).fitted(2)), Some(vec![10, 20, 30, 40]));
        // 3 pixels to 2: each covers one and a half.
        assert_eq!(values(grey(3, &[0, 90, 180, 0, 90, 180, 0, 90, 180]).fitted(2)), Some(vec![30, 150, 30, 150]));
        assert_eq!(values(grey(4, &[0; 8]).fitted(3)), None);
        // What is not seen has no colour.
        let clear = Rgba {
            width: 2,
            height: 2,
            grey: false,
            pixels: vec![[200, 0, 0, 255], [0, 99, 0, 0], [200, 0, 0, 255], [0; 4]],
        };
        assert_eq!(clear.fitted(1).unwrap().pixels, [[200, 0, 0, 128]]);
    }
}
