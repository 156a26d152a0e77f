//! Changes of a registry, and the signed messages that propose and cancel them.

use cocoon_protocol::log::TreeHead;
use cocoon_protocol::{Digest, NanoTon, PublicKey32, TonAddress};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use tycho_types::cell::{Cell, CellBuilder, CellFamily, Store};
use tycho_types::error::Error;

use super::{Governance, end, load_maybe_ref, log_key};
use crate::chain::ChainError;
use crate::contract::encoding::{digest, encoding};
use crate::contract::message::OutMessage;

const VERSION: u8 = 1;
const PROPOSE_TAG: u32 = 0x7072_7031;
const CANCEL_TAG: u32 = 0x636e_6c31;
const OP_APPLY: u32 = 0x6170_6c31;
const OP_SET_LOG: u32 = 0x736c_6f67;
const OP_SET_MODEL: u32 = 0x736d_646c;
const OP_SET_PARAMETER: u32 = 0x7370_726d;
const OP_SET_GOVERNANCE: u32 = 0x7367_6f76;
/// Bytes that a signer signs.
const SIGNED_BYTES: usize = 81;
/// Coins sent along; what gas does not use comes back. Ten signatures of sixteen signers need 0.0015 TON at 2026 prices.
const FEE: NanoTon = NanoTon::from_nano(50_000_000);

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A log has at least this head. Refused where the log would shrink, or be another one of the same size.
    Log {
        /// See [`log_key`].
        origin: Digest,
        head: TreeHead,
    },
    /// A model's status; 0 takes it off the list, where it must be.
    Model { digest: Digest, status: u8 },
    /// A parameter: a cell without references. Without a value it is taken off the list, where it must be.
    Parameter { id: u32, value: Option<Cell> },
    /// Who decides from now on. Drops all other changes that wait.
    Governance(Governance),
}

impl Change {
    /// A head of the log with this origin, as its checkpoint's first line names it.
    pub fn log_head(origin: &str, head: TreeHead) -> Self {
        Self::Log {
            origin: log_key(origin),
            head,
        }
    }

    /// A parameter that is one number.
    pub fn number(id: u32, value: u64) -> Result<Self, ChainError> {
        let mut cell = CellBuilder::new();
        let value = cell
            .store_zeros(192)
            .and_then(|()| cell.store_u64(value))
            .and_then(|()| cell.build())
            .map_err(encoding("parameter"))?;
        Ok(Self::Parameter {
            id,
            value: Some(value),
        })
    }

    /// As the contract keeps it.
    pub fn to_cell(&self) -> Result<Cell, ChainError> {
        self.build().map_err(encoding("change"))
    }

    fn build(&self) -> Result<Cell, Error> {
        let mut cell = CellBuilder::new();
        match self {
            Self::Log { origin, head } => {
                cell.store_u32(OP_SET_LOG)?;
                cell.store_raw(origin.as_bytes(), 256)?;
                cell.store_u64(head.size)?;
                cell.store_raw(head.root.as_bytes(), 256)?;
            }
            Self::Model { digest, status } => {
                cell.store_u32(OP_SET_MODEL)?;
                cell.store_raw(digest.as_bytes(), 256)?;
                cell.store_u8(*status)?;
            }
            Self::Parameter { id, value } => {
                cell.store_u32(OP_SET_PARAMETER)?;
                cell.store_u32(*id)?;
                value.store_into(&mut cell, Cell::empty_context())?;
            }
            Self::Governance(governance) => {
                cell.store_u32(OP_SET_GOVERNANCE)?;
                governance.store(&mut cell)?;
            }
        }
        cell.build()
    }

    pub(crate) fn decode(cell: &Cell) -> Result<Self, Error> {
        let mut slice = cell.as_slice()?;
        let change = match slice.load_u32()? {
            OP_SET_LOG => Self::Log {
                origin: digest(&slice.load_u256()?),
                head: TreeHead {
                    size: slice.load_u64()?,
                    root: digest(&slice.load_u256()?),
                },
            },
            OP_SET_MODEL => Self::Model {
                digest: digest(&slice.load_u256()?),
                status: slice.load_u8()?,
            },
            OP_SET_PARAMETER => Self::Parameter {
                id: slice.load_u32()?,
                value: load_maybe_ref(&mut slice)?,
            },
            OP_SET_GOVERNANCE => Self::Governance(Governance::load(&mut slice)?),
            _ => return Err(Error::InvalidTag),
        };
        end(&slice)?;
        Ok(change)
    }
}

/// What is signed about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A new change.
    Propose(Change),
    /// The end of one that waits, by its number.
    Cancel(u32),
}

/// A proposal or a cancellation that gathers signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedMessage {
    pub registry: TonAddress,
    /// One above the registry's.
    pub seqno: u32,
    /// Unix second after which the contract refuses it.
    pub valid_until: u32,
    pub subject: Subject,
    /// By rising place of the signer.
    signatures: Vec<(u8, [u8; 64])>,
}

impl SignedMessage {
    /// Without any signature yet.
    pub fn new(registry: TonAddress, seqno: u32, valid_until: u32, subject: Subject) -> Self {
        Self {
            registry,
            seqno,
            valid_until,
            subject,
            signatures: Vec::new(),
        }
    }

    /// What every signer signs.
    pub fn signed_bytes(&self, global_id: i32) -> Result<[u8; SIGNED_BYTES], ChainError> {
        let (tag, subject) = match &self.subject {
            Subject::Propose(change) => (PROPOSE_TAG, change.to_cell()?.repr_hash().0),
            Subject::Cancel(id) => {
                let mut subject = [0; 32];
                for (to, from) in subject.iter_mut().rev().zip(id.to_le_bytes()) {
                    *to = from;
                }
                (CANCEL_TAG, subject)
            }
        };
        let parts: [&[u8]; 7] = [
            &tag.to_be_bytes(),
            &global_id.to_be_bytes(),
            &[VERSION],
            &self.registry.hash,
            &self.seqno.to_be_bytes(),
            &self.valid_until.to_be_bytes(),
            &subject,
        ];
        let mut out = [0; SIGNED_BYTES];
        for (to, from) in out.iter_mut().zip(parts.concat()) {
            *to = from;
        }
        Ok(out)
    }

    /// Adds this key's signature. `false` where the key is not a signer's.
    pub fn sign(
        &mut self,
        key: &SigningKey,
        governance: &Governance,
        global_id: i32,
    ) -> Result<bool, ChainError> {
        let public = PublicKey32::from_bytes(key.verifying_key().to_bytes());
        let signature = key.sign(&self.signed_bytes(global_id)?).to_bytes();
        self.add(public, signature, governance, global_id)
    }

    /// Adds a signature that was made elsewhere, if it is a signer's over these bytes and `threshold` are not there yet.
    /// `false` where it is not. Of one signer, the newest counts.
    pub fn add(
        &mut self,
        key: PublicKey32,
        signature: [u8; 64],
        governance: &Governance,
        global_id: i32,
    ) -> Result<bool, ChainError> {
        let bytes = self.signed_bytes(global_id)?;
        let good = VerifyingKey::from_bytes(key.as_bytes()).is_ok_and(|key| {
            key.verify_strict(&bytes, &Signature::from_bytes(&signature))
                .is_ok()
        });
        let (Some(place), true) = (governance.place_of(key), good) else {
            return Ok(false);
        };
        self.signatures.retain(|(signer, _)| *signer != place);
        if self.signatures.len() >= usize::from(governance.threshold) {
            return Ok(false);
        }
        self.signatures.push((place, signature));
        self.signatures.sort_unstable_by_key(|(signer, _)| *signer);
        Ok(true)
    }

    /// How many have signed.
    pub fn signed_by(&self) -> usize {
        self.signatures.len()
    }

    /// The message, for any wallet to send; what gas does not use comes back to it. The contract takes exactly
    /// `threshold` signatures.
    pub fn message(&self) -> Result<OutMessage, ChainError> {
        const WHAT: &str = "registry message";
        let mut list: Option<Cell> = None;
        for (place, signature) in self.signatures.iter().rev() {
            let mut cell = CellBuilder::new();
            list = cell
                .store_u8(*place)
                .and_then(|()| cell.store_raw(signature, 512))
                .and_then(|()| list.store_into(&mut cell, Cell::empty_context()))
                .and_then(|()| cell.build())
                .map(Some)
                .map_err(encoding(WHAT))?;
        }
        let list = list.ok_or_else(|| ChainError::Encoding {
            what: WHAT,
            reason: "nobody has signed it".to_owned(),
        })?;
        let change = match &self.subject {
            Subject::Propose(change) => Ok(change.to_cell()?),
            Subject::Cancel(id) => Err(*id),
        };
        let build = || {
            let mut body = CellBuilder::new();
            body.store_u32(if change.is_ok() {
                PROPOSE_TAG
            } else {
                CANCEL_TAG
            })?;
            body.store_u64(0)?;
            body.store_u32(self.seqno)?;
            body.store_u32(self.valid_until)?;
            body.store_reference(list)?;
            match change {
                Ok(change) => body.store_reference(change)?,
                Err(id) => body.store_u32(id)?,
            }
            body.build()
        };
        Ok(OutMessage::call(
            self.registry,
            FEE,
            build().map_err(encoding(WHAT))?,
        ))
    }
}

/// Puts a change in force whose time has come. Any wallet may send it; what gas does not use comes back.
pub fn apply_message(registry: TonAddress, id: u32) -> Result<OutMessage, ChainError> {
    let mut body = CellBuilder::new();
    let body = body
        .store_u32(OP_APPLY)
        .and_then(|()| body.store_u64(0))
        .and_then(|()| body.store_u32(id))
        .and_then(|()| body.build())
        .map_err(encoding("message body"))?;
    Ok(OutMessage::call(registry, FEE, body))
}
