//! A running job: its events, and the two ends of the queue they travel in.

use std::fmt;

use cocoon_protocol::ids::{JobId, PeerId};
use cocoon_protocol::job::PositionLogprobs;
use cocoon_protocol::units::NanoTon;
use tokio::sync::mpsc;

use super::GatewayError;

/// Events of one job that wait for HTTP. A reader that is slower than the worker fills it and the
/// job pauses there: the client's own vouchers stop, so a slow reader costs nobody money.
pub const MAX_JOB_EVENTS: usize = 64;

/// Why a generation ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// End of turn or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
}

/// Token counts of one job, as billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the conversation after the chat template, or of the texts that were embedded.
    pub prompt_tokens: u32,
    /// Tokens generated, in all answers together. 1 where embeddings were asked for.
    pub completion_tokens: u32,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub fn total_tokens(self) -> u64 {
        u64::from(self.prompt_tokens).saturating_add(u64::from(self.completion_tokens))
    }
}

/// How a finished job went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Why it ended, for each of its answers.
    pub finishes: Vec<Finish>,
    /// What was counted.
    pub usage: Usage,
    /// What the client signed for this job.
    pub cost: NanoTon,
    /// Who served it.
    pub worker: PeerId,
    /// Name of the receipt for `GET /v1/receipts/{id}`; the leaf hash in hexadecimal.
    pub receipt: String,
}

/// More of one answer.
#[derive(Clone, Default, PartialEq)]
pub struct Delta {
    /// Which of the answers, counted from 0; below the number that was asked for.
    pub choice: u8,
    /// Complete characters. Empty only where there are log-probabilities or numbers of tokens.
    pub text: String,
    /// For the tokens that came with it, if they were asked for.
    pub logprobs: Vec<PositionLogprobs>,
    /// The numbers of the tokens that came with it; none where the worker's engine has none.
    pub ids: Vec<u32>,
}

impl Delta {
    /// Text of a job's only answer.
    #[must_use]
    pub fn of(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }
}

/// Sizes only, never text.
impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delta({} bytes)", self.text.len())
    }
}

/// What happens to a job, in order: `Accepted`, any number of `Delta` or one `Embeddings`, one terminal
/// event. `Accepted` may come again while neither has come: the job then moved to another worker.
#[derive(Clone, PartialEq)]
pub enum JobEvent {
    /// A verified worker took the job and is reading the prompt.
    Accepted {
        /// Who.
        worker: PeerId,
        /// Tokens of the conversation after the chat template.
        prompt_tokens: u32,
    },
    /// More of an answer.
    Delta(Delta),
    /// The embeddings of the texts in turn, all of one length, of finite numbers.
    Embeddings(Vec<Vec<f32>>),
    /// Terminal: all text has been sent.
    Finished(Completion),
    /// Terminal: it did not work. Text sent so far stands.
    Failed(GatewayError),
}

/// Sizes only, never text.
impl fmt::Debug for JobEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted {
                worker,
                prompt_tokens,
            } => {
                write!(f, "Accepted({worker}, {prompt_tokens} prompt tokens)")
            }
            Self::Delta(delta) => fmt::Debug::fmt(delta, f),
            Self::Embeddings(embeddings) => write!(f, "Embeddings({})", embeddings.len()),
            Self::Finished(completion) => f.debug_tuple("Finished").field(completion).finish(),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl JobEvent {
    /// True for the event after which none comes.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Failed(_))
    }
}

/// A running job as HTTP sees it. Dropping it cancels the job.
#[derive(Debug)]
pub struct JobHandle {
    job: JobId,
    events: mpsc::Receiver<JobEvent>,
    ended: bool,
}

/// The gateway actor's end of a [`JobHandle`].
#[derive(Clone, Debug)]
pub struct JobEvents {
    events: mpsc::Sender<JobEvent>,
}

/// The reader of a job is gone: cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job was cancelled by its reader")]
pub struct Cancelled;

/// Makes both ends of a job's queue, [`MAX_JOB_EVENTS`] deep.
#[must_use]
pub fn job_channel(job: JobId) -> (JobEvents, JobHandle) {
    let (sender, receiver) = mpsc::channel(MAX_JOB_EVENTS);
    (
        JobEvents { events: sender },
        JobHandle {
            job,
            events: receiver,
            ended: false,
        },
    )
}

impl JobHandle {
    /// The job's name, in logs, in the response's id and in the receipt.
    #[must_use]
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// The next event; `None` after the terminal one. A sender that vanishes without a terminal
    /// event is reported as [`GatewayError::Internal`], so a reader always sees an outcome.
    pub async fn next(&mut self) -> Option<JobEvent> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await.unwrap_or_else(|| {
            JobEvent::Failed(GatewayError::Internal {
                reason: "the job ended without an outcome".to_owned(),
            })
        });
        self.ended = event.is_terminal();
        Some(event)
    }
}

impl JobEvents {
    /// Hands an event over, waiting while the reader is behind.
    pub async fn send(&self, event: JobEvent) -> Result<(), Cancelled> {
        self.events.send(event).await.map_err(|_| Cancelled)
    }

    /// Resolves when the reader has dropped its handle.
    pub async fn cancelled(&self) {
        self.events.closed().await;
    }

    /// True once the reader has dropped its handle.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn delta(text: &str) -> JobEvent {
        JobEvent::Delta(Delta::of(text))
    }

    #[tokio::test]
    async fn nothing_comes_after_the_terminal_event() {
        let (events, mut handle) = job_channel(JobId::from_bytes([1; 16]));
        events.send(delta("a")).await.unwrap();
        events
            .send(JobEvent::Failed(GatewayError::ShuttingDown))
            .await
            .unwrap();
        events.send(delta("b")).await.unwrap();
        assert_eq!(handle.next().await, Some(delta("a")));
        assert_eq!(
            handle.next().await,
            Some(JobEvent::Failed(GatewayError::ShuttingDown))
        );
        assert_eq!(handle.next().await, None);
    }

    #[tokio::test]
    async fn a_vanished_sender_still_gives_the_reader_one_outcome() {
        let (events, mut handle) = job_channel(JobId::from_bytes([1; 16]));
        drop(events);
        assert!(matches!(
            handle.next().await,
            Some(JobEvent::Failed(GatewayError::Internal { .. }))
        ));
        assert_eq!(handle.next().await, None);
    }

    #[tokio::test]
    async fn dropping_the_handle_tells_the_sender() {
        let (events, handle) = job_channel(JobId::from_bytes([1; 16]));
        assert!(!events.is_cancelled());
        drop(handle);
        events.cancelled().await;
        assert!(events.is_cancelled());
        assert_eq!(events.send(delta("a")).await, Err(Cancelled));
    }

    #[test]
    fn debug_output_holds_no_text() {
        assert_eq!(format!("{:?}", delta("planted-secret")), "Delta(14 bytes)");
        let embeddings = JobEvent::Embeddings(vec![vec![0.5]; 3]);
        assert_eq!(format!("{embeddings:?}"), "Embeddings(3)");
    }
}
