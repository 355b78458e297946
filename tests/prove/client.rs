//! A keep-alive connection to HAProxy that takes whatever comes: a fault is an outcome, not a surprise.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The longest that a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub body: String,
    closes: bool,
}

impl Reply {
    /// The workspace's words about itself.
    pub fn told(&self, what: &str) -> Option<&str> {
        self.body.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '))
    }

    /// The reason of a refusal: HAProxy's answer has it before the decision.
    pub fn reason(&self) -> &str {
        // Programs get JSON where people sign in.
        if let Some(rest) = self.body.split("\"reason\":\"").nth(1) {
            return rest.split('"').next().unwrap_or_default();
        }
        let before = self.body.split(" (decision").next().unwrap_or_default();
        before.rsplit(": ").next().filter(|text| text.len() < 40).unwrap_or_default()
    }
}

/// A client with at most one connection.
pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, buffer: Vec::new() }
    }

    /// One request, and how long it took. A connection that HAProxy had closed meanwhile is not held
    /// against it: the request is sent again on a new one, as every browser does.
    pub async fn ask(&mut self, request: &[u8]) -> (Result<Reply, String>, Duration) {
        let start = Instant::now();
        let used = self.stream.is_some();
        let mut answer = self.once(request).await;
        if used && matches!(&answer, Err(Fault::Closed)) {
            answer = self.once(request).await;
        }
        let answer = answer.map_err(|fault| match fault {
            Fault::Closed => "closed without an answer".to_owned(),
            Fault::Other(what) => what,
        });
        (answer, start.elapsed())
    }

    async fn once(&mut self, request: &[u8]) -> Result<Reply, Fault> {
        let answer = match timeout(PATIENCE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::Other("no answer in 10 s".into())),
        };
        if !answer.as_ref().is_ok_and(|reply| !reply.closes) {
            self.stream = None;
            self.buffer.clear();
        }
        answer
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Reply, Fault> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address).await;
            let stream = stream.map_err(|error| Fault::Other(format!("connect: {error}")))?;
            let _ = stream.set_nodelay(true);
            self.stream = Some(stream);
        }
        let stream = self.stream.as_mut().unwrap();
        stream.write_all(request).await.map_err(|_| Fault::Closed)?;
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                break std::mem::replace(&mut self.buffer, rest);
            }
            let nothing = self.buffer.is_empty();
            match stream.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                _ if nothing => return Err(Fault::Closed),
                _ => return Err(Fault::Other("closed within an answer".into())),
            }
        };
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| Fault::Other("not HTTP".into()))?;
        let header = |name: &str| {
            head.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        let length = header("content-length:").and_then(|text| text.parse().ok()).unwrap_or(0);
        let bare = header("content-length:").is_none();
        while self.buffer.len() < length {
            match stream.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                _ => return Err(Fault::Other("closed within a body".into())),
            }
        }
        let rest = self.buffer.split_off(length);
        let body = std::mem::replace(&mut self.buffer, rest);
        let closes = bare || header("connection:").is_some_and(|value| value == "close");
        Ok(Reply { status, body: String::from_utf8_lossy(&body).into_owned(), closes })
    }
}

enum Fault {
    /// Before a byte of the answer.
    Closed,
    Other(String),
}
