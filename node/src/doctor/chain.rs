//! The chain: whether it answers, and whether the wallet can pay for settlement.

use cocoon_protocol::units::NanoTon;
use cocoon_settlement::chain::{BlockRef, Chain, ChainStanding, ServerState};
use cocoon_settlement::wallet::WalletKey;

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
    /// How far it can be trusted.
    pub standing: ChainStanding,
    /// Its liteservers.
    pub servers: Vec<ServerState>,
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
    pub async fn of(chain: &dyn Chain, key: Option<WalletKey>) -> Self {
        let head = chain.head().await.map_err(|error| error.to_string());
        let wallet = match key {
            Some(key) => Some(wallet(chain, key).await),
            None => None,
        };
        Self {
            head,
            wallet,
            standing: chain.standing(),
            servers: chain.servers(),
        }
    }

    /// A chain that cannot even be asked.
    #[must_use]
    pub fn silent(why: String) -> Self {
        Self {
            head: Err(why),
            wallet: None,
            standing: ChainStanding::Trusted,
            servers: Vec::new(),
        }
    }
}

async fn wallet(chain: &dyn Chain, key: WalletKey) -> Result<Wallet, String> {
    let say = |error: cocoon_settlement::chain::ChainError| error.to_string();
    let wallet = key
        .wallet(chain.global_id().await.map_err(say)?)
        .map_err(say)?;
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
    let servers = Look::at(
        "liteservers",
        patient.config.chain_url.clone(),
        "one that lags or lies is caught by the others, and replaced by them when it fails",
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
        return vec![
            chain.not_applicable(why),
            servers.not_applicable(why),
            wallet.not_applicable(why),
        ];
    }
    let Some(view) = patient.chain else {
        let why = patient.not_live();
        return vec![
            chain.not_applicable(why),
            servers.not_applicable(why),
            wallet.not_applicable(why),
        ];
    };
    let reached = match &view.head {
        Ok(head) => {
            let age_s = patient.now.seconds().saturating_sub(head.unix.into());
            let found = format!("block {}, {age_s} s old, {}", head.seqno, view.standing);
            if view.standing.is_sound() {
                chain.ok(found)
            } else {
                chain.warning(
                    found,
                    "bring this program up to date if the network was; `docs/chain.md` says what goes on meanwhile",
                )
            }
        }
        Err(error) => chain.missing(
            error.clone(),
            "start it, open the way to it, or name another one with --chain-url",
        ),
    };
    vec![
        reached,
        answering(servers, view),
        purse(wallet, view, patient.is_worker()),
    ]
}

fn answering(look: Look, view: &ChainView) -> Finding {
    let bad: Vec<_> = view
        .servers
        .iter()
        .filter_map(|server| {
            let why = server.demoted.as_ref()?;
            Some(format!("{}: {why}", server.address))
        })
        .collect();
    let asked = view
        .servers
        .iter()
        .filter(|server| server.demoted.is_none() && server.latency_ms.is_some())
        .count();
    let found = format!("{asked} answer of {} that are named", view.servers.len());
    if view.servers.is_empty() {
        look.not_applicable("the chain names none")
    } else if asked == 0 {
        look.missing(
            format!("{found}; {}", bad.join("; ")),
            "open the way to their addresses, or take a newer global configuration",
        )
    } else if bad.is_empty() {
        look.ok(found)
    } else {
        look.warning(
            format!("{found}; {}", bad.join("; ")),
            "nothing, while others answer; a newer global configuration may name better ones",
        )
    }
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
