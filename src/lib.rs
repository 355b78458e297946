//! identity-spoa: a HAProxy SPOE agent that decides who may reach which cloud workspace.
//!
//! It is one program: HAProxy asks it about each request, it answers with variables, and HAProxy allows, denies and
//! routes by them. It is not a proxy, and it keeps no identities: those come from OpenID providers, workspaces from
//! platforms.
//!
//! # The way of a request
//!
//! ```text
//! HAProxy --NOTIFY--> agent -> request -> gate -> identity, sessions -> workspaces -> authz
//!                       |                                                               |
//!                       +--- ACK <-- variables <-- audit, metrics, traces <-- response -+
//! ```
//!
//! [`agent`] serves the connections of HAProxy and takes frames apart with [`spop`]; [`request`] reads a NOTIFY's
//! arguments. [`gate`] reads from the host which workspace it names, and authenticates: a token by [`identity`], a
//! browser's cookie by [`sessions`]. It looks the workspace up in [`workspaces`] and asks [`authz`] for the decision, a
//! pure function. Its record is in the buffer of [`audit`] before the response is sent; [`metrics`] and [`traces`] get it too. What is allowed and lasts is entered
//! into [`tunnels`], which decides about it again and closes it through [`haproxy`], the runtime API, when access ends. What
//! HAProxy may reuse for a moment is in [`verdict_cache`].
//!
//! A browser without a session is sent to [`sign_in`]: pages, and a client of each provider. [`admin`] is the
//! administrator's API.
//!
//! # The way of a configuration key
//!
//! [`config`] declares each key once. It reads `agent.toml` by these declarations with [`diagnostics`], which reports every
//! mistake with line and column; the JSON Schema and the reference are made of them, too. The values become the settings
//! of the module that uses them, which builds itself from its settings; a secret that they name is read by [`secret`].
//! [`app`] is the composition root: it wires the parts together, runs them, and when [`file_watch`] reports a changed file,
//! builds the next gate while the old one decides. [`cli`] has one file for each command. [`haproxy_config`] writes
//! HAProxy's configuration from the agent's, and finds mistakes in one.
//!
//! # The way of a workspace event
//!
//! [`sources`] has an adapter for each platform. It implements `workspaces::source::Source`; `workspaces::reconcile`
//! lists, follows and repairs, and publishes into `workspaces::registry`. Each request reads one snapshot of it. A change
//! wakes the rounds of [`tunnels`] and [`verdict_cache`], which ask [`gate`] again about everything that was allowed.
//!
//! # Who may import whom
//!
//! Each line may import only what stands below it; the test `layers` holds it.
//!
//! ```text
//! cli
//! app
//! config
//! haproxy_config
//! admin
//! agent
//! sign_in
//! tunnels
//! verdict_cache
//! gate
//! metrics
//! authz
//! sources
//! workspaces
//! sessions
//! identity
//! haproxy  audit  traces  request  spop  secret
//! diagnostics  file_watch  unix_socket  outbound  backoff  fingerprint  reaper  lock  time
//! ```
//!
//! [`unix_socket`] binds sockets with owner and mode, [`outbound`] has the HTTP client and its proxies, [`backoff`] has the pauses between attempts, [`fingerprint`] names
//! larger things in records, [`reaper`] frees large values away from requests, [`lock`] has locks that a panic does not
//! close, [`time`] has the clocks.

#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod app;
pub mod audit;
pub mod authz;
pub mod backoff;
pub mod cli;
pub mod config;
pub mod diagnostics;
pub mod file_watch;
pub mod fingerprint;
pub mod gate;
pub mod haproxy;
pub mod haproxy_config;
pub mod identity;
pub mod lock;
pub mod metrics;
pub mod outbound;
pub mod reaper;
pub mod request;
pub mod secret;
pub mod sessions;
pub mod sign_in;
pub mod sources;
pub mod spop;
pub mod time;
pub mod traces;
pub mod tunnels;
pub mod unix_socket;
pub mod verdict_cache;
pub mod workspaces;
