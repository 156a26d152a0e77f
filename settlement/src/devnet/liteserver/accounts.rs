//! Accounts, and what their code answers.

use ton_liteapi::tl::common::{AccountId, BlockIdExt};
use ton_liteapi::tl::request::RunSmcMethod;
use ton_liteapi::tl::response::{AccountState, Response, RunMethodResult};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder};
use tycho_types::models::{ShardAccount, ShardStateUnsplit};
use tycho_vm::Stack;

use super::super::record::Place;
use super::answer::{Desk, Named, Refusal, address, code, key};
use super::ids;
use super::proofs::{self, HeaderParts};

/// Bits of `mode` in `runSmcMethod`: what to send back.
mod wanted {
    pub(super) const PROOFS: u32 = 1 << 0;
    pub(super) const STATE_PROOF: u32 = 1 << 1;
    pub(super) const RESULT: u32 = 1 << 2;
    pub(super) const LIBRARIES: u32 = 1 << 4;
}
/// Exit code of a get method that was never run, as the C++ liteserver has it: the account has no code.
const NO_CODE: i32 = -256;
/// Largest stack that may be sent along, in bytes.
const MAX_PARAMS_BYTES: usize = 65_536;
/// Most values on it.
const MAX_PARAMS: usize = 256;

/// An account in a state, with the proofs of it.
struct Found {
    shard_block: BlockIdExt,
    account: Option<ShardAccount>,
    unix: u32,
    shard_proof: Vec<u8>,
    proof: Vec<u8>,
}

impl Desk<'_> {
    fn look_up(&self, id: &BlockIdExt, account: &AccountId) -> Result<Found, Refusal> {
        let named = self.find(id)?;
        let place = Place::of(address(account)?.workchain).unwrap_or(Place::Base);
        let states = self.states(&named.record)?;
        // Asked at a block of the account's own chain, nothing leads there from the masterchain.
        let shard_proof = if named.place == place {
            Vec::new()
        } else if named.place == Place::Master {
            self.shards_proof(&named, &states.master)?
        } else {
            return Err(Refusal::new(
                code::PROTOCOL,
                "the account is in another workchain than the reference block",
            ));
        };
        let holder = Named { place, ..named };
        let holder = Named {
            fork: holder.fork.filter(|_| place == Place::Master),
            ..holder
        };
        let state = states.get(place);
        let header = proofs::header(&self.root(&holder)?, HeaderParts::default())?;
        let parsed: ShardStateUnsplit = state.parse()?;
        Ok(Found {
            shard_block: ids::block_id(&holder.record, place),
            account: parsed
                .load_accounts()?
                .get(key(account))?
                .map(|(_, account)| account),
            unix: holder.record.unix,
            shard_proof,
            proof: proofs::pair(&header, &proofs::account(state, &key(account))?),
        })
    }

    pub(super) fn account_state(
        &self,
        id: &BlockIdExt,
        account: &AccountId,
        pruned: bool,
    ) -> Result<Response, Refusal> {
        let found = self.look_up(id, account)?;
        let state = match found.account {
            Some(account) if pruned => Boc::encode(proofs::account_root(account.account.inner())?),
            Some(account) if self.faults.wrong_proofs => {
                Boc::encode(proofs::forged(account.account.inner())?)
            }
            Some(account) => Boc::encode(account.account.inner()),
            None => Vec::new(),
        };
        Ok(Response::AccountState(AccountState {
            id: id.clone(),
            shardblk: found.shard_block,
            shard_proof: found.shard_proof,
            proof: found.proof,
            state,
        }))
    }

    pub(super) fn run_method(&self, query: &RunSmcMethod) -> Result<Response, Refusal> {
        let found = self.look_up(&query.id, &query.account)?;
        let (exit_code, stack) = match &found.account {
            Some(account) => self.execute(query, account, found.unix)?,
            None => (NO_CODE, None),
        };
        let state_proof = match &found.account {
            Some(account) => Boc::encode(proofs::whole_account(account.account.inner())?),
            None => Vec::new(),
        };
        let with = |bit: u32, bytes: Vec<u8>| (query.mode & bit != 0).then_some(bytes);
        let result = match stack {
            Some(stack) => Boc::encode(stack),
            None => Vec::new(),
        };
        Ok(Response::RunMethodResult(RunMethodResult {
            mode: (),
            id: query.id.clone(),
            shardblk: found.shard_block,
            shard_proof: with(wanted::PROOFS, found.shard_proof),
            proof: with(wanted::PROOFS, found.proof),
            state_proof: with(wanted::STATE_PROOF, state_proof),
            init_c7: None,
            lib_extras: with(wanted::LIBRARIES, Boc::encode(Cell::default())),
            exit_code,
            result: with(wanted::RESULT, result),
        }))
    }

    fn execute(
        &self,
        query: &RunSmcMethod,
        account: &ShardAccount,
        unix: u32,
    ) -> Result<(i32, Option<Cell>), Refusal> {
        let bad = |reason: String| Refusal::new(code::PROTOCOL, format!("params: {reason}"));
        if query.params.len() > MAX_PARAMS_BYTES {
            return Err(bad(format!("more than {MAX_PARAMS_BYTES} bytes")));
        }
        let arguments = if query.params.is_empty() {
            Vec::new()
        } else {
            let cell = Boc::decode(&query.params).map_err(|error| bad(error.to_string()))?;
            let depth = cell
                .as_slice()
                .and_then(|slice| slice.get_uint(0, 24))
                .map_err(|error| bad(error.to_string()))?;
            if usize::try_from(depth).is_ok_and(|depth| depth > MAX_PARAMS) {
                return Err(bad(format!("more than {MAX_PARAMS} values")));
            }
            cell.parse::<Stack>()
                .map_err(|error| bad(error.to_string()))?
                .items
        };
        let Some(inner) = account.load_account()? else {
            return Ok((NO_CODE, None));
        };
        let method = u32::try_from(query.method_id)
            .map_err(|_| bad("a method's number has 32 bits".to_owned()))?;
        let address = address(&query.account)?;
        match self.devnet.call(address, &inner, method, arguments, unix) {
            Ok(output) => {
                let stack = Stack {
                    items: output.stack,
                };
                Ok((output.exit_code, Some(CellBuilder::build_from(&stack)?)))
            }
            Err(crate::chain::ChainError::NoContract { .. }) => Ok((NO_CODE, None)),
            Err(error) => Err(error.into()),
        }
    }
}
