//! HAProxy's configuration: read, judged, written, and tried.
//!
//! [`document`] reads the language, [`line`] one line of it, [`condition`] the conditions of rules, [`spoe`] the SPOE
//! file. [`lint`] finds dangerous mistakes, [`generate`] writes the files from facts of the agent's configuration, and
//! [`selftest`] tries a running gate from outside. Nothing here speaks to a HAProxy process: [`crate::haproxy`] does.

pub mod condition;
pub mod document;
pub mod generate;
pub mod line;
pub mod lint;
pub mod selftest;
mod shipped;
pub mod spoe;
