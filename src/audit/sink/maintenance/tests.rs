//! Records are written while the disk confirms nothing.

use std::{
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::SystemTime,
};

use tempfile::TempDir;

use super::*;
use crate::audit::{
    AuditEvent, AuditLog, AuditSettings, CheckpointInterval, PublicKey, Rotation, WriterThread,
    record::TestEntry,
    verify::{Trusted, verify},
    writer::ChainWriter,
};

const BUFFER: usize = 64 * 1024;

/// The calls to a disk, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    /// A sync of the file with this inode.
    Sync(u64),
    Remove(String),
}

type Stuck = fn(&Call) -> bool;

/// A disk whose calls block until it is released.
#[derive(Clone, Default)]
struct StuckDisk {
    released: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    /// Which calls block.
    stuck: Arc<Mutex<Option<Stuck>>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl StuckDisk {
    /// Makes such calls block from now on.
    fn stick_at(&self, stuck: Stuck) {
        *self.stuck.lock() = Some(stuck);
    }

    fn release(&self) {
        self.released.store(true, Ordering::Release);
    }

    fn call(&self, call: Call) {
        let stuck = self.stuck.lock().is_some_and(|stuck| stuck(&call));
        self.calls.lock().push(call);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        while stuck && !self.released.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Disk for StuckDisk {
    fn sync(&self, file: &File) -> io::Result<()> {
        self.call(Call::Sync(file.metadata()?.ino()));
        file.sync_data()
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Remove(path.file_name().unwrap().to_string_lossy().into_owned()));
        std::fs::remove_file(path)
    }
}

struct Run {
    directory: TempDir,
    disk: StuckDisk,
    audit_log: AuditLog,
    writer: WriterThread,
    appended: usize,
}

impl Run {
    /// Starts an audit log that is rotated every few records and signed more often, next to an expired file.
    fn start(disk: StuckDisk) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let old = File::create(directory.path().join("audit.jsonl.20200101T000000Z.0")).unwrap();
        old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let settings = AuditSettings {
            file: Some(directory.path().join("audit.jsonl")),
            stdout: false,
            buffer: BUFFER,
            key: Some(directory.path().join("audit.key")),
            checkpoint: CheckpointInterval { records: 10, time: Duration::from_secs(1) },
            rotation: Rotation {
                size: Some(4096),
                keep: Some(Duration::from_hours(24)),
                ..Rotation::default()
            },
            ..AuditSettings::default()
        };
        let output = ChainWriter::open(&settings, Box::new(disk.clone())).unwrap();
        let (audit_log, writer) = AuditLog::start(output, BUFFER, settings.when_full).unwrap();
        Self { directory, disk, audit_log, writer, appended: 0 }
    }

    /// Appends records as fast as the writing thread writes them.
    fn append(&mut self, records: usize) {
        for _ in 0..records {
            let event =
                TestEntry(AuditEvent::Reload, b"a note that makes the record as long as many are");
            self.audit_log.record(&event).unwrap();
            self.appended += 1;
            self.until("there is room for a record", |run| {
                run.audit_log.status().waiting < BUFFER / 2
            });
        }
        self.until("the records are written", |run| run.audit_log.status().waiting == 0);
    }

    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done(self) {
            assert!(Instant::now() < deadline, "not within 30 s: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        files(self.directory.path())
    }

    /// Closes the log and checks that every record is there, in one signed chain.
    fn end(self) -> (Vec<Call>, Vec<u64>) {
        assert_eq!(self.audit_log.status().lost, 0);
        drop(self.audit_log);
        self.writer.finish();
        let files = files(self.directory.path());
        let key = PublicKey::read(&self.directory.path().join("audit.key")).unwrap();
        let report =
            verify(&files, &Trusted { keys: vec![key], ..Trusted::default() }, &mut |_| ())
                .unwrap();
        assert!(report.is_whole() && report.ended, "{:?}", report.problems);
        let all: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        assert_eq!(all.matches("\"event\":\"reload\"").count(), self.appended);
        assert_eq!(all.matches("\"event\":\"expire\"").count(), 1, "the removal is on record");
        let inodes = files.iter().map(|path| path.metadata().unwrap().ino()).collect();
        let calls = self.disk.calls.lock().clone();
        (calls, inodes)
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let file = directory.join("audit.jsonl");
    let mut files = rotated(&file).unwrap();
    files.push(file);
    files
}

#[test]
fn r3_a_disk_that_syncs_nothing_stops_no_record_through_rotation_and_checkpoints() {
    let mut run = Run::start(StuckDisk::default());
    run.append(1);
    run.until("the old file is removed", |run| run.files().len() == 1);
    run.disk.stick_at(|call| matches!(call, Call::Sync(_)));
    for _ in 0..50 {
        run.append(40);
    }
    run.until("a sync waits", |run| run.disk.waiting.load(Ordering::Acquire) == 1);
    let files = run.files();
    // The files that wait for the disk are limited: the last file grows instead.
    assert_eq!(files.len(), MAX_UNSYNCED_FILES + 1);
    run.disk.release();
    run.until("rotation continues", |run| {
        run.audit_log.record(&TestEntry(AuditEvent::Start, b"")).unwrap();
        run.files().len() > files.len()
    });
    run.end();
}

#[test]
fn r3_a_file_whose_removal_takes_its_time_stops_no_record() {
    let disk = StuckDisk::default();
    disk.stick_at(|call| matches!(call, Call::Remove(_)));
    let mut run = Run::start(disk);
    for _ in 0..20 {
        run.append(20);
    }
    run.until("the removal begins", |run| run.disk.waiting.load(Ordering::Acquire) == 1);
    run.append(100);
    assert!(run.files()[0].to_string_lossy().ends_with(".0"));
    run.disk.release();
    let (calls, _) = run.end();
    assert!(calls.contains(&Call::Remove("audit.jsonl.20200101T000000Z.0".into())), "{calls:?}");
}

#[test]
fn r3_files_become_durable_in_the_order_of_their_records() {
    let mut run = Run::start(StuckDisk::default());
    for _ in 0..20 {
        run.append(40);
    }
    let (calls, inodes) = run.end();
    let synced: Vec<_> = calls
        .iter()
        .filter_map(|call| match call {
            Call::Sync(inode) => inodes.iter().position(|of| of == inode),
            Call::Remove(_) => None,
        })
        .collect();
    assert!(synced.is_sorted(), "{synced:?}");
    for file in 0..inodes.len() {
        assert!(synced.contains(&file), "{file} of {} is not synced: {synced:?}", inodes.len());
    }
}

#[test]
fn r3_what_is_written_becomes_durable_without_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let disk = StuckDisk::default();
    let settings = AuditSettings {
        file: Some(directory.path().join("audit.jsonl")),
        stdout: false,
        ..AuditSettings::default()
    };
    let output = ChainWriter::open(&settings, Box::new(disk.clone())).unwrap();
    let (_audit_log, _writer) = AuditLog::start(output, BUFFER, settings.when_full).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while disk.calls.lock().is_empty() {
        assert!(Instant::now() < deadline, "the first record is never synced");
        std::thread::sleep(Duration::from_millis(1));
    }
}
