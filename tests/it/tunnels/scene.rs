//! The stage of the tunnel tests: many people and workspaces, and open connections between them.

use std::{
    fmt::Write as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use crate::support::{
    AgentProcess, Haproxy, PATIENCE, Version, agent::program, config, machine, until,
};
use dev_idp::{DevIdp, TokenRequest};
use dev_workspace::DevWorkspace;

/// A workspace in the list.
#[derive(Clone)]
pub(crate) struct Listed {
    pub owner: String,
    pub phase: &'static str,
    pub destination: std::net::SocketAddr,
    /// The admission of port 3000.
    pub admission: &'static str,
    /// The person who has a grant for port 4000.
    pub grants: Vec<String>,
    /// The machine that has a grant for port 4000.
    pub machine: Option<&'static str>,
}

pub(crate) struct Scene {
    pub haproxies: Vec<(Haproxy, TempDir)>,
    pub agent: AgentProcess,
    pub idp: DevIdp,
    pub workspaces: Vec<DevWorkspace>,
    /// The workspaces by number; `None` once one is deleted.
    pub list: Vec<Option<Listed>>,
    pub directory: TempDir,
}

/// The id of a workspace.
pub(crate) fn id(workspace: usize) -> String {
    format!("pink{workspace}-demo-ns35kd21abc")
}

/// The host of a workspace's endpoint; port 0 is its editor.
pub(crate) fn at(workspace: usize, port: u16) -> String {
    match port {
        0 => format!("{}.ws.gitpod.test", id(workspace)),
        port => format!("{port}-{}.ws.gitpod.test", id(workspace)),
    }
}

/// The time from a cause to the closed socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    since: Instant,
    until: Instant,
}

impl Took {
    /// The time by the wall clock.
    pub(crate) fn whole(self) -> Duration {
        self.until.saturating_duration_since(self.since)
    }

    /// The time without that in which the machine did something else.
    fn counted(self) -> Duration {
        machine::counted(self.since, self.until)
    }
}

impl From<Duration> for Took {
    /// The time of something that has just ended.
    fn from(took: Duration) -> Self {
        let until = Instant::now();
        Self { since: until.checked_sub(took).unwrap(), until }
    }
}

/// The times of one cause, one for each tunnel that it terminated.
#[derive(Default)]
pub(crate) struct Figures(Vec<Took>);

impl Figures {
    pub(crate) fn add(&mut self, what: &str, took: Vec<impl Into<Took>>) {
        let took: Vec<Took> = took.into_iter().map(Into::into).collect();
        let most = took.iter().map(|took| took.whole()).max().unwrap_or_default();
        eprintln!("    {what}: {} terminated, the last after {most:?}", took.len());
        self.0.extend(took);
    }

    /// Prints the 99th percentile, and compares the time that the program is responsible for with a
    /// second. `make terminations` compares the whole time.
    pub(crate) fn judge(self, what: &str) {
        let sorted = |of: fn(Took) -> Duration| {
            let mut all: Vec<_> = self.0.iter().map(|took| of(*took)).collect();
            all.sort();
            (all[all.len() / 2], all[(all.len() * 99).div_ceil(100) - 1])
        };
        let ((median, p99), (_, counted)) = (sorted(Took::whole), sorted(Took::counted));
        let count = self.0.len();
        eprintln!(
            "{what}: from cause to closed socket, {count} tunnels: median {median:?}, p99 {p99:?}, of which {counted:?} counts"
        );
        assert!(counted <= Duration::from_secs(1), "{p99:?}, of which {counted:?} counts");
    }
}

impl Scene {
    /// A stage with this many workspaces, of which number n belongs to `un`, and this many
    /// HAProxies at one agent. `more` is added to the configuration.
    pub(crate) async fn start(
        version: &Version,
        workspaces: usize,
        haproxies: usize,
        more: &str,
    ) -> Self {
        Self::with(version, workspaces, haproxies, more, |_| ()).await
    }

    /// With files in the directory of each HAProxy.
    pub(crate) async fn with(
        version: &Version,
        workspaces: usize,
        haproxies: usize,
        more: &str,
        prepare: impl Fn(&Path),
    ) -> Self {
        machine::watch();
        let directory = tempfile::tempdir().unwrap();
        let idp = DevIdp::start().await;
        let mut servers = Vec::new();
        for number in 0..workspaces {
            servers.push(DevWorkspace::start(&format!("w{number}")).await);
        }
        let socket = directory.path().join("spop.sock");
        let mut gates = Vec::new();
        let mut masters = Vec::new();
        for _ in 0..haproxies {
            let own = tempfile::tempdir().unwrap();
            prepare(own.path());
            masters.push(format!("'unix:{}'", own.path().join("master.sock").display()));
            gates.push(own);
        }
        let spop: Vec<_> = gates
            .iter()
            .map(|own| format!("'unix:{}'", own.path().join("spop.sock").display()))
            .collect();
        let mut text = config(idp.issuer())
            .replace(
                "\"unix:spop.sock\"",
                &format!("'unix:{}',{}", socket.display(), spop.join(",")),
            )
            .replace("unknown_key_seconds = 1", "unknown_key_seconds = 1\nleeway_seconds = 0");
        text += "\n[admin]\nsocket = 'agent-admin.sock'\nrevocations = 'revocations.jsonl'\n";
        // Keys that belong in another table than the last one.
        let (reuse, more): (Vec<_>, Vec<_>) =
            more.lines().partition(|line| line.starts_with("verdict_cache_ms"));
        text = text.replace("[agent]\n", &format!("[agent]\n{}\n", reuse.concat()));
        let more = &more.join("\n");
        if more.contains("[haproxy]") {
            text += more;
        } else {
            text += &format!("\n[haproxy]\nsockets = [{}]\n{more}\n", masters.join(", "));
        }
        std::fs::write(directory.path().join("agent.toml"), text).unwrap();
        let list = servers.iter().enumerate().map(|(number, server)| {
            Some(Listed {
                owner: format!("u{number}"),
                phase: "running",
                destination: server.address(),
                admission: "authenticated",
                grants: vec!["u5".into(), "u6".into()],
                machine: None,
            })
        });
        let list: Vec<_> = list.collect();
        write(directory.path(), &list);
        let agent = AgentProcess::start(directory.path()).await;
        let mut running = Vec::new();
        for own in gates {
            let spop = own.path().join("spop.sock");
            let named = servers[0].address();
            running.push((Haproxy::start(version, own.path(), &spop, named).await, own));
        }
        let scene = Self { haproxies: running, agent, idp, workspaces: servers, list, directory };
        for (haproxy, _) in &scene.haproxies {
            until("the gate to open", async || {
                let token = scene.idp.token_of("u0");
                let mut client = crate::support::Client::connect(haproxy.http).await;
                (client.get(&at(0, 0), Some(&token)).await.status == 200).then_some(())
            })
            .await;
        }
        scene
    }

    /// Writes the list, and returns when.
    pub(crate) fn write(&self) -> Instant {
        let now = Instant::now();
        write(self.directory.path(), &self.list);
        now
    }

    pub(crate) fn listed(&mut self, workspace: usize) -> &mut Listed {
        self.list[workspace].as_mut().unwrap()
    }

    /// Opens a WebSocket through the first HAProxy.
    pub(crate) async fn open(&self, user: &str, workspace: usize, port: u16) -> Line {
        self.open_at(0, user, workspace, port).await
    }

    pub(crate) async fn open_at(
        &self,
        haproxy: usize,
        user: &str,
        workspace: usize,
        port: u16,
    ) -> Line {
        let token = self.idp.token_of(user);
        self.try_open(haproxy, user, &token, workspace, port).await.unwrap()
    }

    /// A token that is valid for this many seconds, and when it expires.
    pub(crate) fn token_for(&self, seconds: i64, user: &str) -> (String, Instant) {
        let user = user.into();
        let request = TokenRequest { user, expires_in: seconds, ..TokenRequest::default() };
        let token = self.idp.token(&request);
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let end = UNIX_EPOCH + Duration::from_secs(claims["exp"].as_u64().unwrap());
        let left = end.duration_since(SystemTime::now()).unwrap();
        (token, Instant::now() + left)
    }

    pub(crate) async fn try_open(
        &self,
        haproxy: usize,
        user: &str,
        token: &str,
        workspace: usize,
        port: u16,
    ) -> Result<Line, tungstenite::Error> {
        let stream = TcpStream::connect(self.haproxies[haproxy].0.http).await.unwrap();
        let mut request = format!("ws://{}/ws", at(workspace, port)).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let (socket, _) = client_async(request, stream).await?;
        Ok(Line::new(user, workspace, port, socket))
    }

    /// Runs a command of the program against the agent.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        let (name, rest) = args.split_first().unwrap();
        let config = self.directory.path().join("agent.toml");
        Command::new(program()).arg(name).arg("--config").arg(config).args(rest).output().unwrap()
    }

    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The metrics, as a Prometheus server reads them.
    pub(crate) async fn metrics(&self) -> String {
        let socket = self.directory.path().join("agent-admin.sock");
        let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
        client.get("http://agent/metrics").send().await.unwrap().text().await.unwrap()
    }

    /// The tunnels that `tunnels --json` lists.
    pub(crate) fn tunnels(&self) -> Vec<Value> {
        serde_json::from_str(&self.done(&["tunnels", "--json"])).unwrap()
    }

    /// The records with this event.
    pub(crate) fn records(&self, event: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let all = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|record| record["event"] == event).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.agent.log();
            let told: Vec<_> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
            eprintln!("{}", told[told.len().saturating_sub(30)..].join("\n"));
        }
    }
}

fn write(directory: &Path, list: &[Option<Listed>]) {
    let mut text = String::from("workspaces:\n");
    for (number, listed) in list.iter().enumerate() {
        let Some(Listed { owner, phase, destination, admission, grants, machine }) = listed else {
            continue;
        };
        writeln!(
            text,
            "  - id: {}\n    owner: {{ issuer: dev, subject: sub-{owner} }}\n    phase: {phase}\n    \
             destination: {destination}\n    ports:\n      \
             - {{ port: 3000, admission: {admission}, destination: '{destination}' }}\n      \
             - {{ port: 4000, admission: grants, destination: '{destination}' }}\n      \
             - {{ port: 2222, protocol: tcp, admission: grants, destination: '{destination}' }}\n    grants:",
            id(number)
        )
        .unwrap();
        for user in grants {
            writeln!(
                text,
                "      - user: {{ issuer: dev, subject: sub-{user} }}\n        endpoints: [4000]"
            )
            .unwrap();
        }
        if let Some(machine) = machine {
            writeln!(text, "      - user: {{ issuer: machines, subject: {machine} }}").unwrap();
        }
    }
    test_stage::replace(&directory.join("workspaces.yaml"), text);
}

/// One open WebSocket.
pub(crate) struct Line {
    pub user: String,
    pub workspace: usize,
    pub port: u16,
    sink: SplitSink<WebSocketStream<TcpStream>, Message>,
    messages: mpsc::UnboundedReceiver<Message>,
    closed: watch::Receiver<Option<Instant>>,
    reader: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        // It holds the other half of the socket.
        self.reader.abort();
    }
}

impl Line {
    fn new(user: &str, workspace: usize, port: u16, socket: WebSocketStream<TcpStream>) -> Self {
        let (sink, mut stream) = socket.split();
        let (sender, messages) = mpsc::unbounded_channel();
        let (close, closed) = watch::channel(None);
        let reader = tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                if sender.send(message).is_err() {
                    return;
                }
            }
            close.send_replace(Some(Instant::now()));
        });
        Self { user: user.into(), workspace, port, sink, messages, closed, reader }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    /// Waits for its end, and returns when it was.
    pub(crate) async fn ended(&mut self) -> Instant {
        let (user, workspace) = (&self.user, self.workspace);
        timeout(PATIENCE, self.closed.wait_for(Option::is_some))
            .await
            .unwrap_or_else(|_| panic!("{user} is still connected to {workspace}"))
            .unwrap()
            .unwrap()
    }

    /// Sends a message and receives it back.
    pub(crate) async fn echoes(&mut self) {
        let what = format!("{} to {}:{}", self.user, self.workspace, self.port);
        self.sink.send(Message::text("hello")).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let heard = timeout(PATIENCE, self.messages.recv()).await;
        assert_eq!(heard.expect(&what), Some(Message::text("hello")), "{what}");
    }
}

/// Waits until all selected lines have ended, removes them, and makes sure that all others go on.
/// Returns how long each took.
pub(crate) async fn terminated(
    lines: &mut Vec<Line>,
    since: Instant,
    is_selected: impl Fn(&Line) -> bool,
) -> Vec<Took> {
    let (selected, others): (Vec<_>, Vec<_>) = lines.drain(..).partition(&is_selected);
    assert!(!selected.is_empty() && !others.is_empty());
    let mut took = Vec::new();
    for mut line in selected {
        took.push(Took { since, until: line.ended().await });
    }
    *lines = others;
    all_echo(lines).await;
    took
}

/// Makes sure that all lines are open.
pub(crate) async fn all_echo(lines: &mut [Line]) {
    for line in lines {
        assert!(
            !line.is_closed(),
            "{} to {}:{} was terminated",
            line.user,
            line.workspace,
            line.port
        );
        line.echoes().await;
    }
}
