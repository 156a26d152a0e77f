//! A block in the making.

use std::collections::{BTreeMap, VecDeque};

use cocoon_protocol::{NanoTon, TonAddress};
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;
use tycho_types::models::ShardAccount;

use super::Devnet;
use super::assemble::Flow;
use super::execution::{self, BlockContext, broken, carried, destination, sender};
use super::record::{Place, Split};
use super::storage::{self, Batch};
use crate::chain::ChainError;

/// A block while it is made. Nothing of it is visible until all of it is written.
pub(super) struct BlockBuilder {
    pub(super) context: BlockContext,
    pub(super) seqno: u32,
    /// Most transactions it may hold.
    pub(super) limit: usize,
    pub(super) next_lt: u64,
    /// Coins that crossed the border of either block, and fees.
    pub(super) flow: Split<Flow>,
    /// Accounts this block changed; `None` where one ceased to exist.
    pub(super) accounts: BTreeMap<TonAddress, Option<ShardAccount>>,
    /// Internal messages not yet delivered, in order.
    pub(super) queue: VecDeque<Queued>,
    /// Its transactions: of each account, in order.
    pub(super) transactions: BTreeMap<TonAddress, Vec<(u64, Cell)>>,
    /// How many those are.
    pub(super) count: usize,
    /// What will be written.
    pub(super) batch: Batch,
}

/// An internal message on its way.
pub(super) struct Queued {
    pub(super) message: Cell,
    /// Whether this block sent it, so that its value left an account of this block.
    pub(super) fresh: bool,
}

impl BlockBuilder {
    pub(super) fn has_room(&self) -> bool {
        self.count < self.limit
    }

    /// Delivers what waits and what that causes, while there is room.
    pub(super) fn deliver_all(&mut self, chain: &Devnet) -> Result<(), ChainError> {
        while self.has_room()
            && let Some(queued) = self.queue.pop_front()
        {
            let message = queued.message;
            let (value, fee) = carried(&message).map_err(broken("message"))?;
            let Some(account) = destination(&message).map_err(broken("message"))? else {
                continue;
            };
            let Some(place) = Place::of(account.workchain) else {
                continue;
            };
            let total = value.nano().saturating_add(fee.nano());
            let from = queued
                .fresh
                .then(|| sender(&message))
                .transpose()
                .map_err(broken("message"))?
                .flatten();
            if from != Some(place) {
                add(&mut self.flow.get_mut(place).imported, total)?;
                if let Some(from) = from {
                    add(&mut self.flow.get_mut(from).exported, total)?;
                }
            }
            self.collect(place, fee)?;
            if let Err(error) = self.run(chain, account, &message, false) {
                // The engine cannot deliver it; the chain must go on, and the sum must stay right.
                tracing::error!(%account, %error, "internal message lost, its value counted as a fee");
                self.collect(place, value)?;
            }
        }
        Ok(())
    }

    fn collect(&mut self, place: Place, fee: NanoTon) -> Result<(), ChainError> {
        add(&mut self.flow.get_mut(place).fees, fee.nano())
    }

    /// What this block sent and did not deliver goes out of it.
    pub(super) fn export_rest(&mut self) -> Result<(), ChainError> {
        for queued in &self.queue {
            if queued.fresh
                && let Some(from) = sender(&queued.message).map_err(broken("message"))?
            {
                let (value, fee) = carried(&queued.message).map_err(broken("message"))?;
                let total = value.nano().saturating_add(fee.nano());
                add(&mut self.flow.get_mut(from).exported, total)?;
            }
        }
        Ok(())
    }

    /// Runs one message. An external one that is not accepted leaves no trace.
    pub(super) fn run(
        &mut self,
        chain: &Devnet,
        address: TonAddress,
        message: &Cell,
        external: bool,
    ) -> Result<(), ChainError> {
        let Some(place) = Place::of(address.workchain) else {
            return Ok(());
        };
        let account = match self.accounts.get(&address) {
            Some(Some(account)) => account.clone(),
            Some(None) => execution::no_account()?,
            None => chain.shard_account(address)?,
        };
        let executed = execution::execute(
            &chain.network,
            self.context,
            self.next_lt,
            address,
            &account,
            message,
            external,
        )?;
        let Some(executed) = executed else {
            tracing::debug!(%address, "external message no longer accepted, dropped");
            return Ok(());
        };
        self.collect(place, executed.fees)?;
        self.next_lt = self.next_lt.max(executed.next_lt);
        self.count = self.count.saturating_add(1);
        let mut value = self.seqno.to_be_bytes().to_vec();
        value.extend_from_slice(&Boc::encode(&executed.transaction));
        self.batch
            .insert(storage::transaction_key(address, executed.lt), Some(value));
        self.transactions
            .entry(address)
            .or_default()
            .push((executed.lt, executed.transaction));
        self.queue
            .extend(executed.sent.into_iter().map(|message| Queued {
                message,
                fresh: true,
            }));
        self.accounts
            .insert(address, executed.exists.then_some(executed.account));
        Ok(())
    }
}

fn add(sum: &mut u64, amount: u64) -> Result<(), ChainError> {
    *sum = sum.checked_add(amount).ok_or(ChainError::Internal {
        reason: "coins past 2^64".to_owned(),
    })?;
    Ok(())
}
