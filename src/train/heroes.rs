//! Heroes composed of the layers of Crawl's tiles: 32×32 RGB images, drawn at random, with the species as class.
//!
//! `player/` of the tile folder holds layers that are drawn over one another. `base` has the bodies of the species; each
//! other layer is drawn with its probability, if it fits the species.

use std::path::Path;

use crate::consistency::rng::Generator;
use crate::error::{Error, Result};
use crate::image::png::read_rgba;
use crate::train::dataset::{Batch, Dataset};
use crate::train::image_folder::pngs;

/// Height and width of every tile.
const SIZE: usize = 32;
/// Background colour, a dark slate.
const GROUND: [u8; 3] = [32, 34, 44];

/// Class, prefixes of its files in `base`, and the layers that do not fit it.
const SPECIES: [(&str, &[&str], &[&str]); 20] = [
    ("centaur", &["centaur"], &["boots", "legs"]),
    ("demigod", &["demigod"], &[]),
    ("demonspawn", &["demonspawn"], &["hair"]),
    ("draconian", &["draconian"], &["hair", "head"]),
    ("dwarf", &["dwarf", "deep_dwarf"], &[]),
    ("elf", &["elf", "deep_elf"], &["beard"]),
    ("formicid", &["formicid"], &["hair", "beard"]),
    ("gargoyle", &["gargoyle"], &["hair", "beard"]),
    ("ghoul", &["ghoul"], &["hair", "beard"]),
    ("gnome", &["gnome"], &["hair"]),
    ("halfling", &["halfling"], &["beard"]),
    ("human", &["human"], &[]),
    ("kobold", &["kobold"], &["hair", "beard"]),
    ("minotaur", &["minotaur"], &["hair", "beard", "head"]),
    ("mummy", &["mummy"], &["hair", "beard"]),
    ("naga", &["naga"], &["boots", "legs", "hair", "beard"]),
    ("octopode", &["octopode"], &["cloak", "boots", "legs", "body", "gloves", "hair", "beard"]),
    ("orc", &["lorc"], &["hair", "beard"]),
    ("tengu", &["tengu"], &["hair", "beard", "head"]),
    ("vampire", &["vampire"], &["beard"]),
];

/// Layers from the bottom to the top, with the probability of each; `base` is always drawn.
const LAYERS: [(&str, f64); 11] = [
    ("cloak", 0.35),
    ("base", 1.0),
    ("boots", 0.7),
    ("legs", 0.8),
    ("body", 0.9),
    ("gloves", 0.4),
    ("hand1", 0.75),
    ("hand2", 0.45),
    ("hair", 0.6),
    ("beard", 0.1),
    ("head", 0.4),
];

/// Tiles in the folders of clothes that are body parts, or fit one species alone.
const LEFT_OUT: [&str; 5] = ["hooves", "spider", "claws", "tengu_comb", "buckler_spriggan"];

/// Premultiplied RGBA of one tile, row-major.
type Tile = Vec<[u8; 4]>;

/// The tiles of all layers.
#[derive(Debug, Clone)]
pub struct Heroes {
    /// Bodies of each species.
    bodies: Vec<Vec<Tile>>,
    /// The tiles of each of [`LAYERS`]; none for `base`.
    layers: Vec<Vec<Tile>>,
}

impl Heroes {
    /// Whether a folder is one of tiles.
    pub fn is_tile_folder(folder: &Path) -> bool {
        folder.join("player/base").is_dir()
    }

    /// Reads `player/` of a tile folder.
    ///
    /// # Errors
    /// [`Error::Io`] for unreadable files; [`Error::Input`] for a tile that is not 32×32 or a layer without tiles.
    pub fn open(folder: &Path) -> Result<Self> {
        let player = folder.join("player");
        let read = |layer: &str, keep: &dyn Fn(&str) -> bool| -> Result<Vec<Tile>> {
            let folder = player.join(layer);
            let mut tiles = Vec::new();
            for path in pngs(&folder)? {
                if keep(&path.file_stem().unwrap_or_default().to_string_lossy()) {
                    tiles.push(tile(&path)?);
                }
            }
            if tiles.is_empty() {
                return Err(Error::Input(format!("{}: expected tiles of the layer, found none", folder.display())));
            }
            Ok(tiles)
        };
        let bodies = SPECIES.map(|(_, prefixes, _)| {
            read("base", &|name| {
                prefixes.iter().any(|p| name.strip_prefix(p).is_some_and(|rest| !rest.contains("dwarf")))
            })
        });
        let layers = LAYERS.map(|(layer, _)| match layer {
            "base" => Ok(Vec::new()),
            _ => read(layer, &|name| !LEFT_OUT.contains(&name)),
        });
        Ok(Self {
            bodies: bodies.into_iter().collect::<Result<_>>()?,
            layers: layers.into_iter().collect::<Result<_>>()?,
        })
    }

    /// Names of the species, by label.
    pub fn classes() -> Vec<String> {
        SPECIES.iter().map(|(name, ..)| (*name).to_owned()).collect()
    }

    /// Channels, height, width.
    pub fn shape() -> [usize; 3] {
        [3, SIZE, SIZE]
    }

    /// Composes `count` heroes of random species.
    pub fn draw(&self, generator: &mut Generator, count: usize) -> Batch {
        let mut batch =
            Batch { images: Vec::with_capacity(count * 3 * SIZE * SIZE), labels: Vec::with_capacity(count) };
        for _ in 0..count {
            let species = generator.below(SPECIES.len());
            let planes = self.compose(species, generator);
            batch.images.extend(planes.iter().map(|&v| f32::from(v) / 127.5 - 1.0));
            batch.labels.push(species as u32);
        }
        batch
    }

    /// A fixed set of `count` heroes.
    pub fn dataset(&self, seed: u64, count: usize) -> Dataset {
        let mut generator = Generator::new(seed);
        let mut heroes = Dataset::new(Self::shape(), Self::classes());
        for species in (0..SPECIES.len()).cycle().take(count) {
            heroes.push(self.compose(species, &mut generator), species as u32);
        }
        heroes
    }

    /// One hero as planes of R, G and B, (3, 32, 32).
    fn compose(&self, species: usize, generator: &mut Generator) -> Vec<u8> {
        let mut image = vec![GROUND; SIZE * SIZE];
        let (_, _, unfit) = SPECIES[species];
        for ((layer, probability), tiles) in LAYERS.iter().zip(&self.layers) {
            let tiles = if *layer == "base" { &self.bodies[species] } else { tiles };
            if unfit.contains(layer) || generator.uniform_f64() >= *probability {
                continue;
            }
            draw_over(&mut image, &tiles[generator.below(tiles.len())]);
        }
        (0..3).flat_map(|c| image.iter().map(move |p| p[c])).collect()
    }
}

/// Draws a tile over an image.
fn draw_over(image: &mut [[u8; 3]], tile: &[[u8; 4]]) {
    for (below, above) in image.iter_mut().zip(tile) {
        for c in 0..3 {
            let rest = u32::from(below[c]) * (255 - u32::from(above[3]));
            below[c] = (u32::from(above[c]) + (rest + 127) / 255).min(255) as u8;
        }
    }
}

fn tile(path: &Path) -> Result<Tile> {
    let image = read_rgba(path)?;
    if (image.width, image.height) != (SIZE, SIZE) {
        let (w, h) = (image.width, image.height);
        return Err(Error::Input(format!("{}: expected a tile of 32×32 pixels, found {w}×{h}", path.display())));
    }
    let premultiply = |&[r, g, b, a]: &[u8; 4]| {
        let by = |v: u8| ((u32::from(v) * u32::from(a) + 127) / 255) as u8;
        [by(r), by(g), by(b), a]
    };
    Ok(image.pixels.iter().map(premultiply).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain tiles: layer i covers row i with the grey level i + 1, bodies cover row 20 with the species.
    fn heroes() -> Heroes {
        let row = |row: usize, grey: u8| -> Tile {
            (0..SIZE * SIZE).map(|p| if p / SIZE == row { [grey, grey, grey, 255] } else { [0; 4] }).collect()
        };
        Heroes {
            bodies: (0..SPECIES.len()).map(|i| vec![row(20, i as u8)]).collect(),
            layers: (0..LAYERS.len()).map(|i| vec![row(i, i as u8 + 1)]).collect(),
        }
    }

    #[test]
    fn layers_are_drawn_with_their_probability_where_they_fit() {
        let count = 8000;
        let batch = heroes().draw(&mut Generator::new(1), count);
        let byte = |v: f32| ((v + 1.0) * 127.5).round() as usize;
        let mut drawn = [[0; LAYERS.len()]; SPECIES.len()];
        let mut heroes_of = [0; SPECIES.len()];
        for (image, &label) in batch.images.chunks_exact(3 * SIZE * SIZE).zip(&batch.labels) {
            assert_eq!(byte(image[20 * SIZE]), label as usize, "the body is the label's");
            heroes_of[label as usize] += 1;
            for (i, count) in drawn[label as usize].iter_mut().enumerate() {
                *count += usize::from(byte(image[i * SIZE]) == i + 1);
            }
        }
        for (s, (species, _, unfit)) in SPECIES.iter().enumerate() {
            for (i, (layer, probability)) in LAYERS.iter().enumerate().filter(|(_, (l, _))| *l != "base") {
                let share = drawn[s][i] as f64 / heroes_of[s] as f64;
                let expected = if unfit.contains(layer) { 0.0 } else { *probability };
                assert!((share - expected).abs() < 0.1, "{species} with {layer}: {share}, expected {expected}");
            }
        }
    }

    #[test]
    fn tiles_are_alpha_blended() {
        let mut image = [[100, 100, 100]; 3];
        draw_over(&mut image, &[[0, 0, 0, 0], [50, 0, 128, 128], [7, 8, 9, 255]]);
        assert_eq!(image, [[100, 100, 100], [100, 50, 178], [7, 8, 9]]);
    }

    #[test]
    fn a_seed_gives_the_same_heroes() {
        let heroes = heroes();
        assert_eq!(heroes.dataset(1, 40).fingerprint(), heroes.dataset(1, 40).fingerprint());
        assert_ne!(heroes.dataset(1, 40).fingerprint(), heroes.dataset(2, 40).fingerprint());
        let labels = heroes.dataset(1, 40).batch(&(0..40).collect::<Vec<_>>()).labels;
        assert_eq!(labels[19..21], [19, 0]);
    }
}
