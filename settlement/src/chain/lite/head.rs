//! What is known of the chain's head, and how it came to be known.
//!
//! Several servers are asked what their newest block is. The newest claim that its server can prove is the head; nothing
//! else is. Servers that lag, name another block under a proved number, or prove nothing are demoted with the reason. If
//! one *can* prove another block under a proved number, more than a third of the validators' weight has signed both
//! ([`LiteError::Fork`]): the client then trusts nothing until it is started again by a person.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cocoon_protocol::UnixMillis;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::anchor::{self, Anchor};
use super::proof::Proved;
use super::server::Server;
use super::walk::{Walked, walk};
use super::wire::{self, BlockId, Request};
use super::{LiteChain, LiteError};
use crate::chain::{ChainError, ChainStanding};

/// Heads that are remembered, to notice servers that name others.
const MAX_RECENT: usize = 256;

/// What the client has verified so far.
#[derive(Debug)]
pub(super) struct Known {
    /// The newest verified key block: the next walk starts there.
    anchor: BlockId,
    /// ConfigParam 19, which a network keeps for ever.
    pub(super) global_id: Option<i32>,
    head: Option<Proved>,
    /// When a server last showed a head that holds.
    verified_at: UnixMillis,
    recent: BTreeMap<u32, Proved>,
    trouble: Option<Trouble>,
    fork: Option<LiteError>,
}

/// Why no head could be verified the last times.
#[derive(Debug)]
struct Trouble {
    why: String,
    /// It will not pass by waiting.
    definite: bool,
    since: Instant,
}

impl Known {
    pub(super) fn starting_at(anchor: Anchor) -> Self {
        Self {
            anchor: anchor.block,
            global_id: anchor.global_id,
            head: None,
            verified_at: now(),
            recent: BTreeMap::new(),
            trouble: None,
            fork: None,
        }
    }

    pub(super) fn recent(&self, seqno: u32) -> Option<Proved> {
        self.recent.get(&seqno).copied()
    }

    pub(super) fn standing(&self, patience: Duration) -> ChainStanding {
        let unverifiable = |reason: String| ChainStanding::Unverifiable {
            since: self.verified_at,
            last_seqno: self.head.map_or(self.anchor.seqno, |head| head.id.seqno),
            reason,
        };
        match (&self.fork, &self.trouble) {
            (Some(fork), _) => unverifiable(fork.to_string()),
            (None, Some(trouble)) if trouble.definite || trouble.since.elapsed() >= patience => {
                unverifiable(trouble.why.clone())
            }
            _ if self.head.is_none() => unverifiable("no head was verified yet".to_owned()),
            _ => ChainStanding::Verified,
        }
    }

    fn troubled(&mut self, why: String, definite: bool) {
        let since = self
            .trouble
            .take()
            .map_or_else(Instant::now, |before| before.since);
        self.trouble = Some(Trouble {
            why,
            definite,
            since,
        });
    }

    fn adopt(&mut self, walked: &Walked) {
        self.head = Some(walked.head);
        self.recent.insert(walked.head.id.seqno, walked.head);
        while self.recent.len() > MAX_RECENT {
            self.recent.pop_first();
        }
        if walked.key_block.seqno > self.anchor.seqno {
            self.anchor = walked.key_block;
        }
    }
}

/// Seconds and milliseconds since 1970 by this machine's clock.
fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Servers' newest blocks by their own word, newest first.
type Claims = Vec<(Arc<Server>, BlockId)>;

impl LiteChain {
    /// The newest head that can be proved now. Callers that come while one is being looked for share the next look.
    pub(super) async fn refresh(&self) -> Result<Proved, ChainError> {
        let asked = Instant::now();
        let mut last = self.inner.looked.lock().await;
        if last.is_some_and(|started| started >= asked) {
            return self.verdict();
        }
        let started = Instant::now();
        match self.look().await {
            Ok(()) => {}
            Err(error) => {
                let definite = error.is_wrong() || matches!(error, LiteError::Stale { .. });
                tracing::warn!(%error, "no head of the chain can be verified");
                self.known().troubled(error.to_string(), definite);
            }
        }
        *last = Some(started);
        drop(last);
        self.verdict()
    }

    /// The head, or why there is none that counts.
    fn verdict(&self) -> Result<Proved, ChainError> {
        let known = self.known();
        match (
            known.standing(self.inner.settings.unverifiable_after),
            &known.trouble,
            known.head,
        ) {
            (
                ChainStanding::Unverifiable {
                    since,
                    last_seqno,
                    reason,
                },
                trouble,
                head,
            ) if known.fork.is_some()
                || head.is_some()
                || trouble.as_ref().is_some_and(|t| t.definite) =>
            {
                Err(ChainError::Unverifiable {
                    since,
                    last_seqno,
                    reason,
                })
            }
            (_, None, Some(head)) => Ok(head),
            (_, trouble, _) => Err(self.unreachable(
                trouble
                    .as_ref()
                    .map_or("nobody was asked yet", |trouble| &trouble.why),
            )),
        }
    }

    pub(super) fn unreachable(&self, reason: &str) -> ChainError {
        ChainError::Unreachable {
            endpoint: self.inner.name.clone(),
            attempts: self.inner.settings.rounds,
            reason: reason.to_owned(),
        }
    }

    /// No server proved an answer about a block that is proved.
    pub(super) fn nobody_proved(&self, why: &LiteError) -> ChainError {
        let mut known = self.known();
        known.troubled(why.to_string(), true);
        ChainError::Unverifiable {
            since: known.verified_at,
            last_seqno: known.head.map_or(0, |head| head.id.seqno),
            reason: why.to_string(),
        }
    }

    async fn look(&self) -> Result<(), LiteError> {
        let claims = self.claims().await?;
        let mut failure = None;
        let mut found = false;
        for (server, id) in &claims {
            let (known, anchor) = {
                let known = self.known();
                (known.head, known.anchor)
            };
            if let Some(head) = known
                && id.seqno <= head.id.seqno
            {
                found |= self
                    .known()
                    .recent(id.seqno)
                    .is_some_and(|old| old.id == *id);
                break;
            }
            match self.prove(server, &anchor, id).await {
                Ok(walked) => {
                    self.adopt(&walked);
                    server.forgive();
                    found = true;
                    break;
                }
                Err(error) => {
                    server.demote(error.clone(), &self.inner.settings);
                    failure = Some(error);
                }
            }
        }
        self.compare(&claims).await;
        let head = {
            let known = self.known();
            if let Some(fork) = &known.fork {
                return Err(fork.clone());
            }
            known.head
        };
        let (Some(head), true) = (head, found) else {
            let newest = claims.first().map_or(0, |(_, id)| id.seqno);
            return Err(failure.unwrap_or(LiteError::Behind {
                at: newest,
                best: head.map_or(0, |head| head.id.seqno),
            }));
        };
        let age_s = now().seconds().saturating_sub(head.unix.into());
        let limit_s = self.inner.settings.max_head_age.as_secs();
        if age_s > limit_s {
            return Err(LiteError::Stale { age_s, limit_s });
        }
        let mut known = self.known();
        known.trouble = None;
        known.verified_at = now();
        Ok(())
    }

    /// Asks several servers at once; those that nothing is held against first, the others when none of those answers.
    async fn claims(&self) -> Result<Claims, LiteError> {
        let settings = &self.inner.settings;
        let (good, bad) = self.sorted();
        let at_once = settings.heads_asked.max(1);
        let mut failure = LiteError::Connection {
            reason: "no server".to_owned(),
        };
        for servers in good.chunks(at_once).chain(bad.chunks(at_once)) {
            let mut asked: FuturesUnordered<_> = servers
                .iter()
                .map(|server| async move {
                    let answer = server
                        .ask(&Request::MasterchainInfo, settings.head_timeout, settings)
                        .await
                        .and_then(|bytes| wire::masterchain_info(&bytes));
                    (server.clone(), answer)
                })
                .collect();
            let mut claims = Claims::new();
            let mut grace = None;
            loop {
                let next = match grace {
                    None => asked.next().await,
                    // What comes later than this is asked again the next time.
                    Some(end) => tokio::time::timeout_at(end, asked.next())
                        .await
                        .unwrap_or(None),
                };
                match next {
                    Some((server, Ok(id))) => {
                        server.named(id.seqno);
                        claims.push((server, id));
                        grace =
                            grace.or(tokio::time::Instant::now().checked_add(settings.head_grace));
                    }
                    Some((server, Err(error))) => {
                        server.demote(error.clone(), settings);
                        failure = error;
                    }
                    None => break,
                }
            }
            if !claims.is_empty() {
                claims.sort_by_key(|(_, id)| std::cmp::Reverse(id.seqno));
                return Ok(claims);
            }
        }
        Err(failure)
    }

    async fn prove(
        &self,
        server: &Server,
        anchor: &BlockId,
        target: &BlockId,
    ) -> Result<Walked, LiteError> {
        let progress = |at: u32| self.inner.progress.heard(at, target.seqno);
        let walked = walk(server, &self.inner.settings, anchor, target, &progress).await?;
        tracing::debug!(seqno = target.seqno, links = walked.links, "head verified");
        Ok(walked)
    }

    fn adopt(&self, walked: &Walked) {
        let (before, after) = {
            let mut known = self.known();
            let before = known.anchor;
            known.adopt(walked);
            (before, known.anchor)
        };
        if before != after {
            self.keep_anchor();
        }
    }

    /// Writes the newest verified key block and the network's number, where a file for them is.
    pub(super) fn keep_anchor(&self) {
        let kept = {
            let known = self.known();
            Anchor {
                block: known.anchor,
                global_id: known.global_id,
            }
        };
        if let Some(path) = &self.inner.settings.anchor_file
            && let Err(error) = anchor::store(path, &self.inner.network, &kept)
        {
            tracing::warn!(path = %path.display(), %error, "the verified key block cannot be kept; the next start walks again");
        }
    }

    /// Looks whether what servers name agrees with what is proved.
    async fn compare(&self, claims: &Claims) {
        for (server, id) in claims {
            let (proved, best, anchor) = {
                let known = self.known();
                let best = known.head.map_or(0, |head| head.id.seqno);
                (known.recent(id.seqno), best, known.anchor)
            };
            if let Some(proved) = proved
                && proved.id != *id
            {
                // It may be that both are signed; that is worth one question.
                match self.prove(server, &anchor, id).await {
                    Ok(_) => {
                        let fork = LiteError::Fork {
                            seqno: id.seqno,
                            one: Box::new(proved.id),
                            other: Box::new(*id),
                        };
                        tracing::error!(%fork, "the chain has forked");
                        self.known().fork = Some(fork);
                    }
                    Err(_) => server.demote(
                        LiteError::Contradicts { seqno: id.seqno },
                        &self.inner.settings,
                    ),
                }
            } else if id.seqno.saturating_add(self.inner.settings.max_lag_blocks) < best {
                server.demote(
                    LiteError::Behind { at: id.seqno, best },
                    &self.inner.settings,
                );
            }
        }
    }
}
