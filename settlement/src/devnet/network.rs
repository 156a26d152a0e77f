//! The network's parameters: fees, limits, workchains, and the number that tells networks apart.
//!
//! They are the public parameters of TON's mainnet as data (`contracts/config/`), with a global id of our own.

use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use tycho_executor::ParsedConfig;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellSlice, HashBytes};
use tycho_types::dict::RawDict;
use tycho_types::error::Error;
use tycho_types::models::{
    BlockchainConfig, BlockchainConfigParams, ConfigParam0, ShardIdent, ValidatorDescription,
    ValidatorSet,
};

use super::record::{Hashes, Split};
use crate::chain::{ChainError, Prices, getter};

const PARAMETERS: &[u8] = include_bytes!("../../contracts/config/devnet.boc");

/// ConfigParam 12, the workchains.
const WORKCHAINS: u32 = 12;
/// `workchain_v2#a7`, which tycho-types 0.3.6 does not know, is `workchain#a6` and this many bits.
const WORKCHAIN_V2_EXTRA_BITS: u16 = 132;

/// ConfigParam 34, the validators.
const VALIDATORS: u32 = 34;
/// The validators of mainnet before and after now, which have no say here.
const OTHER_VALIDATORS: [u32; 5] = [32, 33, 35, 36, 37];
/// Bits of a workchain's description before its zero state's hashes.
const WORKCHAIN_HEAD_BITS: u16 = 8 + 32 + 24 + 16;
/// Weight of the only validator.
const WEIGHT: u64 = 100;

/// The validators' keys are derived from this, so that anybody can make a fork that a client believes. That is what a
/// devnet is for: its blocks prove nothing but that clients check proofs.
pub const VALIDATOR_SEED: [u8; 32] = *b"cocoon devnet validators, public";

/// The key of the only validator of a set; sets are numbered from 0.
pub fn validator_key(set: u32) -> SigningKey {
    let seed = Sha256::new()
        .chain_update(VALIDATOR_SEED)
        .chain_update(set.to_be_bytes())
        .finalize();
    SigningKey::from_bytes(&seed.into())
}

/// What the parameters depend on beside the public ones of mainnet.
#[derive(Clone, Copy)]
pub(super) struct Choices {
    pub(super) global_id: i32,
    /// Seconds since 1970. Validators count from then on and for good.
    pub(super) genesis_unix: u32,
    /// Which set of validators signs.
    pub(super) validators: u32,
    /// Hashes of the base chain's zero state.
    pub(super) zero_state: Hashes,
}

/// The parameters in the shapes that their readers want.
pub(super) struct Network {
    /// As they stand in key blocks and states.
    pub(super) genuine: BlockchainConfig,
    /// Of the only validator.
    pub(super) key: SigningKey,
    /// Short hash of the validators of either chain, as block headers carry it.
    pub(super) set_hash: Split<u32>,
    /// For transactions.
    pub(super) parsed: ParsedConfig,
    /// For get methods.
    pub(super) getters: BlockchainConfigParams,
    /// What the base chain charges.
    pub(super) prices: Prices,
}

impl Network {
    pub(super) fn with(choices: &Choices) -> Result<Self, ChainError> {
        Self::load(choices).map_err(|error| ChainError::Encoding {
            what: "network parameters",
            reason: error.to_string(),
        })
    }

    fn load(choices: &Choices) -> Result<Self, Error> {
        let root = Boc::decode(PARAMETERS).map_err(|_| Error::InvalidData)?;
        let mut params = BlockchainConfigParams::from_raw(root);
        params.set_global_id(choices.global_id)?;
        let validators = validator_set(choices)?;
        for number in OTHER_VALIDATORS {
            params.remove(number)?;
        }
        params.set_raw(VALIDATORS, CellBuilder::build_from(&validators)?)?;
        params.set_raw(
            WORKCHAINS,
            rewritten_workchains(&params, |description| {
                named_zero_state(description, &choices.zero_state)
            })?,
        )?;
        let catchain = params.get_catchain_config()?;
        let short_hash = |shard| {
            validators
                .compute_subset(shard, &catchain, 0)
                .map_or(0, |(_, hash)| hash)
        };
        let set_hash = Split {
            base: short_hash(ShardIdent::BASECHAIN),
            master: short_hash(ShardIdent::MASTERCHAIN),
        };
        let address = params.get::<ConfigParam0>()?.ok_or(Error::InvalidData)?;

        let mut readable = params.clone();
        readable.set_raw(
            WORKCHAINS,
            rewritten_workchains(&params, readable_workchain)?,
        )?;
        // Every price that is announced counts from its own time on; `now` only chooses what contracts may ask for.
        let mut parsed = ParsedConfig::parse(
            BlockchainConfig {
                address,
                params: readable,
            },
            u32::MAX,
        )?;
        let genuine = BlockchainConfig {
            address,
            params: params.clone(),
        };
        parsed.raw = genuine.clone();

        let prices = getter::prices(&params)?;
        let getters = getter::parameters(&params)?;
        Ok(Self {
            genuine,
            key: validator_key(choices.validators),
            set_hash,
            parsed,
            getters,
            prices,
        })
    }
}

/// The set with this number: one validator.
fn validator_set(choices: &Choices) -> Result<ValidatorSet, Error> {
    let key = validator_key(choices.validators).verifying_key();
    Ok(ValidatorSet {
        utime_since: choices.genesis_unix,
        utime_until: u32::MAX,
        main: std::num::NonZeroU16::MIN,
        total_weight: WEIGHT,
        list: vec![ValidatorDescription {
            public_key: HashBytes(key.to_bytes()),
            weight: WEIGHT,
            adnl_addr: None,
            mc_seqno_since: 0,
            prev_total_weight: 0,
        }],
    })
}

/// The parameter with the workchains, each description rewritten.
fn rewritten_workchains(
    params: &BlockchainConfigParams,
    rewrite: impl Fn(CellSlice<'_>) -> Result<CellBuilder, Error>,
) -> Result<Cell, Error> {
    let cell = params
        .as_dict()
        .get(WORKCHAINS)?
        .ok_or(Error::InvalidData)?;
    let mut slice = cell.as_slice()?;
    if !slice.load_bit()? {
        return Err(Error::InvalidData);
    }
    let source = RawDict::<32>::from(Some(slice.load_reference_cloned()?));
    let mut target = RawDict::<32>::new();
    for entry in source.iter() {
        let (key, value) = entry?;
        target.set(key.as_data_slice(), rewrite(value)?.as_full_slice())?;
    }
    let mut builder = CellBuilder::new();
    builder.store_bit_one()?;
    builder.store_reference(target.into_root().ok_or(Error::InvalidData)?)?;
    builder.build()
}

/// With the hashes of our zero state in the place of mainnet's.
fn named_zero_state(mut value: CellSlice<'_>, zero_state: &Hashes) -> Result<CellBuilder, Error> {
    let mut rewritten = CellBuilder::new();
    rewritten.store_slice(value.load_prefix(WORKCHAIN_HEAD_BITS, 0)?)?;
    for hash in [zero_state.root, zero_state.file] {
        value.load_u256()?;
        rewritten.store_u256(&HashBytes(*hash.as_bytes()))?;
    }
    rewritten.store_slice(value)?;
    Ok(rewritten)
}

/// The way tycho-types reads them.
fn readable_workchain(mut value: CellSlice<'_>) -> Result<CellBuilder, Error> {
    let mut rewritten = CellBuilder::new();
    let tag = value.load_u8()?;
    rewritten.store_u8(0xa6)?;
    if tag == 0xa7 {
        let bits = value
            .size_bits()
            .checked_sub(WORKCHAIN_V2_EXTRA_BITS)
            .ok_or(Error::InvalidData)?;
        rewritten.store_slice(value.get_prefix(bits, 0))?;
    } else {
        rewritten.store_slice(value)?;
    }
    Ok(rewritten)
}
