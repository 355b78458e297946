//! From configured sources to running ones.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    config::{Config, SourceKind, document::Mistakes},
    workspace::{
        destination::resolver::Resolver,
        reconcile::status::Status,
        registry::{Publisher, Registry},
        source::file::FileSource,
    },
};

/// The sources of a configuration, in its order, with the registry they write into.
pub(super) struct Feeds {
    pub(super) registry: Arc<Registry>,
    resolver: Arc<Resolver>,
    feeds: Vec<Feed>,
}

struct Feed {
    name: Box<str>,
    status: Arc<Mutex<Status>>,
    kind: Kind,
}

enum Kind {
    File(FileSource),
}

impl Feeds {
    pub(super) fn new(config: &Config) -> Self {
        let resolver = Arc::new(Resolver::new(config.policy.ranges.clone()));
        let names: Vec<_> = config.sources.iter().map(|s| (&*s.name, s.rules)).collect();
        let registry = Arc::new(Registry::new(&names, Arc::clone(&resolver)));
        let issuers = config.issuer_names();
        let feeds = config.sources.iter().enumerate().map(|(number, source)| {
            let publisher = Publisher::new(Arc::clone(&registry), number);
            let kind = Kind::new(&source.kind, &issuers, publisher);
            Feed { name: source.name.clone(), status: Arc::default(), kind }
        });
        let feeds = feeds.collect();
        Self { registry, resolver, feeds }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// The mistakes in the first that is broken.
    pub(super) fn check_files(&mut self) -> Result<(), Mistakes> {
        for feed in &mut self.feeds {
            let Kind::File(file) = &mut feed.kind;
            file.load()?;
        }
        Ok(())
    }

    /// Asks every source once. Returns what each of those said that could not tell.
    pub(super) fn load(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        for feed in &mut self.feeds {
            match &mut feed.kind {
                Kind::File(file) => {
                    failures.extend(file.load().err().map(|mistakes| mistakes.to_string()));
                }
            }
        }
        failures
    }

    /// Reads the files: what they say holds from the first question on.
    pub(super) fn load_files(&mut self) {
        for feed in &mut self.feeds {
            let Kind::File(file) = &mut feed.kind;
            if let Err(mistakes) = file.load() {
                error!(
                    "the file of workspaces is broken, everything is refused until it is mended:\n{mistakes}"
                );
            }
        }
    }

    /// Starts the tasks that follow the sources.
    pub(super) fn spawn(self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        tasks.spawn(self.resolver.run(stop.clone()));
        for feed in self.feeds {
            match feed.kind {
                Kind::File(file) => tasks.spawn(file.run(stop.clone())),
            };
        }
    }
}

impl Kind {
    fn new(kind: &SourceKind, issuers: &BTreeSet<&str>, publisher: Publisher) -> Self {
        match kind {
            SourceKind::File(path) => Self::File(FileSource::new(path.clone(), issuers, publisher)),
        }
    }
}
