//! When to act: thresholds, pauses, limits of risk.

use cocoon_protocol::{NanoTon, TonAddress};

use crate::chain::Prices;
use crate::contract::MIN_CLAIM;

/// Gas that a claim uses, at most: `tests/channel.rs` holds the contract to less.
const CLAIM_GAS: u64 = 5_000;
/// Gas that a commit uses, at most: `tests/ledger_contract.rs` holds the contract to less.
const COMMIT_GAS: u64 = 5_000;

/// What a claim costs the worker at these prices, at most: gas, the import of the message, and the payout's way.
#[must_use]
pub fn claim_fee(prices: &Prices) -> NanoTon {
    prices
        .gas_fee(CLAIM_GAS)
        .saturating_add(prices.message_fee(0, 0).saturating_mul(2))
}

/// What a commit costs the ledger contract at these prices, at most: gas, and the import of the message.
#[must_use]
pub fn commit_fee(prices: &Prices) -> NanoTon {
    prices
        .gas_fee(COMMIT_GAS)
        .saturating_add(prices.message_fee(1, 1_023))
}

/// Gas that a release uses, at most (`RELEASE_GAS` in the channel's source).
const RELEASE_GAS: u64 = 7_100;
/// Gas of the wallet's transfer that sends it, at most.
const TRANSFER_GAS: u64 = 5_300;

/// What a release costs the worker at these prices, at most: the channel's gas and its two messages, and the transfer of
/// the worker's wallet that brings it there.
#[must_use]
pub fn release_fee(prices: &Prices) -> NanoTon {
    prices
        .gas_fee(RELEASE_GAS)
        .saturating_add(prices.gas_fee(TRANSFER_GAS))
        .saturating_add(prices.message_fee(0, 0).saturating_mul(2))
        .saturating_add(prices.message_fee(1, 1_023).saturating_mul(2))
}

/// When to act. All of it is the worker's own choice.
#[derive(Clone, Debug)]
pub struct SettlerConfig {
    /// The worker's ledger contract.
    pub ledger: TonAddress,
    /// Entries that make a batch worth its fee, at most [`MAX_BATCH_ENTRIES`](crate::ledger::MAX_BATCH_ENTRIES).
    pub batch_entries: u32,
    /// Credit that makes one, however few the entries.
    pub batch_credit: NanoTon,
    /// Age of the oldest entry, in milliseconds, that makes one if its credit pays for the commit.
    pub batch_age_ms: u64,
    /// Age of the oldest entry, in milliseconds, that makes one whatever it is worth: what is committed can be audited
    /// and cannot be rolled back.
    pub anchor_age_ms: u64,
    /// Seconds of chain time in which a commit must be applied, or is void.
    pub commit_ttl_s: u32,
    /// Seconds of chain time after which a claim that has not shown is sent again.
    pub claim_retry_s: u32,
    /// Seconds of chain time after which a release that has not shown is sent again. Longer than a wallet's transfer is
    /// valid.
    pub release_retry_s: u32,
    /// What a claim costs, until the chain has said its prices.
    pub claim_fee: NanoTon,
    /// What a commit costs, until then.
    pub commit_fee: NanoTon,
    /// Claim a channel once so many times the fee is covered and unclaimed: 1,000 means that a claim costs a thousandth.
    pub claim_fee_multiple: u64,
    /// The smallest claim the contract takes.
    pub contract_min_claim: NanoTon,
    /// Claim a channel once this much is unclaimed, whatever the fee: the most that its client can keep by closing
    /// while this worker is away.
    pub channel_risk: NanoTon,
    /// Claim the largest channels once this much is unclaimed on all of them.
    pub total_risk: NanoTon,
    /// Claim a channel once a covered voucher has waited so long, in milliseconds. Counted from when this process knew
    /// of it.
    pub claim_age_ms: u64,
    /// Milliseconds between looks at a contract that something is expected of.
    pub look_ms: u64,
    /// Milliseconds between looks at one that only might have changed (a cloned disk), and between readings of what is
    /// at stake.
    pub idle_look_ms: u64,
    /// Milliseconds between looks at a channel with something at stake and nothing to claim: how late a client's wish
    /// to close may be noticed. A small part of the least close delay that is served on.
    pub watch_ms: u64,
    /// Milliseconds between readings of the chain's prices.
    pub prices_ms: u64,
    /// Milliseconds before trying again what the chain refused; doubles with each refusal, up to 64 times this.
    pub refused_retry_ms: u64,
}

impl SettlerConfig {
    /// Sensible values for a ledger contract.
    #[must_use]
    pub fn new(ledger: TonAddress) -> Self {
        const DAY_MS: u64 = 86_400_000;
        Self {
            ledger,
            batch_entries: 500,
            batch_credit: NanoTon::from_nano(1_000_000_000),
            batch_age_ms: 600_000,
            anchor_age_ms: DAY_MS,
            commit_ttl_s: 60,
            claim_retry_s: 60,
            release_retry_s: 90,
            claim_fee: NanoTon::from_nano(470_000),
            commit_fee: NanoTon::from_nano(480_000),
            claim_fee_multiple: 1_000,
            contract_min_claim: MIN_CLAIM,
            channel_risk: NanoTon::from_nano(5_000_000_000),
            total_risk: NanoTon::from_nano(20_000_000_000),
            claim_age_ms: 7 * DAY_MS,
            look_ms: 1_000,
            idle_look_ms: 60_000,
            watch_ms: 600_000,
            prices_ms: 3_600_000,
            refused_retry_ms: 2_000,
        }
    }

    pub(super) fn refused_delay(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(6);
        self.refused_retry_ms.saturating_mul(1_u64 << doublings)
    }
}

/// The machine's thresholds at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    /// The smallest claim worth making: the contract takes it and it is more than its fee.
    pub(super) worth: NanoTon,
    /// From here on a claim is made without any other reason.
    pub(super) usual: NanoTon,
    /// Everything worth claiming is to be claimed.
    pub(super) flushing: bool,
}

impl Thresholds {
    pub(super) fn new(config: &SettlerConfig, claim_fee: NanoTon, flushing: bool) -> Self {
        let above_fee = claim_fee.saturating_add(NanoTon::from_nano(1));
        let worth = config.contract_min_claim.max(above_fee);
        let many = claim_fee.saturating_mul(config.claim_fee_multiple);
        Self {
            worth,
            usual: many.max(worth).min(config.channel_risk.max(worth)),
            flushing,
        }
    }
}
