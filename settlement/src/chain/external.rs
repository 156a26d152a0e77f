//! External messages: what is one, what servers say when they refuse it, and which were taken.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cocoon_protocol::Digest;
use tycho_types::boc::Boc;
use tycho_types::models::{MsgInfo, OwnedMessage};

use super::ChainError;
use crate::contract::encoding::digest;
use crate::devnet::MAX_EXTERNAL_BYTES;

/// Messages that are remembered as taken.
const MAX_REMEMBERED: usize = 1024;

/// Hashes of the last messages that a server has taken. A message that was taken before may be sent again without harm:
/// the contract refuses it if it was applied, and to whoever sent it that is no failure.
#[derive(Default)]
pub(super) struct Taken(Mutex<VecDeque<Digest>>);

impl Taken {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, hash: Digest) {
        let mut taken = self.lock();
        if !taken.contains(&hash) {
            taken.push_back(hash);
            while taken.len() > MAX_REMEMBERED {
                taken.pop_front();
            }
        }
    }

    pub(super) fn contains(&self, hash: &Digest) -> bool {
        self.lock().contains(hash)
    }
}

/// The hash of what is an external message of a size that the network takes.
pub(super) fn check(boc: &[u8]) -> Result<Digest, ChainError> {
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
pub(super) fn exit_code(text: &str) -> Option<i32> {
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
