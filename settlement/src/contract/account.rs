//! Reading the account of one of our contracts.

use cocoon_protocol::{NanoTon, TonAddress};
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;
use tycho_types::error::Error;

use super::encoding::digest;
use crate::chain::{AccountStatus, Chain, ChainError};

/// An account that has the code it was asked to have.
pub(crate) struct Deployed {
    pub(crate) address: TonAddress,
    pub(crate) balance: NanoTon,
    pub(crate) last_lt: u64,
    data: Cell,
    expected: &'static str,
}

/// The account at `address` with the pinned `code`; `None` where nothing is deployed. Any other code is an error.
pub(crate) async fn fetch(
    chain: &dyn Chain,
    address: TonAddress,
    code: Cell,
    expected: &'static str,
) -> Result<Option<Deployed>, ChainError> {
    let Some(account) = chain.account(address).await? else {
        return Ok(None);
    };
    if account.status != AccountStatus::Active {
        return Ok(None);
    }
    let (Some(code_hash), Some(data)) = (account.code_hash, account.data) else {
        return Ok(None);
    };
    if code_hash != digest(code.repr_hash()) {
        return Err(ChainError::ForeignCode {
            address,
            expected,
            code_hash,
        });
    }
    let data = Boc::decode(&data).map_err(|error| ChainError::BadData {
        address,
        expected,
        reason: error.to_string(),
    })?;
    Ok(Some(Deployed {
        address,
        balance: account.balance,
        last_lt: account.last_lt,
        data,
        expected,
    }))
}

impl Deployed {
    /// The data as `read` understands them.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Cell) -> Result<T, Error>,
    ) -> Result<T, ChainError> {
        read(&self.data).map_err(|error| self.bad(error.to_string()))
    }

    /// The address must be the one that the data's own terms lead to.
    pub(crate) fn belongs_to(&self, terms: TonAddress) -> Result<(), ChainError> {
        if terms == self.address {
            Ok(())
        } else {
            Err(self.bad("the terms belong to another address".to_owned()))
        }
    }

    fn bad(&self, reason: String) -> ChainError {
        ChainError::BadData {
            address: self.address,
            expected: self.expected,
            reason,
        }
    }
}
