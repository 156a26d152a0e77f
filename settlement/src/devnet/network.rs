//! The network's parameters: fees, limits, workchains, and the number that tells networks apart.
//!
//! They are the public parameters of TON's mainnet as data (`contracts/config/`), with a global id of our own.

use tycho_executor::ParsedConfig;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder};
use tycho_types::dict::RawDict;
use tycho_types::error::Error;
use tycho_types::models::{BlockchainConfig, BlockchainConfigParams, ConfigParam0};

use crate::chain::{ChainError, Prices, getter};

const PARAMETERS: &[u8] = include_bytes!("../../contracts/config/devnet.boc");

/// ConfigParam 12, the workchains.
const WORKCHAINS: u32 = 12;
/// `workchain_v2#a7`, which tycho-types 0.3.6 does not know, is `workchain#a6` and this many bits.
const WORKCHAIN_V2_EXTRA_BITS: u16 = 132;

/// The parameters in the two shapes the engine wants.
pub(super) struct Network {
    /// For transactions.
    pub(super) parsed: ParsedConfig,
    /// For get methods.
    pub(super) getters: BlockchainConfigParams,
    /// What the base chain charges.
    pub(super) prices: Prices,
}

impl Network {
    pub(super) fn with_global_id(global_id: i32) -> Result<Self, ChainError> {
        Self::load(global_id).map_err(|error| ChainError::Encoding {
            what: "network parameters",
            reason: error.to_string(),
        })
    }

    fn load(global_id: i32) -> Result<Self, Error> {
        let root = Boc::decode(PARAMETERS).map_err(|_| Error::InvalidData)?;
        let mut params = BlockchainConfigParams::from_raw(root);
        params.set_global_id(global_id)?;
        let address = params.get::<ConfigParam0>()?.ok_or(Error::InvalidData)?;

        let mut readable = params.clone();
        readable.set_raw(WORKCHAINS, readable_workchains(&params)?)?;
        // Every price that is announced counts from its own time on; `now` only chooses what contracts may ask for.
        let mut parsed = ParsedConfig::parse(
            BlockchainConfig {
                address,
                params: readable,
            },
            u32::MAX,
        )?;
        parsed.raw = BlockchainConfig {
            address,
            params: params.clone(),
        };

        let prices = getter::prices(&params)?;
        let params = getter::parameters(&params)?;
        Ok(Self {
            parsed,
            getters: params,
            prices,
        })
    }
}

/// The workchains, each written the way tycho-types reads them.
fn readable_workchains(params: &BlockchainConfigParams) -> Result<Cell, Error> {
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
        let (key, mut value) = entry?;
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
        target.set(key.as_data_slice(), rewritten.as_full_slice())?;
    }
    let mut builder = CellBuilder::new();
    builder.store_bit_one()?;
    builder.store_reference(target.into_root().ok_or(Error::InvalidData)?)?;
    builder.build()
}
