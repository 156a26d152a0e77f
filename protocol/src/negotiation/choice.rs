//! The client's side: ask, compare, choose, and know whom to turn to next.
//!
//! Every candidate is asked at once. When all have answered, or patience is over and somebody has,
//! the valid offer with the least *score* is chosen:
//!
//! ```text
//! score = expected_wait_ms + worst_cost_nanoTON · wait_ms_per_milliton / 10⁶
//! ```
//!
//! ties going to the smaller PeerId. An offer is valid if it says what was asked for, by the worker
//! that was asked, under the evidence that was verified, and is not dearer than advertised: a worker
//! must not win attention with one price and ask for another. The others stand by:
//! [`Negotiation::next_best`] moves on when the chosen worker fails.
//! Exactly one [`NegotiationOutput::Chosen`] or [`NegotiationOutput::Exhausted`] comes out.

use super::quote::{Offer, QuoteRequest, Refusal};
use crate::advert::{ModelTerms, Price, Verified};
use crate::directory::{Entry, Standing};
use crate::ids::{Digest, OfferId, PeerId, TonAddress};
use crate::metering::least_window;
use crate::units::{NanoTon, UnixMillis};
use rand_core::RngCore;

/// Most workers that one negotiation asks; more candidates are left out.
pub const MAX_CANDIDATES: usize = 16;

/// How a client chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegotiationConfig {
    /// How long to wait for answers once asked, in milliseconds.
    pub patience_ms: u64,
    /// λ: how many milliseconds of waiting one would give to save 10⁻³ TON.
    pub wait_ms_per_milliton: u64,
}

impl Default for NegotiationConfig {
    /// One and a half seconds, shorter than an offer's usual lifetime; a second for a milliTON.
    fn default() -> Self {
        Self {
            patience_ms: 1_500,
            wait_ms_per_milliton: 1_000,
        }
    }
}

/// What the client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Itself: offers are made to one client.
    pub client: PeerId,
    /// Most tokens the prompt may turn out to have.
    pub max_prompt_tokens: u32,
    /// Most tokens of the answer.
    pub max_output_tokens: u32,
}

/// A verified worker that could do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// The evidence that was verified.
    pub evidence: Digest,
    /// Where its advert wants to be paid.
    pub payout: TonAddress,
    /// Its advertised terms for the model.
    pub terms: ModelTerms,
}

impl Candidate {
    /// The candidate that a directory entry makes for a model; `None` unless it is verified and
    /// serves it.
    #[must_use]
    pub fn of(entry: &Entry, model: &str) -> Option<Self> {
        if !matches!(entry.standing, Standing::Verified { .. }) {
            return None;
        }
        Some(Self {
            peer: entry.advert.peer,
            evidence: entry.advert.evidence,
            payout: entry.advert.payout,
            terms: entry.advert.model(model)?.clone(),
        })
    }
}

/// In what an offer differs from what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Signed by somebody else.
    #[error("made by another worker")]
    Worker,
    /// Made to somebody else.
    #[error("made to another client")]
    Client,
    /// For another request.
    #[error("answers another request")]
    Request,
    /// For another model or file.
    #[error("for another model")]
    Model,
    /// Under evidence that was not verified.
    #[error("under other evidence than was verified")]
    Evidence,
    /// For other limits.
    #[error("for other token limits")]
    Size,
    /// Paid elsewhere than advertised.
    #[error("to be paid elsewhere than advertised")]
    Payout,
    /// Dearer than advertised.
    #[error("dearer than advertised ({}/{} instead of {}/{})",
        offered.input, offered.output, advertised.input, advertised.output)]
    Dearer {
        /// By the advert.
        advertised: Price,
        /// By the offer.
        offered: Price,
    },
    /// With so small a window that it would stall.
    #[error("a credit window of {window} would stall, {least} is the least")]
    Window {
        /// The offer's.
        window: NanoTon,
        /// The least that works.
        least: NanoTon,
    },
}

/// What became of one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineVerdict {
    /// No answer yet.
    #[error("asked")]
    Asked,
    /// It has the job.
    #[error("chosen")]
    Chosen,
    /// A valid offer that was not the best.
    #[error("standing by")]
    Standby,
    /// A valid offer that was not the best, and is not needed any more.
    #[error("declined")]
    Declined,
    /// It had the job and lost it.
    #[error("chosen and failed")]
    Lost,
    /// It would not.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// It could not be asked, or its answer could not be read.
    #[error("could not be asked")]
    Failed,
    /// Its offer is not what was asked for.
    #[error("offer not taken: {0}")]
    Mismatch(#[from] Mismatch),
    /// Its offer ended before it was needed.
    #[error("offer expired")]
    Expired,
    /// Patience was over before it answered.
    #[error("no answer in time")]
    NoAnswer,
}

/// One line of the explanation why the job went where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreLine {
    /// Who.
    pub peer: PeerId,
    /// Its expected wait, if it made a valid offer.
    pub wait_ms: Option<u32>,
    /// The most the job would cost there.
    pub cost: Option<NanoTon>,
    /// What was compared; less is better, in milliseconds.
    pub score: Option<u64>,
    /// What became of it.
    pub verdict: LineVerdict,
}

/// What happened.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "handed over once; a reply is the usual case"
)]
pub enum NegotiationInput {
    /// A worker answered.
    Reply {
        /// Who.
        peer: PeerId,
        /// Its offer, signature checked, or why not.
        reply: Result<Verified<Offer>, Refusal>,
    },
    /// A worker could not be asked, or its answer not be read.
    Failed {
        /// Who.
        peer: PeerId,
    },
    /// Time passed; see [`Negotiation::deadline`].
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NegotiationOutput {
    /// Send this request.
    Ask {
        /// To whom.
        peer: PeerId,
        /// What.
        request: QuoteRequest,
    },
    /// Take this offer.
    Chosen(Offer),
    /// Nobody will do it.
    Exhausted {
        /// What each said.
        refusals: Vec<(PeerId, LineVerdict)>,
    },
}

#[derive(Clone, Debug)]
struct Bid {
    offer: Offer,
    cost: NanoTon,
    score: u64,
}

#[derive(Clone, Debug)]
struct Line {
    candidate: Candidate,
    request: OfferId,
    bid: Option<Bid>,
    verdict: LineVerdict,
}

/// See the module's doc. One per job.
#[derive(Clone, Debug)]
pub struct Negotiation {
    config: NegotiationConfig,
    wish: Wish,
    deadline: UnixMillis,
    lines: Vec<Line>,
    concluded: bool,
}

impl Negotiation {
    /// Asks the candidates, the first [`MAX_CANDIDATES`] of them and each once.
    pub fn start(
        config: NegotiationConfig,
        wish: Wish,
        now: UnixMillis,
        candidates: Vec<Candidate>,
        rng: &mut (impl RngCore + ?Sized),
    ) -> (Self, Vec<NegotiationOutput>) {
        let mut negotiation = Self {
            deadline: now.saturating_add(config.patience_ms),
            config,
            wish,
            lines: Vec::new(),
            concluded: false,
        };
        let mut outputs = Vec::new();
        for candidate in candidates {
            if negotiation.lines.len() >= MAX_CANDIDATES
                || negotiation.line(&candidate.peer).is_some()
            {
                continue;
            }
            let request = OfferId::random(rng);
            outputs.push(NegotiationOutput::Ask {
                peer: candidate.peer,
                request: QuoteRequest {
                    offer_request: request,
                    model: candidate.terms.id.clone(),
                    model_digest: candidate.terms.digest,
                    max_prompt_tokens: negotiation.wish.max_prompt_tokens,
                    max_output_tokens: negotiation.wish.max_output_tokens,
                },
            });
            negotiation.lines.push(Line {
                candidate,
                request,
                bid: None,
                verdict: LineVerdict::Asked,
            });
        }
        outputs.extend(negotiation.conclude(now));
        (negotiation, outputs)
    }

    /// Takes an input. Answers of workers that were not asked, and second answers, change nothing.
    pub fn handle(&mut self, now: UnixMillis, input: NegotiationInput) -> Vec<NegotiationOutput> {
        match input {
            NegotiationInput::Reply { peer, reply } => self.on_reply(now, &peer, reply),
            NegotiationInput::Failed { peer } => {
                if let Some(line) = self.unanswered(&peer) {
                    line.verdict = LineVerdict::Failed;
                }
            }
            NegotiationInput::Tick => {}
        }
        self.conclude(now).into_iter().collect()
    }

    /// When to send the next [`NegotiationInput::Tick`]; `None` once there is a result.
    #[must_use]
    pub fn deadline(&self) -> Option<UnixMillis> {
        (!self.concluded).then_some(self.deadline)
    }

    /// Gives up the offers that stand by, so that their workers need not keep slots for them.
    /// Returns whom to tell, and about which offer.
    pub fn decline_rest(&mut self) -> Vec<(PeerId, OfferId)> {
        let mut declined = Vec::new();
        for line in &mut self.lines {
            if line.verdict == LineVerdict::Standby {
                line.verdict = LineVerdict::Declined;
                declined.push((line.candidate.peer, line.request));
            }
        }
        declined
    }

    /// The chosen worker failed: the best that stands by and has not expired, if any.
    pub fn next_best(&mut self, now: UnixMillis) -> Option<Offer> {
        for line in &mut self.lines {
            if line.verdict == LineVerdict::Chosen {
                line.verdict = LineVerdict::Lost;
            }
        }
        self.choose(now)
    }

    /// Why the job went where it went: one line per candidate, best score first.
    #[must_use]
    pub fn explain(&self) -> Vec<ScoreLine> {
        let mut lines: Vec<ScoreLine> = self
            .lines
            .iter()
            .map(|line| ScoreLine {
                peer: line.candidate.peer,
                wait_ms: line.bid.as_ref().map(|bid| bid.offer.expected_wait_ms),
                cost: line.bid.as_ref().map(|bid| bid.cost),
                score: line.bid.as_ref().map(|bid| bid.score),
                verdict: line.verdict,
            })
            .collect();
        lines.sort_by_key(|line| (line.score.is_none(), line.score, line.peer));
        lines
    }

    fn line(&self, peer: &PeerId) -> Option<&Line> {
        self.lines.iter().find(|line| line.candidate.peer == *peer)
    }

    fn unanswered(&mut self, peer: &PeerId) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| {
            line.candidate.peer == *peer
                && matches!(line.verdict, LineVerdict::Asked | LineVerdict::NoAnswer)
        })
    }

    fn on_reply(
        &mut self,
        now: UnixMillis,
        peer: &PeerId,
        reply: Result<Verified<Offer>, Refusal>,
    ) {
        let (config, wish) = (self.config.clone(), self.wish.clone());
        let Some(line) = self.unanswered(peer) else {
            return;
        };
        line.verdict = match reply {
            Err(refusal) => LineVerdict::Refused(refusal),
            Ok(offer) => match check(&offer, line, &wish) {
                Err(mismatch) => mismatch.into(),
                Ok(_) if offer.expires <= now => LineVerdict::Expired,
                Ok(cost) => {
                    line.bid = Some(Bid {
                        score: score(&config, offer.expected_wait_ms, cost),
                        cost,
                        offer: offer.into_inner(),
                    });
                    LineVerdict::Standby
                }
            },
        };
    }

    fn conclude(&mut self, now: UnixMillis) -> Option<NegotiationOutput> {
        let waiting = self
            .lines
            .iter()
            .any(|line| line.verdict == LineVerdict::Asked);
        if self.concluded || (waiting && now < self.deadline) {
            return None;
        }
        self.concluded = true;
        for line in &mut self.lines {
            if line.verdict == LineVerdict::Asked {
                line.verdict = LineVerdict::NoAnswer;
            }
        }
        Some(match self.choose(now) {
            Some(offer) => NegotiationOutput::Chosen(offer),
            None => NegotiationOutput::Exhausted {
                refusals: self
                    .lines
                    .iter()
                    .map(|line| (line.candidate.peer, line.verdict))
                    .collect(),
            },
        })
    }

    fn choose(&mut self, now: UnixMillis) -> Option<Offer> {
        let mut best: Option<(u64, PeerId)> = None;
        for line in &mut self.lines {
            let (LineVerdict::Standby, Some(bid)) = (line.verdict, &line.bid) else {
                continue;
            };
            if bid.offer.expires <= now {
                line.verdict = LineVerdict::Expired;
                continue;
            }
            let rank = (bid.score, line.candidate.peer);
            if best.is_none_or(|best| rank < best) {
                best = Some(rank);
            }
        }
        let (_, peer) = best?;
        let line = self
            .lines
            .iter_mut()
            .find(|line| line.candidate.peer == peer)?;
        line.verdict = LineVerdict::Chosen;
        line.bid.as_ref().map(|bid| bid.offer.clone())
    }
}

/// The most the job costs under this offer, if the offer is what was asked for.
fn check(offer: &Offer, line: &Line, wish: &Wish) -> Result<NanoTon, Mismatch> {
    let candidate = &line.candidate;
    let advertised = candidate.terms.price;
    if offer.worker != candidate.peer {
        return Err(Mismatch::Worker);
    }
    if offer.client != wish.client {
        return Err(Mismatch::Client);
    }
    if offer.id != line.request {
        return Err(Mismatch::Request);
    }
    if offer.model != candidate.terms.id || offer.model_digest != candidate.terms.digest {
        return Err(Mismatch::Model);
    }
    if offer.evidence != candidate.evidence {
        return Err(Mismatch::Evidence);
    }
    if offer.max_prompt_tokens != wish.max_prompt_tokens
        || offer.max_output_tokens != wish.max_output_tokens
    {
        return Err(Mismatch::Size);
    }
    if offer.payout != candidate.payout {
        return Err(Mismatch::Payout);
    }
    let dearer = Mismatch::Dearer {
        advertised,
        offered: offer.price,
    };
    if offer.price.input > advertised.input || offer.price.output > advertised.output {
        return Err(dearer);
    }
    // Neither overflows at a price that was decoded.
    let least = least_window(&offer.price, offer.max_prompt_tokens).ok_or(dearer)?;
    if offer.credit_window < least {
        return Err(Mismatch::Window {
            window: offer.credit_window,
            least,
        });
    }
    offer.worst_cost().ok_or(dearer)
}

fn score(config: &NegotiationConfig, wait_ms: u32, cost: NanoTon) -> u64 {
    const NANO_PER_MILLITON: u128 = 1_000_000;
    let weighted = u128::from(cost.nano())
        .saturating_mul(u128::from(config.wait_ms_per_milliton))
        .checked_div(NANO_PER_MILLITON)
        .unwrap_or(u128::MAX);
    u64::try_from(weighted)
        .unwrap_or(u64::MAX)
        .saturating_add(u64::from(wait_ms))
}
