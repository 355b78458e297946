//! What the store calls things, and what it does as one step.

use aws_lc_rs::digest;
use redis::{Pipeline, Script};

use super::super::{Digest, store::Key};
use crate::sessions::store::name;

/// How many changes the store remembers, about; an agent that was away for longer reads everything.
const MAX_CHANGES: usize = 100_000;
/// The field of a change.
pub(super) const FIELD: &str = "c";

/// Names in the store. They all have one hash tag, so that a cluster keeps them together.
pub(super) struct Names(String);

/// What is done as one step (EVALSHA).
pub(super) struct Scripts {
    /// A new session with a cookie, or a cookie of one that has not ended.
    pub(super) keep: Script,
    /// A session anew, unless it has ended.
    pub(super) renew: Script,
    /// When sessions that have not ended were used last.
    pub(super) used: Script,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self(format!("{{{prefix}}}"))
    }

    pub(super) fn session(&self, key: &Key) -> String {
        format!("{}:s:{}", self.0, name(key))
    }

    pub(super) fn used(&self, key: &Key) -> String {
        format!("{}:u:{}", self.0, name(key))
    }

    pub(super) fn claim(&self, key: &Key) -> String {
        format!("{}:r:{}", self.0, name(key))
    }

    pub(super) fn handle(&self, digest: &Digest) -> String {
        format!("{}:h:{}", self.0, name(digest))
    }

    pub(super) fn taken(&self, id: &str) -> String {
        let digest = digest::digest(&digest::SHA256, id.as_bytes());
        format!("{}:t:{}", self.0, name(digest.as_ref()))
    }

    pub(super) fn changes(&self) -> String {
        format!("{}:changes", self.0)
    }

    pub(super) fn revocations(&self) -> String {
        format!("{}:revocations", self.0)
    }

    /// Everything whose name begins with a letter, as a pattern for SCAN.
    pub(super) fn all(&self, letter: char) -> String {
        format!("{}:{letter}:*", self.0)
    }

    /// The key in a name.
    pub(super) fn key<const N: usize>(&self, text: &str) -> Option<[u8; N]> {
        let (_, text) = text.strip_prefix(self.0.as_str())?.strip_prefix(':')?.split_once(':')?;
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text)
            .ok()?
            .try_into()
            .ok()
    }

    /// Adds a change to the stream.
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
        let keep = format!(
            "if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[3])
             elseif redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
             redis.call('SET', KEYS[2], ARGV[2], 'PXAT', ARGV[3])
             if KEYS[4] then redis.call('DEL', KEYS[4]) end
             {}
             return 1",
            add("KEYS[3]", "ARGV[4]")
        );
        let renew = format!(
            "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
             redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
             {}
             return 1",
            add("KEYS[2]", "ARGV[2]")
        );
        let used = format!(
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
        Self { keep: Script::new(&keep), renew: Script::new(&renew), used: Script::new(&used) }
    }
}
