//! Everything that changes: people come and go, tokens are minted and revoked, keys replaced, workspaces
//! started and stopped, sessions begun and ended, HAProxy reloaded. Each tells the oracle before and after.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    browser::Browser,
    chance::Chance,
    client::Client,
    stage::{Resident, Stage},
    tally::Tally,
    truth::{Attempt, Credential, Fact, Port, Session, Source},
};

/// How often each change happens, and how often each did.
pub struct Churn {
    pub stage: Arc<Stage>,
    pub tally: Arc<Tally>,
    pub seed: u64,
    pub stop: CancellationToken,
    pub counts: Arc<Counts>,
    /// Between new keys.
    pub rotation: Duration,
    /// Between reloads of HAProxy; none if zero.
    pub reload: Duration,
    /// How many people are signed in.
    pub sessions: usize,
}

/// How often each change happened.
#[derive(Default)]
pub struct Counts {
    pub people: AtomicU64,
    pub tokens: AtomicU64,
    pub tokens_revoked: AtomicU64,
    pub rotations: AtomicU64,
    pub phases: AtomicU64,
    pub grants: AtomicU64,
    pub renewals: AtomicU64,
    pub sign_ins: AtomicU64,
    pub sign_outs: AtomicU64,
    pub reloads: AtomicU64,
    pub failures: AtomicU64,
    /// Microseconds from the end of a workspace of the API, and of the file, to its first refusal.
    pub api_micros: std::sync::Mutex<Vec<u32>>,
    pub file_micros: std::sync::Mutex<Vec<u32>>,
    /// Seconds since the start, and what happened then that a plot should show.
    pub events: std::sync::Mutex<Vec<(Instant, &'static str)>>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Churn {
    /// Starts all of it.
    pub fn start(self) -> Vec<tokio::task::JoinHandle<()>> {
        let churn = Arc::new(self);
        vec![
            tokio::spawn(Arc::clone(&churn).people_and_places()),
            tokio::spawn(Arc::clone(&churn).tokens()),
            tokio::spawn(Arc::clone(&churn).keys()),
            tokio::spawn(Arc::clone(&churn).sessions()),
            tokio::spawn(churn.reloads()),
        ]
    }

    /// Pauses; whether to go on.
    async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    fn failed(&self, what: &str, error: &str) {
        count(&self.counts.failures);
        self.tally.surprise(format!("{what} failed: {error}"));
    }

    /// One task writes workspaces, so that what it tells last is what is true.
    async fn people_and_places(self: Arc<Self>) {
        let mut chance = Chance::new(self.seed, 2);
        let mut gone: VecDeque<(Instant, Resident)> = VecDeque::new();
        let mut renewed = 0;
        let mut round = 0_u64;
        while self.pause(Duration::from_millis(250)).await {
            round += 1;
            let residents = self.stage.world.residents().clone();
            let place = &chance.pick(&residents).unwrap().place;
            let of_file = place.source == Source::File;
            // The file is written in one piece: less often.
            if !of_file || round.is_multiple_of(3) {
                if chance.percent(50) {
                    self.change_phase(place, &mut chance).await;
                } else {
                    let mut granted = Vec::new();
                    for _ in 0..chance.below(4) {
                        granted.push(chance.pick(&residents).unwrap().person.name.clone());
                    }
                    place.granted.begin(granted);
                    if let Err(error) = self.stage.tell(place).await {
                        self.failed("a grant", &error);
                    }
                    count(&self.counts.grants);
                }
            }
            // A lease lasts five minutes.
            renewed = (renewed + 1) % residents.len();
            let place = &residents[renewed].place;
            if place.source == Source::Api {
                if let Err(error) = self.stage.write(place).await {
                    self.failed("a renewal", &error);
                }
                count(&self.counts.renewals);
            }
            if round.is_multiple_of(12) {
                let slot = chance.below(residents.len());
                self.replace(slot, &mut chance, &mut gone).await;
            }
            // Their tokens are over: what was revoked can be taken back.
            while gone.front().is_some_and(|(at, _)| at.elapsed() > Duration::from_secs(200)) {
                let (_, resident) = gone.pop_front().unwrap();
                self.stage
                    .world
                    .ghosts
                    .lock()
                    .unwrap()
                    .retain(|ghost| !Arc::ptr_eq(&ghost.person, &resident.person));
                // A request that is on its way with their last token.
                resident.person.revoked.begin(false);
                let body =
                    json!({ "issuer": "dev", "subject": format!("sub-{}", resident.person.name) });
                let lifted =
                    self.stage.admin.ask(Method::DELETE, "/v1/revocations", Some(body)).await;
                if let Err(error) = lifted {
                    self.failed("a lift", &error);
                }
            }
        }
    }

    async fn change_phase(&self, place: &Arc<crate::truth::Place>, chance: &mut Chance) {
        let phases = match place.phase.latest() {
            "running" => &["stopped", "stopping", "interrupted", "provisioning"][..],
            _ => &["running"],
        };
        let next = *chance.pick(phases).unwrap();
        let end = next != "running";
        place.phase.begin(next);
        let told = Instant::now();
        if let Err(error) = self.stage.tell(place).await {
            self.failed("a phase", &error);
        }
        count(&self.counts.phases);
        // Until it is refused, seen from outside.
        if end {
            let public = Attempt {
                credential: Credential::Nothing,
                place: Arc::clone(place),
                port: Port::Public,
            };
            let mut client = Client::new(self.stage.haproxy.http);
            let request = public.request();
            while told.elapsed() < Duration::from_secs(5) {
                match client.ask(&request).await {
                    (Ok(reply), _) if reply.status == 200 => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    _ => break,
                }
            }
            let took = u32::try_from(told.elapsed().as_micros()).unwrap_or(u32::MAX);
            let times = match place.source {
                Source::Api => &self.counts.api_micros,
                Source::File | Source::Cluster(_) => &self.counts.file_micros,
            };
            times.lock().unwrap().push(took);
        }
    }

    /// A person leaves, another one gets the server.
    async fn replace(
        &self,
        slot: usize,
        chance: &mut Chance,
        gone: &mut VecDeque<(Instant, Resident)>,
    ) {
        let old = self.stage.world.residents()[slot].clone();
        let next = self.stage.newcomer(slot, chance);
        let subject = format!("sub-{}", old.person.name);
        old.person.revoked.begin(true);
        let body = json!({ "issuer": "dev", "subject": subject, "note": "left" });
        match self.stage.admin.ask(Method::POST, "/v1/revocations", Some(body)).await {
            Ok(_) => old.person.revoked.settle(Duration::ZERO),
            Err(error) => self.failed("a revocation", &error),
        }
        if let Some(session) = old.person.session() {
            session.alive.begin(false);
            let body = json!({ "issuer": "dev", "subject": subject });
            match self.stage.admin.ask(Method::DELETE, "/v1/sessions", Some(body)).await {
                Ok(_) => session.alive.settle(Duration::ZERO),
                Err(error) => self.failed("an end of a session", &error),
            }
        }
        old.place.phase.begin("absent");
        if old.place.source == Source::Api
            && let Err(error) = self.stage.tell(&old.place).await
        {
            self.failed("a deletion", &error);
        }
        next.place.phase.begin("running");
        self.stage.world.residents()[slot] = next.clone();
        if let Err(error) = self.stage.tell(&next.place).await {
            self.failed("a new workspace", &error);
        }
        if old.place.source == Source::File {
            old.place.phase.settle(Duration::from_secs(2));
        }
        self.stage.world.ghosts.lock().unwrap().push(old.clone());
        gone.push_back((Instant::now(), old));
        count(&self.counts.people);
    }

    /// Each person has a token; it is replaced before its end, or after.
    async fn tokens(self: Arc<Self>) {
        let mut chance = Chance::new(self.seed, 3);
        let mut revoked: VecDeque<(SystemTime, String)> = VecDeque::new();
        let mut round = 0_u64;
        while self.pause(Duration::from_millis(200)).await {
            round += 1;
            let residents = self.stage.world.residents().clone();
            let current = self.stage.world.keys().number;
            let now = SystemTime::now();
            let mut minted = 0;
            for resident in &residents {
                let due = resident.person.token().is_none_or(|token| {
                    // Some come too late.
                    token.ends < now || token.keys.number != current && minted < 5
                });
                if due {
                    let seconds = 40 + chance.below(120);
                    let idp = &self.stage.idp;
                    let name = &resident.person.name;
                    let token = self.stage.world.mint(idp, name, seconds, &mut chance);
                    *resident.person.token.lock().unwrap() = Some(token);
                    count(&self.counts.tokens);
                    minted += 1;
                }
            }
            if round.is_multiple_of(25) {
                let resident = chance.pick(&residents).unwrap();
                if let Some(token) = resident.person.token().filter(|t| !t.revoked.latest()) {
                    token.revoked.begin(true);
                    let body = json!({ "issuer": "dev", "token": token.id });
                    match self.stage.admin.ask(Method::POST, "/v1/revocations", Some(body)).await {
                        Ok(_) => token.revoked.settle(Duration::ZERO),
                        Err(error) => self.failed("a revocation", &error),
                    }
                    revoked.push_back((token.ends, token.id.clone()));
                    count(&self.counts.tokens_revoked);
                }
            }
            let over = |(ends, _): &(SystemTime, String)| *ends + Duration::from_secs(5) < now;
            while revoked.front().is_some_and(over) {
                let (_, id) = revoked.pop_front().unwrap();
                let body = json!({ "issuer": "dev", "token": id });
                let lifted =
                    self.stage.admin.ask(Method::DELETE, "/v1/revocations", Some(body)).await;
                if let Err(error) = lifted {
                    self.failed("a lift", &error);
                }
            }
        }
    }

    async fn keys(self: Arc<Self>) {
        let mut before = None;
        let mut keep = true;
        while self.pause(self.rotation).await {
            // Keys that are gone are accepted until the agent fetches the next time.
            let late = Duration::from_secs(66);
            self.stage.world.rotate(&self.stage.idp, keep, &mut before, late);
            keep = !keep;
            count(&self.counts.rotations);
            self.counts.events.lock().unwrap().push((Instant::now(), "keys"));
        }
    }

    /// People sign in and out.
    async fn sessions(self: Arc<Self>) {
        let mut chance = Chance::new(self.seed, 4);
        let mut browsers: VecDeque<(Resident, Arc<Session>, Browser)> = VecDeque::new();
        let https = self.stage.haproxy.https.port();
        while self.pause(Duration::from_millis(1500)).await {
            if browsers.len() >= self.sessions {
                let (resident, session, mut browser) = browsers.pop_front().unwrap();
                // They may have left meanwhile.
                if session.alive.latest() {
                    session.alive.begin(false);
                    let ended = if chance.percent(50) {
                        browser.sign_out().await
                    } else {
                        let subject = format!("sub-{}", resident.person.name);
                        let body = json!({ "issuer": "dev", "subject": subject });
                        let ended =
                            self.stage.admin.ask(Method::DELETE, "/v1/sessions", Some(body));
                        ended.await.map(drop)
                    };
                    match ended {
                        Ok(()) => session.alive.settle(Duration::ZERO),
                        Err(error) => self.failed("a sign-out", &error),
                    }
                    count(&self.counts.sign_outs);
                }
                *resident.person.session.lock().unwrap() = None;
                continue;
            }
            let resident = self.stage.world.any(&mut chance);
            let is_here = resident.place.phase.latest() == "running";
            if !is_here || resident.person.session().is_some() {
                continue;
            }
            // One after the other: this is who is signed in at the provider.
            self.stage.idp.set_user(&resident.person.name);
            let mut browser = Browser::new(self.stage.haproxy.http, https);
            let host = resident.place.host(Port::Main);
            match browser.sign_in(&host).await {
                Ok(cookie) => {
                    let session = Arc::new(Session { cookie, host, alive: Fact::new(true) });
                    *resident.person.session.lock().unwrap() = Some(Arc::clone(&session));
                    browsers.push_back((resident, session, browser));
                    count(&self.counts.sign_ins);
                }
                Err(error) => {
                    // It stopped, or they left, on the way.
                    let still = resident.place.phase.latest() == "running"
                        && !resident.person.revoked.latest();
                    if still {
                        self.failed("a sign-in", &error);
                    }
                    let body = json!({ "issuer": "dev", "subject": format!("sub-{}", resident.person.name) });
                    let _ = self.stage.admin.ask(Method::DELETE, "/v1/sessions", Some(body)).await;
                }
            }
        }
    }

    async fn reloads(self: Arc<Self>) {
        if self.reload.is_zero() {
            return;
        }
        while self.pause(self.reload).await {
            tokio::task::block_in_place(|| self.stage.haproxy.reload());
            count(&self.counts.reloads);
            self.counts.events.lock().unwrap().push((Instant::now(), "reload"));
        }
    }
}
