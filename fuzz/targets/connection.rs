//! A whole connection: bytes in pieces of any size give the same events as the bytes at once, every
//! answer is a whole frame, and after the end nothing more is read.
#![no_main]

use identity_spoa::spop::{AgentSide, Event, client, frame};
use libfuzzer_sys::fuzz_target;

/// What happened, and what was written.
fn feed(side: &mut AgentSide, pieces: &mut dyn Iterator<Item = &[u8]>) -> (Vec<String>, Vec<u8>) {
    let (mut buffer, mut events, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some((event, used)) = side.next(&buffer, &mut out) {
            if let Event::Notify(notify) = &event {
                for message in notify.messages() {
                    assert!(message.args().count() <= 255);
                }
            }
            events.push(format!("{event:?}"));
            buffer.drain(..used);
        }
        // The limit of what a connection may hold before it is whole or refused.
        assert!(side.is_closed() || buffer.len() < frame::LENGTH + frame::DEFAULT_SIZE as usize);
    }
    (events, out)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, data)) = data.split_first() else { return };
    // Half of the runs begin with a good HELLO, so that what comes after is reached.
    let mut stream = Vec::new();
    if size & 1 == 1 {
        client::hello(&mut stream, frame::DEFAULT_SIZE, "pipelining", false);
    }
    stream.extend_from_slice(data);
    let (mut whole, mut pieces) =
        (AgentSide::new(frame::DEFAULT_SIZE), AgentSide::new(frame::DEFAULT_SIZE));
    let at_once = feed(&mut whole, &mut std::iter::once(&stream[..]));
    let in_pieces = feed(&mut pieces, &mut stream.chunks(usize::from(size >> 1) + 1));
    assert_eq!(at_once, in_pieces);
    let mut out = &at_once.1[..];
    while !out.is_empty() {
        let (_, used) = frame::split(out, frame::DEFAULT_SIZE).unwrap().unwrap();
        out = &out[used..];
    }
});
