//! What happens when an actor stops, and when one panics.
//!
//! An actor that *stops* is restarted by actix's supervisor with the state it had. An actor that
//! *panics* is not (measured: the address stays dead and every later ask fails), so a panic
//! anywhere ends the process; what matters is on disk, and the service manager restarts it.
//!
//! What a restart keeps and what it loses: the actor itself with all its fields, and the messages
//! in its mailbox, stay. The futures it had spawned are dropped, and with them the replies they
//! held; an actor that counts on such a future puts its state right in `Supervised::restarting`.

use crate::ask::Address;
use actix::prelude::*;

/// Messages that may wait in an actor's mailbox; the one that it works on is not among them.
///
/// The bound is exact, because an [`Address`] is one sender to actix however often it is cloned.
/// (For actix it is a bound for *each* sender: with `n` clones of an `Addr`, up to
/// `MAILBOX + n - 1` messages wait.) Until an actor on another thread has begun to run, its
/// mailbox takes only actix's default of 16.
pub const MAILBOX: usize = 256;

/// Makes every panic, on any thread, end the process after it was reported.
///
/// Call once, before the first actor starts. The exit is an abort: no destructor runs, exactly as
/// after `kill -9`, which is the crash that the ledgers are built and tested for.
pub fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Starts an actor under a supervisor on the current arbiter.
pub fn supervise<A>(actor: A) -> Address<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    Address::from(Supervisor::start(move |context: &mut Context<A>| {
        context.set_mailbox_capacity(MAILBOX);
        actor
    }))
}

/// Starts an actor under a supervisor on a thread of its own: for those that wait for the disk.
pub fn supervise_on<A>(arbiter: &ArbiterHandle, actor: A) -> Address<A>
where
    A: Supervised + Actor<Context = Context<A>> + Send,
{
    Address::from(Supervisor::start_in_arbiter(
        arbiter,
        move |context: &mut Context<A>| {
            context.set_mailbox_capacity(MAILBOX);
            actor
        },
    ))
}

/// Asks an actor to stop for good, or, supervised, to stop and be restarted.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;
