//! Transactions: of an account backwards, of a block in order, one by name.

use std::ops::ControlFlow;

use ton_liteapi::tl::common::{BlockIdExt, Int256};
use ton_liteapi::tl::request::{GetOneTransaction, GetTransactions, ListBlockTransactions};
use ton_liteapi::tl::response::{
    BlockTransactions, BlockTransactionsExt, Response, TransactionId, TransactionInfo,
    TransactionList,
};
use tycho_types::boc::Boc;
use tycho_types::boc::ser::BocHeader;
use tycho_types::cell::{Cell, HashBytes};
use tycho_types::error::Error;
use tycho_types::models::Block;

use super::super::record::Place;
use super::answer::{Desk, Refusal, address, code, key};
use super::ids;
use super::proofs;

/// Transactions of an account in one answer, as everywhere on TON.
const MAX_PER_ACCOUNT: u32 = 16;
/// TL tag of `liteServer.blockTransactionsExt`.
const BLOCK_TRANSACTIONS_EXT: [u8; 4] = [0xe4, 0xfc, 0x8f, 0xfb];
/// Transactions of a block in one answer.
const MAX_PER_BLOCK: u32 = 256;

/// A transaction in a block.
struct Listed {
    account: HashBytes,
    lt: u64,
    cell: Cell,
}

impl Desk<'_> {
    pub(super) fn one_transaction(&self, query: &GetOneTransaction) -> Result<Response, Refusal> {
        let named = self.find(&query.id)?;
        let address = address(&query.account)?;
        if Place::of(address.workchain) != Some(named.place) {
            return Err(Refusal::new(
                code::PROTOCOL,
                "the block is of another workchain than the account",
            ));
        }
        let root = self.root(&named)?;
        let proof = proofs::transactions(&root, Some((key(&query.account), query.lt)))?;
        let found = in_block(&root)?
            .into_iter()
            .find(|listed| listed.account == key(&query.account) && listed.lt == query.lt);
        Ok(Response::TransactionInfo(TransactionInfo {
            id: query.id.clone(),
            proof: Boc::encode(proof),
            transaction: found.map_or_else(Vec::new, |listed| Boc::encode(listed.cell)),
        }))
    }

    pub(super) fn transactions(&self, query: &GetTransactions) -> Result<Response, Refusal> {
        let address = address(&query.account)?;
        let place = Place::of(address.workchain).unwrap_or(Place::Base);
        let count = usize::try_from(query.count.min(MAX_PER_ACCOUNT)).unwrap_or(0);
        let found = self.devnet.transactions_back(address, query.lt, count)?;
        match found.first() {
            Some((_, newest)) if newest.repr_hash().0 == query.hash.0 => {}
            Some(_) => {
                return Err(Refusal::new(
                    code::NOT_READY,
                    "the transaction at this logical time has another hash",
                ));
            }
            None => {
                return Err(Refusal::new(
                    code::NOT_READY,
                    "cannot locate transaction in block with specified logical time",
                ));
            }
        }
        let mut blocks = Vec::new();
        for (seqno, _) in &found {
            blocks.push(ids::block_id(&self.devnet.record(*seqno)?, place));
        }
        let cells: Vec<_> = found.into_iter().map(|(_, cell)| cell).collect();
        Ok(Response::TransactionList(TransactionList {
            ids: blocks,
            transactions: bag(&cells),
        }))
    }

    pub(super) fn list_transactions(
        &self,
        query: &ListBlockTransactions,
    ) -> Result<Response, Refusal> {
        let (listed, incomplete, proof) = self.list(query)?;
        let ids = listed
            .iter()
            .map(|listed| TransactionId {
                mode: (),
                account: Some(Int256(listed.account.0)),
                lt: Some(listed.lt),
                hash: Some(Int256(listed.cell.repr_hash().0)),
                metadata: None,
            })
            .collect();
        Ok(Response::BlockTransactions(BlockTransactions {
            id: query.id.clone(),
            req_count: query.count,
            incomplete,
            ids,
            proof,
        }))
    }

    /// As TL, since ton_liteapi 0.2.0 has the type but no place for it among the answers.
    pub(super) fn list_transactions_ext(
        &self,
        query: &ListBlockTransactions,
    ) -> Result<Vec<u8>, Refusal> {
        let (listed, incomplete, proof) = self.list(query)?;
        let cells: Vec<_> = listed.into_iter().map(|listed| listed.cell).collect();
        let answer = BlockTransactionsExt {
            id: query.id.clone(),
            req_count: query.count,
            incomplete,
            transactions: if cells.is_empty() {
                Vec::new()
            } else {
                bag(&cells)
            },
            proof,
        };
        let mut bytes = BLOCK_TRANSACTIONS_EXT.to_vec();
        bytes.extend(tl_proto::serialize(answer));
        Ok(bytes)
    }

    /// In the order of accounts and logical times; whether more follow; the proof where it is wanted.
    fn list(&self, query: &ListBlockTransactions) -> Result<(Vec<Listed>, bool, Vec<u8>), Refusal> {
        let id: &BlockIdExt = &query.id;
        let named = self.find(id)?;
        let root = self.root(&named)?;
        let mut all = in_block(&root)?;
        if query.reverse_order.is_some() {
            all.reverse();
        }
        let mut page = Vec::new();
        let limit = usize::try_from(query.count.min(MAX_PER_BLOCK)).unwrap_or(0);
        let mut incomplete = false;
        let after = query
            .after
            .as_ref()
            .map(|after| (HashBytes(after.account.0), after.lt));
        let flow = all.into_iter().try_for_each(|listed| {
            let place = (listed.account, listed.lt);
            let wanted = after.is_none_or(|after| {
                if query.reverse_order.is_some() {
                    place < after
                } else {
                    place > after
                }
            });
            if !wanted {
                return ControlFlow::Continue(());
            }
            if page.len() >= limit {
                return ControlFlow::Break(());
            }
            page.push(listed);
            ControlFlow::Continue(())
        });
        incomplete |= flow.is_break();
        let proof = if query.want_proof.is_some() {
            Boc::encode(proofs::transactions(&root, None)?)
        } else {
            Vec::new()
        };
        Ok((page, incomplete, proof))
    }
}

/// All transactions of a block.
fn in_block(root: &Cell) -> Result<Vec<Listed>, Error> {
    let block: Block = root.parse()?;
    let extra = block.load_extra()?;
    let mut listed = Vec::new();
    for entry in extra.account_blocks.load()?.iter() {
        let (account, _, block) = entry?;
        for transaction in block.transactions.iter() {
            let (lt, _, cell) = transaction?;
            listed.push(Listed {
                account,
                lt,
                cell: cell.into_inner(),
            });
        }
    }
    Ok(listed)
}

/// Several roots in one bag of cells.
fn bag(cells: &[Cell]) -> Vec<u8> {
    let mut header =
        BocHeader::<std::collections::hash_map::RandomState>::with_capacity(cells.len());
    for cell in cells {
        header.add_root(cell.as_ref());
    }
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes
}
