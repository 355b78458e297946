//! The files of `haproxy/`, compiled in.

/// The gate.
pub(crate) const GATE: &str = include_str!("../../haproxy/haproxy.cfg");
/// The SPOE file.
pub(crate) const SPOE: &str = include_str!("../../haproxy/identity.spoe.cfg");
