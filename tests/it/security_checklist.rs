//! The ids in front of names of tests, such as `j5_…`, are those of docs/security-checklist.md, which lists the tests.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{support::haproxy::root, threat_model};

const PAGE: &str = "docs/security-checklist.md";

/// Whether a word is a letter and a number, such as `j1`.
fn is_id(word: &str) -> bool {
    let (letter, number) = word.split_at_checked(1).unwrap_or_default();
    let small = letter.chars().all(|c| c.is_ascii_lowercase());
    small && (1..=2).contains(&number.len()) && number.chars().all(|c| c.is_ascii_digit())
}

/// The ids that a name begins with, in capitals: `J1`, `J2` of `j1_j2_what_must_hold`.
fn ids(name: &str) -> Vec<String> {
    let words: Vec<_> = name.split(['_', ' ']).collect();
    let ids: Vec<_> = words.iter().take_while(|word| is_id(word)).collect();
    // A helper with a short name, such as `b64`.
    let is_all = ids.len() == words.len();
    if is_all { vec![] } else { ids.into_iter().map(|id| id.to_uppercase()).collect() }
}

/// The tests of each id, by name.
fn tests() -> BTreeMap<String, Vec<String>> {
    let mut all: Vec<String> = threat_model::all_functions().into_iter().collect();
    for entry in std::fs::read_dir(root().join("tests/browser")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "mjs") {
            let text = std::fs::read_to_string(path).unwrap();
            let quoted = text.lines().filter_map(|line| line.trim().strip_prefix("async '"));
            all.extend(
                quoted.filter_map(|rest| Some(format!("browser::{}", rest.split_once('\'')?.0))),
            );
        }
    }
    all.sort();
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for test in all {
        for id in test.split_once("::").map_or_else(Vec::new, |(_, name)| ids(name)) {
            found.entry(id).or_default().push(test.clone());
        }
    }
    found
}

/// The page as it is, with the tests there are in the last column of its tables. Every id has a row and every row a test.
fn page() -> String {
    let mut tests = tests();
    let mut page = String::new();
    for line in std::fs::read_to_string(root().join(PAGE)).unwrap().lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        match cells.as_slice() {
            ["", id, what, _, ""] if is_id(&id.to_lowercase()) => {
                let names = tests.remove(*id).unwrap_or_else(|| panic!("{PAGE}: {id} has no test"));
                writeln!(page, "| {id} | {what} | `{}` |", names.join("`, `")).unwrap();
            }
            _ => writeln!(page, "{line}").unwrap(),
        }
    }
    assert!(tests.is_empty(), "{PAGE} has no row for these: {tests:#?}");
    page
}

#[test]
fn the_checklist_names_each_test_with_an_id_and_each_id_has_a_test() {
    let written = std::fs::read_to_string(root().join(PAGE)).unwrap();
    let again = "run cargo test --test it the_checklist_is_written -- --ignored";
    assert!(page() == written, "the tests in {PAGE} are others now: {again}");
}

#[test]
#[ignore = "writes docs/security-checklist.md"]
fn the_checklist_is_written() {
    std::fs::write(root().join(PAGE), page()).unwrap();
}

#[test]
fn an_id_is_a_letter_and_a_number_in_front_of_a_name() {
    assert_eq!(ids("j1_j21_a_token"), ["J1", "J21"]);
    assert_eq!(ids("c7 a session"), ["C7"]);
    assert!(["ed25519_fits", "a_f1_later", "b64"].iter().all(|name| ids(name).is_empty()));
}
