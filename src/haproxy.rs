//! The side of HAProxy: its configuration is read and judged here, and written.
//!
//! [`document`] knows the language, [`condition`] its rules' conditions, [`spoe`] the SPOE file; [`lint`]
//! finds dangerous mistakes, [`generate`] writes it from the agent's configuration. Nothing here talks to a running HAProxy.

pub mod condition;
pub mod document;
pub mod generate;
pub mod line;
pub mod lint;
pub mod spoe;
