//! The documents are true: what they tell people to type is typed, what they show is compared, configurations
//! in them are loaded, links lead somewhere, every alert has its page.

use std::collections::{BTreeMap, BTreeSet};

use clap::Parser as _;

use crate::support::haproxy::root;

mod examples;
mod frames;
mod markdown;
mod session;

use markdown::Page;

/// Documents whose commands are run, each from its beginning to its end.
const RUN: [&str; 4] = [
    "docs/quick-start.md",
    "docs/guides/existing-haproxy.md",
    "docs/life-of-a-request.md",
    "docs/operations.md",
];

/// Runs a document, after the quick start up to a heading where it goes on from there.
async fn run(file: &str, after: Option<&str>, at_least: usize) {
    assert!(RUN.contains(&file));
    let before = after.map(|heading| Page::read_until("docs/quick-start.md", heading));
    let count = session::run(before.into_iter().chain([Page::read(file)]).collect()).await;
    eprintln!("{file}: {count} commands run");
    assert!(count >= at_least, "{file}: only {count} commands");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_is_true() {
    run("docs/quick-start.md", None, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_into_an_existing_configuration_is_true() {
    run("docs/guides/existing-haproxy.md", Some("## 7."), 28).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_request_is_true() {
    run("docs/life-of-a-request.md", Some("## 7."), 22).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operations_page_is_true() {
    run("docs/operations.md", Some("## 8."), 26).await;
}

#[test]
fn each_command_in_the_documents_is_run_or_says_why_not() {
    let mut unmarked = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut run = 0;
    for page in markdown::all() {
        if !page.file.starts_with("docs/") {
            continue;
        }
        for block in page.blocks.iter().filter(|block| block.is_commands()) {
            match block.excused() {
                Some(reason) => {
                    assert!(reason.len() > 8, "{}: why is it not run?", block.place());
                    *reasons.entry(reason.to_owned()).or_default() += 1;
                }
                None if RUN.contains(&page.file.as_str()) => run += 1,
                None => unmarked.push(block.place()),
            }
        }
    }
    for (reason, count) in &reasons {
        eprintln!("not run, {count}: {reason}");
    }
    let not_run: usize = reasons.values().sum();
    eprintln!("{run} blocks of commands are run, {not_run} are not");
    assert!(
        unmarked.is_empty(),
        "write '<!-- not run: reason -->' above these blocks, or run their document: {unmarked:#?}"
    );
}

/// The commands of this program in a block, without the shell's part.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix("$ ").unwrap_or(line).trim();
        if line.starts_with("identity-spoa ") {
            let end = line.find(['#', '|', '>', '<', '&', ';']).unwrap_or(line.len());
            // The number of a stream that goes elsewhere.
            found.push(line[..end].trim_end_matches(['1', '2']).trim().to_owned());
        }
    }
    found
}

#[test]
fn every_identity_spoa_command_in_a_document_is_accepted_by_the_program() {
    let mut count = 0;
    for page in markdown::all() {
        for block in page.blocks.iter().filter(|block| block.is_commands()) {
            for command in commands(&block.text) {
                // What stands for something of the reader's.
                let words: Vec<_> = command
                    .replace('…', "x")
                    .split_whitespace()
                    .map(|word| word.trim_matches(['"', '\'']).to_owned())
                    .collect();
                let quoted = command.contains(['"', '\'']);
                let parsed = identity_spoa::cli::Cli::try_parse_from(&words);
                let usage = parsed.err().filter(|error| {
                    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion, UnknownArgument};
                    // Quoted words were taken apart above.
                    !(matches!(error.kind(), DisplayHelp | DisplayVersion)
                        || quoted && error.kind() == UnknownArgument)
                });
                assert!(usage.is_none(), "{}: {command}: {usage:?}", block.place());
                count += 1;
            }
        }
    }
    assert!(count > 40, "only {count} commands found");
}

#[test]
fn every_relative_link_leads_somewhere() {
    let pages: BTreeMap<_, _> =
        markdown::all().into_iter().map(|page| (root().join(&page.file), page)).collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, page) in &pages {
        for (line, link) in &page.links {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let there = target.canonicalize().ok().filter(|target| target.starts_with(root()));
            let anchored = there.as_ref().is_some_and(|target| {
                let anchors = |page: &Page| page.anchors.iter().any(|known| known == anchor);
                anchor.is_empty() || pages.get(target).is_some_and(anchors)
            });
            if !anchored {
                wrong.push(format!("{}:{line}: {link}", page.file));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere: {wrong:#?}");
    assert!(count > 40, "only {count} links found");
}

#[test]
fn the_index_names_every_document() {
    let links = |file: &str| -> BTreeSet<String> {
        Page::read(file).links.into_iter().map(|(_, link)| link).collect()
    };
    let (index, decisions) = (links("docs/README.md"), links("docs/decisions/README.md"));
    for page in markdown::all() {
        let Some(file) = page.file.strip_prefix("docs/") else { continue };
        let named = match file.strip_prefix("decisions/") {
            Some("README.md") | None => index.contains(file),
            Some(decision) => decisions.contains(decision),
        };
        assert!(file == "README.md" || named, "no index names {file}");
    }
    assert!(links("README.md").contains("docs/README.md"));
}

#[test]
fn the_glossary_uses_the_names_of_the_program() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let mut code = String::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                code += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let words = |text: &str| -> BTreeSet<String> {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        text.split(word).map(str::to_owned).collect()
    };
    let (code, keys) = (words(&code), words(&read("docs/configuration.md")));
    let named = regex::Regex::new("`([^`]+)`").unwrap();
    let mut terms = 0;
    for line in read("docs/glossary.md").lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if cells[1] == "term" {
            continue;
        }
        terms += 1;
        // Reasons and keys of lists of workspaces are in the code, too.
        for (cell, known) in [(4, &[&code][..]), (5, &[&keys, &code]), (6, &[&code])] {
            for name in named.captures_iter(cells[cell]).flat_map(|found| words(&found[1])) {
                let part = name.ends_with('_');
                let there = |words: &&BTreeSet<String>| {
                    words.contains(&name)
                        || part && words.iter().any(|word| word.starts_with(&name))
                };
                assert!(known.iter().any(there), "docs/glossary.md: {}: {name}", cells[1]);
            }
        }
    }
    assert!((30..=50).contains(&terms), "{terms} terms");
}

#[test]
fn every_alert_has_a_page_that_says_what_to_do() {
    let text = std::fs::read_to_string(root().join("docs/monitoring/alerts.yaml")).unwrap();
    let alerts: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let operations = Page::read("docs/operations.md");
    let mut names = BTreeSet::new();
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        let anchor = name.to_lowercase();
        assert!(operations.anchors.contains(&anchor), "docs/operations.md has no heading {name}");
        let url = rule["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let end = format!("docs/operations.md#{anchor}");
        assert!(url.ends_with(&end), "{name}: runbook_url {url:?} does not end with {end}");
        names.insert(anchor);
    }
    // And no page for an alert that is gone.
    for anchor in operations.anchors.iter().filter(|anchor| anchor.starts_with("identityspoa")) {
        assert!(names.contains(anchor), "no alert for {anchor}");
    }
    assert!(names.len() > 10);
}
