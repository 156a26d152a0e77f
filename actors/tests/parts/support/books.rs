//! Cashiers and their ledgers on disk.

use super::chain::{TestChain, wallet};
use super::{key, milliton};
use cocoon_actors::ask::Address;
use cocoon_actors::cashier::earning::Earning;
use cocoon_actors::cashier::paying::Paying;
use cocoon_actors::cashier::{CLOSE_DELAY_S, Cashier};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::supervision::supervise;
use cocoon_protocol::voucher::{SignedVoucher, Voucher};
use cocoon_protocol::{NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::contract::{ChannelTerms, open_message};
use cocoon_settlement::credit::{CreditConfig, FirstContactConfig};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::{ClientLedger, SCHEMA, WorkerLedger};
use cocoon_settlement::purse::PurseConfig;
use cocoon_settlement::store::RocksStore;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

pub fn store(directory: &Path) -> Arc<RocksStore> {
    Arc::new(RocksStore::open(directory, SCHEMA).unwrap())
}

/// What the client of this key pays with: channels of one TON.
pub fn paying(directory: &Path, chain: &TestChain, seed: u8) -> Paying {
    let wallet = wallet(seed);
    Paying {
        ledger: Arc::new(ClientLedger::new(store(directory))),
        chain: chain.shared(),
        address: wallet.address(),
        wallet: Arc::new(Mutex::new(wallet)),
        key: key(seed),
        global_id: GLOBAL_ID,
        purse: PurseConfig {
            round_ms: 5,
            ..PurseConfig::new(milliton(20_000), milliton(1_000))
        },
        unverified_risk: milliton(100),
        mesh: None,
        metrics: Metrics::new(),
    }
}

/// A cashier that pays from these books; another one on the same books is what a crash leaves.
pub fn payer(parts: &Paying) -> Address<Cashier> {
    supervise(Cashier::paying(parts.clone()).unwrap())
}

/// What the worker of this key earns with.
pub fn earning(directory: &Path, chain: &TestChain, seed: u8) -> Earning {
    Earning {
        ledger: Arc::new(WorkerLedger::new(store(directory))),
        chain: chain.shared(),
        payout: wallet(seed).address(),
        global_id: GLOBAL_ID,
        credit: CreditConfig {
            per_client: milliton(3),
            strangers: milliton(6),
            forget_ms: 3_600_000,
        },
        first_contact: FirstContactConfig {
            per_client: NanoTon::ZERO,
            total: NanoTon::ZERO,
            forget_ms: 3_600_000,
        },
        unverified_risk: milliton(100),
        release_fee_multiple: 0,
        metrics: Metrics::new(),
    }
}

/// A channel with a TON in it that this client opened by hand.
pub async fn open_channel(chain: &TestChain, terms: &ChannelTerms, client: u8) -> TonAddress {
    let open = open_message(terms, milliton(1_000)).unwrap();
    wallet(client).send(&chain.local, &[open]).await.unwrap();
    terms.address().unwrap()
}

/// Terms as an honest client writes them.
pub fn channel_terms(client: u8, worker: u8, nonce: u32) -> ChannelTerms {
    ChannelTerms {
        client: wallet(client).address(),
        worker: wallet(worker).address(),
        client_key: PublicKey32::from_bytes(key(client).verifying_key().to_bytes()),
        nonce,
        close_delay_s: CLOSE_DELAY_S,
    }
}

/// A voucher by this key.
pub fn voucher(channel: TonAddress, cumulative: NanoTon, by: u8) -> SignedVoucher {
    Voucher {
        channel,
        cumulative,
    }
    .sign(&key(by), GLOBAL_ID)
}
