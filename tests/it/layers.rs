//! Each module imports only modules that stand below it in `src/lib.rs`, and no folder has a circle inside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::{Captures, Regex};
use test_stage::haproxy::root;

/// The path of each module, with the paths from the crate's root that its code names, tests apart.
fn modules(dir: &Path, path: &[String], all: &mut Vec<(Vec<String>, Vec<Vec<String>>)>) {
    let list = Regex::new(r"((?:\w+::)+)\{([^{}]*)\}").unwrap();
    let import = Regex::new(r"\b(crate|(?:super::)*super)::(\w+(?:::\w+)*)").unwrap();
    let expand = |c: &Captures| format!("{}{}", &c[1], c[2].replace(',', &format!(",{}", &c[1])));
    for file in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let path = [path, std::slice::from_ref(&name)].concat();
        if file.is_dir() {
            modules(&file, &path, all);
        } else if !["lib", "main", "tests"].contains(&&*name) {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines();
            let code = code.filter(|line| !line.trim_start().starts_with("//"));
            let mut code: String = code.map(|line| line.trim().replace(", ", ",")).collect();
            while list.is_match(&code) {
                code = list.replace_all(&code, expand).into();
            }
            let names = import.captures_iter(&code).map(|found| {
                let up = found[1].split("::").filter(|word| *word == "super").count();
                let base = if up == 0 { 0 } else { path.len().saturating_sub(up) };
                path[..base].iter().cloned().chain(found[2].split("::").map(Into::into)).collect()
            });
            all.push((path.clone(), names.collect()));
        }
    }
}

#[test]
fn each_module_imports_only_what_is_below_it() {
    let (mut all, mut wrong) = (Vec::new(), String::new());
    modules(&root().join("src"), &[], &mut all);
    let plan = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let plan: Vec<&str> = plan.rsplit("```").nth(1).unwrap().split_whitespace().skip(1).collect();
    let at = |name: &String| plan.iter().position(|known| known == name);
    let mut siblings: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (path, name) in all.iter().flat_map(|(path, names)| names.iter().map(move |n| (path, n))) {
        let common = path.iter().zip(name).take_while(|(a, b)| a == b).count();
        if common == 0 && at(&name[0]).is_some_and(|to| Some(to) < at(&path[0])) {
            wrong += &format!("{} -> {}: looks upward\n", path.join("::"), name.join("::"));
        }
        if let (Some(one), Some(other)) = (path.get(common), name.get(common)) {
            siblings.entry((&path[..common], one.clone())).or_default().insert(other.clone());
        }
    }
    for ((folder, one), others) in &siblings {
        let (mut reached, mut before) = (others.clone(), 0);
        while before != reached.len() {
            before = reached.len();
            let more = reached.iter().filter_map(|name| siblings.get(&(*folder, name.clone())));
            reached.extend(more.flatten().cloned().collect::<Vec<_>>());
        }
        if reached.contains(one) {
            wrong += &format!("{}::{one} -> … -> {one}: a circle\n", folder.join("::"));
        }
    }
    assert!(wrong.is_empty() && all.iter().all(|(path, _)| at(&path[0]).is_some()), "{wrong}");
}
