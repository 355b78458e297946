//! What stands between the agent and whom it asks: a TCP proxy that can be slow, cut, or say nothing.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Each piece arrives so much later.
    Slow(Duration),
    /// Connections are there, and nothing goes through any more: what a partition looks like.
    Silent,
    /// As silent for existing connections; new ones work.
    HalfOpen,
    /// All connections are closed, new ones too.
    Cut,
}

/// Where it leads.
#[derive(Clone)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Proxy {
    pub async fn start(target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let ways = Arc::clone(&way);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let _ = client.set_nodelay(true);
                tokio::spawn(carry(client, target.clone(), ways.subscribe()));
            }
        });
        Self { address, way }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn carry(client: TcpStream, target: Target, mut way: watch::Receiver<Way>) {
    let born = *way.borrow();
    if born == Way::Cut {
        return;
    }
    // No client connects before the way is open again.
    if way.wait_for(|way| *way != Way::Silent).await.is_err() {
        return;
    }
    let server: Box<dyn Stream> = match target {
        Target::Tcp(address) => match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
            Err(_) => return,
        },
        Target::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    let there = tokio::spawn(pass(from_client, to_server, way.clone(), born));
    let back = tokio::spawn(pass(from_server, to_client, way.clone(), born));
    let (stop_there, stop_back) = (there.abort_handle(), back.abort_handle());
    // Either end closes both, as does a cut.
    tokio::select! {
        _ = there => {}
        _ = back => {}
        _ = way.wait_for(|way| *way == Way::Cut) => {}
    }
    stop_there.abort();
    stop_back.abort();
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
    born: Way,
) {
    let goes = |way: &Way| *way != Way::Silent && (*way != Way::HalfOpen || born == Way::HalfOpen);
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let Ok(now) = way.wait_for(goes).await.map(|way| *way) else { return };
        if let Way::Slow(late) = now {
            tokio::time::sleep(late).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
