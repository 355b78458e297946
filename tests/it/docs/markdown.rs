//! Just enough of Markdown: fenced blocks with the comment before them, headings, links.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use regex::Regex;

use crate::support::haproxy::root;

/// A fenced block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The file, relative to the repository, and the line of its fence.
    pub(super) file: String,
    pub(super) line: usize,
    /// The first word after the fence.
    pub(super) language: String,
    pub(super) text: String,
    /// What the comment right before it says: `<!-- not run: reason -->`.
    pub(super) mark: Option<String>,
}

impl Block {
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    pub(super) fn is_commands(&self) -> bool {
        matches!(self.language.as_str(), "sh" | "console" | "bash" | "shell")
    }

    /// The reason why it is not run or not loaded, if there is one.
    pub(super) fn excused(&self) -> Option<&str> {
        let reason = self.mark.as_deref()?;
        let reason =
            ["not run:", "not loaded:"].iter().find_map(|mark| reason.strip_prefix(mark))?;
        Some(reason.trim())
    }
}

/// A document.
pub(super) struct Page {
    /// Relative to the repository.
    pub(super) file: String,
    pub(super) blocks: Vec<Block>,
    /// What can be pointed at with `#`.
    pub(super) anchors: Vec<String>,
    /// Where it points to, with the line.
    pub(super) links: Vec<(usize, String)>,
}

impl Page {
    pub(super) fn read(file: &str) -> Self {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        Self::parse(file, &text)
    }

    /// What stands before a heading.
    pub(super) fn read_until(file: &str, heading: &str) -> Self {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let (before, _) = text.split_once(&format!("\n{heading}")).unwrap();
        Self::parse(file, before)
    }

    pub(super) fn parse(file: &str, text: &str) -> Self {
        let mut page = Self { file: file.into(), blocks: vec![], anchors: vec![], links: vec![] };
        let pattern = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
        let code = Regex::new("`[^`]*`").unwrap();
        let mut slugs: BTreeMap<String, usize> = BTreeMap::new();
        let mut lines = text.lines().enumerate();
        let mut before = "";
        while let Some((index, line)) = lines.next() {
            let indent = line.len() - line.trim_start().len();
            if let Some(language) = line.trim_start().strip_prefix("```") {
                let mut block = Block {
                    file: file.into(),
                    line: index + 1,
                    language: language.split_whitespace().next().unwrap_or_default().into(),
                    text: String::new(),
                    mark: comment(before).map(Into::into),
                };
                loop {
                    let (_, line) =
                        lines.next().unwrap_or_else(|| panic!("{file}: a fence stays open"));
                    if line.trim() == "```" {
                        break;
                    }
                    // A block within a list is indented.
                    block.text += line.get(indent..).unwrap_or_default();
                    block.text.push('\n');
                }
                page.blocks.push(block);
                before = "";
                continue;
            }
            if line.starts_with('#') {
                let slug = slug(line.trim_start_matches('#'));
                let count = slugs.entry(slug.clone()).or_default();
                page.anchors.push(if *count == 0 { slug } else { format!("{slug}-{count}") });
                *count += 1;
            }
            let words = code.replace_all(line, "");
            for found in pattern.captures_iter(&words) {
                page.links.push((index + 1, found[1].to_owned()));
            }
            if !line.trim().is_empty() {
                before = line;
            }
        }
        page
    }
}

/// The text of a line that is a comment.
fn comment(line: &str) -> Option<&str> {
    Some(line.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim())
}

/// What a heading's anchor is, as GitHub makes it.
fn slug(heading: &str) -> String {
    let heading = heading.trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Every document of the repository, by its path from there.
pub(super) fn all() -> Vec<Page> {
    fn walk(directory: &Path, to: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !matches!(name, "target" | "node_modules") && !name.starts_with('.') {
                    walk(&path, to);
                }
            } else if path.extension().is_some_and(|end| end == "md") {
                to.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(root(), &mut files);
    files.sort();
    assert!(files.len() > 30, "documents are not found");
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| Page::read(&name(path))).collect()
}

#[test]
fn blocks_marks_anchors_and_links_are_found() {
    let text = "# A `b` & C\n\n<!-- not run: why -->\n```sh x\na](no)\n```\n[t](x.md#y) `[n](m)`\n## A b c\n# A b c\n";
    let page = Page::parse("p", text);
    assert_eq!(page.blocks[0].excused(), Some("why"));
    assert_eq!((page.blocks[0].text.as_str(), page.blocks[0].line), ("a](no)\n", 4));
    assert_eq!(page.links, [(7, "x.md#y".to_owned())]);
    assert_eq!(page.anchors, ["a-b--c", "a-b-c", "a-b-c-1"]);
}
