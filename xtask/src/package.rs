//! What is published: the crate, and the npm package in `target/npm/`, which has the element, the JavaScript interface and
//! the module, for any bundler or none.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::{Project, release, remove, run, site, tools, wasm};

/// The npm package's folder below the target folder.
pub const FOLDER: &str = "npm";

/// The most bytes of the crate's file.
const CRATE_BUDGET: u64 = 1_000_000;

/// Packs the crate, checks that what was packed compiles, and its size, and rehearses its publication. Changes that are not
/// committed are packed too.
pub fn crate_file(project: &Project) -> Result<()> {
    run(project.command("cargo").args([
        "package",
        "--package",
        "consistency-sampler",
        "--allow-dirty",
        "--no-verify",
    ]))?;
    let folder = project.target.join("package");
    let name = format!("consistency-sampler-{}", project.version);
    let file = folder.join(format!("{name}.crate"));
    // cargo's own verification would build all dependencies once more, which takes minutes.
    run(project.command("tar").arg("-xzf").arg(&file).arg("-C").arg(&folder))?;
    let manifest = folder.join(&name).join("Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    // It lies within this project's folder, and is no part of its workspace.
    fs::write(&manifest, format!("{text}\n[workspace]\n"))?;
    let check = ["check", "--locked", "--lib", "--examples", "--features", "png", "--manifest-path"];
    run(project.command("cargo").args(check).arg(&manifest).arg("--target-dir").arg(&project.target))?;
    let bytes = fs::metadata(&file).with_context(|| format!("no crate at {}", file.display()))?.len();
    println!("{}: {bytes} bytes, of at most {CRATE_BUDGET}", file.display());
    ensure!(bytes <= CRATE_BUDGET, "the crate is too large: {bytes} bytes, at most {CRATE_BUDGET} allowed");
    release::rehearse_crate(project)
}

/// Below the target folder: the library as JavaScript and declarations.
const COMPILED: &str = "npm-compiled";

/// Builds and packs; prints where the tarball is.
pub fn package(project: &Project) -> Result<()> {
    site::build(project)?;
    assemble(project)?;
    let folder = project.target.join(FOLDER);
    run(tools::npm(project).args(["pack", "--loglevel=error"]).current_dir(&folder).stdout(Stdio::null()))?;
    let tarball = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .context("npm pack has left no tarball")?;
    println!("packed {}", tarball.display());
    Ok(())
}

/// The one file that is bundled: bundlers copy it as they copy a picture, so that it needs nothing beside it but the modules,
/// whose addresses it is told.
const WORKER: &str = "worker.js";

/// Puts the files that `npm/package.json` lists together, with their comments: who bundles them minifies them, too.
pub fn assemble(project: &Project) -> Result<()> {
    let folder = project.target.join(FOLDER);
    let compiled = project.target.join(COMPILED);
    for folder in [&folder, &compiled] {
        remove(folder)?;
    }
    run(tools::typescript(project)?.args(["--project", "www/library", "--outDir"]).arg(&compiled))?;
    let npm = project.root.join("npm");
    for file in files(&npm.join("package.json"))? {
        if file == WORKER {
            continue;
        }
        let www = project.root.join("www");
        let places = [npm.clone(), compiled.clone(), www.join("library"), www, project.root.clone()];
        let Some(source) = places.iter().map(|place| place.join(&file)).find(|path| path.is_file()) else {
            bail!("npm/package.json lists {file}, which is neither in npm/, of the library, in www/ nor in the root");
        };
        copy(&source, &folder.join(&file))?;
    }
    copy(&npm.join("package.json"), &folder.join("package.json"))?;
    wasm::placeless(project, &compiled.join("pkg"), &compiled.join("pkg-cpu"))?;
    run(tools::esbuild(project)?
        .args([
            "--bundle",
            "--minify",
            "--format=iife",
            "--target=es2022",
            "--legal-comments=none",
            "--log-level=warning",
        ])
        .arg(format!("--outfile={}", folder.join(WORKER).display()))
        .arg(compiled.join(WORKER)))
}

/// The entries of "files".
fn files(manifest: &Path) -> Result<Vec<String>> {
    let read = || -> Result<Vec<String>> {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(manifest)?)?;
        Ok(serde_json::from_value(json["files"].clone())?)
    };
    let files = read().with_context(|| format!("cannot read {}", manifest.display()))?;
    ensure!(!files.is_empty(), "{} lists no files", manifest.display());
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().expect("a file in a folder"))?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
