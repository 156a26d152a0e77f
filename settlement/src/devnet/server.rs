//! The devnet as a service: an HTTP interface on a listener, and a timer that makes blocks.
//!
//! The interface is described in `docs/devnet-api.md`. It has no authentication and is meant for loopback.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Json, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::MissedTickBehavior;

use super::{Devnet, Liteserver, global_config, pages};
use crate::chain::wire::{
    self, AccountAnswer, AccountQuery, AdvanceRequest, BlockQuery, Envelope, Fault, FaultRequest,
    FaultsAnswer, GiftRequest, Head, KeyBlockRequest, MAX_BODY_BYTES, MethodRequest, SendAnswer,
    SendRequest, TransactionsQuery, WireError,
};
use crate::chain::{ChainError, LocalChain};

/// Calls that are worked on at once; the others wait.
const MAX_CONCURRENT_CALLS: usize = 16;
/// Most blocks one call may ask for.
const MAX_BLOCKS_PER_ADVANCE: u32 = 1000;
/// Most liteservers of one devnet.
const MAX_LITESERVERS: usize = 16;
/// Name of the global config, over HTTP and in the directory.
const GLOBAL_CONFIG: &str = "global.config.json";
/// Transactions of a page where the caller does not say.
const DEFAULT_PAGE: u16 = 20;

/// How to run a devnet.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The chain's own directory. Made if missing, continued if not.
    pub directory: PathBuf,
    /// Time between two blocks, empty or not. TON makes one about every 0.4 s since 2026.
    pub block_interval: Duration,
    /// Whether to wait for `resume` or `advance` before the next block.
    pub start_paused: bool,
    /// Where liteservers listen, one for each address; port 0 means any that is free. `GET /global.config.json` names
    /// them, and so does the file of that name in the directory.
    pub liteservers: Vec<SocketAddr>,
}

impl ServeConfig {
    /// The default pace, a block every 400 ms, and one liteserver on a free port of loopback.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            block_interval: Duration::from_millis(400),
            start_paused: false,
            liteservers: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        }
    }
}

#[derive(Clone)]
pub(super) struct Service {
    pub(super) chain: LocalChain,
    pub(super) paused: Arc<AtomicBool>,
    calls: Arc<Semaphore>,
    liteservers: Arc<Vec<Liteserver>>,
}

/// Serves the chain in `config.directory` on `listener` until `shutdown` completes. Returns early only when the chain
/// cannot be opened or written.
pub async fn serve(
    config: ServeConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ChainError> {
    let directory = config.directory.clone();
    let devnet = tokio::task::spawn_blocking(move || Devnet::open(&directory, unix_now()))
        .await
        .map_err(|error| ChainError::Internal {
            reason: error.to_string(),
        })??;
    let head = devnet.head();
    tracing::info!(seqno = head.seqno, hash = %head.hash, "devnet open");
    let chain = LocalChain::new(devnet);
    let liteservers = listen(&chain, &config).await?;
    let service = Service {
        chain,
        liteservers: Arc::new(liteservers),
        paused: Arc::new(AtomicBool::new(config.start_paused)),
        calls: Arc::new(Semaphore::new(MAX_CONCURRENT_CALLS)),
    };

    let (stop, stopped) = oneshot::channel::<()>();
    let http = axum::serve(listener, router(service.clone())).with_graceful_shutdown(async move {
        tokio::select! {
            () = shutdown => {}
            // The block maker failed: stop answering too.
            _ = stopped => {}
        }
    });
    let liteservers = service.liteservers.clone();
    let blocks = make_blocks(service, config.block_interval);
    tokio::pin!(blocks);
    let mut http = std::pin::pin!(http.into_future());
    let ended = tokio::select! {
        result = &mut http => result.map_err(|error| ChainError::Internal { reason: error.to_string() }),
        Err(error) = &mut blocks => {
            drop(stop);
            // Let answers that are being written go out.
            let _ = http.await;
            Err(error)
        }
    };
    for liteserver in liteservers.iter() {
        liteserver.close().await;
    }
    ended
}

/// Starts the liteservers and writes down where they are.
async fn listen(chain: &LocalChain, config: &ServeConfig) -> Result<Vec<Liteserver>, ChainError> {
    if config.liteservers.len() > MAX_LITESERVERS {
        return Err(ChainError::Encoding {
            what: "devnet",
            reason: format!("at most {MAX_LITESERVERS} liteservers"),
        });
    }
    let mut liteservers = Vec::new();
    for (number, address) in (0u32..).zip(&config.liteservers) {
        let liteserver = Liteserver::bind(chain.clone(), *address, number)
            .await
            .map_err(|error| ChainError::Unreachable {
                endpoint: address.to_string(),
                attempts: 1,
                reason: format!("cannot listen there: {error}"),
            })?;
        tracing::info!(address = %liteserver.address(), "liteserver listens");
        liteservers.push(liteserver);
    }
    let text = global_config(&chain.devnet(), &liteservers)?.to_string();
    let path = config.directory.join(GLOBAL_CONFIG);
    tokio::fs::write(&path, text)
        .await
        .map_err(|error| ChainError::Directory {
            directory: config.directory.display().to_string(),
            reason: format!("cannot write {GLOBAL_CONFIG}: {error}"),
        })?;
    Ok(liteservers)
}

/// Makes a block per tick; ends only with an error.
async fn make_blocks(
    service: Service,
    interval: Duration,
) -> Result<std::convert::Infallible, ChainError> {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if service.paused.load(Ordering::Relaxed) {
            continue;
        }
        service
            .work(|devnet| devnet.advance(chain_now(devnet)))
            .await?;
    }
}

/// Seconds since 1970.
fn unix_now() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
        })
}

/// The chain's clock: the machine's, and the jumps it was told to make.
pub(super) fn chain_now(devnet: &Devnet) -> u32 {
    unix_now().saturating_add(devnet.clock_ahead())
}

impl Service {
    /// Runs something on the chain, off the threads that serve sockets.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Devnet) -> Result<T, ChainError> + Send + 'static,
    ) -> Result<T, ChainError> {
        let chain = self.chain.clone();
        tokio::task::spawn_blocking(move || work(&mut chain.devnet()))
            .await
            .map_err(|error| ChainError::Internal {
                reason: error.to_string(),
            })?
    }

    async fn answer<T: Serialize + Send + 'static>(
        &self,
        work: impl FnOnce(&mut Devnet) -> Result<T, ChainError> + Send + 'static,
    ) -> Response {
        let _permit = self.calls.acquire().await;
        match self.work(work).await {
            Ok(result) => Json(Envelope {
                ok: true,
                result: Some(result),
                error: None,
            })
            .into_response(),
            Err(error) => refuse(WireError::from(&error)),
        }
    }

    async fn head(&self) -> Response {
        let paused = self.paused.load(Ordering::Relaxed);
        self.answer(move |devnet| {
            Ok(Head {
                last: devnet.head(),
                global_id: devnet.global_id(),
                paused,
            })
        })
        .await
    }
}

fn refuse(error: WireError) -> Response {
    let status = match error.fault {
        Fault::NotAccepted { .. } | Fault::GetMethod { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Fault::BadMessage | Fault::BadRequest => StatusCode::BAD_REQUEST,
        Fault::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
        Fault::NoSuchBlock { .. } | Fault::NoContract { .. } => StatusCode::NOT_FOUND,
        Fault::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (
        status,
        Json(Envelope::<()> {
            ok: false,
            result: None,
            error: Some(error),
        }),
    )
        .into_response()
}

fn bad_request(message: String) -> Response {
    refuse(WireError {
        fault: Fault::BadRequest,
        message,
    })
}

fn router(service: Service) -> Router {
    Router::new()
        .route(
            wire::PATH_HEAD,
            get(|State(service): State<Service>| async move { service.head().await }),
        )
        .route(wire::PATH_BLOCK, get(block))
        .route(wire::PATH_ACCOUNT, get(account))
        .route(wire::PATH_TRANSACTIONS, get(transactions))
        .route(wire::PATH_SEND, post(send))
        .route(wire::PATH_METHOD, post(method))
        .route(wire::PATH_PRICES, get(prices))
        .route(wire::PATH_SUPPLY, get(supply))
        .route(wire::PATH_ADVANCE, post(advance))
        .route(
            wire::PATH_PAUSE,
            post(|State(service): State<Service>| set_paused(service, true)),
        )
        .route(
            wire::PATH_RESUME,
            post(|State(service): State<Service>| set_paused(service, false)),
        )
        .route("/global.config.json", get(config))
        .route(wire::PATH_FAULT, get(faults).post(set_faults))
        .route(wire::PATH_FAUCET, post(give))
        .route(wire::PATH_KEY_BLOCK, post(key_block))
        .merge(pages::routes())
        .fallback(|| async { bad_request("no such call; see docs/devnet-api.md".to_owned()) })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(service)
}

async fn block(
    State(service): State<Service>,
    query: Result<Query<BlockQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(query)) => {
            service
                .answer(move |devnet| devnet.block(query.seqno))
                .await
        }
        Err(error) => bad_request(error.body_text()),
    }
}

async fn account(
    State(service): State<Service>,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(query)) => {
            service
                .answer(move |devnet| {
                    Ok(AccountAnswer {
                        account: devnet.account(query.address)?,
                    })
                })
                .await
        }
        Err(error) => bad_request(error.body_text()),
    }
}

async fn transactions(
    State(service): State<Service>,
    query: Result<Query<TransactionsQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(query)) => {
            let limit = query.limit.unwrap_or(DEFAULT_PAGE);
            service
                .answer(move |devnet| devnet.transactions(query.address, query.after_lt, limit))
                .await
        }
        Err(error) => bad_request(error.body_text()),
    }
}

async fn send(
    State(service): State<Service>,
    body: Result<Json<SendRequest>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(request)) => {
            service
                .answer(move |devnet| {
                    Ok(SendAnswer {
                        hash: devnet.submit(&request.boc)?,
                    })
                })
                .await
        }
        Err(error) => bad_request(error.body_text()),
    }
}

async fn method(
    State(service): State<Service>,
    body: Result<Json<MethodRequest>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(request)) => {
            service
                .answer(move |devnet| {
                    devnet.get_method(request.address, &request.method, &request.stack)
                })
                .await
        }
        Err(error) => bad_request(error.body_text()),
    }
}

async fn prices(State(service): State<Service>) -> Response {
    service.answer(|devnet| Ok(devnet.prices())).await
}

async fn supply(State(service): State<Service>) -> Response {
    service.answer(|devnet| devnet.supply()).await
}

async fn advance(
    State(service): State<Service>,
    body: Result<Json<AdvanceRequest>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(request)) if request.blocks == 0 || request.blocks > MAX_BLOCKS_PER_ADVANCE => {
            bad_request(format!("blocks must be 1 to {MAX_BLOCKS_PER_ADVANCE}"))
        }
        Ok(Json(request)) => {
            service
                .answer(move |devnet| {
                    devnet.jump(request.seconds);
                    let mut head = devnet.head();
                    for _ in 0..request.blocks {
                        head = devnet.advance(chain_now(devnet))?;
                    }
                    Ok(head)
                })
                .await
        }
        Err(error) => bad_request(error.body_text()),
    }
}

async fn set_paused(service: Service, paused: bool) -> Response {
    service.paused.store(paused, Ordering::Relaxed);
    service.head().await
}

async fn config(State(service): State<Service>) -> Response {
    let liteservers = service.liteservers.clone();
    match service
        .work(move |devnet| global_config(devnet, &liteservers))
        .await
    {
        // As it is: clients read this, not an envelope.
        Ok(config) => Json(config).into_response(),
        Err(error) => refuse(WireError::from(&error)),
    }
}

async fn faults(State(service): State<Service>) -> Response {
    let faults = service.liteservers.iter().map(Liteserver::faults).collect();
    service
        .answer(move |_| {
            Ok(FaultsAnswer {
                liteservers: faults,
            })
        })
        .await
}

async fn set_faults(
    State(service): State<Service>,
    body: Result<Json<FaultRequest>, JsonRejection>,
) -> Response {
    let request = match body {
        Ok(Json(request)) => request,
        Err(error) => return bad_request(error.body_text()),
    };
    match request.server {
        Some(number) => match service.liteservers.get(number) {
            Some(liteserver) => liteserver.set_faults(request.faults),
            None => {
                return bad_request(format!(
                    "there is no liteserver {number}; there are {}",
                    service.liteservers.len()
                ));
            }
        },
        None => {
            for liteserver in service.liteservers.iter() {
                liteserver.set_faults(request.faults);
            }
        }
    }
    faults(State(service)).await
}

async fn give(
    State(service): State<Service>,
    body: Result<Json<GiftRequest>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(request)) => {
            service
                .answer(move |devnet| {
                    let unix = chain_now(devnet);
                    devnet.give(request.address, request.nanoton, unix)
                })
                .await
        }
        Err(error) => bad_request(error.body_text()),
    }
}

async fn key_block(
    State(service): State<Service>,
    body: Result<Json<KeyBlockRequest>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(request)) => {
            service
                .answer(move |devnet| {
                    devnet.request_key_block(request.new_validators);
                    let unix = chain_now(devnet);
                    devnet.advance(unix)
                })
                .await
        }
        Err(error) => bad_request(error.body_text()),
    }
}
