//! What is true, when it became so, and what an answer may therefore be.
//!
//! A fact changes in two steps: it *begins* right before the agent gets it, and it is *settled*
//! when the agent must act on it. A request that ran between the two may be answered either way; every other
//! request has one right answer.

use std::{
    collections::VecDeque,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// When a request was on its way.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: Instant,
    pub end: Instant,
}

impl Span {
    /// This moment.
    pub fn now() -> Self {
        Self { start: Instant::now(), end: Instant::now() }
    }
}

struct Version<T> {
    number: u64,
    begun: Instant,
    settled: Option<Instant>,
    value: T,
}

/// Something that is true for a while.
pub struct Fact<T>(Mutex<VecDeque<Version<T>>>);

impl<T: Clone + PartialEq> Fact<T> {
    pub fn new(value: T) -> Self {
        let now = Instant::now();
        Self(Mutex::new([Version { number: 0, begun: now, settled: Some(now), value }].into()))
    }

    /// From now on the value may be the new one. Returns its number.
    pub fn begin(&self, value: T) -> u64 {
        let mut versions = self.0.lock().unwrap();
        let number = versions.back().unwrap().number + 1;
        versions.push_back(Version { number, begun: Instant::now(), settled: None, value });
        number
    }

    /// From `late` on it is no other than the last one that began.
    pub fn settle(&self, late: Duration) {
        let last = self.0.lock().unwrap().back().unwrap().number;
        self.settle_one(last, late);
    }

    /// From `late` on it is that one, or one that began later.
    pub fn settle_one(&self, number: u64, late: Duration) {
        let mut versions = self.0.lock().unwrap();
        let now = Instant::now();
        if let Some(version) = versions.iter_mut().find(|version| version.number == number) {
            // What was settled before stays so.
            let at = version.settled.map_or(now + late, |at| at.min(now + late));
            version.settled = Some(at);
        }
        // What ended long ago matters for no request.
        let old = now.checked_sub(Duration::from_secs(30)).unwrap_or(now);
        while versions.get(1).is_some_and(|next| next.settled.is_some_and(|at| at < old)) {
            versions.pop_front();
        }
    }

    /// The last value that began.
    pub fn latest(&self) -> T {
        self.0.lock().unwrap().back().unwrap().value.clone()
    }

    /// All that it may have been.
    pub fn possible(&self, span: Span) -> Vec<T> {
        let versions = self.0.lock().unwrap();
        let sure = versions.iter().rposition(|v| v.settled.is_some_and(|at| at <= span.start));
        let possible = versions.iter().skip(sure.unwrap_or(0)).enumerate();
        let possible = possible.filter(|(index, v)| *index == 0 || v.begun <= span.end);
        possible.map(|(_, version)| version.value.clone()).collect()
    }

    fn may_be(&self, value: &T, span: Span) -> bool {
        self.possible(span).contains(value)
    }
}

/// What the agent takes for the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    Right,
    /// By more than any token lasts.
    Ahead,
    Behind,
}

/// How many milliseconds HAProxy may reuse an allow after the agent would refuse it; 0 without reuse.
pub static VERDICT_CACHE_MS: AtomicU64 = AtomicU64::new(0);

/// One agent, one clock.
pub static CLOCK: LazyLock<Fact<Clock>> = LazyLock::new(|| Fact::new(Clock::Right));

/// A person.
pub struct Person {
    /// The user name; the subject is `sub-NAME`.
    pub name: String,
    pub revoked: Fact<bool>,
    pub token: Mutex<Option<Arc<Token>>>,
    pub session: Mutex<Option<Arc<Session>>>,
}

impl Person {
    pub fn new(name: String) -> Arc<Self> {
        let revoked = Fact::new(false);
        Arc::new(Self { name, revoked, token: Mutex::default(), session: Mutex::default() })
    }

    pub fn token(&self) -> Option<Arc<Token>> {
        self.token.lock().unwrap().clone()
    }

    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().unwrap().clone()
    }
}

/// Keys of the provider.
pub struct Generation {
    pub number: u32,
    /// Whether a signature by them counts.
    pub counts: Fact<bool>,
}

/// A bearer token.
pub struct Token {
    pub text: String,
    pub id: String,
    /// Its `exp`: a whole second.
    pub ends: SystemTime,
    pub revoked: Fact<bool>,
    pub keys: Arc<Generation>,
}

/// A browser that signed in, at one workspace's host.
pub struct Session {
    pub cookie: String,
    pub host: String,
    pub alive: Fact<bool>,
}

/// Which source a workspace is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Api,
    File,
    /// A cluster, whose workspaces have one public port.
    Cluster(u16),
}

/// Where a workspace answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The owner's alone.
    Main,
    /// The owner's and of those it is granted to.
    Granted,
    /// Public.
    Public,
}

/// A workspace.
pub struct Place {
    pub id: String,
    pub source: Source,
    /// Which of the servers it is.
    pub slot: usize,
    /// Its owner's name.
    pub owner: String,
    pub phase: Fact<&'static str>,
    pub granted: Fact<Vec<String>>,
}

impl Place {
    pub fn host(&self, port: Port) -> String {
        let domain = match self.source {
            Source::Api => "api.gate.test",
            Source::File => "file.gate.test",
            Source::Cluster(_) => "cluster.gate.test",
        };
        let public = match self.source {
            Source::Cluster(public) => public,
            Source::Api | Source::File => 3000,
        };
        match port {
            Port::Main => format!("{}.{domain}", self.id),
            Port::Granted => format!("4000-{}.{domain}", self.id),
            Port::Public => format!("{public}-{}.{domain}", self.id),
        }
    }
}

/// What is shown at the gate.
#[derive(Clone)]
pub enum Credential {
    Nothing,
    /// A token that is always refused.
    Bad(Arc<str>),
    Bearer(Arc<Person>, Arc<Token>),
    Cookie(Arc<Person>, Arc<Session>),
}

/// One request: who sends it with which credential, and to which port of which workspace.
#[derive(Clone)]
pub struct Attempt {
    pub credential: Credential,
    pub place: Arc<Place>,
    pub port: Port,
}

/// What an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Possible {
    pub allow: bool,
    pub refuse: bool,
}

impl Attempt {
    /// What the answer may be to a request that was on its way in this time. With reuse, what was allowed a
    /// moment ago may still be.
    pub fn possible(&self, span: Span) -> Possible {
        let now = self.decided(span);
        let reuse = Duration::from_millis(VERDICT_CACHE_MS.load(Ordering::Relaxed));
        let start = span.start.checked_sub(reuse).unwrap_or(span.start);
        Possible { allow: now.allow || self.decided(Span { start, ..span }).allow, ..now }
    }

    /// What the agent may say in this time.
    fn decided(&self, span: Span) -> Possible {
        let (mut counts, mut counts_not) = self.credential_counts(span);
        if !matches!(self.credential, Credential::Nothing) {
            for clock in CLOCK.possible(span) {
                // What is over by one clock counts by another, and the other way round.
                counts_not |= clock != Clock::Right;
                counts |= clock == Clock::Behind && self.counts_but_for_its_end(span);
            }
        }
        let (mut access, mut no_access) = (false, false);
        for phase in self.place.phase.possible(span) {
            for granted in self.place.granted.possible(span) {
                let may = phase == "running" && self.admits(&granted);
                access |= may;
                no_access |= !may;
            }
        }
        Possible { allow: counts && access, refuse: counts_not || no_access }
    }

    fn credential_counts(&self, span: Span) -> (bool, bool) {
        let wall = SystemTime::now();
        let at = |moment: Instant| wall - moment.elapsed();
        match &self.credential {
            Credential::Nothing => (true, false),
            Credential::Bad(_) => (false, true),
            Credential::Bearer(person, token) => {
                let not = |fact: &Fact<bool>| fact.may_be(&false, span);
                let may = not(&person.revoked)
                    && not(&token.revoked)
                    && at(span.start) < token.ends
                    && token.keys.counts.may_be(&true, span);
                let may_not = person.revoked.may_be(&true, span)
                    || token.revoked.may_be(&true, span)
                    || at(span.end) >= token.ends
                    || token.keys.counts.may_be(&false, span);
                (may, may_not)
            }
            Credential::Cookie(person, session) => {
                let here = session.host == self.place.host(self.port);
                let may = here
                    && person.revoked.may_be(&false, span)
                    && session.alive.may_be(&true, span);
                let may_not = !here
                    || person.revoked.may_be(&true, span)
                    || session.alive.may_be(&false, span);
                (may, may_not)
            }
        }
    }

    fn counts_but_for_its_end(&self, span: Span) -> bool {
        let Credential::Bearer(person, token) = &self.credential else { return false };
        person.revoked.may_be(&false, span)
            && token.revoked.may_be(&false, span)
            && token.keys.counts.may_be(&true, span)
    }

    fn who(&self) -> Option<&str> {
        match &self.credential {
            Credential::Nothing | Credential::Bad(_) => None,
            Credential::Bearer(person, _) | Credential::Cookie(person, _) => Some(&person.name),
        }
    }

    fn admits(&self, granted: &[String]) -> bool {
        let who = self.who();
        let is_owner = who == Some(&*self.place.owner);
        match self.port {
            Port::Public => true,
            Port::Main => is_owner,
            // A cluster's workspaces have no such port.
            Port::Granted if matches!(self.place.source, Source::Cluster(_)) => false,
            Port::Granted => is_owner || who.is_some_and(|who| granted.iter().any(|g| g == who)),
        }
    }

    /// The request.
    pub fn request(&self) -> Vec<u8> {
        let credential = match &self.credential {
            Credential::Nothing => String::new(),
            Credential::Bad(text) => format!("Authorization: Bearer {text}\r\n"),
            Credential::Bearer(_, token) => format!("Authorization: Bearer {}\r\n", token.text),
            Credential::Cookie(_, session) => format!("Cookie: theme=dark; {}\r\n", session.cookie),
        };
        let host = self.place.host(self.port);
        format!("GET /some/where HTTP/1.1\r\nHost: {host}\r\nUser-Agent: prove\r\n{credential}\r\n")
            .into_bytes()
    }

    /// For the report.
    pub fn describe(&self) -> String {
        let credential = match &self.credential {
            Credential::Nothing => "nothing".to_owned(),
            Credential::Bad(_) => "a bad token".to_owned(),
            Credential::Bearer(person, token) => format!(
                "{}'s token (keys {}, revoked {}/{}, {:?} left)",
                person.name,
                token.keys.number,
                person.revoked.latest(),
                token.revoked.latest(),
                token.ends.duration_since(SystemTime::now()).unwrap_or_default()
            ),
            Credential::Cookie(person, session) => {
                format!("{}'s session (alive {})", person.name, session.alive.latest())
            }
        };
        format!(
            "{credential} at {} of {} ({})",
            self.place.host(self.port),
            self.place.owner,
            self.place.phase.latest()
        )
    }

    /// Whether the person and workspace in the response are those of the request.
    pub fn is_right_place(&self, told: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let expect = |what: &str, expected: &str| {
            let found = told(what).unwrap_or_default();
            if found == expected { Ok(()) } else { Err(format!("{what} {found:?}")) }
        };
        expect("slot", &self.place.slot.to_string())?;
        expect("workspace", &self.place.id)?;
        match self.who() {
            Some(who) => expect("subject", &format!("sub-{who}")),
            None => expect("subject", ""),
        }
    }
}

/// The oracle is tried before it is believed.
pub fn self_check() {
    let person = Person::new("ann".into());
    let other = Person::new("bob".into());
    let keys = Arc::new(Generation { number: 1, counts: Fact::new(true) });
    let token = |ends| {
        Arc::new(Token {
            text: String::new(),
            id: String::new(),
            ends,
            revoked: Fact::new(false),
            keys: Arc::clone(&keys),
        })
    };
    let place = Arc::new(Place {
        id: "w".into(),
        source: Source::Api,
        slot: 0,
        owner: "ann".into(),
        phase: Fact::new("running"),
        granted: Fact::new(vec![]),
    });
    let later = SystemTime::now() + Duration::from_mins(1);
    let asks = |who: &Arc<Person>, token: &Arc<Token>, port| Attempt {
        credential: Credential::Bearer(Arc::clone(who), Arc::clone(token)),
        place: Arc::clone(&place),
        port,
    };
    let (allow, refuse, either) = (
        Possible { allow: true, refuse: false },
        Possible { allow: false, refuse: true },
        Possible { allow: true, refuse: true },
    );
    let good = token(later);
    let hers = asks(&person, &good, Port::Main);
    let his = asks(&other, &good, Port::Granted);
    let over = asks(&person, &token(SystemTime::now() - Duration::from_secs(1)), Port::Main);
    let check = |attempt: &Attempt, expected, what| {
        assert_eq!(attempt.possible(Span::now()), expected, "the oracle itself: {what}");
    };
    check(&hers, allow, "an owner");
    check(&his, refuse, "a stranger");
    check(&over, refuse, "an expired token");
    place.granted.begin(vec!["bob".into()]);
    check(&his, either, "a grant that is being told");
    place.granted.settle(Duration::ZERO);
    check(&his, allow, "a grant");
    let before = Span::now();
    place.phase.begin("stopped");
    check(&hers, either, "a workspace that is being stopped");
    place.phase.settle(Duration::ZERO);
    check(&hers, refuse, "a stopped workspace");
    assert_eq!(hers.possible(before), allow, "the oracle itself: an answer from before");
    place.phase.begin("running");
    place.phase.settle(Duration::ZERO);
    for (fact, back) in [(&keys.counts, true), (&person.revoked, false), (&good.revoked, false)] {
        fact.begin(!back);
        fact.settle(Duration::ZERO);
        check(&hers, refuse, "keys gone, a person revoked, a token revoked");
        fact.begin(back);
        fact.settle(Duration::ZERO);
        check(&hers, allow, "and back");
    }
}
