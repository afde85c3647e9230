//! Folders of PNG and JPEG images, a sub-folder for each class.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::file;
use crate::image::png::Rgba;
use crate::train::dataset::Dataset;
use crate::train::picture;

/// Reads a folder of PNGs and JPEGs; alpha is composed on black.
///
/// Pictures of another size than `side` × `side` are cut to the square in their middle and scaled by areas; those with a shorter
/// side below `side` are left out. With a `side` of 0 all must have one size.
///
/// Each sub-folder is a class, in alphabetical order; images in the folder itself make one class, `all`. The set is grey if
/// every file is, else grey images become three equal channels. What systems and programs leave in folders (names that
/// begin with a dot, `Thumbs.db`, `__MACOSX`, …) does not count; other files are left out, and [`Dataset::left_out`] names
/// them.
///
/// # Errors
/// [`Error::Io`] for unreadable files, [`Error::Input`] for a folder without images, a class without images, whose absence
/// would change the labels of others, images beside classes, damaged files, or images of different sizes.
pub fn read(folder: &Path, side: usize) -> Result<Dataset> {
    let top = Listing::of(folder)?;
    let mut subs = top.folders.iter().map(|sub| Ok((sub, Listing::of(sub)?))).collect::<Result<Vec<_>>>()?;
    let mut left_out = top.others.clone();
    let with_images = subs.iter().filter(|(_, sub)| !sub.images.is_empty()).count();
    // The folder of each class, and its files.
    let classes: Vec<(PathBuf, Vec<PathBuf>)> = match (top.images.is_empty(), with_images) {
        (true, 0) => {
            let found = folder.display();
            let deeper = subs.iter().filter(|(_, sub)| !sub.folders.is_empty()).map(|(path, _)| path);
            let hint = match deeper.min_by_key(|path| !name_of(path).starts_with("train")) {
                Some(path) => format!(": give the folder of the classes, perhaps {}", path.display()),
                None => String::new(),
            };
            return Err(Error::Input(format!("{found}: expected MNIST's IDX files or images, found neither{hint}")));
        }
        (false, 0) => {
            left_out.extend(top.folders.iter().cloned());
            vec![(folder.to_owned(), top.images)]
        }
        (true, _) => {
            if let Some((path, class)) = subs.iter().find(|(_, sub)| sub.images.is_empty()) {
                let found = match (class.folders.as_slice(), class.others.as_slice()) {
                    ([], []) => "none".to_owned(),
                    ([], [other, ..]) => format!("none but files of other kinds ({})", name_of(other)),
                    ([inner, ..], _) => format!("none but folders ({})", name_of(inner)),
                };
                return Err(Error::Input(format!("{}: expected images of the class, found {found}", path.display())));
            }
            let class = |(path, sub): (&PathBuf, Listing)| {
                left_out.extend(sub.others.into_iter().chain(sub.folders));
                (path.clone(), sub.images)
            };
            subs.drain(..).map(class).collect()
        }
        (false, _) => {
            return Err(Error::Input(format!(
                "{}: expected every image in a sub-folder that names its class, found {} beside them",
                folder.display(),
                top.images.len()
            )));
        }
    };
    let mut all = Dataset::new([0; 3], vec![]);
    let within = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).display().to_string();
    let what = |path: &PathBuf| if path.is_dir() { "a folder" } else { "neither PNG nor JPEG" };
    all.left_out = left_out.iter().map(|path| format!("{} ({})", within(path), what(path))).collect();
    for (label, (class, files)) in classes.into_iter().enumerate() {
        let before = all.len();
        for file in files {
            let image = picture::read(&file)?;
            let (width, height) = (image.width, image.height);
            match image.fitted(side) {
                Some(image) => add(&mut all, &image, &file, label as u32)?,
                None => all.left_out.push(format!("{} ({width}×{height} pixels)", within(&file))),
            }
        }
        if all.len() == before {
            let (count, last) = (all.left_out.len(), all.left_out.last().map_or("", String::as_str));
            let m = format!("expected a picture of {side}×{side} pixels or more, found none of {count}: {last}");
            return Err(Error::Input(format!("{}: {m}", class.display())));
        }
        all.classes.push(if class == folder { "all".into() } else { name_of(&class) });
    }
    Ok(all)
}

/// The shorter sides of some of a folder's pictures, ascending.
///
/// # Errors
/// Those of [`read`].
pub fn some_sides(folder: &Path) -> Result<Vec<usize>> {
    const SOME: usize = 100;
    let top = Listing::of(folder)?;
    let mut images = top.images;
    for sub in &top.folders {
        images.extend(Listing::of(sub)?.images);
    }
    let step = images.len().div_ceil(SOME).max(1);
    let mut sides = Vec::new();
    for path in images.iter().step_by(step) {
        sides.push(picture::shorter_side(path)?);
    }
    sides.sort_unstable();
    Ok(sides)
}

/// Adds an image, which a file holds.
fn add(all: &mut Dataset, image: &Rgba, file: &Path, label: u32) -> Result<()> {
    if all.labels.is_empty() {
        all.shape = [if image.grey { 1 } else { 3 }, image.height, image.width];
    }
    let ([_, height, width], (h, w)) = (all.shape, (image.height, image.width));
    if (h, w) != (height, width) {
        return Err(Error::Input(format!(
            "{}: expected {width}×{height} pixels as in the first image, found {w}×{h}",
            file.display()
        )));
    }
    if !image.grey {
        all.widen();
    }
    let plane = |c: usize| image.pixels.iter().map(move |p| (u32::from(p[c]) * u32::from(p[3]) / 255) as u8);
    all.push((0..all.shape[0]).flat_map(plane), label);
    Ok(())
}

/// What a folder holds, in alphabetical order.
struct Listing {
    folders: Vec<PathBuf>,
    images: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| file::unreadable(folder, &e);
        let read = std::fs::read_dir(folder).map_err(failed)?;
        let mut paths = read.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
        paths.retain(|path| !is_litter(&name_of(path)));
        paths.sort();
        let (folders, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
        let is_image = |path: &PathBuf| {
            // What is no file, a pipe for instance, would never end. A missing one is an error when it is read.
            if path.exists() && !path.is_file() {
                return false;
            }
            let endings = ["png", "jpg", "jpeg", "jpe", "jfif"];
            path.extension().is_some_and(|e| endings.iter().any(|ending| e.eq_ignore_ascii_case(ending)))
        };
        let (images, others) = files.into_iter().partition(is_image);
        Ok(Self { folders, images, others })
    }
}

/// Whether a name is of something that a system or program, not a person, puts among one's files.
fn is_litter(name: &str) -> bool {
    const LITTER: [&str; 9] = [
        "__MACOSX",
        "__pycache__",
        "Thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eaDir",
        "lost+found",
        "$RECYCLE.BIN",
        "System Volume Information",
    ];
    name.starts_with('.') || name.starts_with("Icon\r") || LITTER.iter().any(|litter| name.eq_ignore_ascii_case(litter))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
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

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("consistency-sampler-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn bytes(data: &Dataset) -> Vec<f32> {
        let all = data.batch(&(0..data.len()).collect::<Vec<_>>()).images;
        all.iter().map(|v| ((v + 1.0) * 127.5).round()).collect()
    }

    #[test]
    fn pictures_that_are_too_small_are_named_and_a_class_of_them_is_refused() {
        let folder = scratch("small");
        for (class, width) in [("a", 3), ("a", 1), ("b", 4)] {
            std::fs::create_dir_all(folder.join(class)).unwrap();
            let mut encoder =
                png::Encoder::new(File::create(folder.join(format!("{class}/{width}.png"))).unwrap(), width, 3);
            encoder.set_color(png::ColorType::Grayscale);
            encoder.write_header().unwrap().write_image_data(&vec![7; 3 * width as usize]).unwrap();
        }
        let data = read(&folder, 2).unwrap();
        assert_eq!(
            (data.len(), data.shape, data.left_out.as_slice()),
            (2, [1, 2, 2], &["a/1.png (1×3 pixels)".into()][..])
        );
        assert_eq!(some_sides(&folder), Ok(vec![1, 3, 3]));
        let refused = read(&folder, 4).unwrap_err().to_string();
        assert!(
            refused.ends_with("a: expected a picture of 4×4 pixels or more, found none of 2: a/3.png (3×3 pixels)"),
            "{refused}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn sub_folders_are_classes() {
        let folder = scratch("folders");
        assert!(read(&folder, 0).unwrap_err().to_string().contains("found neither"));
        for (class, rgba) in [("b", [255, 0, 0, 255, 0, 255, 0, 0]), ("a", [0, 0, 255, 255, 255, 255, 255, 51])] {
            std::fs::create_dir(folder.join(class)).unwrap();
            png(&folder.join(class).join("1.png"), png::ColorType::Rgba, 2, &rgba);
        }
        let data = read(&folder, 0).unwrap();
        assert_eq!((data.len(), data.shape, data.classes.as_slice()), (2, [3, 1, 2], &["a".into(), "b".into()][..]));
        // Planes of R, G and B; a transparent pixel is black.
        assert_eq!(bytes(&data), [0.0, 51.0, 0.0, 51.0, 255.0, 51.0, 255.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        png(&folder.join("b/2.png"), png::ColorType::Rgb, 1, &[1, 2, 3]);
        assert!(
            read(&folder, 0).unwrap_err().to_string().contains("expected 2×1 pixels as in the first image, found 1×1")
        );
        png(&folder.join("c.png"), png::ColorType::Rgb, 1, &[1, 2, 3]);
        assert!(read(&folder, 0).unwrap_err().to_string().contains("found 1 beside them"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn grey_images_are_widened_among_coloured_ones_alone() {
        let folder = scratch("grey");
        for class in ["a", "b"] {
            std::fs::create_dir(folder.join(class)).unwrap();
            png(&folder.join(class).join("1.png"), png::ColorType::Grayscale, 2, &[7, 9]);
        }
        let data = read(&folder, 0).unwrap();
        assert_eq!((data.shape, bytes(&data)), ([1, 1, 2], vec![7.0, 9.0, 7.0, 9.0]));
        png(&folder.join("b/0.png"), png::ColorType::Rgb, 2, &[1, 2, 3, 4, 5, 6]);
        let data = read(&folder, 0).unwrap();
        let grey = [7.0, 9.0].repeat(3);
        assert_eq!(
            (data.shape, bytes(&data)),
            ([3, 1, 2], [&grey[..], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0], &grey].concat())
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_systems_leave_behind_is_no_class_and_other_files_are_named() {
        let folder = scratch("litter");
        for class in ["a", "b"] {
            std::fs::create_dir(folder.join(class)).unwrap();
            png(&folder.join(class).join("1.PNG"), png::ColorType::Grayscale, 1, &[7]);
            std::fs::write(folder.join(class).join("._1.png"), "resource fork").unwrap();
            std::fs::write(folder.join(class).join("Thumbs.db"), "").unwrap();
        }
        for litter in [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"] {
            std::fs::create_dir(folder.join(litter)).unwrap();
            png(&folder.join(litter).join("1.png"), png::ColorType::Grayscale, 1, &[7]);
        }
        [".DS_Store", "desktop.ini"].iter().for_each(|name| std::fs::write(folder.join(name), "").unwrap());
        let data = read(&folder, 0).unwrap();
        assert_eq!((data.len(), &data.classes, &data.left_out), (2, &vec!["a".into(), "b".into()], &vec![]));

        std::fs::write(folder.join("labels.csv"), "").unwrap();
        std::fs::write(folder.join("a/x.webp"), "").unwrap();
        std::fs::create_dir(folder.join("b/more")).unwrap();
        assert_eq!(
            read(&folder, 0).unwrap().left_out,
            ["labels.csv (neither PNG nor JPEG)", "a/x.webp (neither PNG nor JPEG)", "b/more (a folder)"]
        );

        // A class that is not read would give the next one its label.
        let empty = folder.join("aa");
        std::fs::create_dir(&empty).unwrap();
        let refused = || read(&folder, 0).unwrap_err().to_string();
        assert_eq!(refused(), format!("{}: expected images of the class, found none", empty.display()));
        std::fs::write(empty.join("x.webp"), "").unwrap();
        assert!(refused().ends_with("aa: expected images of the class, found none but files of other kinds (x.webp)"));
        std::fs::create_dir(empty.join("inner")).unwrap();
        assert!(refused().ends_with("aa: expected images of the class, found none but folders (inner)"));
        let parts = scratch("parts");
        ["test/a", "train/a"].iter().for_each(|part| std::fs::create_dir_all(parts.join(part)).unwrap());
        let hint = format!("found neither: give the folder of the classes, perhaps {}", parts.join("train").display());
        assert!(read(&parts, 0).unwrap_err().to_string().ends_with(&hint));
        std::fs::remove_dir_all(parts).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn jpegs_are_read_whatever_their_names_say() {
        // 8×8 pixels, all of grey level 64, as Pillow writes them: once grey, once in colour.
        let [grey, colour] = [GREY_JPEG, COLOUR_JPEG].map(|hex| {
            let digits = hex.as_bytes().as_chunks::<2>().0;
            digits.iter().map(|d| u8::from_str_radix(str::from_utf8(d).unwrap(), 16).unwrap()).collect::<Vec<u8>>()
        });
        let folder = scratch("jpeg");
        std::fs::write(folder.join("1.JPEG"), &grey).unwrap();
        let data = read(&folder, 0).unwrap();
        assert_eq!((data.shape, bytes(&data)), ([1, 8, 8], vec![64.0; 64]));
        std::fs::write(folder.join("2.png"), &colour).unwrap();
        let data = read(&folder, 0).unwrap();
        assert_eq!(data.shape, [3, 8, 8]);
        let [grey_pixels, colour_pixels] = bytes(&data).as_chunks::<192>().0.to_vec().try_into().unwrap();
        assert_eq!(grey_pixels, [64.0; 192]);
        let expected = [200.0, 40.0, 90.0].map(|v| [v; 64]).concat();
        assert!(colour_pixels.iter().zip(expected).all(|(found, v)| (found - v).abs() <= 2.0), "{colour_pixels:?}");
        std::fs::write(folder.join("2.png"), "RIFF....WEBP").unwrap();
        assert!(read(&folder, 0).unwrap_err().to_string().ends_with("2.png: expected a PNG or JPEG, found neither"));
        std::fs::write(folder.join("2.png"), &colour[..colour.len() - 12]).unwrap();
        assert!(read(&folder, 0).unwrap_err().to_string().contains("2.png: damaged JPEG: "));
        std::fs::remove_dir_all(folder).unwrap();
    }

    const GREY_JPEG: &str = "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c1912130f141d1a1f1e\
         1d1a1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc0000b080008000801011100ffc4001400010000\
         0000000000000000000000000007ffc40014100100000000000000000000000000000000ffda0008010100003f003f7fffd9";
    const COLOUR_JPEG: &str = "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c1912130f141d1a1f1e\
         1d1a1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffdb0043010909090c0b0c180d0d1832211c213232\
         323232323232323232323232323232323232323232323232323232323232323232323232323232323232323232323232ffc00011080008\
         000803012200021101031101ffc4001500010100000000000000000000000000000006ffc4001410010000000000000000000000000000\
         0000ffc4001501010100000000000000000000000000000207ffc40014110100000000000000000000000000000000ffda000c03010002\
         110311003f009d005447ffd9";
}
