//! The devnet, reached over its HTTP interface.

use std::time::Duration;

use async_trait::async_trait;
use cocoon_protocol::{Digest, NanoTon, TonAddress};
use serde::{Serialize, de::DeserializeOwned};

use super::wire::{self, Envelope};
use super::{
    AccountState, BlockRef, Chain, ChainError, MethodResult, Prices, StackItem, Supply,
    TransactionSummary,
};

/// A whole exchange may take this long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Tries of a call that may be repeated, in all.
const MAX_ATTEMPTS: u32 = 4;
/// Before the second attempt; doubles after each.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Answers are larger than requests: a page of transactions, an account's data.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Client of `cocoon devnet`. Cheap to clone; keeps connections open.
#[derive(Clone, Debug)]
pub struct DevnetClient {
    http: reqwest::Client,
    base: String,
}

/// Why an attempt failed, and whether another one may be made.
enum Attempt {
    /// The request did not leave this machine whole.
    NotSent(String),
    /// It may have arrived; only a call without effect may be made again.
    Unknown(String),
}

impl DevnetClient {
    /// `base` is what `cocoon devnet` prints, such as `http://127.0.0.1:8547`.
    pub fn new(base: &str) -> Result<Self, ChainError> {
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // The devnet is on loopback; a proxy from the environment would not find it.
            .no_proxy()
            .build()
            .map_err(|error| ChainError::Unreachable {
                endpoint: base.to_owned(),
                attempts: 0,
                reason: error.to_string(),
            })?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
        })
    }

    /// Whether blocks are being made, with the newest one. Devnet only.
    pub async fn info(&self) -> Result<wire::Head, ChainError> {
        self.get(wire::PATH_HEAD, &()).await
    }

    /// Makes `blocks` blocks now, the chain's clock first jumping ahead by `seconds`. Devnet only.
    pub async fn advance(&self, blocks: u32, seconds: u32) -> Result<BlockRef, ChainError> {
        self.post(
            wire::PATH_ADVANCE,
            &wire::AdvanceRequest { blocks, seconds },
            false,
        )
        .await
    }

    /// Stops making blocks on a timer. Devnet only.
    pub async fn pause(&self) -> Result<wire::Head, ChainError> {
        self.post(wire::PATH_PAUSE, &(), true).await
    }

    /// Makes blocks on a timer again. Devnet only.
    pub async fn resume(&self) -> Result<wire::Head, ChainError> {
        self.post(wire::PATH_RESUME, &(), true).await
    }

    /// Coins from the faucet, in a block made for them. Returns the faucet's transaction. Devnet only.
    pub async fn give(
        &self,
        address: TonAddress,
        nanoton: NanoTon,
    ) -> Result<TransactionSummary, ChainError> {
        self.post(
            wire::PATH_FAUCET,
            &wire::GiftRequest { address, nanoton },
            false,
        )
        .await
    }

    /// Makes a key block now. Devnet only.
    pub async fn key_block(&self, new_validators: bool) -> Result<BlockRef, ChainError> {
        self.post(
            wire::PATH_KEY_BLOCK,
            &wire::KeyBlockRequest { new_validators },
            false,
        )
        .await
    }

    /// Tells a liteserver (`None`: all of them) what to do wrong. Devnet only.
    pub async fn set_faults(
        &self,
        server: Option<usize>,
        faults: crate::devnet::Faults,
    ) -> Result<wire::FaultsAnswer, ChainError> {
        self.post(
            wire::PATH_FAULT,
            &wire::FaultRequest { server, faults },
            true,
        )
        .await
    }

    /// Where all coins are. Devnet only.
    pub async fn supply(&self) -> Result<Supply, ChainError> {
        self.get(wire::PATH_SUPPLY, &()).await
    }

    async fn get<Q: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Q,
    ) -> Result<T, ChainError> {
        self.call(path, true, || {
            self.http.get(format!("{}{path}", self.base)).query(query)
        })
        .await
    }

    async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        repeatable: bool,
    ) -> Result<T, ChainError> {
        self.call(path, repeatable, || {
            self.http.post(format!("{}{path}", self.base)).json(body)
        })
        .await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        repeatable: bool,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<T, ChainError> {
        let mut backoff = FIRST_BACKOFF;
        let mut attempts = 0u32;
        loop {
            attempts = attempts.saturating_add(1);
            let reason = match exchange(request()).await {
                Ok(bytes) => return self.read(path, &bytes),
                Err(Attempt::NotSent(reason)) if attempts < MAX_ATTEMPTS => reason,
                Err(Attempt::Unknown(reason)) if repeatable && attempts < MAX_ATTEMPTS => reason,
                Err(Attempt::NotSent(reason) | Attempt::Unknown(reason)) => {
                    return Err(ChainError::Unreachable {
                        endpoint: self.base.clone(),
                        attempts,
                        reason,
                    });
                }
            };
            tracing::debug!(path, attempts, reason, "devnet call failed, trying again");
            tokio::time::sleep(backoff).await;
            backoff = backoff.saturating_mul(2);
        }
    }

    fn read<T: DeserializeOwned>(&self, path: &str, bytes: &[u8]) -> Result<T, ChainError> {
        let bad = |reason: String| ChainError::BadAnswer {
            endpoint: format!("{}{path}", self.base),
            reason,
        };
        let envelope: Envelope<T> =
            serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        match (envelope.ok, envelope.result, envelope.error) {
            (true, Some(result), _) => Ok(result),
            (false, _, Some(error)) => Err(error.into()),
            _ => Err(bad("neither a result nor an error".to_owned())),
        }
    }
}

/// One request and its whole answer.
async fn exchange(request: reqwest::RequestBuilder) -> Result<Vec<u8>, Attempt> {
    let mut response = request.send().await.map_err(|error| {
        if error.is_connect() || error.is_builder() {
            Attempt::NotSent(error.to_string())
        } else {
            Attempt::Unknown(error.to_string())
        }
    })?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Attempt::Unknown(error.to_string()))?
    {
        if bytes.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES {
            return Err(Attempt::Unknown(format!(
                "answer larger than {MAX_ANSWER_BYTES} bytes"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[async_trait]
impl Chain for DevnetClient {
    async fn global_id(&self) -> Result<i32, ChainError> {
        Ok(self.info().await?.global_id)
    }

    async fn head(&self) -> Result<BlockRef, ChainError> {
        Ok(self.info().await?.last)
    }

    async fn block(&self, seqno: u32) -> Result<BlockRef, ChainError> {
        self.get(wire::PATH_BLOCK, &wire::BlockQuery { seqno })
            .await
    }

    async fn account(&self, address: TonAddress) -> Result<Option<AccountState>, ChainError> {
        let answer: wire::AccountAnswer = self
            .get(wire::PATH_ACCOUNT, &wire::AccountQuery { address })
            .await?;
        Ok(answer.account)
    }

    async fn send_external(&self, boc: &[u8]) -> Result<Digest, ChainError> {
        // Sent again after it was included, a message would be refused as a replay; so only what surely did not
        // arrive is repeated.
        let answer: wire::SendAnswer = self
            .post(
                wire::PATH_SEND,
                &wire::SendRequest { boc: boc.to_vec() },
                false,
            )
            .await?;
        Ok(answer.hash)
    }

    async fn get_method(
        &self,
        address: TonAddress,
        method: &str,
        args: &[StackItem],
    ) -> Result<MethodResult, ChainError> {
        let request = wire::MethodRequest {
            address,
            method: method.to_owned(),
            stack: args.to_vec(),
        };
        self.post(wire::PATH_METHOD, &request, true).await
    }

    async fn transactions(
        &self,
        address: TonAddress,
        after_lt: u64,
        limit: u16,
    ) -> Result<Vec<TransactionSummary>, ChainError> {
        self.get(
            wire::PATH_TRANSACTIONS,
            &wire::TransactionsQuery {
                address,
                after_lt,
                limit: Some(limit),
            },
        )
        .await
    }

    async fn prices(&self) -> Result<Prices, ChainError> {
        self.get(wire::PATH_PRICES, &()).await
    }
}
