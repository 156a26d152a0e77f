//! Get methods, run in this process on an account's state and a network's parameters.

use cocoon_protocol::TonAddress;
use tycho_types::dict::Dict;
use tycho_types::error::Error;
use tycho_types::models::{Account, BlockchainConfigParams, StoragePrices};
use tycho_vm::{
    RcStackValue, VmCaller, VmGetterArgs, VmGetterError, VmGetterMethodId, VmGetterOutput,
};

use super::wire::MAX_STACK_ARGS;
use super::{ChainError, MethodResult, Prices, StackItem};
use crate::devnet::report;

/// ConfigParam 18, the prices of storage over time.
const STORAGE_PRICES: u32 = 18;
/// Longest name of a get method.
const MAX_METHOD_NAME: usize = 128;

/// Which method with what.
pub(crate) struct Call<'a> {
    pub(crate) address: TonAddress,
    pub(crate) method: &'a str,
    pub(crate) args: &'a [StackItem],
    /// The chain's time, seconds since 1970.
    pub(crate) unix: u32,
}

/// Parameters as [`run`] wants them. It looks for the newest storage price by walking the dictionary backwards, which
/// tycho-types 0.3.6 gets wrong once there are two (mainnet has two); so it sees the newest one alone.
pub(crate) fn parameters(params: &BlockchainConfigParams) -> Result<BlockchainConfigParams, Error> {
    let mut params = params.clone();
    let newest = newest_storage_price(&params)?;
    let mut only: Dict<u32, StoragePrices> = Dict::new();
    only.set(newest.utime_since, newest)?;
    params.set_raw(STORAGE_PRICES, only.into_root().ok_or(Error::InvalidData)?)?;
    Ok(params)
}

fn newest_storage_price(params: &BlockchainConfigParams) -> Result<StoragePrices, Error> {
    let prices = params.get_storage_prices()?;
    let newest = prices.iter().last().ok_or(Error::InvalidData)??;
    Ok(newest.1)
}

/// What the base chain charges.
pub(crate) fn prices(params: &BlockchainConfigParams) -> Result<Prices, Error> {
    let gas = params.get_gas_prices(false)?;
    let message = params.get_msg_forward_prices(false)?;
    let storage = newest_storage_price(params)?;
    Ok(Prices {
        gas: gas.gas_price,
        flat_gas_limit: gas.flat_gas_limit,
        flat_gas_price: gas.flat_gas_price,
        message: message.lump_price,
        message_bit: message.bit_price,
        message_cell: message.cell_price,
        storage_bit: storage.bit_price_ps,
        storage_cell: storage.cell_price_ps,
    })
}

/// Runs a get method, by name or number, on values of the machine.
pub(crate) fn call(
    account: &Account,
    params: &BlockchainConfigParams,
    address: TonAddress,
    method: impl VmGetterMethodId,
    arguments: Vec<RcStackValue>,
    unix: u32,
) -> Result<VmGetterOutput, ChainError> {
    let caller = VmCaller {
        libraries: Dict::new(),
        behaviour_modifiers: Default::default(),
        config: params.clone(),
    };
    let mut conditions = VmGetterArgs::default();
    conditions.now = unix;
    caller
        .call_getter_ext(account, method, arguments, &conditions, None)
        .map_err(|error| match error {
            VmGetterError::NoCode => ChainError::NoContract { address },
            VmGetterError::InvalidConfig(error) => ChainError::Internal {
                reason: error.to_string(),
            },
        })
}

/// Refuses a name or a list of arguments that is longer than any contract needs.
pub(crate) fn within_limits(method: &str, args: &[StackItem]) -> Result<(), ChainError> {
    if method.len() > MAX_METHOD_NAME || args.len() > MAX_STACK_ARGS {
        return Err(ChainError::Encoding {
            what: "get method call",
            reason: format!("at most {MAX_METHOD_NAME} characters and {MAX_STACK_ARGS} arguments"),
        });
    }
    Ok(())
}

/// Runs a get method. `params` are from [`parameters`].
pub(crate) fn run(
    account: &Account,
    params: &BlockchainConfigParams,
    what: &Call<'_>,
) -> Result<MethodResult, ChainError> {
    let Call {
        address,
        method,
        args,
        unix,
    } = *what;
    within_limits(method, args)?;
    let arguments = args
        .iter()
        .map(|item| report::to_vm(item, 0))
        .collect::<Result<Vec<_>, _>>()?;
    let output = call(account, params, address, method, arguments, unix)?;
    if !output.success {
        return Err(ChainError::GetMethod {
            address,
            method: method.to_owned(),
            exit_code: output.exit_code,
        });
    }
    Ok(MethodResult {
        stack: report::stack(&output.stack)?,
        gas_used: output.gas_used,
    })
}
