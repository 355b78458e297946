//! The queue of audit records: full, failing, and under load.

use std::sync::mpsc;

use super::{record::TestEntry, *};

/// A sink that blocks each write until the test lets it go on.
struct Slow(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.recv().map_err(io::Error::other)?;
        self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a5_a_full_buffer_is_reported_and_no_stored_record_is_lost() {
    let (go, gate) = mpsc::channel();
    let (sink, written) = mpsc::channel();
    let (audit_log, writer) = AuditLog::to_sink(Box::new(Slow(gate, sink)), 2000).unwrap();
    let text = [0xff; 5000];
    let (mut stored, mut refused) = (0, 0);
    while refused < 3 {
        match audit_log.record(&TestEntry(AuditEvent::Start, &text)) {
            Ok(()) => stored += 1,
            Err(NotRecorded) => refused += 1,
        }
    }
    assert_eq!(audit_log.lost(), 3);
    drop(audit_log);
    drop((0..100).map(|_| go.send(())).collect::<Vec<_>>());
    writer.finish();
    let all: Vec<u8> = written.iter().flatten().collect();
    let lines = all.split_inclusive(|b| *b == b'\n').inspect(|l| assert!(l.len() < MAX_LINE));
    let records: Vec<serde_json::Value> =
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    let decisions = records.iter().filter(|record| record["event"] == "start");
    assert_eq!(decisions.count(), stored);
    let gap = records.iter().find(|record| record["event"] == "gap").unwrap();
    assert_eq!((&gap["lost"], records.len()), (&3.into(), stored + 2));
}

#[test]
fn a_failing_sink_is_reported_until_it_works_again() {
    struct Flaky(Arc<AtomicBool>);
    impl Write for Flaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.load(Ordering::Acquire) {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(bytes.len())
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let fails = Arc::new(AtomicBool::new(true));
    let (audit_log, writer) =
        AuditLog::to_sink(Box::new(Flaky(Arc::clone(&fails))), 1 << 20).unwrap();
    let keep = || {
        std::thread::sleep(Duration::from_millis(1));
        audit_log.record(&TestEntry(AuditEvent::Start, b"x"))
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while keep().is_ok() {
        assert!(std::time::Instant::now() < deadline, "the failure is not reported");
    }
    fails.store(false, Ordering::Release);
    while keep().is_err() {
        assert!(std::time::Instant::now() < deadline, "the recovery is not reported");
    }
    drop(audit_log);
    writer.finish();
}

/// A sink that reports each write.
struct Counting(mpsc::Sender<()>);

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn r2_records_that_come_close_together_are_written_together() {
    let (sink, seen) = mpsc::channel();
    let (audit_log, writer) = AuditLog::to_sink(Box::new(Counting(sink)), 1 << 20).unwrap();
    seen.recv().unwrap();
    let start = std::time::Instant::now();
    for _ in 0..300 {
        audit_log.record(&TestEntry(AuditEvent::Start, b"x")).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = start.elapsed();
    drop(audit_log);
    writer.finish();
    // Each write is at least the time of collecting after the one before.
    let count = u128::try_from(seen.iter().count()).unwrap();
    assert!(count <= took.as_millis() / 10 + 3, "{count} writes in {took:?}");
}
