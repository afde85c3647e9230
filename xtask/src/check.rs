//! `cargo xtask test`: the checks of continuous integration, stage by stage.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::{Project, audit, docs, package, release, run, shown, site, tools, wasm};

/// One part of the checks; the variants stand in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Stage {
    /// Formatting
    Fmt,
    /// Lints, for this machine and for the browser, and the documentation
    Clippy,
    /// Licences, sources and known vulnerabilities of what the project depends on
    Audit,
    /// Types, lints and formatting of the page's and the tests' scripts
    Scripts,
    /// Native tests, the GPU path included
    Native,
    /// The crate as it would be published: builds by itself, is small, the registry would take it
    Package,
    /// The static site and its size, the npm package as it would be published
    Build,
    /// The book, with the site in it
    Docs,
    /// The page and the book in headless browsers, after a build
    Web,
    /// The optional backend on burn, which takes minutes to build; only when it is named
    Burn,
}

/// The features that the native tests need: the command line and the trainer.
const EVERYTHING: &str = "cli,train";

/// How many tests ran to their end.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs the selected stages, or all but [`Stage::Burn`] when none is named, and goes on after a failure so that one run shows every failure.
///
/// Returns whether every test passed. It is an error when a stage fails for another reason than failed tests: then no
/// count of tests would tell the truth about the run.
pub fn test(project: &Project, only: &[Stage]) -> Result<bool> {
    let selected = |stage: &&Stage| {
        only.is_empty() && **stage != Stage::Burn
            || only.contains(stage)
            || matches!(stage, Stage::Build | Stage::Docs) && only.contains(&Stage::Web)
    };
    let mut counts = Counts::default();
    let mut broken = Vec::new();
    let mut times = Vec::new();
    for &stage in Stage::value_variants().iter().filter(selected) {
        if matches!(stage, Stage::Docs | Stage::Web) && broken.contains(&Stage::Build) {
            println!("==> {stage:?} skipped, for want of a build");
            continue;
        }
        println!("==> {stage:?}");
        let start = Instant::now();
        let failed_before = counts.failed;
        let outcome = stage.run(project, &mut counts);
        let took = format!("{stage:?} {:.1} s", start.elapsed().as_secs_f64());
        match outcome {
            Ok(()) => println!("==> {took}"),
            Err(error) => {
                println!("==> {took}, failed: {error:#}");
                if counts.failed == failed_before {
                    broken.push(stage);
                }
            }
        }
        times.push(took);
    }
    println!("==> {}", times.join(", "));
    ensure!(broken.is_empty(), "stages that failed: {broken:?}");
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

impl Stage {
    /// Fails when the stage does; adds the tests that ran, failed ones included.
    fn run(self, project: &Project, counts: &mut Counts) -> Result<()> {
        let cargo = || project.command("cargo");
        match self {
            Self::Fmt => run(cargo().args(["fmt", "--all", "--check"])),
            Self::Clippy => {
                tools::wasm_target(project)?;
                let clippy =
                    |arguments: &[&str]| run(cargo().arg("clippy").args(arguments).args(["--", "-D", "warnings"]));
                clippy(&["--workspace", "--all-targets", "--features", EVERYTHING])?;
                clippy(&["--features", "cli"])?;
                clippy(&["--lib", "--no-default-features", "--features", "gpu"])?;
                clippy(&["--lib", "--no-default-features", "--features", "cpu"])?;
                clippy(&wasm::LIBRARY)?;
                clippy(&wasm::LIBRARY_CPU)?;
                clippy(&wasm::LIBRARY_TRAIN)?;
                // A workspace of its own, whose targets only a nightly compiler can run.
                let fuzz = ["check", "--manifest-path", "fuzz/Cargo.toml", "--target-dir"];
                run(cargo().args(fuzz).arg(&project.target))?;
                let documentation = ["doc", "--no-deps", "--lib", "--features", "png"];
                run(cargo().args(documentation).env("RUSTDOCFLAGS", "-D warnings"))
            }
            Self::Audit => audit::audit(project),
            Self::Scripts => site::check(project),
            Self::Native => {
                tools::vulkan(project)?;
                // Release, for the U-Net runs here; xtask itself only in the profile in which it is built already.
                let library = ["test", "--release", "--features", EVERYTHING, "--no-fail-fast"];
                let outcome = cargo_test(cargo().args(library), counts);
                cargo_test(cargo().args(["test", "--package", "xtask"]), counts)?;
                outcome
            }
            Self::Package => package::crate_file(project),
            Self::Build => {
                site::build(project)?;
                package::assemble(project)?;
                release::rehearse_npm(project)
            }
            Self::Docs => docs::build(project),
            Self::Web => web(project, counts),
            Self::Burn => {
                run(cargo().args(["clippy", "--all-targets", "--features", "cli,burn", "--", "-D", "warnings"]))?;
                let tests = ["test", "--release", "--features", "cli,burn", "--test", "diffusers", "--test", "edits"];
                cargo_test(cargo().args(tests), counts)
            }
        }
    }
}

/// Runs `cargo test` with its output visible and adds what its test binaries counted.
fn cargo_test(command: &mut Command, counts: &mut Counts) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = libtest_counts(&line) {
            *counts += result;
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "{} ended with {status}", shown(command));
    Ok(())
}

/// Reads the line with which each test binary ends.
fn libtest_counts(line: &str) -> Option<Counts> {
    let result = line.strip_prefix("test result: ")?;
    let number =
        |what: &str| result.split(['.', ';']).find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok());
    Some(Counts { passed: number("passed")?, failed: number("failed")? })
}

/// Runs the browser tests of `tests/web/` against `dist/`.
fn web(project: &Project, counts: &mut Counts) -> Result<()> {
    tools::node_installed(project)?;
    let chromium = tools::chromium(project)?;
    let folder = project.root.join("tests/web");
    let others = tools::other_browsers(project);
    tools::npm_packages(project, &folder)?;

    let mut tests = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    tests.retain(|name| name.ends_with(".test.js"));
    tests.sort();
    ensure!(!tests.is_empty(), "no *.test.js in {}", folder.display());

    // One reporter for the reader, one for the counts. One file at a time: each starts a browser with a software GPU.
    let tap = project.target.join("web-tests.tap");
    fs::create_dir_all(&project.target)?;
    let mut node = project.command("node");
    node.current_dir(&folder)
        .env("CHROME", chromium)
        .envs(others)
        .args(["--test", "--test-concurrency=1", "--test-reporter=spec", "--test-reporter-destination=stdout"])
        .args(["--test-reporter=tap", &format!("--test-reporter-destination={}", tap.display())])
        .args(&tests);
    let outcome = run(&mut node);
    let result = fs::read_to_string(&tap).ok().and_then(|text| tap_counts(&text));
    match (outcome, result) {
        (outcome, Some(result)) => {
            *counts += result;
            outcome
        }
        (Err(error), None) => Err(error),
        (Ok(()), None) => bail!("node wrote no test counts to {}", tap.display()),
    }
}

/// Reads the totals at the end of a TAP file by Node's test runner.
fn tap_counts(text: &str) -> Option<Counts> {
    let number = |what: &str| {
        let line = text.lines().rev().find_map(|line| line.strip_prefix("# ")?.strip_prefix(what));
        line.and_then(|number| number.trim().parse::<usize>().ok())
    };
    Some(Counts { passed: number("pass ")?, failed: number("fail ")? + number("cancelled ")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary_of_a_test_binary() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(libtest_counts(line), Some(Counts { passed: 12, failed: 3 }));
        assert_eq!(libtest_counts("test result_of_nothing ... ok"), None);
    }

    #[test]
    fn reads_the_totals_of_a_tap_file_and_counts_a_cancelled_test_as_failed() {
        let text =
            "# Subtest: pass 9\nok 1 - pass 9\n1..1\n# tests 7\n# pass 4\n# fail 2\n# cancelled 1\n# skipped 0\n";
        assert_eq!(tap_counts(text), Some(Counts { passed: 4, failed: 3 }));
        assert_eq!(tap_counts("TAP version 13\n"), None);
    }
}
