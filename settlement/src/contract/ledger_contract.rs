//! A worker's public ledger of batches. Protocol, signed bytes and exit codes: `contracts/ledger.tolk`.

use cocoon_protocol::{Digest, NanoTon, PublicKey32, TonAddress};
use ed25519_dalek::{Signer, SigningKey};
use tycho_types::cell::{Cell, CellBuilder};
use tycho_types::models::StateInit;

use super::encoding::{
    address_of, digest, encoding, load_address, load_coins, state_init, store_address, store_coins,
};
use super::message::{OutMessage, external};
use super::{account, ledger_code};
use crate::chain::{Chain, ChainError};

/// Roots the contract remembers: the newest and those before it.
pub const KEPT_ROOTS: usize = 4;
/// What must be in the account for a commit to be taken (`RESERVE` in the contract's source).
pub const LEDGER_RESERVE: NanoTon = NanoTon::from_nano(3_000_000);
/// Coins sent along with a request to withdraw; what gas does not use comes back with the rest.
const WITHDRAW_FEE: NanoTon = NanoTon::from_nano(10_000_000);

const VERSION: u8 = 1;
const COMMIT_TAG: u32 = 0x636d_7431;
const OP_COMMIT: u32 = 0x636d_6974;
const OP_WITHDRAW: u32 = 0x7764_7231;

/// What a ledger is deployed with. It decides the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerTerms {
    /// The worker's wallet; gets withdrawals.
    pub owner: TonAddress,
    /// Ed25519 key that signs commits.
    pub key: PublicKey32,
}

/// A ledger as it is on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerState {
    pub address: TonAddress,
    pub owner: TonAddress,
    pub key: PublicKey32,
    pub balance: NanoTon,
    /// Batches committed so far; the next commit carries `seqno + 1`.
    pub seqno: u32,
    /// Jobs and earnings in all batches so far.
    pub jobs: u64,
    pub total: NanoTon,
    /// Roots of batches `seqno`, `seqno - 1`, …; zero where there was no such batch.
    pub roots: [Digest; KEPT_ROOTS],
    /// Logical time of the account's last transaction.
    pub last_lt: u64,
}

impl LedgerState {
    /// The root of a batch, where it is still remembered.
    pub fn root_of(&self, seqno: u32) -> Option<Digest> {
        let age = usize::try_from(self.seqno.checked_sub(seqno)?).ok()?;
        if seqno == 0 {
            None
        } else {
            self.roots.get(age).copied()
        }
    }
}

/// One batch, as committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub ledger: TonAddress,
    /// One above the ledger's; the first batch is 1.
    pub seqno: u32,
    /// Unix second after which the contract refuses it.
    pub valid_until: u32,
    /// Merkle root of the batch's receipts.
    pub root: Digest,
    /// Running totals, this batch among them.
    pub jobs: u64,
    pub total: NanoTon,
}

impl Commit {
    /// The bytes the worker signs.
    pub fn signed_bytes(&self, global_id: i32) -> [u8; 104] {
        let mut out = [0; 104];
        let total = u128::from(self.total.nano()).to_be_bytes();
        let parts: [&[u8]; 9] = [
            &COMMIT_TAG.to_be_bytes(),
            &global_id.to_be_bytes(),
            &[VERSION],
            &self.ledger.hash,
            &self.seqno.to_be_bytes(),
            &self.valid_until.to_be_bytes(),
            self.root.as_bytes(),
            &self.jobs.to_be_bytes(),
            total.get(1..).unwrap_or_default(),
        ];
        for (slot, byte) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *slot = *byte;
        }
        out
    }
}

impl LedgerTerms {
    /// Where a ledger with these terms lives.
    pub fn address(&self) -> Result<TonAddress, ChainError> {
        address_of(&self.state_init()?)
    }

    pub(crate) fn state_init(&self) -> Result<StateInit, ChainError> {
        let build = || {
            let mut earlier = CellBuilder::new();
            earlier.store_zeros(3 * 256)?;
            let mut data = CellBuilder::new();
            store_address(&mut data, self.owner)?;
            data.store_raw(self.key.as_bytes(), 256)?;
            data.store_u32(0)?;
            data.store_zeros(256)?;
            data.store_u64(0)?;
            store_coins(&mut data, NanoTon::ZERO)?;
            data.store_reference(earlier.build()?)?;
            data.build()
        };
        Ok(state_init(
            ledger_code()?,
            build().map_err(encoding("ledger data"))?,
        ))
    }
}

/// Reads the ledger at `address`; `None` where nothing is deployed. The code must be the pinned code.
pub async fn fetch_ledger(
    chain: &dyn Chain,
    address: TonAddress,
) -> Result<Option<LedgerState>, ChainError> {
    let Some(found) = account::fetch(chain, address, ledger_code()?, "ledger").await? else {
        return Ok(None);
    };
    let state = found.read(|data| decode(data, address, found.balance, found.last_lt))?;
    let terms = LedgerTerms {
        owner: state.owner,
        key: state.key,
    };
    found.belongs_to(terms.address()?)?;
    Ok(Some(state))
}

fn decode(
    cell: &Cell,
    address: TonAddress,
    balance: NanoTon,
    last_lt: u64,
) -> Result<LedgerState, tycho_types::error::Error> {
    let mut slice = cell.as_slice()?;
    let owner = load_address(&mut slice)?;
    let key = PublicKey32::from_bytes(slice.load_u256()?.0);
    let seqno = slice.load_u32()?;
    let newest = digest(&slice.load_u256()?);
    let jobs = slice.load_u64()?;
    let total = load_coins(&mut slice)?;
    let mut earlier = slice.load_reference_as_slice()?;
    let roots = [
        newest,
        digest(&earlier.load_u256()?),
        digest(&earlier.load_u256()?),
        digest(&earlier.load_u256()?),
    ];
    if !slice.is_data_empty() || !slice.is_refs_empty() {
        return Err(tycho_types::error::Error::InvalidData);
    }
    Ok(LedgerState {
        address,
        owner,
        key,
        balance,
        seqno,
        jobs,
        total,
        roots,
        last_lt,
    })
}

/// Deploys the ledger with coins for its commits, each about 0.0004 TON.
pub fn deploy_ledger_message(
    terms: &LedgerTerms,
    value: NanoTon,
) -> Result<OutMessage, ChainError> {
    let init = terms.state_init()?;
    Ok(OutMessage::deploy(
        address_of(&init)?,
        value,
        init,
        Cell::default(),
    ))
}

/// Returns everything above [`LEDGER_RESERVE`] to the owner, who must be the one to send it.
pub fn withdraw_message(ledger: TonAddress) -> Result<OutMessage, ChainError> {
    let mut body = CellBuilder::new();
    let body = body
        .store_u32(OP_WITHDRAW)
        .and_then(|()| body.store_u64(0))
        .and_then(|()| body.build())
        .map_err(encoding("message body"))?;
    Ok(OutMessage::call(ledger, WITHDRAW_FEE, body))
}

/// Signs a commit and wraps it as an external message (bag of cells).
pub fn commit_message(
    commit: &Commit,
    key: &SigningKey,
    global_id: i32,
) -> Result<Vec<u8>, ChainError> {
    let signed = commit.signed_bytes(global_id);
    let signature = key.sign(&signed).to_bytes();
    let build = || {
        let mut inner = CellBuilder::new();
        inner.store_raw(&signed, 832)?;
        let mut body = CellBuilder::new();
        body.store_u32(OP_COMMIT)?;
        body.store_raw(&signature, 512)?;
        body.store_reference(inner.build()?)?;
        body.build()
    };
    external(commit.ledger, None, build().map_err(encoding("commit"))?)
}
