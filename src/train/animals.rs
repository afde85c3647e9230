//! Animal faces composed of masks: flat and bright, any square size that divides the masks', with the ears as class.
//!
//! A folder holds `masks.png` (grey masks side by side, row by row) and `parts.json` (how they are put together). A picture
//! begins as its ground; each group of parts, from the bottom to the top, lays the masks of one of its members over it, filled
//! with the fur's colour, a lighter or darker one, or a fixed one. Then it is averaged over blocks to the size that is wanted.

use std::collections::HashMap;
#[cfg(feature = "train")]
use std::path::Path;

use serde::Deserialize;

use crate::consistency::rng::Generator;
use crate::error::{Error, Result};
use crate::train::dataset::{Batch, Dataset};

const MASKS: &str = "masks.png";
const PARTS: &str = "parts.json";
/// The group of parts that is the class.
const EARS: &str = "ears";

/// `parts.json`.
#[derive(Debug, Clone, Deserialize)]
struct Parts {
    /// Height and width of a mask.
    size: usize,
    /// Masks in a row of the file.
    columns: usize,
    /// How many masks there are.
    masks: usize,
    /// The groups, from the bottom to the top.
    order: Vec<String>,
    /// How often a group is drawn at all; always where it is not named.
    probability: HashMap<String, f64>,
    classes_by_ears: Vec<String>,
    /// Colours as `#rrggbb` or `#rgb`.
    fur: Vec<String>,
    ground: Vec<String>,
    /// The members of each group: masks with their tones, from the bottom to the top.
    parts: HashMap<String, Vec<Vec<(String, usize)>>>,
}

/// What a mask is filled with.
#[derive(Debug, Clone, Copy)]
enum Tone {
    /// The fur's colour plus so much, clamped to 0…255.
    Fur(f64),
    Fixed([f64; 3]),
}

/// A group of parts.
#[derive(Debug, Clone)]
struct Group {
    is_ears: bool,
    /// How often it is drawn; `None`: always.
    probability: Option<f64>,
    /// Of each member: tones, and indices of masks.
    members: Vec<Vec<(Tone, usize)>>,
}

/// The parts of animals, and the size of their pictures.
#[derive(Debug, Clone)]
pub struct Animals {
    /// Height and width of a picture, a divisor of the masks'.
    size: usize,
    /// Height and width of a mask.
    mask_size: usize,
    /// From 0 to 1, row by row.
    masks: Vec<Vec<f64>>,
    classes: Vec<String>,
    fur: Vec<[f64; 3]>,
    ground: Vec<[f64; 3]>,
    groups: Vec<Group>,
}

/// How flat and how true to the palettes pictures of animals are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flatness {
    /// The mean over pictures and channels of the standard deviation of the ground's pixels, of 255; the data's is 0.
    pub ground_deviation: f64,
    /// The share of pictures whose mean ground, and whose mean fur, is within 8 of 255 of one of the palette's, in every
    /// channel; the data's is 1.
    pub ground_in_palette: f64,
    pub fur_in_palette: f64,
}

/// How far a mean colour may be from one of the palette's.
const PALETTE_TOLERANCE: f64 = 8.0;

impl Animals {
    /// Puts masks and parts together for pictures of `size` × `size` pixels: `parts` is the text of `parts.json`, `masks` the
    /// grey levels of `masks.png`, row-major.
    ///
    /// # Errors
    /// [`Error::Input`] naming what does not fit, or a size that does not divide the masks'.
    pub fn new(parts: &[u8], masks: &[u8], masks_width: usize, size: usize) -> Result<Self> {
        let bad = |what: String| Error::Input(format!("{PARTS}: {what}"));
        let parts: Parts = serde_json::from_slice(parts).map_err(|e| bad(e.to_string()))?;
        if size == 0 || !parts.size.is_multiple_of(size) {
            return Err(bad(format!("expected a size that divides that of the masks, {}, found {size}", parts.size)));
        }
        let colours = |key: &str, texts: &[String]| -> Result<Vec<[f64; 3]>> {
            let colours: Option<Vec<_>> = texts.iter().map(|text| colour(text)).collect();
            colours.filter(|c| !c.is_empty()).ok_or_else(|| bad(format!("{key}: expected colours as #rrggbb")))
        };
        let groups = parts.order.iter().map(|name| {
            let members = parts.parts.get(name).filter(|members| !members.is_empty());
            let members = members.ok_or_else(|| bad(format!("parts: expected {name:?}, which \"order\" names")))?;
            let members = members.iter().map(|layers| {
                let layer = |(text, mask): &(String, usize)| match tone(text) {
                    Some(tone) if *mask < parts.masks => Ok((tone, *mask)),
                    _ => Err(bad(format!(
                        "{name}: expected a tone and a mask below {}, found {text} {mask}",
                        parts.masks
                    ))),
                };
                layers.iter().map(layer).collect::<Result<Vec<_>>>()
            });
            Ok(Group {
                is_ears: name == EARS,
                probability: parts.probability.get(name).copied(),
                members: members.collect::<Result<_>>()?,
            })
        });
        let groups: Vec<Group> = groups.collect::<Result<_>>()?;
        let kinds = groups.iter().find(|group| group.is_ears).map_or(0, |ears| ears.members.len());
        if kinds != parts.classes_by_ears.len() {
            let named = parts.classes_by_ears.len();
            return Err(bad(format!("classes_by_ears: expected a name for each of {kinds} ears, found {named}")));
        }
        Ok(Self {
            size,
            mask_size: parts.size,
            masks: parts.cut_out(masks, masks_width)?,
            classes: parts.classes_by_ears.clone(),
            fur: colours("fur", &parts.fur)?,
            ground: colours("ground", &parts.ground)?,
            groups,
        })
    }

    /// Whether a folder is one of masks.
    #[cfg(feature = "train")]
    pub fn is_mask_folder(folder: &Path) -> bool {
        folder.join(MASKS).is_file() && folder.join(PARTS).is_file()
    }

    /// Reads the masks and parts of a folder for pictures of `size` × `size` pixels.
    ///
    /// # Errors
    /// [`Error::Io`] for unreadable files, and those of [`Self::new`], with the name of the folder.
    #[cfg(feature = "train")]
    pub fn open(folder: &Path, size: usize) -> Result<Self> {
        let parts = crate::file::read(&folder.join(PARTS))?;
        let image = crate::image::png::read_rgba(&folder.join(MASKS))?;
        let grey: Vec<u8> = image.pixels.iter().map(|pixel| pixel[0]).collect();
        Self::new(&parts, &grey, image.width, size).map_err(|error| match error {
            Error::Input(message) => Error::Input(format!("{}: {message}", folder.display())),
            other => other,
        })
    }

    /// Names of the kinds, by label.
    pub fn classes(&self) -> Vec<String> {
        self.classes.clone()
    }

    /// Channels, height, width.
    pub fn shape(&self) -> [usize; 3] {
        [3, self.size, self.size]
    }

    /// Composes `count` animals of random kinds.
    pub fn draw(&self, generator: &mut Generator, count: usize) -> Batch {
        let mut batch = Batch { images: Vec::with_capacity(count * 3 * self.size * self.size), labels: vec![] };
        for _ in 0..count {
            let kind = generator.below(self.classes.len());
            let planes = self.compose(kind, generator);
            batch.images.extend(planes.iter().map(|&v| f32::from(v) / 127.5 - 1.0));
            batch.labels.push(kind as u32);
        }
        batch
    }

    /// A fixed set of `count` animals, of each kind in turn.
    pub fn dataset(&self, seed: u64, count: usize) -> Dataset {
        let mut generator = Generator::new(seed);
        let mut animals = Dataset::new(self.shape(), self.classes());
        for kind in (0..self.classes.len()).cycle().take(count) {
            animals.push(self.compose(kind, &mut generator), kind as u32);
        }
        animals
    }

    /// The pixels that show the ground in every animal, and those that show the fur alone.
    pub fn plain_pixels(&self) -> [Vec<usize>; 2] {
        let block = self.mask_size / self.size;
        let of_block = |mask: &[f64], at: usize, is: fn(f64) -> bool| {
            let (y, x) = (at / self.size * block, at % self.size * block);
            (y..y + block).all(|y| mask[y * self.mask_size + x..][..block].iter().all(|&a| is(a)))
        };
        let layers = || self.groups.iter().flat_map(|group| &group.members).flatten();
        let pixels = || 0..self.size * self.size;
        let is_clear = |at: usize, mask: usize| of_block(&self.masks[mask], at, |a| a == 0.0);
        let ground = pixels().filter(|&at| layers().all(|&(_, mask)| is_clear(at, mask))).collect();
        // The lowest group is the face.
        let Some((face, others)) = self.groups.split_first() else { return [ground, Vec::new()] };
        let covers = |at: usize, layers: &[(Tone, usize)]| {
            let is_last = |&(tone, mask): &(Tone, usize)| {
                matches!(tone, Tone::Fur(0.0)) && of_block(&self.masks[mask], at, |a| a == 1.0)
            };
            layers.iter().rev().find(|&&(_, mask)| !is_clear(at, mask)).is_some_and(is_last)
        };
        let others = || others.iter().flat_map(|group| &group.members).flatten();
        let is_fur = |&at: &usize| {
            face.members.iter().all(|layers| covers(at, layers)) && others().all(|&(_, mask)| is_clear(at, mask))
        };
        [ground, pixels().filter(is_fur).collect()]
    }

    /// Measures pictures (N, 3, size, size) in [−1, 1], N ≥ 1.
    pub fn flatness(&self, images: &[f32]) -> Flatness {
        let [ground, fur] = self.plain_pixels();
        let plane = self.size * self.size;
        let count = (images.len() / (3 * plane)) as f64;
        let mut sums = Flatness { ground_deviation: 0.0, ground_in_palette: 0.0, fur_in_palette: 0.0 };
        for image in images.chunks_exact(3 * plane) {
            let channel = |c: usize, pixels: &[usize]| -> [f64; 2] {
                let values = || pixels.iter().map(|&at| (f64::from(image[c * plane + at]) + 1.0) * 127.5);
                let mean = values().sum::<f64>() / pixels.len() as f64;
                [mean, (values().map(|v| (v - mean).powi(2)).sum::<f64>() / pixels.len() as f64).sqrt()]
            };
            let is_in = |palette: &[[f64; 3]], colour: [[f64; 2]; 3]| {
                let near = |of: &[f64; 3]| of.iter().zip(colour).all(|(a, [b, _])| (a - b).abs() <= PALETTE_TOLERANCE);
                f64::from(u8::from(palette.iter().any(near)))
            };
            let [ground, fur] = [&ground, &fur].map(|pixels| [0, 1, 2].map(|c| channel(c, pixels)));
            sums.ground_deviation += ground.iter().map(|[_, deviation]| deviation).sum::<f64>() / 3.0;
            sums.ground_in_palette += is_in(&self.ground, ground);
            sums.fur_in_palette += is_in(&self.fur, fur);
        }
        Flatness {
            ground_deviation: sums.ground_deviation / count,
            ground_in_palette: sums.ground_in_palette / count,
            fur_in_palette: sums.fur_in_palette / count,
        }
    }

    /// One animal as planes of R, G and B, (3, size, size).
    fn compose(&self, kind: usize, generator: &mut Generator) -> Vec<u8> {
        let fur = self.fur[generator.below(self.fur.len())];
        let ground = self.ground[generator.below(self.ground.len())];
        let mut image = vec![ground; self.mask_size * self.mask_size];
        for group in &self.groups {
            if group.probability.is_some_and(|probability| generator.uniform_f64() >= probability) {
                continue;
            }
            let member = if group.is_ears { kind } else { generator.below(group.members.len()) };
            for &(tone, mask) in &group.members[member] {
                let fill = match tone {
                    Tone::Fur(lighter) => fur.map(|v| (v + lighter).clamp(0.0, 255.0)),
                    Tone::Fixed(colour) => colour,
                };
                for (pixel, &a) in image.iter_mut().zip(&self.masks[mask]) {
                    for (v, fill) in pixel.iter_mut().zip(fill) {
                        *v = *v * (1.0 - a) + fill * a;
                    }
                }
            }
        }
        let block = self.mask_size / self.size;
        let mean = |c: usize, y: usize, x: usize| {
            let rows = (y * block..(y + 1) * block).map(|row| row * self.mask_size);
            let sum: f64 =
                rows.flat_map(|row| &image[row + x * block..row + (x + 1) * block]).map(|pixel| pixel[c]).sum();
            (sum / (block * block) as f64).round_ties_even() as u8
        };
        let size = self.size;
        (0..3)
            .flat_map(|c| (0..size * size).map(move |at| (c, at / size, at % size)))
            .map(|(c, y, x)| mean(c, y, x))
            .collect()
    }
}

impl Parts {
    /// The masks, from 0 to 1.
    fn cut_out(&self, pixels: &[u8], width: usize) -> Result<Vec<Vec<f64>>> {
        let (side, columns, masks) = (self.size, self.columns, self.masks);
        let height = pixels.len() / width.max(1);
        if (width, height * width) != (columns * side, pixels.len()) || height != masks.div_ceil(columns.max(1)) * side
        {
            return Err(Error::Input(format!(
                "{MASKS}: expected {masks} masks of {side}×{side} pixels in rows of {columns}, found a picture of {width}×{height}"
            )));
        }
        let mask = |i: usize| {
            let corner = i / columns * side * width + i % columns * side;
            let rows = (0..side).map(|row| corner + row * width);
            rows.flat_map(|row| &pixels[row..row + side]).map(|&v| f64::from(v) / 255.0).collect()
        };
        Ok((0..masks).map(mask).collect())
    }
}

/// `base`, `lighterN`, `darkerN`, `#rrggbb` or `#rgb`.
fn tone(text: &str) -> Option<Tone> {
    if text == "base" {
        return Some(Tone::Fur(0.0));
    }
    if let Some(amount) = text.strip_prefix("lighter") {
        return amount.parse().ok().map(Tone::Fur);
    }
    if let Some(amount) = text.strip_prefix("darker") {
        return amount.parse().ok().map(|amount: f64| Tone::Fur(-amount));
    }
    colour(text).map(Tone::Fixed)
}

fn colour(text: &str) -> Option<[f64; 3]> {
    let digits = text.strip_prefix('#')?;
    let value = u32::from_str_radix(digits, 16).ok()?;
    match digits.len() {
        6 => Some([16, 8, 0].map(|shift| f64::from(value >> shift & 255))),
        3 => Some([8, 4, 0].map(|shift| f64::from((value >> shift & 15) * 17))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/animals")
    }

    #[test]
    fn pictures_are_those_of_the_python_script() {
        #[derive(Deserialize)]
        struct Picture {
            seed: u64,
            size: usize,
            count: usize,
            sha256: String,
        }
        let text = std::fs::read_to_string(folder().join("pictures.json")).unwrap();
        let pictures: Vec<Picture> = serde_json::from_str(&text).unwrap();
        assert!(pictures.len() >= 3);
        for Picture { seed, size, count, sha256 } in pictures {
            let animals = Animals::open(&folder(), size).unwrap().dataset(seed, count);
            assert_eq!(animals.len(), count);
            let found: String = Sha256::digest(&animals.pixels).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, sha256, "seed {seed}, size {size}");
        }
    }

    #[test]
    fn kinds_are_drawn_at_random_and_named() {
        let animals = Animals::open(&folder(), 32).unwrap();
        assert_eq!(animals.classes().len(), 14);
        let batch = animals.draw(&mut Generator::new(1), 100);
        assert_eq!(batch.images.len(), 100 * 3 * 32 * 32);
        assert!((0..14).all(|kind| batch.labels.contains(&kind)));
        assert_ne!(batch, animals.draw(&mut Generator::new(2), 100));
    }

    #[test]
    fn real_animals_are_flat_and_of_the_palettes_and_noise_is_seen() {
        let animals = Animals::open(&folder(), 64).unwrap();
        let [ground, fur] = animals.plain_pixels();
        assert!(ground.len() > 300 && fur.len() > 30, "{} and {} pixels", ground.len(), fur.len());
        let mut images = animals.draw(&mut Generator::new(1), 200).images;
        let real = animals.flatness(&images);
        assert_eq!(real, Flatness { ground_deviation: 0.0, ground_in_palette: 1.0, fur_in_palette: 1.0 });

        let mut noise = vec![0.0; images.len()];
        Generator::new(2).randn(&mut noise);
        images.iter_mut().zip(&noise).for_each(|(v, z)| *v += z * 10.0 / 127.5);
        let noisy = animals.flatness(&images);
        assert!((noisy.ground_deviation - 10.0).abs() < 0.2, "{noisy:?}");

        images.iter_mut().for_each(|v| *v += 30.0 / 127.5);
        let lighter = animals.flatness(&images);
        assert!(lighter.ground_in_palette < 0.5 && lighter.fur_in_palette < 0.5, "{lighter:?}");
    }

    #[test]
    fn refuses_a_size_that_does_not_divide_the_masks() {
        for size in [0, 48, 256] {
            let error = Animals::open(&folder(), size).unwrap_err().to_string();
            assert!(error.contains("expected a size that divides that of the masks, 128, found"), "{error}");
        }
    }

    #[test]
    fn names_what_is_wrong_with_the_parts() {
        let good = std::fs::read_to_string(folder().join(PARTS)).unwrap();
        let here = std::env::temp_dir().join(format!("animals-{}", std::process::id()));
        std::fs::create_dir_all(&here).unwrap();
        std::fs::copy(folder().join(MASKS), here.join(MASKS)).unwrap();
        for (from, to, expected) in [
            ("\"order\"", "\"ordre\"", "missing field `order`"),
            (
                "\"columns\": 16",
                "\"columns\": 8",
                "expected 106 masks of 128×128 pixels in rows of 8, found a picture of",
            ),
            ("\"face\",", "\"nose\",", "expected \"nose\", which \"order\" names"),
            ("#ece2e1", "beige", "ground: expected colours as #rrggbb"),
            ("\"base\",\n0\n", "\"base\",\n106\n", "face: expected a tone and a mask below 106, found base 106"),
            ("\"cat\",", "", "classes_by_ears: expected a name for each of 14 ears, found 13"),
        ] {
            assert!(good.contains(from), "{from}");
            std::fs::write(here.join(PARTS), good.replacen(from, to, 1)).unwrap();
            let error = Animals::open(&here, 64).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::remove_dir_all(here).unwrap();
    }
}
