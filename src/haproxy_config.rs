//! HAProxy's configuration: lint, generate and self-test, for operators (`identity-spoa haproxy …`).
//!
//! [`document`] reads the files, [`line`] one line, [`condition`] the conditions of rules, [`spoe`] the SPOE file.
//! [`lint`] finds dangerous mistakes, [`generate`] writes the files from facts of the agent's configuration, and
//! [`selftest`] tries a running gate from outside. Nothing here talks to a HAProxy process; [`crate::haproxy`] does.
//! [`room`] has the sizes of HAProxy's buffers, [`known_bugs`] the releases with bugs that people notice.
//! Lint and generate take the rules from the shipped files, which are compiled in: there is no second copy.

pub mod condition;
pub mod document;
pub mod generate;
pub mod known_bugs;
pub mod line;
pub mod lint;
pub mod room;
pub mod selftest;
mod shipped;
pub mod spoe;
