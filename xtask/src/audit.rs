//! What the project depends on: licences and sources by cargo-deny's rules in deny.toml, known vulnerabilities by the
//! advisories of RustSec and npm.
//!
//! Licences and sources need no network. Advisories do: where their databases cannot be reached, this says so and passes,
//! for a machine without a connection must be able to run the checks.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{Project, run, shown, tools};

/// The version of cargo-deny.
const CARGO_DENY: &str = "0.20.2";

/// Checks the dependencies; fails for what is known to be wrong with them.
pub fn audit(project: &Project) -> Result<()> {
    let deny = tools::cargo_tool(project, "cargo-deny", CARGO_DENY, &[])?;
    let check = |what: &[&str]| {
        let mut command = project.command(&deny);
        command.args(["--all-features", "check", "--hide-inclusion-graph"]).args(what);
        command
    };
    run(&mut check(&["licenses", "bans", "sources"]))?;
    database("RustSec", &mut check(&["advisories"]), |output| !output.contains("failed to fetch advisory database"))?;

    tools::node_installed(project)?;
    let mut npm = tools::npm(project);
    npm.args(["audit", "--json"]).current_dir(project.root.join("tests/web"));
    database("npm", &mut npm, |output| output.contains("\"vulnerabilities\""))
}

/// Runs a command that asks a database of vulnerabilities; `answered` tells from its output whether it was reached.
fn database(name: &str, command: &mut Command, answered: impl Fn(&str) -> bool) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {}", shown(command)))?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if !answered(&text) {
        println!("NOT CHECKED: the vulnerabilities that {name} knows of, for its database does not answer here");
        return Ok(());
    }
    if !output.status.success() {
        bail!("{} ended with {}:\n{text}", shown(command), output.status);
    }
    println!("{name}: no known vulnerability");
    Ok(())
}
