//! From executed messages to blocks: headers, value flow, the list of transactions, the Merkle update from the state
//! before to the state after, and the configuration in key blocks (TL-B `Block`, whitepaper "TON Blockchain" §5.3).

use std::collections::BTreeMap;

use cocoon_protocol::{Digest, TonAddress};
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest as _, Sha256};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy, LazyExotic};
use tycho_types::dict::{AugDict, Dict};
use tycho_types::error::Error;
use tycho_types::merkle::MerkleUpdate;
use tycho_types::models::{
    AccountBlock, AccountBlocks, Block, BlockExtra, BlockInfo, BlockSignature, CurrencyCollection,
    HashUpdate, McBlockExtra, OptionalAccount, ShardAccount, ShardFeeCreated, ShardHashes,
    ShardIdentFull, Signature, Transaction, ValueFlow,
};

use super::GLOBAL_ID;
use super::network::{Network, validator_key};
use super::record::{BlockRecord, Place, Split, hashes};
use super::state::{self, Facts, OldBlocks, Tip, Unchanged, coins, held, put};
use crate::contract::encoding::digest;

/// A block's end lies at least this far after its start, as room for what TON puts there (ticks, the recover message).
const LT_MARGIN: u64 = 4;

/// TL tag of an Ed25519 public key, which a node's short id is a hash of.
const PUBLIC_KEY_TAG: [u8; 4] = [0xc6, 0xb4, 0x13, 0x48];

/// Everything that the execution of a block decided.
pub(super) struct Executed<'a> {
    pub(super) seqno: u32,
    pub(super) unix: u32,
    pub(super) start_lt: u64,
    /// First logical time after the last transaction.
    pub(super) next_lt: u64,
    pub(super) seed: Digest,
    /// Accounts that changed; `None` where one ceased to exist.
    pub(super) accounts: &'a BTreeMap<TonAddress, Option<ShardAccount>>,
    /// Transactions of each account in order.
    pub(super) transactions: &'a BTreeMap<TonAddress, Vec<(u64, Cell)>>,
    /// nanoTON that came from elsewhere, that went elsewhere, and that were taken as fees.
    pub(super) flow: Split<Flow>,
}

/// How coins moved over the border of a block, in nanoTON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) imported: u64,
    pub(super) exported: u64,
    pub(super) fees: u64,
}

/// A finished pair of blocks.
pub(super) struct Assembled {
    pub(super) tip: Tip,
    /// The blocks as bags of cells.
    pub(super) bytes: Split<Vec<u8>>,
}

/// The parameters before and after a block. They differ only in a key block that changes the validators.
pub(super) struct Parameters<'a> {
    pub(super) before: &'a Network,
    pub(super) after: &'a Network,
    pub(super) key_block: bool,
    /// Numbers of the sets of validators.
    pub(super) validators: u32,
    pub(super) next_validators: u32,
}

/// Puts a block together. `tip` is what the block before left behind.
pub(super) fn assemble(
    tip: &Tip,
    parameters: &Parameters<'_>,
    executed: &Executed<'_>,
) -> Result<Assembled, Error> {
    let previous = &tip.record;
    let end = executed
        .next_lt
        .max(executed.start_lt.saturating_add(LT_MARGIN));
    let total_fees = executed
        .flow
        .base
        .fees
        .saturating_add(executed.flow.master.fees);
    let facts = Facts {
        seqno: executed.seqno,
        unix: executed.unix,
        start_lt: executed.start_lt,
        end_lt: Split {
            base: end,
            master: end.saturating_add(LT_MARGIN),
        },
        key_block: parameters.key_block,
        base_fees: executed.flow.base.fees,
        collected: previous.collected.saturating_add(total_fees),
        previous: Some(previous),
    };

    let mut accounts = tip.accounts.clone();
    for (address, account) in executed.accounts {
        if let Some(place) = Place::of(address.workchain) {
            put(accounts.get_mut(place), *address, account.as_ref())?;
        }
    }

    let base_state = state::base(&facts, &accounts.base)?;
    let base = build(
        tip,
        &facts,
        Place::Base,
        parameters,
        &base_state,
        value_flow(Place::Base, &tip.accounts.base, &accounts.base, executed),
        extra(tip, Place::Base, parameters, executed, None)?,
    )?;
    let mut record = BlockRecord {
        seqno: executed.seqno,
        unix: executed.unix,
        start_lt: executed.start_lt,
        end_lt: facts.end_lt,
        hashes: previous.hashes,
        states: Split {
            base: digest(base_state.repr_hash()),
            master: previous.states.master,
        },
        key_block: parameters.key_block,
        previous_key_block: previous.newest_key_block(),
        validators: parameters.validators,
        next_validators: parameters.next_validators,
        base_fees: facts.base_fees,
        collected: facts.collected,
        transactions: executed
            .transactions
            .values()
            .map(|list| u32::try_from(list.len()).unwrap_or(u32::MAX))
            .fold(0, u32::saturating_add),
    };
    record.hashes.base = hashes(base.0.repr_hash(), &base.1);

    let mut old_blocks = tip.old_blocks.clone();
    state::remember(&mut old_blocks, previous)?;
    let last_key_block = state::key_block_before_next(previous, tip.last_key_block.as_ref());
    let shards = state::shards(&facts, &record.id(Place::Base))?;
    let master_state = state::master(
        &facts,
        &accounts.master,
        parameters.after,
        shards.clone(),
        &old_blocks,
        last_key_block.clone(),
    )?;
    let master = build(
        tip,
        &facts,
        Place::Master,
        parameters,
        &master_state,
        value_flow(
            Place::Master,
            &tip.accounts.master,
            &accounts.master,
            executed,
        ),
        extra(
            tip,
            Place::Master,
            parameters,
            executed,
            Some(master_extra(parameters, shards, facts.base_fees, previous)?),
        )?,
    )?;
    record.hashes.master = hashes(master.0.repr_hash(), &master.1);
    record.states.master = digest(master_state.repr_hash());

    Ok(Assembled {
        tip: Tip {
            record,
            accounts,
            old_blocks,
            last_key_block,
            states: Split {
                base: base_state,
                master: master_state,
            },
        },
        bytes: Split {
            base: base.1,
            master: master.1,
        },
    })
}

/// One block: its root cell and its bytes.
fn build(
    tip: &Tip,
    facts: &Facts<'_>,
    place: Place,
    parameters: &Parameters<'_>,
    state: &Cell,
    flow: ValueFlow,
    extra: BlockExtra,
) -> Result<(Cell, Vec<u8>), Error> {
    let previous = &tip.record;
    let mut info = BlockInfo {
        key_block: parameters.key_block && place == Place::Master,
        seqno: facts.seqno,
        shard: place.shard(),
        gen_utime: facts.unix,
        start_lt: facts.start_lt,
        end_lt: *facts.end_lt.get(place),
        gen_validator_list_hash_short: *parameters.before.set_hash.get(place),
        gen_catchain_seqno: 0,
        min_ref_mc_seqno: previous.seqno,
        prev_key_block_seqno: previous.newest_key_block(),
        ..BlockInfo::default()
    };
    if place == Place::Base {
        info.master_ref = Some(Lazy::new(&previous.external_ref(Place::Master))?);
    }
    info.set_prev_ref_single(&previous.external_ref(place));
    let old_state = tip.states.get(place);
    let unchanged = Unchanged::between(old_state.as_ref(), state.as_ref());
    let update = MerkleUpdate::create(old_state.as_ref(), state.as_ref(), unchanged).build()?;
    let root = CellBuilder::build_from(&Block {
        global_id: GLOBAL_ID,
        info: Lazy::new(&info)?,
        value_flow: Lazy::new(&flow)?,
        state_update: LazyExotic::new(&update)?,
        out_msg_queue_updates: None,
        extra: Lazy::new(&extra)?,
    })?;
    let bytes = Boc::encode(&root);
    Ok((root, bytes))
}

/// Coins before, coins after, and what explains the difference. The masterchain takes over the base chain's fees.
fn value_flow(
    place: Place,
    before: &tycho_types::models::ShardAccounts,
    after: &tycho_types::models::ShardAccounts,
    executed: &Executed<'_>,
) -> ValueFlow {
    let flow = executed.flow.get(place);
    let from_below = match place {
        Place::Base => 0,
        Place::Master => executed.flow.base.fees,
    };
    ValueFlow {
        from_prev_block: held(before).clone(),
        to_next_block: held(after).clone(),
        imported: coins(flow.imported),
        exported: coins(flow.exported),
        fees_collected: coins(flow.fees.saturating_add(from_below)),
        fees_imported: coins(from_below),
        ..ValueFlow::default()
    }
}

fn extra(
    tip: &Tip,
    place: Place,
    parameters: &Parameters<'_>,
    executed: &Executed<'_>,
    custom: Option<McBlockExtra>,
) -> Result<BlockExtra, Error> {
    let mut blocks = AccountBlocks::new();
    for (address, transactions) in executed.transactions {
        if Place::of(address.workchain) != Some(place) {
            continue;
        }
        let account = HashBytes(address.hash);
        let mut list: AugDict<u64, CurrencyCollection, Lazy<Transaction>> = AugDict::new();
        for (lt, cell) in transactions {
            let transaction: Lazy<Transaction> = Lazy::from_raw(cell.clone())?;
            let fees = transaction.load()?.total_fees;
            list.set(lt, fees, transaction)?;
        }
        let none = Lazy::new(&OptionalAccount(None))?;
        let hash = |shard: Option<&ShardAccount>| {
            *shard
                .map_or(&none, |shard| &shard.account)
                .inner()
                .repr_hash()
        };
        let before = tip
            .accounts
            .get(place)
            .get(account)?
            .map(|(_, shard)| shard);
        let after = executed.accounts.get(address).and_then(Option::as_ref);
        let fees = list.root_extra().clone();
        let block = AccountBlock {
            account,
            transactions: list,
            state_update: Lazy::new(&HashUpdate {
                old: hash(before.as_ref()),
                new: hash(after),
            })?,
        };
        blocks.set(account, fees, block)?;
    }
    Ok(BlockExtra {
        account_blocks: Lazy::new(&blocks)?,
        rand_seed: HashBytes(*executed.seed.as_bytes()),
        created_by: HashBytes(parameters.before.key.verifying_key().to_bytes()),
        custom: custom.map(|custom| Lazy::new(&custom)).transpose()?,
        ..BlockExtra::default()
    })
}

fn master_extra(
    parameters: &Parameters<'_>,
    shards: ShardHashes,
    base_fees: u64,
    previous: &BlockRecord,
) -> Result<McBlockExtra, Error> {
    let mut fees = AugDict::new();
    let collected = ShardFeeCreated {
        fees: coins(base_fees),
        create: CurrencyCollection::ZERO,
    };
    fees.set(
        ShardIdentFull::from(Place::Base.shard()),
        collected.clone(),
        collected,
    )?;
    Ok(McBlockExtra {
        shards,
        fees,
        prev_block_signatures: signatures_of(previous, parameters)?,
        recover_create_msg: None,
        mint_msg: None,
        config: parameters
            .key_block
            .then(|| parameters.after.genuine.clone()),
    })
}

/// The signatures of the block before, which every masterchain block repeats. Nobody signs a zero state.
fn signatures_of(
    previous: &BlockRecord,
    parameters: &Parameters<'_>,
) -> Result<Dict<u16, BlockSignature>, Error> {
    let mut signatures = Dict::new();
    if previous.seqno > 0 {
        let (node_id_short, signature) = if previous.validators == parameters.validators {
            sign_with(&parameters.before.key, previous)
        } else {
            sign(previous)
        };
        let signature = BlockSignature {
            node_id_short: HashBytes(node_id_short),
            signature: Signature(signature),
        };
        signatures.set(0, signature)?;
    }
    Ok(signatures)
}

/// The only validator's short id, and its signature of a masterchain block. It can be made whenever it is wanted:
/// Ed25519 always gives the same one.
pub(super) fn sign(record: &BlockRecord) -> ([u8; 32], [u8; 64]) {
    sign_with(&validator_key(record.validators), record)
}

fn sign_with(key: &SigningKey, record: &BlockRecord) -> ([u8; 32], [u8; 64]) {
    let short_id = Sha256::new()
        .chain_update(PUBLIC_KEY_TAG)
        .chain_update(key.verifying_key().as_bytes())
        .finalize();
    let signed = Block::build_data_for_sign(&record.id(Place::Master));
    (short_id.into(), key.sign(&signed).to_bytes())
}

/// The beginning: what is there before the first block.
pub(super) struct Beginning {
    pub(super) tip: Tip,
    /// The zero states as bags of cells.
    pub(super) bytes: Split<Vec<u8>>,
}

/// The zero state of the base chain, which the parameters name.
pub(super) fn zero_base(
    unix: u32,
    accounts: &tycho_types::models::ShardAccounts,
) -> Result<(Cell, Vec<u8>), Error> {
    let state = state::base(&zero_facts(unix), accounts)?;
    let bytes = Boc::encode(&state);
    Ok((state, bytes))
}

fn zero_facts(unix: u32) -> Facts<'static> {
    Facts {
        seqno: 0,
        unix,
        start_lt: 0,
        end_lt: Split::default(),
        key_block: true,
        base_fees: 0,
        collected: 0,
        previous: None,
    }
}

/// Both zero states.
pub(super) fn beginning(
    unix: u32,
    network: &Network,
    accounts: tycho_types::models::ShardAccounts,
) -> Result<Beginning, Error> {
    let (base, base_bytes) = zero_base(unix, &accounts)?;
    let base_hashes = hashes(base.repr_hash(), &base_bytes);
    let mut record = BlockRecord {
        seqno: 0,
        unix,
        start_lt: 0,
        end_lt: Split::default(),
        hashes: Split {
            base: base_hashes,
            master: base_hashes,
        },
        states: Split {
            base: base_hashes.root,
            master: base_hashes.root,
        },
        key_block: true,
        previous_key_block: 0,
        validators: 0,
        next_validators: 0,
        base_fees: 0,
        collected: 0,
        transactions: 0,
    };
    let accounts = Split {
        base: accounts,
        master: tycho_types::models::ShardAccounts::new(),
    };
    let facts = zero_facts(unix);
    let shards = state::shards(&facts, &record.id(Place::Base))?;
    let old_blocks = OldBlocks::new();
    let master = state::master(&facts, &accounts.master, network, shards, &old_blocks, None)?;
    let master_bytes = Boc::encode(&master);
    record.hashes.master = hashes(master.repr_hash(), &master_bytes);
    record.states.master = record.hashes.master.root;
    Ok(Beginning {
        tip: Tip {
            record,
            accounts,
            old_blocks,
            last_key_block: None,
            states: Split { base, master },
        },
        bytes: Split {
            base: base_bytes,
            master: master_bytes,
        },
    })
}
