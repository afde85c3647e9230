//! Folders of PNG images, a sub-folder for each class.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image::png::read_rgba;
use crate::train::dataset::Dataset;

/// Reads a folder of PNGs of one size, grey or RGB; alpha is composed on black.
///
/// Each sub-folder with PNGs is a class, in alphabetical order; PNGs in the folder itself make one class, `all`.
///
/// # Errors
/// [`Error::Io`] for unreadable files, [`Error::Input`] for a folder without PNGs, PNGs beside sub-folders, damaged
/// files, or images of different sizes or numbers of channels.
pub fn read(folder: &Path) -> Result<Dataset> {
    let mut classes: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for sub in entries(folder)?.into_iter().filter(|p| p.is_dir()) {
        let name = sub.file_name().unwrap_or_default().to_string_lossy().into_owned();
        classes.push((name, pngs(&sub)?));
    }
    classes.retain(|(_, files)| !files.is_empty());
    let loose = pngs(folder)?;
    match (classes.is_empty(), loose.is_empty()) {
        (true, true) => {
            let found = folder.display();
            return Err(Error::Input(format!("{found}: expected MNIST's IDX files or PNG images, found neither")));
        }
        (true, false) => classes.push(("all".into(), loose)),
        (false, true) => {}
        (false, false) => {
            return Err(Error::Input(format!(
                "{}: expected every PNG in a sub-folder that names its class, found {} beside them",
                folder.display(),
                loose.len()
            )));
        }
    }
    let mut all = Dataset::new([0; 3], vec![]);
    for (label, (name, files)) in classes.into_iter().enumerate() {
        for file in files {
            let image = read_rgba(&file)?;
            let shape = [if image.grey { 1 } else { 3 }, image.height, image.width];
            if all.labels.is_empty() {
                all.shape = shape;
            }
            if shape != all.shape {
                let ([c, h, w], [ec, eh, ew]) = (shape, all.shape);
                return Err(Error::Input(format!(
                    "{}: expected {ew}×{eh} pixels and {ec} channels as in the first image, found {w}×{h} and {c}",
                    file.display()
                )));
            }
            let plane = |c: usize| image.pixels.iter().map(move |p| (u32::from(p[c]) * u32::from(p[3]) / 255) as u8);
            all.push((0..shape[0]).flat_map(plane), label as u32);
        }
        all.classes.push(name);
    }
    Ok(all)
}

/// The paths in a folder, in alphabetical order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::Io(format!("{}: {e}", folder.display()));
    let read = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths = read.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// The PNG files of a folder, in alphabetical order.
pub fn pngs(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_png = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    Ok(entries(folder)?.into_iter().filter(is_png).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn png(path: &Path, color: png::ColorType, width: u32, bytes: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, 1);
        encoder.set_color(color);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
    }

    #[test]
    fn sub_folders_are_classes() {
        let folder = std::env::temp_dir().join(format!("consistency-sampler-folders-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        assert!(read(&folder).unwrap_err().to_string().contains("found neither"));
        for (class, rgba) in [("b", [255, 0, 0, 255, 0, 255, 0, 0]), ("a", [0, 0, 255, 255, 255, 255, 255, 51])] {
            std::fs::create_dir(folder.join(class)).unwrap();
            png(&folder.join(class).join("1.png"), png::ColorType::Rgba, 2, &rgba);
        }
        let data = read(&folder).unwrap();
        assert_eq!((data.len(), data.shape, data.classes.as_slice()), (2, [3, 1, 2], &["a".into(), "b".into()][..]));
        // Planes of R, G, B; a transparent pixel is black.
        let bytes: Vec<f32> = data.batch(&[0, 1]).images.iter().map(|v| ((v + 1.0) * 127.5).round()).collect();
        assert_eq!(bytes, [0.0, 51.0, 0.0, 51.0, 255.0, 51.0, 255.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        png(&folder.join("b/2.png"), png::ColorType::Rgb, 1, &[1, 2, 3]);
        assert!(read(&folder).unwrap_err().to_string().contains("expected 2×1 pixels and 3 channels"));
        png(&folder.join("c.png"), png::ColorType::Rgb, 1, &[1, 2, 3]);
        assert!(read(&folder).unwrap_err().to_string().contains("found 1 beside them"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
