//! From the block that is trusted to the newest one: a walk over signed key blocks.
//!
//! A key block names the validators; more than two thirds of their weight sign what comes after, up to the next key
//! block. `ton-net-block` checks each link: header, validator set, signatures of either form (the old one over block ids,
//! and Simplex). A walk always starts at a key block, so links never go backwards.

use ton_net_block::{BlockLink, verify_chain};

use super::proof::{self, Proved};
use super::server::Server;
use super::wire::{self, BlockId, Request};
use super::{LiteError, LiteSettings};

/// Answers that one walk may take. From mainnet's `init_block` of 2026 it is about eighty.
const MAX_ROUNDS: usize = 512;

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    pub(super) head: Proved,
    /// The newest key block on the way: the next walk starts there.
    pub(super) key_block: BlockId,
    /// Links whose signatures were checked.
    pub(super) links: usize,
}

/// Proves `target`, starting at the trusted key block `anchor`. `progress` hears the block number of each answer.
pub(super) async fn walk(
    server: &Server,
    settings: &LiteSettings,
    anchor: &BlockId,
    target: &BlockId,
    progress: &(dyn Fn(u32) + Send + Sync),
) -> Result<Walked, LiteError> {
    if target == anchor {
        let bytes = server
            .ask(
                &Request::BlockHeader(anchor),
                settings.query_timeout,
                settings,
            )
            .await?;
        let (_, header) = wire::block_header(&bytes)?;
        return Ok(Walked {
            head: proof::header(anchor, header)?,
            key_block: *anchor,
            links: 0,
        });
    }
    if target.seqno <= anchor.seqno {
        return Err(LiteError::Behind {
            at: target.seqno,
            best: anchor.seqno,
        });
    }
    let (mut at, mut key_block, mut links) = (*anchor, *anchor, 0usize);
    for _ in 0..MAX_ROUNDS {
        let bytes = server
            .ask(
                &Request::BlockProof { known: &at, target },
                settings.proof_timeout,
                settings,
            )
            .await?;
        let answer = wire::block_proof(&bytes)?;
        let (reached, last_key) = check(&at, &answer)?;
        links = links.saturating_add(answer.steps.len());
        if reached.id.seqno <= at.seqno {
            return Err(broken("an answer that leads nowhere"));
        }
        at = reached.id;
        key_block = last_key.unwrap_or(key_block);
        progress(at.seqno);
        if at == *target {
            return Ok(Walked {
                head: reached,
                key_block,
                links,
            });
        }
        if answer.complete || !reached.key_block || at.seqno >= target.seqno {
            return Err(broken("it does not end at the block that the server named"));
        }
    }
    Err(broken("it does not end"))
}

/// One answer: the block it leads to, and the newest key block in it.
pub(super) fn check(
    from: &BlockId,
    answer: &ton_net_block::PartialBlockProof,
) -> Result<(Proved, Option<BlockId>), LiteError> {
    const WHAT: &str = "chain of blocks";
    proof::within_limits(answer)?;
    verify_chain(&from.into(), answer).map_err(LiteError::not_proved(WHAT))?;
    let mut last_key = None;
    let mut last = None;
    for step in &answer.steps {
        if let BlockLink::Forward {
            to,
            to_key_block,
            dest_proof,
            ..
        } = step
        {
            if *to_key_block {
                last_key = Some(BlockId::from(to));
            }
            last = Some((BlockId::from(to), dest_proof));
        }
    }
    let (id, header) = last.ok_or_else(|| broken("no link goes forwards"))?;
    Ok((proof::header(&id, header)?, last_key))
}

fn broken(reason: &str) -> LiteError {
    LiteError::NotProved {
        what: "chain of blocks",
        reason: reason.to_owned(),
    }
}
