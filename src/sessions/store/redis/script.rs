//! The names of keys in Redis, and the Lua scripts that Redis runs as one step.
//!
//! A script writes only if the session is still there, and adds the change to the stream in the same step. So no agent
//! can bring back a session that another one ended at the same time, and no change is missing from the stream.

use aws_lc_rs::digest;
use redis::{Pipeline, Script};

use crate::sessions::{
    Digest,
    store::{Key, row_name},
};

/// About how many changes the stream holds. An agent that missed more reads everything.
const MAX_CHANGES: usize = 100_000;
/// The field of a stream entry that holds the change.
pub(super) const FIELD: &str = "c";

/// The names of keys. They all have one hash tag, so that a Redis cluster keeps them on one node, as scripts require.
pub(super) struct Names(String);

/// The scripts, called by EVALSHA.
pub(super) struct Scripts {
    /// Saves a new session with a cookie, or a cookie of a session that has not ended. Returns 0 if it has ended.
    pub(super) save: Script,
    /// Writes a refreshed session. Returns 0 if it has ended.
    pub(super) update: Script,
    /// Writes when sessions that have not ended were last used.
    pub(super) last_used: Script,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self(format!("{{{prefix}}}"))
    }

    pub(super) fn session(&self, key: &Key) -> String {
        format!("{}:s:{}", self.0, row_name(key))
    }

    pub(super) fn last_used(&self, key: &Key) -> String {
        format!("{}:u:{}", self.0, row_name(key))
    }

    pub(super) fn refresh_lock(&self, key: &Key) -> String {
        format!("{}:r:{}", self.0, row_name(key))
    }

    pub(super) fn cookie(&self, digest: &Digest) -> String {
        format!("{}:c:{}", self.0, row_name(digest))
    }

    pub(super) fn taken(&self, id: &str) -> String {
        let digest = digest::digest(&digest::SHA256, id.as_bytes());
        format!("{}:t:{}", self.0, row_name(digest.as_ref()))
    }

    pub(super) fn changes(&self) -> String {
        format!("{}:changes", self.0)
    }

    pub(super) fn revocations(&self) -> String {
        format!("{}:revocations", self.0)
    }

    /// The pattern for SCAN of all keys of one kind, which is a letter.
    pub(super) fn all(&self, letter: char) -> String {
        format!("{}:{letter}:*", self.0)
    }

    /// The session's key or the cookie's digest in the name of a key.
    pub(super) fn key<const N: usize>(&self, text: &str) -> Option<[u8; N]> {
        let (_, text) = text.strip_prefix(self.0.as_str())?.strip_prefix(':')?.split_once(':')?;
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text)
            .ok()?
            .try_into()
            .ok()
    }

    /// Adds a change to the stream, within a transaction.
    pub(super) fn add_change(&self, pipe: &mut Pipeline, change: &str) {
        let add = pipe.cmd("XADD").arg(self.changes());
        add.arg("MAXLEN").arg("~").arg(MAX_CHANGES).arg("*").arg(FIELD).arg(change).ignore();
    }
}

impl Default for Scripts {
    fn default() -> Self {
        let add = |keys: &str, change: &str| {
            format!(
                "redis.call('XADD', {keys}, 'MAXLEN', '~', '{MAX_CHANGES}', '*', '{FIELD}', {change})"
            )
        };
        let save = format!(
            "if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[3])
             elseif redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
             redis.call('SET', KEYS[2], ARGV[2], 'PXAT', ARGV[3])
             if KEYS[4] then redis.call('DEL', KEYS[4]) end
             {}
             return 1",
            add("KEYS[3]", "ARGV[4]")
        );
        let update = format!(
            "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
             redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
             {}
             return 1",
            add("KEYS[2]", "ARGV[2]")
        );
        let last_used = format!(
            "for i = 2, #ARGV do
               local session, used = KEYS[2 * i - 2], KEYS[2 * i - 1]
               local left = redis.call('PTTL', session)
               if left > 0 and tonumber(redis.call('GET', used) or '0') < tonumber(ARGV[i]) then
                 redis.call('SET', used, ARGV[i], 'PX', left)
               end
             end
             {}",
            add("KEYS[1]", "ARGV[1]")
        );
        Self {
            save: Script::new(&save),
            update: Script::new(&update),
            last_used: Script::new(&last_used),
        }
    }
}
