use std::sync::Mutex;

use super::*;
use crate::{
    gate::scene::{ALICES, Scene, workspace},
    workspaces::registry::ListExtent,
};

/// One call of a table: `None` for its expiry, or a round of decisions.
type Call = Option<(Change, Scope)>;

/// The calls of a table, in order.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A table that holds nothing, and whose decisions take this long.
struct Recorder {
    calls: Calls,
    schedule: Schedule,
    takes: Duration,
}

impl HeldAllows for Recorder {
    fn schedule(&self) -> Schedule {
        self.schedule
    }

    fn expire(&mut self, _: &Gate, _: Timestamp, _: MonotonicTime) {
        self.calls.0.lock().unwrap().push(None);
    }

    fn decide(&mut self, round: &Round<'_>) {
        self.calls.0.lock().unwrap().push(Some((round.change, round.scope)));
        std::thread::sleep(self.takes);
    }
}

fn recorder(interval: u64, rest: u32, takes: u64) -> (Calls, Recorder) {
    let (interval, takes) = (Duration::from_millis(interval), Duration::from_millis(takes));
    let calls = Calls::default();
    let schedule = Schedule { interval, rest };
    (calls.clone(), Recorder { calls, schedule, takes })
}

fn at(millis: u64) -> MonotonicTime {
    MonotonicTime::at(Duration::from_millis(10_000 + millis))
}

fn now() -> Timestamp {
    Timestamp::from_secs(1)
}

/// The same gate, as if it came from another configuration.
fn another(gate: &Gate) -> Arc<Gate> {
    let mut other = Scene::new().gate;
    other.registry = Arc::clone(&gate.registry);
    other.revocations = Arc::clone(&gate.revocations);
    Arc::new(other)
}

#[test]
fn all_is_decided_again_after_each_change_and_once_a_second() {
    let Scene { gate, publisher, .. } = Scene::new();
    let gate = Arc::new(gate);
    let live = Arc::new(Live::new(Arc::clone(&gate)));
    let mut revalidator = Revalidator::new(Arc::clone(&live));
    let (calls, table) = recorder(10, 0, 0);
    revalidator.register(table);
    let mut round = |millis: u64| {
        revalidator.round(now(), at(millis));
        match calls.take().as_slice() {
            [None, Some(decided)] => *decided,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(round(0), (Change::Facts, Scope::All), "the first round");
    assert_eq!(round(10), (Change::Nothing, Scope::New));
    let listed = MonotonicTime::now();
    publisher.complete(vec![workspace(ALICES, "bob", 1)], listed, listed, ListExtent::Snapshot);
    assert_eq!(round(20), (Change::Facts, Scope::All), "a workspace has another owner");
    assert_eq!(round(30), (Change::Nothing, Scope::New));
    live.replace(another(&gate));
    assert_eq!(round(40), (Change::Gate, Scope::All), "another configuration");
    assert_eq!(round(1_039), (Change::Nothing, Scope::New));
    assert_eq!(round(1_040), (Change::Nothing, Scope::All), "a second after the last of all");
}

#[test]
fn a_table_rests_after_long_decisions_and_no_other_table_does() {
    let Scene { gate, publisher, .. } = Scene::new();
    let live = Arc::new(Live::new(Arc::new(gate)));
    let mut revalidator = Revalidator::new(live);
    let (quick_calls, quick) = recorder(10, 0, 0);
    let (slow_calls, slow) = recorder(10, 1_000, 5);
    revalidator.register(quick);
    revalidator.register(slow);
    revalidator.round(now(), at(0));
    quick_calls.take();
    slow_calls.take();
    let listed = MonotonicTime::now();
    publisher.complete(vec![], listed, listed, ListExtent::Snapshot);
    // The slow one rests for five seconds at least, and still ends what is over by the clock.
    revalidator.round(now(), at(4_999));
    assert_eq!(quick_calls.take(), [None, Some((Change::Facts, Scope::All))]);
    assert_eq!(slow_calls.take(), [None]);
    // What changed while it rested is not lost.
    revalidator.round(now(), at(3_600_000));
    assert_eq!(slow_calls.take(), [None, Some((Change::Facts, Scope::All))]);
}

#[tokio::test]
async fn every_table_has_its_rounds_until_the_revalidator_is_stopped() {
    let live = Arc::new(Live::new(Arc::new(Scene::new().gate)));
    let mut revalidator = Revalidator::new(live);
    let (often_calls, often) = recorder(1, 0, 0);
    let (seldom_calls, seldom) = recorder(5, 0, 0);
    revalidator.register(often);
    revalidator.register(seldom);
    let stop = CancellationToken::new();
    let running = tokio::spawn(revalidator.run(stop.clone()));
    let rounds = |calls: &Calls| calls.0.lock().unwrap().iter().filter(|c| c.is_some()).count();
    let both = async {
        while rounds(&often_calls) < 3 || rounds(&seldom_calls) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
}
