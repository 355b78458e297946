//! Locks that a panic does not close.
//!
//! std poisons a lock whose holder panicked, and each later caller gets an error instead of the guard. In the agent
//! that would turn the panic of one request into an outage of every workspace, so [`Mutex`], [`RwLock`] and
//! [`Condvar`] give the guard all the same. This is the one place that says what a poisoned lock means: some task
//! panicked, that task's work is lost, and the value is used as it was left. Code under a lock must be
//! written for that: do what can fail before the first change, and leave the value such that the next holder can work
//! with it. The queue of the audit log cannot promise it, as half a record may be in it: `audit` uses std's own lock
//! and mends the queue.
//!
//! The guards are std's, which clippy's `await_holding_lock` knows: none is held across an `await`.

use std::{
    sync::{self, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

/// A mutual exclusion lock, as [`std::sync::Mutex`] without poisoning.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock around a value.
    pub const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Waits until no other thread holds the lock, and takes it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock for many readers or one writer, as [`std::sync::RwLock`] without poisoning.
#[derive(Debug, Default)]
pub struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    /// Waits until no thread writes, and takes the lock for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other thread reads or writes, and takes the lock for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition to wait for under a [`Mutex`], as [`std::sync::Condvar`] without poisoning.
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    /// Wakes every thread that waits.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Lets the lock go until woken up, and takes it again.
    pub fn wait<'g, T>(&self, guard: MutexGuard<'g, T>) -> MutexGuard<'g, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the lock go until woken up, for `limit` at most, and takes it again.
    pub fn wait_timeout<'g, T>(
        &self,
        guard: MutexGuard<'g, T>,
        limit: Duration,
    ) -> MutexGuard<'g, T> {
        self.0.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::AssertUnwindSafe, thread};

    use super::*;

    /// Panics while `hold` has a guard, as a request that fails does.
    fn panic_under(hold: impl FnOnce()) {
        assert!(std::panic::catch_unwind(AssertUnwindSafe(hold)).is_err());
    }

    #[test]
    fn a_panic_under_a_lock_does_not_close_it() {
        let mutex = Mutex::new(1);
        panic_under(|| {
            let mut guard = mutex.lock();
            *guard = 2;
            panic!("under the lock");
        });
        assert_eq!(*mutex.lock(), 2);
        let lock = RwLock::<i32>::default();
        panic_under(|| {
            let mut guard = lock.write();
            *guard = 3;
            panic!("under the lock");
        });
        assert_eq!(*lock.read(), 3);
        *lock.write() = 4;
        assert_eq!(*lock.read(), 4);
    }

    #[test]
    fn a_wait_ends_by_notice_and_by_time_after_a_panic_too() {
        let (mutex, changed) = (Mutex::new(false), Condvar::default());
        panic_under(|| {
            let _guard = mutex.lock();
            panic!("under the lock");
        });
        assert!(!*changed.wait_timeout(mutex.lock(), Duration::from_millis(1)));
        thread::scope(|scope| {
            scope.spawn(|| {
                *mutex.lock() = true;
                changed.notify_all();
            });
            let mut done = mutex.lock();
            while !*done {
                done = changed.wait(done);
            }
        });
    }
}
