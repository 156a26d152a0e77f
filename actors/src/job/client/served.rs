//! What one attempt has brought so far.

use crate::cashier::paying::LeasedChannel;
use crate::gateway_port::{Finish, JobSubmission};
use crate::job::embedding::MAX_EMBEDDING_ANSWER_BYTES;
use cocoon_protocol::job::{FinishReason, Tokens};
use cocoon_protocol::metering::Payer;
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::{Digest, Salt};

/// See the module's doc.
pub(super) struct Served {
    pub(super) channel: LeasedChannel,
    pub(super) payer: Payer,
    /// Hides what the receipt commits to. Each attempt has its own: a worker that failed knows another.
    pub(super) salt: Salt,
    /// What arrived of each answer.
    pub(super) answers: Vec<Answer>,
    /// Frames of tokens that arrived.
    pub(super) frames: u32,
    pub(super) receipt: Option<SignedReceipt>,
}

/// One of a job's answers.
#[derive(Clone, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    /// The numbers of its tokens, where the worker's engine has them.
    pub(super) ids: Vec<u32>,
    pub(super) finish: Option<FinishReason>,
}

impl Served {
    /// Keeps what a frame brings, before it is paid. Errs where it brings what was not asked for.
    pub(super) fn keep(
        &mut self,
        frame: &Tokens,
        asked: &JobSubmission,
    ) -> Result<(), &'static str> {
        let named = self.answers.iter().any(|answer| !answer.ids.is_empty());
        let goes_on = self.payer.output_tokens() > 0 && frame.tokens > 0;
        let answer = self
            .answers
            .get_mut(usize::from(frame.choice))
            .ok_or("it sends more answers than were asked for")?;
        if answer.finish.is_some() {
            return Err("it goes on after an answer's end");
        }
        let most = asked.top_logprobs.map(usize::from);
        if frame
            .logprobs
            .iter()
            .any(|position| most.is_none_or(|most| position.top.len() > most))
        {
            return Err("it sends log-probabilities that were not asked for");
        }
        if asked.embedding.is_some()
            && answer.text.len().saturating_add(frame.text.len()) > MAX_EMBEDDING_ANSWER_BYTES
        {
            return Err("it sends more than embeddings can be");
        }
        // Else the receipt could commit to none of them.
        if goes_on && frame.ids.is_empty() == named {
            return Err("it tells the numbers of some tokens and not of others");
        }
        answer.text.push_str(&frame.text);
        answer.ids.extend(&frame.ids);
        answer.finish = frame.finish;
        Ok(())
    }

    /// What the receipt must say of the answers and of their tokens.
    pub(super) fn commitments(&self) -> (Digest, Option<Digest>) {
        let texts: Vec<&str> = self.answers.iter().map(|each| each.text.as_str()).collect();
        let ids: Vec<&[u32]> = self
            .answers
            .iter()
            .map(|each| each.ids.as_slice())
            .collect();
        let tokens = self.salt.counted_tokens(&ids, self.payer.output_tokens());
        (self.salt.response(&texts), tokens)
    }

    /// Why each answer ended; `job` is why the job did, which says it where there is only one.
    pub(super) fn finishes(&self, job: FinishReason) -> Vec<Finish> {
        let reasons = self.answers.iter().map(|each| each.finish.unwrap_or(job));
        reasons
            .map(|reason| match reason {
                FinishReason::Length => Finish::Length,
                FinishReason::Stop | FinishReason::Cancelled => Finish::Stop,
            })
            .collect()
    }
}
