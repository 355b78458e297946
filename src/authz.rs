//! Authorization: whether a person, or a visitor without an identity, may reach an endpoint of a workspace.
//!
//! [`decision::decide`] is a pure function of the host, the identity and the workspaces: the gate, `explain` and the
//! tests run the same code. [`permission`] says what ownership, grants and admission permit; [`policy`] evaluates the
//! operator's Cedar policies after it; [`reason`] lists every outcome; [`limits`] are the operator's for all workspaces.
//!
//! Nothing here reads a request, a clock or the network. The invariant: everything that is not explicitly permitted is
//! refused.

pub mod decision;
pub mod limits;
pub mod permission;
pub mod policy;
pub mod reason;
