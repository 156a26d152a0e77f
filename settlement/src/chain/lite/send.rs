//! External messages: handed to several servers, and the same message only ever once in effect.

use cocoon_protocol::Digest;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::wire::{self, Request};
use super::{LiteChain, LiteError};
use crate::chain::ChainError;
use crate::chain::external::{check, exit_code};

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
                    self.inner.taken.note(hash);
                    return Ok(hash);
                }
                Err(LiteError::Refused { message, .. }) => refused = Some(message),
                Err(error) => lost = Some(error),
            }
        }
        if self.inner.taken.contains(&hash) {
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
}
