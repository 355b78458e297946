//! From configured sources to running ones.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    backoff::jitter,
    config::{Config, Platform, SourceKind},
    diagnostics::{Mistake, Mistakes},
    lock::Mutex,
    sources::{
        WatchedSource,
        api::Leases,
        coder::Coder,
        file::{FileSource, KnownIssuer},
        gitpod::Gitpod,
        http::PlatformApi,
        hub::{
            Hub,
            server::{RouteApiSettings, Server},
        },
        kubernetes::Kubernetes,
        ona::Ona,
    },
    time::MonotonicTime,
    workspaces::{
        destination::{AllowedBackends, resolver::Resolver},
        directory::Directory,
        reconcile::{
            core::{ReconcileTiming, Reconciler},
            driver::Driver,
            lookup::Lookup,
            status::{SourceHealth, SourceStatus},
        },
        registry::{ListExtent, Publisher, Registry},
        source::{Source, SourceError, SourceId},
    },
};

/// The sources of a configuration, in its order, with the registry they write into.
pub(crate) struct Feeds {
    pub(crate) registry: Arc<Registry>,
    resolver: Arc<Resolver>,
    all: Vec<Feed>,
}

/// A source.
struct Feed {
    name: Box<str>,
    status: Arc<Mutex<SourceStatus>>,
    lookup: Option<Lookup>,
    kind: Kind,
}

enum Kind {
    File(FileSource),
    Api(Arc<Leases>),
    Hub(Follower<Hub>, RouteApiSettings),
    Coder(Follower<Coder>),
    Gitpod(Follower<Gitpod>),
    Kubernetes(Follower<Kubernetes>),
    Ona(Follower<Ona>),
}

/// A platform that is asked.
struct Follower<S> {
    driver: Driver<S>,
    publisher: Publisher,
}

impl Feeds {
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let resolver = Arc::new(Resolver::new(config.limits.ranges.clone()));
        let names: Vec<_> = config.sources.iter().map(|s| (&*s.name, s.rules)).collect();
        let registry = Arc::new(Registry::new(&names, Arc::clone(&resolver)));
        let issuers = config.issuer_names();
        let feeds = config.sources.iter().enumerate().map(|(number, source)| {
            let publisher = Publisher::new(Arc::clone(&registry), SourceId::new(number));
            let known = (&issuers, &config.limits.ranges.backends);
            Feed::new(&source.name, &source.kind, known, publisher)
                .with_context(|| format!("the source '{}'", source.name))
        });
        let all = feeds.collect::<Result<_, _>>()?;
        Ok(Self { registry, resolver, all })
    }

    /// What the administrator sees of the sources.
    pub(crate) fn watched(&self) -> Vec<WatchedSource> {
        let watched = self.all.iter().map(|feed| WatchedSource {
            name: feed.name.clone(),
            status: Arc::clone(&feed.status),
            leases: match &feed.kind {
                Kind::Api(leases) => Some(Arc::clone(leases)),
                _ => None,
            },
        });
        watched.collect()
    }

    /// Who resolves the names of destinations.
    pub(crate) fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(&self.resolver)
    }

    /// What requests for unknown workspaces ask through, by the numbers of the sources.
    pub(crate) fn lookups(&self) -> Vec<Option<Lookup>> {
        self.all.iter().map(|feed| feed.lookup.clone()).collect()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// The mistakes in the first that is broken.
    pub(crate) fn check_files(&mut self) -> Result<(), Mistakes> {
        self.files().try_for_each(FileSource::load)
    }

    /// What the files permit although it can have no effect.
    pub(crate) fn review_files(&mut self, issuers: &[KnownIssuer<'_>]) -> Vec<Mistake> {
        self.files().flat_map(|file| file.review(issuers)).collect()
    }

    /// Asks every source once. Returns what those said that could not tell.
    pub(crate) async fn load(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        for feed in &mut self.all {
            let name = &feed.name;
            let failed = match &mut feed.kind {
                Kind::File(file) => file.load().err().map(|mistakes| mistakes.to_string()),
                Kind::Api(_) | Kind::Hub(..) => {
                    Some("tells the running agent only: see `workspaces show`".to_owned())
                }
                Kind::Coder(follower) => follower.load().await,
                Kind::Gitpod(follower) => follower.load().await,
                Kind::Kubernetes(follower) => follower.load().await,
                Kind::Ona(follower) => follower.load().await,
            };
            failures.extend(failed.map(|failure| format!("source '{name}': {failure}")));
        }
        failures
    }

    /// Reads the files: what they say holds from the first question on.
    pub(crate) fn load_files(&mut self) {
        for file in self.files() {
            if let Err(mistakes) = file.load() {
                error!(
                    "reading the list of workspaces failed at the start, all requests for its workspaces are refused until the file is corrected:\n{mistakes}"
                );
            }
        }
    }

    fn files(&mut self) -> impl Iterator<Item = &mut FileSource> {
        self.all.iter_mut().filter_map(|feed| match &mut feed.kind {
            Kind::File(file) => Some(file),
            _ => None,
        })
    }

    /// Starts the tasks that follow the sources.
    ///
    /// # Errors
    /// A source cannot listen where it is to.
    pub(crate) fn spawn(
        self,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        tasks.spawn(self.resolver.run(stop.clone()));
        for feed in self.all {
            let stop = stop.clone();
            match feed.kind {
                Kind::File(file) => tasks.spawn(file.run(stop)),
                Kind::Api(leases) => tasks.spawn(leases.run(stop)),
                Kind::Hub(follower, listen) => {
                    let hub = Arc::clone(&follower.driver.source);
                    let server = Server::bind(&listen, hub).with_context(|| {
                        format!("the source '{}' cannot listen at {}", feed.name, listen.address)
                    })?;
                    tasks.spawn(server.serve(stop.clone()));
                    tasks.spawn(follower.driver.run(stop))
                }
                Kind::Coder(follower) => tasks.spawn(follower.driver.run(stop)),
                Kind::Gitpod(follower) => tasks.spawn(follower.driver.run(stop)),
                Kind::Kubernetes(follower) => tasks.spawn(follower.driver.run(stop)),
                Kind::Ona(follower) => tasks.spawn(follower.driver.run(stop)),
            };
        }
        Ok(())
    }
}

impl Feed {
    fn new(
        name: &str,
        kind: &SourceKind,
        (issuers, backends): (&BTreeSet<&str>, &AllowedBackends),
        publisher: Publisher,
    ) -> anyhow::Result<Self> {
        let mut status: Arc<Mutex<SourceStatus>> = Arc::default();
        let (lookup, kind) = match kind {
            SourceKind::File(path) => {
                let file = FileSource::new(path.clone(), issuers, backends.clone(), publisher);
                status = file.status();
                (None, Kind::File(file))
            }
            SourceKind::Api(longest) => {
                // What was not written does not exist: it knows all from the start.
                let live = SourceStatus { health: SourceHealth::Live, ..SourceStatus::default() };
                status = Arc::new(Mutex::new(live));
                (None, Kind::Api(Leases::new(publisher, *longest)))
            }
            SourceKind::Hub(platform, settings, listen) => {
                let source = Hub::new(api(platform, "token ")?, settings.clone());
                let (_, follower) = follow(source, platform.timing, publisher, &status);
                (None, Kind::Hub(follower, listen.clone()))
            }
            SourceKind::Coder(platform, settings) => {
                let source = Coder::new(api(platform, "Coder-Session-Token:")?, settings.clone());
                let (lookup, follower) = follow(source, platform.timing, publisher, &status);
                (Some(lookup), Kind::Coder(follower))
            }
            SourceKind::Gitpod(platform, settings) => {
                let source = Gitpod::new(api(platform, "Bearer ")?, settings.clone());
                let (lookup, follower) = follow(source, platform.timing, publisher, &status);
                (Some(lookup), Kind::Gitpod(follower))
            }
            SourceKind::Kubernetes(settings, timing) => {
                let source = Kubernetes::new(settings.clone());
                let (_, follower) = follow(source, *timing, publisher, &status);
                (None, Kind::Kubernetes(follower))
            }
            SourceKind::Ona(platform, settings) => {
                let source = Ona::new(api(platform, "Bearer ")?, settings.clone());
                let (lookup, follower) = follow(source, platform.timing, publisher, &status);
                (Some(lookup), Kind::Ona(follower))
            }
        };
        Ok(Self { name: name.into(), status, lookup, kind })
    }
}

fn api(platform: &Platform, scheme: &'static str) -> anyhow::Result<PlatformApi> {
    let authority = match &platform.authority {
        Some(path) => Some(
            std::fs::read(path)
                .with_context(|| format!("cannot read the ca_file {}", path.display()))?,
        ),
        None => None,
    };
    let credential = Some(platform.credential.clone());
    Ok(PlatformApi::new(platform.url.clone(), credential, scheme, authority.as_deref())?)
}

fn follow<S: Source>(
    source: S,
    timing: ReconcileTiming,
    publisher: Publisher,
    status: &Arc<Mutex<SourceStatus>>,
) -> (Lookup, Follower<S>) {
    let (lookup, lookups) = Lookup::new();
    let core = Reconciler::new(publisher.clone(), source.capabilities(), timing, jitter);
    let driver = Driver {
        source: Arc::new(source),
        core,
        lookup: lookup.clone(),
        lookups,
        status: Arc::clone(status),
    };
    (lookup, Follower { driver, publisher })
}

impl<S: Source> Follower<S> {
    /// Asks for everything once, for commands that need it just once. Returns why that failed, if so.
    async fn load(&mut self) -> Option<String> {
        self.ask().await.err().map(|error| error.to_string())
    }

    async fn ask(&mut self) -> Result<(), SourceError> {
        let (source, publisher) = (&self.driver.source, &self.publisher);
        let started = MonotonicTime::now();
        if source.capabilities().accounts {
            publisher.set_directory(Directory::new(source.accounts().await?));
        }
        publisher.complete(
            source.list().await?,
            started,
            MonotonicTime::now(),
            ListExtent::Snapshot,
        );
        publisher.confirm(started);
        Ok(())
    }
}
