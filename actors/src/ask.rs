//! How anything asks an actor something.
//!
//! actix's own `send` waits without a bound in front of a full mailbox, `do_send` ignores the
//! bound, and an actor that asks another while it answers can deadlock. So there is one way here:
//! an [`Ask`] carries its own reply slot and enters the mailbox by `try_send`. A full mailbox is
//! an answer ([`AskError::Full`]), and only *tasks* await replies; an actor's handler never does.

use actix::dev::ToEnvelope;
use actix::prelude::*;
use tokio::sync::oneshot;

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

    /// The bare slot, for an answer that comes from outside the actors.
    #[must_use]
    pub fn into_sender(self) -> oneshot::Sender<T> {
        self.0
    }
}

/// A query on its way to an actor.
#[derive(Debug)]
pub struct Ask<Q: Query> {
    /// The question.
    pub query: Q,
    /// The reply slot.
    pub reply: Reply<Q::Answer>,
}

impl<Q: Query> Message for Ask<Q> {
    type Result = ();
}

/// Asks and waits for the answer.
///
/// # Errors
/// [`AskError::Full`] at once when the mailbox is at its bound, [`AskError::Stopped`] when the
/// actor is gone.
pub async fn ask<A, Q>(actor: &Addr<A>, query: Q) -> Result<Q::Answer, AskError>
where
    A: Actor + Named + Handler<Ask<Q>>,
    A::Context: ToEnvelope<A, Ask<Q>>,
    Q: Query,
{
    let (sender, receiver) = oneshot::channel();
    tell(
        actor,
        Ask {
            query,
            reply: Reply(sender),
        },
    )?;
    receiver
        .await
        .map_err(|_| AskError::Stopped { actor: A::NAME })
}

/// Leaves a message in an actor's mailbox, within its bound.
///
/// # Errors
/// As [`ask`].
pub fn tell<A, M>(actor: &Addr<A>, message: M) -> Result<(), AskError>
where
    A: Actor + Named + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    actor.try_send(message).map_err(|refused| match refused {
        SendError::Full(_) => AskError::Full { actor: A::NAME },
        SendError::Closed(_) => AskError::Stopped { actor: A::NAME },
    })
}
