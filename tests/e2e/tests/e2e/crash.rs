//! Killing the server at random moments, many times, and looking at what is left.
//!
//! Workers create, use and destroy sandboxes and note what they were promised; then the server, or
//! what it depends on, dies without a word. After each restart every promise must hold, and the host
//! must hold nothing that the server does not know of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::http::Response;
use crate::harness::{SOON, Server, eventually, host};

/// More than that make the checks between two kills slow, and find nothing more.
const MAX_SANDBOXES: usize = 6;
const WORKERS: u64 = 4;

/// What a sandbox's file may hold: what was last acknowledged, or what was on its way.
#[derive(Clone, Debug, Default)]
struct Content {
    acknowledged: Option<String>,
    on_its_way: Option<String>,
}

/// What the server has promised.
#[derive(Debug, Default)]
struct World {
    /// Running, and not in the hands of a worker.
    running: BTreeMap<String, Content>,
    /// Destroy was asked for and never answered: either way is right, half way is not.
    doomed: BTreeMap<String, Content>,
    /// Destroy was answered.
    destroyed: BTreeSet<String>,
    /// How often each thing was asked for, and how often the answer never came: shows that the
    /// loop does what it is for.
    asked: BTreeMap<&'static str, (u32, u32)>,
    /// Whether 503 is an answer like none at all.
    may_refuse: bool,
}

/// Pseudo-random numbers (Marsaglia's xorshift64), so that a run can be told from its seed.
struct Dice(u64);

impl Dice {
    /// Takes the seed from the clock and prints it, so that a run can be repeated.
    fn thrown() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        eprintln!("seed {}", now.subsec_nanos());
        Self(u64::from(now.subsec_nanos()) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// How often to strike: so often, or as the environment says.
fn rounds(usual: u64) -> u64 {
    std::env::var("STACYVM_CRASH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

/// What dies, and what must be gone afterwards.
pub(crate) trait Victim: Sync {
    /// How often.
    const ROUNDS: u64;
    /// The latest moment of a blow, after work has begun or a restart.
    const LATEST: Duration;
    /// Whether the server may answer a request with 503.
    const MAY_REFUSE: bool;

    /// Kills it.
    fn strike(&mut self, server: &Server);

    /// Brings it back, when no worker runs any more.
    fn mend(&mut self, server: &mut Server);

    /// What the host holds of sandboxes that the server does not know.
    fn orphans(&self, server: &Server, known: &BTreeSet<String>) -> Vec<String>;
}

/// Strikes the server itself; its sandboxes are native.
struct NativeServer;

impl Victim for NativeServer {
    const ROUNDS: u64 = 50;
    const LATEST: Duration = Duration::from_millis(60);
    const MAY_REFUSE: bool = false;

    fn strike(&mut self, server: &Server) {
        kill(server);
    }

    fn mend(&mut self, server: &mut Server) {
        server.reap();
        server.resume();
    }

    fn orphans(&self, server: &Server, known: &BTreeSet<String>) -> Vec<String> {
        host::unknown(&server.data_dir(), known, server.pid())
    }
}

/// Kills a server without waiting for its end.
pub(crate) fn kill(server: &Server) {
    rustix::process::kill_process(server.pid(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn killed_at_random_moments_nothing_is_orphaned_and_nothing_is_lost() {
    let mut server = Server::start();
    strike_again_and_again(&mut server, &mut NativeServer);
    for id in server.list() {
        server
            .request("DELETE", &format!("/sandboxes/{id}"), None)
            .expect(200);
        assert_eq!(host::remains(&id, &server.data_dir()), Vec::<String>::new());
    }
    assert_eq!(host::boxes(&server.data_dir()), BTreeSet::new());
}

/// Works, strikes, mends and looks, in rounds.
pub(crate) fn strike_again_and_again<V: Victim>(server: &mut Server, victim: &mut V) {
    let mut dice = Dice::thrown();
    let world = Mutex::new(World {
        may_refuse: V::MAY_REFUSE,
        ..World::default()
    });
    for round in 0..rounds(V::ROUNDS) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for number in 0..WORKERS {
                let dice = Dice(dice.below(u64::MAX - 1) + 1 + number);
                let (server, world, stop) = (&*server, &world, &stop);
                scope.spawn(move || work(server, world, stop, dice, round));
            }
            // A third dies in the first work after the start, the others in the midst of it.
            if dice.below(3) > 0 {
                let before = answers(&world);
                eventually("work is being done", SOON, || answers(&world) > before + 4);
            }
            let latest = u64::try_from(V::LATEST.as_micros()).unwrap();
            std::thread::sleep(Duration::from_micros(dice.below(latest)));
            victim.strike(server);
            stop.store(true, Ordering::Relaxed);
        });
        victim.mend(server);
        check(server, victim, &world, round);
    }
    let world = world.into_inner().unwrap();
    eprintln!("asked for, and never answered: {:?}", world.asked);
    for action in ["create", "exec", "write", "destroy"] {
        assert!(world.asked.contains_key(action), "no {action} was tried");
    }
}

/// Does one thing after another until the server dies.
fn work(server: &Server, world: &Mutex<World>, stop: &AtomicBool, mut dice: Dice, round: u64) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let text = format!("{round}-{number}-{}", dice.below(1 << 30));
        let taken = {
            let mut world = world.lock().unwrap();
            let count = world.running.len() as u64;
            let pick = usize::try_from(dice.below(count.max(1))).unwrap();
            let id = world.running.keys().nth(pick).cloned();
            if count < MAX_SANDBOXES as u64 && (dice.below(3) == 0 || id.is_none()) {
                None
            } else {
                id.and_then(|id| world.running.remove_entry(&id))
            }
        };
        let alive = match taken {
            None => create(server, world),
            Some((id, content)) => match dice.below(4) {
                0 => destroy(server, world, id, content),
                1 | 2 => write(server, world, id, content, text),
                _ => exec(server, world, id, content),
            },
        };
        if !alive {
            return;
        }
    }
}

/// How many answers came so far.
fn answers(world: &Mutex<World>) -> u32 {
    let world = world.lock().unwrap();
    world
        .asked
        .values()
        .map(|(asked, unanswered)| asked - unanswered)
        .sum()
}

fn count(world: &Mutex<World>, action: &'static str, answered: bool) {
    let mut world = world.lock().unwrap();
    let (asked, unanswered) = world.asked.entry(action).or_default();
    *asked += 1;
    *unanswered += u32::from(!answered);
}

/// Asks, and counts; none when there was no answer, or one that promises nothing.
fn ask(
    server: &Server,
    world: &Mutex<World>,
    action: &'static str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Option<Response> {
    let answer = server.try_request(method, path, body).ok();
    let may_refuse = world.lock().unwrap().may_refuse;
    let answer = answer.filter(|response| !(may_refuse && response.status == 503));
    count(world, action, answer.is_some());
    answer
}

fn create(server: &Server, world: &Mutex<World>) -> bool {
    let answer = ask(
        server,
        world,
        "create",
        "POST",
        "/sandboxes",
        Some(json!({})),
    );
    let Some(response) = answer else {
        return false;
    };
    let sandbox = response.expect(201);
    let id = sandbox["id"].as_str().unwrap().to_owned();
    let before = world
        .lock()
        .unwrap()
        .running
        .insert(id.clone(), Content::default());
    assert!(before.is_none(), "the id {id} was given out twice");
    true
}

fn exec(server: &Server, world: &Mutex<World>, id: String, content: Content) -> bool {
    let path = format!("/sandboxes/{id}/exec");
    let body = json!({"command": "echo $HOME"});
    let alive = ask(server, world, "exec", "POST", &path, Some(body))
        .map(|response| assert_eq!(response.expect(200)["exit_code"], 0))
        .is_some();
    world.lock().unwrap().running.insert(id, content);
    alive
}

fn write(
    server: &Server,
    world: &Mutex<World>,
    id: String,
    mut content: Content,
    text: String,
) -> bool {
    let path = format!("/sandboxes/{id}/files");
    let body = json!({"path": "promise", "content": text});
    let alive = match ask(server, world, "write", "POST", &path, Some(body)) {
        Some(response) => {
            response.expect(200);
            content = Content {
                acknowledged: Some(text),
                on_its_way: None,
            };
            true
        }
        None => {
            content.on_its_way = Some(text);
            false
        }
    };
    world.lock().unwrap().running.insert(id, content);
    alive
}

fn destroy(server: &Server, world: &Mutex<World>, id: String, content: Content) -> bool {
    let path = format!("/sandboxes/{id}");
    let answer = ask(server, world, "destroy", "DELETE", &path, None);
    let mut world = world.lock().unwrap();
    match answer {
        Some(response) => {
            response.expect(200);
            world.destroyed.insert(id);
            true
        }
        None => {
            world.doomed.insert(id, content);
            false
        }
    }
}

/// Every promise holds, and the host holds nothing that the server does not know of.
fn check(server: &Server, victim: &impl Victim, world: &Mutex<World>, round: u64) {
    let mut world = world.lock().unwrap();
    let mut listed = BTreeSet::new();
    // What was half done when the server died is finished or undone in the background.
    eventually_or("everything is settled", || {
        let sandboxes = server.request("GET", "/sandboxes", None).expect(200);
        let sandboxes = sandboxes.as_array().unwrap();
        listed = sandboxes
            .iter()
            .map(|sandbox| sandbox["id"].as_str().unwrap().to_owned())
            .collect();
        let not_running: Vec<_> = sandboxes
            .iter()
            .filter(|sandbox| sandbox["state"] != "running")
            .collect();
        let unknown = victim.orphans(server, &listed);
        if not_running.is_empty() && unknown.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "round {round}: not running: {not_running:?}; orphaned: {unknown:?}"
            ))
        }
    });

    for (id, content) in &world.running {
        assert!(listed.contains(id), "round {round}: {id} was lost");
        let answer = server.exec(id, "cat promise 2>/dev/null; true");
        let found = answer["stdout"].as_str().unwrap().to_owned();
        let acknowledged = content.acknowledged.clone().unwrap_or_default();
        assert!(
            found == acknowledged || Some(&found) == content.on_its_way.as_ref(),
            "round {round}: {id} holds {found:?}, promised was {content:?}"
        );
    }
    for id in &world.destroyed {
        assert!(!listed.contains(id), "round {round}: {id} came back");
    }
    // A create or a destroy that was never answered may have happened or not.
    let doomed = std::mem::take(&mut world.doomed);
    for (id, content) in doomed {
        if listed.contains(&id) {
            world.running.insert(id, content);
        } else {
            let response = server.request("GET", &format!("/sandboxes/{id}"), None);
            assert_eq!(response.status, 404);
            world.destroyed.insert(id);
        }
    }
    for id in &listed {
        assert_eq!(
            server.exec(id, "echo alive")["stdout"],
            "alive\n",
            "round {round}"
        );
        world.running.entry(id.clone()).or_default();
    }
    // From here on only what the file holds now is right.
    for (id, content) in &mut world.running {
        if content.on_its_way.take().is_some() {
            let answer = server.exec(id, "cat promise 2>/dev/null; true");
            content.acknowledged = answer["stdout"].as_str().map(str::to_owned);
        }
    }
}

/// Waits until `attempt` succeeds; panics with what it said last when it does not.
fn eventually_or(what: &str, mut attempt: impl FnMut() -> Result<(), String>) {
    let mut said = String::new();
    let start = Instant::now();
    while start.elapsed() < SOON {
        match attempt() {
            Ok(()) => return,
            Err(reason) => said = reason,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within {SOON:?}: {what}: {said}");
}
