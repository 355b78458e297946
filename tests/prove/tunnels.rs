//! WebSockets that stay open: they must live as long as access does, and not longer.

use std::{
    collections::VecDeque,
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
    stage::Stage,
    tally::Tally,
    truth::{Credential, Port, Question, Span},
};

/// How long a tunnel may outlive access.
const LATE: Duration = Duration::from_secs(5);
/// How long a tunnel is kept.
const KEPT: Duration = Duration::from_mins(1);

/// How many there were.
#[derive(Default)]
pub struct Counts {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    /// Cut as they must be.
    pub cut: AtomicU64,
    /// Cut without a reason.
    pub lost: AtomicU64,
    /// Still open long after access ended.
    pub outlived: AtomicU64,
}

struct Tunnel {
    question: Question,
    opened: Instant,
    reading: JoinHandle<()>,
    /// Since when access is over for sure.
    over: Option<Instant>,
}

/// Opens one every two seconds, keeps each for a minute.
pub async fn run(
    stage: Arc<Stage>,
    tally: Arc<Tally>,
    counts: Arc<Counts>,
    seed: u64,
    stop: CancellationToken,
) {
    let mut chance = Chance::new(seed, 5);
    let mut open: VecDeque<Tunnel> = VecDeque::new();
    let mut round = 0_u64;
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        round += 1;
        open.retain_mut(|tunnel| look_at(tunnel, &tally, &counts));
        if open.front().is_some_and(|tunnel| tunnel.opened.elapsed() > KEPT) {
            open.pop_front().unwrap().reading.abort();
            counts.closed.fetch_add(1, Ordering::Relaxed);
        }
        if round.is_multiple_of(4)
            && let Some(tunnel) = try_open(&stage, &tally, &mut chance).await
        {
            counts.opened.fetch_add(1, Ordering::Relaxed);
            open.push_back(tunnel);
        }
    }
    for tunnel in open {
        tunnel.reading.abort();
    }
}

async fn try_open(stage: &Arc<Stage>, tally: &Tally, chance: &mut Chance) -> Option<Tunnel> {
    let resident = stage.world.any(chance);
    let token = resident.person.token()?;
    let credential = Credential::Bearer(Arc::clone(&resident.person), Arc::clone(&token));
    let question = Question { credential, place: resident.place, port: Port::Main };
    let stream = TcpStream::connect(stage.haproxy.http).await.ok()?;
    let url = format!("ws://{}/ws", question.place.host(Port::Main));
    let mut request = url.into_client_request().unwrap();
    let bearer = format!("Bearer {}", token.text).parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let start = Instant::now();
    let answer = client_async(request, stream).await;
    let possible = question.possible(Span { start, end: Instant::now() });
    match answer {
        Ok((mut socket, _)) => {
            if !possible.allow {
                tally.surprise(format!("WRONG ALLOW of a tunnel: {}", question.describe()));
                tally.wrong_allow();
            }
            let reading =
                tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
            Some(Tunnel { question, opened: Instant::now(), reading, over: None })
        }
        Err(Error::Http(response)) => {
            let status = response.status().as_u16();
            if !possible.refuse && status != 503 {
                tally.surprise(format!("WRONG DENY {status} of a tunnel: {}", question.describe()));
                tally.wrong_deny();
            }
            None
        }
        Err(_) => None,
    }
}

/// Whether it is still of interest.
fn look_at(tunnel: &mut Tunnel, tally: &Tally, counts: &Counts) -> bool {
    let now = Instant::now();
    let lately = now.checked_sub(LATE).unwrap().max(tunnel.opened);
    if tunnel.reading.is_finished() {
        if tunnel.question.possible(Span { start: lately, end: now }).refuse {
            counts.cut.fetch_add(1, Ordering::Relaxed);
        } else {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            tally.surprise(format!("a tunnel was lost: {}", tunnel.question.describe()));
        }
        return false;
    }
    if tunnel.question.possible(Span::now()).allow {
        tunnel.over = None;
        return true;
    }
    let over = *tunnel.over.get_or_insert(now);
    if over.elapsed() > LATE {
        counts.outlived.fetch_add(1, Ordering::Relaxed);
        tally.surprise(format!("A TUNNEL OUTLIVED ACCESS: {}", tunnel.question.describe()));
        tunnel.reading.abort();
        return false;
    }
    true
}
