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
    inotify::{End, Way},
    *,
};

/// A file that is watched. What is done is waited for.
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

    /// Does something to the directory, which must be told.
    async fn tells(&mut self, what: &str, change: impl FnOnce(&Path)) {
        while self.events.try_recv().is_ok() {}
        change(self.directory.path());
        let told = timeout(Duration::from_secs(30), self.events.recv()).await;
        assert!(told.is_ok(), "not told: {what}");
        // Several changes at once are several events.
        while timeout(Duration::from_millis(20), self.events.recv()).await.is_ok() {}
    }

    fn wakeups(&self) -> u64 {
        self.watcher.wakeups.load(Ordering::Relaxed)
    }
}

fn put(directory: &Path, name: &str) {
    fs::write(directory.join(name), "text").unwrap();
}

/// As editors and we do it.
fn replace(directory: &Path, name: &str) {
    put(directory, "part");
    fs::rename(directory.join("part"), directory.join(name)).unwrap();
}

#[tokio::test]
async fn r2_ten_thousand_writes_to_files_beside_it_wake_no_thread() {
    let mut watched = Watched::start("agent.toml", |directory| put(directory, "agent.toml"));
    let directory = watched.directory.path().to_owned();
    let mut audit = fs::File::create(directory.join("audit.jsonl")).unwrap();
    for number in 0..10_000 {
        audit.write_all(b"{\"seq\":1}\n").unwrap();
        if number % 1000 == 0 {
            // A rotation, and state that is replaced as a whole.
            let rotated = directory.join(format!("audit.jsonl.{number}"));
            fs::rename(directory.join("audit.jsonl"), rotated).unwrap();
            audit = fs::File::create(directory.join("audit.jsonl")).unwrap();
            replace(&directory, "tunnels.json");
            fs::remove_file(directory.join("tunnels.json")).unwrap();
            tokio::task::yield_now().await;
        }
    }
    // Events come in order: once this is told, all before it were.
    watched.tells("a change of the file itself", |directory| put(directory, "agent.toml")).await;
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
    watched.tells("a change", |directory| put(directory, "list.yaml")).await;
}

#[tokio::test]
async fn r2_each_way_of_changing_a_file_is_told() {
    let mut watched = Watched::start("list.yaml", |directory| put(directory, "list.yaml"));
    for round in 0..3 {
        watched.tells("written in place", |directory| put(directory, "list.yaml")).await;
        watched.tells("replaced", |directory| replace(directory, "list.yaml")).await;
        // As vim does it.
        watched
            .tells("moved away", |directory| {
                fs::rename(directory.join("list.yaml"), directory.join("list.yaml~")).unwrap();
            })
            .await;
        watched.tells("there again", |directory| put(directory, "list.yaml")).await;
        watched
            .tells("removed", |directory| fs::remove_file(directory.join("list.yaml")).unwrap())
            .await;
        watched.tells("moved there", |directory| replace(directory, "list.yaml")).await;
        watched
            .tells("a link instead", |directory| {
                put(directory, "other");
                symlink("other", directory.join("link")).unwrap();
                fs::rename(directory.join("link"), directory.join("list.yaml")).unwrap();
            })
            .await;
        watched.tells("written behind the link", |directory| put(directory, "other")).await;
        watched.tells("a file again", |directory| replace(directory, "list.yaml")).await;
        let before = watched.wakeups();
        put(watched.directory.path(), "other");
        sleep(Duration::from_millis(20)).await;
        assert_eq!(
            watched.wakeups(),
            before,
            "round {round}: what the link led to is not ours any more"
        );
    }
}

/// What the kubelet does when a `ConfigMap` changes: a directory of the new version, `..data` moved to it, the old
/// one removed.
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
        watched.tells(&next, |directory| kubernetes(directory, &next, Some(&before))).await;
    }
}

#[tokio::test]
async fn r2_a_file_that_is_not_there_yet_is_told_and_its_neighbours_are_not() {
    let mut watched = Watched::start("later/list.yaml", |_| {});
    put(watched.directory.path(), "neighbour");
    sleep(Duration::from_millis(20)).await;
    assert!(watched.events.try_recv().is_err());
    watched
        .tells("its directory", |directory| fs::create_dir(directory.join("later")).unwrap())
        .await;
    watched.tells("the file", |directory| put(directory, "later/list.yaml")).await;
    watched.tells("its text", |directory| put(directory, "later/list.yaml")).await;
}

#[test]
fn a_way_names_each_link_and_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().canonicalize().unwrap().join(name);
    fs::create_dir(at("real")).unwrap();
    symlink(at("real"), at("absolute")).unwrap();
    symlink("../real/file", at("real/relative")).unwrap();
    let way = Way::to(&at("absolute/relative")).unwrap();
    assert_eq!(way.links, [at("absolute"), at("real/relative")]);
    assert_eq!(way.end, End::Missing(at("real/../real"), "file".into()));
    put(directory.path(), "real/file");
    let way = Way::to(&at("absolute/relative")).unwrap();
    assert_eq!(way.end, End::File(at("real/../real/file")));
    symlink("loop", at("loop")).unwrap();
    assert!(Way::to(&at("loop")).is_err());
    let start = Instant::now();
    assert!(Way::to(Path::new("Cargo.toml")).is_ok() && start.elapsed() < Duration::from_secs(5));
}
