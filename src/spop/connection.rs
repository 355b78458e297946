//! The agent's end of one connection, without sockets and clocks: bytes in, events and bytes out.
//!
//! ```text
//! Opening --HELLO--> Open --DISCONNECT or refusal--> Closed
//!    \--HELLO of a health check--> Closed
//! ```

use super::{
    Frame, FrameError, FrameType, Notify, Status,
    disconnect::{self, Disconnect},
    frame,
    hello::{Agreed, HaproxyHello},
};

/// The agent's end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct AgentSide {
    state: ConnectionState,
    max_frame_size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionState {
    Opening,
    Open(Agreed),
    Closed,
}

/// What happened on the connection. Responses of the protocol itself are in the output already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// The HELLO was accepted.
    Opened(Agreed),
    /// An authorization request, which needs an ACK.
    Notify(Notify<'b>),
    /// A health check (`option spop-check`): write the output, then close.
    HealthCheck,
    /// HAProxy closes the connection: write the output, then close.
    Closed(Disconnect<'b>),
    /// A frame of an unknown type, or an aborted one, which is ignored.
    Skipped,
    /// HAProxy violated the protocol: write the output, then close.
    Refused(FrameError),
}

impl AgentSide {
    /// An end that accepts frames of at most `max_frame_size` bytes, without the length.
    #[must_use]
    pub fn new(max_frame_size: u32) -> Self {
        Self {
            state: ConnectionState::Opening,
            max_frame_size: max_frame_size.max(frame::MIN_SIZE),
        }
    }

    /// Takes the next event out of `input`, with the number of bytes that it used. `None` if more
    /// bytes are needed, or if the connection is closed and further input is ignored.
    pub fn next<'b>(&mut self, input: &'b [u8], out: &mut Vec<u8>) -> Option<(Event<'b>, usize)> {
        if self.state == ConnectionState::Closed {
            return None;
        }
        let (event, used) = match frame::split(input, self.frame_limit()) {
            Ok(None) => return None,
            Ok(Some((frame, used))) => (self.accept(&frame, out), used),
            // The frames after an invalid one cannot be separated, so they are not read.
            Err(error) => (Err(error), 0),
        };
        let event = event.unwrap_or_else(|error| {
            self.close(error.status(), &error.to_string(), out);
            Event::Refused(error)
        });
        Some((event, used))
    }

    /// What both ends agreed on, while the connection is open.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreed> {
        match self.state {
            ConnectionState::Open(agreed) => Some(agreed),
            ConnectionState::Opening | ConnectionState::Closed => None,
        }
    }

    /// Whether nothing more must be read.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == ConnectionState::Closed
    }

    /// The largest frame that may come now, without the length, in bytes. A HELLO is short.
    #[must_use]
    pub fn frame_limit(&self) -> u32 {
        let opening = self.max_frame_size.min(frame::DEFAULT_SIZE);
        self.agreed().map_or(opening, |agreed| agreed.max_frame_size)
    }

    /// Closes the connection from the agent's end: appends an AGENT-DISCONNECT.
    pub fn close(&mut self, status: Status, message: &str, out: &mut Vec<u8>) {
        if self.state != ConnectionState::Closed {
            self.state = ConnectionState::Closed;
            disconnect::write(out, FrameType::AgentDisconnect, status, message);
        }
    }

    fn accept<'b>(
        &mut self,
        frame: &Frame<'b>,
        out: &mut Vec<u8>,
    ) -> Result<Event<'b>, FrameError> {
        // Unknown frames may be ignored (SPOE.txt section 3.2.2).
        let Some(kind) = frame.kind else { return Ok(Event::Skipped) };
        if !frame.fin {
            return Err(FrameError::Fragment);
        }
        // HAProxy does not wait for a response any more (SPOE.txt section 3.2).
        if frame.abort {
            return Ok(Event::Skipped);
        }
        if kind != FrameType::Notify && (frame.stream_id, frame.frame_id) != (0, 0) {
            return Err(FrameError::Ids);
        }
        match (kind, self.state) {
            (FrameType::HaproxyHello, ConnectionState::Opening) => {
                let hello = HaproxyHello::parse(frame.payload)?;
                let agreed = hello.agree(self.max_frame_size);
                agreed.write(out);
                if hello.healthcheck {
                    self.state = ConnectionState::Closed;
                    return Ok(Event::HealthCheck);
                }
                self.state = ConnectionState::Open(agreed);
                Ok(Event::Opened(agreed))
            }
            (FrameType::Notify, ConnectionState::Open(_)) => {
                Notify::parse(frame).map(Event::Notify)
            }
            (FrameType::HaproxyDisconnect, _) => {
                let event = Event::Closed(Disconnect::parse(frame.payload)?);
                self.close(Status::Normal, "as HAProxy wishes", out);
                Ok(event)
            }
            _ => Err(FrameError::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spop::{
        Value, client,
        frame::{DEFAULT_SIZE, MAX_SIZE},
        value::tests::any_value,
    };

    fn opened() -> (AgentSide, Vec<u8>) {
        let mut bytes = Vec::new();
        client::hello(&mut bytes, DEFAULT_SIZE, "pipelining", false);
        let mut side = AgentSide::new(DEFAULT_SIZE);
        let mut out = Vec::new();
        let (event, used) = side.next(&bytes, &mut out).unwrap();
        assert_eq!(event, Event::Opened(Agreed { max_frame_size: DEFAULT_SIZE, pipelining: true }));
        assert_eq!(used, bytes.len());
        (side, out)
    }

    fn notify(messages: &[(&[u8], &[client::Arg<'_>])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        client::notify(&mut bytes, (1, 2), DEFAULT_SIZE, messages).unwrap();
        bytes
    }

    /// A frame with this payload, flags and ids.
    fn raw(kind: u8, flags: u32, ids: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let body = [&[kind], &flags.to_be_bytes()[..], &ids, payload].concat();
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    fn status_of(out: &[u8]) -> u32 {
        let (frame, used) = frame::split(out, DEFAULT_SIZE).unwrap().unwrap();
        assert_eq!((frame.kind, used), (Some(FrameType::AgentDisconnect), out.len()));
        Disconnect::parse(frame.payload).unwrap().status
    }

    fn refused(side: &mut AgentSide, bytes: &[u8]) -> (FrameError, u32) {
        let mut out = Vec::new();
        let Some((Event::Refused(error), _)) = side.next(bytes, &mut out) else {
            panic!("not refused: {}", bytes.escape_ascii());
        };
        assert!(side.is_closed());
        (error, status_of(&out))
    }

    #[test]
    fn a_health_check_is_answered_and_closed() {
        let mut bytes = Vec::new();
        client::hello(&mut bytes, DEFAULT_SIZE, "", true);
        let (mut side, mut out) = (AgentSide::new(DEFAULT_SIZE), Vec::new());
        assert_eq!(side.next(&bytes, &mut out).unwrap().0, Event::HealthCheck);
        assert!(side.is_closed());
        let (frame, _) = frame::split(&out, DEFAULT_SIZE).unwrap().unwrap();
        assert_eq!(frame.kind, Some(FrameType::AgentHello));
    }

    #[test]
    fn several_messages_with_named_and_unnamed_arguments_are_read() {
        let bytes = notify(&[
            (b"one", &[(b"", Value::Int64(-1)), (b"", Value::Null), (b"a", Value::Str(b"\xff"))]),
            (b"empty", &[]),
            (b"two", &[(b"b", Value::Bool(true))]),
        ]);
        let (mut side, _) = opened();
        let Some((Event::Notify(notify), _)) = side.next(&bytes, &mut Vec::new()) else { panic!() };
        assert_eq!((notify.stream_id, notify.frame_id), (1, 2));
        let read: Vec<_> =
            notify.messages().map(|m| (m.name, m.args().collect::<Vec<_>>())).collect();
        assert_eq!(
            read,
            [
                (
                    &b"one"[..],
                    vec![
                        (&b""[..], Value::Int64(-1)),
                        (b"", Value::Null),
                        (b"a", Value::Str(b"\xff"))
                    ]
                ),
                (b"empty", vec![]),
                (b"two", vec![(b"b", Value::Bool(true))]),
            ]
        );
    }

    #[test]
    fn a_disconnect_is_answered() {
        let mut bytes = Vec::new();
        client::disconnect(&mut bytes, Status::Timeout, "slow");
        let (mut side, mut out) = (opened().0, Vec::new());
        let Some((Event::Closed(disconnect), _)) = side.next(&bytes, &mut out) else { panic!() };
        assert_eq!((disconnect.status, disconnect.message), (2, &b"slow"[..]));
        assert_eq!(status_of(&out), 0);
        assert_eq!(side.next(&notify(&[]), &mut out), None);
    }

    #[test]
    fn frames_out_of_turn_are_refused() {
        let hello = {
            let mut bytes = Vec::new();
            client::hello(&mut bytes, DEFAULT_SIZE, "", false);
            bytes
        };
        let invalid = Status::Invalid as u32;
        let want = (FrameError::Unexpected, invalid);
        assert_eq!(refused(&mut AgentSide::new(DEFAULT_SIZE), &notify(&[])), want);
        assert_eq!(refused(&mut opened().0, &hello), want);
        for kind in [101, 102, 103] {
            assert_eq!(refused(&mut opened().0, &raw(kind, 1, [0, 0], b"")), want);
        }
    }

    #[test]
    fn broken_frames_get_their_precise_status() {
        let notify = |payload: &[u8]| raw(3, 1, [1, 1], payload);
        for (bytes, error, status) in [
            (raw(3, 0, [1, 1], b""), FrameError::Fragment, Status::NoFragmentation),
            (raw(3, 1, [1, 0], b""), FrameError::Ids, Status::Invalid),
            (raw(2, 1, [1, 1], b""), FrameError::Ids, Status::Invalid),
            (raw(2, 1, [0, 0], b""), FrameError::NoStatus, Status::Invalid),
            (notify(b"\x05ab"), FrameError::Truncated, Status::Invalid),
            (notify(b"\x01a"), FrameError::Truncated, Status::Invalid),
            (notify(b"\x01a\x01\x00\x06\x7f\x00"), FrameError::Truncated, Status::Invalid),
            (notify(b"\x01a\x01\x00\xf8"), FrameError::Truncated, Status::Invalid),
            (notify(b"\x01a\x01\x00\x0a"), FrameError::Type, Status::Invalid),
            (notify(b"\x01a\x00\x01"), FrameError::Truncated, Status::Invalid),
            (vec![0, 0, 0, 1, 3], FrameError::Truncated, Status::Invalid),
            (vec![0, 0, 0, 0], FrameError::Truncated, Status::Invalid),
            (vec![0x40, 0, 0, 0, 3], FrameError::TooBig, Status::TooBig),
        ] {
            let found = refused(&mut opened().0, &bytes);
            assert_eq!(found, (error, status as u32), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_unknown_frame_type_is_ignored() {
        let bytes = raw(50, 1, [1, 1], b"anything");
        let (mut side, mut out) = (opened().0, Vec::new());
        assert_eq!(side.next(&bytes, &mut out), Some((Event::Skipped, bytes.len())));
        assert!(out.is_empty());
    }

    #[test]
    fn the_first_stream_of_a_process_is_number_zero() {
        let bytes = raw(3, 1, [0, 1], b"");
        let (mut side, mut out) = (opened().0, Vec::new());
        let Some((Event::Notify(notify), _)) = side.next(&bytes, &mut out) else { panic!() };
        assert_eq!((notify.stream_id, notify.frame_id), (0, 1));
    }

    #[test]
    fn an_aborted_notify_gets_no_response() {
        let bytes = raw(3, 3, [1, 1], b"\x01a\x00");
        let (mut side, mut out) = (opened().0, Vec::new());
        assert_eq!(side.next(&bytes, &mut out), Some((Event::Skipped, bytes.len())));
        assert!(out.is_empty());
    }

    #[test]
    fn the_negotiated_size_bounds_what_comes_after() {
        let mut bytes = Vec::new();
        client::hello(&mut bytes, 300, "", false);
        let mut side = AgentSide::new(DEFAULT_SIZE);
        side.next(&bytes, &mut Vec::new()).unwrap();
        assert_eq!(refused(&mut side, &[0, 0, 1, 45]).0, FrameError::TooBig);
    }

    #[test]
    fn q10_the_size_that_haproxy_offers_is_taken_up_to_the_bound() {
        for (offered, agreed) in [
            (DEFAULT_SIZE, DEFAULT_SIZE),
            (28_668, 28_668),
            (MAX_SIZE - 4, MAX_SIZE - 4),
            (MAX_SIZE, MAX_SIZE),
            (u32::MAX, MAX_SIZE),
        ] {
            let mut bytes = Vec::new();
            client::hello(&mut bytes, offered, "", false);
            let mut side = AgentSide::new(MAX_SIZE);
            side.next(&bytes, &mut Vec::new()).unwrap();
            assert_eq!(side.frame_limit(), agreed, "{offered}");
            assert_eq!(refused(&mut side, &(agreed + 1).to_be_bytes()).0, FrameError::TooBig);
        }
    }

    #[test]
    fn q10_before_the_hello_no_large_frame_is_waited_for() {
        let mut side = AgentSide::new(MAX_SIZE);
        let error = refused(&mut side, &(DEFAULT_SIZE + 1).to_be_bytes()).0;
        assert_eq!(error, FrameError::TooBig);
    }

    fn any_notify() -> impl Strategy<Value = Vec<u8>> {
        let arg = ("[a-z]{0,5}", any_value());
        let message = ("[a-z-]{0,8}", proptest::collection::vec(arg, 0..6));
        proptest::collection::vec(message, 0..4).prop_map(|messages| {
            let args: Vec<Vec<_>> = messages
                .iter()
                .map(|(_, args)| args.iter().map(|(n, v)| (n.as_bytes(), *v)).collect())
                .collect();
            let whole: Vec<_> =
                messages.iter().zip(&args).map(|((n, _), a)| (n.as_bytes(), &a[..])).collect();
            notify(&whole)
        })
    }

    /// Feeds bytes in chunks, as a socket would. Returns a description of each event.
    fn feed(chunks: &[&[u8]]) -> Vec<String> {
        let (mut side, mut buffer, mut events) = (opened().0, Vec::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some((event, used)) = side.next(&buffer, &mut Vec::new()) {
                events.push(format!("{event:?}"));
                buffer.drain(..used);
            }
        }
        events
    }

    proptest! {
        #[test]
        fn any_split_of_a_stream_gives_the_same_events(
            frames in proptest::collection::vec(any_notify(), 1..5),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes = frames.concat();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let events = feed(&chunks);
            prop_assert_eq!(events.len(), frames.len());
            prop_assert_eq!(events, feed(&[&bytes]));
        }

        #[test]
        fn any_bytes_end_in_events_and_never_in_a_panic(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8)
        ) {
            let chunks: Vec<_> = chunks.iter().map(|c| &c[..]).collect();
            feed(&chunks);
        }

        #[test]
        fn a_notify_with_one_byte_changed_is_read_or_refused(
            bytes in any_notify(), at in any::<prop::sample::Index>(), to: u8
        ) {
            let mut bytes = bytes;
            let at = at.index(bytes.len());
            bytes[at] = to;
            feed(&[&bytes]);
        }
    }
}
