//! The frames in `docs/life-of-a-request.md` are those that travel.

use identity_spoa::spop::{FrameType, Notify, Value, frame};

use super::{markdown::Page, session::fits};
use crate::{
    corpus::record,
    support::{ALICES, Client, Haproxy, Stage, Version, host, until},
    wire::{Bare, Heard},
};

/// The block of the page with this mark.
fn expected(mark: &str) -> Vec<String> {
    let page = Page::read("docs/life-of-a-request.md");
    let block = page.blocks.iter().find(|block| block.mark.as_deref() == Some(mark)).unwrap();
    block.text.lines().map(str::to_owned).collect()
}

fn text(value: Value<'_>) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int32(n) => n.to_string(),
        Value::Uint32(n) => n.to_string(),
        Value::Int64(n) => n.to_string(),
        Value::Uint64(n) => n.to_string(),
        Value::Ipv4(ip) => ip.to_string(),
        Value::Ipv6(ip) => ip.to_string(),
        Value::Str(bytes) | Value::Bin(bytes) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_arguments_in_the_life_of_a_request_are_what_haproxy_sends() {
    let newest = Version::newest();
    let stage = Stage::start(newest).await;
    let recorder = stage.directory.path().join("recorder.sock");
    let said = record(&recorder, stage.agent.socket());
    let haproxy =
        Haproxy::start(newest, stage.directory.path(), &recorder, stage.bob.address()).await;
    let token = stage.idp.token_of("alice");
    until("the gate to open", async || {
        let mut client = Client::connect(haproxy.http).await;
        (client.get(&host(ALICES), Some(&token)).await.status == 200).then_some(())
    })
    .await;
    let connections = said.lock().unwrap().clone();
    let mut shown = Vec::new();
    for stream in &connections {
        let mut rest = &stream[..];
        while let Ok(Some((frame, used))) = frame::split(rest, frame::DEFAULT_SIZE) {
            if frame.kind == Some(FrameType::Notify) {
                shown.clear();
                let notify = Notify::parse(&frame).unwrap();
                for message in notify.messages() {
                    shown.push(format!("message {}", message.name.escape_ascii()));
                    for (name, value) in message.args() {
                        shown.push(format!("  {} = {}", name.escape_ascii(), text(value)));
                    }
                }
            }
            rest = &rest[used..];
        }
    }
    let mut expected = expected("what HAProxy asks");
    // Before 3.0 HAProxy has no name for a stream.
    if !shown.iter().any(|line| line.starts_with("  stream = ")) {
        let of_streams = ["  stream = ", "  started = ", "  process = "];
        expected.retain(|line| !of_streams.iter().any(|name| line.starts_with(name)));
    }
    let lines: Vec<_> = shown.iter().map(String::as_str).collect();
    assert!(fits(&expected, &lines), "expected {expected:#?}\nfound {shown:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_in_the_life_of_a_request_is_what_the_agent_says() {
    let bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let notify = peer.authorize(host(ALICES).as_bytes(), Some(&bare.idp.token_of("alice")));
    peer.write(&notify).await;
    let Heard::Ack(_, found) = peer.hear().await else { panic!("no answer") };
    let mut found: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    let expected = expected("what the agent answers");
    let mut names: Vec<_> =
        expected.iter().map(|line| line.split(" = ").next().unwrap().trim()).collect();
    found.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, found);
}
