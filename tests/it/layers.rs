//! The plan of the house: each module imports only what stands below it, and no folder has a circle inside.

use std::{collections::BTreeMap, path::Path};

use crate::support::haproxy::root;

/// The top-level modules, from the top to the bottom; `src/lib.rs` says what each is for.
const PLAN: &str = "cli app config haproxy_config admin agent sign_in tunnels verdict_cache gate metrics authz sources \
    workspaces sessions identity haproxy audit traces request spop secret diagnostics file_watch unix_socket backoff fingerprint reaper lock time";

/// Each module's path, and the paths that its code names, tests apart: from the crate, or relative to its parent.
fn modules(directory: &Path, path: &[String], found: &mut Vec<(Vec<String>, Vec<Vec<String>>)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let path = [path, std::slice::from_ref(&name)].concat();
        if file.is_dir() {
            modules(&file, &path, found);
        } else if !["lib", "main", "tests"].contains(&&*name) {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = lines.collect::<String>().replace(' ', "");
            let code = code.replace("super::super::", "grand::");
            let mut names = Vec::new();
            let (parent, grand) = (path.len() - 1, path.len().saturating_sub(2));
            for (from, base) in [("crate::", 0), ("super::", parent), ("grand::", grand)] {
                let base = &path[..base];
                for rest in code.split(from).skip(1) {
                    paths(rest, base, &mut names);
                }
            }
            found.push((path, names));
        }
    }
}

/// Reads a path, or a list of them in braces, and appends each as far as it is made of names. Returns what follows.
fn paths<'t>(mut text: &'t str, base: &[String], names: &mut Vec<Vec<String>>) -> &'t str {
    if let Some(inside) = text.strip_prefix('{') {
        text = inside;
        while !text.is_empty() && !text.starts_with('}') {
            text = paths(text, base, names).trim_start_matches(',');
        }
        return text.strip_prefix('}').unwrap_or(text);
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()).max(1);
    let path = [base, &[text.get(..end).unwrap_or_default().to_owned()]].concat();
    names.push(path.clone());
    match text.get(end..).unwrap_or_default() {
        rest if rest.starts_with("::") => paths(&rest[2..], &path, names),
        rest => rest,
    }
}

#[test]
fn each_module_imports_only_what_is_below_it() {
    let mut all = Vec::new();
    modules(&root().join("src"), &[], &mut all);
    let plan: Vec<&str> = PLAN.split_whitespace().collect();
    let at = |name: &String| plan.iter().position(|known| known == name);
    let mut wrong = String::new();
    let mut neighbours: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (path, names) in &all {
        assert!(at(&path[0]).is_some(), "'{}' is not in the plan", path[0]);
        for name in names {
            let common = path.iter().zip(name).take_while(|(a, b)| a == b).count();
            if let (0, Some(to)) = (common, at(&name[0]))
                && Some(to) < at(&path[0])
            {
                wrong += &format!("{} -> {}: looks upward\n", path.join("::"), name.join("::"));
            }
            if let (Some(one), Some(other)) = (path.get(common), name.get(common)) {
                neighbours.entry((path[..common].to_vec(), one)).or_default().push(other);
            }
        }
    }
    for ((folder, one), others) in &neighbours {
        let mut reached = others.clone();
        let mut next = 0;
        while let Some(other) = reached.get(next).copied() {
            next += 1;
            let more = neighbours.get(&(folder.clone(), other)).into_iter().flatten();
            let more: Vec<_> = more.filter(|name| !reached.contains(name)).copied().collect();
            reached.extend(more);
        }
        if reached.contains(one) {
            wrong += &format!("{}::{one} -> … -> {one}: a circle\n", folder.join("::"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
