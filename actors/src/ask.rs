//! How anything asks an actor something.
//!
//! actix's own `send` waits without a bound in front of a full mailbox, `do_send` ignores the
//! bound, and an actor that asks another while it answers can deadlock. So there is one way here:
//! an [`Ask`] carries its own reply slot and enters the mailbox by `try_send`. A full mailbox is
//! an answer ([`AskError::Full`]), and only *tasks* await replies; an actor's handler never does.
//!
//! `try_send` alone keeps no bound either: actix lets every *clone* of an `Addr` leave one message
//! in a full mailbox, so whoever clones an address for each message fills the memory. An
//! [`Address`] therefore never clones the `Addr` in it; all its clones are one sender to actix.
//!
//! What must arrive (the end of a job, a slot that is free again) goes by [`ask_surely`] and
//! [`tell_surely`], which wait while the mailbox is full. They wait outside of it: the bound holds.

use actix::dev::ToEnvelope;
use actix::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::Span;
use tracing::span::EnteredSpan;

/// Pause before a message that must arrive is offered to a full mailbox again.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// A question and the type of its answer.
pub trait Query: Send + 'static {
    /// What comes back.
    type Answer: Send + 'static;
}

/// An actor's name in errors, logs and metrics.
pub trait Named {
    /// Short, lower case: `"cashier"`.
    const NAME: &'static str;
}

/// Where an actor is reached. Cheap to clone.
///
/// At most [`MAILBOX`](crate::supervision::MAILBOX) messages wait at any time, whoever sends them;
/// see the module's doc for why this is not an `Addr`.
pub struct Address<A: Actor>(Arc<Mutex<Addr<A>>>);

impl<A: Actor> Clone for Address<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Actor> std::fmt::Debug for Address<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address")
    }
}

impl<A: Actor> From<Addr<A>> for Address<A> {
    /// Whoever keeps a clone of `actor` can still get past the bound.
    fn from(actor: Addr<A>) -> Self {
        Self(Arc::new(Mutex::new(actor)))
    }
}

impl<A: Actor> Address<A> {
    fn offer<M>(&self, message: M) -> Result<(), SendError<M>>
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        // One at a time: actix looks whether the mailbox is full and takes a place in two steps.
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_send(message)
    }
}

/// Why an actor gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The mailbox is at its bound; try again later or give up, but do not wait for it.
    #[error("the {actor} is busy: its mailbox is full")]
    Full {
        /// The actor asked.
        actor: &'static str,
    },
    /// The actor has stopped, or dropped the question unanswered while stopping.
    #[error("the {actor} has stopped")]
    Stopped {
        /// The actor asked.
        actor: &'static str,
    },
}

/// Where an answer goes. Dropping it unanswered tells the asker [`AskError::Stopped`].
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// Answers. An asker that no longer waits is not an error: it gave up.
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }

    /// Answers, and gets the answer back if nobody waits for it: for what has to be undone then.
    ///
    /// # Errors
    /// The answer.
    pub fn deliver(self, answer: T) -> Result<(), T> {
        self.0.send(answer)
    }

    /// The bare slot, for an answer that comes from outside the actors.
    #[must_use]
    pub fn into_sender(self) -> oneshot::Sender<T> {
        self.0
    }
}

/// A query on its way to an actor.
#[derive(Debug)]
pub struct Ask<Q: Query> {
    query: Q,
    reply: Reply<Q::Answer>,
    /// The asker's: what an actor logs while it answers belongs to the asker's job.
    span: Span,
}

impl<Q: Query> Ask<Q> {
    /// The question, the reply slot, and the asker's span, entered for as long as the last is kept.
    pub fn open(self) -> (Q, Reply<Q::Answer>, EnteredSpan) {
        (self.query, self.reply, self.span.entered())
    }
}

impl<Q: Query> Message for Ask<Q> {
    type Result = ();
}

/// Asks and waits for the answer.
///
/// # Errors
/// [`AskError::Full`] at once when the mailbox is at its bound, [`AskError::Stopped`] when the
/// actor is gone.
pub async fn ask<A, Q>(actor: &Address<A>, query: Q) -> Result<Q::Answer, AskError>
where
    A: Actor + Named + Handler<Ask<Q>>,
    A::Context: ToEnvelope<A, Ask<Q>>,
    Q: Query,
{
    let (question, answer) = question(query);
    tell(actor, question)?;
    answer
        .await
        .map_err(|_| AskError::Stopped { actor: A::NAME })
}

/// Asks something that has to be asked: waits for room in the mailbox, then for the answer.
///
/// # Errors
/// [`AskError::Stopped`] when the actor is gone.
pub async fn ask_surely<A, Q>(actor: &Address<A>, query: Q) -> Result<Q::Answer, AskError>
where
    A: Actor + Named + Handler<Ask<Q>>,
    A::Context: ToEnvelope<A, Ask<Q>>,
    Q: Query,
{
    let (question, answer) = question(query);
    tell_surely(actor, question).await?;
    answer
        .await
        .map_err(|_| AskError::Stopped { actor: A::NAME })
}

fn question<Q: Query>(query: Q) -> (Ask<Q>, oneshot::Receiver<Q::Answer>) {
    let (sender, answer) = oneshot::channel();
    let reply = Reply(sender);
    (
        Ask {
            query,
            reply,
            span: Span::current(),
        },
        answer,
    )
}

/// Leaves a message in an actor's mailbox, within its bound.
///
/// # Errors
/// As [`ask`].
pub fn tell<A, M>(actor: &Address<A>, message: M) -> Result<(), AskError>
where
    A: Actor + Named + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    actor.offer(message).map_err(|refused| match refused {
        SendError::Full(_) => AskError::Full { actor: A::NAME },
        SendError::Closed(_) => AskError::Stopped { actor: A::NAME },
    })
}

/// Leaves a message that has to arrive: waits for room in the mailbox.
///
/// # Errors
/// [`AskError::Stopped`] when the actor is gone.
pub async fn tell_surely<A, M>(actor: &Address<A>, mut message: M) -> Result<(), AskError>
where
    A: Actor + Named + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    loop {
        match actor.offer(message) {
            Ok(()) => return Ok(()),
            Err(SendError::Closed(_)) => return Err(AskError::Stopped { actor: A::NAME }),
            Err(SendError::Full(refused)) => message = refused,
        }
        tokio::time::sleep(FULL_PAUSE).await;
    }
}
