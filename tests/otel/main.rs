//! `[traces]` of a program that was built with the feature `otel`: the spans of real requests at a collector.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests: a surprise must stop the test"
)]

mod traces;
