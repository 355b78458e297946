//! From a configuration to a gate; the same for `run`, `explain` and `check`, and for a configuration that follows
//! another while the agent runs.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::{feeds::Feeds, secrets};
use crate::{
    authz::policy::Policies,
    config::{self, Config, SourceKind},
    fingerprint::Fingerprint,
    gate::{Gate, Metadata, Versions},
    identity::{
        Profile,
        cache::TokenCache,
        certificate::CertificateRule,
        introspection::{IntrospectionClient, Introspector},
        issuers::Issuers,
        profile::Authority,
        provider::{FetchSchedule, Fetcher, Provider},
        revocation::Revocations,
    },
    metrics::Metrics,
    sessions::{
        BrowserSessions, Sessions,
        keyring::Keyring,
        store::{
            SessionStore,
            file::FileStore,
            memory::MemoryStore,
            redis::{RedisSettings, RedisStore},
        },
    },
    sign_in::{Configured, page::Pages},
    sources::WatchedSource,
    time::Timestamp,
    traces,
    workspaces::{
        destination::DestinationLimits, pattern::HostPatterns, reconcile::lookup::Lookup,
        registry::Registry,
    },
};
use std::collections::BTreeSet;
use std::path::PathBuf;
use url::Url;

/// What a gate is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The running agent, which has the file or store of sessions.
    Run,
    /// A command that looks at a configuration.
    Inspect,
}

/// A gate with everything that keeps it going.
pub(crate) struct Built {
    pub(crate) gate: Gate,
    pub(crate) feeds: Feeds,
    pub(crate) parts: Parts,
    /// The providers and pages of sign-in, where people sign in.
    pub(crate) sign_in: Option<Configured>,
}

/// A gate of a later configuration.
pub(crate) struct Rebuilt {
    pub(crate) gate: Gate,
    /// The sources, none of which has said anything yet, unless they are those before.
    pub(crate) feeds: Option<Feeds>,
    pub(crate) parts: Parts,
    /// The providers and pages of sign-in, where people sign in.
    pub(crate) sign_in: Option<Configured>,
}

/// What the parts were built from, for a later configuration that says the same of them.
pub(crate) struct Parts {
    issuers: Vec<IssuerPart>,
    sources: SourceSettings,
}

struct IssuerPart {
    settings: IssuerSettings,
    provider: Arc<Provider>,
}

/// All that an issuer's part is built from, with what is in the files that are named.
#[derive(PartialEq)]
struct IssuerSettings {
    profile: Arc<Profile>,
    jwks_uri: Option<Url>,
    authority: Option<Fingerprint>,
    introspection: Option<config::Introspection>,
    secret: Option<Fingerprint>,
    key_cache_file: Option<PathBuf>,
    schedule: FetchSchedule,
}

/// All that the sources of workspaces are built from, with what is in the files that are named.
#[derive(PartialEq)]
struct SourceSettings {
    sources: Vec<config::Source>,
    ranges: DestinationLimits,
    issuers: BTreeSet<Box<str>>,
    authorities: Vec<Fingerprint>,
}

/// What outlives a configuration of the running agent.
struct Durable {
    browser: Option<Arc<BrowserSessions>>,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
}

/// The workspaces, as the gate knows them.
struct Workspaces {
    registry: Arc<Registry>,
    lookups: Vec<Option<Lookup>>,
    watched: Vec<WatchedSource>,
}

/// The configuration that holds while another is built.
#[derive(Clone, Copy)]
pub(crate) struct Before<'b> {
    pub(crate) gate: &'b Gate,
    pub(crate) parts: &'b Parts,
}

/// Builds the gate, without keys and workspaces yet, and the sources of its workspaces.
pub(crate) fn build(config: &Config, purpose: Purpose) -> anyhow::Result<Built> {
    if config.traces.is_some() && !traces::BUILT_IN {
        bail!(
            "[traces]: this program was built without traces: build it with 'cargo build --release --features otel', or take [traces] away"
        );
    }
    let (issuers, issuer_parts) = issuers(config, None)?;
    let feeds = Feeds::new(config)?;
    let journal = config.admin.as_ref().map(|admin| admin.revocations.clone());
    let revocations = Arc::new(Revocations::open(authorities(config), journal)?);
    let authorities: Vec<_> =
        issuers.profiles().map(|profile| Arc::clone(&profile.authority)).collect();
    let sign_in = config.sign_in.as_ref().map(|about| {
        let redis = config.redis.as_ref();
        let browser = browser_sessions(about, redis, authorities, purpose)?;
        anyhow::Ok((Arc::new(browser), configured(config, about, &issuers)?))
    });
    let (browser, sign_in) = sign_in.transpose()?.unzip();
    let durable = Durable { browser, revocations, metrics: Arc::default() };
    let sources = SourceSettings::of(config)?;
    let certificates = config.certificates.clone();
    let gate = gate(config, durable, issuers, certificates, Workspaces::of(&feeds))?;
    Ok(Built { gate, feeds, parts: Parts { issuers: issuer_parts, sources }, sign_in })
}

/// Builds the gate of a later configuration of the running agent. What did not change goes on: keys,
/// cached tokens, workspaces, and always sessions and revocations.
pub(crate) fn rebuild(config: &Config, before: Before<'_>) -> anyhow::Result<Rebuilt> {
    let known = before.gate;
    let (issuers, issuer_parts) = issuers(config, Some(before))?;
    let sources = SourceSettings::of(config)?;
    let feeds = if sources == before.parts.sources {
        None
    } else if sources.has_hub() || before.parts.sources.has_hub() {
        // It listens where the one before still does, and knows what it was told there.
        bail!(
            "beside a source of kind \"jupyterhub\", sources of workspaces (and [destinations]) can only change with a restart"
        );
    } else {
        Some(Feeds::new(config)?)
    };
    // The sessions neither appear nor go without a restart.
    let about = config.sign_in.as_ref().filter(|_| known.browser.is_some());
    let sign_in = about.map(|about| configured(config, about, &issuers)).transpose()?;
    // A rule that is the same stays the same: tunnels are known by it.
    let certificates = config.certificates.iter();
    let certificates = certificates
        .map(|rule| known.certificates.iter().find(|other| *other == rule).unwrap_or(rule).clone());
    let workspaces = feeds.as_ref().map_or_else(|| Workspaces::of_gate(known), Workspaces::of);
    let durable = Durable {
        browser: known.browser.clone(),
        revocations: Arc::clone(&known.revocations),
        metrics: Arc::clone(&known.metrics),
    };
    let gate = gate(config, durable, issuers, certificates.collect(), workspaces)?;
    Ok(Rebuilt { gate, feeds, parts: Parts { issuers: issuer_parts, sources }, sign_in })
}

/// The gate of a configuration: the one place where it is made.
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
    fn of(feeds: &Feeds) -> Self {
        let registry = Arc::clone(&feeds.registry);
        Self { registry, lookups: feeds.lookups(), watched: feeds.watched() }
    }

    fn of_gate(gate: &Gate) -> Self {
        let registry = Arc::clone(&gate.registry);
        Self { registry, lookups: gate.lookups.clone(), watched: gate.watched.clone() }
    }
}

impl Parts {
    /// Whether this very provider is one of them.
    pub(crate) fn has(&self, provider: &Arc<Provider>) -> bool {
        self.providers().any(|known| Arc::ptr_eq(known, provider))
    }

    /// The providers.
    pub(crate) fn providers(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.issuers.iter().map(|part| &part.provider)
    }
}

/// All issuers of identities: providers and certificate rules.
pub(crate) fn authorities(config: &Config) -> Vec<Arc<Authority>> {
    let of_issuers = config.issuers.iter().map(|issuer| &issuer.profile.authority);
    let of_rules = config.certificates.iter().map(|rule| &rule.authority);
    of_issuers.chain(of_rules).cloned().collect()
}

/// The issuers with their providers; those of before where nothing about them changed.
fn issuers(
    config: &Config,
    before: Option<Before<'_>>,
) -> anyhow::Result<(Arc<Issuers>, Vec<IssuerPart>)> {
    let known = before.map(|before| before.parts.issuers.as_slice()).unwrap_or_default();
    let mut parts = Vec::new();
    let mut introspector = None;
    for issuer in &config.issuers {
        let name = &issuer.profile.authority.name;
        let authority = authority(issuer)?;
        let same = known.iter().find(|part| part.settings.profile == issuer.profile);
        let profile = same.map_or(&issuer.profile, |part| part.provider.profile());
        let fetcher = || {
            Fetcher::new(issuer.jwks_uri.clone(), authority.as_deref())
                .with_context(|| format!("the issuer '{name}'"))
        };
        let mut secret = None;
        if let Some(about) = &issuer.introspection {
            let context = || format!("[issuer.introspection] of the issuer '{name}'");
            let authentication =
                secrets::client_authentication(&about.key).with_context(context)?;
            secret = Some(secrets::fingerprint(&about.key).with_context(context)?);
            let endpoint = about.endpoint.as_deref().map(str::parse).transpose()?;
            let client_id = about.client_id.to_string();
            let client = IntrospectionClient::new(fetcher()?, client_id, authentication, endpoint);
            let profile = Arc::clone(profile);
            let tokens = config.agent.tokens;
            introspector = Some(Introspector::new(profile, client, about.keep, tokens));
        }
        let settings = IssuerSettings {
            profile: Arc::clone(&issuer.profile),
            jwks_uri: issuer.jwks_uri.clone(),
            authority: authority.as_deref().map(Fingerprint::of_bytes),
            introspection: issuer.introspection.clone(),
            secret,
            key_cache_file: issuer.key_cache_file.clone(),
            schedule: issuer.schedule,
        };
        let provider = if let Some(part) = known.iter().find(|part| part.settings == settings) {
            Arc::clone(&part.provider)
        } else {
            let provider = Provider::new(Arc::clone(profile), issuer.schedule, fetcher()?);
            Arc::new(match &issuer.key_cache_file {
                Some(path) => provider.with_file(path.clone()),
                None => provider,
            })
        };
        parts.push(IssuerPart { settings, provider });
    }
    if let Some(before) = before
        && known.iter().map(|part| &part.settings).eq(parts.iter().map(|part| &part.settings))
    {
        return Ok((Arc::clone(&before.gate.issuers), parts));
    }
    let cache = TokenCache::new(config.agent.tokens).context("no random numbers to be had")?;
    let providers = parts.iter().map(|part| Arc::clone(&part.provider)).collect();
    let mut issuers = Issuers::new(providers, cache);
    if let Some(introspector) = introspector {
        issuers = issuers.with_introspector(introspector);
    }
    Ok((Arc::new(issuers), parts))
}

/// Certificates of a private authority.
fn authority(issuer: &config::Issuer) -> anyhow::Result<Option<Vec<u8>>> {
    let name = &issuer.profile.authority.name;
    let read = issuer.authority.as_ref().map(|path| {
        std::fs::read(path).with_context(|| {
            format!("cannot read the ca_file {} of the issuer '{name}'", path.display())
        })
    });
    read.transpose()
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

impl SourceSettings {
    fn of(config: &Config) -> anyhow::Result<Self> {
        let mut authorities = Vec::new();
        for source in &config.sources {
            if let SourceKind::Hub(platform, ..)
            | SourceKind::Coder(platform, _)
            | SourceKind::Gitpod(platform, _)
            | SourceKind::Ona(platform, _) = &source.kind
                && let Some(path) = &platform.authority
            {
                let bytes = std::fs::read(path)
                    .with_context(|| format!("cannot read the ca_file {}", path.display()))?;
                authorities.push(Fingerprint::of_bytes(&bytes));
            }
        }
        let issuers = config.issuer_names().into_iter().map(Into::into).collect();
        let (sources, ranges) = (config.sources.clone(), config.limits.ranges.clone());
        Ok(Self { sources, ranges, issuers, authorities })
    }

    fn has_hub(&self) -> bool {
        self.sources.iter().any(|source| matches!(source.kind, SourceKind::Hub(..)))
    }
}

/// The providers at which people sign in, and the pages.
fn configured(
    config: &Config,
    about: &config::SignIn,
    issuers: &Issuers,
) -> anyhow::Result<Configured> {
    let mut clients = Vec::new();
    let mut labels = Vec::new();
    for (issuer, provider) in config.issuers.iter().zip(issuers.providers()) {
        let Some(client) = &issuer.client else { continue };
        let name = &issuer.profile.authority.name;
        let authentication = secrets::client_authentication(&client.key)
            .with_context(|| format!("[issuer.sign_in] of the issuer '{name}'"))?;
        let fetcher = Fetcher::new(issuer.jwks_uri.clone(), authority(issuer)?.as_deref())
            .with_context(|| format!("the issuer '{name}'"))?;
        clients.push(Arc::new(crate::sign_in::client::Client::new(
            Arc::clone(provider),
            fetcher,
            client.id.to_string(),
            authentication,
            client.scopes.clone(),
            about.refresh,
        )));
        labels.push((name.clone(), client.label.clone().unwrap_or_else(|| name.clone())));
    }
    let pages = Pages::load(about.pages.clone(), labels.into_iter().collect())
        .context("the table [sign_in.pages]")?;
    Ok(Configured { clients: clients.into(), pages: Arc::new(pages) })
}

/// The policies, and the fingerprints of what decides.
fn policies(config: &Config) -> anyhow::Result<(Option<Arc<Policies>>, Versions)> {
    let policies = config.policies.as_ref().map(Policies::load).transpose()?;
    if let Some(policies) = policies.as_ref().filter(|_| config.issuer_names().len() > 1) {
        policies.bound_to_issuers()?;
    }
    let policy = policies.as_ref().and_then(Policies::hash);
    Ok((policies.map(Arc::new), Versions { config: config.fingerprint, policy }))
}

/// Sessions and keys. The file or store of sessions is the running agent's; other commands need none.
fn browser_sessions(
    about: &config::SignIn,
    redis: Option<&config::Redis>,
    authorities: Vec<Arc<Authority>>,
    purpose: Purpose,
) -> anyhow::Result<BrowserSessions> {
    let path = about.keys.display();
    secrets::look_at(&about.keys);
    let keyring = Keyring::read(&about.keys)
        .with_context(|| format!("the encryption_keys_file of [sign_in], {path}"))?;
    let keyring = Arc::new(keyring);
    // Only the running agent uses the store: another command would be a second user of the file.
    let redis = redis.filter(|_| purpose == Purpose::Run);
    let redis = redis.map(|redis| redis_store(redis, Arc::clone(&keyring))).transpose()?;
    let file = about.sessions.as_ref().filter(|_| purpose == Purpose::Run);
    let store: Arc<dyn SessionStore> = match (&redis, file) {
        (Some(redis), _) => Arc::clone(redis) as _,
        (None, Some(path)) => {
            let store = FileStore::open(path, Arc::clone(&keyring));
            Arc::new(store.with_context(|| format!("the sessions_file {}", path.display()))?)
        }
        (None, None) => Arc::new(MemoryStore),
    };
    let (lifetime, now) = (about.lifetime, Timestamp::now());
    let sessions = Sessions::load(lifetime, store, Arc::clone(&keyring), authorities, now)
        .context("loading the sessions")?;
    let urls = about.urls.clone();
    Ok(BrowserSessions { sessions: Arc::new(sessions), redis, keyring, urls })
}

/// The store that several agents share.
fn redis_store(about: &config::Redis, keyring: Arc<Keyring>) -> anyhow::Result<Arc<RedisStore>> {
    let authority = about.authority.as_ref().map(|path| {
        std::fs::read(path)
            .with_context(|| format!("cannot read the ca_file {} of [redis]", path.display()))
    });
    let settings = RedisSettings {
        address: about.address.clone(),
        user: about.user.clone(),
        password: about.password.as_ref().map(secrets::password).transpose()?,
        authority: authority.transpose()?,
        prefix: about.prefix.clone(),
        max_staleness: about.max_staleness,
    };
    Ok(Arc::new(RedisStore::new(&settings, keyring).context("the store of [redis]")?))
}
