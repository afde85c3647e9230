//! The tools outside this workspace: found where they are, installed where that can be done unasked.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{Project, run};

/// The compiler's target for browsers.
pub const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The npm package that carries wasm-opt.
const BINARYEN: &str = "132.0.0";

/// The version of esbuild, which makes the page's JavaScript of its TypeScript, without comments and long names.
const ESBUILD: &str = "0.28.2";

/// The version of TypeScript, which checks types and writes declarations; the tests of the package use the same.
const TYPESCRIPT: &str = "5.9.3";

/// The version of biome, which lints and formats; `biome.json` says how.
const BIOME: &str = "2.6.8";

/// The first Node release whose test runner takes every option that the browser tests use.
const NODE_MAJOR: u32 = 20;

/// Sees to it that the compiler has a standard library for WebAssembly.
pub fn wasm_target(project: &Project) -> Result<()> {
    let mut query = project.command("rustc");
    query.args(["--print", "target-libdir", "--target", WASM_TARGET]);
    let output = query.output().context("cannot start rustc")?;
    if Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir() {
        return Ok(());
    }
    run(project.command("rustup").args(["target", "add", WASM_TARGET]))
        .with_context(|| format!("the compiler lacks the target {} and rustup cannot add it", WASM_TARGET))
}

/// wasm-opt as a command to add arguments to.
pub fn wasm_opt(project: &Project) -> Result<Command> {
    npm_tool(project, "binaryen", BINARYEN, "wasm-opt")
}

/// esbuild as a command to add arguments to.
pub fn esbuild(project: &Project) -> Result<Command> {
    npm_tool(project, "esbuild", ESBUILD, "esbuild")
}

/// The TypeScript compiler as a command to add arguments to.
pub fn typescript(project: &Project) -> Result<Command> {
    npm_tool(project, "typescript", TYPESCRIPT, "tsc")
}

/// biome as a command to add arguments to.
pub fn biome(project: &Project) -> Result<Command> {
    npm_tool(project, "@biomejs/biome", BIOME, "biome")
}

/// A program of an npm package, which is installed below the target folder on first use.
fn npm_tool(project: &Project, package: &str, version: &str, program: &str) -> Result<Command> {
    node_installed(project)?;
    let mut command = project.command("node");
    command.arg(npm_package(project, package, version)?.join("bin").join(program));
    Ok(command)
}

/// A program of a crate: the installed one if it has this version, or one that is built below the target folder on first use.
pub fn cargo_tool(project: &Project, name: &str, version: &str, options: &[&str]) -> Result<String> {
    let there =
        |program: &str| first_line(Command::new(program).arg("--version")).is_ok_and(|line| line.ends_with(version));
    if there(name) {
        return Ok(name.into());
    }
    let root = project.target.join(format!("{name}-{version}"));
    let program = root.join("bin").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    let program = program.to_string_lossy().into_owned();
    if !there(&program) {
        // Unoptimised, which is built in half the time and fast enough.
        let mut install = project.command("cargo");
        install.args(["install", "--locked", "--debug", &format!("{name}@{version}"), "--root"]).arg(root);
        run(install.args(options))?;
    }
    Ok(program)
}

/// Checks that node, recent enough, and npm can be started.
fn node(project: &Project) -> Result<()> {
    let version = first_line(project.command("node").arg("--version")).context("node is not installed")?;
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    ensure!(major >= Some(NODE_MAJOR), "node {NODE_MAJOR} or newer is needed, found {version}");
    first_line(npm(project).arg("--version")).context("npm is not installed")?;
    Ok(())
}

/// Sees to it that node and npm are installed.
pub fn node_installed(project: &Project) -> Result<()> {
    let missing = |mut tool: Command| tool.arg("--version").output().is_err();
    if missing(project.command("node")) || missing(npm(project)) {
        apt_install(project, "nodejs")
            .and_then(|()| apt_install(project, "npm"))
            .with_context(|| format!("node {NODE_MAJOR} or newer and npm are needed: install them"))?;
    }
    node(project)
}

/// npm, which is a batch file on Windows.
pub fn npm(project: &Project) -> Command {
    project.command(if cfg!(windows) { "npm.cmd" } else { "npm" })
}

/// The folder of an npm package, installed below the target folder on first use.
pub fn npm_package(project: &Project, name: &str, version: &str) -> Result<PathBuf> {
    let folder = project.target.join(format!("{name}-{version}"));
    let package = folder.join("node_modules").join(name);
    // npm moves a package to its place when it is complete.
    if !package.is_dir() {
        fs::create_dir_all(&folder)?;
        // Without the packages' own scripts, so that a program stays one that node runs on every platform.
        let quiet =
            ["--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        run(npm(project).arg("install").args(quiet).arg("--prefix").arg(&folder).arg(format!("{name}@{version}")))?;
    }
    Ok(package)
}

/// Installs what `package-lock.json` in a folder asks for, unless the last installation is newer than the lock.
pub fn npm_packages(project: &Project, folder: &Path) -> Result<()> {
    let modified = |file: &str| folder.join(file).metadata().and_then(|metadata| metadata.modified());
    let lock =
        modified("package-lock.json").with_context(|| format!("no package-lock.json in {}", folder.display()))?;
    if modified("node_modules/.package-lock.json").is_ok_and(|installed| installed >= lock) {
        return Ok(());
    }
    run(npm(project).args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(folder))
}

/// The path of a Chromium to test in: the one that the environment variable CHROME names, else the first one installed.
pub fn chromium(project: &Project) -> Result<PathBuf> {
    if let Some(chrome) = env::var_os("CHROME") {
        let chrome = PathBuf::from(chrome);
        ensure!(chrome.is_file(), "CHROME names {}, which is not a file", chrome.display());
        return Ok(chrome);
    }
    let find = || ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(on_path);
    if let Some(found) = find() {
        return Ok(found);
    }
    apt_install(project, "chromium").context(
        "no Chromium found: install chromium or google-chrome, or name one in the environment variable CHROME",
    )?;
    find().context("the package chromium is installed, yet no chromium is on the PATH")
}

/// The environment variables that name Firefox and WebKitGTK's driver and browser to the tests, installed where that can be
/// done; those of a browser that cannot be had are absent, and its tests are left out with that said.
pub fn other_browsers(project: &Project) -> Vec<(&'static str, PathBuf)> {
    let firefox =
        || env::var_os("FIREFOX").map(PathBuf::from).or_else(|| on_path("firefox-esr").or_else(|| on_path("firefox")));
    let mini_browser = || {
        let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/libexec"];
        let versions = ["webkit2gtk-4.1", "webkitgtk-6.0", "webkit2gtk-4.0"];
        let mut candidates = folders.iter().flat_map(|folder| versions.map(|version| Path::new(folder).join(version)));
        candidates.find_map(|folder| Some(folder.join("MiniBrowser")).filter(|file| file.is_file()))
    };
    let webkit = || on_path("Xvfb").and(on_path("WebKitWebDriver")).zip(mini_browser());
    // Other systems have no package of WebKitGTK.
    if cfg!(target_os = "linux") {
        let mut wanted = Vec::new();
        if firefox().is_none() {
            wanted.push("firefox-esr");
        }
        if webkit().is_none() {
            wanted.extend(["webkit2gtk-driver", "xvfb"]);
        }
        for package in wanted {
            if let Err(error) = apt_install(project, package) {
                println!("{package} is missing, and tests in its browser are left out: {error:#}");
            }
        }
    }
    let mut found: Vec<_> = firefox().map(|firefox| ("FIREFOX", firefox)).into_iter().collect();
    if let Some((driver, browser)) = webkit() {
        found.extend([("WEBKIT_DRIVER", driver), ("WEBKIT_BROWSER", browser)]);
    }
    found
}

/// Sees to it that a Vulkan driver is installed, be it a software one, for the native tests of the GPU path.
pub fn vulkan(project: &Project) -> Result<()> {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().any(|name| env::var_os(name).is_some());
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let installed = || folders.iter().flat_map(fs::read_dir).any(|mut drivers| drivers.next().is_some());
    // Elsewhere the graphics interface (Metal, Direct3D 12) belongs to the system.
    if !cfg!(target_os = "linux") || named || installed() {
        return Ok(());
    }
    apt_install(project, "mesa-vulkan-drivers")
        .context("no Vulkan driver found: install one (Debian's mesa-vulkan-drivers holds a software one)")
}

/// Installs a Debian package where this process may.
fn apt_install(project: &Project, package: &str) -> Result<()> {
    let root = first_line(Command::new("id").arg("-u")).is_ok_and(|user| user == "0");
    if !root || on_path("apt-get").is_none() {
        bail!("{package} cannot be installed from here, which takes root and apt-get");
    }
    let apt = || {
        let mut command = project.command("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    };
    println!("installing {package}");
    run(apt().args(["update", "-q"]))?;
    run(apt().args(["install", "-q", "-y", "--no-install-recommends", package]))
}

/// Where a program stands on the PATH.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

fn first_line(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}
