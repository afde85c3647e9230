//! The project's chores, each one command: `cargo xtask build`, `serve`, `docs`, `package`, `test`, `bench`,
//! `release`.

mod audit;
mod bench;
mod check;
mod docs;
mod package;
mod release;
mod serve;
mod site;
mod tools;
mod wasm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about)]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Compile the library to WebAssembly and assemble the static site in dist/
    Build,
    /// Build, then serve dist/ on this machine
    Serve {
        /// The port on 127.0.0.1; 0 takes a free one
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Build the book of docs/ in target/book/, and the site before it if there is none
    Docs,
    /// Build, then pack the element and the JavaScript interface for npm
    Package,
    /// Run everything that continuous integration runs: formatting, lints, the dependencies' audit, types, native tests, the build and the browser tests
    Test {
        /// Run these stages only (repeat or separate with commas)
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<check::Stage>,
    },
    /// One part of a release; continuous integration does them all when a tag is pushed
    Release {
        #[command(subcommand)]
        part: release::Part,
    },
    /// Measure the page's U-Net beside onnxruntime-web and burn-wgpu in one Chromium
    Bench(bench::Options),
}

/// Where things stand in this checkout.
struct Project {
    root: PathBuf,
    target: PathBuf,
    /// The library's version.
    version: String,
}

impl Project {
    fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml");
        let metadata = MetadataCommand::new()
            .manifest_path(manifest)
            .no_deps()
            .exec()
            .context("cargo metadata cannot read the workspace")?;
        let version = metadata.root_package().context("the workspace has no package at its root")?.version.to_string();
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into(), version })
    }

    /// A command that starts in the root of the checkout.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }
}

/// Removes a folder and what is in it, if it is there.
fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    Ok(())
}

/// Runs a command to its end with its output visible; an error names the command and its exit status.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// The command line as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn main() -> ExitCode {
    match Args::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    /// Does the chore; false stands for tests that failed, which have been shown by then.
    fn run(self) -> Result<bool> {
        let project = Project::find()?;
        match self.chore {
            Chore::Build => site::build(&project)?,
            Chore::Serve { port } => {
                // The page is there a minute earlier than its tab Train.
                site::build_without_training(&project)?;
                std::thread::scope(|scope| {
                    scope.spawn(|| match site::add_training(&project) {
                        Ok(()) => println!("the tab Train has its module"),
                        Err(error) => eprintln!("the tab Train has no module: {error:#}"),
                    });
                    serve::serve(&project.root.join(site::DIST), port)
                })?;
            }
            Chore::Docs => docs::build(&project)?,
            Chore::Release { part } => release::release(&project, &part)?,
            Chore::Package => package::package(&project)?,
            Chore::Bench(options) => bench::bench(&project, &options)?,
            Chore::Test { only } => return check::test(&project, &only),
        }
        Ok(true)
    }
}
