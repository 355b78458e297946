//! docs/threat-model.md names what there is.

use std::{collections::BTreeSet, path::Path};

use crate::support::haproxy::root;

/// The names of all functions below a directory.
fn functions(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let found = text.lines().filter_map(|line| {
                let (before, rest) = line.split_once("fn ")?;
                let is_start = matches!(before.trim(), "" | "async");
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
                let file = path.file_stem()?.to_str()?;
                // Tests next to their code, in a file of their own.
                let parent = path.parent()?.file_name()?.to_str()?;
                let module = if file == "tests" { parent } else { file };
                is_start.then(|| format!("{module}::{}", &rest[..end]))
            });
            names.extend(found);
        }
    }
}

/// The names of all functions of the program and of its tests, with the module: `tokens::j6_a_name`.
pub(super) fn all_functions() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    functions(&root().join("src"), &mut names);
    functions(&root().join("tests"), &mut names);
    names
}

#[test]
fn every_test_and_file_that_the_threat_model_names_exists() {
    let names = all_functions();
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (mut tests, mut files, mut wrong) = (0, 0, Vec::new());
    for word in text.split('`').skip(1).step_by(2) {
        let is_test = word.split_once("::").is_some_and(|(_, name)| name.contains('_'));
        if is_test && word.split_once("::").is_some_and(|(module, _)| module != "aws_lc_rs") {
            tests += 1;
            if !names.contains(word) {
                wrong.push(word);
            }
        } else if word.contains('/') && Path::new(word).extension().is_some() {
            files += 1;
            if !root().join(word).exists() {
                wrong.push(word);
            }
        }
    }
    assert!(tests > 100 && files > 10, "{tests} tests, {files} files");
    assert!(wrong.is_empty(), "not there: {wrong:#?}");
}
