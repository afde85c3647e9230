//! The sampler's numbers to 8-bit pixels and back; PNG files (feature `png`).

#[cfg(feature = "png")]
pub mod png;

use crate::consistency::edit::LUMA;

/// A value in [−1, 1] mapped to [0, 1], clamped: v/2 + ½.
pub fn to_unit(v: f32) -> f32 {
    (v / 2.0 + 0.5).clamp(0.0, 1.0)
}

/// A value in [−1, 1] as diffusers stores it in a PNG: round(255·(v/2 + ½)), clamped.
pub fn to_byte(v: f32) -> u8 {
    (to_unit(v) * 255.0).round() as u8
}

/// Images (B, C, H, W) in [−1, 1] as RGBA bytes, one image after another; grey is repeated in R, G and B.
///
/// `pixels` is H·W.
pub fn to_rgba(images: &[f32], channels: usize, pixels: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(images.len() / channels * 4);
    for image in images.chunks_exact(channels * pixels) {
        for p in 0..pixels {
            let channel = |c: usize| to_byte(image[c.min(channels - 1) * pixels + p]);
            bytes.extend([channel(0), channel(1), channel(2), 255]);
        }
    }
    bytes
}

/// A picture of RGBA bytes as (C, H, W) in [−1, 1], such that [`to_rgba`] gives opaque bytes back.
///
/// Colours become their luma where `channels` is 1; transparent pixels are composed on black.
pub fn from_rgba(bytes: &[u8], channels: usize) -> Vec<f32> {
    let (pixels, _) = bytes.as_chunks::<4>();
    let value = |c: usize, &[r, g, b, alpha]: &[u8; 4]| {
        let rgb = [r, g, b].map(|v| f32::from(v) * (f32::from(alpha) / 255.0));
        let grey = channels == 1 && (r != g || g != b);
        let byte = if grey { rgb.iter().zip(LUMA).map(|(v, w)| v * w).sum() } else { rgb[c.min(2)] };
        byte / 127.5 - 1.0
    };
    (0..channels).flat_map(|c| pixels.iter().map(move |p| value(c, p))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_span_the_range() {
        assert_eq!([-2.0, -1.0, 0.0, 1.0, 5.0].map(to_byte), [0, 0, 128, 255, 255]);
    }

    #[test]
    fn channels_become_colours() {
        assert_eq!(to_rgba(&[-1.0, 1.0, 1.0, -1.0, -1.0, 1.0], 3, 2), [0, 255, 0, 255, 255, 0, 255, 255]);
        assert_eq!(to_rgba(&[1.0, -1.0], 1, 1), [255, 255, 255, 255, 0, 0, 0, 255]);
    }

    #[test]
    fn every_byte_comes_back() {
        let grey: Vec<u8> = (0..=255).flat_map(|v| [v, v, v, 255]).collect();
        let rgb: Vec<u8> = (0..=255).flat_map(|v| [v, 255 - v, v / 2, 255]).collect();
        assert_eq!(to_rgba(&from_rgba(&grey, 1), 1, 256), grey);
        assert_eq!(to_rgba(&from_rgba(&grey, 3), 3, 256), grey);
        assert_eq!(to_rgba(&from_rgba(&rgb, 3), 3, 256), rgb);
    }

    #[test]
    fn grey_is_the_luma_and_transparency_is_composed_on_black() {
        assert_eq!(from_rgba(&[255, 255, 255, 0], 3), [-1.0; 3]);
        assert!((from_rgba(&[255, 0, 0, 255], 1)[0] - (2.0 * 0.2989 - 1.0)).abs() < 1e-6);
        assert!((from_rgba(&[0, 255, 0, 128], 1)[0] - (2.0 * 0.5870 * 128.0 / 255.0 - 1.0)).abs() < 1e-6);
    }
}
