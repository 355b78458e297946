//! Watching with `inotify(7)`.

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

/// What `path_resolution(7)` allows.
const MAX_LINKS: usize = 40;
/// How often the way is looked up again because it changed meanwhile.
const MAX_TRIES: usize = 5;
/// Of the file, or of a link. Its last name or one of several is taken away with `ATTRIB`.
const CHANGED: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF);
/// Of a directory in which a name is missing.
const APPEARED: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Watches until it is dropped.
pub struct Watcher {
    task: JoinHandle<()>,
    /// How often it was woken up.
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
        // First, so that what changes from here on is told again.
        if let Err(error) = watch.renew() {
            warn!(path = %watch.path.display(), %error, "watching a file failed: it is read every few seconds instead");
        }
        let _ = events.try_send(());
    }
}

struct Watch {
    inotify: Inotify,
    path: PathBuf,
    watched: BTreeSet<WatchDescriptor>,
    /// The directory in which a name is missing, and that name.
    missing: Option<(WatchDescriptor, OsString)>,
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Whether the file may be another one after this.
    fn concerns(&self, event: &InotifyEvent) -> bool {
        // The kernel has dropped a watch that we gave up, or one whose end it told before.
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            return false;
        }
        match (&self.missing, &event.name) {
            (Some((directory, missing)), Some(name)) if *directory == event.wd => name == missing,
            _ => true,
        }
    }

    /// Watches what is on the way now, and nothing else.
    fn renew(&mut self) -> io::Result<()> {
        for _ in 0..MAX_TRIES {
            let way = Way::to(&self.path)?;
            match self.add(&way) {
                Ok(()) => {}
                // Gone since.
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                Err(error) => return Err(error.into()),
            }
            if Way::to(&self.path)? == way {
                return Ok(());
            }
        }
        Ok(())
    }

    fn add(&mut self, way: &Way) -> nix::Result<()> {
        let mut watched = BTreeSet::new();
        for link in &way.links {
            let flags = CHANGED | AddWatchFlags::IN_DONT_FOLLOW;
            watched.insert(self.inotify.add_watch(link, flags)?);
        }
        self.missing = None;
        match &way.end {
            End::File(path) => {
                watched.insert(self.inotify.add_watch(path, CHANGED)?);
            }
            End::Missing(directory, name) => {
                let directory = self.inotify.add_watch(directory, APPEARED)?;
                watched.insert(directory);
                self.missing = Some((directory, name.clone()));
            }
        }
        for old in self.watched.difference(&watched) {
            // It may be gone already, with the file.
            let _ = self.inotify.rm_watch(*old);
        }
        self.watched = watched;
        Ok(())
    }
}

/// How a path leads to a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The symbolic links on it.
    pub(super) links: Vec<PathBuf>,
    pub(super) end: End,
}

/// Where a way ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The path of the file, without links.
    File(PathBuf),
    /// The directory that lacks a name, and the name.
    Missing(PathBuf, OsString),
}

impl Way {
    pub(super) fn to(path: &Path) -> io::Result<Self> {
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
                // Of the directory as it is by now, not of the path: `..` is one of its names.
                Ok(_) => here = next,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Self { links, end: End::Missing(here, name) });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { links, end: End::File(here) })
    }
}

/// The names of a path that are looked up one after the other.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}
