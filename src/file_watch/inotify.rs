//! Watches a file with `inotify(7)`.
//!
//! After each event the whole path is resolved again and its parts are watched again, so that no replaced link is missed.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::{io::unix::AsyncFd, sync::mpsc, task::JoinHandle};
use tracing::warn;

/// The maximum number of symbolic links on a path, as in `path_resolution(7)`.
const MAX_LINKS: usize = 40;
/// How often a path that changes while it is being watched is resolved again.
const MAX_TRIES: usize = 5;
/// The events of the file or of a link. `IN_ATTRIB` also reports that it lost one of its names.
const CHANGED: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF);
/// The events of a directory in which a name of the path is missing.
const APPEARED: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// A watched file; dropping it ends the watch.
pub struct Watcher {
    task: JoinHandle<()>,
    /// How often the task was woken up.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    pub(super) wakeups: Arc<AtomicU64>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn watch(path: &Path, events: mpsc::Sender<()>) -> io::Result<Watcher> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let mut watch =
        Watch { inotify, path: path.to_owned(), watched: BTreeSet::new(), missing: None };
    watch.renew()?;
    let wakeups = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&wakeups);
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe code; `Watch` keeps its descriptor open while it lives"
    )]
    let watch = AsyncFd::new(watch)?;
    let task = tokio::spawn(follow(watch, events, counted));
    Ok(Watcher { task, wakeups })
}

/// Sends an event for each change that concerns the file.
async fn follow(mut watch: AsyncFd<Watch>, events: mpsc::Sender<()>, wakeups: Arc<AtomicU64>) {
    loop {
        let Ok(mut ready) = watch.readable_mut().await else { return };
        let read = ready.try_io(|watch| Ok(watch.get_ref().inotify.read_events()?));
        let Ok(read) = read else { continue };
        wakeups.fetch_add(1, Ordering::Relaxed);
        let watch = ready.get_inner_mut();
        if let Ok(read) = &read
            && !read.iter().any(|event| watch.concerns(event))
        {
            continue;
        }
        // The watches are renewed before the event is sent, so that a change after it causes another event.
        if let Err(error) = watch.renew() {
            warn!(path = %watch.path.display(), %error, "watching a file failed: it is read every few seconds instead");
        }
        let _ = events.try_send(());
    }
}

/// The watches on one path.
struct Watch {
    inotify: Inotify,
    path: PathBuf,
    watched: BTreeSet<WatchDescriptor>,
    /// The directory that lacks a name of the path, and that name.
    missing: Option<(WatchDescriptor, OsString)>,
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Whether the file may have changed with this event.
    fn concerns(&self, event: &InotifyEvent) -> bool {
        // The kernel confirms the end of a watch, which was removed here or whose file is gone.
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            return false;
        }
        match (&self.missing, &event.name) {
            (Some((directory, missing)), Some(name)) if *directory == event.wd => name == missing,
            _ => true,
        }
    }

    /// Watches the parts of the path as it is now, and nothing else.
    fn renew(&mut self) -> io::Result<()> {
        for _ in 0..MAX_TRIES {
            let path = ResolvedPath::resolve(&self.path)?;
            match self.add(&path) {
                Ok(()) => {}
                // A part was removed after the path was resolved.
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                Err(error) => return Err(error.into()),
            }
            if ResolvedPath::resolve(&self.path)? == path {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Watches the parts of a path, and ends the watches of other files.
    fn add(&mut self, path: &ResolvedPath) -> nix::Result<()> {
        let mut watched = BTreeSet::new();
        for link in &path.links {
            let flags = CHANGED | AddWatchFlags::IN_DONT_FOLLOW;
            watched.insert(self.inotify.add_watch(link, flags)?);
        }
        self.missing = None;
        match &path.end {
            PathEnd::File(file) => {
                watched.insert(self.inotify.add_watch(file, CHANGED)?);
            }
            PathEnd::Missing(directory, name) => {
                let directory = self.inotify.add_watch(directory, APPEARED)?;
                watched.insert(directory);
                self.missing = Some((directory, name.clone()));
            }
        }
        for old in self.watched.difference(&watched) {
            // The watch may have ended already, together with its file.
            let _ = self.inotify.rm_watch(*old);
        }
        self.watched = watched;
        Ok(())
    }
}

/// A resolved path: its links, and the file or what is missing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResolvedPath {
    /// The symbolic links on the path.
    pub(super) links: Vec<PathBuf>,
    pub(super) end: PathEnd,
}

/// Where a resolved path ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PathEnd {
    /// The path of the file, without links.
    File(PathBuf),
    /// The directory that lacks a name, and the name.
    Missing(PathBuf, OsString),
}

impl ResolvedPath {
    /// Resolves a path as the kernel does, and notes the links.
    pub(super) fn resolve(path: &Path) -> io::Result<Self> {
        let mut links = Vec::new();
        let mut rest: VecDeque<OsString> = names(path).collect();
        let mut here = PathBuf::from(if path.is_absolute() { "/" } else { "." });
        while let Some(name) = rest.pop_front() {
            let next = here.join(&name);
            match next.symlink_metadata() {
                Ok(metadata) if metadata.is_symlink() => {
                    if links.len() == MAX_LINKS {
                        return Err(Errno::ELOOP.into());
                    }
                    let target = next.read_link()?;
                    links.push(next);
                    if target.is_absolute() {
                        here = "/".into();
                    }
                    for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                        rest.push_front(name);
                    }
                }
                // `..` is a name in the directory that the links led to, so the path is not shortened as a text.
                Ok(_) => here = next,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Self { links, end: PathEnd::Missing(here, name) });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { links, end: PathEnd::File(here) })
    }
}

/// The names of a path in the order in which they are looked up.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}
