use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::audit::{
    AuditEvent, AuditLog, AuditSettings, CheckpointInterval, Rotation, WhenFull, record::TestEntry,
};

fn settings(directory: &Path) -> AuditSettings {
    AuditSettings {
        file: Some(directory.join("audit.jsonl")),
        stdout: false,
        key: Some(directory.join("audit.key")),
        checkpoint: CheckpointInterval { records: 5, time: Duration::from_mins(1) },
        ..AuditSettings::default()
    }
}

fn event(number: usize) -> TestEntry<'static> {
    let notes = ["one", "two \u{1b}[31m", "three \"quoted\" \u{e9}"];
    TestEntry(AuditEvent::Reload, notes[number % 3].as_bytes())
}

/// Runs an agent's log that appends this many records.
fn run(settings: &AuditSettings, records: usize) {
    let (audit_log, writer) = AuditLog::open(settings).unwrap();
    for number in 0..records {
        audit_log.record(&event(number)).unwrap();
    }
    drop(audit_log);
    writer.finish();
}

fn trusted(directory: &Path) -> Trusted {
    let keys = vec![PublicKey::read(&directory.join("audit.key")).unwrap()];
    Trusted { keys, ..Trusted::default() }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let file = directory.join("audit.jsonl");
    let mut files = crate::audit::rotated(&file).unwrap();
    files.push(file);
    files
}

fn problems(report: &Report) -> String {
    let lines: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// An audit log of two runs, with its last checkpoint and its public key.
struct Whole {
    directory: TempDir,
    text: String,
    trusted: Trusted,
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    run(&settings, 12);
    run(&settings, 7);
    let text = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    let mut trusted = trusted(directory.path());
    trusted.checkpoints = Checkpoint::read_all(text.lines().last().unwrap()).unwrap();
    Whole { directory, text, trusted }
});

/// Verifies an audit log of these bytes.
fn found(bytes: &[u8], trusted: &Trusted) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("changed.jsonl");
    std::fs::write(&path, bytes).unwrap();
    verify(&[path], trusted, &mut |_| ()).unwrap()
}

#[test]
fn a4_a_log_is_whole_over_restarts() {
    let report = verify(&files(WHOLE.directory.path()), &WHOLE.trusted, &mut |_| ()).unwrap();
    assert!(report.is_whole(), "{}", problems(&report));
    assert!(report.ended && report.crashes == 0);
    assert_eq!(report.range.unwrap().0, 1);
    assert_eq!(report.records, report.range.unwrap().1);
    assert!(report.signed >= 4, "{report:?}");
    assert_eq!((report.unverified, report.after_checkpoint), (0, 0));
}

#[test]
fn a8_records_are_numbered_and_have_both_clocks() {
    let mut seq = 0;
    for line in WHOLE.text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        seq += 1;
        assert_eq!(record["seq"], seq);
        assert!(record["time_ms"].as_u64().unwrap() > 1_700_000_000_000, "{line}");
        assert!(record["up_ms"].is_u64());
    }
}

/// A change that an attacker can make to an audit log.
#[derive(Clone, Debug)]
enum Change {
    Edit(usize, u8),
    Delete(usize),
    Swap(usize, usize),
    Repeat(usize),
    CutLines(usize),
    CutBytes(usize),
    Add(usize, String),
}

fn change() -> impl Strategy<Value = Change> {
    let any = || any::<prop::sample::Index>().prop_map(|index| index.index(1_000_000));
    prop_oneof![
        (any(), 1..=255_u8).prop_map(|(at, mask)| Change::Edit(at, mask)),
        any().prop_map(Change::Delete),
        (any(), any()).prop_map(|(one, other)| Change::Swap(one, other)),
        any().prop_map(Change::Repeat),
        any().prop_map(Change::CutLines),
        any().prop_map(Change::CutBytes),
        (any(), "[ -~]{0,40}").prop_map(|(at, text)| Change::Add(at, text)),
    ]
}

fn changed(text: &str, change: &Change) -> Option<Vec<u8>> {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let count = lines.len();
    let mut added = String::new();
    match change {
        Change::Edit(at, mask) => {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at % text.len()] ^= mask;
            return Some(bytes);
        }
        Change::CutBytes(at) => return Some(text.as_bytes()[..at % text.len()].to_vec()),
        Change::Delete(at) => drop(lines.remove(at % count)),
        Change::Swap(one, other) if one % count == other % count => return None,
        Change::Swap(one, other) => lines.swap(one % count, other % count),
        Change::Repeat(at) => lines.insert(at % count, lines[at % count]),
        Change::CutLines(at) => lines.truncate(at % count),
        Change::Add(at, line) => {
            added = format!("{line}\n");
            lines.insert(at % (count + 1), &added);
        }
    }
    let bytes = lines.concat().into_bytes();
    drop(added);
    Some(bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a4_every_change_is_found(change in change()) {
        if let Some(bytes) = changed(&WHOLE.text, &change) {
            let report = found(&bytes, &WHOLE.trusted);
            prop_assert!(!report.is_whole(), "{change:?}");
        }
    }
}

#[test]
fn a4_each_way_of_changing_a_log_is_named() {
    let lines: Vec<&str> = WHOLE.text.split_inclusive('\n').collect();
    let say = |lines: &[&str]| problems(&found(lines.concat().as_bytes(), &WHOLE.trusted));
    let with = |change: &dyn Fn(&mut Vec<&'static str>)| {
        let mut lines: Vec<&'static str> = WHOLE.text.split_inclusive('\n').collect();
        change(&mut lines);
        say(&lines)
    };
    let edited = lines[3].replace("\"reload\"", "\"revert\"");
    let mut changed = lines.clone();
    changed[3] = &edited;
    let said = say(&changed);
    assert!(said.contains(":4: record 4 or the one before it was changed"), "{said}");
    assert_eq!(said.lines().count(), 1, "one change is one problem: {said}");
    let said = with(&|lines| _ = lines.remove(3));
    assert!(said.contains("record 5 follows record 3: records are missing"), "{said}");
    let said = with(&|lines| lines.swap(3, 4));
    assert!(said.contains("repeated or out of order"), "{said}");
    let said = with(&|lines| _ = lines.pop());
    assert!(said.contains("the end is cut off: the given checkpoint"), "{said}");
    let said = with(&|lines| _ = lines.remove(0));
    assert!(said.contains("older files are missing") && said.contains("beginning"), "{said}");
    // A first record that does not name the hash before it cannot be checked.
    let renamed = lines[0].replace("\"previous\"", "\"preview\"");
    let mut changed = lines.clone();
    changed[0] = &renamed;
    let said = say(&changed);
    assert!(said.contains(":1: record 1 is the first here and does not name"), "{said}");
    let said = with(&|lines| lines.insert(3, "{\"verdict\":\"allow\"}\n"));
    assert!(said.contains(":4: this line is not a record of the audit log"), "{said}");
}

#[test]
fn a4_a_recomputed_chain_is_found_by_the_signatures() {
    // All hashes are recomputed, which needs no key. The old checkpoints stay.
    let mut chain = chain::Chain::after(0, [0; 32]);
    let mut out = Vec::new();
    for line in WHOLE.text.lines() {
        let body = line.split_once("\"up_ms\":").unwrap().1.split_once(',').unwrap().1;
        let body = body.rsplit_once(",\"hash\":").unwrap().0.replacen("\"one\"", "\"own\"", 1);
        chain.append(format!("{{{body}}}").as_bytes(), 0, &mut out);
    }
    let without_key = Trusted::default();
    let report = found(&out, &without_key);
    let names_others = problems(&report);
    assert!(names_others.contains("names another record before it"), "{names_others}");
    // Without the checkpoints the chain is consistent, and no signature proves it.
    let mut chain = chain::Chain::after(0, [0; 32]);
    let mut out = Vec::new();
    chain.append_event(AuditEvent::Open, &mut out, |line| {
        line.text("previous", &chain::hex(&[0; 32]));
    });
    for number in 0..3 {
        chain.append(format!("{{\"time_ms\":1,\"n\":{number}}}").as_bytes(), 0, &mut out);
    }
    assert!(found(&out, &without_key).is_whole());
    let trusted = Trusted { checkpoints: vec![], ..WHOLE.trusted.clone() };
    assert!(problems(&found(&out, &trusted)).contains("nothing proves the records"));
    // A checkpoint that another key signed proves nothing.
    let other = crate::audit::key::SigningKey::random();
    let trusted = Trusted { keys: vec![other.public().unwrap()], ..Trusted::default() };
    let said = problems(&found(WHOLE.text.as_bytes(), &trusted));
    assert!(said.contains("which is not given"), "{said}");
}

#[test]
fn a4_an_incomplete_record_after_a_crash_is_described_and_nothing_else_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let path = directory.path().join("audit.jsonl");
    run(&settings, 3);
    let text = std::fs::read_to_string(&path).unwrap();
    // As if the agent had been killed in the middle of a write.
    let cut = text.trim_end().rfind('\n').unwrap() + 40;
    std::fs::write(&path, &text.as_bytes()[..cut]).unwrap();
    run(&settings, 2);
    let report = verify(&files(directory.path()), &trusted(directory.path()), &mut |_| ()).unwrap();
    assert!(report.is_whole(), "{}", problems(&report));
    assert_eq!(report.crashes, 1);
    let text = std::fs::read_to_string(&path).unwrap();
    let open: Value = text
        .lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .rfind(|v: &Value| v["event"] == "open")
        .unwrap();
    assert_eq!((&open["after"], &open["torn_bytes"]), (&"crash".into(), &39.into()));
    // Bytes that the agent did not describe are a problem.
    let forged = text.replacen("{\"seq\":", "{\"seq\":x", 1);
    assert!(!found(forged.as_bytes(), &trusted(directory.path())).is_whole());
    let torn = text.lines().find(|line| line.len() == 39).unwrap();
    // The next record may begin with the same bytes.
    let other = text.replacen(torn, &"x".repeat(39), 1);
    let said = problems(&found(other.as_bytes(), &trusted(directory.path())));
    assert!(said.contains("not what the agent says a crash left"), "{said}");
}

#[test]
fn a7_rotation_and_retention_do_not_break_the_chain() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    let rotation = Rotation { size: Some(2000), age: None, keep: None };
    let settings = AuditSettings { rotation, ..settings(directory.path()) };
    for _ in 0..4 {
        run(&settings, 20);
    }
    let all = files(directory.path());
    assert!(all.len() >= 4, "{all:?}");
    let report = verify(&all, &trusted(directory.path()), &mut |_| ()).unwrap();
    assert!(report.is_whole(), "{}", problems(&report));
    let mut shuffled = all.clone();
    shuffled.reverse();
    assert!(verify(&shuffled, &trusted(directory.path()), &mut |_| ()).unwrap().is_whole());
    for (number, path) in all.iter().enumerate().skip(1) {
        let text = std::fs::read_to_string(path).unwrap();
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let before = std::fs::read_to_string(&all[number - 1]).unwrap();
        let last: Value = serde_json::from_str(before.lines().last().unwrap()).unwrap();
        assert_eq!(first["previous"], last["hash"], "the first record names the last hash before");
        assert!(["continue", "open"].contains(&first["event"].as_str().unwrap()));
        assert_eq!(last["event"], "checkpoint", "a file ends with a checkpoint");
    }
    // A missing file in the middle is a problem; a missing oldest file is one unless --partial accepts it.
    let mut missing = all.clone();
    missing.remove(1);
    assert!(!verify(&missing, &trusted(directory.path()), &mut |_| ()).unwrap().is_whole());
    let partial = Trusted { partial: true, ..trusted(directory.path()) };
    assert!(!verify(&all[1..], &trusted(directory.path()), &mut |_| ()).unwrap().is_whole());
    assert!(verify(&all[1..], &partial, &mut |_| ()).unwrap().is_whole());
    // An expired file is removed, and that is recorded.
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(48);
    std::fs::File::options().append(true).open(&all[0]).unwrap().set_modified(long_ago).unwrap();
    let rotation = Rotation { keep: Some(Duration::from_hours(24)), ..rotation };
    run(&AuditSettings { rotation, ..settings }, 1);
    assert!(!all[0].exists() && all[1].exists());
    let left = files(directory.path());
    let report = verify(&left, &partial, &mut |_| ()).unwrap();
    assert!(report.is_whole(), "{}", problems(&report));
    let all: String = left.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(all.contains("\"event\":\"expire\",\"file\":\"audit.jsonl."), "{}", file.display());
}

#[test]
fn a7_a_new_file_is_begun_after_a_rename_from_outside() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    let (audit_log, writer) = AuditLog::open(&settings(directory.path())).unwrap();
    audit_log.record(&event(0)).unwrap();
    let moved = directory.path().join("audit.jsonl.1");
    std::fs::rename(&file, &moved).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !file.exists() {
        assert!(std::time::Instant::now() < deadline, "no new file");
        audit_log.record(&event(1)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(audit_log);
    writer.finish();
    let report = verify(&[moved, file], &trusted(directory.path()), &mut |_| ()).unwrap();
    assert!(report.is_whole(), "{}", problems(&report));
    assert!(report.ended);
}

#[test]
fn a5_lost_records_are_counted_on_record_where_the_operator_wants_that() {
    let directory = tempfile::tempdir().unwrap();
    let when_full = WhenFull::Count;
    let settings = AuditSettings { when_full, buffer: 2000, ..settings(directory.path()) };
    let (audit_log, writer) = AuditLog::open(&settings).unwrap();
    let mut kept = 0;
    while audit_log.lost() == 0 {
        audit_log.record(&event(kept)).unwrap();
        kept += 1;
    }
    let lost = audit_log.lost();
    audit_log.close();
    assert!(audit_log.record(&event(0)).is_err(), "after the end nothing is allowed any more");
    writer.finish();
    let report = verify(&files(directory.path()), &trusted(directory.path()), &mut |_| ()).unwrap();
    assert!(report.is_whole(), "{}", problems(&report));
    assert_eq!(report.lost, lost);
    let text = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    let written = text.lines().filter(|line| line.contains("\"reload\"")).count();
    assert_eq!(u64::try_from(kept).unwrap(), u64::try_from(written).unwrap() + lost);
}

#[test]
fn two_agents_do_not_write_one_chain() {
    let directory = tempfile::tempdir().unwrap();
    let first = std::fs::File::create(directory.path().join("audit.jsonl")).unwrap();
    first.lock().unwrap();
    let settings = settings(directory.path());
    let waiting = std::thread::spawn(move || {
        let opened = AuditLog::open(&settings);
        opened.map(|(audit_log, writer)| {
            drop(audit_log);
            writer.finish();
        })
    });
    let file = directory.path().join("audit.jsonl");
    let has_opened = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == file)).count() == 2
    };
    while !has_opened() {
        assert!(!waiting.is_finished(), "the second gave up at once");
        std::thread::yield_now();
    }
    // It retries. An agent that did not wait would be finished by now.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        assert!(!waiting.is_finished(), "the second waits for the first to end");
    }
    drop(first);
    waiting.join().unwrap().unwrap();
}
