//! The running sources of a configuration, built from their settings.
//!
//! [`Feeds`] has one feed for each configured source, in the same order: the source itself, the task that follows it, how
//! it is doing, and the way to ask it about one workspace. All of them write into one registry. A command reads the files
//! or asks each platform once; the running agent spawns the tasks. Nothing here decides about requests.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    WatchedSource,
    api::Leases,
    coder::Coder,
    file::{self, FileSource, KnownIssuer},
    gitpod::Gitpod,
    http::PlatformApi,
    hub::{
        Hub,
        server::{RouteApiSettings, Server},
    },
    kubernetes::Kubernetes,
    ona::Ona,
    settings::{PlatformSettings, SourceKind, SourcesSettings},
};
use crate::{
    backoff::jitter,
    diagnostics::{Mistake, Mistakes},
    lock::Mutex,
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
pub struct Feeds {
    registry: Arc<Registry>,
    resolver: Arc<Resolver>,
    all: Vec<Feed>,
}

/// One source, ready to run.
struct Feed {
    name: Box<str>,
    status: Arc<Mutex<SourceStatus>>,
    /// How the source is asked about one workspace, where its platform can be.
    lookup: Option<Lookup>,
    kind: FeedKind,
}

enum FeedKind {
    File(FileSource),
    Api(Arc<Leases>),
    Hub(Follower<Hub>, RouteApiSettings),
    Coder(Follower<Coder>),
    Gitpod(Follower<Gitpod>),
    Kubernetes(Follower<Kubernetes>),
    Ona(Follower<Ona>),
}

/// A platform that is listed and followed over its API.
struct Follower<S> {
    driver: Driver<S>,
    publisher: Publisher,
}

impl SourcesSettings {
    /// The sources, none of which has delivered anything yet, and the registry that they write into.
    ///
    /// # Errors
    /// The certificates of a source cannot be read.
    pub fn build(&self) -> anyhow::Result<Feeds> {
        let Self { sources, ranges, issuers } = self;
        let resolver = Arc::new(Resolver::new(ranges.clone()));
        let names: Vec<_> =
            sources.iter().map(|source| (&*source.name, source.rules.clone())).collect();
        let registry = Arc::new(Registry::new(&names, Arc::clone(&resolver)));
        let issuers: BTreeSet<&str> = issuers.iter().map(|name| &**name).collect();
        let feeds = sources.iter().enumerate().map(|(number, source)| {
            let publisher = Publisher::new(Arc::clone(&registry), SourceId::new(number));
            let known = (&issuers, &ranges.backends);
            Feed::new(&source.name, &source.kind, known, publisher)
                .with_context(|| format!("the source '{}'", source.name))
        });
        let all = feeds.collect::<Result<_, _>>()?;
        Ok(Feeds { registry, resolver, all })
    }

    /// Every mistake in the lists of workspaces in files. Nothing is built or published.
    #[must_use]
    pub fn check_lists(&self) -> Mistakes {
        let issuers: BTreeSet<&str> = self.issuers.iter().map(|name| &**name).collect();
        let mut mistakes = Mistakes::default();
        for source in &self.sources {
            if let SourceKind::File(path) = &source.kind
                && let Err(found) = file::check(path, &issuers, &self.ranges.backends)
            {
                mistakes.extend(found);
            }
        }
        mistakes
    }
}

impl Feeds {
    /// The registry that all of them write into.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// The sources as the admin API shows them.
    #[must_use]
    pub fn watched(&self) -> Vec<WatchedSource> {
        let watched = self.all.iter().map(|feed| WatchedSource {
            name: feed.name.clone(),
            status: Arc::clone(&feed.status),
            leases: match &feed.kind {
                FeedKind::Api(leases) => Some(Arc::clone(leases)),
                _ => None,
            },
        });
        watched.collect()
    }

    /// What resolves the host names of destinations.
    #[must_use]
    pub fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(&self.resolver)
    }

    /// How each source is asked about one workspace, in the order of the sources.
    #[must_use]
    pub fn lookups(&self) -> Vec<Option<Lookup>> {
        self.all.iter().map(|feed| feed.lookup.clone()).collect()
    }

    /// Reads the lists in files, for commands and reloads that refuse a broken one.
    ///
    /// # Errors
    /// The mistakes in the first list that has any.
    pub fn check_files(&mut self) -> Result<(), Mistakes> {
        self.files().try_for_each(FileSource::load)
    }

    /// What the lists in files permit although it can have no effect.
    pub fn review_files(&mut self, issuers: &[KnownIssuer<'_>]) -> Vec<Mistake> {
        self.files().flat_map(|file| file.review(issuers)).collect()
    }

    /// Reads every source once, for commands. Returns a sentence for each that failed.
    pub async fn load(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        for feed in &mut self.all {
            let name = &feed.name;
            let failed = match &mut feed.kind {
                FeedKind::File(file) => file.load().err().map(|mistakes| mistakes.to_string()),
                FeedKind::Api(_) | FeedKind::Hub(..) => {
                    Some("its workspaces are known to the running agent only: use `identity-spoa workspaces show`".to_owned())
                }
                FeedKind::Coder(follower) => follower.load().await,
                FeedKind::Gitpod(follower) => follower.load().await,
                FeedKind::Kubernetes(follower) => follower.load().await,
                FeedKind::Ona(follower) => follower.load().await,
            };
            failures.extend(failed.map(|failure| format!("source '{name}': {failure}")));
        }
        failures
    }

    /// Reads the lists in files before the first request arrives. A broken list is logged: the agent starts all the same,
    /// and reads it again when it changes.
    pub fn load_files(&mut self) {
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
            FeedKind::File(file) => Some(file),
            _ => None,
        })
    }

    /// Starts the tasks that follow the sources, until `stop`.
    ///
    /// # Errors
    /// A source cannot listen at its address.
    pub fn spawn(self, tasks: &mut JoinSet<()>, stop: &CancellationToken) -> anyhow::Result<()> {
        tasks.spawn(self.resolver.run(stop.clone()));
        for feed in self.all {
            let stop = stop.clone();
            match feed.kind {
                FeedKind::File(file) => tasks.spawn(file.run(stop)),
                FeedKind::Api(leases) => tasks.spawn(leases.run(stop)),
                FeedKind::Hub(follower, listen) => {
                    let hub = Arc::clone(&follower.driver.source);
                    let server = Server::bind(&listen, hub).with_context(|| {
                        format!("the source '{}' cannot listen at {}", feed.name, listen.address)
                    })?;
                    tasks.spawn(server.serve(stop.clone()));
                    tasks.spawn(follower.driver.run(stop))
                }
                FeedKind::Coder(follower) => tasks.spawn(follower.driver.run(stop)),
                FeedKind::Gitpod(follower) => tasks.spawn(follower.driver.run(stop)),
                FeedKind::Kubernetes(follower) => tasks.spawn(follower.driver.run(stop)),
                FeedKind::Ona(follower) => tasks.spawn(follower.driver.run(stop)),
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
                (None, FeedKind::File(file))
            }
            SourceKind::Api(longest) => {
                // Nothing exists that was not written, so this source is complete from the start.
                let live = SourceStatus { health: SourceHealth::Live, ..SourceStatus::default() };
                status = Arc::new(Mutex::new(live));
                (None, FeedKind::Api(Leases::new(publisher, *longest)))
            }
            SourceKind::Hub(platform, settings, listen) => {
                let source = Hub::new(api(platform, "token ")?, settings.clone());
                let (_, follower) = follow(source, platform.timing, publisher, &status);
                (None, FeedKind::Hub(follower, listen.clone()))
            }
            SourceKind::Coder(platform, settings) => {
                let source = Coder::new(api(platform, "Coder-Session-Token:")?, settings.clone());
                let (lookup, follower) = follow(source, platform.timing, publisher, &status);
                (Some(lookup), FeedKind::Coder(follower))
            }
            SourceKind::Gitpod(platform, settings) => {
                let source = Gitpod::new(api(platform, "Bearer ")?, settings.clone());
                let (lookup, follower) = follow(source, platform.timing, publisher, &status);
                (Some(lookup), FeedKind::Gitpod(follower))
            }
            SourceKind::Kubernetes(settings, timing) => {
                let source = Kubernetes::new(settings.clone());
                let (_, follower) = follow(source, *timing, publisher, &status);
                (None, FeedKind::Kubernetes(follower))
            }
            SourceKind::Ona(platform, settings) => {
                let source = Ona::new(api(platform, "Bearer ")?, settings.clone());
                let (lookup, follower) = follow(source, platform.timing, publisher, &status);
                (Some(lookup), FeedKind::Ona(follower))
            }
        };
        Ok(Self { name: name.into(), status, lookup, kind })
    }
}

/// The client of a platform's API. `scheme` is what stands before the token in its header, or the header itself.
fn api(platform: &PlatformSettings, scheme: &'static str) -> anyhow::Result<PlatformApi> {
    let authority = platform.authority().transpose()?;
    let credential = Some(platform.credential.clone());
    Ok(PlatformApi::new(platform.url.clone(), credential, scheme, authority.as_deref())?)
}

/// What follows a platform, and the way to ask it about one workspace.
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
    /// Lists everything once, for commands. Returns why that failed, if it did.
    async fn load(&mut self) -> Option<String> {
        self.list_once().await.err().map(|error| error.to_string())
    }

    async fn list_once(&mut self) -> Result<(), SourceError> {
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
