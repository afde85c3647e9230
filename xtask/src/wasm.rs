//! From the library's source to `www/pkg/`, `www/pkg-cpu/` and `www/pkg-train/`: cargo, wasm-bindgen, wasm-opt.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use wasm_bindgen_cli_support::Bindgen;

use crate::tools::WASM_TARGET as TARGET;
use crate::{Project, remove, run, tools};

/// The library's name as a file stem, which the page imports as `pkg/consistency_sampler.js`.
const NAME: &str = "consistency_sampler";

/// Cargo's arguments for the browser's variant of the library; `build` and `clippy` share them.
pub const LIBRARY: [&str; 6] = ["--lib", "--target", TARGET, "--no-default-features", "--features", "web"];

/// Cargo's arguments for the same library on the CPU, for browsers without WebGPU.
pub const LIBRARY_CPU: [&str; 6] = ["--lib", "--target", TARGET, "--no-default-features", "--features", "web-cpu"];

/// Cargo's arguments for the library that trains too.
pub const LIBRARY_TRAIN: [&str; 6] = ["--lib", "--target", TARGET, "--no-default-features", "--features", "web-train"];

/// Cargo's arguments for the benchmark's module.
const BURN: [&str; 6] = ["--lib", "--target", TARGET, "--no-default-features", "--features", "bench"];

/// Builds the library for the browser and leaves JavaScript glue, type declarations and the module in `pkg`.
pub fn build(project: &Project, pkg: &Path) -> Result<()> {
    let output = compile(project)?;
    check_float_formatting(&output.join(NAME).with_extension("wasm"))?;
    bind(project, &output, pkg, SIZE)
}

/// Fails when the module holds the standard library's formatting of floats: `{}` of an f32 or f64, or what contains one
/// (`f64::clamp`), adds 8 KB and more after brotli. `json::number` formats floats in the page.
fn check_float_formatting(module: &Path) -> Result<()> {
    let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let mark = b"flt2dec";
    ensure!(
        !bytes.windows(mark.len()).any(|window| window == mark),
        "{} formats floats by core::fmt: expected json::number alone",
        module.display()
    );
    Ok(())
}

/// Builds the library that computes on the CPU, with vector instructions, and leaves the same things in `pkg`.
pub fn build_cpu(project: &Project, pkg: &Path) -> Result<()> {
    bind(project, &compile_fast(project, LIBRARY_CPU)?, pkg, SPEED)
}

/// Builds the library that trains, with vector instructions, and leaves the same things in `pkg`.
pub fn build_train(project: &Project, pkg: &Path) -> Result<()> {
    bind(project, &compile_fast(project, LIBRARY_TRAIN)?, pkg, SPEED)
}

/// Leaves the same things as [`build`], [`build_cpu`] and [`build_train`] in `pkg`, `cpu` and `train`, without the time that
/// wasm-opt takes: enough to check the types of what imports them.
pub fn declare(project: &Project, pkg: &Path, cpu: &Path, train: &Path) -> Result<()> {
    generate(&compile(project)?, pkg, true)?;
    generate(&compile_fast(project, LIBRARY_CPU)?, cpu, true)?;
    generate(&compile_fast(project, LIBRARY_TRAIN)?, train, true)
}

/// Leaves the first two of [`declare`], whose scripts name no file: who starts a module says where it is.
pub fn placeless(project: &Project, pkg: &Path, cpu: &Path) -> Result<()> {
    generate(&compile(project)?, pkg, false)?;
    generate(&compile_fast(project, LIBRARY_CPU)?, cpu, false)
}

/// Compiles the library for the browser; returns the folder of the module.
fn compile(project: &Project) -> Result<PathBuf> {
    tools::wasm_target(project)?;
    run(project.command("cargo").arg("build").args(LIBRARY).args(["--profile", "wasm"]))?;
    Ok(project.target.join(TARGET).join("wasm"))
}

/// Compiles a library that computes on the CPU; returns the folder of the module.
fn compile_fast(project: &Project, library: [&str; 6]) -> Result<PathBuf> {
    tools::wasm_target(project)?;
    let vectors = format!("target.{TARGET}.rustflags=[\"-Ctarget-feature=+simd128\"]");
    run(project.command("cargo").arg("build").args(library).args(["--profile", "wasm-cpu", "--config", &vectors]))?;
    Ok(project.target.join(TARGET).join("wasm-cpu"))
}

/// Builds the benchmark's module, which runs the U-Net on burn-wgpu, and leaves the same things in `pkg`.
///
/// It takes minutes, so it has a target folder of its own, in which it does not keep other builds waiting.
pub fn build_burn(project: &Project, pkg: &Path) -> Result<()> {
    tools::wasm_target(project)?;
    let target = project.target.join("burn");
    run(project
        .command("cargo")
        .arg("build")
        .args(BURN)
        .args(["--profile", "wasm-burn", "--target-dir"])
        .arg(&target))?;
    let output = target.join(TARGET).join("wasm-burn");
    let changed = |path: PathBuf| fs::metadata(path).and_then(|file| file.modified());
    let made = changed(pkg.join(format!("{NAME}_bg.wasm")));
    match (changed(output.join(NAME).with_extension("wasm")), made) {
        (Ok(compiled), Ok(made)) if compiled < made => Ok(()),
        _ => bind(project, &output, pkg, LARGE),
    }
}

/// wasm-opt's arguments where every byte counts.
const SIZE: &[&str] = &["-Oz", "--gufa", "-Oz", "--type-merging", "-Oz"];

/// wasm-opt's arguments for a module so large that [`SIZE`] takes a quarter of an hour and more.
const LARGE: &[&str] = &["-Oz"];

/// wasm-opt's arguments where the module does arithmetic.
const SPEED: &[&str] = &["-O3"];

/// From the compiler's output folder to a package that a page imports; `passes` make its module smaller or faster.
fn bind(project: &Project, output: &Path, pkg: &Path, passes: &[&str]) -> Result<()> {
    generate(output, pkg, true)?;
    let module = pkg.join(format!("{NAME}_bg.wasm"));
    run(tools::wasm_opt(project)?.args(passes).arg(&module).arg("-o").arg(&module))
}

/// Writes the package, its module as the compiler left it, which the script finds beside itself by default or not at all.
fn generate(output: &Path, pkg: &Path, default_path: bool) -> Result<()> {
    let compiled = output.join(NAME).with_extension("wasm");
    remove(pkg)?;
    Bindgen::new()
        .input_path(&compiled)
        .web(true)?
        .omit_default_module_path(!default_path)
        .typescript(true)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate(pkg)
        .with_context(|| format!("wasm-bindgen cannot process {}", compiled.display()))
}
