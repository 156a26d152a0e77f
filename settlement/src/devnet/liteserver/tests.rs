//! What strangers may send, and what they may have deployed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::Mutex;

use cocoon_protocol::{NanoTon, TonAddress};
use ton_liteapi::tl::common::{AccountId, BlockIdExt, Int256};
use ton_liteapi::tl::request::{
    GetAccountState, GetBlockHeader, GetBlockProof, GetTransactions, LiteQuery, LookupBlock,
    Request, RunSmcMethod, WrappedRequest,
};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder};

use super::super::record::Place;
use super::super::{Devnet, faucet};
use super::answer::{Desk, Refusal};
use super::faults::Faults;
use super::fork::Forks;
use super::ids;
use crate::contract::OutMessage;
use crate::contract::encoding::{address_of, state_init};

const GENESIS: u32 = 1_795_000_000;

fn answer(devnet: &mut Devnet, request: &Request) -> Result<Vec<u8>, Refusal> {
    Desk {
        devnet,
        faults: Faults::default(),
        forks: &mut Forks::default(),
    }
    .answer(request)
}

fn head(devnet: &Devnet) -> BlockIdExt {
    ids::block_id(&devnet.tip.record, Place::Master)
}

fn account(address: TonAddress) -> AccountId {
    AccountId {
        workchain: address.workchain.into(),
        id: Int256(address.hash),
    }
}

/// Queries that are answered, of the kinds that hold the most.
fn queries(devnet: &Devnet) -> Vec<Request> {
    let id = head(devnet);
    let holder = account(faucet().unwrap().address());
    let newest = devnet.shard_account(faucet().unwrap().address()).unwrap();
    vec![
        Request::GetAccountState(GetAccountState {
            id: id.clone(),
            account: holder.clone(),
        }),
        Request::RunSmcMethod(RunSmcMethod {
            mode: 0x17,
            id: id.clone(),
            account: holder.clone(),
            method_id: 85_143,
            params: Boc::encode(CellBuilder::build_from((0u16, 0u8)).unwrap()),
        }),
        Request::GetTransactions(GetTransactions {
            count: 16,
            account: holder,
            lt: newest.last_trans_lt,
            hash: Int256(newest.last_trans_hash.0),
        }),
        Request::GetBlockHeader(GetBlockHeader {
            id: id.clone(),
            mode: (),
            with_state_update: Some(()),
            with_value_flow: Some(()),
            with_extra: Some(()),
            with_shard_hashes: Some(()),
            with_prev_blk_signatures: None,
        }),
        Request::GetBlockProof(GetBlockProof {
            mode: (),
            known_block: ids::block_id(&devnet.record(1).unwrap(), Place::Master),
            target_block: Some(id.clone()),
            allow_weak_target: None,
            base_block_from_request: None,
        }),
        Request::LookupBlock(LookupBlock {
            mode: (),
            id: ton_liteapi::tl::common::BlockId {
                workchain: id.workchain,
                shard: id.shard,
                seqno: id.seqno,
            },
            seqno: None,
            lt: Some(1_000_000),
            utime: None,
            with_state_update: None,
            with_value_flow: None,
            with_extra: None,
            with_shard_hashes: None,
            with_prev_blk_signatures: None,
        }),
    ]
}

fn chain() -> Devnet {
    let mut devnet = Devnet::in_memory(GENESIS).unwrap();
    let somebody = TonAddress {
        workchain: 0,
        hash: [1; 32],
    };
    devnet
        .give(somebody, NanoTon::from_nano(1_000_000_000), GENESIS)
        .unwrap();
    devnet.advance(GENESIS + 1).unwrap();
    devnet
}

#[test]
fn no_query_makes_a_server_panic() {
    let mut devnet = chain();
    let queries = queries(&devnet);
    for query in &queries {
        answer(&mut devnet, query).unwrap();
    }
    let bytes: Vec<Vec<u8>> = queries
        .into_iter()
        .map(|request| {
            tl_proto::serialize(LiteQuery {
                wrapped_request: WrappedRequest {
                    wait_masterchain_seqno: None,
                    request,
                },
            })
        })
        .collect();
    let devnet = Mutex::new(devnet);
    bolero::check!()
        .with_iterations(3000)
        .with_type::<(u8, Vec<(u16, u8)>, Vec<u8>)>()
        .for_each(|(which, changes, noise)| {
            super::session::fuzz(noise);
            let _ = tl_proto::deserialize::<LiteQuery>(noise);
            let mut query = bytes[usize::from(*which) % bytes.len()].clone();
            for (at, value) in changes {
                let at = usize::from(*at) % query.len();
                query[at] = *value;
            }
            if let Ok(query) = tl_proto::deserialize::<LiteQuery>(&query) {
                let _ = answer(&mut devnet.lock().unwrap(), &query.wrapped_request.request);
            }
        });
}

#[test]
fn an_account_that_refers_to_the_same_cells_over_and_over_is_read_like_any_other() {
    let mut devnet = chain();
    let mut data = Cell::default();
    // Four paths a level: more paths than could ever be walked, in a hundred cells.
    for level in 0..100u8 {
        let mut builder = CellBuilder::new();
        builder.store_u8(level).unwrap();
        for _ in 0..4 {
            builder.store_reference(data.clone()).unwrap();
        }
        data = builder.build().unwrap();
    }
    let code = faucet().unwrap().state_init().code.clone().unwrap();
    let init = state_init(code, data);
    let address = address_of(&init).unwrap();
    let coins = NanoTon::from_nano(1_000_000_000);
    let message = OutMessage::deploy(address, coins, init, Cell::default());
    let transfer = faucet().unwrap().transfer(1, GENESIS + 60, &[message]);
    devnet.submit(&transfer.unwrap()).unwrap();
    devnet.advance(GENESIS + 2).unwrap();
    assert!(devnet.account(address).unwrap().is_some());
    let id = head(&devnet);
    let state = Request::GetAccountState(GetAccountState {
        id: id.clone(),
        account: account(address),
    });
    answer(&mut devnet, &state).unwrap();
    let method = Request::RunSmcMethod(RunSmcMethod {
        mode: 7,
        id,
        account: account(address),
        method_id: 85_143,
        params: Vec::new(),
    });
    answer(&mut devnet, &method).unwrap();
}
