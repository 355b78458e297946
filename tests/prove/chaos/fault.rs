//! What goes wrong, and what the oracle must know of it.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::AsyncWriteExt as _;

use super::{platform::Mood, proxy::Way, scene::Scene};
use crate::{
    dev_idp::{Fault as Answer, Faults},
    support::Version,
    truth::{CLOCK, Clock},
};

/// What HAProxy is upgraded from, and to.
pub const OLD: &str = "2.6";
pub const NEW: &str = "3.4";

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    AgentKilled,
    AgentStopped,
    AgentRestarted,
    AgentNoDescriptors,
    AgentNoMemory,
    DiskFull,
    ClockAhead,
    ClockBehind,
    ProviderDown,
    ProviderSlow,
    ProviderWrongKeys,
    ProviderGarbage,
    ProviderEndless,
    ProviderRotating,
    StoreDown,
    StoreSlow,
    StoreFlushed,
    StorePartitioned,
    SourceDown,
    SourceSlow,
    SourceLying,
    SourceEndless,
    SourceHalfOpen,
    SourcePartitioned,
    HaproxyReloaded,
    HaproxyKilled,
    HaproxyUpgraded,
}

impl Fault {
    pub const ALL: [Self; 27] = [
        Self::AgentKilled,
        Self::AgentStopped,
        Self::AgentRestarted,
        Self::AgentNoDescriptors,
        Self::AgentNoMemory,
        Self::DiskFull,
        Self::ClockAhead,
        Self::ClockBehind,
        Self::ProviderDown,
        Self::ProviderSlow,
        Self::ProviderWrongKeys,
        Self::ProviderGarbage,
        Self::ProviderEndless,
        Self::ProviderRotating,
        Self::StoreDown,
        Self::StoreSlow,
        Self::StoreFlushed,
        Self::StorePartitioned,
        Self::SourceDown,
        Self::SourceSlow,
        Self::SourceLying,
        Self::SourceEndless,
        Self::SourceHalfOpen,
        Self::SourcePartitioned,
        Self::HaproxyReloaded,
        Self::HaproxyKilled,
        Self::HaproxyUpgraded,
    ];

    /// In the words of the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent killed",
            Self::AgentStopped => "agent stands still (SIGSTOP)",
            Self::AgentRestarted => "agent restarted",
            Self::AgentNoDescriptors => "agent out of descriptors, HAProxy reloads",
            Self::AgentNoMemory => "agent out of memory",
            Self::DiskFull => "disk of audit trail and journal full",
            Self::ClockAhead => "clock jumps an hour ahead",
            Self::ClockBehind => "clock jumps an hour back",
            Self::ProviderDown => "provider down",
            Self::ProviderSlow => "provider slow (3 s)",
            Self::ProviderWrongKeys => "provider publishes wrong keys",
            Self::ProviderGarbage => "provider's keys are garbage",
            Self::ProviderEndless => "provider's keys are huge",
            Self::ProviderRotating => "provider rotates every second",
            Self::StoreDown => "Redis down, back empty",
            Self::StoreSlow => "Redis slow (300 ms)",
            Self::StoreFlushed => "Redis flushed",
            Self::StorePartitioned => "Redis partitioned",
            Self::SourceDown => "platform down",
            Self::SourceSlow => "platform slow (3 s)",
            Self::SourceLying => "platform's lists are garbage",
            Self::SourceEndless => "platform's lists are huge",
            Self::SourceHalfOpen => "platform's stream half-open",
            Self::SourcePartitioned => "platform partitioned",
            Self::HaproxyReloaded => "HAProxy reloaded",
            Self::HaproxyKilled => "HAProxy killed",
            Self::HaproxyUpgraded => "HAProxy upgraded from 2.6 to 3.4",
        }
    }

    /// What it befalls; two faults of one kind are no pair.
    pub fn victim(self) -> &'static str {
        match self {
            Self::DiskFull => "disk",
            Self::ClockAhead | Self::ClockBehind => "clock",
            other => other.name().split([' ', '\'']).next().unwrap_or_default(),
        }
    }

    /// Whether it is over as soon as it happened: what follows is recovery.
    pub fn is_over_at_once(self) -> bool {
        matches!(
            self,
            Self::AgentKilled
                | Self::AgentRestarted
                | Self::StoreFlushed
                | Self::HaproxyReloaded
                | Self::HaproxyKilled
                | Self::HaproxyUpgraded
        )
    }

    /// How long it lasts when it is alone.
    pub fn lasts(self) -> Duration {
        let seconds = match self {
            // Until its workspaces are stale, and longer.
            Self::SourceDown
            | Self::SourceLying
            | Self::SourceEndless
            | Self::SourcePartitioned
            | Self::SourceHalfOpen => 22,
            // Longer than sessions are kept without it.
            Self::StoreDown | Self::StorePartitioned => 9,
            _ => 5,
        };
        Duration::from_secs(seconds)
    }

    /// What must be so before it begins, and is not counted.
    pub async fn prepare(self, scene: &Arc<Scene>) {
        match self {
            Self::ClockAhead | Self::ClockBehind => {
                scene.agent.lock().unwrap().faked.clone_from(&scene.faketime);
                restart(scene).await;
            }
            Self::HaproxyUpgraded => {
                let mut haproxy = scene.haproxy.lock().await;
                replace(&mut haproxy, OLD).await;
            }
            _ => {}
        }
    }

    #[allow(clippy::too_many_lines, reason = "an arm for each fault")]
    pub async fn begin(self, scene: &Arc<Scene>) {
        let far = Instant::now() + Duration::from_hours(1);
        let faults =
            |discovery: Answer, jwks: Answer| Faults { discovery, jwks, ..Faults::default() };
        match self {
            Self::AgentKilled => scene.agent.lock().unwrap().signal("KILL"),
            Self::AgentStopped => {
                scene.disturb(far);
                scene.agent.lock().unwrap().signal("STOP");
            }
            Self::AgentRestarted => restart(scene).await,
            Self::AgentNoDescriptors => {
                limit(scene, |pid| {
                    let used =
                        std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
                    format!("--nofile={used}:")
                });
                scene.haproxy.lock().await.reload();
            }
            Self::AgentNoMemory => {
                limit(scene, |pid| {
                    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
                    let status = status.unwrap_or_default();
                    let used = status.lines().find_map(|line| line.strip_prefix("VmData:"));
                    let used = used.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
                    format!("--data={}", (used.unwrap_or(0_u64) + 1024) * 1024)
                });
                demand_memory(scene).await;
            }
            Self::DiskFull => {
                let Some(disk) = scene.disk.clone() else { return };
                tokio::task::spawn_blocking(move || {
                    let of = format!("of={}", disk.join("filler").display());
                    // Until no byte fits.
                    let _ = Command::new("dd").args(["if=/dev/zero", &of, "bs=1M"]).output();
                    let of = format!("of={}", disk.join("filler2").display());
                    let _ = Command::new("dd").args(["if=/dev/zero", &of, "bs=1k"]).output();
                })
                .await
                .unwrap();
            }
            Self::ClockAhead => clock(scene, Clock::Ahead, "+1h"),
            Self::ClockBehind => clock(scene, Clock::Behind, "-1h"),
            Self::ProviderDown => scene.idp.lock().await.halt(),
            Self::ProviderSlow => {
                let slow = Answer::Slow(3000);
                scene.idp.lock().await.set_faults(faults(slow.clone(), slow));
            }
            Self::ProviderWrongKeys => {
                // What the provider says is what is true.
                scene.world.keys().counts.begin(false);
                scene.idp.lock().await.set_faults(faults(Answer::Ok, Answer::WrongKeys));
            }
            Self::ProviderGarbage => {
                scene.idp.lock().await.set_faults(faults(Answer::Garbage, Answer::Garbage));
            }
            Self::ProviderEndless => {
                scene.idp.lock().await.set_faults(faults(Answer::Ok, Answer::Oversize));
            }
            Self::ProviderRotating => {
                let scene = Arc::clone(scene);
                for _ in 0..4 {
                    {
                        let idp = scene.idp.lock().await;
                        let late = Duration::from_secs(66);
                        scene.world.rotate(&idp, false, &mut None, late);
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Self::StoreDown => {
                scene.doubt_sessions();
                scene.store.lock().await.kill();
                scene.to_store.set(Way::Cut);
            }
            Self::StoreSlow => scene.to_store.set(Way::Slow(Duration::from_millis(300))),
            Self::StoreFlushed => {
                scene.doubt_sessions();
                scene.store.lock().await.ask::<()>("FLUSHALL").await;
            }
            Self::StorePartitioned => scene.to_store.set(Way::Silent),
            Self::SourceDown => {
                scene.disturb(far);
                scene.to_platform.set(Way::Cut);
            }
            Self::SourceSlow => {
                scene.disturb(far);
                scene.platform.set(Mood::Slow(Duration::from_secs(3)));
            }
            Self::SourceLying => {
                scene.disturb(far);
                scene.platform.set(Mood::Garbage);
                scene.to_platform.set(Way::HalfOpen);
            }
            Self::SourceEndless => {
                scene.disturb(far);
                scene.platform.set(Mood::Endless);
                scene.to_platform.set(Way::HalfOpen);
            }
            Self::SourceHalfOpen => {
                scene.disturb(far);
                scene.to_platform.set(Way::HalfOpen);
            }
            Self::SourcePartitioned => {
                scene.disturb(far);
                scene.to_platform.set(Way::Silent);
            }
            Self::HaproxyReloaded => scene.haproxy.lock().await.reload(),
            Self::HaproxyKilled => {
                let mut haproxy = scene.haproxy.lock().await;
                haproxy.signal("KILL");
                while !haproxy.has_ended() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let next = haproxy.another(&version(NEW), "").await;
                *haproxy = next;
            }
            Self::HaproxyUpgraded => {
                let mut haproxy = scene.haproxy.lock().await;
                replace(&mut haproxy, NEW).await;
            }
        }
    }

    pub async fn end(self, scene: &Arc<Scene>) {
        // What the platform said meanwhile is asked for after a pause of its source, 16 s at most.
        let heard = |seconds| {
            *scene.disturbed.lock().unwrap() = Instant::now() + Duration::from_secs(seconds);
        };
        match self {
            Self::AgentKilled | Self::AgentRestarted => heard(2),
            Self::AgentNoMemory => {
                limit(scene, |_| "--data=unlimited".into());
                heard(2);
            }
            Self::AgentStopped => {
                scene.agent.lock().unwrap().signal("CONT");
                heard(2);
            }
            Self::AgentNoDescriptors => limit(scene, |_| "--nofile=1024:".into()),
            Self::DiskFull => {
                if let Some(disk) = &scene.disk {
                    let _ = std::fs::remove_file(disk.join("filler"));
                    let _ = std::fs::remove_file(disk.join("filler2"));
                }
            }
            Self::ClockAhead | Self::ClockBehind => {
                clock(scene, Clock::Right, "+0");
                CLOCK.settle(Duration::from_secs(1));
                scene.agent.lock().unwrap().faked = None;
            }
            Self::ProviderDown => scene.idp.lock().await.restart().await,
            Self::ProviderSlow | Self::ProviderGarbage | Self::ProviderEndless => {
                scene.idp.lock().await.set_faults(Faults::default());
            }
            Self::ProviderWrongKeys => {
                scene.idp.lock().await.set_faults(Faults::default());
                // The next stranger with a made-up key id has them fetched.
                let keys = scene.world.keys();
                keys.counts.begin(true);
                keys.counts.settle(Duration::from_secs(5));
            }
            Self::StoreDown => {
                scene.store.lock().await.restart().await;
                scene.to_store.set(Way::Open);
            }
            Self::StoreSlow | Self::StorePartitioned => scene.to_store.set(Way::Open),
            Self::SourceDown
            | Self::SourceSlow
            | Self::SourceLying
            | Self::SourceEndless
            | Self::SourceHalfOpen
            | Self::SourcePartitioned => {
                scene.platform.set(Mood::Honest);
                scene.to_platform.set(Way::Open);
                heard(18);
            }
            Self::ProviderRotating
            | Self::StoreFlushed
            | Self::HaproxyReloaded
            | Self::HaproxyKilled
            | Self::HaproxyUpgraded => {}
        }
    }
}

fn version(tag: &str) -> Version {
    Version::Container(tag.into())
}

/// Another one takes over at the same addresses; then the first ends when its requests are done.
async fn replace(haproxy: &mut crate::support::Haproxy, tag: &str) {
    let prefix = if tag == NEW { "" } else { "next-" };
    let next = haproxy.another(&version(tag), prefix).await;
    let mut old = std::mem::replace(haproxy, next);
    old.signal("USR1");
    let deadline = Instant::now() + Duration::from_secs(15);
    while !old.has_ended() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn restart(scene: &Arc<Scene>) {
    let before = scene.agent.lock().unwrap().starts;
    scene.agent.lock().unwrap().signal("TERM");
    let deadline = Instant::now() + Duration::from_secs(15);
    while scene.agent.lock().unwrap().starts == before && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn limit(scene: &Arc<Scene>, limit: impl FnOnce(u32) -> String) {
    if let Some(pid) = scene.agent.lock().unwrap().pid() {
        let limit = limit(pid);
        let _ = Command::new("prlimit").arg(format!("--pid={pid}")).arg(limit).output();
    }
}

/// Requests at the administrator's socket that are long and never end: 18 MB to be kept.
async fn demand_memory(scene: &Arc<Scene>) {
    let socket = scene.directory.path().join("agent-admin.sock");
    let mut connections = Vec::new();
    for _ in 0..300 {
        let Ok(mut stream) = tokio::net::UnixStream::connect(&socket).await else { break };
        let head = "POST /v1/revocations HTTP/1.1\r\nHost: agent\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n";
        let request = [head.as_bytes(), &vec![b' '; 59_000]].concat();
        if stream.write_all(&request).await.is_err() {
            break;
        }
        connections.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
}

fn clock(scene: &Arc<Scene>, clock: Clock, by: &str) {
    CLOCK.begin(clock);
    let next = scene.directory.path().join("next-clock");
    std::fs::write(&next, format!("{by}\n")).unwrap();
    std::fs::rename(next, scene.directory.path().join("clock")).unwrap();
    CLOCK.settle(Duration::from_secs(1));
}
