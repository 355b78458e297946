//! A person at a terminal who does what a document says: its command blocks, in their order, in one shell and
//! in an empty home, with the program on the path and everything else as the machine has it.
//!
//! Addresses of loopback that the document names get free ports. The development provider and workspace that
//! it starts run within the test; everything else is real.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use regex::Regex;

use super::markdown::{Block, Page};
use crate::support::{PATIENCE, agent::program, haproxy::free_port};
use dev_idp::DevIdp;
use dev_workspace::DevWorkspace;

/// How long one command may take; `openssl` and debug builds on a busy machine are slow.
const COMMAND: Duration = Duration::from_mins(1);

/// A command with what the document says it prints; `None` where it says nothing.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    output: Option<Vec<String>>,
}

/// The commands of a block.
fn steps(block: &Block) -> Vec<Step> {
    if block.language != "console" {
        return vec![Step { command: block.text.clone(), output: None }];
    }
    let mut steps: Vec<Step> = Vec::new();
    for line in block.text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: format!("{command}\n"), output: Some(vec![]) });
            continue;
        }
        let step = steps.last_mut().unwrap_or_else(|| panic!("{}: no command", block.place()));
        step.output.as_mut().unwrap().push(line.to_owned());
    }
    steps
}

/// Whether lines are as expected: `…` within a line stands for anything, alone for any lines.
pub(super) fn fits(expected: &[String], found: &[&str]) -> bool {
    match expected {
        [] => found.is_empty(),
        [any, rest @ ..] if any == "…" => {
            (0..=found.len()).any(|skip| fits(rest, &found[skip..]))
        }
        [line, rest @ ..] => found.split_first().is_some_and(|(first, others)| {
            let parts: Vec<_> = line.trim_end().split('…').map(regex::escape).collect();
            let pattern = Regex::new(&format!("^{}$", parts.join(".*"))).unwrap();
            pattern.is_match(first.trim_end()) && fits(rest, others)
        }),
    }
}

/// The shell; everything that was started in it ends with it.
struct Shell {
    child: Child,
    lines: Receiver<String>,
    block: PathBuf,
    log: String,
}

impl Shell {
    fn start(home: &Path, programs: &Path) -> Self {
        let path = std::env::var("PATH").unwrap();
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .env_clear()
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("HOME", home)
            .env("LC_ALL", "C.UTF-8")
            .current_dir(home)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.split(b'\n') {
                let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut shell = Self { child, lines, block: programs.join("block"), log: String::new() };
        shell.tell("exec 2>&1; set -E; trap 'failed=$?' ERR");
        shell
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Runs commands; what they print, and the status of the one that failed, else 0.
    fn run(&mut self, commands: &str) -> (Vec<String>, i32) {
        write!(self.log, "$ {commands}").unwrap();
        std::fs::write(&self.block, commands).unwrap();
        let block = self.block.display().to_string();
        self.tell(&format!("failed=0; . {block} </dev/null; printf '\\n@@%s\\n' $failed"));
        let mut found = Vec::new();
        let deadline = Instant::now() + COMMAND;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(status) = line.strip_prefix("@@") {
                        // The newline before the mark is ours.
                        if found.last().is_some_and(String::is_empty) {
                            found.pop();
                        }
                        return (found, status.parse().unwrap());
                    }
                    writeln!(self.log, "{line}").unwrap();
                    found.push(line);
                }
                Err(RecvTimeoutError::Timeout) => panic!("no end of it:\n{}", self.log),
                Err(RecvTimeoutError::Disconnected) => panic!("the shell ended:\n{}", self.log),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let kill = format!("kill -KILL -- -{}", self.child.id());
        let _ = Command::new("bash").args(["-c", &kill]).status();
        let _ = self.child.wait();
    }
}

/// What a document starts of the repository's own; ends when dropped.
type Started = (Vec<DevIdp>, Vec<DevWorkspace>);

/// Puts the programs on the path; the development ones are within this test.
async fn stage(programs: &Path, commands: &str) -> Started {
    std::os::unix::fs::symlink(program(), programs.join("identity-spoa")).unwrap();
    let mut started = Started::default();
    let mut known: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let starts =
        Regex::new(r"(?m)^(dev-idp|dev-workspace) (--listen (\S+)(?: --name (\S+))?) >").unwrap();
    for start in starts.captures_iter(commands) {
        let address = start[3].parse().unwrap();
        if &start[1] == "dev-idp" {
            started.0.push(DevIdp::start_at(address, "").await.unwrap());
        } else {
            let name = start.get(4).map_or("demo", |name| name.as_str());
            started.1.push(DevWorkspace::start_at(address, name).await.unwrap());
        }
        known.entry(start.get(1).unwrap().as_str()).or_default().push(start[2].to_owned());
    }
    for name in ["dev-idp", "dev-workspace"] {
        let cases: Vec<_> =
            known.get(name).into_iter().flatten().map(|args| format!("\"{args}\"")).collect();
        let cases = if cases.is_empty() { "-".into() } else { cases.join("|") };
        let text = format!("#!/bin/sh\ncase \"$*\" in {cases}) exec sleep 3600;; esac\nexit 64\n");
        let path = programs.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    started
}

/// A port for each address of loopback that is named.
fn ports(text: &str) -> BTreeMap<String, String> {
    let address = Regex::new(r"127\.0\.0\.1:([0-9]{4,5})\b").unwrap();
    let named = address.captures_iter(text).map(|found| found[1].to_owned());
    named.map(|port| (port, free_port().port().to_string())).collect()
}

fn mapped(text: &str, ports: &BTreeMap<String, String>) -> String {
    let number = Regex::new(r"\b[0-9]{4,5}\b").unwrap();
    let other = |found: &regex::Captures<'_>| {
        ports.get(&found[0]).cloned().unwrap_or_else(|| found[0].to_owned())
    };
    number.replace_all(text, other).into_owned()
}

/// Does what documents say, one after the other in one shell. Returns how many commands that were.
pub(super) async fn run(pages: Vec<Page>) -> usize {
    let mut blocks: Vec<_> = pages
        .into_iter()
        .flat_map(|page| page.blocks)
        .filter(|block| block.is_commands() && block.excused().is_none())
        .collect();
    let all: String = blocks.iter().map(|block| block.text.as_str()).collect();
    let ports = ports(&all);
    for block in &mut blocks {
        block.text = mapped(&block.text, &ports);
    }
    let scratch = tempfile::tempdir().unwrap();
    let (home, programs) = (scratch.path().join("home"), scratch.path().join("programs"));
    std::fs::create_dir(&home).unwrap();
    std::fs::create_dir(&programs).unwrap();
    let _started = stage(&programs, &mapped(&all, &ports)).await;
    tokio::task::spawn_blocking(move || follow(&blocks, &home, &programs)).await.unwrap()
}

fn follow(blocks: &[Block], home: &Path, programs: &Path) -> usize {
    let mut shell = Shell::start(home, programs);
    let mut count = 0;
    for block in blocks {
        for step in steps(block) {
            count += 1;
            let deadline = Instant::now() + PATIENCE;
            // A person takes a moment before the next command; the machine waits until it fits.
            loop {
                let (found, status) = shell.run(&step.command);
                let lines: Vec<_> = found.iter().map(String::as_str).collect();
                let good = step.output.as_ref().is_none_or(|expected| fits(expected, &lines));
                if good && status == 0 {
                    break;
                }
                let place = block.place();
                assert!(
                    step.output.is_some() && Instant::now() < deadline,
                    "{place}: status {status} of\n{}\nexpected {:#?}\nfound {found:#?}\n{}",
                    step.command,
                    step.output,
                    logs(home)
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    count
}

/// The ends of all logs, to find what went wrong.
fn logs(home: &Path) -> String {
    let mut text = String::new();
    let directories = std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
    for directory in directories.filter(|path| path.is_dir()).chain([home.to_path_buf()]) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "log") {
                let log = std::fs::read(&path).unwrap();
                let end = &log[log.len().saturating_sub(3000)..];
                write!(text, "--- {}\n{}\n", path.display(), String::from_utf8_lossy(end)).unwrap();
            }
        }
    }
    text
}

#[test]
fn what_is_printed_is_compared_with_the_document() {
    let expected = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (want, found, good) in [
        (&["a", "b"][..], &["a", "b"][..], true),
        (&["a", "b"], &["a"], false),
        (&["a"], &["a", "b"], false),
        (&["id …, x"], &["id 12.3, x"], true),
        (&["id …, x"], &["id 12.3, y"], false),
        (&["a", "…", "z"], &["a", "z"], true),
        (&["a", "…", "z"], &["a", "b", "c", "z"], true),
        (&["a", "…"], &["b"], false),
        (&["…", "(.*"], &["x", "(.*"], true),
        (&["(.*"], &["(abc"], false),
    ] {
        assert_eq!(fits(&expected(want), found), good, "{want:?} {found:?}");
    }
}

#[test]
fn ports_are_replaced_wherever_they_stand() {
    let ports = BTreeMap::from([("8443".to_owned(), "40000".to_owned())]);
    let text = "port = 8443 https://a:8443/ 18443 v8443 2026";
    assert_eq!(mapped(text, &ports), "port = 40000 https://a:40000/ 18443 v8443 2026");
}
