//! How messages become blocks.

use std::collections::{BTreeMap, VecDeque};

use cocoon_protocol::Digest;
use tycho_types::boc::Boc;
use tycho_types::models::{MsgInfo, OwnedMessage};

use super::assemble::{self, Executed, Parameters};
use super::block::{BlockBuilder, Queued};
use super::execution::{self, BlockContext, broken};
use super::network::Network;
use super::record::{Place, Split};
use super::storage::{self, Batch, IN_FLIGHT, META, Scan};
use super::{
    Devnet, KEY_BLOCK_INTERVAL, KeyBlock, LT_PER_BLOCK, Limits, MAX_EXTERNAL_BYTES, Waiting,
    choices, encode_account, encode_json,
};
use crate::chain::{BlockRef, ChainError};
use crate::contract::encoding::{digest, standard};

impl Devnet {
    /// Takes an external message (bag of cells) for the next block if its account accepts it now. It may still be
    /// dropped there, when another message came first and changed the account's mind.
    pub fn submit(&mut self, boc: &[u8]) -> Result<Digest, ChainError> {
        let bad = |reason: String| ChainError::BadMessage { reason };
        if boc.len() > MAX_EXTERNAL_BYTES {
            return Err(bad(format!(
                "{} bytes, at most {MAX_EXTERNAL_BYTES}",
                boc.len()
            )));
        }
        let message = Boc::decode(boc).map_err(|error| bad(error.to_string()))?;
        let parsed = message
            .parse::<OwnedMessage>()
            .map_err(|error| bad(error.to_string()))?;
        let MsgInfo::ExtIn(info) = &parsed.info else {
            return Err(bad("not an external message".to_owned()));
        };
        let account =
            standard(&info.dst).ok_or_else(|| bad("not an ordinary address".to_owned()))?;
        let hash = digest(message.repr_hash());
        if self.waiting.iter().any(|waiting| waiting.hash == hash) {
            return Ok(hash);
        }
        if self.waiting.len() >= self.limits.waiting_externals {
            return Err(ChainError::Busy {
                waiting: self.waiting.len(),
            });
        }
        let context = self.context(self.tip.record.unix);
        execution::check(
            &self.network,
            context,
            account,
            &self.shard_account(account)?,
            message.clone(),
        )?;
        self.waiting.push_back(Waiting {
            hash,
            account,
            message,
        });
        Ok(hash)
    }

    fn context(&self, unix: u32) -> BlockContext {
        let before = &self.tip.record;
        let lt = before
            .end_lt
            .master
            .saturating_add(1)
            .next_multiple_of(LT_PER_BLOCK);
        let seed =
            Digest::sha256(&[b"seed".as_slice(), before.hashes.master.root.as_bytes()].concat());
        BlockContext { unix, lt, seed }
    }

    /// Lowers the limits, to see what congestion does. They cannot be raised above the defaults.
    pub fn set_limits(&mut self, limits: Limits) {
        let most = Limits::default();
        self.limits = Limits {
            transactions_per_block: limits
                .transactions_per_block
                .clamp(1, most.transactions_per_block),
            waiting_externals: limits.waiting_externals.min(most.waiting_externals),
        };
    }

    /// Lets the clock that [`serve`] makes blocks by run ahead of the machine's, from the next block on and for good.
    pub fn jump(&mut self, seconds: u32) {
        // Written with the next block.
        self.meta.clock_ahead = self.meta.clock_ahead.saturating_add(seconds);
    }

    /// Makes the next block a key block. With `new_validators` another set signs from the block after it on.
    pub fn request_key_block(&mut self, new_validators: bool) {
        self.key_block = if new_validators {
            KeyBlock::NewValidators
        } else {
            KeyBlock::Same
        };
    }

    /// Makes the next block at this time (seconds since 1970), or at the time of the block before if that is later.
    pub fn advance(&mut self, unix: u32) -> Result<BlockRef, ChainError> {
        let head = self.tip.record;
        let unix = unix.max(head.unix);
        let seqno = head.seqno.checked_add(1).ok_or(ChainError::Internal {
            reason: "the last block".to_owned(),
        })?;
        let block = self.execute(unix, seqno)?;

        let mut key_block = self.key_block;
        if key_block == KeyBlock::No
            && seqno.saturating_sub(head.newest_key_block()) >= KEY_BLOCK_INTERVAL
        {
            key_block = KeyBlock::Same;
        }
        let next_validators = match key_block {
            KeyBlock::NewValidators => head.next_validators.saturating_add(1),
            KeyBlock::No | KeyBlock::Same => head.next_validators,
        };
        let after = (next_validators != head.next_validators)
            .then(|| {
                Network::with(&choices(
                    self.meta.genesis_unix,
                    next_validators,
                    self.zero.hashes.base,
                ))
            })
            .transpose()?;
        let parameters = Parameters {
            before: &self.network,
            after: after.as_ref().unwrap_or(&self.network),
            key_block: key_block != KeyBlock::No,
            validators: head.next_validators,
            next_validators,
        };
        let executed = Executed {
            seqno,
            unix,
            start_lt: block.context.lt,
            next_lt: block.next_lt,
            seed: block.context.seed,
            accounts: &block.accounts,
            transactions: &block.transactions,
            flow: block.flow,
        };
        let assembled =
            assemble::assemble(&self.tip, &parameters, &executed).map_err(broken("block"))?;

        let mut batch = block.batch;
        let mut meta = self.meta.clone();
        meta.head = seqno;
        for queued in &block.queue {
            batch.insert(
                storage::in_flight_key(meta.in_flight_next),
                Some(Boc::encode(&queued.message)),
            );
            meta.in_flight_next = meta.in_flight_next.saturating_add(1);
        }
        for (address, account) in &block.accounts {
            batch.insert(
                storage::account_key(*address),
                account.as_ref().map(encode_account).transpose()?,
            );
        }
        batch.insert(
            storage::record_key(seqno),
            Some(encode_json(&assembled.tip.record)?),
        );
        let Split { base, master } = assembled.bytes;
        batch.insert(storage::block_key(Place::Base, seqno), Some(base));
        batch.insert(storage::block_key(Place::Master, seqno), Some(master));
        batch.insert(META.to_vec(), Some(encode_json(&meta)?));
        // An empty block may be lost with the machine: another one will do.
        let durable = block.count > 0 || key_block != KeyBlock::No;
        self.storage.write(batch, durable)?;

        self.meta = meta;
        self.tip = assembled.tip;
        self.key_block = KeyBlock::No;
        if let Some(after) = after {
            self.network = after;
        }
        self.retain();
        self.heads.send_replace(seqno);
        Ok(self.head())
    }

    /// Runs what waits, as far as a block has room. Nothing is changed yet.
    fn execute(&mut self, unix: u32, seqno: u32) -> Result<BlockBuilder, ChainError> {
        let context = self.context(unix);
        let mut block = BlockBuilder {
            context,
            seqno,
            limit: self.limits.transactions_per_block,
            next_lt: context.lt,
            flow: Split::default(),
            accounts: BTreeMap::new(),
            queue: VecDeque::new(),
            transactions: BTreeMap::new(),
            count: 0,
            batch: Batch::new(),
        };
        self.storage.scan(IN_FLIGHT, IN_FLIGHT, |key, value| {
            let message = Boc::decode(value).map_err(|error| ChainError::Internal {
                reason: error.to_string(),
            })?;
            block.batch.insert(key.to_vec(), None);
            block.queue.push_back(Queued {
                message,
                fresh: false,
            });
            Ok(Scan::On)
        })?;
        block.deliver_all(self)?;
        while block.has_room()
            && let Some(waiting) = self.waiting.pop_front()
        {
            if let Err(error) = block.run(self, waiting.account, &waiting.message, true) {
                // A message the engine chokes on must not stop the chain.
                tracing::error!(account = %waiting.account, %error, "external message dropped");
            }
            block.deliver_all(self)?;
        }
        block.export_rest()?;
        Ok(block)
    }
}
