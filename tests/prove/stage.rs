//! The stage: provider, workspaces, the agent and HAProxy, and who is there.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    chance::Chance,
    truth::{Attempt, Credential, Generation, Person, Place, Source, Token},
    upstream,
};
use dev_idp::{DevIdp, TokenRequest};
use test_stage::{
    AgentProcess, AgentToml, Haproxy, Setup, Version, agent::program, haproxy::free_port,
};

/// How long after its change the list's file must count.
const FILE_LATE: Duration = Duration::from_secs(2);
/// How long after the API's answer a change must count.
const API_LATE: Duration = Duration::from_millis(50);

/// A person and their workspace.
#[derive(Clone)]
pub struct Resident {
    pub person: Arc<Person>,
    pub place: Arc<Place>,
}

/// What is different from one stage to another.
pub struct Plan {
    pub slots: usize,
    pub seed: u64,
    /// The tag of HAProxy's image.
    pub haproxy: Option<String>,
}

/// Everything.
pub struct Stage {
    pub idp: DevIdp,
    pub agent: AgentProcess,
    pub haproxy: Haproxy,
    pub directory: TempDir,
    pub admin: Admin,
    pub world: Arc<World>,
    /// Where each slot's server is.
    pub servers: Vec<SocketAddr>,
}

/// Who and what is there.
pub struct World {
    /// By slot.
    residents: Mutex<Vec<Resident>>,
    /// Who was revoked and left, with what they still have.
    pub ghosts: Mutex<Vec<Resident>>,
    /// Tokens that are always refused.
    pub bad: Vec<Arc<str>>,
    keys: Mutex<Arc<Generation>>,
    /// How many people there have been.
    pub people: Mutex<usize>,
}

impl World {
    pub fn residents(&self) -> MutexGuard<'_, Vec<Resident>> {
        self.residents.lock().unwrap()
    }

    /// A stage without people.
    pub fn new(idp: &DevIdp) -> Self {
        let keys = Arc::new(Generation { number: 1, counts: crate::truth::Fact::new(true) });
        Self {
            residents: Mutex::default(),
            ghosts: Mutex::default(),
            bad: bad_tokens(idp),
            keys: Mutex::new(keys),
            people: Mutex::default(),
        }
    }

    /// A new person with a workspace that no source lists yet.
    pub fn newcomer(
        &self,
        idp: &DevIdp,
        slot: usize,
        source: Source,
        chance: &mut Chance,
    ) -> Resident {
        let number = {
            let mut people = self.people.lock().unwrap();
            *people += 1;
            *people
        };
        let person = Person::new(format!("p{number}"));
        let seconds = 40 + chance.below(120);
        *person.token.lock().unwrap() = Some(self.mint(idp, &person.name, seconds, chance));
        let place = Arc::new(Place {
            id: format!("w{number}"),
            source,
            slot,
            owner: person.name.clone(),
            phase: crate::truth::Fact::new("absent"),
            granted: crate::truth::Fact::new(vec![]),
        });
        Resident { person, place }
    }

    /// A token for a person.
    pub fn mint(
        &self,
        idp: &DevIdp,
        name: &str,
        seconds: usize,
        chance: &mut Chance,
    ) -> Arc<Token> {
        let id = format!("t{:016x}", chance.next());
        let request = TokenRequest {
            user: name.into(),
            alg: (*chance.pick(&["ES256", "RS256", "EdDSA", "ES384"]).unwrap()).into(),
            expires_in: i64::try_from(seconds).unwrap(),
            claims: json!({ "jti": id }).as_object().unwrap().clone(),
            ..TokenRequest::default()
        };
        // The keys are not replaced between the two.
        let keys = self.keys.lock().unwrap();
        let text = idp.token(&request);
        let keys = Arc::clone(&keys);
        let ends = end_of(&text);
        let revoked = crate::truth::Fact::new(false);
        Arc::new(Token { text, id, ends, revoked, keys })
    }

    /// New keys. Tokens of the old ones count for as long as these are published.
    pub fn rotate(
        &self,
        idp: &DevIdp,
        keep: bool,
        before: &mut Option<Arc<Generation>>,
        late: Duration,
    ) {
        let old = self.keys();
        for gone in before.take().into_iter().chain((!keep).then(|| Arc::clone(&old))) {
            gone.counts.begin(false);
            gone.counts.settle(late);
        }
        let number = old.number + 1;
        let counts = crate::truth::Fact::new(false);
        counts.begin(true);
        let next = Arc::new(Generation { number, counts });
        // No token is made between the two.
        let mut keys = self.keys.lock().unwrap();
        tokio::task::block_in_place(|| idp.rotate(keep));
        *keys = Arc::clone(&next);
        // Strangers with made-up key ids may have used up what may be fetched in this second.
        next.counts.settle(Duration::from_secs(2));
        if keep {
            *before = Some(old);
        }
    }

    pub fn any(&self, chance: &mut Chance) -> Resident {
        chance.pick(&self.residents()).unwrap().clone()
    }

    pub fn keys(&self) -> Arc<Generation> {
        Arc::clone(&self.keys.lock().unwrap())
    }

    /// The next request of some person.
    pub fn attempt(&self, chance: &mut Chance) -> Attempt {
        use crate::truth::Port;
        let Resident { person, place } = self.any(chance);
        let bearer = |person: &Arc<Person>| match person.token() {
            Some(token) => Credential::Bearer(Arc::clone(person), token),
            None => Credential::Nothing,
        };
        let is_public = |credential: &Credential, port| match credential {
            Credential::Nothing => (Credential::Nothing, Port::Public),
            credential => (credential.clone(), port),
        };
        let own = is_public(&bearer(&person), Port::Main);
        let (place, (credential, port)) = match chance.below(100) {
            0..40 => (place, own),
            // Somewhere it may be granted, or not.
            40..58 => (self.any(chance).place, is_public(&bearer(&person), Port::Granted)),
            58..66 => (self.any(chance).place, is_public(&bearer(&person), Port::Main)),
            66..74 => (place, (Credential::Nothing, Port::Public)),
            74..82 => match person.session() {
                // Now and then at a host that it is not for.
                Some(session) if chance.percent(80) => {
                    (place, (Credential::Cookie(person, session), Port::Main))
                }
                Some(session) => {
                    let elsewhere = self.any(chance).place;
                    (elsewhere, (Credential::Cookie(person, session), Port::Granted))
                }
                None => (place, own),
            },
            82..89 => {
                let bad = chance.pick(&self.bad).cloned();
                let credential = bad.map_or(Credential::Nothing, Credential::Bad);
                (place, is_public(&credential, Port::Main))
            }
            89..94 => {
                let ghost = chance.pick(&self.ghosts.lock().unwrap()).cloned();
                match ghost {
                    Some(ghost) => {
                        let to = if chance.percent(50) { ghost.place } else { place };
                        (to, is_public(&bearer(&ghost.person), Port::Main))
                    }
                    None => (place, own),
                }
            }
            _ => {
                // A client without a credential, at what is not public.
                let nothing = Credential::Bad("".into());
                (place, (nothing, Port::Main))
            }
        };
        Attempt { credential, place, port }
    }
}

impl Stage {
    /// Starts everything; people have tokens, workspaces run.
    pub async fn start(plan: &Plan) -> Self {
        let idp = DevIdp::start().await;
        let servers = upstream::start(plan.slots).await;
        let pages = free_port();
        let setup = Setup::new().with_sign_in(pages);
        // Debug lines of an hour would be gigabytes.
        setup.write("agent.level", "info");
        setup.write("workspaces.yaml", "workspaces: []\n");
        let version = match &plan.haproxy {
            Some(tag) => Version::Container(tag.clone()),
            None => Version::newest().clone(),
        };
        println!("HAProxy: {version:?}");
        let haproxy = setup.haproxy(&version, servers[0]).await;
        let agent = setup.agent(config(idp.issuer(), haproxy.https.port(), pages)).await;
        let directory = setup.directory;
        let path = directory.path();
        let admin = Admin::new(&path.join("agent-admin.sock"));
        let world = Arc::new(World::new(&idp));
        let stage = Self { idp, agent, haproxy, directory, admin, world, servers };
        let mut chance = Chance::new(plan.seed, 1);
        for slot in 0..plan.slots {
            let resident = stage.newcomer(slot, &mut chance);
            stage.world.residents().push(resident);
        }
        let residents = stage.world.residents().clone();
        for resident in &residents {
            resident.place.phase.begin("running");
            if resident.place.source == Source::Api {
                stage.write(&resident.place).await.unwrap();
            }
        }
        stage.write_file();
        stage
    }

    /// A new person, at one of the sources.
    pub fn newcomer(&self, slot: usize, chance: &mut Chance) -> Resident {
        let source = if slot.is_multiple_of(2) { Source::Api } else { Source::File };
        self.world.newcomer(&self.idp, slot, source, chance)
    }

    fn record(&self, place: &Place) -> Value {
        let grants: Vec<_> = place
            .granted
            .latest()
            .iter()
            .map(|name| json!({ "user": { "issuer": "dev", "subject": format!("sub-{name}") }, "endpoints": [4000] }))
            .collect();
        let destination = self.servers[place.slot].to_string();
        json!({
            "id": place.id,
            "owner": { "issuer": "dev", "subject": format!("sub-{}", place.owner) },
            "phase": place.phase.latest(),
            "admission": "owner",
            "destination": destination,
            "grants": grants,
            "ports": [
                { "port": 4000, "admission": "grants", "destination": destination },
                { "port": 3000, "admission": "public", "destination": destination },
            ],
        })
    }

    /// Tells the API what is true of a workspace now.
    pub async fn write(&self, place: &Place) -> Result<(), String> {
        let path = format!("/v1/sources/api/workspaces/{}", place.id);
        let told = if place.phase.latest() == "absent" {
            self.admin.ask(Method::DELETE, &path, None).await
        } else {
            self.admin.ask(Method::PUT, &path, Some(self.record(place))).await
        };
        if told.is_ok() {
            place.phase.settle(API_LATE);
            place.granted.settle(API_LATE);
        }
        told.map(drop)
    }

    /// Writes the list again, as editors do it: in one piece.
    pub fn write_file(&self) {
        let residents = self.world.residents().clone();
        let of_file = residents.iter().map(|resident| &resident.place);
        let of_file = of_file.filter(|p| p.source == Source::File && p.phase.latest() != "absent");
        let of_file: Vec<_> = of_file.collect();
        let mut text = String::from("workspaces:\n");
        for place in &of_file {
            writeln!(text, "  - {}", self.record(place)).unwrap();
        }
        test_stage::replace(&self.directory.path().join("workspaces.yaml"), text);
        for place in of_file {
            place.phase.settle(FILE_LATE);
            place.granted.settle(FILE_LATE);
        }
    }

    /// Tells the agent of a workspace, whichever way.
    pub async fn tell(&self, place: &Place) -> Result<(), String> {
        match place.source {
            Source::Api => self.write(place).await,
            Source::File => {
                self.write_file();
                // One that is absent is not in it.
                place.phase.settle(FILE_LATE);
                Ok(())
            }
            Source::Cluster(_) => Err("the platform tells of it".into()),
        }
    }
}

/// The administrator's socket.
pub struct Admin(reqwest::Client);

impl Admin {
    pub fn new(socket: &Path) -> Self {
        let client = reqwest::Client::builder().unix_socket(socket.to_owned());
        Self(client.timeout(Duration::from_secs(10)).build().unwrap())
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<String, String> {
        let mut request = self.0.request(method, format!("http://agent{path}"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.map_err(|error| error.to_string())?;
        let status = response.status();
        let text = response.text().await.map_err(|error| error.to_string())?;
        if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}")) }
    }
}

fn end_of(token: &str) -> SystemTime {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(claims["exp"].as_u64().unwrap())
}

/// Tokens that are always refused, for every client and whatever the keys are.
fn bad_tokens(idp: &DevIdp) -> Vec<Arc<str>> {
    let usual = || TokenRequest { user: "p1".into(), expires_in: 86_400, ..Default::default() };
    let good = idp.token(&usual());
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let mut bad = vec![
        "nonsense".to_owned(),
        format!("{rest}.{other}{}", &signature[1..]),
        format!("{rest}."),
    ];
    for request in [
        TokenRequest { alg: "none".into(), ..usual() },
        TokenRequest { alg: "HS256".into(), ..usual() },
        TokenRequest { audience: json!("elsewhere"), ..usual() },
        TokenRequest { expires_in: -60, ..usual() },
        TokenRequest { sign_with: "unpublished".into(), ..usual() },
    ] {
        bad.push(idp.token(&request));
    }
    bad.into_iter().map(Arc::from).collect()
}

/// Whether the audit log of the agent that ran in a directory is whole; prints what 'audit verify' says.
pub fn audit_log_is_whole(directory: &Path) -> bool {
    let verified = std::process::Command::new(program())
        .args(["audit", "verify", "--config"])
        .arg(directory.join("agent.toml"))
        .output()
        .unwrap();
    let said = [verified.stdout, verified.stderr].concat();
    println!("\nthe audit log: {}", String::from_utf8_lossy(&said).trim());
    verified.status.success()
}

fn config(issuer: &str, https: u16, pages: SocketAddr) -> AgentToml {
    let hosts = |source: &str| {
        format!(
            "pattern = '(?:(?<port>[0-9]+)-)?(?<workspace>w[0-9]+)\\.{source}\\.gate\\.test'\nsource = \"{source}\""
        )
    };
    AgentToml::new(issuer)
        .lines(
            "[[issuer]]",
            "match = [\"subject\"]\nunknown_key_seconds = 1\nrefresh_seconds = 60\nleeway_seconds = 0",
        )
        .sign_in(https, pages, "sessions_file = \"sessions\"\nrefresh_seconds = 60")
        .table("[[host]]", &hosts("api"))
        .table("[[host]]", &hosts("file"))
        .table("[destinations]", "allow = [\"127.0.0.0/8\"]")
        .table("[workspaces]", "file = \"workspaces.yaml\"")
        .table("[[source]]", "name = \"api\"\nkind = \"api\"\nlease_seconds = 300")
        .table("[haproxy]", "sockets = [\"unix:master.sock\"]")
        .audit()
        .lines("[audit]", "rotate_mib = 64")
        .admin()
}
