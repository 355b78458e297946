//! From a configuration to a gate: the one place where a gate is made.
//!
//! The running agent, the commands that inspect a configuration (`check`, `explain`, `doctor`) and a reload all build their
//! gate here, so that they decide alike. A reload keeps each part that is configured as before: an issuer keeps its keys
//! and cached tokens, the sources keep their workspaces. Sessions, revocations and metrics outlive every configuration.
//!
//! Whether a part is configured as before is told by values: its settings and the contents of the files that they name.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::{
    authz::policy::Policies,
    config::Config,
    diagnostics::Mistakes,
    fingerprint::Fingerprint,
    gate::{Gate, Metadata, Versions},
    identity::{
        cache::TokenCache,
        certificate::CertificateRule,
        issuers::Issuers,
        profile::Authority,
        provider::Provider,
        revocation::Revocations,
        settings::{IssuerInputs, IssuerSettings},
    },
    metrics::Metrics,
    sessions::{BrowserSessions, settings::Purpose},
    sign_in::Configured,
    sources::{WatchedSource, feeds::Feeds, settings::SourcesSettings},
    traces,
    workspaces::{pattern::HostPatterns, reconcile::lookup::Lookup, registry::Registry},
};

/// A gate with everything that it lives on.
pub(crate) struct Built {
    pub(crate) gate: Gate,
    /// The sources, none of which has delivered anything yet; `None` if a reload keeps those that run.
    pub(crate) feeds: Option<Feeds>,
    pub(crate) parts: Parts,
    /// The clients and pages of sign-in, if people sign in with a browser.
    pub(crate) sign_in: Option<Configured>,
}

/// The parts that a later configuration may keep, with what they were built from.
pub(crate) struct Parts {
    issuers: Vec<IssuerPart>,
    sources: SourceInputs,
}

struct IssuerPart {
    inputs: IssuerInputs,
    provider: Arc<Provider>,
}

/// All that the sources of workspaces are built from, with the contents of the files that are named.
#[derive(PartialEq)]
struct SourceInputs {
    settings: SourcesSettings,
    authorities: Vec<Fingerprint>,
}

/// The gate that decides while another is built, and its parts.
#[derive(Clone, Copy)]
pub(crate) struct Before<'b> {
    pub(crate) gate: &'b Gate,
    pub(crate) parts: &'b Parts,
}

/// What outlives every configuration of a running agent.
struct Durable {
    browser: Option<Arc<BrowserSessions>>,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
}

/// The workspaces as the gate sees them.
struct Workspaces {
    registry: Arc<Registry>,
    lookups: Vec<Option<Lookup>>,
    watched: Vec<WatchedSource>,
}

/// Builds the gate of the agent that starts. Must be called within the runtime.
pub(crate) fn start(config: &Config) -> anyhow::Result<Built> {
    first(config, Purpose::Run)
}

/// Builds the gate for a command that looks at a configuration. The files and stores of the running agent are not opened.
pub(crate) fn inspect(config: &Config) -> anyhow::Result<Built> {
    first(config, Purpose::Inspect)
}

fn first(config: &Config, purpose: Purpose) -> anyhow::Result<Built> {
    if config.traces.is_some() && !traces::BUILT_IN {
        bail!(
            "[traces]: this program was built without traces: build it with 'cargo build --release --features otel', or remove [traces]"
        );
    }
    let (issuers, parts) = issuers(config, None)?;
    let feeds = config.sources.build()?;
    let journal = config.admin.as_ref().map(|admin| admin.revocations.clone());
    // The running agent alone makes the file, and systemd its directory. For a command, a missing file has no
    // revocations; a file that it cannot look for is an error.
    let journal =
        journal.filter(|path| purpose == Purpose::Run || path.try_exists().unwrap_or(true));
    let revocations = Arc::new(Revocations::open(authorities(config), journal)?);
    let of_issuers = issuers.profiles().map(|profile| Arc::clone(&profile.authority)).collect();
    let sign_in = config.sign_in.as_ref().map(|settings| {
        let browser = settings.sessions.build(of_issuers, purpose)?;
        // Commands serve no pages and sign no person in, so they need no secret of a client.
        let configured = match purpose {
            Purpose::Run => Some(settings.build(&config.issuers, issuers.providers())?),
            Purpose::Inspect => None,
        };
        anyhow::Ok((Arc::new(browser), configured))
    });
    let (browser, sign_in) = sign_in.transpose()?.unzip();
    let sign_in = sign_in.flatten();
    let durable = Durable { browser, revocations, metrics: Arc::default() };
    let parts = Parts { issuers: parts, sources: SourceInputs::read(config)? };
    let certificates = config.certificates.clone();
    let gate = gate(config, durable, issuers, certificates, Workspaces::from_feeds(&feeds))?;
    Ok(Built { gate, feeds: Some(feeds), parts, sign_in })
}

/// Builds the gate of a changed configuration while the old one decides.
pub(crate) fn reload(config: &Config, before: Before<'_>) -> anyhow::Result<Built> {
    let known = before.gate;
    let (issuers, parts) = issuers(config, Some(before))?;
    let sources = SourceInputs::read(config)?;
    let feeds = if sources == before.parts.sources {
        None
    } else if sources.settings.has_hub() || before.parts.sources.settings.has_hub() {
        // The new source would listen where the old one still does, and would lack the routes that were reported there.
        bail!(
            "with a source of kind \"jupyterhub\", sources of workspaces (and [destinations]) can only change with a restart"
        );
    } else {
        Some(config.sources.build()?)
    };
    // A reload neither starts nor ends sign-in: its listener and its sessions need a restart.
    let settings = config.sign_in.as_ref().filter(|_| known.browser.is_some());
    let sign_in = settings.map(|settings| settings.build(&config.issuers, issuers.providers()));
    // A rule that did not change stays the same object: tunnels know the rule that let them in by that.
    let certificates = config
        .certificates
        .iter()
        .map(|rule| known.certificates.iter().find(|other| *other == rule).unwrap_or(rule).clone());
    let workspaces =
        feeds.as_ref().map_or_else(|| Workspaces::of_gate(known), Workspaces::from_feeds);
    let durable = Durable {
        browser: known.browser.clone(),
        revocations: Arc::clone(&known.revocations),
        metrics: Arc::clone(&known.metrics),
    };
    let gate = gate(config, durable, issuers, certificates.collect(), workspaces)?;
    let parts = Parts { issuers: parts, sources };
    Ok(Built { gate, feeds, parts, sign_in: sign_in.transpose()? })
}

/// Puts the parts of a gate together.
fn gate(
    config: &Config,
    durable: Durable,
    issuers: Arc<Issuers>,
    certificates: Vec<CertificateRule>,
    workspaces: Workspaces,
) -> anyhow::Result<Gate> {
    let Durable { browser, revocations, metrics } = durable;
    let Workspaces { registry, lookups, watched } = workspaces;
    let (policies, versions) = policies(config)?;
    Ok(Gate {
        patterns: patterns(config)?,
        token_locations: config.credentials.clone().map(Arc::new),
        metadata: metadata(config, &issuers),
        issuers,
        certificates,
        browser,
        revocations,
        registry,
        lookups,
        watched,
        limits: config.limits.clone(),
        policies,
        versions,
        metrics,
    })
}

impl Workspaces {
    fn from_feeds(feeds: &Feeds) -> Self {
        let registry = feeds.registry();
        Self { registry, lookups: feeds.lookups(), watched: feeds.watched() }
    }

    fn of_gate(gate: &Gate) -> Self {
        let registry = Arc::clone(&gate.registry);
        Self { registry, lookups: gate.lookups.clone(), watched: gate.watched.clone() }
    }
}

impl Parts {
    /// Whether this provider, and not only an equal one, is a part.
    pub(crate) fn has(&self, provider: &Arc<Provider>) -> bool {
        self.providers().any(|known| Arc::ptr_eq(known, provider))
    }

    /// The providers, in the order of the configuration.
    pub(crate) fn providers(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.issuers.iter().map(|part| &part.provider)
    }
}

/// Every issuer of identities: the issuers of tokens and the certificate rules.
pub(crate) fn authorities(config: &Config) -> Vec<Arc<Authority>> {
    let of_issuers = config.issuers.iter().map(|issuer| &issuer.profile.authority);
    let of_rules = config.certificates.iter().map(|rule| &rule.authority);
    of_issuers.chain(of_rules).cloned().collect()
}

/// The issuers with their providers; a provider that is configured as before stays.
fn issuers(
    config: &Config,
    before: Option<Before<'_>>,
) -> anyhow::Result<(Arc<Issuers>, Vec<IssuerPart>)> {
    let known = before.map(|before| before.parts.issuers.as_slice()).unwrap_or_default();
    let cache_size = config.agent.token_cache_size;
    let mut parts = Vec::new();
    let mut introspector = None;
    for issuer in &config.issuers {
        let profile = kept_profile(issuer, known);
        introspector = issuer.build_introspector(&profile, cache_size)?.or(introspector);
        let inputs = issuer.inputs()?;
        let provider = match known.iter().find(|part| part.inputs == inputs) {
            Some(part) => Arc::clone(&part.provider),
            None => Arc::new(issuer.build(profile)?),
        };
        parts.push(IssuerPart { inputs, provider });
    }
    // With all issuers as before their cache of verified tokens stays, too.
    if let Some(before) = before
        && known.iter().map(|part| &part.inputs).eq(parts.iter().map(|part| &part.inputs))
    {
        return Ok((Arc::clone(&before.gate.issuers), parts));
    }
    let cache = TokenCache::new(cache_size).context("the system gives no random numbers")?;
    let providers = parts.iter().map(|part| Arc::clone(&part.provider)).collect();
    let mut issuers = Issuers::new(providers, cache);
    if let Some(introspector) = introspector {
        issuers = issuers.with_introspector(introspector);
    }
    Ok((Arc::new(issuers), parts))
}

/// The profile of an issuer: the object of the running gate if it says the same, by which sessions and tunnels know it.
fn kept_profile(issuer: &IssuerSettings, known: &[IssuerPart]) -> Arc<crate::identity::Profile> {
    let same = known.iter().find(|part| *part.inputs.profile() == issuer.profile);
    Arc::clone(same.map_or(&issuer.profile, |part| part.provider.profile()))
}

fn patterns(config: &Config) -> anyhow::Result<HostPatterns> {
    HostPatterns::new(&config.hosts).map_err(|errors| {
        let errors: Vec<_> =
            errors.iter().map(|(n, e)| format!("[[host]] {}: {e}", n + 1)).collect();
        anyhow::anyhow!(errors.join("\n"))
    })
}

fn metadata(config: &Config, issuers: &Issuers) -> Option<Arc<Metadata>> {
    let servers = issuers.profiles().map(|profile| profile.issuer.as_str().into());
    let metadata = config
        .agent
        .resource_metadata
        .then(|| Metadata { authorization_servers: servers.collect() });
    metadata.map(Arc::new)
}

/// The policies, and the fingerprints of everything that decides.
fn policies(config: &Config) -> anyhow::Result<(Option<Arc<Policies>>, Versions)> {
    let policies = load_policies(config)?;
    let policy = policies.as_ref().and_then(Policies::hash);
    Ok((policies.map(Arc::new), Versions { config: config.fingerprint, policy }))
}

/// Reads the policies, if there are any.
///
/// # Errors
/// Every mistake in their files.
pub(crate) fn load_policies(config: &Config) -> Result<Option<Policies>, Mistakes> {
    let policies = config.policies.as_ref().map(Policies::load).transpose()?;
    // With several issuers, a policy that names a person without an issuer would be about strangers, too.
    if let Some(policies) = policies.as_ref().filter(|_| config.issuer_names().len() > 1) {
        policies.bound_to_issuers()?;
    }
    Ok(policies)
}

impl SourceInputs {
    fn read(config: &Config) -> anyhow::Result<Self> {
        let settings = config.sources.clone();
        Ok(Self { authorities: settings.authorities()?, settings })
    }
}
