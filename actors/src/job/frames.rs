//! Which tokens go into which frame.

use crate::engine::Said;
use cocoon_inference::{FinishReason as EngineFinish, PositionLogprobs as Position, Step};
use cocoon_protocol::job::{
    FRAME_TOKENS, FinishReason, MAX_TEXT_BYTES, MAX_TOKENS_BODY_BYTES, PositionLogprobs,
    TokenLogprob, Tokens,
};
use cocoon_protocol::receipt::Ending;

/// Tokens of a job's answers, gathered until a frame is full: [`FRAME_TOKENS`], or fewer where text and
/// log-probabilities take the room. Each answer has frames of its own.
#[derive(Debug)]
pub(super) struct Frames {
    answers: Vec<Gathered>,
}

#[derive(Clone, Debug, Default)]
struct Gathered {
    tokens: Tokens,
    /// Of text and log-probabilities.
    bytes: usize,
    finish: Option<FinishReason>,
}

impl Frames {
    /// For a job of so many answers.
    #[must_use]
    pub(super) fn new(answers: usize) -> Self {
        Self {
            answers: vec![Gathered::default(); answers],
        }
    }

    /// Takes what an engine has said. Gives what is to be sent now.
    pub(super) fn push(&mut self, said: Said) -> Vec<Tokens> {
        let Said { choice, step } = said;
        let several = self.answers.len() > 1;
        let Some(answer) = self.answers.get_mut(usize::from(choice)) else {
            return Vec::new();
        };
        let finish = step.finish.map(|finish| match finish {
            EngineFinish::Stop => FinishReason::Stop,
            EngineFinish::Length => FinishReason::Length,
        });
        let mut full = answer.push(step);
        answer.finish = finish.or(answer.finish);
        if answer.finish.is_some() || answer.tokens.tokens >= FRAME_TOKENS {
            // The one answer's end is the job's, which is said anyway.
            answer.tokens.finish = answer.finish.filter(|_| several);
            full.extend(answer.take());
        }
        for tokens in &mut full {
            tokens.choice = choice;
        }
        full
    }

    /// How the job ends, once every answer has ended: by its length if any of them does.
    #[must_use]
    pub(super) fn ending(&self) -> Option<Ending> {
        let mut ending = Ending::Stop;
        for answer in &self.answers {
            if answer.finish? == FinishReason::Length {
                ending = Ending::Length;
            }
        }
        Some(ending)
    }
}

impl Gathered {
    /// Adds a step to what is gathered, which is given back before if there is no room beside it.
    fn push(&mut self, step: Step) -> Vec<Tokens> {
        let logprobs: Vec<_> = step.logprobs.into_iter().map(told).collect();
        let bytes = logprobs
            .iter()
            .map(PositionLogprobs::most_bytes)
            .fold(step.text.len(), usize::saturating_add);
        let text = self.tokens.text.len().saturating_add(step.text.len());
        let fits =
            text <= MAX_TEXT_BYTES && self.bytes.saturating_add(bytes) <= MAX_TOKENS_BODY_BYTES;
        let full = if fits { None } else { self.take() };
        let tokens = &mut self.tokens;
        tokens.text.push_str(&step.text);
        tokens.tokens = tokens.tokens.saturating_add(step.tokens);
        tokens.logprobs.extend(logprobs);
        tokens.ids.extend(step.ids);
        self.bytes = self.bytes.saturating_add(bytes);
        full.into_iter().collect()
    }

    /// What is gathered, if it is anything.
    fn take(&mut self) -> Option<Tokens> {
        self.bytes = 0;
        let mut tokens = std::mem::take(&mut self.tokens);
        // All of them have numbers, or it is said of none.
        if usize::try_from(tokens.tokens) != Ok(tokens.ids.len()) {
            tokens.ids.clear();
        }
        Some(tokens).filter(|tokens| *tokens != Tokens::default())
    }
}

fn told(position: Position) -> PositionLogprobs {
    let candidate =
        |each: cocoon_inference::TokenLogprob| TokenLogprob::new(each.bytes, each.logprob);
    PositionLogprobs {
        chosen: candidate(position.chosen),
        top: position.top.into_iter().map(candidate).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::job::{
        MAX_LOGPROB_TOKEN_BYTES, MAX_TOP_LOGPROBS, MAX_WORKER_FRAME_BYTES, WorkerFrame,
    };

    fn said(choice: u8, text: &str, finish: Option<EngineFinish>) -> Said {
        Said {
            choice,
            step: Step {
                text: text.to_owned(),
                tokens: 1,
                ids: Vec::new(),
                logprobs: Vec::new(),
                finish,
            },
        }
    }

    fn with_logprobs(token: usize) -> Said {
        let candidate = cocoon_inference::TokenLogprob {
            token: 1,
            bytes: vec![b'x'; token],
            logprob: -1.0,
        };
        let mut said = said(0, &"x".repeat(token), None);
        said.step.logprobs = vec![Position {
            chosen: candidate.clone(),
            top: vec![candidate; MAX_TOP_LOGPROBS],
        }];
        said
    }

    #[test]
    fn a_frame_goes_when_it_is_full_and_when_its_answer_ends() {
        let mut frames = Frames::new(1);
        for _ in 1..FRAME_TOKENS {
            assert_eq!(frames.push(said(0, "a", None)), []);
        }
        assert_eq!(
            frames.push(said(0, "b", None)),
            [Tokens::of("aaaaaaab", FRAME_TOKENS)]
        );
        assert_eq!(frames.ending(), None);
        assert_eq!(
            frames.push(said(0, "c", Some(EngineFinish::Length))),
            [Tokens::of("c", 1)]
        );
        assert_eq!(frames.ending(), Some(Ending::Length));
    }

    fn named(text: &str, id: u32) -> Said {
        let mut said = said(0, text, None);
        said.step.ids = vec![id];
        said
    }

    #[test]
    fn each_tokens_number_goes_with_it_or_none_does() {
        let mut frames = Frames::new(1);
        let mut sent = Vec::new();
        for id in 1..=FRAME_TOKENS + 2 {
            sent.extend(frames.push(named("a", id)));
        }
        let mut end = said(0, "", Some(EngineFinish::Stop));
        end.step.tokens = 0;
        sent.extend(frames.push(end));
        let ids: Vec<_> = sent.iter().map(|tokens| tokens.ids.clone()).collect();
        assert_eq!(ids, [(1..=8).collect::<Vec<_>>(), vec![9, 10]]);
        // A step without a number among others: the frame names none, and can be read.
        let mut frames = Frames::new(1);
        assert_eq!(frames.push(named("a", 1)), []);
        let mixed = frames.push(said(0, "b", Some(EngineFinish::Stop)));
        assert_eq!(mixed, [Tokens::of("ab", 2)]);
    }

    #[test]
    fn an_end_that_brings_nothing_is_not_sent_where_there_is_one_answer() {
        let mut end = said(0, "", Some(EngineFinish::Stop));
        end.step.tokens = 0;
        let mut frames = Frames::new(1);
        assert_eq!(frames.push(end), []);
        assert_eq!(frames.ending(), Some(Ending::Stop));
    }

    #[test]
    fn several_answers_have_frames_of_their_own_and_say_how_each_ends() {
        let mut frames = Frames::new(2);
        assert_eq!(frames.push(said(1, "a", None)), []);
        let first = Tokens {
            finish: Some(FinishReason::Length),
            ..Tokens::of("b", 1)
        };
        assert_eq!(
            frames.push(said(0, "b", Some(EngineFinish::Length))),
            [first]
        );
        assert_eq!(frames.ending(), None);
        let second = Tokens {
            choice: 1,
            finish: Some(FinishReason::Stop),
            ..Tokens::of("ac", 2)
        };
        assert_eq!(
            frames.push(said(1, "c", Some(EngineFinish::Stop))),
            [second]
        );
        assert_eq!(frames.ending(), Some(Ending::Length));
        // An answer that nobody asked for.
        assert_eq!(frames.push(said(2, "d", None)), []);
    }

    #[test]
    fn a_frame_with_log_probabilities_keeps_within_its_bound_by_holding_fewer_tokens() {
        for (token, most) in [(4, 8), (40, 8), (128, 6), (MAX_LOGPROB_TOKEN_BYTES, 1)] {
            let mut frames = Frames::new(1);
            let mut sent = Vec::new();
            for _ in 0..40 {
                sent.extend(frames.push(with_logprobs(token)));
            }
            let last = said(0, "", Some(EngineFinish::Stop));
            sent.extend(frames.push(last));
            for tokens in &sent {
                let frame = WorkerFrame::Tokens(tokens.clone());
                let bytes = frame.encode();
                assert!(bytes.len() <= MAX_WORKER_FRAME_BYTES, "{}", bytes.len());
                assert_eq!(WorkerFrame::decode(&bytes).ok(), Some(frame));
            }
            let all: usize = sent.iter().map(|tokens| tokens.logprobs.len()).sum();
            assert_eq!(all, 40);
            let fullest = sent.iter().map(|tokens| tokens.logprobs.len()).max();
            assert_eq!(fullest, Some(most), "{token}");
        }
    }

    #[test]
    fn text_in_large_pieces_is_sent_piece_by_piece() {
        let mut frames = Frames::new(1);
        let piece = "x".repeat(MAX_TEXT_BYTES);
        assert_eq!(frames.push(said(0, &piece, None)), []);
        assert_eq!(frames.push(said(0, &piece, None)), [Tokens::of(&piece, 1)]);
        assert_eq!(
            frames.push(said(0, "y", Some(EngineFinish::Stop))),
            [Tokens::of(&piece, 1), Tokens::of("y", 1)]
        );
    }
}
