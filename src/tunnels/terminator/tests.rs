//! The terminator against a runtime API that is a master with ten connections, which fails as planned.

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::tunnels::{
    TerminationCause, Tunnel, TunnelCredential, TunnelLocation, TunnelSettings,
    tests::{named, tunnel},
};

/// The longest time from the end of access to the end of the stream.
const PROMISE: Duration = Duration::from_secs(1);

/// How a command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// No byte of the answer, and the connection stays open.
    Silence,
    /// Half of the answer, and the connection stays open.
    Half,
    /// Half of the answer, and the connection is closed.
    Close,
    /// The answer of a master for a process that is starting. The connection stays open, although the
    /// client has closed its side.
    Starting,
}

/// Which commands fail: those that contain `text`, this many times.
struct Plan {
    text: &'static str,
    fault: Fault,
    left: AtomicUsize,
}

/// A master of processes, each with one stream of the frontend `gate`; the stream's number is the process's id.
struct Master {
    directory: TempDir,
    processes: Vec<u32>,
    plan: Plan,
    shut: Mutex<HashMap<u32, Instant>>,
    /// The connections that are in use. A connection is in use until its command was answered, even if
    /// the client has left.
    slots: AtomicUsize,
    most_slots: AtomicUsize,
}

impl Master {
    fn new(processes: &[u32], text: &'static str, fault: Fault, times: usize) -> Arc<Self> {
        let plan = Plan { text, fault, left: AtomicUsize::new(times) };
        Arc::new(Self {
            directory: tempfile::tempdir().unwrap(),
            processes: processes.to_vec(),
            plan,
            shut: Mutex::default(),
            slots: AtomicUsize::new(0),
            most_slots: AtomicUsize::new(0),
        })
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("master.sock")
    }

    fn listen(self: &Arc<Self>) {
        let listener = UnixListener::bind(self.path()).unwrap();
        let master = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let master = Arc::clone(&master);
                tokio::spawn(async move {
                    let slots = master.slots.fetch_add(1, Ordering::SeqCst) + 1;
                    master.most_slots.fetch_max(slots, Ordering::SeqCst);
                    master.serve(stream).await;
                    master.slots.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
    }

    async fn serve(&self, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read);
        let mut line = String::new();
        if lines.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let plan = &self.plan;
        let fails = line.contains(plan.text)
            && plan
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok();
        // A command that gets no answer has no effect.
        let answer =
            if fails && plan.fault == Fault::Silence { String::new() } else { self.answer(&line) };
        match plan.fault {
            _ if !fails => {
                let _ = write.write_all(answer.as_bytes()).await;
                // The connection stays open until the client closes it.
                let _ = lines.read_to_end(&mut Vec::new()).await;
            }
            Fault::Close => {
                let _ = write.write_all(&answer.as_bytes()[..answer.len() / 2]).await;
            }
            Fault::Silence | Fault::Half => {
                let _ = write.write_all(&answer.as_bytes()[..answer.len() / 2]).await;
                std::future::pending::<()>().await;
            }
            Fault::Starting => {
                let text = "Can't find the target PID matching the prefix '@!8'\n";
                let _ = write.write_all(text.as_bytes()).await;
                std::future::pending::<()>().await;
            }
        }
    }

    fn answer(&self, line: &str) -> String {
        let mut answer = String::new();
        for command in line.trim_end().split(';') {
            if command == "show proc" {
                answer += "#<PID>          <type>          <reloads>\n1               master          0\n# workers\n";
                let workers = self.processes.iter().map(|id| format!("{id}  worker  0\n"));
                answer.extend(workers);
                answer.push('\n');
                continue;
            }
            let (prefix, command) = command.split_once(' ').unwrap();
            let id: u32 = prefix.strip_prefix("@!").unwrap().parse().unwrap();
            answer += &self.answer_to(id, command);
        }
        answer
    }

    fn answer_to(&self, id: u32, command: &str) -> String {
        let pointer = format!("0x7f{id:02}");
        let mut shut = self.shut.lock();
        let is_there = !shut.contains_key(&id);
        match command.strip_suffix(&*pointer).unwrap_or(command) {
            "show sess" if is_there => {
                format!("{pointer}: proto=tcpv4 src=127.0.0.1:5 fe=gate be=b srv=s age=1s\n\n")
            }
            "show sess" => "\n".into(),
            "show sess " if is_there => format!(
                "{pointer}: [24/Nov/2026:19:20:36.812610] id={id} proto=tcpv4 source=127.0.0.1:5\n  \
                 frontend=gate (id=2 mode=http)\n  txn=0x1 rsp.st=MSG_TUNNEL\n      \
                 co0=0x1 ctrl=tcpv4 mux=H1 data=STRM\n\n"
            ),
            "show sess " => "Session not found.\n\n".into(),
            "shutdown session " if is_there => {
                shut.insert(id, Instant::now());
                "\n".into()
            }
            "shutdown session " => "No such session (use 'show sess').\n\n".into(),
            "show info" => format!("Name: HAProxy\nVersion: 3.2.26-1\nPid: {id}\nTainted: 0\n\n"),
            other => panic!("{other}"),
        }
    }

    /// Waits for the end of a process's stream. Returns how long after `since` it ended.
    async fn ends(&self, process: u32, since: Instant) -> Duration {
        let end = async {
            loop {
                if let Some(at) = self.shut.lock().get(&process) {
                    return at.saturating_duration_since(since);
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(20), end).await.expect("the stream ends")
    }
}

/// A table with a tunnel of each process of a master, and a running terminator.
struct Desk {
    tunnels: Arc<Tunnels>,
    _stop: DropGuard,
}

fn id_of(process: u32) -> DecisionId {
    DecisionId::from(&format!("1-2-{process}")).unwrap()
}

impl Desk {
    fn new(master: &Arc<Master>) -> Self {
        let all = master.processes.iter().map(|process| (*process, *process));
        Self::with(master.path(), all)
    }

    /// With tunnels of these processes and numbers of streams.
    fn with(socket: PathBuf, all: impl Iterator<Item = (u32, u32)>) -> Self {
        let (audit_log, _writer) =
            crate::audit::AuditLog::to_sink(Box::new(std::io::sink()), 1 << 20).unwrap();
        let tunnels = Arc::new(Tunnels::new(TunnelSettings::default(), 1, Arc::new(audit_log)));
        for (process, stream) in all {
            let usual = tunnel(TunnelCredential::None, named(false));
            let location = TunnelLocation {
                stream: Some(stream),
                started: None,
                process: Some(process),
                ..usual.location.clone()
            };
            let tunnel =
                Tunnel { id: id_of(stream), opened: MonotonicTime::now(), location, ..usual };
            tunnels.open(tunnel).unwrap();
        }
        let stop = CancellationToken::new();
        let terminator = TunnelTerminator::new(
            Socket::Unix(socket),
            SocketId::new(0),
            Arc::clone(&tunnels),
            None,
        );
        tokio::spawn(terminator.run(stop.clone()));
        Self { tunnels, _stop: stop.drop_guard() }
    }

    async fn found(&self, process: u32) {
        let is_found = || {
            let state = self.tunnels.lock();
            state.entries.get(&id_of(process)).is_some_and(|entry| entry.located.is_some())
        };
        let found = async {
            while !is_found() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(20), found).await.expect("the stream is found");
    }

    fn due(&self, process: u32) -> Instant {
        self.tunnels
            .mark_for_termination([(id_of(process), TerminationCause::Administrator(None))]);
        Instant::now()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_one_answer_that_is_lost_holds_up_no_termination() {
    for fault in [Fault::Silence, Fault::Half, Fault::Close, Fault::Starting] {
        for text in ["show proc", "show sess;", "show sess 0x", "shutdown session"] {
            let master = Master::new(&[8], text, fault, 1);
            master.listen();
            let desk = Desk::new(&master);
            // Before the tunnel is found.
            let took = master.ends(8, desk.due(8)).await;
            assert!(took <= PROMISE, "{fault:?} of {text}: {took:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_an_answer_that_is_lost_while_tunnels_are_looked_for_holds_up_no_termination() {
    for fault in [Fault::Silence, Fault::Half, Fault::Starting] {
        let master = Master::new(&[8], "show sess;", fault, 1);
        master.listen();
        let desk = Desk::new(&master);
        // The command was sent.
        sleep(Duration::from_millis(50)).await;
        let took = master.ends(8, desk.due(8)).await;
        assert!(took <= PROMISE, "{fault:?}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_process_that_stands_still_holds_up_no_other() {
    let master = Master::new(&[8, 9, 10], "@!8", Fault::Silence, usize::MAX);
    master.listen();
    let desk = Desk::new(&master);
    desk.due(8);
    desk.found(9).await;
    desk.found(10).await;
    for process in [9, 10] {
        let took = master.ends(process, desk.due(process)).await;
        assert!(took <= PROMISE, "{process}: {took:?}");
        sleep(Duration::from_secs(2)).await;
    }
    // Commands that were given up do not use up the connections of a master.
    let most = master.most_slots.load(Ordering::SeqCst);
    assert!(most < 8, "{most} connections");
    assert!(desk.tunnels.lock().errors[0].is_some(), "it is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_what_is_due_is_terminated_at_once_when_haproxy_comes_back() {
    let master = Master::new(&[8], "nothing", Fault::Silence, 0);
    let desk = Desk::new(&master);
    // The pause between attempts grows.
    sleep(Duration::from_secs(4)).await;
    assert!(desk.tunnels.lock().errors[0].is_some());
    desk.due(8);
    sleep(Duration::from_millis(300)).await;
    master.listen();
    let took = master.ends(8, Instant::now()).await;
    assert!(took <= PROMISE, "{took:?}");
}

/// Answers the commands to a process with many streams. The details of the last ones never come.
async fn serve_many(stream: UnixStream, streams: u32, silent: u32, shut: &Mutex<usize>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    let mut line = String::new();
    if lines.read_line(&mut line).await.unwrap_or(0) == 0 {
        return;
    }
    let mut answer = String::new();
    for command in line.trim_end().split(';') {
        let command = command.strip_prefix("@!8 ").unwrap_or(command);
        let (words, number) = match command.rsplit_once(" 0x") {
            Some((words, pointer)) => (words, u32::from_str_radix(pointer, 16).unwrap()),
            None => (command, 0),
        };
        match words {
            "show sess" if number == 0 => {
                for number in 1..=streams {
                    let _ = writeln!(
                        answer,
                        "0x{number:x}: proto=tcpv4 src=127.0.0.1:5 fe=gate be=b srv=s age=1s"
                    );
                }
                answer.push('\n');
            }
            "show sess" if number > silent => std::future::pending::<()>().await,
            "show sess" => {
                let _ = write!(
                    answer,
                    "0x{number:x}: [24/Nov/2026:19:20:36.812610] id={number} proto=tcpv4 source=127.0.0.1:5\n  \
                     frontend=gate (id=2 mode=http)\n  txn=0x1 rsp.st=MSG_TUNNEL\n      \
                     co0=0x1 ctrl=tcpv4 mux=H1 data=STRM\n\n"
                );
            }
            "shutdown session" => {
                *shut.lock() += 1;
                answer.push('\n');
            }
            "show proc" => {
                answer += "#<PID>          <type>          <reloads>\n1               master          0\n# workers\n8  worker  0\n\n";
            }
            "show info" => answer += "Name: HAProxy\nVersion: 3.2.26-1\nPid: 8\nTainted: 0\n\n",
            other => panic!("{other}"),
        }
    }
    let _ = write.write_all(answer.as_bytes()).await;
    let _ = lines.read_to_end(&mut Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_many_tunnels_end_before_the_last_ones_are_looked_at() {
    let streams = 3 * u32::try_from(BATCH).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("master.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (shut, silent) = (Arc::new(Mutex::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
    let (counted, from) = (Arc::clone(&shut), Arc::clone(&silent));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (shut, from) = (Arc::clone(&counted), Arc::clone(&from));
            tokio::spawn(async move {
                let from = u32::try_from(from.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
                serve_many(stream, streams, from, &shut).await;
            });
        }
    });
    let desk = Desk::with(path, (1..=streams).map(|stream| (8, stream)));
    for stream in 1..=streams {
        desk.found(stream).await;
    }
    silent.store(usize::try_from(streams - 1).unwrap(), Ordering::SeqCst);
    let all = (1..=streams).map(|stream| (id_of(stream), TerminationCause::Administrator(None)));
    desk.tunnels.mark_for_termination(all);
    let some = async {
        while *shut.lock() < 2 * BATCH {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), some).await.expect("the first two batches end");
}
