//! The composition root: makes every subsystem from its settings, wires them together and runs them. The only module that
//! knows all others.
//!
//! [`setup`] builds a gate from a configuration: for the running agent, for commands that inspect a configuration, and for
//! a changed configuration, next to the gate that decides. [`run`] starts everything in its order, follows the configuration
//! and ends everything. How a subsystem is made belongs to that subsystem (`…Settings::build`); here is only what one
//! needs of another. Nothing here decides about a request.

pub mod record;
pub(crate) mod run;
pub(crate) mod setup;
