//! From the sampler's numbers to pixels.

/// A value of the sampler, in about [−1, 1], as a picture's in [0, 1].
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
}
