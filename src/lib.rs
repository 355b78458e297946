//! identity-spoa: a HAProxy SPOE agent that decides who may reach which cloud workspace.
//!
//! ```text
//! HAProxy --NOTIFY--> spop -> request -> identity -> workspace -> decision -> ACK --> HAProxy
//!                      |                    |            |            |
//!                    agent                keys        registry      audit
//! ```
//!
//! [`agent`] serves connections with [`spop`]; [`gate`] takes one [`request`] through [`identity`],
//! [`workspace`] and [`decision`], which asks the operator's [`policy`] where there is one; [`audit`] records what came of it, [`metrics`] counts it. [`tunnel`] follows
//! what lasts, and cuts it through [`haproxy`] when access ends; [`haproxy`] also reads and writes HAProxy's
//! configuration. [`admin`]
//! takes an administrator's words. [`cli`] and [`config`] put the parts together.

#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decision;
pub mod edge;
pub mod gate;
pub mod haproxy;
pub mod identity;
pub mod metrics;
pub mod policy;
pub mod reaper;
pub mod request;
pub mod session;
pub mod spop;
pub mod traces;
pub mod tunnel;
pub mod workspace;
