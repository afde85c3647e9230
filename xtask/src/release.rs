//! What a release consists of: the crate, the npm package, the site with the book in it, and its notes.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

use crate::{Project, docs, package, remove, run, shown, site, tools};

/// The folder below the target folder that a host of static files serves.
const PAGES: &str = "pages";

/// The book's folder on that host.
const BOOK: &str = "docs";

#[derive(Subcommand)]
pub enum Part {
    /// Publish the crate; needs CARGO_REGISTRY_TOKEN
    Crate,
    /// Build and publish the npm package; needs a trusted publisher or a login
    Npm,
    /// Assemble target/pages/: the site, and the book in docs/
    Pages,
    /// Print the section of CHANGELOG.md that a tag names, e.g. v0.1.0; fails unless it is this version's
    Notes { tag: String },
}

/// Does one part of a release.
pub fn release(project: &Project, part: &Part) -> Result<()> {
    match part {
        Part::Crate => run(&mut publish_crate(project)),
        Part::Npm => {
            site::build(project)?;
            package::assemble(project)?;
            run(&mut publish_npm(project))
        }
        Part::Pages => pages(project),
        Part::Notes { tag } => {
            ensure!(
                tag.strip_prefix('v') == Some(&project.version),
                "the tag is {tag}, the crate's version {}",
                project.version
            );
            let manifest = fs::read_to_string(project.root.join("npm/package.json"))?;
            let npm = serde_json::from_str::<serde_json::Value>(&manifest)?["version"].clone();
            ensure!(npm == project.version, "npm/package.json has version {npm}, the crate {}", project.version);
            let changelog = fs::read_to_string(project.root.join("CHANGELOG.md"))?;
            print!("{}", notes(&changelog, &project.version)?);
            Ok(())
        }
    }
}

/// Publishes nothing, and checks all that can be checked without it. What is packed has been built before.
pub fn rehearse_crate(project: &Project) -> Result<()> {
    rehearse(publish_crate(project).args(["--dry-run", "--no-verify", "--allow-dirty"]))
}

/// The same for the npm package, which has been assembled before.
pub fn rehearse_npm(project: &Project) -> Result<()> {
    rehearse(publish_npm(project).arg("--dry-run"))
}

fn publish_crate(project: &Project) -> Command {
    let mut command = project.command("cargo");
    command.args(["publish", "--package", "consistency-sampler"]);
    command
}

fn publish_npm(project: &Project) -> Command {
    let mut command = tools::npm(project);
    command
        .args(["publish", "--access", "public", "--loglevel=warn"])
        .current_dir(project.target.join(package::FOLDER));
    command
}

/// Runs a rehearsal, which asks the registry. Where that cannot be reached, or has this version already, as it has until the
/// next version is begun, this says so and passes.
fn rehearse(command: &mut Command) -> Result<()> {
    const UNREACHABLE: &[&str] =
        &["spurious network error", "Could not resolve host", "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED"];
    const PUBLISHED: &[&str] = &["previously published", "already exists"];
    let output = command.output().with_context(|| format!("cannot start {}", shown(command)))?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let says = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    let command = shown(command);
    match () {
        () if output.status.success() => println!("{command}: nothing stands in the way"),
        () if says(UNREACHABLE) => println!("NOT CHECKED: {command}, for the registry does not answer here"),
        () if says(PUBLISHED) => println!("NOT CHECKED: {command}, for this version is published"),
        () => bail!("{command} ended with {}:\n{text}", output.status),
    }
    Ok(())
}

/// Builds the site and the book afresh and puts them together.
fn pages(project: &Project) -> Result<()> {
    site::build(project)?;
    docs::build(project)?;
    let pages = project.target.join(PAGES);
    remove(&pages)?;
    for (from, to) in
        [(project.root.join(site::DIST), pages.clone()), (project.target.join(docs::BOOK), pages.join(BOOK))]
    {
        site::copy_files(&from, &to, site::files(&from)?)?;
    }
    println!("assembled {}", pages.display());
    Ok(())
}

/// The section of a version, without its heading.
fn notes(changelog: &str, version: &str) -> Result<String> {
    let is_heading = |line: &&str| line.starts_with("## ");
    let of_version = |line: &&str| {
        line.strip_prefix("## ").is_some_and(|rest| rest.split([' ', '[', ']']).any(|word| word == version))
    };
    let mut lines =
        changelog.lines().skip_while(|line| !of_version(line)).skip(1).take_while(|line| !is_heading(line)).peekable();
    ensure!(lines.peek().is_some(), "CHANGELOG.md has no section \"## {version}\", or an empty one");
    Ok(lines.collect::<Vec<_>>().join("\n").trim().to_owned() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_the_versions_section() {
        let changelog =
            "# Changelog\n\n## Unreleased\n- new\n\n## 0.2.0 - 2026-12-01\n\n### Added\n- a\n\n## [0.1.0]\n- b\n";
        assert_eq!(notes(changelog, "0.2.0").unwrap(), "### Added\n- a\n");
        assert_eq!(notes(changelog, "0.1.0").unwrap(), "- b\n");
        assert!(notes(changelog, "0.3.0").unwrap_err().to_string().contains("no section"));
    }
}
