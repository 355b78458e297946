#![cfg(target_os = "linux")]

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{
    inotify::{PathEnd, ResolvedPath},
    *,
};

/// A watched file in a directory of its own.
struct Watched {
    directory: TempDir,
    watcher: Watcher,
    events: mpsc::Receiver<()>,
}

impl Watched {
    /// Watches `name` in a directory that is prepared first.
    fn start(name: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let (sender, events) = mpsc::channel(1);
        let watcher = watch(&directory.path().join(name), sender).unwrap();
        Self { directory, watcher, events }
    }

    /// Changes something in the directory, which must cause an event.
    async fn reports(&mut self, what: &str, change: impl FnOnce(&Path)) {
        while self.events.try_recv().is_ok() {}
        change(self.directory.path());
        let event = timeout(Duration::from_secs(30), self.events.recv()).await;
        assert!(event.is_ok(), "no event: {what}");
        // A change of several files at once causes several events.
        while timeout(Duration::from_millis(20), self.events.recv()).await.is_ok() {}
    }

    fn wakeups(&self) -> u64 {
        self.watcher.wakeups.load(Ordering::Relaxed)
    }
}

fn put(directory: &Path, name: &str) {
    fs::write(directory.join(name), "text").unwrap();
}

/// Replaces a file by renaming, as editors and the agent do.
fn replace(directory: &Path, name: &str) {
    put(directory, "part");
    fs::rename(directory.join("part"), directory.join(name)).unwrap();
}

#[tokio::test]
async fn r2_ten_thousand_writes_to_other_files_there_wake_no_thread() {
    let mut watched = Watched::start("agent.toml", |directory| put(directory, "agent.toml"));
    let directory = watched.directory.path().to_owned();
    let mut audit = fs::File::create(directory.join("audit.jsonl")).unwrap();
    for number in 0..10_000 {
        audit.write_all(b"{\"seq\":1}\n").unwrap();
        if number % 1000 == 0 {
            // A rotated log, and a file of state that is replaced as a whole.
            let rotated = directory.join(format!("audit.jsonl.{number}"));
            fs::rename(directory.join("audit.jsonl"), rotated).unwrap();
            audit = fs::File::create(directory.join("audit.jsonl")).unwrap();
            replace(&directory, "tunnels.json");
            fs::remove_file(directory.join("tunnels.json")).unwrap();
            tokio::task::yield_now().await;
        }
    }
    // Events come in order: with this one, all before it have arrived.
    watched.reports("a change of the file itself", |directory| put(directory, "agent.toml")).await;
    assert!(watched.wakeups() <= 4, "{} wake-ups", watched.wakeups());
}

#[tokio::test]
async fn r2_reading_the_file_wakes_no_thread() {
    let mut watched = Watched::start("list.yaml", |directory| put(directory, "list.yaml"));
    for _ in 0..100 {
        fs::read(watched.directory.path().join("list.yaml")).unwrap();
    }
    tokio::task::yield_now().await;
    assert_eq!(watched.wakeups(), 0);
    watched.reports("a change", |directory| put(directory, "list.yaml")).await;
}

#[tokio::test]
async fn r2_each_way_of_changing_a_file_is_reported() {
    let mut watched = Watched::start("list.yaml", |directory| put(directory, "list.yaml"));
    for round in 0..3 {
        watched.reports("written in place", |directory| put(directory, "list.yaml")).await;
        watched.reports("replaced", |directory| replace(directory, "list.yaml")).await;
        // As vim replaces a file.
        watched
            .reports("moved away", |directory| {
                fs::rename(directory.join("list.yaml"), directory.join("list.yaml~")).unwrap();
            })
            .await;
        watched.reports("there again", |directory| put(directory, "list.yaml")).await;
        watched
            .reports("removed", |directory| fs::remove_file(directory.join("list.yaml")).unwrap())
            .await;
        watched.reports("moved there", |directory| replace(directory, "list.yaml")).await;
        watched
            .reports("a link instead", |directory| {
                put(directory, "other");
                symlink("other", directory.join("link")).unwrap();
                fs::rename(directory.join("link"), directory.join("list.yaml")).unwrap();
            })
            .await;
        watched.reports("written behind the link", |directory| put(directory, "other")).await;
        watched.reports("a file again", |directory| replace(directory, "list.yaml")).await;
        let before = watched.wakeups();
        put(watched.directory.path(), "other");
        sleep(Duration::from_millis(20)).await;
        assert_eq!(
            watched.wakeups(),
            before,
            "round {round}: the file behind the old link is not watched any more"
        );
    }
}

/// Changes a `ConfigMap` as the kubelet does: it makes a directory of the new version, moves the link `..data` to it, and
/// removes the old one.
fn kubernetes(directory: &Path, version: &str, before: Option<&str>) {
    fs::create_dir(directory.join(version)).unwrap();
    put(directory, &format!("{version}/list.yaml"));
    symlink(version, directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    if let Some(before) = before {
        fs::remove_dir_all(directory.join(before)).unwrap();
    }
}

#[tokio::test]
async fn r2_a_kubernetes_volume_is_followed_from_version_to_version() {
    let mut watched = Watched::start("list.yaml", |directory| {
        kubernetes(directory, "..1", None);
        symlink("..data/list.yaml", directory.join("list.yaml")).unwrap();
    });
    for version in 2..6 {
        let (before, next) = (format!("..{}", version - 1), format!("..{version}"));
        watched.reports(&next, |directory| kubernetes(directory, &next, Some(&before))).await;
    }
}

#[tokio::test]
async fn r2_a_file_that_appears_later_is_reported_and_other_files_are_not() {
    let mut watched = Watched::start("later/list.yaml", |_| {});
    put(watched.directory.path(), "neighbour");
    sleep(Duration::from_millis(20)).await;
    assert!(watched.events.try_recv().is_err());
    watched
        .reports("its directory", |directory| fs::create_dir(directory.join("later")).unwrap())
        .await;
    watched.reports("the file", |directory| put(directory, "later/list.yaml")).await;
    watched.reports("its text", |directory| put(directory, "later/list.yaml")).await;
}

#[test]
fn a_resolved_path_has_each_link_and_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().canonicalize().unwrap().join(name);
    fs::create_dir(at("real")).unwrap();
    symlink(at("real"), at("absolute")).unwrap();
    symlink("../real/file", at("real/relative")).unwrap();
    let path = ResolvedPath::resolve(&at("absolute/relative")).unwrap();
    assert_eq!(path.links, [at("absolute"), at("real/relative")]);
    assert_eq!(path.end, PathEnd::Missing(at("real/../real"), "file".into()));
    put(directory.path(), "real/file");
    let path = ResolvedPath::resolve(&at("absolute/relative")).unwrap();
    assert_eq!(path.end, PathEnd::File(at("real/../real/file")));
    symlink("loop", at("loop")).unwrap();
    assert!(ResolvedPath::resolve(&at("loop")).is_err());
    let start = Instant::now();
    assert!(
        ResolvedPath::resolve(Path::new("Cargo.toml")).is_ok()
            && start.elapsed() < Duration::from_secs(5)
    );
}
