//! The whole document: its tables, and what must hold between them.
//!
//! A check belongs here if it compares keys of two tables; what concerns one table alone is checked where that table is
//! declared. Each mistake is reported at the table in which a person would correct it.

use std::collections::{BTreeSet, HashSet};

use toml_span::Spanned;

use super::{
    Config,
    agent::{AdminTable, AgentTable, MetricsTable},
    audit_table::AuditTable,
    certificate::CertificateTable,
    hosts::{CredentialsTable, HostTable, RawHost},
    issuer::IssuerTable,
    kinds::{At, List, NonEmpty},
    policy_table::PolicyTable,
    redis::RedisTable,
    section::{Report, Section, table},
    sign_in::SignInTable,
    source::{RawSource, SourceTable},
    traces::TracesTable,
    tunnels::{Haproxy, HaproxyTable, TunnelsTable},
    workspaces::{AllWorkspaces, DestinationsTable, WorkspacesTable},
};
use crate::{
    diagnostics::{Format, mistake},
    identity::{certificate::CertificateRule, settings::IssuerSettings},
    sources::settings::{SourceKind, SourcesSettings},
    tunnels::settings::TrackingSettings,
    workspaces::{
        destination::{BackendName, DestinationLimits},
        host::Host,
        source::SourceId,
    },
};

table! {
    /// All tables of the configuration. Unknown keys are refused; paths are relative to the directory of the file.
    Document = "";
    /// How HAProxy reaches the agent.
    agent: required AgentTable;
    /// The issuers whose tokens are accepted.
    issuer: required NonEmpty<At<IssuerTable>>;
    /// Where a token may be besides the Authorization header.
    credentials: optional CredentialsTable;
    /// The client certificates that are accepted.
    certificate: optional List<At<CertificateTable>>;
    /// The hosts that are workspaces.
    host: required NonEmpty<HostTable>;
    /// What holds for all workspaces, and a list of workspaces in a file.
    workspaces: optional WorkspacesTable;
    /// The platforms that list workspaces.
    source: optional List<SourceTable>;
    /// Where requests may be sent.
    destinations: optional DestinationsTable;
    /// Policies that narrow or widen ownership: see docs/policy.md.
    policy: optional At<PolicyTable>;
    /// Where decisions and events are recorded.
    audit: optional AuditTable;
    /// How people sign in with a browser.
    sign_in: optional SignInTable;
    /// The Redis in which several agents share sessions and revocations.
    redis: optional At<RedisTable>;
    /// HAProxy's runtime API, by which live tunnels are tracked, and closed when access ends.
    haproxy: optional HaproxyTable;
    /// Limits of live tunnels.
    tunnels: optional At<TunnelsTable>;
    /// How administrators reach the agent.
    admin: optional AdminTable;
    /// Where metrics are served besides the admin socket.
    metrics: optional MetricsTable;
    /// Where spans of decisions are sent.
    traces: optional TracesTable;
}

impl Section for Document {
    type Value = Config;

    fn build(mut self, report: &mut Report) -> Option<Config> {
        let certificates = self.certificate.take().unwrap_or_default();
        let workspaces = self.workspaces.take().unwrap_or_default();
        let ranges = self.destinations.take().unwrap_or_default();
        let mut listed = self.source.take().unwrap_or_default();
        self.check_sources(&workspaces, &listed, report);
        self.check_features(report);
        self.check_login_host(report);
        report.extend(listed.iter().filter_map(|raw| check_backend(raw, &ranges)));
        if let Some(issuers) = &self.issuer {
            check_issuers(issuers, &certificates, report);
            let names = names(issuers, &certificates);
            report.extend(listed.iter_mut().filter_map(|source| source.join(&names).err()));
            if let (Some(policy), Some(name)) =
                (&self.policy, names.iter().find(|name| name.contains('/')))
            {
                let message = format!(
                    "policies call people \"ISSUER/SUBJECT\", so with [policy] the name {name:?} must have no '/'"
                );
                report.mistake_at(policy.span, message);
            }
        }
        let tunnels = self.tunnels.map(|tunnels| tunnels.value).unwrap_or_default();
        let tunnels = self.haproxy.map(|Haproxy { sockets, frontends }| TrackingSettings {
            sockets,
            limits: crate::tunnels::TunnelSettings { frontends, ..tunnels.limits },
            file: tunnels.file,
        });
        if let (Some(sign_in), Some(redis)) = (&mut self.sign_in, self.redis) {
            sign_in.sessions.redis = Some(redis.value);
        }
        let issuers: Vec<_> = self.issuer?.into_iter().map(|issuer| issuer.value).collect();
        let certificates: Vec<_> = certificates.into_iter().map(|rule| rule.value).collect();
        let of_issuers = issuers.iter().map(|issuer| &issuer.profile.authority);
        let authorities = of_issuers.chain(certificates.iter().map(|rule| &rule.authority));
        let sources = SourcesSettings {
            issuers: authorities.map(|authority| authority.name.clone()).collect(),
            ranges: ranges.clone(),
            sources: workspaces
                .file
                .iter()
                .cloned()
                .chain(listed.into_iter().map(|raw| raw.source))
                .collect(),
        };
        Some(Config {
            agent: self.agent?,
            issuers,
            credentials: self.credentials,
            certificates,
            hosts: self.host?.into_iter().map(|raw| raw.spec).collect(),
            limits: workspaces.limits(ranges),
            sources,
            policies: self.policy.map(|policy| policy.value),
            audit: self.audit.unwrap_or_default(),
            sign_in: self.sign_in,
            admin: self.admin,
            tunnels,
            metrics: self.metrics,
            traces: self.traces,
            fingerprint: None,
            file: String::new(),
            text: (String::new(), Format::Toml),
        })
    }
}

impl Document {
    /// Reports tables that need another table, or cannot be used with it.
    fn check_features(&self, report: &mut Report) {
        if self.agent.as_ref().is_some_and(|agent| agent.reuse.is_some())
            && self
                .credentials
                .as_ref()
                .is_some_and(|from| from.query.is_some() || from.subprotocol)
        {
            report.mistake(
                "'verdict_cache_ms' of [agent] cannot be used with 'query' or 'subprotocol' of [credentials]: HAProxy does not compare tokens there",
            );
        }
        if let (None, Some(tunnels)) = (&self.haproxy, &self.tunnels) {
            report.mistake_at(
                tunnels.span,
                "[tunnels] needs [haproxy] with 'sockets': without them no tunnel is tracked or closed",
            );
        }
        if let (Some(_), Some(issuers)) = (&self.sign_in, &self.issuer)
            && issuers.iter().all(|issuer| issuer.value.client.is_none())
        {
            report.mistake(
                "[sign_in] needs an issuer with a table [issuer.sign_in], at which people sign in",
            );
        }
        if let Some(redis) = &self.redis {
            match &self.sign_in {
                None => report.mistake_at(
                    redis.span,
                    "[redis] needs the table [sign_in], whose 'encryption_keys_file' encrypts what is shared",
                ),
                Some(sign_in) if sign_in.sessions.file.is_some() => report.mistake_at(
                    redis.span,
                    "sessions are either in the 'sessions_file' of [sign_in] or in [redis]",
                ),
                Some(_) => {}
            }
        }
    }

    /// Reports patterns of workspaces that the login host is one of: HAProxy passes the whole login host to the agent's
    /// pages, so no request would ever reach such a workspace.
    fn check_login_host(&self, report: &mut Report) {
        let Some(sign_in) = &self.sign_in else { return };
        let login = &*sign_in.sessions.urls.login;
        let Ok(host) = Host::parse(login.as_bytes()) else { return };
        for pattern in self.host.iter().flatten().filter(|pattern| pattern.has(&host)) {
            let message = format!(
                "the login host {login:?} is a host of workspaces by this pattern, but it serves only the agent's pages, so the workspace could not be reached: give [sign_in] another 'host' of the same registrable domain, or change the pattern"
            );
            report.mistake_at(pattern.span, message);
        }
    }

    /// Reports mistakes among the sources, and in hosts that name a source; such a host gets the source's number.
    fn check_sources(
        &mut self,
        workspaces: &AllWorkspaces,
        listed: &[RawSource],
        report: &mut Report,
    ) {
        let file = workspaces.file.as_ref();
        // With a mistake in the only source there would be a second message about none, which is misleading.
        if listed.is_empty() && !report.is_clean() {
            return;
        }
        if file.is_none() && listed.is_empty() {
            report.mistake("no workspaces: expected [workspaces] with 'file', or a [[source]]");
        }
        let is_api = |raw: &&RawSource| matches!(raw.source.kind, SourceKind::Api(_));
        if let Some(raw) = listed.iter().find(is_api).filter(|_| self.admin.is_none()) {
            report.mistake_at(
                raw.span,
                "a source of kind \"api\" needs the table [admin]: it is written through that socket",
            );
        }
        let mut names: Vec<&str> = file.iter().map(|file| &*file.name).collect();
        for raw in listed {
            let name = &*raw.source.name;
            if names.contains(&name) {
                let message = format!("the name {name:?} is used by another source already");
                report.mistake_at(raw.span, message);
            }
            names.push(name);
        }
        for RawHost { spec, source, .. } in self.host.iter_mut().flatten() {
            let Some(wanted) = source else { continue };
            spec.source = names.iter().position(|name| *name == wanted.value).map(SourceId::new);
            if spec.source.is_none() {
                let names = names.join(", ");
                let message =
                    format!("there is no source {:?}: expected one of {names}", wanted.value);
                report.mistake_at(wanted.span, message);
            }
        }
    }
}

/// The mistake in a source's template whose backend of HAProxy is not allowed.
fn check_backend(raw: &RawSource, ranges: &DestinationLimits) -> Option<toml_span::Error> {
    let checked = match raw.source.kind.template()?.backend()? {
        BackendName::Whole(name) => ranges.backends.check(name),
        BackendName::Prefix(prefix) => ranges.backends.check_prefix(prefix),
    };
    checked.err().map(|error| mistake(raw.span, error.to_string()))
}

/// The configured names of the issuers and certificate rules.
fn names<'r>(
    issuers: &'r [Spanned<IssuerSettings>],
    certificates: &'r [Spanned<CertificateRule>],
) -> BTreeSet<&'r str> {
    let of_issuers = issuers.iter().map(|issuer| &issuer.value.profile.authority);
    let all = of_issuers.chain(certificates.iter().map(|rule| &rule.value.authority));
    all.map(|authority| &*authority.name).collect()
}

/// Reports issuers and certificate rules that cannot be distinguished.
fn check_issuers(
    issuers: &[Spanned<IssuerSettings>],
    certificates: &[Spanned<CertificateRule>],
    report: &mut Report,
) {
    let name = |issuer: &IssuerSettings| vec![issuer.profile.authority.name.to_string()];
    refuse_repeated(issuers, "name", name, report);
    let mut seen: HashSet<_> = issuers.iter().flat_map(|issuer| name(&issuer.value)).collect();
    for rule in certificates {
        let name = rule.value.authority.name.to_string();
        if !seen.insert(name.clone()) {
            report.mistake_at(rule.span, format!("the name {name:?} is used more than once"));
        }
    }
    let asked = |issuer: &&Spanned<IssuerSettings>| issuer.value.introspection.is_some();
    for issuer in issuers.iter().filter(asked).skip(1) {
        report.mistake_at(
            issuer.span,
            "another issuer has 'introspection' already: an opaque token does not say which issuer it is from, so only one can be asked",
        );
    }
    let accepted = |issuer: &IssuerSettings| {
        issuer.profile.accepted.iter().map(|a| a.iss.to_string()).collect()
    };
    refuse_repeated(issuers, "issuer identifier", accepted, report);
}

/// Reports each issuer that has a key of an earlier one.
fn refuse_repeated(
    issuers: &[Spanned<IssuerSettings>],
    what: &'static str,
    keys: impl Fn(&IssuerSettings) -> Vec<String>,
    report: &mut Report,
) {
    let mut seen = HashSet::new();
    for issuer in issuers {
        if let Some(again) = keys(&issuer.value).into_iter().find(|key| !seen.insert(key.clone())) {
            let message = format!("the {what} {again:?} is used by another [[issuer]] already");
            report.mistake_at(issuer.span, message);
        }
    }
}
