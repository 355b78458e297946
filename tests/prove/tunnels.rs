//! WebSockets that stay open: they must live as long as access does, and not longer.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Error, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;

use crate::{
    chance::Chance,
    stage::World,
    tally::Tally,
    truth::{Attempt, Credential, Port, Span},
};

/// How long a tunnel may outlive access.
const LATE: Duration = Duration::from_secs(5);

/// Where tunnels are opened, how often, and when their end can be expected.
pub struct Plan {
    /// The HAProxies, taken in turn.
    pub gates: Vec<SocketAddr>,
    pub world: Arc<World>,
    /// Between two openings.
    pub every: Duration,
    /// How long a tunnel stays open while access lasts.
    pub kept: Duration,
    /// Tells since when nothing keeps the gate from ending tunnels; a moment to come while something does.
    pub undisturbed: Box<dyn Fn() -> Instant + Send + Sync>,
    /// Whether a tunnel that ends while access lasts is a surprise.
    pub losses: Losses,
}

/// What a tunnel that ended early means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// Nothing fails: it must not happen.
    Surprise,
    /// A fault may end it.
    Count,
}

/// How many there were.
#[derive(Default)]
pub struct Counts {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    /// Terminated as they must be.
    pub terminated: AtomicU64,
    /// Terminated without a reason.
    pub lost: AtomicU64,
    /// Still open long after access ended.
    pub outlived: AtomicU64,
}

struct Tunnel {
    attempt: Attempt,
    opened: Instant,
    reading: JoinHandle<()>,
    /// Since when access is over for sure.
    over: Option<Instant>,
}

/// Between two looks at the open ones.
const LOOK: Duration = Duration::from_millis(500);

/// Opens tunnels until stopped, and judges how long each lives.
pub async fn run(
    plan: Plan,
    tally: Arc<Tally>,
    counts: Arc<Counts>,
    seed: u64,
    stop: CancellationToken,
) {
    let mut chance = Chance::new(seed, 5);
    let mut open: VecDeque<Tunnel> = VecDeque::new();
    let (mut next, mut gates) = (Instant::now(), plan.gates.iter().cycle());
    while !stop.is_cancelled() {
        tokio::time::sleep(LOOK.min(plan.every)).await;
        open.retain_mut(|tunnel| look_at(tunnel, &plan, &tally, &counts));
        if open.front().is_some_and(|tunnel| tunnel.opened.elapsed() > plan.kept) {
            open.pop_front().unwrap().reading.abort();
            counts.closed.fetch_add(1, Ordering::Relaxed);
        }
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + plan.every;
        let gate = *gates.next().unwrap();
        let opening = try_open(gate, &plan.world, &tally, &mut chance);
        // A gate that stands still answers nothing.
        if let Ok(Some(tunnel)) = tokio::time::timeout(Duration::from_secs(5), opening).await {
            counts.opened.fetch_add(1, Ordering::Relaxed);
            open.push_back(tunnel);
        }
    }
    for tunnel in open {
        tunnel.reading.abort();
    }
}

async fn try_open(
    gate: SocketAddr,
    world: &World,
    tally: &Tally,
    chance: &mut Chance,
) -> Option<Tunnel> {
    let resident = world.any(chance);
    let token = resident.person.token()?;
    let credential = Credential::Bearer(Arc::clone(&resident.person), Arc::clone(&token));
    let attempt = Attempt { credential, place: resident.place, port: Port::Main };
    let stream = TcpStream::connect(gate).await.ok()?;
    let url = format!("ws://{}/ws", attempt.place.host(Port::Main));
    let mut request = url.into_client_request().unwrap();
    let bearer = format!("Bearer {}", token.text).parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let start = Instant::now();
    let answer = client_async(request, stream).await;
    let possible = attempt.possible(Span { start, end: Instant::now() });
    match answer {
        Ok((mut socket, _)) => {
            if !possible.allow {
                tally.surprise(format!("WRONG ALLOW of a tunnel: {}", attempt.describe()));
                tally.wrong_allow();
            }
            let reading =
                tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
            Some(Tunnel { attempt, opened: Instant::now(), reading, over: None })
        }
        Err(Error::Http(response)) => {
            let status = response.status().as_u16();
            if !possible.refuse && status != 503 {
                tally.surprise(format!("WRONG DENY {status} of a tunnel: {}", attempt.describe()));
                tally.wrong_deny();
            }
            None
        }
        Err(_) => None,
    }
}

/// Whether it is still of interest.
fn look_at(tunnel: &mut Tunnel, plan: &Plan, tally: &Tally, counts: &Counts) -> bool {
    let now = Instant::now();
    let lately = now.checked_sub(LATE).unwrap().max(tunnel.opened);
    if tunnel.reading.is_finished() {
        if tunnel.attempt.possible(Span { start: lately, end: now }).refuse {
            counts.terminated.fetch_add(1, Ordering::Relaxed);
        } else {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            if plan.losses == Losses::Surprise {
                tally.surprise(format!("a tunnel was lost: {}", tunnel.attempt.describe()));
            }
        }
        return false;
    }
    if tunnel.attempt.possible(Span::now()).allow {
        tunnel.over = None;
        return true;
    }
    let over = *tunnel.over.get_or_insert(now);
    if over.max((plan.undisturbed)()).elapsed() > LATE {
        counts.outlived.fetch_add(1, Ordering::Relaxed);
        tally.surprise(format!("A TUNNEL OUTLIVED ACCESS: {}", tunnel.attempt.describe()));
        tunnel.reading.abort();
        return false;
    }
    true
}
