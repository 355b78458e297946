//! The files of `haproxy/`, compiled in. Lint compares with them, and `haproxy generate` makes its files of them.

/// `haproxy/haproxy.cfg`
pub(crate) const GATE: &str = include_str!("../../haproxy/haproxy.cfg");
/// `haproxy/identity.spoe.cfg`
pub(crate) const SPOE: &str = include_str!("../../haproxy/identity.spoe.cfg");
