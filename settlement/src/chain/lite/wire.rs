//! The liteserver's questions and answers as bytes (TL, `lite_api.tl` and `ton_api.tl` of the TON repository).
//!
//! Answers are a stranger's bytes. What is read here is read field by field with [`Reader`], which allocates nothing
//! larger than what has arrived; proofs of the chain of key blocks go through `ton-net-tl`, whose vectors are bounded by
//! the rest of the packet.

use cocoon_protocol::TonAddress;
use ton_net_tl::lite::{self, PartialBlockProof};

use super::LiteError;

/// `tonNode.blockIdExt`: a block, its place and its two hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    pub workchain: i32,
    /// The shard's prefix with a closing 1 bit; `1 << 63` for the masterchain.
    pub shard: u64,
    pub seqno: u32,
    /// Representation hash of the block's root cell.
    pub root_hash: [u8; 32],
    /// SHA-256 of the serialized block.
    pub file_hash: [u8; 32],
}

/// The masterchain's workchain.
pub(super) const MASTERCHAIN: i32 = -1;
/// The masterchain is one shard.
pub(super) const MASTERCHAIN_SHARD: u64 = 1 << 63;

impl BlockId {
    /// Whether it names a masterchain block.
    #[must_use]
    pub fn is_masterchain(&self) -> bool {
        self.workchain == MASTERCHAIN && self.shard == MASTERCHAIN_SHARD
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.workchain.to_le_bytes());
        out.extend(self.shard.to_le_bytes());
        out.extend(self.seqno.to_le_bytes());
        out.extend(self.root_hash);
        out.extend(self.file_hash);
    }
}

impl From<&BlockId> for lite::BlockIdExt {
    fn from(id: &BlockId) -> Self {
        Self {
            workchain: id.workchain,
            shard: id.shard,
            seqno: id.seqno.cast_signed(),
            root_hash: id.root_hash,
            file_hash: id.file_hash,
        }
    }
}

impl From<&lite::BlockIdExt> for BlockId {
    fn from(id: &lite::BlockIdExt) -> Self {
        Self {
            workchain: id.workchain,
            shard: id.shard,
            seqno: id.seqno.cast_unsigned(),
            root_hash: id.root_hash,
            file_hash: id.file_hash,
        }
    }
}

/// `adnl.message.query`.
const ADNL_QUERY: u32 = 0xb48b_f97a;
/// `adnl.message.answer`.
const ADNL_ANSWER: u32 = 0x0fac_8416;
/// `liteServer.query`.
const LITE_QUERY: u32 = 0x798c_06df;
/// `liteServer.error`.
const LITE_ERROR: u32 = 0xbba9_e148;
/// Longest error text that is kept, bytes.
const MAX_ERROR_TEXT: usize = 512;

/// A question under `query_id`, ready for an ADNL frame.
pub(super) fn query(query_id: &[u8; 32], request: &[u8]) -> Vec<u8> {
    let mut inner = LITE_QUERY.to_le_bytes().to_vec();
    write_bytes(&mut inner, request);
    let mut out = ADNL_QUERY.to_le_bytes().to_vec();
    out.extend(query_id);
    write_bytes(&mut out, &inner);
    out
}

/// The query id and the answer of an ADNL frame; `None` for what is no answer (a pong, an empty frame).
pub(super) fn answer(frame: &[u8]) -> Option<([u8; 32], &[u8])> {
    let mut reader = Reader::new(frame, "adnl message");
    if reader.u32().ok()? != ADNL_ANSWER {
        return None;
    }
    let id = reader.hash().ok()?;
    Some((id, reader.bytes().ok()?))
}

/// What a liteserver can be asked. All answers but errors are checked by whoever asked.
#[derive(Clone, Debug)]
pub(super) enum Request<'a> {
    MasterchainInfo,
    BlockProof {
        known: &'a BlockId,
        target: &'a BlockId,
    },
    BlockHeader(&'a BlockId),
    /// A masterchain block by its number.
    LookupBlock(u32),
    Account {
        block: &'a BlockId,
        address: TonAddress,
    },
    ConfigAll(&'a BlockId),
    Transactions {
        count: u32,
        address: TonAddress,
        lt: u64,
        hash: &'a [u8; 32],
    },
    SendMessage(&'a [u8]),
}

impl Request<'_> {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::MasterchainInfo => "getMasterchainInfo",
            Self::BlockProof { .. } => "getBlockProof",
            Self::BlockHeader(_) => "getBlockHeader",
            Self::LookupBlock(_) => "lookupBlock",
            Self::Account { .. } => "getAccountState",
            Self::ConfigAll(_) => "getConfigAll",
            Self::Transactions { .. } => "getTransactions",
            Self::SendMessage(_) => "sendMessage",
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let tag = |out: &mut Vec<u8>, tag: u32| out.extend(tag.to_le_bytes());
        match self {
            Self::MasterchainInfo => tag(&mut out, 0x89b5_e62e),
            Self::BlockProof { known, target } => {
                tag(&mut out, 0x8aea_9c44);
                tag(&mut out, 1);
                known.write(&mut out);
                target.write(&mut out);
            }
            Self::BlockHeader(id) => {
                tag(&mut out, 0x21ec_069e);
                id.write(&mut out);
                tag(&mut out, 0);
            }
            Self::LookupBlock(seqno) => {
                tag(&mut out, 0xfac8_f71e);
                tag(&mut out, 1);
                out.extend(MASTERCHAIN.to_le_bytes());
                out.extend(MASTERCHAIN_SHARD.to_le_bytes());
                out.extend(seqno.to_le_bytes());
            }
            Self::Account { block, address } => {
                tag(&mut out, 0x6b89_0e25);
                block.write(&mut out);
                write_address(&mut out, *address);
            }
            Self::ConfigAll(id) => {
                tag(&mut out, 0x911b_26b7);
                tag(&mut out, 0);
                id.write(&mut out);
            }
            Self::Transactions {
                count,
                address,
                lt,
                hash,
            } => {
                tag(&mut out, 0x1c40_e7a1);
                out.extend(count.to_le_bytes());
                write_address(&mut out, *address);
                out.extend(lt.to_le_bytes());
                out.extend(hash.as_slice());
            }
            Self::SendMessage(body) => {
                tag(&mut out, 0x690a_d482);
                write_bytes(&mut out, body);
            }
        }
        out
    }
}

fn write_address(out: &mut Vec<u8>, address: TonAddress) {
    out.extend(i32::from(address.workchain).to_le_bytes());
    out.extend(address.hash);
}

/// TL `bytes`: one or four bytes of length, the bytes, zeros up to a multiple of four.
pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    match u8::try_from(bytes.len()) {
        Ok(short) if short < 254 => out.push(short),
        _ => {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            out.extend((length << 8 | 0xfe).to_le_bytes());
        }
    }
    out.extend(bytes);
    while !out.len().wrapping_sub(start).is_multiple_of(4) {
        out.push(0);
    }
}

/// Reads TL out of what has arrived, never past its end.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    fn malformed(&self, reason: &str) -> LiteError {
        LiteError::Malformed {
            what: self.what,
            reason: reason.to_owned(),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], LiteError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| self.malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LiteError> {
        let taken = self.take(N)?;
        taken
            .try_into()
            .map_err(|_| self.malformed("it ends too early"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, LiteError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, LiteError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, LiteError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn hash(&mut self) -> Result<[u8; 32], LiteError> {
        self.array()
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], LiteError> {
        let first = usize::from(self.array::<1>()?[0]);
        let (length, head) = match first {
            0..=253 => (first, 1usize),
            254 => {
                let [a, b, c] = self.array::<3>()?.map(usize::from);
                (a | b << 8 | c << 16, 4)
            }
            _ => return Err(self.malformed("a length of no known form")),
        };
        let bytes = self.take(length)?;
        let used = head.saturating_add(length);
        self.take(used.next_multiple_of(4).saturating_sub(used))?;
        Ok(bytes)
    }

    pub(super) fn block_id(&mut self) -> Result<BlockId, LiteError> {
        Ok(BlockId {
            workchain: self.i32()?,
            shard: self.u64()?,
            seqno: self.u32()?,
            root_hash: self.hash()?,
            file_hash: self.hash()?,
        })
    }

    fn end(&self) -> Result<(), LiteError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("bytes are left over"))
        }
    }
}

/// What follows the constructor's tag, or the error that the server sent instead.
fn open<'a>(bytes: &'a [u8], what: &'static str, tag: u32) -> Result<Reader<'a>, LiteError> {
    let mut reader = Reader::new(bytes, what);
    match reader.u32()? {
        found if found == tag => Ok(reader),
        LITE_ERROR => {
            let code = reader.i32()?;
            let text = reader.bytes()?;
            let text = text.get(..MAX_ERROR_TEXT).unwrap_or(text);
            Err(LiteError::Refused {
                code,
                message: String::from_utf8_lossy(text).into_owned(),
            })
        }
        found => Err(LiteError::UnknownForm {
            what,
            tag: Some(found),
        }),
    }
}

/// `liteServer.masterchainInfo`: the newest block that the server claims to know.
pub(super) fn masterchain_info(bytes: &[u8]) -> Result<BlockId, LiteError> {
    let mut reader = open(bytes, "masterchain info", 0x8583_2881)?;
    let last = reader.block_id()?;
    reader.hash()?;
    // init: tonNode.zeroStateIdExt
    reader.i32()?;
    reader.hash()?;
    reader.hash()?;
    reader.end()?;
    if !last.is_masterchain() {
        return Err(reader.malformed("not a masterchain block"));
    }
    Ok(last)
}

/// `liteServer.partialBlockProof`.
pub(super) fn block_proof(bytes: &[u8]) -> Result<PartialBlockProof, LiteError> {
    const WHAT: &str = "block proof";
    const TAG: u32 = 0x8ed0_d2c1;
    open(bytes, WHAT, TAG)?;
    ton_net_tl::deserialize(bytes).map_err(|error| match error {
        ton_net_tl::TlError::UnknownConstructor => LiteError::UnknownForm {
            what: WHAT,
            tag: None,
        },
        other => LiteError::Malformed {
            what: WHAT,
            reason: other.to_string(),
        },
    })
}

/// `liteServer.blockHeader`: the block it is of, and a Merkle proof.
pub(super) fn block_header(bytes: &[u8]) -> Result<(BlockId, &[u8]), LiteError> {
    let mut reader = open(bytes, "block header", 0x752d_8219)?;
    let id = reader.block_id()?;
    reader.u32()?;
    let proof = reader.bytes()?;
    reader.end()?;
    Ok((id, proof))
}

/// `liteServer.accountState`, without the block ids: the proofs say which blocks they are of.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccountAnswer<'a> {
    pub shard_proof: &'a [u8],
    pub proof: &'a [u8],
    /// Empty for an account that does not exist.
    pub state: &'a [u8],
}

pub(super) fn account(bytes: &[u8]) -> Result<AccountAnswer<'_>, LiteError> {
    let mut reader = open(bytes, "account state", 0x7079_c751)?;
    reader.block_id()?;
    reader.block_id()?;
    let answer = AccountAnswer {
        shard_proof: reader.bytes()?,
        proof: reader.bytes()?,
        state: reader.bytes()?,
    };
    reader.end()?;
    Ok(answer)
}

/// `liteServer.configInfo`: the proof of the block's state, and of the state's configuration.
pub(super) fn config_info(bytes: &[u8]) -> Result<(&[u8], &[u8]), LiteError> {
    let mut reader = open(bytes, "config info", 0xae7b_272f)?;
    reader.u32()?;
    reader.block_id()?;
    let proofs = (reader.bytes()?, reader.bytes()?);
    reader.end()?;
    Ok(proofs)
}

/// `liteServer.transactionList`: the blocks (the server's word), and a bag with one root for each transaction.
pub(super) fn transactions(bytes: &[u8], most: usize) -> Result<(Vec<BlockId>, &[u8]), LiteError> {
    let mut reader = open(bytes, "transaction list", 0x6f26_c60b)?;
    let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    if count > most {
        return Err(reader.malformed("more transactions than were asked for"));
    }
    let ids = (0..count)
        .map(|_| reader.block_id())
        .collect::<Result<_, _>>()?;
    let bag = reader.bytes()?;
    reader.end()?;
    Ok((ids, bag))
}

/// `liteServer.sendMsgStatus`. A server that did not take the message says so with an error.
pub(super) fn send_status(bytes: &[u8]) -> Result<(), LiteError> {
    let mut reader = open(bytes, "message status", 0x3950_e597)?;
    reader.u32()?;
    reader.end()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use ton_liteapi::tl::{adnl, common, request, response};

    const ID: BlockId = BlockId {
        workchain: MASTERCHAIN,
        shard: MASTERCHAIN_SHARD,
        seqno: 77,
        root_hash: [1; 32],
        file_hash: [2; 32],
    };

    fn theirs() -> common::BlockIdExt {
        common::BlockIdExt {
            workchain: -1,
            shard: MASTERCHAIN_SHARD,
            seqno: 77,
            root_hash: common::Int256([1; 32]),
            file_hash: common::Int256([2; 32]),
        }
    }

    /// `ton_liteapi` reads what is asked here as what it is meant to be.
    #[test]
    fn questions_are_those_of_an_independent_implementation() {
        let address = TonAddress {
            workchain: 0,
            hash: [7; 32],
        };
        let account = || common::AccountId {
            workchain: 0,
            id: common::Int256([7; 32]),
        };
        let long = vec![9; 300];
        let cases: Vec<(Request<'_>, request::Request)> = vec![
            (
                Request::MasterchainInfo,
                request::Request::GetMasterchainInfo,
            ),
            (
                Request::BlockHeader(&ID),
                request::Request::GetBlockHeader(request::GetBlockHeader {
                    id: theirs(),
                    mode: (),
                    with_state_update: None,
                    with_value_flow: None,
                    with_extra: None,
                    with_shard_hashes: None,
                    with_prev_blk_signatures: None,
                }),
            ),
            (
                Request::Account {
                    block: &ID,
                    address,
                },
                request::Request::GetAccountState(request::GetAccountState {
                    id: theirs(),
                    account: account(),
                }),
            ),
            (
                Request::Transactions {
                    count: 16,
                    address,
                    lt: 5,
                    hash: &[3; 32],
                },
                request::Request::GetTransactions(request::GetTransactions {
                    count: 16,
                    account: account(),
                    lt: 5,
                    hash: common::Int256([3; 32]),
                }),
            ),
            (
                Request::SendMessage(&long),
                request::Request::SendMessage(request::SendMessage { body: long.clone() }),
            ),
        ];
        for (ours, expected) in cases {
            let frame = query(&[4; 32], &ours.encode());
            let read: adnl::Message = tl_proto::deserialize(&frame).unwrap();
            let adnl::Message::Query { query_id, query } = read else {
                panic!("no query");
            };
            assert_eq!(query_id.0, [4; 32]);
            assert_eq!(query.wrapped_request.request, expected, "{}", ours.name());
        }
        // These have flags in another order of fields there, so they are compared as they are read.
        for (ours, name) in [
            (Request::LookupBlock(77), "LookupBlock"),
            (Request::ConfigAll(&ID), "GetConfigAll"),
            (
                Request::BlockProof {
                    known: &ID,
                    target: &ID,
                },
                "GetBlockProof",
            ),
        ] {
            let read: request::Request = tl_proto::deserialize(&ours.encode()).unwrap();
            assert!(format!("{read:?}").starts_with(name), "{read:?}");
        }
    }

    #[test]
    fn answers_are_read_as_an_independent_implementation_wrote_them() {
        let bytes = tl_proto::serialize(response::Response::AccountState(response::AccountState {
            id: theirs(),
            shardblk: theirs(),
            shard_proof: vec![1; 300],
            proof: vec![2; 5],
            state: Vec::new(),
        }));
        let read = account(&bytes).unwrap();
        assert_eq!(
            (read.shard_proof.len(), read.proof, read.state.len()),
            (300, &[2; 5][..], 0)
        );
        let bytes = tl_proto::serialize(response::Response::Error(response::Error {
            code: 651,
            message: "no".into(),
        }));
        assert!(matches!(
            account(&bytes),
            Err(LiteError::Refused { code: 651, message }) if message == "no"
        ));
        let bytes =
            tl_proto::serialize(response::Response::SendMsgStatus(response::SendMsgStatus {
                status: 1,
            }));
        send_status(&bytes).unwrap();
        assert!(matches!(
            masterchain_info(&bytes),
            Err(LiteError::UnknownForm {
                tag: Some(0x3950_e597),
                ..
            })
        ));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = answer(bytes);
            let _ = masterchain_info(bytes);
            let _ = block_proof(bytes);
            let _ = block_header(bytes);
            let _ = account(bytes);
            let _ = config_info(bytes);
            let _ = transactions(bytes, 16);
            let _ = send_status(bytes);
            // With each constructor's own tag in front, so that bodies are reached.
            for tag in [
                0x0fac_8416u32,
                0x8583_2881,
                0x8ed0_d2c1,
                0x752d_8219,
                0x7079_c751,
                0xae7b_272f,
                0x6f26_c60b,
                LITE_ERROR,
            ] {
                let tagged = [&tag.to_le_bytes(), bytes].concat();
                let _ = answer(&tagged);
                let _ = masterchain_info(&tagged);
                let _ = block_proof(&tagged);
                let _ = block_header(&tagged);
                let _ = account(&tagged);
                let _ = config_info(&tagged);
                let _ = transactions(&tagged, 16);
            }
        });
    }
}
