//! The integration tests: the program as it is run, in front of it a real HAProxy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::format_push_string,
    unreachable_pub,
    reason = "tests: a surprise must stop the test, and figures are printed"
)]

mod support;

mod app_tokens;
mod audit;
mod certificates;
mod cli;
mod conformance;
mod corpus;
mod credentials;
mod cross_origin;
mod destinations;
mod docs;
mod doctor;
mod fail_closed;
mod gate;
mod generate;
mod groups;
mod hygiene;
mod introspection;
mod keys;
mod layers;
mod lint;
mod log_messages;
mod login;
mod methods;
mod missing;
mod monitoring;
mod packages;
mod peers;
mod platforms;
mod policy;
mod providers;
mod reference;
mod refresh;
mod reload;
mod requests;
mod reuse;
mod revocation;
mod security_checklist;
mod selftest;
mod server;
mod shared;
mod shipped;
mod sign_in;
mod smuggling;
mod sources;
mod status;
mod streams;
mod terminal;
mod threat_model;
mod tokens;
mod traces;
mod tunnels;
mod wire;
