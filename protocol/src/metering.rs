//! Who is how far ahead of whom: the credit window, at both ends.
//!
//! **The rule.** A job costs `input · prompt_tokens + output · output_tokens`; the prompt is charged
//! together with the first generated token, so a job without an answer is free. The worker sends
//! tokens only while what is owed, after them, exceeds what it holds in vouchers by at most the
//! credit window of the offer. The client signs only for tokens it has received, and signs as soon
//! as half the window is unsigned. So the worker risks at most one window, and the client nothing.
//!
//! **It does not stall.** A worker that cannot send a frame costing `f` has more than
//! `window - f` unpaid; with a window of at least two frames, and [`least_window`] sees to
//! that, this is at least half the window, so the client has signed or is about to. The prompt's
//! charge comes with the first frame and must fit the window beside it.
//!
//! **One job at a time on a channel.** Vouchers are cumulative over the channel, so two jobs that
//! sign on it at once would make each other's vouchers "not increasing". Whoever owns the channel
//! lets one job use it at a time.
//!
//! The idea, paying for a stream in small cumulative steps with bounded exposure, is that of
//! PayWord (Rivest and Shamir, 1996, section 2.2) with signatures in place of hash chains.

use crate::job::FRAME_TOKENS;
use crate::terms::Price;
use crate::units::NanoTon;
use crate::voucher::VoucherError;

/// The least credit window with which a job of these limits cannot stall: the whole prompt and two
/// frames. `None` only at prices that no decoder lets in.
#[must_use]
pub fn least_window(price: &Price, max_prompt_tokens: u32) -> Option<NanoTon> {
    price.cost(max_prompt_tokens, FRAME_TOKENS.saturating_mul(2))
}

/// Why something cannot be metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeteringError {
    /// Tokens before the prompt was counted.
    #[error("tokens came before the job was accepted")]
    NotAccepted,
    /// The prompt was counted twice.
    #[error("the job was accepted twice")]
    AcceptedTwice,
    /// More was sent than the offer allows to charge.
    #[error("{owed} are owed, the offer allows {limit}")]
    OverLimit {
        /// Cost of what has arrived.
        owed: NanoTon,
        /// The most that will be signed for this job.
        limit: NanoTon,
    },
    /// Sending would go beyond the credit window.
    #[error("{owed} would be owed with {paid} paid, the credit window is {window}")]
    CreditExhausted {
        /// Cost of the job after sending.
        owed: NanoTon,
        /// Paid for this job.
        paid: NanoTon,
        /// The window.
        window: NanoTon,
    },
    /// More tokens or money than there are numbers for.
    #[error("the job's cost is not a number of nanoTON any more")]
    Overflow,
}

/// Tokens of one job, and what they cost.
#[derive(Clone, Copy, Debug)]
struct Meter {
    price: Price,
    prompt_tokens: Option<u32>,
    output_tokens: u32,
}

impl Meter {
    const fn new(price: Price) -> Self {
        Self {
            price,
            prompt_tokens: None,
            output_tokens: 0,
        }
    }

    fn accept(&mut self, prompt_tokens: u32) -> Result<(), MeteringError> {
        if self.prompt_tokens.is_some() {
            return Err(MeteringError::AcceptedTwice);
        }
        self.prompt_tokens = Some(prompt_tokens);
        Ok(())
    }

    /// Output tokens and cost after `more` of them.
    fn after(&self, more: u32) -> Result<(u32, NanoTon), MeteringError> {
        let prompt = self.prompt_tokens.ok_or(MeteringError::NotAccepted)?;
        let output = self
            .output_tokens
            .checked_add(more)
            .ok_or(MeteringError::Overflow)?;
        if output == 0 {
            return Ok((0, NanoTon::ZERO));
        }
        let cost = self
            .price
            .cost(prompt, output)
            .ok_or(MeteringError::Overflow)?;
        Ok((output, cost))
    }
}

/// The client's end: when to sign, and for how much.
#[derive(Clone, Debug)]
pub struct Payer {
    meter: Meter,
    owed: NanoTon,
    base: NanoTon,
    /// Signed for this job; never above `limit`, and never above `owed`.
    signed: NanoTon,
    window: NanoTon,
    limit: NanoTon,
}

impl Payer {
    /// A job at these terms on a channel on which `base` was signed before it. `limit` is the most
    /// that will be signed for this job: what the offer's greatest token counts cost.
    #[must_use]
    pub fn new(price: Price, base: NanoTon, credit_window: NanoTon, limit: NanoTon) -> Self {
        let room = NanoTon::from_nano(u64::MAX).saturating_sub(base);
        Self {
            meter: Meter::new(price),
            owed: NanoTon::ZERO,
            base,
            signed: NanoTon::ZERO,
            window: credit_window,
            limit: limit.min(room),
        }
    }

    /// The worker has counted the prompt.
    ///
    /// # Errors
    /// [`MeteringError::AcceptedTwice`].
    pub fn on_accepted(&mut self, prompt_tokens: u32) -> Result<(), MeteringError> {
        self.meter.accept(prompt_tokens)
    }

    /// So many tokens arrived. Returns the cumulative total to sign now, if it is time to.
    ///
    /// # Errors
    /// [`MeteringError::OverLimit`] if the worker sends more than it offered: the tokens are not
    /// counted, and the job should be cancelled.
    pub fn on_tokens(&mut self, tokens: u32) -> Result<Option<NanoTon>, MeteringError> {
        let (output, owed) = self.meter.after(tokens)?;
        if owed > self.limit {
            return Err(MeteringError::OverLimit {
                owed,
                limit: self.limit,
            });
        }
        self.meter.output_tokens = output;
        self.owed = owed;
        let unsigned = owed.saturating_sub(self.signed);
        if unsigned.saturating_mul(2) >= self.window {
            return Ok(self.sign());
        }
        Ok(None)
    }

    /// The job is over. Returns the cumulative total to sign, if anything is unsigned.
    pub fn on_end(&mut self) -> Option<NanoTon> {
        self.sign()
    }

    fn sign(&mut self) -> Option<NanoTon> {
        if self.signed >= self.owed {
            return None;
        }
        self.signed = self.owed;
        Some(self.cumulative())
    }

    /// The total signed on the channel, this job included.
    #[must_use]
    pub const fn cumulative(&self) -> NanoTon {
        // Does not saturate: `signed` stays within `limit`, and that within the room above `base`.
        self.base.saturating_add(self.signed)
    }

    /// What the tokens that have arrived cost.
    #[must_use]
    pub const fn owed(&self) -> NanoTon {
        self.owed
    }

    /// What was signed for this job.
    #[must_use]
    pub const fn signed(&self) -> NanoTon {
        self.signed
    }

    /// Tokens that have arrived.
    #[must_use]
    pub const fn output_tokens(&self) -> u32 {
        self.meter.output_tokens
    }

    /// Tokens of the prompt, once the worker has counted them.
    #[must_use]
    pub const fn prompt_tokens(&self) -> Option<u32> {
        self.meter.prompt_tokens
    }
}

/// What a voucher brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// By how much the total grew.
    pub added: NanoTon,
    /// Paid for this job now.
    pub paid: NanoTon,
    /// Still owed for what was sent.
    pub unpaid: NanoTon,
}

/// The worker's end: how much may be sent.
#[derive(Clone, Debug)]
pub struct Payee {
    meter: Meter,
    owed: NanoTon,
    /// Total held when the job began.
    base: NanoTon,
    /// Total held now; never below `base`, never falls.
    held: NanoTon,
    window: NanoTon,
}

impl Payee {
    /// A job at these terms. `base` is the voucher total the worker held for the channel when the
    /// job began and `held` the one it holds now; they differ only when a job is taken up again.
    #[must_use]
    pub fn new(price: Price, held: NanoTon, base: NanoTon, credit_window: NanoTon) -> Self {
        Self {
            meter: Meter::new(price),
            owed: NanoTon::ZERO,
            base,
            held: held.max(base),
            window: credit_window,
        }
    }

    /// The prompt has been counted.
    ///
    /// # Errors
    /// [`MeteringError::AcceptedTwice`].
    pub fn on_accepted(&mut self, prompt_tokens: u32) -> Result<(), MeteringError> {
        self.meter.accept(prompt_tokens)
    }

    fn check(&self, tokens: u32) -> Result<(u32, NanoTon), MeteringError> {
        let (output, owed) = self.meter.after(tokens)?;
        if owed > self.paid().saturating_add(self.window) {
            return Err(MeteringError::CreditExhausted {
                owed,
                paid: self.paid(),
                window: self.window,
            });
        }
        Ok((output, owed))
    }

    /// True if so many tokens can be sent now.
    #[must_use]
    pub fn may_send(&self, tokens: u32) -> bool {
        self.check(tokens).is_ok()
    }

    /// Records tokens that are about to be sent.
    ///
    /// # Errors
    /// [`MeteringError::CreditExhausted`] if they must not be; nothing is recorded then.
    pub fn sent(&mut self, tokens: u32) -> Result<(), MeteringError> {
        let (output, owed) = self.check(tokens)?;
        self.meter.output_tokens = output;
        self.owed = owed;
        Ok(())
    }

    /// A voucher with this total was checked and is on disk.
    ///
    /// # Errors
    /// [`VoucherError::NotIncreasing`].
    pub fn on_voucher(&mut self, cumulative: NanoTon) -> Result<Progress, VoucherError> {
        let held = self.held;
        if cumulative <= held {
            return Err(VoucherError::NotIncreasing {
                held,
                offered: cumulative,
            });
        }
        self.held = cumulative;
        Ok(Progress {
            added: cumulative.saturating_sub(held),
            paid: self.paid(),
            unpaid: self.unpaid(),
        })
    }

    /// What was sent costs.
    #[must_use]
    pub const fn owed(&self) -> NanoTon {
        self.owed
    }

    /// Paid for this job. More than [`Self::owed`] if the client also paid what an earlier job
    /// left open.
    #[must_use]
    pub const fn paid(&self) -> NanoTon {
        self.held.saturating_sub(self.base)
    }

    /// Owed and not paid.
    #[must_use]
    pub const fn unpaid(&self) -> NanoTon {
        self.owed.saturating_sub(self.paid())
    }

    /// Total of the newest voucher held for the channel.
    #[must_use]
    pub const fn cumulative(&self) -> NanoTon {
        self.held
    }

    /// Tokens sent.
    #[must_use]
    pub const fn output_tokens(&self) -> u32 {
        self.meter.output_tokens
    }

    /// Tokens of the prompt, once counted.
    #[must_use]
    pub const fn prompt_tokens(&self) -> Option<u32> {
        self.meter.prompt_tokens
    }
}

#[cfg(test)]
mod tests;
