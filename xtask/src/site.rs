//! The static site in `dist/`: the page, the compiled library and the models, ready for any static host.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use consistency_sampler::{ModelFolder, Precision, UNetConfig, convert};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{Project, remove, run, tools, wasm};

pub const DIST: &str = "dist";

/// The most that the code which samples may weigh, as a browser downloads it: brotli at quality 11.
const BUDGET: usize = 150_000;

/// The folder of the page's controls, which no other page that samples has to load.
const PAGE: &str = "page";

/// The folder of the WebAssembly module.
const PKG: &str = "pkg";

/// The folder of the code that only browsers without WebGPU download, which the budget leaves out.
const CPU: &str = "pkg-cpu";

/// The folder of the code that trains, which the page downloads when that is wanted, and which the budget leaves out.
const TRAIN: &str = "pkg-train";

/// The masks that animals are composed of, and where on the site the page that trains finds them.
const ANIMALS: [&str; 2] = ["tests/goldens/animals", "data/animals"];

/// The folder of the library's sources, which lie at the root of the site, next to those of the page.
const LIBRARY: &str = "library";

/// Compiles the library, assembles `dist/` afresh and weighs the code.
pub fn build(project: &Project) -> Result<()> {
    wasm::build_train(project, &project.root.join("www").join(TRAIN))?;
    build_without_training(project)
}

/// Compiles the module that trains and adds it to `dist/`.
pub fn add_training(project: &Project) -> Result<()> {
    let (www, dist) = (project.root.join("www"), project.root.join(DIST));
    wasm::build_train(project, &www.join(TRAIN))?;
    let (scripts, others): (Vec<_>, Vec<_>) = files(&www.join(TRAIN))?.into_iter().partition(|file| is_script(file));
    copy_files(&www, &dist, others)?;
    compile(project, &www, &dist, scripts)
}

/// [`build`] with the module that trains as an earlier build has left it, if one has.
pub fn build_without_training(project: &Project) -> Result<()> {
    tools::node_installed(project)?;
    let www = project.root.join("www");
    wasm::build(project, &www.join(PKG))?;
    wasm::build_cpu(project, &www.join(CPU))?;

    let dist = project.root.join(DIST);
    remove(&dist)?;
    let (scripts, mut others): (Vec<_>, Vec<_>) = files(&www)?.into_iter().partition(|file| is_script(file));
    others.retain(|file| file.file_name() != Some("tsconfig.json".as_ref()));
    copy_files(&www, &dist, others)?;
    compile(project, &www, &dist, scripts)?;
    let [masks, copies] = ANIMALS;
    for name in ["masks.png", "parts.json", "LICENSE"] {
        copy_file(&project.root.join(masks).join(name), &dist.join(copies).join(name))?;
    }
    let models = models(&project.root.join("weights"))?;
    for model in &models {
        let folder = dist.join("weights").join(model.file_name().expect("a directory entry has a name"));
        halve(model, &folder)?;
        sum(&folder)?;
    }
    list(&models, &dist.join("weights"))?;
    println!("assembled {}", dist.display());
    weigh(&dist)
}

/// Checks the types of everything in TypeScript or JavaScript, and that it is linted and formatted.
pub fn check(project: &Project) -> Result<()> {
    run(tools::biome(project)?.args(["ci", "--error-on-warnings"]))?;
    let www = project.root.join("www");
    wasm::declare(project, &www.join(PKG), &www.join(CPU), &www.join(TRAIN))?;
    let tests = project.root.join("tests/web");
    tools::npm_packages(project, &tests)?;
    for folder in [www, tests] {
        run(tools::typescript(project)?.arg("--project").arg(folder))?;
    }
    Ok(())
}

/// Whether a file under `www/` is a script, be it one that only declares types.
fn is_script(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "ts" || extension == "js")
}

/// Makes the site's JavaScript, file by file, without types, comments and long names.
fn compile(project: &Project, www: &Path, dist: &Path, scripts: Vec<PathBuf>) -> Result<()> {
    let library = www.join(LIBRARY);
    let entries = scripts.into_iter().filter(|file| !file.to_string_lossy().ends_with(".d.ts")).map(|file| {
        let place = file.strip_prefix(&library).or_else(|_| file.strip_prefix(www)).expect("a file of www/");
        format!("{}={}", place.with_extension("").display(), file.display())
    });
    run(tools::esbuild(project)?
        .args(["--minify", "--format=esm", "--target=es2022", "--legal-comments=none", "--log-level=warning"])
        .arg(format!("--outdir={}", dist.display()))
        .args(entries))?;
    // Nothing is left of a file of types.
    for file in files(dist)?.into_iter().filter(|file| is_script(file)) {
        if file.metadata()?.len() == 0 {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

/// Copies a model with its weights in half precision, which is half of a visitor's download.
fn halve(model: &Path, folder: &Path) -> Result<()> {
    let source = ModelFolder::open(model).map_err(|e| anyhow!("{}: {e}", model.display()))?;
    convert(&source, folder, Precision::F16, |_, _| {}).map_err(|e| anyhow!("{}: {e}", model.display()))?;
    let mut others = files(model)?.into_iter().filter(|path| path.extension().is_none_or(|e| e != "safetensors"));
    others.try_for_each(|path| copy_file(&path, &folder.join(path.strip_prefix(model)?)))
}

/// Writes a model's `SHA256SUMS`, as `sha256sum` does, which the page verifies while it loads.
fn sum(model: &Path) -> Result<()> {
    let sums = model.join("SHA256SUMS");
    let mut lines = Vec::new();
    for path in files(model)?.into_iter().filter(|path| *path != sums) {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(model)?.to_string_lossy().replace('\\', "/");
        lines.push(format!("{:x}  {name}\n", Sha256::digest(bytes)));
    }
    lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
    fs::write(&sums, lines.concat()).with_context(|| format!("cannot write {}", sums.display()))
}

/// Writes `weights/index.json`, from which the page offers the site's models: what each is, by its U-Net's configuration.
fn list(models: &[PathBuf], weights: &Path) -> Result<()> {
    let about = |model: &PathBuf| {
        let path = model.join("unet/config.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config = UNetConfig::parse(&text).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        Ok(json!({
            "path": model.file_name().expect("a directory entry has a name").to_string_lossy(),
            "sampleSize": config.sample_size,
            "channels": config.in_channels,
            "numClassEmbeds": config.num_class_embeds,
        }))
    };
    let models = models.iter().map(about).collect::<Result<Vec<_>>>()?;
    fs::create_dir_all(weights)?;
    let index = weights.join("index.json");
    fs::write(&index, json!({ "models": models }).to_string())
        .with_context(|| format!("cannot write {}", index.display()))
}

/// Prints what each code file weighs and fails when those that sample are too heavy together.
fn weigh(dist: &Path) -> Result<()> {
    let mut files = files(dist)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wasm" || extension == "js"));
    files.sort();

    println!("{:>9} {:>9}", "bytes", "brotli");
    let (mut runtime, mut controls, mut cpu, mut train) = (0, 0, 0, 0);
    for path in files {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let compressed = compressed_size(&bytes)?;
        let name = path.strip_prefix(dist)?;
        println!("{:>9} {compressed:>9} {}", bytes.len(), name.display());
        let sum = match () {
            () if name.starts_with(CPU) => &mut cpu,
            () if name.starts_with(TRAIN) => &mut train,
            () if name.starts_with(PAGE) => &mut controls,
            () => &mut runtime,
        };
        *sum += compressed;
    }
    println!("{:>9} {runtime:>9} together, of at most {BUDGET}, and {controls} for the page's controls", "");
    println!("{:>9} {cpu:>9} in place of pkg without WebGPU", "");
    println!("{:>9} {train:>9} where a page trains", "");
    ensure!(
        runtime <= BUDGET,
        "the code that samples is too heavy: {runtime} bytes after brotli, at most {BUDGET} allowed"
    );
    Ok(())
}

fn compressed_size(bytes: &[u8]) -> io::Result<usize> {
    let mut compressed = Vec::new();
    let params = brotli::enc::BrotliEncoderParams { quality: 11, ..Default::default() };
    brotli::BrotliCompress(&mut &bytes[..], &mut compressed, &params)?;
    Ok(compressed.len())
}

/// The folders that hold a diffusers pipeline.
fn models(weights: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(weights).with_context(|| format!("cannot list {}", weights.display()))?;
    let mut models = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.join("model_index.json").is_file() {
            models.push(path);
        }
    }
    models.sort();
    Ok(models)
}

/// Copies some files of a folder.
pub fn copy_files(from: &Path, to: &Path, files: Vec<PathBuf>) -> Result<()> {
    files.iter().try_for_each(|source| copy_file(source, &to.join(source.strip_prefix(from)?)))
}

/// Copies a file's contents only: its permissions, perhaps read-only, must not hinder the next build.
fn copy_file(source: &Path, copy: &Path) -> Result<()> {
    fs::create_dir_all(copy.parent().expect("a file in a folder"))?;
    io::copy(&mut File::open(source)?, &mut File::create(copy)?)
        .with_context(|| format!("cannot copy {} to {}", source.display(), copy.display()))?;
    Ok(())
}

/// Every file under a folder, at any depth.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    Ok(found)
}
