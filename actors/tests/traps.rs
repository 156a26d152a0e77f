//! The traps of actix that were measured before it was chosen. Each test shows the trap in plain
//! actix first, and then that it is not there in the way actors are used here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use actix::prelude::*;
use cocoon_actors::ask::{
    Address, Ask, AskError, Named, Query, Reply, ask, ask_surely, tell, tell_surely,
};
use cocoon_actors::supervision::{MAILBOX, Stop, end_process_on_panic, supervise, supervise_on};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as blocking;

/// More than any mailbox here holds.
const FLOOD: usize = 2_000;

/// Counts what reaches it.
struct Counter {
    seen: Arc<AtomicUsize>,
    restarts: Arc<AtomicUsize>,
}

impl Counter {
    fn new() -> Self {
        Self {
            seen: Arc::default(),
            restarts: Arc::default(),
        }
    }
}

impl Named for Counter {
    const NAME: &'static str = "counter";
}
impl Actor for Counter {
    type Context = Context<Self>;
}
impl Supervised for Counter {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.restarts.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Count;
impl Handler<Count> for Counter {
    type Result = ();
    fn handle(&mut self, _: Count, _: &mut Self::Context) {
        self.seen.fetch_add(1, Ordering::SeqCst);
    }
}

struct HowMany;
impl Query for HowMany {
    type Answer = usize;
}
impl Handler<Ask<HowMany>> for Counter {
    type Result = ();
    fn handle(&mut self, asked: Ask<HowMany>, _: &mut Self::Context) {
        let (_, reply, _span) = asked.open();
        reply.send(self.seen.load(Ordering::SeqCst));
    }
}

/// Occupies the actor's thread until the other end of the gate is dropped.
#[derive(Message)]
#[rtype(result = "()")]
struct Occupy {
    begun: blocking::Sender<()>,
    gate: blocking::Receiver<()>,
}
impl Handler<Occupy> for Counter {
    type Result = ();
    fn handle(&mut self, Occupy { begun, gate }: Occupy, _: &mut Self::Context) {
        begun.send(()).unwrap();
        let _ = gate.recv();
    }
}

impl Handler<Stop> for Counter {
    type Result = ();
    fn handle(&mut self, _: Stop, context: &mut Self::Context) {
        context.stop();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Crash;
impl Handler<Crash> for Counter {
    type Result = ();
    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("an actor fell over");
    }
}

fn system<T>(body: impl Future<Output = T>) -> T {
    System::new().block_on(body)
}

mod a_mailbox_has_a_bound {
    use super::*;

    fn plain(counter: Counter) -> Addr<Counter> {
        Supervisor::start(|context: &mut Context<Counter>| {
            context.set_mailbox_capacity(MAILBOX);
            counter
        })
    }

    #[test]
    fn trap_do_send_ignores_it() {
        system(async {
            let counter = Counter::new();
            let seen = Arc::clone(&counter.seen);
            let plain = plain(counter);
            // Nothing yields in here, so the actor does not run and nothing leaves the mailbox.
            for _ in 0..FLOOD {
                plain.do_send(Count);
            }
            plain.send(Count).await.unwrap();
            assert_eq!(seen.load(Ordering::SeqCst), FLOOD + 1);
        });
    }

    #[test]
    fn trap_try_send_keeps_it_for_each_clone_of_the_address() {
        system(async {
            let plain = plain(Counter::new());
            let taken = (0..FLOOD).filter(|_| plain.try_send(Count).is_ok()).count();
            assert_eq!(taken, MAILBOX);
            let taken = (0..FLOOD)
                .filter(|_| plain.clone().try_send(Count).is_ok())
                .count();
            assert_eq!(taken, FLOOD, "an address for each message has no bound");
        });
    }

    #[test]
    fn ours_is_exact_however_many_addresses_there_are_and_full_is_an_answer() {
        system(async {
            let counter = Counter::new();
            let seen = Arc::clone(&counter.seen);
            let ours = supervise(counter);
            let full = AskError::Full { actor: "counter" };
            let mut taken = 0;
            for _ in 0..FLOOD {
                match tell(&ours.clone(), Count) {
                    Ok(()) => taken += 1,
                    Err(error) => assert_eq!(error, full),
                }
            }
            assert_eq!(taken, MAILBOX);
            assert_eq!(ask(&ours, HowMany).await, Err(full));
            // What must arrive waits, outside of the mailbox, and arrives after the rest.
            tell_surely(&ours, Count).await.unwrap();
            assert_eq!(ask_surely(&ours, HowMany).await, Ok(MAILBOX + 1));
            assert_eq!(seen.load(Ordering::SeqCst), MAILBOX + 1);
        });
    }

    #[test]
    fn ours_is_exact_between_threads() {
        system(async {
            let counter = Counter::new();
            let seen = Arc::clone(&counter.seen);
            let ours = supervise_on(&Arbiter::new().handle(), counter);
            let (begun, occupied) = blocking::channel();
            let (release, gate) = blocking::channel();
            tell(&ours, Occupy { begun, gate }).unwrap();
            occupied.recv().unwrap();
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let ours = ours.clone();
                    std::thread::spawn(move || {
                        (0..FLOOD)
                            .filter(|_| tell(&ours.clone(), Count).is_ok())
                            .count()
                    })
                })
                .collect();
            let taken: usize = threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum();
            assert_eq!(taken, MAILBOX);
            drop(release);
            assert_eq!(ask_surely(&ours, HowMany).await, Ok(MAILBOX));
            assert_eq!(seen.load(Ordering::SeqCst), MAILBOX);
        });
    }

    /// Sixteen is actix's default, in force until the actor's own thread has called our closure.
    #[test]
    fn ours_is_smaller_until_an_actor_on_another_thread_has_begun() {
        system(async {
            let arbiter = Arbiter::new();
            let (begun, occupied) = blocking::channel();
            let (release, gate) = blocking::channel::<()>();
            arbiter.spawn_fn(move || {
                begun.send(()).unwrap();
                let _ = gate.recv();
            });
            occupied.recv().unwrap();
            let ours = supervise_on(&arbiter.handle(), Counter::new());
            let taken = (0..FLOOD).filter(|_| tell(&ours, Count).is_ok()).count();
            assert_eq!(taken, 16);
            drop(release);
            assert_eq!(ask_surely(&ours, HowMany).await, Ok(16));
        });
    }
}

mod two_actors_that_need_one_another {
    use super::*;

    /// `Outer` at left needs `Middle` at right, which needs `Inner` at left.
    #[derive(Message)]
    #[rtype(result = "u8")]
    struct Outer;
    #[derive(Message)]
    #[rtype(result = "u8")]
    struct Middle(Addr<PlainLeft>);
    #[derive(Message)]
    #[rtype(result = "u8")]
    struct Inner;

    struct PlainLeft(Addr<PlainRight>);
    impl Actor for PlainLeft {
        type Context = Context<Self>;
    }
    impl Handler<Outer> for PlainLeft {
        type Result = AtomicResponse<Self, u8>;
        fn handle(&mut self, _: Outer, context: &mut Self::Context) -> Self::Result {
            let middle = self.0.send(Middle(context.address()));
            AtomicResponse::new(Box::pin(
                async move { middle.await.unwrap() + 1 }.into_actor(self),
            ))
        }
    }
    impl Handler<Inner> for PlainLeft {
        type Result = u8;
        fn handle(&mut self, _: Inner, _: &mut Self::Context) -> u8 {
            1
        }
    }
    struct PlainRight;
    impl Actor for PlainRight {
        type Context = Context<Self>;
    }
    impl Handler<Middle> for PlainRight {
        type Result = AtomicResponse<Self, u8>;
        fn handle(&mut self, Middle(left): Middle, _: &mut Self::Context) -> Self::Result {
            AtomicResponse::new(Box::pin(
                async move { left.send(Inner).await.unwrap() + 1 }.into_actor(self),
            ))
        }
    }

    #[test]
    fn trap_they_wait_for_one_another_for_ever() {
        system(async {
            let left = PlainLeft(PlainRight.start()).start();
            let mut answer = Box::pin(left.send(Outer));
            // One thread and no timers: after so many turns nothing is left that could still run.
            for _ in 0..1_000 {
                assert!(futures::poll!(answer.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
        });
    }

    struct Left {
        right: Option<Address<Right>>,
    }
    impl Named for Left {
        const NAME: &'static str = "left";
    }
    impl Actor for Left {
        type Context = Context<Self>;
    }
    impl Supervised for Left {}
    struct Right {
        left: Address<Left>,
    }
    impl Named for Right {
        const NAME: &'static str = "right";
    }
    impl Actor for Right {
        type Context = Context<Self>;
    }
    impl Supervised for Right {}

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Meet(Address<Right>);
    impl Handler<Meet> for Left {
        type Result = ();
        fn handle(&mut self, Meet(right): Meet, _: &mut Self::Context) {
            self.right = Some(right);
        }
    }

    impl Query for Outer {
        type Answer = Result<u8, AskError>;
    }
    struct OurMiddle;
    impl Query for OurMiddle {
        type Answer = Result<u8, AskError>;
    }
    impl Query for Inner {
        type Answer = u8;
    }

    /// The way of a handler that needs another actor: a future beside the actor asks, and the reply
    /// slot travels with it.
    fn pass_on<A: Actor<Context = Context<A>>>(
        context: &mut Context<A>,
        reply: Reply<Result<u8, AskError>>,
        answer: impl Future<Output = Result<u8, AskError>> + 'static,
    ) {
        context.spawn(actix::fut::wrap_future(async move {
            reply.send(answer.await.map(|value| value + 1));
        }));
    }

    impl Handler<Ask<Outer>> for Left {
        type Result = ();
        fn handle(&mut self, asked: Ask<Outer>, context: &mut Self::Context) {
            let (_, reply, _span) = asked.open();
            let right = self.right.clone().unwrap();
            pass_on(context, reply, async move { ask(&right, OurMiddle).await? });
        }
    }
    impl Handler<Ask<OurMiddle>> for Right {
        type Result = ();
        fn handle(&mut self, asked: Ask<OurMiddle>, context: &mut Self::Context) {
            let (_, reply, _span) = asked.open();
            let left = self.left.clone();
            pass_on(context, reply, async move { ask(&left, Inner).await });
        }
    }
    impl Handler<Ask<Inner>> for Left {
        type Result = ();
        fn handle(&mut self, asked: Ask<Inner>, _: &mut Self::Context) {
            let (_, reply, _span) = asked.open();
            reply.send(1);
        }
    }

    #[test]
    fn ours_answer() {
        system(async {
            let left = supervise(Left { right: None });
            let right = supervise(Right { left: left.clone() });
            tell(&left, Meet(right)).unwrap();
            assert_eq!(ask(&left, Outer).await.unwrap(), Ok(3));
        });
    }
}

mod what_stops_and_what_panics {
    use super::*;

    #[test]
    fn an_actor_that_stops_is_restarted_with_its_state_and_its_mailbox() {
        system(async {
            let counter = Counter::new();
            let restarts = Arc::clone(&counter.restarts);
            let ours = supervise(counter);
            tell(&ours, Count).unwrap();
            tell(&ours, Stop).unwrap();
            tell(&ours, Count).unwrap();
            assert_eq!(ask(&ours, HowMany).await, Ok(2));
            assert_eq!(restarts.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn trap_an_actor_that_panics_is_gone_and_the_process_goes_on() {
        system(async {
            let counter = Counter::new();
            let restarts = Arc::clone(&counter.restarts);
            let plain = Supervisor::start(|_| counter);
            assert!(plain.send(Crash).await.is_err());
            assert!(plain.send(Count).await.is_err());
            assert_eq!(restarts.load(Ordering::SeqCst), 0);
        });
    }

    /// What a child of this test does; see [`child`].
    const CRASH: &str = "COCOON_TRAPS_CRASH";

    /// Runs in a process of its own, by [`crash_of`].
    #[test]
    #[ignore = "a part of the tests below, which run it as a process of its own"]
    fn child() {
        let Ok(crash) = std::env::var(CRASH) else {
            return;
        };
        let (rule, place) = crash.split_once(' ').unwrap();
        if rule == "ours" {
            end_process_on_panic();
        }
        match place {
            "actor" => system(async {
                let actor = supervise(Counter::new());
                tell(&actor, Crash).unwrap();
                // Resolves either way: an actor that is gone drops the question.
                let _ = ask(&actor, HowMany).await;
            }),
            "actor-thread" => system(async {
                let actor = supervise_on(&Arbiter::new().handle(), Counter::new());
                tell(&actor, Crash).unwrap();
                let _ = ask(&actor, HowMany).await;
            }),
            "task" => tokio::runtime::Builder::new_multi_thread()
                .build()
                .unwrap()
                .block_on(async {
                    let task = tokio::spawn(async { panic!("a task fell over") });
                    let _: Result<(), _> = task.await;
                }),
            other => panic!("no such crash: {other}"),
        }
        eprintln!("survived");
    }

    fn crash_of(rule: &str, place: &str) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "what_stops_and_what_panics::child"])
            .arg("--nocapture")
            .env(CRASH, format!("{rule} {place}"))
            .output()
            .unwrap()
    }

    #[test]
    fn ours_ends_the_process_at_once_wherever_the_panic_is() {
        const SIGABRT: i32 = 6;
        for place in ["actor", "actor-thread", "task"] {
            let plain = crash_of("plain", place);
            let said = String::from_utf8_lossy(&plain.stderr).into_owned();
            assert!(said.contains("survived"), "{place}: {said}");

            let ours = crash_of("ours", place);
            let said = String::from_utf8_lossy(&ours.stderr).into_owned();
            assert_eq!(ours.status.signal(), Some(SIGABRT), "{place}: {said}");
            assert!(said.contains("fell over"), "the panic is reported: {said}");
            assert!(!said.contains("survived"), "{place}: {said}");
        }
    }
}

mod the_source_keeps_to_it {
    use super::*;

    fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }

    /// Each way around [`Address`], and each way for a handler to wait for somebody.
    const FORBIDDEN: [&str; 12] = [
        "Addr<",
        "Recipient<",
        "do_send",
        "context.address()",
        ".recipient()",
        "context.notify(",
        "AtomicResponse",
        "ResponseActFuture",
        "ResponseFuture",
        "context.wait(",
        "Supervisor::start",
        "ContextFutureSpawner",
    ];

    #[test]
    fn nobody_but_ask_and_supervision_touches_a_bare_address_and_no_handler_waits() {
        let room = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        sources(&room.join("src"), &mut files);
        sources(&room.join("../node/src"), &mut files);
        assert!(files.len() > 40, "the search has lost its way");
        let mut handlers = 0;
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let free = ["actors/src/ask.rs", "actors/src/supervision.rs"];
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let at = format!("{}:{}: {line}", file.display(), number + 1);
                if !free.iter().any(|free| file.ends_with(free)) {
                    for forbidden in FORBIDDEN {
                        // `SocketAddr<` would be another matter, if there were such a type.
                        assert!(!code.contains(forbidden), "{forbidden} in {at}");
                    }
                }
                if code.contains("type Result = ") && code.trim() != "type Result = ();" {
                    panic!("a handler that answers otherwise than by a reply slot: {at}");
                }
                handlers += usize::from(code.contains("impl Handler<"));
            }
        }
        assert!(handlers > 30, "the search has lost its way");
    }
}
