//! The side of HAProxy: its configuration is read and judged here, and written.
//!
//! [`document`] knows the language, [`condition`] its rules' conditions, [`spoe`] the SPOE file; [`lint`]
//! finds dangerous mistakes, [`generate`] writes it from the agent's configuration. [`selftest`]
//! tries a running gate from outside.

pub mod condition;
pub mod document;
pub mod generate;
pub mod line;
pub mod lint;
pub mod selftest;
pub mod spoe;
