//! What goes wrong, and what the oracle must know of it.

use std::{
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::io::AsyncWriteExt as _;

use super::{
    loss::Loss,
    memory,
    platform::Mood,
    proxy::Way,
    scene::{Scene, Second},
};
use crate::truth::{CLOCK, Clock};
use dev_idp::{Fault as Answer, Faults};
use test_stage::Version;

/// What HAProxy is upgraded from, and to.
pub const OLD: &str = "2.6";

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    AgentKilled,
    AgentStopped,
    AgentRestarted,
    AgentNoDescriptors,
    AgentNoMemory,
    AgentMemoryLimit,
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
    /// Of two agents, as all that follow.
    OneKilled,
    OneStopped,
    BothKilled,
    OneCutFromStore,
    OneCutFromPlatform,
    OneHaproxyKilled,
    OneHaproxyPaused,
    BothHaproxiesReloaded,
    PacketLoss,
}

impl Fault {
    /// The faults of the scene of two.
    pub const OF_TWO: [Self; 12] = [
        Self::OneKilled,
        Self::OneStopped,
        Self::BothKilled,
        Self::OneCutFromStore,
        Self::OneCutFromPlatform,
        Self::StoreDown,
        Self::StorePartitioned,
        Self::SourcePartitioned,
        Self::OneHaproxyKilled,
        Self::OneHaproxyPaused,
        Self::BothHaproxiesReloaded,
        Self::PacketLoss,
    ];

    /// The faults of the scene of one.
    pub const ALL: [Self; 28] = [
        Self::AgentKilled,
        Self::AgentStopped,
        Self::AgentRestarted,
        Self::AgentNoDescriptors,
        Self::AgentNoMemory,
        Self::AgentMemoryLimit,
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
            Self::DiskFull => "disk of audit log and journal full",
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
            Self::HaproxyUpgraded => "HAProxy upgraded from 2.6 to the newest",
            Self::AgentMemoryLimit => "agent ended at its cgroup's memory limit",
            Self::OneKilled => "one of two agents killed",
            Self::OneStopped => "one of two agents stands still",
            Self::BothKilled => "both agents killed",
            Self::OneCutFromStore => "one of two agents cut off from Redis",
            Self::OneCutFromPlatform => "one of two agents cut off from the platform",
            Self::OneHaproxyKilled => "one of two HAProxies killed",
            Self::OneHaproxyPaused => "one of two HAProxies stands still",
            Self::BothHaproxiesReloaded => "both HAProxies reloaded",
            Self::PacketLoss => "5 % of the packets to agents, Redis and platform lost",
        }
    }

    /// What it befalls; two faults of one kind do not make a pair.
    pub fn victim(self) -> &'static str {
        match self {
            Self::DiskFull => "disk",
            Self::AgentMemoryLimit => "agent",
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
                | Self::OneKilled
                | Self::BothKilled
                | Self::OneHaproxyKilled
                | Self::BothHaproxiesReloaded
        )
    }

    /// Whether an agent or a HAProxy may be unable to end a tunnel while it lasts.
    pub fn hinders_ends(self) -> bool {
        match self {
            Self::AgentKilled
            | Self::AgentStopped
            | Self::AgentRestarted
            | Self::AgentNoDescriptors
            | Self::AgentNoMemory
            | Self::AgentMemoryLimit
            | Self::DiskFull
            | Self::HaproxyReloaded
            | Self::HaproxyKilled
            | Self::HaproxyUpgraded
            | Self::OneKilled
            | Self::OneStopped
            | Self::BothKilled
            | Self::OneHaproxyKilled
            | Self::OneHaproxyPaused
            | Self::BothHaproxiesReloaded
            | Self::PacketLoss => true,
            Self::ClockAhead
            | Self::ClockBehind
            | Self::ProviderDown
            | Self::ProviderSlow
            | Self::ProviderWrongKeys
            | Self::ProviderGarbage
            | Self::ProviderEndless
            | Self::ProviderRotating
            | Self::StoreDown
            | Self::StoreSlow
            | Self::StoreFlushed
            | Self::StorePartitioned
            | Self::SourceDown
            | Self::SourceSlow
            | Self::SourceLying
            | Self::SourceEndless
            | Self::SourceHalfOpen
            | Self::SourcePartitioned
            | Self::OneCutFromStore
            | Self::OneCutFromPlatform => false,
        }
    }

    /// How long it lasts when it is alone.
    pub fn lasts(self) -> Duration {
        let seconds = match self {
            // Until its workspaces are stale, and longer.
            Self::SourceDown
            | Self::SourceLying
            | Self::SourceEndless
            | Self::SourcePartitioned
            | Self::SourceHalfOpen
            | Self::OneCutFromPlatform => 22,
            // Longer than sessions are kept without it.
            Self::StoreDown | Self::StorePartitioned | Self::OneCutFromStore => 9,
            Self::PacketLoss => 15,
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
            // What is on its way to the other agent arrives before the way is cut.
            Self::OneCutFromStore | Self::StoreDown | Self::StorePartitioned
                if scene.second.is_some() =>
            {
                scene.hold.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    #[allow(clippy::too_many_lines, reason = "an arm for each fault")]
    pub async fn begin(self, scene: &Arc<Scene>) {
        let far = Instant::now() + Duration::from_hours(1);
        if self.hinders_ends() {
            *scene.undisturbed.lock().unwrap() = far;
        }
        if scene.hold.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // As long as it lasts, and until the agent has read what it missed.
            *scene.isolated.lock().unwrap() =
                Instant::now() + self.lasts() + Duration::from_secs(6);
            scene.hold.store(false, Ordering::Relaxed);
        }
        let second = scene.second.as_ref();
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
                scene.set_to_store(Way::Cut);
            }
            Self::StoreSlow => scene.set_to_store(Way::Slow(Duration::from_millis(300))),
            Self::StoreFlushed => {
                scene.doubt_sessions();
                scene.store.lock().await.ask::<()>("FLUSHALL").await;
            }
            Self::StorePartitioned => scene.set_to_store(Way::Silent),
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
                if let Some(second) = second {
                    second.to_platform.set(Way::Silent);
                }
            }
            Self::HaproxyReloaded => scene.haproxy.lock().await.reload(),
            Self::HaproxyKilled => {
                let mut haproxy = scene.haproxy.lock().await;
                haproxy.signal("KILL");
                while !haproxy.has_ended() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let next = haproxy.another(Version::newest(), "").await;
                *haproxy = next;
            }
            Self::HaproxyUpgraded => {
                let mut haproxy = scene.haproxy.lock().await;
                replace(&mut haproxy, newest()).await;
            }
            Self::AgentMemoryLimit => {
                if let Some(pid) = scene.agent.lock().unwrap().pid() {
                    memory::limit(pid);
                }
                demand_memory(scene).await;
            }
            Self::OneKilled => signal_second(second, "KILL"),
            Self::OneStopped => {
                scene.disturb(far);
                signal_second(second, "STOP");
            }
            Self::BothKilled => {
                scene.agent.lock().unwrap().signal("KILL");
                signal_second(second, "KILL");
            }
            Self::OneCutFromStore => {
                if let Some(second) = second {
                    second.to_store.set(Way::Silent);
                }
            }
            Self::OneCutFromPlatform => {
                scene.disturb(far);
                if let Some(second) = second {
                    second.to_platform.set(Way::Silent);
                }
            }
            Self::OneHaproxyKilled => {
                let Some(second) = second else { return };
                let mut haproxy = second.haproxy.lock().await;
                haproxy.signal("KILL");
                while !haproxy.has_ended() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let next = haproxy.another(Version::newest(), "").await;
                *haproxy = next;
            }
            Self::OneHaproxyPaused => {
                if let Some(second) = second {
                    second.haproxy.lock().await.pause(true);
                }
            }
            Self::BothHaproxiesReloaded => {
                scene.haproxy.lock().await.reload();
                if let Some(second) = second {
                    second.haproxy.lock().await.reload();
                }
            }
            Self::PacketLoss => {
                // What the platform says may be late.
                scene.disturb(far);
                *scene.isolated.lock().unwrap() =
                    Instant::now() + self.lasts() + Duration::from_secs(6);
                *scene.loss.lock().unwrap() = Loss::begin(&scene.ports());
            }
        }
    }

    pub async fn end(self, scene: &Arc<Scene>) {
        // What the platform said meanwhile is asked for after a pause of its source, 16 s at most.
        let heard = |seconds| {
            *scene.disturbed.lock().unwrap() = Instant::now() + Duration::from_secs(seconds);
        };
        if self.hinders_ends() {
            // An agent that ended is started again, and finds its tunnels.
            *scene.undisturbed.lock().unwrap() = Instant::now() + Duration::from_secs(2);
        }
        let second = scene.second.as_ref();
        match self {
            Self::AgentKilled | Self::AgentRestarted | Self::OneKilled | Self::BothKilled => {
                heard(2);
            }
            Self::AgentMemoryLimit => {
                memory::lift();
                heard(2);
            }
            Self::OneStopped => {
                signal_second(second, "CONT");
                heard(2);
            }
            Self::OneCutFromStore => {
                if let Some(second) = second {
                    second.to_store.set(Way::Open);
                }
            }
            Self::OneCutFromPlatform => {
                if let Some(second) = second {
                    second.to_platform.set(Way::Open);
                }
                heard(18);
            }
            Self::OneHaproxyPaused => {
                if let Some(second) = second {
                    second.haproxy.lock().await.pause(false);
                }
            }
            Self::PacketLoss => {
                *scene.loss.lock().unwrap() = None;
                heard(5);
            }
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
                scene.set_to_store(Way::Open);
            }
            Self::StoreSlow | Self::StorePartitioned => scene.set_to_store(Way::Open),
            Self::SourceDown
            | Self::SourceSlow
            | Self::SourceLying
            | Self::SourceEndless
            | Self::SourceHalfOpen
            | Self::SourcePartitioned => {
                scene.platform.set(Mood::Honest);
                scene.to_platform.set(Way::Open);
                if let Some(second) = second {
                    second.to_platform.set(Way::Open);
                }
                heard(18);
            }
            Self::ProviderRotating
            | Self::StoreFlushed
            | Self::HaproxyReloaded
            | Self::HaproxyKilled
            | Self::HaproxyUpgraded
            | Self::OneHaproxyKilled
            | Self::BothHaproxiesReloaded => {}
        }
    }
}

fn signal_second(second: Option<&Second>, signal: &str) {
    if let Some(second) = second {
        second.agent.lock().unwrap().signal(signal);
    }
}

/// The tag of the newest HAProxy.
fn newest() -> &'static str {
    match Version::newest() {
        Version::Container(tag) => tag,
        Version::Local => "",
    }
}

fn version(tag: &str) -> Version {
    Version::Container(tag.into())
}

/// Another one takes over at the same addresses; then the first ends when its requests are done.
async fn replace(haproxy: &mut test_stage::Haproxy, tag: &str) {
    let prefix = if tag == newest() { "" } else { "next-" };
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
    test_stage::replace(&scene.directory.path().join("clock"), format!("{by}\n"));
    CLOCK.settle(Duration::from_secs(1));
}
