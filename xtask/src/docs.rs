//! The book of `docs/` in `target/book/`, with the element and a model beside it: chapters run what they describe.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{Project, remove, run, site, tools};

/// The version of mdBook.
const MDBOOK: &str = "0.5.4";

/// The book's folder below the target folder.
pub const BOOK: &str = "book";

/// The folder of the book that has the element's scripts and a model.
const SAMPLER: &str = "sampler";

/// The model that the chapters draw with.
const MODEL: &str = "weights/mnist";

/// Files and folders of the site that the element does not need.
const PAGE: [&str; 8] = ["page", "pkg-train", "data", "index.html", "embed.html", "embed.js", "embed.css", "_headers"];

/// Files outside `docs/`, without `.md`, that a chapter is: a link to the one leads to the other.
const CHAPTERS: [(&str, &str); 9] = [
    ("ARCHITECTURE", "architecture"),
    ("BENCHMARKS", "benchmarks"),
    ("CHANGELOG", "changelog"),
    ("CONTRIBUTING", "contributing"),
    ("RELIABILITY", "reliability"),
    ("SECURITY", "security"),
    ("npm/README", "npm"),
    ("weights/animals/README", "animals"),
    ("weights/mnist/README", "mnist"),
];

/// Builds the book, and the site before it if there is none.
pub fn build(project: &Project) -> Result<()> {
    let dist = project.root.join(site::DIST);
    if !dist.join("define.js").is_file() {
        site::build(project)?;
    }
    let mdbook = tools::cargo_tool(project, "mdbook", MDBOOK, &["--no-default-features", "--features", "search"])?;
    let book = project.target.join(BOOK);
    remove(&book)?;
    run(project.command(&mdbook).args(["build", "docs", "--dest-dir"]).arg(&book))?;
    // mdBook copies what is no chapter, its own settings too.
    for file in ["book.toml", "theme/head.hbs", "theme/chapters.css", "theme/keyboard.js"] {
        fs::remove_file(book.join(file)).with_context(|| format!("the book has no copy of {file}"))?;
    }
    for page in site::files(&book)?.iter().filter(|file| file.extension().is_some_and(|e| e == "html")) {
        let html = fs::read_to_string(page)?;
        ensure!(!html.contains("{{#"), "{}: an include was not resolved", page.display());
        fs::write(
            page,
            accessible(&relinked(&html))
                .with_context(|| format!("{} is not as mdBook {MDBOOK} makes it", page.display()))?,
        )?;
    }
    add_sampler(&dist, &book.join(SAMPLER))?;
    println!("built {}", book.display());
    Ok(())
}

/// Leads links that are right in the repository to the chapters and their pictures.
fn relinked(html: &str) -> String {
    let mut html = html.to_owned();
    for (file, chapter) in CHAPTERS {
        for prefix in ["", "../"] {
            html = html.replace(&format!("href=\"{prefix}{file}.html"), &format!("href=\"{chapter}.html"));
        }
    }
    html.replace("href=\"docs/", "href=\"").replace("src=\"../../docs/", "src=\"")
}

/// Mends what axe finds in mdBook's pages: the button of the sidebar is a label, the bar above the text no landmark, and tables
/// without headings have empty ones.
fn accessible(html: &str) -> Result<String> {
    // Only a page of the contents for browsers without scripts, which is shown in a frame, has no bar.
    if !html.contains("id=\"mdbook-menu-bar\"") {
        return Ok(html.to_owned());
    }
    let replaced = |html: &str, from: &str, to: &str| {
        ensure!(html.matches(from).count() == 1, "expected {from} once");
        Ok(html.replacen(from, to, 1))
    };
    let html = without_zoom(html);
    let html =
        replaced(&html, "<label id=\"mdbook-sidebar-toggle\"", "<button type=\"button\" id=\"mdbook-sidebar-toggle\"")?;
    let html = replaced(&html, " for=\"mdbook-sidebar-toggle-anchor\"", "")?;
    let html = replaced(&html, "</label>", "</button>")?;
    let html = replaced(&html, "<div id=\"mdbook-menu-bar\"", "<div role=\"banner\" id=\"mdbook-menu-bar\"")?;
    Ok(html.replace("<th></th>", "<td></td>"))
}

/// Takes pictures out of the checkboxes, which have no name, by which mdBook enlarges them.
fn without_zoom(html: &str) -> String {
    const BOX: &str = r#"<label class="checkbox-label"><input class="checkbox-img" type="checkbox">"#;
    let mut parts = html.split(BOX);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| plain.push_str(&part.replacen("</label>", "", 1)));
    plain
}

/// Copies the scripts, the modules and the model.
fn add_sampler(dist: &Path, sampler: &Path) -> Result<()> {
    let needed = |file: &Path| {
        let page = PAGE.iter().any(|name| file.starts_with(name));
        !page && (!file.starts_with("weights") || file.starts_with(MODEL))
    };
    let mut files = site::files(dist)?;
    files.retain(|file| file.strip_prefix(dist).is_ok_and(needed));
    site::copy_files(dist, sampler, files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_in_no_checkbox() {
        let zoom =
            r#"<label class="checkbox-label"><input class="checkbox-img" type="checkbox"><img src="a.png"></label>"#;
        let html = format!("<label>a</label>{zoom}{zoom}<label>b</label>");
        let img = r#"<img src="a.png">"#;
        assert_eq!(without_zoom(&html), format!("<label>a</label>{img}{img}<label>b</label>"));
    }

    #[test]
    fn links_to_files_outside_lead_to_their_chapters() {
        let html = r#"<a href="../BENCHMARKS.html#samples"><a href="docs/lab-notes.html"><a href="weights/mnist/README.html"><img src="../../docs/images/a.png">"#;
        let expected = r#"<a href="benchmarks.html#samples"><a href="lab-notes.html"><a href="mnist.html"><img src="images/a.png">"#;
        assert_eq!(relinked(html), expected);
    }
}
