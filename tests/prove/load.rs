//! A constant load: so many requests a second over keep-alive connections, each answer judged.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{chance::Chance, client::Client, stage::World, tally::Tally, truth::Span};

/// How many connections.
const CONNECTIONS: u32 = 16;

/// What is asked, and where.
pub struct Plan {
    /// The HAProxies; the connections are spread over them.
    pub gates: Vec<SocketAddr>,
    /// Requests a second, over all connections.
    pub rate: u32,
    /// How many of a hundred requests are the one before on that connection once more, as reuse needs it.
    pub repeats: usize,
}

/// Asks until stopped.
pub async fn run(
    plan: Plan,
    world: Arc<World>,
    tally: Arc<Tally>,
    seed: u64,
    stop: CancellationToken,
) {
    let Plan { gates, rate, repeats } = plan;
    let interval = Duration::from_secs(1) * CONNECTIONS / rate;
    let tasks: Vec<_> = (0..CONNECTIONS)
        .zip(gates.into_iter().cycle())
        .map(|(number, gate)| {
            let (world, tally, stop) = (Arc::clone(&world), Arc::clone(&tally), stop.clone());
            tokio::spawn(async move {
                let mut chance = Chance::new(seed, 100 + u64::from(number));
                let mut client = Client::new(gate);
                let mut due = Instant::now() + interval * number / CONNECTIONS;
                let mut last = None;
                while !stop.is_cancelled() {
                    tokio::time::sleep_until(due.into()).await;
                    // Who is late by much does not make up for it: that would be another load.
                    due = (due + interval).max(Instant::now().checked_sub(interval).unwrap());
                    let again = last.take().filter(|_| chance.percent(repeats));
                    let attempt = again.unwrap_or_else(|| world.attempt(&mut chance));
                    let request = attempt.request();
                    let start = Instant::now();
                    let (answer, took) = client.ask(&request).await;
                    let span = Span { start, end: Instant::now() };
                    tally.judge(&attempt, &answer, span, took);
                    last = Some(attempt);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
