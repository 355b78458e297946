//! Authorization: what a person, or an anonymous visitor, may do with a workspace.
//!
//! [`decision::decide`] is a pure function of the host, the identity and the workspaces. [`permission`] says what
//! ownership, grants and admission permit; [`policy`] asks the operator's Cedar policies after it; [`reason`] lists
//! every outcome; [`limits`] holds for all workspaces. Nothing here reads a request, a file or a clock.

pub mod decision;
pub mod limits;
pub mod permission;
pub mod policy;
pub mod reason;
