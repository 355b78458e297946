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

/// Where a variable lives in HAProxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// The process.
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
    /// Set a variable.
    Set(Scope, &'b [u8], Value<'b>),
    /// Unset one.
    Unset(Scope, &'b [u8]),
}

/// Writes the actions of one ACK.
pub struct Actions<'o>(&'o mut Vec<u8>);

impl Actions<'_> {
    /// Sets a variable; HAProxy puts the engine's prefix before the name.
    pub fn set(&mut self, scope: Scope, name: &str, value: Value<'_>) {
        self.0.extend_from_slice(&[SET_VAR, 3, scope as u8]);
        write_bytes(self.0, name.as_bytes());
        value.write(self.0);
    }

    /// Unsets a variable.
    pub fn unset(&mut self, scope: Scope, name: &str) {
        self.0.extend_from_slice(&[UNSET_VAR, 2, scope as u8]);
        write_bytes(self.0, name.as_bytes());
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
    frame::write(out, FrameType::Ack, ids, max_size, |out| actions(&mut Actions(out)))
}

/// Reads the actions of an ACK's payload, as HAProxy would.
///
/// # Errors
/// An unknown action or scope, or a payload that is cut.
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
