//! What the agent is measured against.

use std::{net::IpAddr, path::Path};

use futures_util::{SinkExt, StreamExt};
use identity_spoa::{
    request::Request,
    spop::{Actions, Notify, Value, ack, frame},
};
use spop::{
    FramePayload, FrameType, SpopCodec, VarScope,
    frames::{Ack, AgentHello, FrameCapabilities, HaproxyHello},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};
use tokio_util::codec::Framed;

/// The least an agent can do: the ids are taken from each frame's header, everything else is constant,
/// one write for each read.
pub fn floor(directory: &Path) {
    constant(directory, "floor", |_, _| ());
}

/// The same, whose answers HAProxy may reuse for five seconds.
pub fn reusable(directory: &Path) {
    constant(directory, "floor-reuse", |frame, actions| {
        let message = Notify::parse(frame).unwrap().messages().next().unwrap();
        let request = Request::read(message.name, message.args()).unwrap();
        let mut set = |name, value: Value<'_>| actions.set(ack::Scope::Session, name, value);
        let (Some(id), Some(now)) = (request.reuse.id, request.reuse.now) else { return };
        let Some(IpAddr::V4(client)) = request.client else { return };
        set("reuse_until", Value::Uint64(now + 5000));
        set("reuse_client", Value::Bin(&client.octets()));
        set("reuse_epoch", Value::Str(request.reuse.epoch.unwrap_or(b"-")));
        set("reuse_host", Value::Str(request.host.unwrap()));
        set("reuse_of", Value::Str(id));
    });
}

fn constant(
    directory: &Path,
    name: &str,
    more: impl Fn(&frame::Frame<'_>, &mut Actions<'_>) + Copy + Send + 'static,
) {
    serve(directory, name, move |mut stream| async move {
        let (mut input, mut out) = (Vec::with_capacity(1 << 17), Vec::new());
        while stream.read_buf(&mut input).await.is_ok_and(|n| n > 0) {
            let mut at = 0;
            while let Ok(Some((frame, used))) = frame::split(&input[at..], frame::DEFAULT_SIZE) {
                if frame.kind == Some(frame::FrameType::Notify) {
                    let ids = (frame.stream_id, frame.frame_id);
                    ack::write(&mut out, ids, frame::DEFAULT_SIZE, |actions| {
                        actions.set(ack::Scope::Transaction, "allow", Value::Bool(true));
                        actions.set(ack::Scope::Transaction, "reason", Value::Str(b"owner"));
                        more(&frame, actions);
                    })
                    .unwrap();
                } else {
                    agree(&mut out);
                }
                at += used;
            }
            input.drain(..at);
            if stream.write_all(&out).await.is_err() {
                return;
            }
            out.clear();
        }
    });
}

fn agree(out: &mut Vec<u8>) {
    identity_spoa::spop::hello::Agreed { max_frame_size: frame::DEFAULT_SIZE, pipelining: true }
        .write(out);
}

/// What one writes first: the `spop` crate's codec in a `Framed`, an answer at a time.
pub fn naive(directory: &Path) {
    serve(directory, "naive", |stream| async move {
        let mut socket = Framed::new(stream, SpopCodec::default());
        while let Some(Ok(frame)) = socket.next().await {
            let sent = match frame.frame_type() {
                FrameType::HaproxyHello => {
                    let hello = HaproxyHello::try_from(frame.payload()).unwrap();
                    let agreed = AgentHello {
                        version: hello.negotiate_version().unwrap(),
                        max_frame_size: hello
                            .negotiate_max_frame_size(frame::DEFAULT_SIZE)
                            .unwrap(),
                        capabilities: vec![FrameCapabilities::Pipelining],
                    };
                    socket.send(Box::new(agreed)).await
                }
                FrameType::Notify => {
                    let mut ack = Ack::new(frame.metadata().stream_id, frame.metadata().frame_id);
                    if let FramePayload::ListOfMessages(messages) = &frame.payload() {
                        for message in *messages {
                            let bearer = message.get("authorization").is_some();
                            ack = ack.set_var(VarScope::Transaction, "allow", bearer);
                            ack = ack.set_var(VarScope::Transaction, "reason", "owner");
                        }
                    }
                    socket.send(Box::new(ack)).await
                }
                _ => return,
            };
            if sent.is_err() {
                return;
            }
        }
    });
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

fn serve<F: Future<Output = ()> + Send + 'static>(
    directory: &Path,
    name: &str,
    connection: impl Fn(Box<dyn Stream>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        std::fs::write(directory.join(format!("{name}.tcp")), address).unwrap();
        let unix = UnixListener::bind(directory.join(format!("{name}.sock"))).unwrap();
        loop {
            let stream: Box<dyn Stream> = tokio::select! {
                accepted = tcp.accept() => {
                    let stream = accepted.unwrap().0;
                    stream.set_nodelay(true).unwrap();
                    Box::new(stream)
                }
                accepted = unix.accept() => Box::new(accepted.unwrap().0),
            };
            tokio::spawn(connection(stream));
        }
    });
}
