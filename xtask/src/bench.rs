//! `cargo xtask bench`: the page's U-Net beside onnxruntime-web and burn-wgpu, in one browser.
//!
//! This file sets everything up; `tests/web/bench/` measures.

mod models;
mod onnx;
mod proto;

use std::env;
use std::fs;
use std::io;

use anyhow::{Context, Result};
use clap::{Args, value_parser};

use crate::{Project, run, site, tools, wasm};

/// The npm package of onnxruntime-web: the newest release.
const ONNXRUNTIME: &str = "1.30.0";

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Print one JSON object, and nothing else, on standard output
    #[arg(long)]
    json: bool,
    /// The networks
    #[arg(long, value_delimiter = ',', default_values = ["mnist", "rgb32"])]
    models: Vec<String>,
    /// The batch sizes
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16], value_parser = value_parser!(u32).range(1..))]
    batches: Vec<u32>,
    /// The runtimes
    #[arg(long, value_delimiter = ',', default_values = ["ours", "onnxruntime_web", "burn_wgpu"])]
    runtimes: Vec<String>,
    /// onnxruntime-web's graphs: with GroupNormalization, with InstanceNormalization
    #[arg(long, value_delimiter = ',', default_values = ["fused", "plain"])]
    graphs: Vec<String>,
    /// Timed rounds of each case, at least
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// Go on with a case for this many seconds, up to 15 rounds
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Cold pages of each runtime; 0 leaves first images and the code's size out
    #[arg(long, default_value_t = 3)]
    cold: u32,
}

/// Sets up what is missing, measures, and prints tables or JSON.
pub fn bench(project: &Project, options: &Options) -> Result<()> {
    let folder = project.target.join("bench");
    let result = folder.join("result.json");
    if options.json {
        // The set-up's tools write to standard output as they like: a run whose output goes elsewhere does it all.
        let arguments = env::args_os().skip(1).filter(|argument| argument != "--json");
        run(project
            .command(env::current_exe()?.to_str().context("the path of xtask is not UTF-8")?)
            .args(arguments)
            .stdout(io::stderr()))?;
        print!("{}", fs::read_to_string(&result).with_context(|| format!("cannot read {}", result.display()))?);
        return Ok(());
    }

    site::build(project)?;
    let wanted = |runtime: &str| options.runtimes.iter().any(|name| name == runtime);
    if wanted("burn_wgpu") {
        wasm::build_burn(project, &folder.join("burn"))?;
    }
    tools::node_installed(project)?;
    let onnxruntime = tools::npm_package(project, "onnxruntime-web", ONNXRUNTIME)?;
    models::write(&folder.join("models"), &project.root.join("weights/mnist"))?;
    let web = project.root.join("tests/web");
    tools::npm_packages(project, &web)?;

    let list = |values: &[String]| values.join(",");
    let batches: Vec<String> = options.batches.iter().map(u32::to_string).collect();
    run(project
        .command("node")
        .current_dir(&web)
        .env("CHROME", tools::chromium(project)?)
        .arg("bench/run.js")
        .arg(format!("--folder={}", folder.display()))
        .arg(format!("--onnxruntime={}", onnxruntime.display()))
        .arg(format!("--models={}", list(&options.models)))
        .arg(format!("--batches={}", list(&batches)))
        .arg(format!("--runtimes={}", list(&options.runtimes)))
        .arg(format!("--graphs={}", list(&options.graphs)))
        .arg(format!("--rounds={}", options.rounds))
        .arg(format!("--seconds={}", options.seconds))
        .arg(format!("--cold={}", options.cold))
        .arg(format!("--output={}", result.display())))
}
