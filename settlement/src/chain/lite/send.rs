//! External messages: handed to several servers, and the same message only ever once in effect.

use std::sync::PoisonError;

use cocoon_protocol::Digest;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tycho_types::boc::Boc;
use tycho_types::models::{MsgInfo, OwnedMessage};

use super::wire::{self, Request};
use super::{LiteChain, LiteError};
use crate::chain::ChainError;
use crate::contract::encoding::digest;
use crate::devnet::MAX_EXTERNAL_BYTES;

/// Messages that are remembered as taken.
const MAX_REMEMBERED: usize = 1024;

impl LiteChain {
    /// Success if one server took it. A message that was taken before is sent again without harm: the contract refuses
    /// it if it was applied, and then this still succeeds.
    pub(super) async fn send(&self, boc: &[u8]) -> Result<Digest, ChainError> {
        let hash = check(boc)?;
        let settings = &self.inner.settings;
        let request = &Request::SendMessage(boc);
        let order = self.order();
        let mut asked: FuturesUnordered<_> = order
            .iter()
            .take(settings.sent_to.max(1))
            .map(|server| async move {
                server
                    .ask(request, settings.query_timeout, settings)
                    .await
                    .and_then(|bytes| wire::send_status(&bytes))
            })
            .collect();
        let mut refused = None;
        let mut lost = None;
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(()) => {
                    self.remember(hash);
                    return Ok(hash);
                }
                Err(LiteError::Refused { message, .. }) => refused = Some(message),
                Err(error) => lost = Some(error),
            }
        }
        if self.is_remembered(&hash) {
            return Ok(hash);
        }
        match (refused, lost) {
            // Where an answer was lost, the message may have been taken: the caller must not believe the refusal alone.
            (_, Some(error)) => Err(self.unreachable(&error.to_string())),
            (Some(message), None) => Err(ChainError::NotAccepted {
                exit_code: exit_code(&message),
                reason: message,
            }),
            (None, None) => Err(self.unreachable("no server")),
        }
    }

    fn remember(&self, hash: Digest) {
        let mut sent = self
            .inner
            .sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !sent.contains(&hash) {
            sent.push_back(hash);
            while sent.len() > MAX_REMEMBERED {
                sent.pop_front();
            }
        }
    }

    fn is_remembered(&self, hash: &Digest) -> bool {
        self.inner
            .sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(hash)
    }
}

/// The hash of what is an external message of a size that the network takes.
fn check(boc: &[u8]) -> Result<Digest, ChainError> {
    let bad = |reason: String| ChainError::BadMessage { reason };
    if boc.len() > MAX_EXTERNAL_BYTES {
        return Err(bad(format!(
            "{} bytes, at most {MAX_EXTERNAL_BYTES}",
            boc.len()
        )));
    }
    let cell = Boc::decode(boc).map_err(|error| bad(error.to_string()))?;
    let message = cell
        .parse::<OwnedMessage>()
        .map_err(|error| bad(error.to_string()))?;
    match message.info {
        MsgInfo::ExtIn(_) => Ok(digest(cell.repr_hash())),
        _ => Err(bad("not an external message".to_owned())),
    }
}

/// The contract's exit code where a server's text names one: `exitcode=33` by the TON repository's servers.
fn exit_code(text: &str) -> Option<i32> {
    let text = text.to_ascii_lowercase();
    let after = ["exitcode=", "exit code "]
        .iter()
        .find_map(|mark| text.split_once(mark).map(|(_, after)| after))?;
    let end = after
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *at == 0 && *c == '-'))
        .map_or(after.len(), |(at, _)| at);
    after.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_read_out_of_servers_texts() {
        for (text, code) in [
            (
                "cannot apply external message to current state : External message was not accepted\nCannot run message on account: inbound external message rejected by transaction 0A: exitcode=33, steps=21",
                Some(33),
            ),
            ("not accepted (exit code 106)", Some(106)),
            ("Exit code -14", Some(-14)),
            ("exitcode=", None),
            ("too many messages", None),
        ] {
            assert_eq!(exit_code(text), code, "{text}");
        }
    }

    #[test]
    fn no_bytes_make_the_check_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = check(bytes);
            let _ = exit_code(&String::from_utf8_lossy(bytes));
        });
    }
}
