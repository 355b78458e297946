//! The composition root: builds every subsystem from a configuration, runs them, and replaces what a changed
//! configuration changes. The only module that knows all others.
//!
//! [`setup`] builds the gate, for `run` and for commands that explain it; `feeds` builds the sources of workspaces;
//! `secrets` reads what the configuration names; `tunnels` builds the table of tunnels; [`run`] starts everything and
//! ends it, and follows the configuration.

pub(crate) mod feeds;
pub mod record;
pub(crate) mod run;
pub(crate) mod secrets;
pub(crate) mod setup;
mod tunnels;
