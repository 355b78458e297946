//! The processes of the integration tests' stage.

#![allow(dead_code, reason = "the integration tests use the rest")]

#[path = "../it/support/agent.rs"]
pub(crate) mod agent;
#[path = "../it/support/certificates.rs"]
pub(crate) mod certificates;
#[path = "../it/support/haproxy.rs"]
pub(crate) mod haproxy;
#[path = "../it/support/redis.rs"]
pub(crate) mod redis;
#[path = "../it/support/until.rs"]
pub(crate) mod until;

pub(crate) use agent::AgentProcess;
pub(crate) use haproxy::{Haproxy, Version};
pub(crate) use until::until;
