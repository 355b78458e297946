//! From a configuration to a gate; the same for `run`, `explain` and `check`.

use std::sync::Arc;

use anyhow::Context as _;

use super::{feeds::Feeds, secrets};
use crate::{
    audit::Versions,
    clock::Timestamp,
    config::{self, Config},
    decision::Metadata,
    gate::Gate,
    identity::{
        cache::TokenCache,
        introspection::{Client, Introspector},
        issuers::Issuers,
        profile::Authority,
        provider::{Fetcher, Provider},
        revocation::Revocations,
    },
    policy::Policies,
    session::{
        self, Sessions, SignIn,
        page::Pages,
        seal::Sealer,
        shared::{self, Shared},
        store::Store,
    },
    workspace::pattern::HostPatterns,
};

/// A gate with everything that keeps it going.
pub(super) struct Built {
    pub(super) gate: Gate,
    pub(super) feeds: Feeds,
    /// The providers at which people sign in.
    pub(super) clients: Arc<[session::client::Client]>,
    /// What they see.
    pub(super) pages: Option<Pages>,
}

/// Builds the gate, without keys and workspaces yet, and the sources of its workspaces. `runs` says that it
/// is for the running agent.
pub(super) fn build(config: &Config, runs: bool) -> anyhow::Result<Built> {
    let mut providers = Vec::new();
    let mut introspector = None;
    let mut clients = Vec::new();
    for issuer in &config.issuers {
        let name = &issuer.profile.authority.name;
        let authority = match &issuer.authority {
            Some(path) => Some(std::fs::read(path).with_context(|| {
                format!("cannot read the ca_file {} of the issuer '{name}'", path.display())
            })?),
            None => None,
        };
        let fetcher = || {
            Fetcher::new(issuer.jwks_uri.clone(), authority.as_deref())
                .with_context(|| format!("the issuer '{name}'"))
        };
        let profile = Arc::clone(&issuer.profile);
        if let Some(about) = &issuer.introspection {
            let authentication = secrets::client_authentication(&about.key)
                .with_context(|| format!("[issuer.introspection] of the issuer '{name}'"))?;
            let endpoint = about.endpoint.as_deref().map(str::parse).transpose()?;
            let client_id = about.client_id.to_string();
            let client = Client::new(fetcher()?, client_id, authentication, endpoint);
            let profile = Arc::clone(&profile);
            let tokens = config.agent.tokens;
            introspector = Some(Introspector::new(profile, client, about.keep, tokens));
        }
        let provider = Provider::new(profile, issuer.schedule, fetcher()?);
        let provider = Arc::new(match &issuer.keys_file {
            Some(path) => provider.with_file(path.clone()),
            None => provider,
        });
        if let Some(client) = &issuer.client {
            let authentication = secrets::client_authentication(&client.key)
                .with_context(|| format!("[issuer.sign_in] of the issuer '{name}'"))?;
            clients.push(session::client::Client::new(
                Arc::clone(&provider),
                fetcher()?,
                client.id.to_string(),
                authentication,
                client.scopes.clone(),
                config.sign_in.as_ref().and_then(|about| about.refresh),
            ));
        }
        providers.push(provider);
    }
    let cache = TokenCache::new(config.agent.tokens).context("no random numbers to be had")?;
    let patterns = HostPatterns::new(&config.hosts).map_err(|errors| {
        let errors: Vec<_> =
            errors.iter().map(|(n, e)| format!("[[host]] {}: {e}", n + 1)).collect();
        anyhow::anyhow!(errors.join("\n"))
    })?;
    let feeds = Feeds::new(config)?;
    let lookups = feeds.lookups();
    let registry = Arc::clone(&feeds.registry);
    let mut issuers = Issuers::new(providers, cache);
    if let Some(introspector) = introspector {
        issuers = issuers.with_introspector(introspector);
    }
    let certificates = config.certificates.clone();
    let names = config.issuer_names().into_iter().map(Box::from).collect();
    let journal = config.admin.as_ref().map(|admin| admin.revocations.clone());
    let revocations = Arc::new(Revocations::open(names, journal)?);
    let policy = config.policy.clone();
    let sources = config.credentials.clone().map(Arc::new);
    let servers = issuers.profiles().map(|profile| profile.issuer.as_str().into());
    let metadata = config
        .agent
        .resource_metadata
        .then(|| Metadata { authorization_servers: servers.collect() });
    let metadata = metadata.map(Arc::new);
    let authorities: Vec<_> =
        issuers.profiles().map(|profile| Arc::clone(&profile.authority)).collect();
    let shared = config.shared.as_ref().filter(|_| runs);
    let sign_in = config.sign_in.as_ref().map(|about| sign_in(about, shared, authorities, runs));
    let sign_in = sign_in.transpose()?.map(Arc::new);
    let labels = config.issuers.iter().filter_map(|issuer| {
        let (name, client) = (&issuer.profile.authority.name, issuer.client.as_ref()?);
        Some((name.clone(), client.label.clone().unwrap_or_else(|| name.clone())))
    });
    let pages = config.sign_in.as_ref().map(|about| {
        Pages::load(about.pages.clone(), labels.collect()).context("the table [sign_in.pages]")
    });
    let pages = pages.transpose()?;
    let (policies, versions) = policies(config)?;
    let gate = Gate {
        patterns,
        issuers,
        sources,
        metadata,
        certificates,
        sign_in,
        revocations,
        registry,
        lookups,
        policy,
        policies,
        versions,
        metrics: Arc::default(),
    };
    Ok(Built { gate, feeds, clients: clients.into(), pages })
}

/// The policies, and the fingerprints of what decides.
fn policies(config: &Config) -> anyhow::Result<(Option<Arc<Policies>>, Versions)> {
    let policies = config.policies.as_ref().map(Policies::load).transpose()?;
    let policy = policies.as_ref().and_then(Policies::hash);
    Ok((policies.map(Arc::new), Versions { config: config.fingerprint, policy }))
}

/// Sessions and keys. The file or store of sessions is the running agent's; other commands need none.
fn sign_in(
    about: &config::SignIn,
    shared: Option<&config::Shared>,
    authorities: Vec<Arc<Authority>>,
    runs: bool,
) -> anyhow::Result<SignIn> {
    let path = about.keys.display();
    let sealer = Sealer::read_ring(&about.keys)
        .with_context(|| format!("the keys_file of [sign_in], {path}"))?;
    let sealer = Arc::new(sealer);
    let (lifetime, ring) = (about.lifetime, Arc::clone(&sealer));
    let shared = shared.map(|shared| share(shared, Arc::clone(&sealer))).transpose()?;
    let sessions = match (&shared, about.sessions.as_ref().filter(|_| runs)) {
        (Some(shared), _) => Sessions::shared(lifetime, Arc::clone(shared), ring, authorities),
        (None, Some(path)) => Store::open(path)
            .and_then(|store| Sessions::load(lifetime, store, ring, authorities, Timestamp::now()))
            .with_context(|| format!("the sessions_file {}", path.display()))?,
        (None, None) => Sessions::new(lifetime, ring),
    };
    Ok(SignIn { sessions: Arc::new(sessions), shared, sealer, places: about.places.clone() })
}

/// The store of several agents.
fn share(about: &config::Shared, sealer: Arc<Sealer>) -> anyhow::Result<Arc<Shared>> {
    let authority = about.authority.as_ref().map(|path| {
        std::fs::read(path)
            .with_context(|| format!("cannot read the ca_file {} of [shared]", path.display()))
    });
    let settings = shared::Settings {
        address: about.address.clone(),
        user: about.user.clone(),
        password: about.password.as_ref().map(secrets::password).transpose()?,
        authority: authority.transpose()?,
        prefix: about.prefix.clone(),
        keep: about.keep,
    };
    Ok(Arc::new(Shared::new(&settings, sealer).context("the store of [shared]")?))
}
