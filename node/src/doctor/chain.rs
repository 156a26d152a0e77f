//! The chain: whether it answers, and whether the wallet can pay for settlement.

use cocoon_protocol::units::NanoTon;
use cocoon_settlement::chain::{BlockRef, Chain};
use cocoon_settlement::wallet::Wallet as ChainWallet;
use ed25519_dalek::SigningKey;

use super::{Finding, Look, Patient};
use crate::config::NodeRole;

/// What a worker's ledger contract costs, nanoTON; see docs/operators.md.
const LEDGER_NANOTON: u64 = 50_000_000;

/// What the chain says.
#[derive(Clone, Debug)]
pub struct ChainView {
    /// The newest block, or why none.
    pub head: Result<BlockRef, String>,
    /// The node's wallet; `None` if it has no key yet.
    pub wallet: Option<Result<Wallet, String>>,
}

/// A node's wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// Where.
    pub address: String,
    /// What is on it.
    pub balance: NanoTon,
}

impl ChainView {
    /// Asks a chain.
    pub async fn of(chain: &dyn Chain, key: Option<SigningKey>) -> Self {
        let head = chain.head().await.map_err(|error| error.to_string());
        let wallet = match key {
            Some(key) => Some(wallet(chain, key).await),
            None => None,
        };
        Self { head, wallet }
    }

    /// A chain that cannot even be asked.
    #[must_use]
    pub fn silent(why: String) -> Self {
        Self {
            head: Err(why),
            wallet: None,
        }
    }
}

async fn wallet(chain: &dyn Chain, key: SigningKey) -> Result<Wallet, String> {
    let say = |error: cocoon_settlement::chain::ChainError| error.to_string();
    let wallet = ChainWallet::from_key(key, chain.global_id().await.map_err(say)?).map_err(say)?;
    Ok(Wallet {
        address: wallet.address().to_string(),
        balance: wallet.balance(chain).await.map_err(say)?,
    })
}

pub(super) fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    let chain = Look::at(
        "chain",
        patient.config.chain_url.clone(),
        "evidence names its newest block, and jobs are paid on it",
    );
    let wallet = Look::at(
        "wallet",
        patient
            .config
            .data_dir
            .join("wallet-key")
            .display()
            .to_string(),
        "settling costs a little TON: 0.05 for the ledger contract, then about 0.0004 for each batch",
    );
    if patient.config.role == Some(NodeRole::Bootstrap) {
        let why = "a bootstrap node knows no chain";
        return vec![chain.not_applicable(why), wallet.not_applicable(why)];
    }
    let Some(view) = patient.chain else {
        let why = patient.not_live();
        return vec![chain.not_applicable(why), wallet.not_applicable(why)];
    };
    let reached = match &view.head {
        Ok(head) => chain.ok(format!("block {}", head.seqno)),
        Err(error) => chain.missing(
            error.clone(),
            "start it, open the way to it, or name another one with --chain-url",
        ),
    };
    vec![reached, purse(wallet, view, patient.is_worker())]
}

fn purse(look: Look, view: &ChainView, is_worker: bool) -> Finding {
    match &view.wallet {
        None => look.warning(
            "no key yet; the first start makes it",
            "start the node once, and send a little TON to the address that it prints",
        ),
        Some(Err(error)) => look.warning(
            format!("its balance is not known: {error}"),
            "mend `chain` first",
        ),
        Some(Ok(wallet)) => {
            let found = format!("{} on {}", wallet.balance, wallet.address);
            if wallet.balance == NanoTon::ZERO {
                look.missing(found, format!("send 0.1 TON or more to {}", wallet.address))
            } else if is_worker && wallet.balance < NanoTon::from_nano(LEDGER_NANOTON) {
                look.warning(
                    format!("{found}, too little for a ledger contract"),
                    format!(
                        "send 0.1 TON to {}, unless its ledger is deployed already",
                        wallet.address
                    ),
                )
            } else {
                look.ok(found)
            }
        }
    }
}
