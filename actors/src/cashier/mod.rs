//! The cashier actor: channels and vouchers.
//!
//! A client's cashier opens channels and signs ([`paying`]); a worker's takes vouchers and closes
//! jobs ([`earning`]). Both write to the ledger and wait for the disk, so the cashier has a thread
//! of its own. Nothing that depends on a write leaves before the write is durable: a reply *is*
//! the proof that it is.

mod asking;
pub mod earning;
mod first_contact;
mod moving;
mod opening;
pub mod paying;
pub mod releasing;

pub use opening::CLOSE_DELAY_S;

use crate::ask::Named;
use actix::prelude::*;
use cocoon_settlement::chain::ChainError;
use cocoon_settlement::ledger::LedgerError;
use earning::Earning;
use paying::Paying;

/// See the module's doc.
pub struct Cashier {
    paying: Option<paying::Books>,
    earning: Option<earning::Books>,
}

impl Cashier {
    /// A client's cashier.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn paying(parts: Paying) -> Result<Self, CashierError> {
        Ok(Self {
            paying: Some(paying::Books::new(parts)?),
            earning: None,
        })
    }

    /// A worker's cashier.
    #[must_use]
    pub fn earning(parts: Earning) -> Self {
        Self {
            paying: None,
            earning: Some(earning::Books::new(parts)),
        }
    }
}

/// Why money did not move.
#[derive(Debug, thiserror::Error)]
pub enum CashierError {
    /// The ledger refused or failed; see there.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain refused or failed; see there.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The voucher is not worth what it says.
    #[error(transparent)]
    Voucher(#[from] cocoon_settlement::ledger::VoucherError),
    /// The job costs more than a channel is opened with.
    #[error("the job may cost {needed}, a channel holds {deposit}; raise `deposit_nanoton`")]
    DepositTooSmall {
        /// Worst case of the job.
        needed: cocoon_protocol::NanoTon,
        /// What a channel is opened with.
        deposit: cocoon_protocol::NanoTon,
    },
    /// Every channel to this worker carries a job, and no more may be opened.
    #[error("all {limit} channels to worker {worker} are in use")]
    ChannelsBusy {
        /// The worker.
        worker: cocoon_protocol::PeerId,
        /// Most channels to one worker.
        limit: usize,
    },
    /// The channel is not on chain, or its opening was not seen in time.
    #[error("channel {0} is not open on chain")]
    NotOpen(cocoon_protocol::TonAddress),
    /// The client wants its deposit back.
    #[error(
        "channel {channel} is being closed by its client; from unix second {close_at} on it may pay nothing"
    )]
    Closing {
        /// The channel.
        channel: cocoon_protocol::TonAddress,
        /// When the delay has passed.
        close_at: u32,
    },
    /// The client has had enough without paying.
    #[error(transparent)]
    Credit(#[from] cocoon_settlement::credit::CreditError),
    /// The channel is not on chain, and no more is served before it is.
    #[error(transparent)]
    FirstContact(#[from] cocoon_settlement::credit::FirstContactError),
    /// The chain's head cannot be verified, and enough is at risk.
    #[error(transparent)]
    Doubt(#[from] cocoon_settlement::credit::DoubtExhausted),
    /// The chain's head cannot be verified, and this channel was not seen before.
    #[error("the chain's head cannot be verified, and channel {0} was not seen while it could")]
    Unproved(cocoon_protocol::TonAddress),
    /// The chain's head cannot be verified, and no open channel can pay for the job.
    #[error("no channel is opened while the chain's head cannot be verified: {0}")]
    Unverifiable(cocoon_settlement::chain::ChainStanding),
    /// Enough is locked in channels.
    #[error(transparent)]
    TooMuchLocked(#[from] cocoon_settlement::purse::TooMuchLocked),
    /// The client could take its deposit back sooner than a voucher is surely claimed.
    #[error("channel {channel} can be closed within {delay_s} s; {least_s} s are the least")]
    ClosesTooSoon {
        /// The channel.
        channel: cocoon_protocol::TonAddress,
        /// Between its client's wish to close and the end.
        delay_s: u32,
        /// What a worker needs.
        least_s: u32,
    },
    /// The channel pays somebody else.
    #[error("channel {0} does not pay this worker")]
    NotOurs(cocoon_protocol::TonAddress),
    /// A job is being paid over this channel already.
    #[error("channel {0} carries a job already")]
    InUse(cocoon_protocol::TonAddress),
    /// The channel cannot pay for the worst case.
    #[error("channel {channel} can pay {capacity} in all; up to {needed} may be needed")]
    Underfunded {
        /// The channel.
        channel: cocoon_protocol::TonAddress,
        /// Voucher total that the job may need.
        needed: cocoon_protocol::NanoTon,
        /// Largest voucher total the channel covers.
        capacity: cocoon_protocol::NanoTon,
    },
    /// The worker may not serve until ledger and chain agree.
    #[error("this worker's ledger is not reconciled with the chain")]
    Unreconciled,
    /// The node has no books of this kind.
    #[error("this node's role has no such books")]
    WrongRole,
}

impl Named for Cashier {
    const NAME: &'static str = "cashier";
}
impl Actor for Cashier {
    type Context = Context<Self>;
    fn started(&mut self, context: &mut Self::Context) {
        self.watch_openings(context);
        self.watch_deposits(context);
        self.watch_first_contacts(context);
    }
}
impl Supervised for Cashier {
    fn restarting(&mut self, _: &mut Self::Context) {
        if let Some(books) = &mut self.paying {
            books.restarting();
        }
        if let Some(books) = &mut self.earning {
            // The futures that looked are gone.
            books.release_looks = 0;
        }
    }
}

impl Handler<crate::supervision::Stop> for Cashier {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}
