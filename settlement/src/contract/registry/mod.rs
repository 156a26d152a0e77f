//! What a network agrees on: heads of transparency logs, digests of models, parameters. Changes need k of n signatures
//! and time. Protocol, signed bytes and exit codes: `contracts/registry.tolk`.

mod change;
mod draft;
mod heads;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cocoon_protocol::log::TreeHead;
use cocoon_protocol::{Digest, NanoTon, PublicKey32, TonAddress};
use tycho_types::cell::{Cell, CellBuilder, CellFamily, CellSlice, HashBytes, Store};
use tycho_types::dict::Dict;
use tycho_types::error::Error;
use tycho_types::models::StateInit;

use super::encoding::{address_of, digest, encoding, state_init};
use super::message::OutMessage;
use super::{account, registry_code};
use crate::chain::{Chain, ChainError};

pub use change::{Change, SignedMessage, Subject, apply_message};
pub use draft::{DRAFT_FORMAT, Draft, DraftError, DraftSignature, DraftSubject, MAX_DRAFT_BYTES};
pub use heads::{AgainstChain, compare_heads, log_key};

/// Signers at most.
pub const MAX_SIGNERS: usize = 16;
/// Signatures that may be asked for at most: TVM checks ten of a transaction for next to nothing.
pub const MAX_THRESHOLD: u8 = 10;
/// Signatures that must be asked for at least: nobody decides alone.
pub const MIN_THRESHOLD: u8 = 2;
/// Shortest wait between a proposal and its application, seconds.
pub const MIN_REGISTRY_DELAY_S: u32 = 3600;
/// Longest wait, seconds.
pub const MAX_REGISTRY_DELAY_S: u32 = 90 * 86_400;
/// Changes that may wait at a time.
pub const MAX_PENDING_CHANGES: usize = 8;
/// Logs listed at most.
pub const MAX_LOGS: usize = 16;
/// Models listed at most.
pub const MAX_MODELS: usize = 256;
/// Parameters listed at most.
pub const MAX_PARAMETERS: usize = 64;
const WHAT: &str = "registry";

/// Who decides, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governance {
    /// Signatures that a change needs.
    pub threshold: u8,
    /// Seconds between a proposal and its application.
    pub delay_s: u32,
    /// By rising key.
    signers: Vec<PublicKey32>,
}

/// Why nobody can govern like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GovernanceError {
    /// Too many signers, or one twice, or the zero key.
    #[error("{0} signers, of 1 to {MAX_SIGNERS}, each once and none of them zero")]
    Signers(usize),
    /// Too few or too many signatures.
    #[error(
        "{threshold} signatures of {signers} signers; at least {MIN_THRESHOLD}, at most {MAX_THRESHOLD}, not more than signers"
    )]
    Threshold {
        /// Asked for.
        threshold: u8,
        /// Of so many.
        signers: usize,
    },
    /// Too fast or too slow.
    #[error("a delay of {0} s, of {MIN_REGISTRY_DELAY_S} to {MAX_REGISTRY_DELAY_S}")]
    Delay(u32),
}

/// A change that waits for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Unix second from which anybody may apply it.
    pub applies_at: u32,
    /// `None` where its cell is none that this program knows; it can only be cancelled.
    pub change: Option<Change>,
    /// Hash of its cell, which the signatures cover.
    pub hash: Digest,
}

/// A registry as it is on chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryState {
    pub address: TonAddress,
    pub balance: NanoTon,
    /// Proposals and cancellations so far; the next one carries `seqno + 1`.
    pub seqno: u32,
    pub governance: Governance,
    /// By the number of the proposal.
    pub pending: BTreeMap<u32, Pending>,
    /// By [`log_key`].
    pub logs: BTreeMap<Digest, TreeHead>,
    /// Status by digest, never 0.
    pub models: BTreeMap<Digest, u8>,
    /// Values by number: cells without references.
    pub parameters: BTreeMap<u32, Cell>,
    /// Logical time of the account's last transaction.
    pub last_lt: u64,
}

impl Governance {
    /// Checks what the contract checks. The order of `signers` does not matter.
    pub fn new(
        threshold: u8,
        delay_s: u32,
        signers: &[PublicKey32],
    ) -> Result<Self, GovernanceError> {
        let mut sorted = signers.to_vec();
        sorted.sort_unstable_by_key(|key| *key.as_bytes());
        let twice = sorted.windows(2).any(|pair| pair.first() == pair.last());
        let zero = sorted.iter().any(|key| *key.as_bytes() == [0; 32]);
        if sorted.is_empty() || sorted.len() > MAX_SIGNERS || twice || zero {
            return Err(GovernanceError::Signers(signers.len()));
        }
        if !(MIN_THRESHOLD..=MAX_THRESHOLD).contains(&threshold)
            || usize::from(threshold) > sorted.len()
        {
            return Err(GovernanceError::Threshold {
                threshold,
                signers: sorted.len(),
            });
        }
        if !(MIN_REGISTRY_DELAY_S..=MAX_REGISTRY_DELAY_S).contains(&delay_s) {
            return Err(GovernanceError::Delay(delay_s));
        }
        Ok(Self {
            threshold,
            delay_s,
            signers: sorted,
        })
    }

    /// By rising key.
    pub fn signers(&self) -> &[PublicKey32] {
        &self.signers
    }

    /// Its place among the signers, which goes with its signature.
    pub fn place_of(&self, key: PublicKey32) -> Option<u8> {
        let place = self.signers.iter().position(|signer| *signer == key)?;
        u8::try_from(place).ok()
    }

    /// `Governance` of the contract.
    pub(crate) fn store(&self, builder: &mut CellBuilder) -> Result<(), Error> {
        let mut list: Option<Cell> = None;
        for key in self.signers.iter().rev() {
            let mut cell = CellBuilder::new();
            cell.store_raw(key.as_bytes(), 256)?;
            list.store_into(&mut cell, Cell::empty_context())?;
            list = Some(cell.build()?);
        }
        builder.store_u8(self.threshold)?;
        builder.store_u32(self.delay_s)?;
        builder.store_reference(list.ok_or(Error::InvalidData)?)
    }

    pub(crate) fn load(slice: &mut CellSlice<'_>) -> Result<Self, Error> {
        let threshold = slice.load_u8()?;
        let delay_s = slice.load_u32()?;
        let mut next = Some(slice.load_reference_cloned()?);
        let mut signers = Vec::new();
        while let Some(cell) = next {
            if signers.len() >= MAX_SIGNERS {
                return Err(Error::InvalidData);
            }
            let mut item = cell.as_slice()?;
            signers.push(PublicKey32::from_bytes(item.load_u256()?.0));
            next = load_maybe_ref(&mut item)?;
            end(&item)?;
        }
        let sound = Self::new(threshold, delay_s, &signers).map_err(|_| Error::InvalidData)?;
        // The contract walks the list in the order that it has.
        if sound.signers == signers {
            Ok(sound)
        } else {
            Err(Error::InvalidData)
        }
    }

    /// Where a registry that begins with these rules lives. Its address says nothing about later ones.
    pub fn address(&self) -> Result<TonAddress, ChainError> {
        address_of(&self.state_init()?)
    }

    pub(crate) fn state_init(&self) -> Result<StateInit, ChainError> {
        let build = || {
            let mut governance = CellBuilder::new();
            self.store(&mut governance)?;
            let mut tables = CellBuilder::new();
            // Counts of logs, models and parameters, then the three empty dictionaries.
            tables.store_zeros(8 + 16 + 8 + 3)?;
            let mut data = CellBuilder::new();
            // Seqno, pending changes, their empty dictionary.
            data.store_zeros(32 + 8 + 1)?;
            data.store_reference(governance.build()?)?;
            data.store_reference(tables.build()?)?;
            data.build()
        };
        Ok(state_init(
            registry_code()?,
            build().map_err(encoding("registry data"))?,
        ))
    }
}

/// Deploys a registry that begins with these rules, with coins for its rent: 0.05 TON a year when it is full.
pub fn deploy_registry_message(
    governance: &Governance,
    value: NanoTon,
) -> Result<OutMessage, ChainError> {
    let init = governance.state_init()?;
    Ok(OutMessage::deploy(
        address_of(&init)?,
        value,
        init,
        Cell::default(),
    ))
}

/// Reads the registry at `address`; `None` where nothing is deployed. The code must be the pinned code. That it is the
/// *right* registry is for the address to say, which belongs into a node's configuration.
pub async fn fetch_registry(
    chain: &dyn Chain,
    address: TonAddress,
) -> Result<Option<RegistryState>, ChainError> {
    let Some(found) = account::fetch(chain, address, registry_code()?, WHAT).await? else {
        return Ok(None);
    };
    let (seqno, governance, pending, tables) = found.read(decode)?;
    Ok(Some(RegistryState {
        address,
        balance: found.balance,
        seqno,
        governance,
        pending,
        logs: tables.logs,
        models: tables.models,
        parameters: tables.parameters,
        last_lt: found.last_lt,
    }))
}

/// The three tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub logs: BTreeMap<Digest, TreeHead>,
    pub models: BTreeMap<Digest, u8>,
    pub parameters: BTreeMap<u32, Cell>,
}

type Stored = (u32, Governance, BTreeMap<u32, Pending>, Tables);

fn decode(data: &Cell) -> Result<Stored, Error> {
    let mut slice = data.as_slice()?;
    let seqno = slice.load_u32()?;
    let pending_count = slice.load_u8()?;
    let pending = read_pending(load_maybe_ref(&mut slice)?)?;
    let mut governance = slice.load_reference_as_slice()?;
    let mut tables = slice.load_reference_as_slice()?;
    end(&slice)?;
    let rules = Governance::load(&mut governance)?;
    end(&governance)?;
    let counts = [
        usize::from(tables.load_u8()?),
        usize::from(tables.load_u16()?),
        usize::from(tables.load_u8()?),
    ];
    let read = Tables {
        logs: read_logs(load_maybe_ref(&mut tables)?)?,
        models: read_models(load_maybe_ref(&mut tables)?)?,
        parameters: read_parameters(load_maybe_ref(&mut tables)?)?,
    };
    end(&tables)?;
    let found = [read.logs.len(), read.models.len(), read.parameters.len()];
    if counts != found || usize::from(pending_count) != pending.len() {
        return Err(Error::InvalidData);
    }
    Ok((seqno, rules, pending, read))
}

/// As many entries as the contract allows, read one by one.
fn entries<K: Ord, V>(
    iter: impl Iterator<Item = Result<(K, V), Error>>,
    most: usize,
) -> Result<BTreeMap<K, V>, Error> {
    let mut read = BTreeMap::new();
    for entry in iter {
        let (key, value) = entry?;
        if read.len() >= most {
            return Err(Error::InvalidData);
        }
        read.insert(key, value);
    }
    Ok(read)
}

/// `map<uint32, Pending>` of the contract.
pub(crate) fn read_pending(root: Option<Cell>) -> Result<BTreeMap<u32, Pending>, Error> {
    let dict: Dict<u32, (u32, Cell)> = Dict::from_raw(root);
    let read = dict.iter().map(|entry| {
        let (id, (applies_at, cell)) = entry?;
        let pending = Pending {
            applies_at,
            change: Change::decode(&cell).ok(),
            hash: digest(cell.repr_hash()),
        };
        Ok((id, pending))
    });
    entries(read, MAX_PENDING_CHANGES)
}

/// `map<uint256, LogHead>` of the contract.
pub(crate) fn read_logs(root: Option<Cell>) -> Result<BTreeMap<Digest, TreeHead>, Error> {
    let dict: Dict<HashBytes, (u64, HashBytes)> = Dict::from_raw(root);
    let read = dict.iter().map(|entry| {
        let (origin, (size, root)) = entry?;
        let root = digest(&root);
        Ok((digest(&origin), TreeHead { size, root }))
    });
    entries(read, MAX_LOGS)
}

/// `map<uint256, uint8>` of the contract.
pub(crate) fn read_models(root: Option<Cell>) -> Result<BTreeMap<Digest, u8>, Error> {
    let dict: Dict<HashBytes, u8> = Dict::from_raw(root);
    let read = dict.iter().map(|entry| {
        let (model, status) = entry?;
        Ok((digest(&model), status))
    });
    entries(read, MAX_MODELS)
}

/// `map<uint32, cell>` of the contract.
pub(crate) fn read_parameters(root: Option<Cell>) -> Result<BTreeMap<u32, Cell>, Error> {
    let dict: Dict<u32, Cell> = Dict::from_raw(root);
    entries(dict.iter(), MAX_PARAMETERS)
}

pub(crate) fn load_maybe_ref(slice: &mut CellSlice<'_>) -> Result<Option<Cell>, Error> {
    if slice.load_bit()? {
        slice.load_reference_cloned().map(Some)
    } else {
        Ok(None)
    }
}

pub(crate) fn end(slice: &CellSlice<'_>) -> Result<(), Error> {
    if slice.is_data_empty() && slice.is_refs_empty() {
        Ok(())
    } else {
        Err(Error::InvalidData)
    }
}
