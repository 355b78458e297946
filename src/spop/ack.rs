//! ACK frames: actions (SPOE.txt sections 3.2.7 and 3.4).

use super::{
    FrameError, Value,
    frame::{self, FrameType, TooLong},
    parse::{bytes, finish, one},
    value::write_bytes,
};
use crate::spop::error::{Parsed, fail};

const SET_VAR: u8 = 1;
const UNSET_VAR: u8 = 2;
/// The offset of the scope in an encoded action.
const SCOPE: usize = 2;

/// The scope of a variable in HAProxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// The HAProxy process.
    Process = 0,
    /// The client's connection.
    Session = 1,
    /// The request and its response.
    Transaction = 2,
    /// The request.
    Request = 3,
    /// The response.
    Response = 4,
}

/// One action of an ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'b> {
    /// Sets a variable.
    Set(Scope, &'b [u8], Value<'b>),
    /// Unsets a variable.
    Unset(Scope, &'b [u8]),
}

/// Writes the actions of one ACK.
pub struct Actions<'o> {
    out: &'o mut Vec<u8>,
    /// The length of `out` at which the frame has its largest size.
    end: usize,
}

/// The position of an action in its ACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionPosition {
    start: usize,
    end: usize,
}

impl Actions<'_> {
    /// Sets a variable. HAProxy adds the engine's prefix to the name.
    pub fn set(&mut self, scope: Scope, name: &str, value: Value<'_>) {
        self.set_at(scope, name, value);
    }

    /// Sets a variable, and returns its position for [`Self::repeat`].
    pub fn set_at(&mut self, scope: Scope, name: &str, value: Value<'_>) -> ActionPosition {
        let start = self.out.len();
        self.out.extend_from_slice(&[SET_VAR, 3, scope as u8]);
        write_bytes(self.out, name.as_bytes());
        value.write(self.out);
        ActionPosition { start, end: self.out.len() }
    }

    /// Unsets a variable.
    pub fn unset(&mut self, scope: Scope, name: &str) {
        self.out.extend_from_slice(&[UNSET_VAR, 2, scope as u8]);
        write_bytes(self.out, name.as_bytes());
    }

    /// Sets a variable with the same name and value in another scope.
    pub fn repeat(&mut self, set: ActionPosition, scope: Scope) {
        let start = self.out.len();
        // INVARIANT: the position is one of this ACK, which only grows.
        if set.start <= set.end && set.end <= start {
            self.out.extend_from_within(set.start..set.end);
        }
        if let Some(copied) = self.out.get_mut(start.saturating_add(SCOPE)) {
            *copied = scope as u8;
        }
    }

    /// Writes further actions, or none if the frame would become too long. Returns whether they
    /// were written.
    pub fn attempt(&mut self, work: impl FnOnce(&mut Actions<'_>)) -> bool {
        let start = self.out.len();
        work(self);
        // Written first and taken back if it is too much: measuring it in advance would encode it
        // twice.
        let fits = self.out.len() <= self.end;
        if !fits {
            self.out.truncate(start);
        }
        fits
    }
}

/// Appends an ACK. If it would be longer than `max_size`, nothing is appended.
///
/// # Errors
/// The frame would be too long.
pub fn write(
    out: &mut Vec<u8>,
    ids: (u64, u64),
    max_size: u32,
    actions: impl FnOnce(&mut Actions<'_>),
) -> Result<(), TooLong> {
    let longest = usize::try_from(max_size).unwrap_or(usize::MAX);
    // `out` may have other frames before this one.
    let end = out.len().saturating_add(frame::LENGTH).saturating_add(longest);
    frame::write(out, FrameType::Ack, ids, max_size, |out| actions(&mut Actions { out, end }))
}

/// Reads the actions of an ACK's payload, as HAProxy would.
///
/// # Errors
/// An unknown action or scope, or a payload that ends too early.
pub fn parse(payload: &[u8]) -> Result<Vec<Action<'_>>, FrameError> {
    let mut rest = payload;
    let mut actions = Vec::new();
    while !rest.is_empty() {
        match action(rest) {
            Ok((input, action)) => {
                actions.push(action);
                rest = input;
            }
            Err(error) => return finish(Err(error)),
        }
    }
    Ok(actions)
}

fn action(input: &[u8]) -> Parsed<'_, Action<'_>> {
    let (input, kind) = one(input)?;
    let (input, count) = one(input)?;
    let (input, scope) = one(input)?;
    let scope = match scope {
        0 => Scope::Process,
        1 => Scope::Session,
        2 => Scope::Transaction,
        3 => Scope::Request,
        4 => Scope::Response,
        _ => return fail(FrameError::Action),
    };
    let (input, name) = bytes(input)?;
    match (kind, count) {
        (SET_VAR, 3) => {
            let (input, value) = Value::parse(input)?;
            Ok((input, Action::Set(scope, name, value)))
        }
        (UNSET_VAR, 2) => Ok((input, Action::Unset(scope, name))),
        _ => fail(FrameError::Action),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The actions of an ACK that sets two variables and tries to repeat one of them.
    fn written(max_size: u32) -> (bool, Vec<u8>) {
        let mut out = b"before".to_vec();
        let mut repeated = false;
        write(&mut out, (1, 2), max_size, |actions| {
            let one = actions.set_at(Scope::Transaction, "one", Value::Str(b"some text"));
            actions.set(Scope::Transaction, "two", Value::Bool(true));
            repeated = actions.attempt(|actions| {
                actions.unset(Scope::Session, "two");
                actions.repeat(one, Scope::Session);
            });
        })
        .unwrap();
        (repeated, out)
    }

    #[test]
    fn further_actions_are_written_whole_or_not_at_all() {
        let (_, long) = written(1000);
        let length = u32::try_from(long.len() - b"before".len() - frame::LENGTH).unwrap();
        for (size, fits) in [(1000, true), (length, true), (length - 1, false), (40, false)] {
            let (repeated, out) = written(size);
            let (frame, _) = frame::split(&out[b"before".len()..], size).unwrap().unwrap();
            let mut want = vec![
                Action::Set(Scope::Transaction, b"one", Value::Str(b"some text")),
                Action::Set(Scope::Transaction, b"two", Value::Bool(true)),
            ];
            if fits {
                want.push(Action::Unset(Scope::Session, b"two"));
                want.push(Action::Set(Scope::Session, b"one", Value::Str(b"some text")));
            }
            assert_eq!((repeated, parse(frame.payload).unwrap()), (fits, want), "{size}");
        }
    }
}
