//! How a client's channel comes to be, and what becomes of an opening that was interrupted.
//!
//! ```text
//!   signed ─► written down ─► sent ─► applied by the wallet ─► deployed ─► open
//!               │               └───────────┴─────────────────────┴─► in doubt ─┐
//!               └────────── the process dies ─────────────────────────────────► in doubt
//!                                     open, or closed since it can never open ◄─┘
//! ```
//!
//! The ledger knows of a channel before the chain does, and knows which message opens it, so no
//! deposit is ever forgotten. An opening that did not end is *in doubt*: it counts as a channel to
//! its worker, and is looked at until the chain says what became of it. It is given up only when
//! the wallet's message can no longer be applied **and** was not: a deployment may still be under
//! way when the message that caused it has long expired.

use super::CashierError;
use super::paying::{LeaseChannel, Paying};
use crate::clock;
use cocoon_protocol::{Digest, NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::chain::wire::MAX_TRANSACTIONS_PER_PAGE;
use cocoon_settlement::chain::{ChainError, TransactionSummary, wait_for_transaction};
use cocoon_settlement::contract::{ChannelTerms, fetch_channel, open_message};
use cocoon_settlement::ledger::{ChannelOpening, ClientChannel, ClientChannelState};
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::{info, warn};

/// Time that a worker has to claim once the client wants its deposit back, seconds.
pub const CLOSE_DELAY_S: u32 = 86_400;
/// Longest wait for each step of a channel's opening to be seen on chain.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks at a channel that is being deployed.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A channel that was seen on chain.
pub(super) struct Opened {
    pub(super) address: TonAddress,
    /// All that was ever put in.
    pub(super) deposit: NanoTon,
}

/// Why a channel did not open.
pub(super) struct Unopened {
    pub(super) error: CashierError,
    /// Set if it may still open.
    pub(super) in_doubt: Option<TonAddress>,
}

impl<E: Into<CashierError>> From<E> for Unopened {
    /// Before anything was written down.
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            in_doubt: None,
        }
    }
}

/// What the chain says about an opening in doubt.
pub(super) enum Finding {
    Open(Opened),
    /// It can never open; nothing was paid.
    Never(TonAddress),
    StillInDoubt,
}

impl Paying {
    /// Opens a channel on chain, one at a time: a wallet's messages are numbered. The ledger still
    /// calls it "opening" after that; whoever takes it into use says "open". `sent` hears of the channel as soon as the
    /// chain has taken the message that opens it.
    pub(super) async fn open(
        &self,
        query: &LeaseChannel,
        deposit: NanoTon,
        sent: oneshot::Sender<TonAddress>,
    ) -> Result<Opened, Unopened> {
        let wallet = self.wallet.lock().await;
        let terms = ChannelTerms {
            client: self.address,
            worker: query.payout,
            client_key: PublicKey32::from_bytes(self.key.verifying_key().to_bytes()),
            nonce: self.ledger.next_nonce(&query.payout)?,
            close_delay_s: CLOSE_DELAY_S,
        };
        let address = terms.address()?;
        let message = open_message(&terms, deposit)?;
        // An empty wallet is found out here, before a channel is written down that would stay
        // in the ledger for good.
        let transfer = wallet.prepare(self.chain.as_ref(), &[message]).await?;
        let opening = ChannelOpening {
            worker: query.worker,
            address,
            terms,
            deposit,
            reserve: self.kept(),
            valid_until: transfer.valid_until,
        };
        self.ledger.open_channel(opening, clock::now())?;
        info!(worker = %query.worker, channel = %address, %deposit, "opening a channel");

        let in_doubt = |error: CashierError| Unopened {
            error,
            in_doubt: Some(address),
        };
        // The hash before the message: then a hash that is missing means that nothing was sent.
        self.ledger
            .record_opening_sent(&address, transfer.message)
            .map_err(|error| in_doubt(error.into()))?;
        match self.chain.send_external(&transfer.boc).await {
            // Whoever listened may be gone.
            Ok(_) => drop(sent.send(address)),
            Err(error) if was_not_taken(&error) => return Err(self.give_up(address, error)),
            Err(error) => return Err(in_doubt(error.into())),
        }
        let applied = wait_for_transaction(
            self.chain.as_ref(),
            self.address,
            transfer.message,
            transfer.after_lt,
            STEP_LIMIT,
        )
        .await
        .map_err(|error| in_doubt(error.into()))?;
        drop(wallet);
        if !has_paid(&applied) {
            let error = ChainError::TransactionFailed {
                account: self.address,
                transaction: applied.hash,
                exit_code: applied.exit_code,
                action_result: applied.action_result,
            };
            return Err(self.give_up(address, error));
        }
        self.wait_until_deployed(address).await.map_err(in_doubt)
    }

    /// Notes that a channel will never open.
    fn give_up(&self, address: TonAddress, error: ChainError) -> Unopened {
        match self.ledger.record_closed(&address) {
            Ok(_) => error.into(),
            // Then it will be found out again.
            Err(failure) => Unopened {
                error: failure.into(),
                in_doubt: Some(address),
            },
        }
    }

    async fn wait_until_deployed(&self, address: TonAddress) -> Result<Opened, CashierError> {
        let deployed = async {
            loop {
                if let Some(opened) = self.deployed(address).await? {
                    return Ok(opened);
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        tokio::time::timeout(STEP_LIMIT, deployed)
            .await
            .unwrap_or(Err(CashierError::NotOpen(address)))
    }

    async fn deployed(&self, address: TonAddress) -> Result<Option<Opened>, CashierError> {
        let state = fetch_channel(self.chain.as_ref(), address).await?;
        Ok(state.map(|state| Opened {
            address,
            deposit: state.claimed.saturating_add(state.balance),
        }))
    }

    /// What became of an opening in doubt.
    pub(super) async fn look_at(&self, channel: &ClientChannel) -> Result<Finding, CashierError> {
        // The head first: what is not there after it can only come from later blocks.
        let head = self.chain.head().await?;
        if let Some(opened) = self.deployed(channel.address).await? {
            return Ok(Finding::Open(opened));
        }
        let ClientChannelState::Opening {
            valid_until,
            message,
        } = channel.state
        else {
            return Ok(Finding::StillInDoubt);
        };
        if head.unix <= valid_until {
            return Ok(Finding::StillInDoubt);
        }
        let applied = match message {
            Some(message) => self.own_transaction(message).await?,
            None => None,
        };
        match applied {
            Some(applied) if has_paid(&applied) => {
                warn!(channel = %channel.address, "paid for, and not deployed yet");
                Ok(Finding::StillInDoubt)
            }
            _ => Ok(Finding::Never(channel.address)),
        }
    }

    /// The wallet's transaction that a message caused.
    async fn own_transaction(
        &self,
        message: Digest,
    ) -> Result<Option<TransactionSummary>, CashierError> {
        let mut after = 0;
        loop {
            let page = self
                .chain
                .transactions(self.address, after, MAX_TRANSACTIONS_PER_PAGE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(None);
            };
            after = last.lt;
            let found = page
                .into_iter()
                .find(|transaction| transaction.in_message == Some(message));
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

/// Whether the wallet sent its one message. It goes on after one that it cannot pay for.
fn has_paid(transaction: &TransactionSummary) -> bool {
    transaction.success && transaction.sent.len() == 1
}

/// Whether the chain surely does not have a message that it was handed.
fn was_not_taken(error: &ChainError) -> bool {
    matches!(
        error,
        ChainError::NotAccepted { .. } | ChainError::BadMessage { .. } | ChainError::Busy { .. }
    )
}
