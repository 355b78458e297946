//! The entries that the audit log gets from the agent itself: its start and end, its reloads, and changes of issuers' keys.
//!
//! They let an auditor tell which configuration, policies and keys a decision was made by.

use crate::{
    audit::{AuditEvent, AuditRecord, JsonObject},
    fingerprint::Fingerprint,
    gate::Versions,
    time::Timestamp,
};

/// The key set of an issuer changed.
pub struct KeySetEvent<'a> {
    /// When.
    pub time: Timestamp,
    /// The configured name of the issuer.
    pub issuer: &'a str,
    /// The set that is used from now on.
    pub key_set: Fingerprint,
    /// The set before it; none at the start.
    pub before: Option<Fingerprint>,
    /// How many of its keys can verify tokens.
    pub keys: usize,
}

impl AuditRecord for KeySetEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = JsonObject::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(AuditEvent::KeySet);
        line.text("issuer", self.issuer);
        line.fingerprint("key_set", Some(self.key_set));
        line.fingerprint("before", self.before);
        line.number("keys", u64::try_from(self.keys).unwrap_or(u64::MAX));
        line.end();
    }
}

/// The agent started or ended, or accepted or refused a configuration.
pub struct AgentEvent<'a> {
    /// When.
    pub time: Timestamp,
    /// `start`, `reload`, `reload_refused` or `stop`.
    pub event: AuditEvent,
    /// The fingerprints of the configuration and policies that decide from now on.
    pub versions: Versions,
    /// The reason, or the keys that differ, in one line without secrets.
    pub note: Option<&'a str>,
}

impl AuditRecord for AgentEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = JsonObject::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(self.event);
        line.text("version", env!("CARGO_PKG_VERSION"));
        line.fingerprint("config", self.versions.config);
        line.fingerprint("policy", self.versions.policy);
        line.optional("note", self.note);
        line.end();
    }
}
