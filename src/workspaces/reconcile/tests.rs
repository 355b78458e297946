//! Runs the real state machine against a simulated platform: workspaces start and stop, responses
//! take time and overtake each other, events are lost, late, repeated or out of order, and
//! connections end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;

use super::{
    core::{Command, Input, ReconcileTiming, Reconciler},
    status::SourceHealth,
};
use crate::{
    time::MonotonicTime,
    workspaces::{
        Admission, Destination, Endpoint, EndpointName, EndpointOrigins, Person, Phase, Protocol,
        Revision, Workspace, WorkspaceId,
        directory::Member,
        registry::{LookupResult, Publisher, Registry, SourceRules},
        source::{Capabilities, SourceError, SourceEvent, SourceId},
    },
};

const STALE: Duration = Duration::from_secs(30);
const TIMING: ReconcileTiming = ReconcileTiming {
    list_interval: Duration::from_secs(8),
    read_deadline: Duration::from_secs(4),
    longest_pause: Duration::from_secs(4),
    connection_lifetime: Duration::from_mins(1),
};

/// The state of a workspace at the platform: which life it is in, and whether it is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    number: u32,
    revision: u64,
    open: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(u8),
    Stop(u8),
    Share(u8),
    Narrow(u8),
    CutWatch,
    /// The platform answers nothing for this many seconds.
    Outage(u8),
    /// This many of the next events are lost.
    Lose(u8),
    Wait(u16),
}

/// A message on its way to the agent.
#[expect(clippy::large_enum_variant, reason = "a test")]
enum Parcel {
    /// An event, with the newest life at the time of sending.
    Event(u32, SourceEvent, u32),
    WatchEnd(u32),
    Connect(u32),
    SampleRead(WorkspaceId, MonotonicTime),
    SampleList(MonotonicTime),
    Answer(Input),
}

struct Platform {
    now: u64,
    seed: u64,
    core: Reconciler,
    publisher: Publisher,
    capabilities: Capabilities,
    history: BTreeMap<u8, Vec<(u64, Option<Life>)>>,
    parcels: BinaryHeap<Reverse<(u64, u64)>>,
    contents: BTreeMap<u64, Parcel>,
    sent: u64,
    watch: u32,
    connected: bool,
    outage_until: u64,
    lose: u8,
    /// No faults happen any more.
    calm: bool,
    lives: u32,
    answered: Vec<WorkspaceId>,
    /// The last life of each workspace whose end has arrived.
    ended: BTreeMap<u8, u32>,
    /// The newest life and revision of each workspace that requests were routed to.
    newest: BTreeMap<u8, (u32, u64)>,
}

fn id(number: u8) -> WorkspaceId {
    format!("w{number}").parse().unwrap()
}

fn at(micros: u64) -> MonotonicTime {
    MonotonicTime::at(Duration::from_micros(micros))
}

fn described(number: u8, life: Life) -> Workspace {
    let address = format!("10.{number}.{}.{}:80", life.number / 250, life.number % 250 + 1);
    let endpoint = Endpoint {
        name: EndpointName::Main,
        protocol: Protocol::Http,
        admission: if life.open { Admission::Public } else { Admission::Owner },
        destination: Destination::Address(address.parse().unwrap()),
        origins: EndpointOrigins::default(),
    };
    Workspace {
        id: id(number),
        instance: Some(life.number.to_string().into()),
        revision: Revision { spec: None, status: Some(life.revision) },
        organization: None,
        owner: Person { subject: Some("s".into()), ..Person::default() },
        owner_label: "s".into(),
        grants: vec![],
        phase: Phase::Running,
        address: None,
        template: None,
        endpoints: vec![endpoint],
        paths: vec![],
    }
}

impl Platform {
    fn new(seed: u64, capabilities: Capabilities) -> Self {
        let rules =
            SourceRules { stale_after: STALE, stale_open_after: STALE, ..SourceRules::default() };
        let registry = Arc::new(Registry::new(&[("sim", rules)], Arc::default()));
        let publisher = Publisher::new(registry, SourceId::new(0));
        let mut platform = Self {
            now: 1_000_000,
            seed: seed | 1,
            core: Reconciler::new(publisher.clone(), capabilities, TIMING, || 0.5),
            publisher,
            capabilities,
            history: BTreeMap::new(),
            parcels: BinaryHeap::new(),
            contents: BTreeMap::new(),
            sent: 0,
            watch: 0,
            connected: false,
            outage_until: 0,
            lose: 0,
            calm: false,
            lives: 0,
            answered: vec![],
            ended: BTreeMap::new(),
            newest: BTreeMap::new(),
        };
        platform.tell(Input::Tick);
        platform
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    fn send(&mut self, after: u64, parcel: Parcel) {
        self.sent += 1;
        self.parcels.push(Reverse((self.now + after, self.sent)));
        self.contents.insert(self.sent, parcel);
    }

    fn life(&self, number: u8) -> Option<Life> {
        self.history.get(&number).and_then(|h| h.last()).and_then(|(_, life)| *life)
    }

    fn change(&mut self, number: u8, life: Option<Life>) {
        self.now += 1;
        self.history.entry(number).or_default().push((self.now, life));
        if !self.capabilities.watches || !self.connected {
            return;
        }
        if self.lose > 0 {
            self.lose -= 1;
            return;
        }
        let event = match life {
            None if self.random(2) == 0 => SourceEvent::Ended(id(number)),
            _ => SourceEvent::Changed(id(number)),
        };
        for _ in 0..=u64::from(self.random(5) == 0) {
            let delay = self.random(400_000);
            self.send(delay, Parcel::Event(self.watch, event.clone(), self.lives));
        }
    }

    fn fails(&self) -> bool {
        self.now < self.outage_until
    }

    fn tell(&mut self, input: Input) {
        let mut commands = Vec::new();
        self.core.handle([input], at(self.now), &mut commands);
        for command in commands {
            let started = at(self.now);
            match command {
                Command::Watch => {
                    self.watch += 1;
                    self.connected = false;
                    let delay = self.random(500_000);
                    self.send(delay, Parcel::Connect(self.watch));
                }
                Command::List => {
                    let delay = self.random(300_000);
                    self.send(delay, Parcel::SampleList(started));
                }
                Command::Read(id) => {
                    let delay = self.random(200_000);
                    self.send(delay, Parcel::SampleRead(id, started));
                }
                Command::Accounts => unreachable!("no accounts here"),
                Command::Answered(id) => self.answered.push(id),
            }
        }
    }

    /// Delivers everything that is due within the time.
    fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        loop {
            let parcel = self.parcels.peek().map(|Reverse((at, _))| *at);
            let tick = self.core.deadline().since(MonotonicTime::default());
            let tick = u64::try_from(tick.as_micros()).unwrap().max(self.now + 1000);
            let next = parcel.unwrap_or(u64::MAX).min(tick);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if parcel == Some(next) {
                let Some(Reverse((_, number))) = self.parcels.pop() else { break };
                let parcel = self.contents.remove(&number).unwrap();
                self.arrive(parcel);
            } else {
                self.tell(Input::Tick);
            }
            self.check();
        }
        self.now = end;
        self.check();
    }

    fn arrive(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Event(watch, event, newest) if watch == self.watch => {
                if let SourceEvent::Ended(id) = &event {
                    let number = id.as_str()[1..].parse().unwrap();
                    let lives = self.history.get(&number).into_iter().flatten();
                    let lives = lives.filter_map(|(_, life)| Some(life.as_ref()?.number));
                    let ended = lives.filter(|life| *life <= newest).max();
                    self.ended
                        .insert(number, self.ended.get(&number).copied().max(ended).unwrap_or(0));
                }
                self.tell(Input::Event(event));
            }
            Parcel::WatchEnd(watch) if watch == self.watch && self.connected => {
                self.connected = false;
                self.tell(Input::WatchEnded(SourceError::Unavailable("cut".into())));
            }
            // Messages of a closed connection are lost with it.
            Parcel::Event(..) | Parcel::WatchEnd(_) => {}
            Parcel::Connect(watch) if watch != self.watch => {}
            Parcel::Connect(_) if self.fails() => {
                self.tell(Input::WatchEnded(SourceError::Timeout));
            }
            Parcel::Connect(_) => {
                self.connected = true;
                // Some servers send nothing before the first event.
                if self.random(3) > 0 {
                    self.tell(Input::Event(SourceEvent::Connected));
                }
            }
            Parcel::SampleRead(id, started) => {
                let number = id.as_str()[1..].parse().unwrap();
                let result = if self.fails() {
                    Err(SourceError::Timeout)
                } else {
                    Ok(self.life(number).map(|life| described(number, life)))
                };
                let delay = self.random(300_000);
                self.send(delay, Parcel::Answer(Input::Read(id, started, result)));
            }
            Parcel::SampleList(started) => {
                let result = if self.fails() {
                    Err(SourceError::Unavailable("down".into()))
                } else {
                    let mut list = Vec::new();
                    for number in 0..4 {
                        // Pages that shift during the listing sometimes miss a workspace.
                        let shifts = !self.calm && !self.capabilities.lists_are_snapshots;
                        let missed = shifts && self.random(8) == 0;
                        list.extend(
                            self.life(number)
                                .filter(|_| !missed)
                                .map(|life| described(number, life)),
                        );
                    }
                    Ok(list)
                };
                let delay = self.random(700_000);
                self.send(delay, Parcel::Answer(Input::Listed(started, result)));
            }
            Parcel::Answer(input) => self.tell(input),
        }
    }

    /// What a request would be let through to: the life, and whether it is public.
    fn routed(&self, number: u8) -> Option<(u32, bool)> {
        self.routed_revision(number).map(|(life, open, _)| (life, open))
    }

    fn routed_revision(&self, number: u8) -> Option<(u32, bool, u64)> {
        let snapshot = self.publisher.registry().snapshot_at(at(self.now));
        let LookupResult::Workspace(record) = snapshot.find(None, id(number).as_str()) else {
            return None;
        };
        let up = record.workspace.phase.is_routable() && record.age <= STALE;
        let life = record.workspace.instance.as_deref().unwrap().parse().unwrap();
        let open = record.workspace.endpoints[0].admission == Admission::Public;
        up.then(|| (life, open, record.workspace.revision.status.unwrap()))
    }

    /// Checks that requests reach only a state that the platform had not too long ago, and that
    /// nothing goes back: neither to a life whose end was reported, nor to one before the newest
    /// known.
    fn check(&mut self) {
        for number in 0..4 {
            let Some((life, open, revision)) = self.routed_revision(number) else { continue };
            let ended = self.ended.get(&number).copied().unwrap_or(0);
            assert!(
                life > ended,
                "w{number} is routed to life {life}, but the end of {ended} was told"
            );
            let newest = self.newest.insert(number, (life, revision));
            assert!(newest <= Some((life, revision)), "w{number}: back from {newest:?} to {life}");
            let since = self.now.saturating_sub(u64::try_from(STALE.as_micros()).unwrap());
            let history = self.history.get(&number).map(Vec::as_slice).unwrap_or_default();
            let mut true_within = history.iter().enumerate().filter(|(index, (from, _))| {
                let until = history.get(index + 1).map_or(u64::MAX, |(at, _)| *at);
                *from <= self.now && until >= since
            });
            assert!(
                true_within.any(|(_, (_, had))| {
                    had.is_some_and(|had| had.number == life && had.open == open)
                }),
                "w{number} is routed to life {life} (open: {open}) at {} us, but: {history:?}",
                self.now
            );
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start(number) if self.life(number).is_none() => {
                self.lives += 1;
                self.change(number, Some(Life { number: self.lives, revision: 1, open: false }));
            }
            Step::Stop(number) if self.life(number).is_some() => self.change(number, None),
            Step::Share(number) | Step::Narrow(number) => {
                if let Some(life) = self.life(number) {
                    let open = matches!(step, Step::Share(_));
                    let revision = life.revision + 1;
                    self.change(number, Some(Life { revision, open, ..life }));
                }
            }
            Step::Start(_) | Step::Stop(_) => {}
            Step::CutWatch => self.send(0, Parcel::WatchEnd(self.watch)),
            Step::Outage(seconds) => self.outage_until = self.now + u64::from(seconds) * 1_000_000,
            Step::Lose(events) => self.lose = events,
            Step::Wait(millis) => self.run(u64::from(millis) * 1000),
        }
    }

    /// Stops all faults and runs long enough for every change to arrive.
    fn quiet(&mut self) {
        self.outage_until = 0;
        self.lose = 0;
        self.calm = true;
        self.run(30_000_000);
        for number in 0..4 {
            let truth = self.life(number).map(|life| (life.number, life.open));
            assert_eq!(self.routed(number), truth, "w{number}: {:?}", self.history.get(&number));
        }
        assert_eq!(self.core.status().health, SourceHealth::Live);
        assert_eq!(self.core.status().pending, 0);
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u8).prop_map(Step::Start),
        4 => (0..4_u8).prop_map(Step::Stop),
        1 => (0..4_u8).prop_map(Step::Share),
        1 => (0..4_u8).prop_map(Step::Narrow),
        1 => Just(Step::CutWatch),
        1 => (1..60_u8).prop_map(Step::Outage),
        1 => (1..4_u8).prop_map(Step::Lose),
        4 => (0..2000_u16).prop_map(Step::Wait),
        2 => (2000..40_000_u16).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..60)
}

const WATCHED: Capabilities =
    Capabilities { watches: true, reads: true, accounts: false, lists_are_snapshots: false };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_is_routed_to_but_what_was_there_a_moment_ago_and_in_the_end_all_agree(
        steps in steps(),
        seed: u64,
        (watches, lists_are_snapshots) in any::<(bool, bool)>(),
    ) {
        let capabilities = Capabilities { watches, lists_are_snapshots, ..WATCHED };
        let mut platform = Platform::new(seed, capabilities);
        for step in steps {
            platform.step(step);
            platform.check();
        }
        platform.quiet();
    }
}

#[test]
fn nothing_is_routed_to_before_the_first_complete_list() {
    let mut platform = Platform::new(7, WATCHED);
    platform.step(Step::Outage(20));
    platform.step(Step::Start(0));
    platform.run(15_000_000);
    assert_eq!(platform.core.status().health, SourceHealth::Starting);
    let snapshot = platform.publisher.registry().snapshot_at(at(platform.now));
    assert!(matches!(snapshot.find(None, "w0"), LookupResult::NotLoaded));
    platform.run(20_000_000);
    assert!(platform.routed(0).is_some());
}

#[test]
fn an_end_that_is_told_closes_the_route_within_milliseconds() {
    let mut platform = Platform::new(3, WATCHED);
    platform.step(Step::Start(0));
    platform.run(5_000_000);
    assert!(platform.routed(0).is_some());
    platform.tell(Input::Event(SourceEvent::Ended(id(0))));
    assert_eq!(platform.routed(0), None);
}

#[test]
fn a_change_that_cannot_be_read_closes_its_workspace_in_time_and_no_other() {
    let mut platform = Platform::new(5, WATCHED);
    platform.step(Step::Start(0));
    platform.step(Step::Start(1));
    platform.run(9_000_000);
    platform.step(Step::Outage(20));
    platform.tell(Input::Event(SourceEvent::Changed(id(0))));
    platform.run(3_900_000);
    assert!(platform.routed(0).is_some(), "not yet");
    platform.run(200_000);
    assert_eq!(platform.routed(0), None);
    assert!(platform.routed(1).is_some());
    platform.run(30_000_000);
    assert!(platform.routed(0).is_some(), "open again when it could be read");
}

#[test]
fn everything_is_stale_when_the_platform_is_silent_for_long_and_comes_back_by_itself() {
    let mut platform = Platform::new(5, WATCHED);
    platform.step(Step::Start(0));
    platform.run(9_000_000);
    platform.step(Step::Outage(60));
    platform.step(Step::CutWatch);
    platform.run(20_000_000);
    assert!(platform.routed(0).is_some());
    assert_eq!(platform.core.status().health, SourceHealth::Degraded);
    platform.run(20_000_000);
    assert_eq!(platform.routed(0), None);
    assert_eq!(platform.core.status().health, SourceHealth::Stale);
    platform.run(40_000_000);
    assert!(platform.routed(0).is_some());
}

#[test]
fn a_request_for_a_workspace_that_just_started_is_answered_by_one_read() {
    let mut platform = Platform::new(9, WATCHED);
    platform.run(5_000_000);
    platform.lose = 1;
    platform.step(Step::Start(0));
    platform.tell(Input::Wanted(id(0)));
    platform.tell(Input::Wanted(id(1)));
    platform.run(600_000);
    assert!(platform.routed(0).is_some());
    assert_eq!(
        platform.answered.len(),
        2,
        "also of one that does not exist: {:?}",
        platform.answered
    );
}

#[test]
fn a_refused_credential_is_told_at_once_and_prolongs_nothing() {
    let mut platform = Platform::new(9, WATCHED);
    platform.step(Step::Start(0));
    platform.run(5_000_000);
    let error = || SourceError::Unauthorized("401".into());
    platform.tell(Input::Listed(at(platform.now), Err(error())));
    let status = platform.core.status();
    assert!(status.unauthorized && status.last_error.unwrap().contains("refuses the credential"));
}

#[test]
fn a_platform_that_asks_for_a_pause_gets_it() {
    let mut platform = Platform::new(9, WATCHED);
    platform.run(5_000_000);
    let pause = Duration::from_secs(6);
    platform.tell(Input::Listed(at(platform.now), Err(SourceError::RateLimited(pause))));
    let lists = platform.core.status().lists;
    platform.run(5_500_000);
    assert_eq!(platform.core.status().lists, lists);
    platform.run(4_000_000);
    assert!(platform.core.status().lists > lists);
}

#[test]
fn a_flood_of_changes_asks_for_a_list_and_few_reads_at_once() {
    let mut platform = Platform::new(9, WATCHED);
    platform.run(5_000_000);
    let mut commands = Vec::new();
    let flood =
        (0..10_000).map(|n| Input::Event(SourceEvent::Changed(format!("x{n}").parse().unwrap())));
    platform.core.handle(flood, at(platform.now), &mut commands);
    let reads = commands.iter().filter(|c| matches!(c, Command::Read(_))).count();
    assert_eq!(reads, 32);
    assert!(commands.contains(&Command::List));
}

#[test]
fn an_owner_without_an_account_is_looked_up_once_and_at_once() {
    let capabilities = Capabilities { reads: false, accounts: true, ..WATCHED };
    let registry = Arc::new(Registry::new(&[("sim", SourceRules::default())], Arc::default()));
    let publisher = Publisher::new(registry, SourceId::new(0));
    let mut core = Reconciler::new(publisher, capabilities, TIMING, || 0.5);
    let member = |account: &str| Member {
        account: account.into(),
        person: Person { username: Some(account.into()), ..Person::default() },
        label: account.into(),
        active: true,
        platform_groups: vec![],
    };
    let life = Life { number: 1, revision: 1, open: false };
    let owned = |account: &str| {
        let owner = Person { account: Some(account.into()), ..Person::default() };
        SourceEvent::Described(Box::new(Workspace { owner, ..described(0, life) }))
    };
    let mut tell = |input: Input, now: u64| {
        let mut commands = Vec::new();
        core.handle([input], at(now), &mut commands);
        commands.iter().filter(|command| **command == Command::Accounts).count()
    };
    let second = 1_000_000;
    assert_eq!(tell(Input::Tick, 0), 1);
    assert_eq!(tell(Input::Accounts(at(0), Ok(vec![member("old")])), second), 0);
    assert_eq!(tell(Input::Event(owned("old")), 2 * second), 0, "the account is known");
    assert_eq!(tell(Input::Event(owned("new")), 2 * second), 1);
    let members = vec![member("old"), member("new")];
    assert_eq!(tell(Input::Accounts(at(2 * second), Ok(members)), 3 * second), 0);
    assert_eq!(tell(Input::Event(owned("new")), 4 * second), 0);
    // An account that the platform does not list causes no further request.
    assert_eq!(tell(Input::Event(owned("none")), 4 * second), 1);
    assert_eq!(tell(Input::Accounts(at(4 * second), Ok(vec![member("old")])), 5 * second), 0);
    assert_eq!(tell(Input::Event(owned("none")), 6 * second), 0);
}
