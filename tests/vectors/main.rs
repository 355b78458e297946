//! Data-driven tests of the JWT verifier and the key-set parser: the examples of the RFCs, the
//! signature vectors of Wycheproof, and every small change of a token of our own.
//!
//! Each test counts what it judged and fails if that was nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests: a surprise must stop the test, and figures are printed"
)]

mod changes;
mod judge;
mod rfc;
mod wycheproof;
