//! An HTTP/1.1 client that sends exactly the bytes it is told to, on one connection.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

/// One connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: String,
    pub took: Duration,
}

impl Reply {
    /// The values of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let text = |value: &[u8]| match std::str::from_utf8(value) {
            Ok(text) => text.to_owned(),
            Err(_) => value.escape_ascii().to_string(),
        };
        named.map(|(_, value)| text(value)).collect()
    }

    /// The value of a header that is there once.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "{name} is there {} times", all.len());
        all.pop()
    }

    /// The line of a workspace's answer that shows a request header.
    pub fn arrived(&self, name: &str) -> Vec<&str> {
        let prefix = format!("{name}: ");
        self.body.lines().filter_map(|line| line.strip_prefix(&prefix)).collect()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    /// A GET of `/`, with a bearer token or without.
    pub async fn get(&mut self, host: &str, token: Option<&str>) -> Reply {
        let headers = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        self.send(host, headers.unwrap_or_default().as_bytes()).await
    }

    /// A GET of `/` with these header lines.
    pub async fn send(&mut self, host: &str, headers: &[u8]) -> Reply {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n");
        self.raw(&[head.as_bytes(), headers, b"\r\n"].concat()).await
    }

    /// Any request.
    pub async fn raw(&mut self, request: &[u8]) -> Reply {
        let reply = self.raw_unless_closed(request).await;
        reply.unwrap_or_else(|read| panic!("the connection was closed: {}", read.escape_ascii()))
    }

    /// The same, while access ends: a request under way is ended with it. What was read by then is the error.
    pub async fn raw_unless_closed(&mut self, request: &[u8]) -> Result<Reply, Vec<u8>> {
        let start = std::time::Instant::now();
        self.stream.write_all(request).await.unwrap();
        let mut reply = timeout(PATIENCE, self.reply()).await.expect("no answer")?;
        reply.took = start.elapsed();
        Ok(reply)
    }

    async fn reply(&mut self) -> Result<Reply, Vec<u8>> {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                break std::mem::replace(&mut self.buffer, rest);
            }
            self.more().await?;
        };
        let mut lines = head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
        let status = std::str::from_utf8(lines.next().unwrap()).unwrap();
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let colon = line.iter().position(|b| *b == b':').unwrap();
            let name = String::from_utf8(line[..colon].to_vec()).unwrap();
            headers.push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
        let mut reply = Reply { status, headers, ..Reply::default() };
        reply.body = self.body(&reply).await?;
        Ok(reply)
    }

    async fn body(&mut self, reply: &Reply) -> Result<String, Vec<u8>> {
        if let Some(length) = reply.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                self.more().await?;
            }
            let rest = self.buffer.split_off(length);
            let body = std::mem::replace(&mut self.buffer, rest);
            return Ok(String::from_utf8(body).unwrap());
        }
        Ok(String::new())
    }

    /// The connection, which has nothing to say at the moment.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.buffer.is_empty());
        self.stream
    }

    /// Waits for the other end to close.
    pub async fn closed(&mut self) {
        let rest =
            async { while matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {} };
        timeout(PATIENCE, rest).await.expect("still open");
    }

    async fn more(&mut self) -> Result<(), Vec<u8>> {
        let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
        if read == 0 { Err(std::mem::take(&mut self.buffer)) } else { Ok(()) }
    }
}
