//! Questions to the library, with a limit of time and tries, and what its failures mean.

use tonlib_client::client::{TonClientError, TonClientInterface};
use tonlib_client::contract::LoadedSmcState;
use tonlib_client::tl::{TonFunction, TonResult};
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;

use super::TonlibChain;
use crate::chain::ChainError;
use cocoon_protocol::TonAddress;

/// Largest bag of cells in an answer, bytes.
const MAX_BAG_BYTES: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody answered in time.
    Late(String),
    /// A server answered that it will not.
    Refused(String),
    /// What came is not proved, or not what the library's interface promises.
    Wrong(String),
}

impl Fault {
    /// By the library's names of errors (`tonlib/tonlib/TonlibError.h`), which come with texts before and after.
    fn of(message: String) -> Self {
        const LATE: [&str; 6] = [
            "LITE_SERVER_NETWORK",
            "LITE_SERVER_TIMEOUT",
            "LITE_SERVER_NOTREADY",
            "LITE_SERVER_CANCELLED",
            "NO_LITE_SERVERS",
            "CANCELLED",
        ];
        if message.contains("VALIDATE_") {
            Self::Wrong(message)
        } else if LATE.iter().any(|name| message.contains(name)) {
            Self::Late(message)
        } else if message.contains("LITE_SERVER_") {
            Self::Refused(message)
        } else {
            Self::Wrong(message)
        }
    }

    pub(super) fn into_error(self, endpoint: &str, attempts: u32) -> ChainError {
        let endpoint = endpoint.to_owned();
        match self {
            Self::Late(reason) | Self::Refused(reason) => ChainError::Unreachable {
                endpoint,
                attempts,
                reason,
            },
            Self::Wrong(reason) => ChainError::BadAnswer { endpoint, reason },
        }
    }
}

impl From<TonClientError> for Fault {
    fn from(error: TonClientError) -> Self {
        match error {
            TonClientError::TonlibError { message, .. } => Self::of(message),
            other => Self::Wrong(other.to_string()),
        }
    }
}

impl TonlibChain {
    /// One question, asked again within the settings' limits. All of the library's failures may pass: it goes to another
    /// server after one.
    pub(super) async fn ask(&self, function: &TonFunction) -> Result<TonResult, ChainError> {
        self.again(|| self.once(function)).await
    }

    /// One question, asked once.
    pub(super) async fn once(&self, function: &TonFunction) -> Result<TonResult, Fault> {
        self.in_time(self.inner.connection.invoke(function)).await
    }

    /// A contract in the library's memory; dropping it takes it out again.
    pub(super) async fn load(&self, address: TonAddress) -> Result<LoadedSmcState, ChainError> {
        let account = tonlib_core::TonAddress::new(
            i32::from(address.workchain),
            tonlib_core::TonHash::from(address.hash),
        );
        self.again(|| self.in_time(self.inner.connection.smc_load(&account)))
            .await
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, TonClientError>>,
    ) -> Result<T, Fault> {
        let limit = self.inner.settings.answer_timeout;
        let asked = async {
            let _slot = self.inner.slots.acquire().await;
            answer.await
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(answered) => answered.map_err(Fault::from),
            Err(_) => Err(Fault::Late(format!(
                "the library did not answer within {} ms",
                limit.as_millis()
            ))),
        }
    }

    async fn again<T, F>(&self, ask: impl Fn() -> F) -> Result<T, ChainError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let settings = &self.inner.settings;
        let mut backoff = settings.first_backoff;
        let mut round = 0u32;
        loop {
            round = round.saturating_add(1);
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(fault) if round >= settings.rounds => {
                    return Err(fault.into_error(&self.inner.name, round));
                }
                Err(fault) => tracing::debug!(?fault, round, "asking tonlib again"),
            }
            tokio::time::sleep(backoff).await;
            backoff = backoff.saturating_mul(2);
        }
    }

    pub(super) fn bad(&self, reason: &str) -> ChainError {
        ChainError::BadAnswer {
            endpoint: self.inner.name.clone(),
            reason: reason.to_owned(),
        }
    }

    pub(super) fn unexpected(&self, to: &str, answer: &TonResult) -> ChainError {
        let kind: &'static str = answer.into();
        self.bad(&format!("{kind} in answer to {to}"))
    }
}

/// A bag of one cell.
pub(super) fn bag(bytes: &[u8]) -> Result<Cell, String> {
    if bytes.len() > MAX_BAG_BYTES {
        return Err(format!(
            "a bag of {} bytes, at most {MAX_BAG_BYTES}",
            bytes.len()
        ));
    }
    Boc::decode(bytes).map_err(|error| error.to_string())
}

pub(super) fn hash(bytes: &[u8]) -> Result<[u8; 32], String> {
    <[u8; 32]>::try_from(bytes).map_err(|_| format!("a hash of {} bytes", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_their_names() {
        let late = |text: &str| Fault::Late(text.to_owned());
        let refused = |text: &str| Fault::Refused(text.to_owned());
        let wrong = |text: &str| Fault::Wrong(text.to_owned());
        for (text, expected) in [
            (
                "LITE_SERVER_NETWORKtimeout for adnl query query",
                late as fn(&str) -> Fault,
            ),
            ("INTERNAL: get last block failed LITE_SERVER_NETWORK", late),
            ("LITE_SERVER_NOTREADY: block is not in db", late),
            (
                "LITE_SERVER_UNKNOWN: cannot apply external message to current state : exitcode=33",
                refused,
            ),
            (
                "VALIDATE_BLOCK_PROOF(during last block synchronization)",
                wrong,
            ),
            ("INVALID_BAG_OF_CELLS: body", wrong),
        ] {
            assert_eq!(Fault::of(text.to_owned()), expected(text), "{text}");
        }
    }

    #[test]
    fn no_bytes_make_the_readers_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = bag(bytes);
            let _ = hash(bytes);
            let _ = Fault::of(String::from_utf8_lossy(bytes).into_owned());
        });
    }
}
