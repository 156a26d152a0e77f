//! One liteserver: a connection that is made when it is needed, many questions at once on it, and what is held against
//! the server.
//!
//! A task owns the connection and hands answers to whoever asked, so a question that is given up leaves the connection
//! as it is: ADNL's ciphers count every byte, and a frame that was half read could never be resumed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adnl::AdnlPeer;
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::global_config::ServerAddress;
use super::wire::{self, Request};
use super::{LiteError, LiteSettings};

/// Questions that wait for one server at a time.
const MAX_WAITING: usize = 64;
/// A connection on which so many questions in a row ran out of time is made anew.
const TIMEOUTS_BEFORE_RECONNECT: u32 = 2;

/// What a server is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Where it is.
    pub address: String,
    /// The newest block that it named.
    pub seqno: Option<u32>,
    /// How long its last answer took.
    pub latency_ms: Option<u64>,
    /// Why it is asked only when no other is left; `None` while nothing is held against it.
    pub demoted: Option<LiteError>,
}

#[derive(Debug, Default)]
struct Record {
    seqno: Option<u32>,
    latency_ms: Option<u64>,
    demoted: Option<(LiteError, Instant)>,
}

struct Question {
    id: [u8; 32],
    frame: Vec<u8>,
    answer: oneshot::Sender<Result<Vec<u8>, LiteError>>,
}

pub(super) struct Server {
    at: ServerAddress,
    link: tokio::sync::Mutex<Option<mpsc::Sender<Question>>>,
    timeouts: AtomicU32,
    record: Mutex<Record>,
}

impl Server {
    pub(super) fn new(at: ServerAddress) -> Self {
        Self {
            at,
            link: tokio::sync::Mutex::new(None),
            timeouts: AtomicU32::new(0),
            record: Mutex::new(Record::default()),
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> ServerState {
        let record = self.record();
        ServerState {
            address: self.at.address.to_string(),
            seqno: record.seqno,
            latency_ms: record.latency_ms,
            demoted: record
                .demoted
                .as_ref()
                .filter(|(_, until)| *until > Instant::now())
                .map(|(why, _)| why.clone()),
        }
    }

    pub(super) fn is_demoted(&self) -> bool {
        self.record()
            .demoted
            .as_ref()
            .is_some_and(|(_, until)| *until > Instant::now())
    }

    pub(super) fn named(&self, seqno: u32) {
        self.record().seqno = Some(seqno);
    }

    /// Holds something against the server, for as long as it weighs.
    pub(super) fn demote(&self, why: LiteError, settings: &LiteSettings) {
        let long = if why.is_wrong() {
            settings.wrong_answer_pause
        } else {
            settings.late_answer_pause
        };
        tracing::debug!(server = %self.at.address, %why, "liteserver demoted");
        self.record().demoted = Some((why, after(long)));
    }

    pub(super) fn forgive(&self) {
        self.record().demoted = None;
    }

    /// Asks, and waits `patience` for the answer's bytes.
    pub(super) async fn ask(
        &self,
        request: &Request<'_>,
        patience: Duration,
        settings: &LiteSettings,
    ) -> Result<Vec<u8>, LiteError> {
        let started = Instant::now();
        let waiting = async {
            let link = self.link(settings).await?;
            let mut id = [0; 32];
            getrandom::fill(&mut id).map_err(|error| LiteError::Connection {
                reason: error.to_string(),
            })?;
            let (answer, answered) = oneshot::channel();
            let frame = wire::query(&id, &request.encode());
            link.try_send(Question { id, frame, answer })
                .map_err(|error| match error {
                    mpsc::error::TrySendError::Full(_) => LiteError::Busy {
                        waiting: MAX_WAITING,
                    },
                    mpsc::error::TrySendError::Closed(_) => ended("it was closed"),
                })?;
            answered.await.map_err(|_| ended("it was closed"))?
        };
        match tokio::time::timeout(patience, waiting).await {
            Ok(answer) => {
                if answer.is_ok() {
                    self.timeouts.store(0, Ordering::Relaxed);
                    let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.record().latency_ms = Some(took);
                }
                answer
            }
            Err(_) => {
                let before = self.timeouts.fetch_add(1, Ordering::Relaxed);
                if before.saturating_add(1) >= TIMEOUTS_BEFORE_RECONNECT {
                    self.timeouts.store(0, Ordering::Relaxed);
                    // Dropping the sender ends the task once its questions are answered or given up.
                    if let Ok(mut link) = self.link.try_lock() {
                        *link = None;
                    }
                }
                Err(LiteError::Timeout {
                    what: request.name(),
                    waited_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
                })
            }
        }
    }

    async fn link(&self, settings: &LiteSettings) -> Result<mpsc::Sender<Question>, LiteError> {
        let mut link = self.link.lock().await;
        if let Some(open) = link.as_ref()
            && !open.is_closed()
        {
            return Ok(open.clone());
        }
        *link = None;
        let peer = tokio::time::timeout(
            settings.connect_timeout,
            AdnlPeer::connect(self.at.key, self.at.address),
        )
        .await
        .map_err(|_| ended("no handshake in time"))?
        .map_err(|error| ended(&error.to_string()))?;
        let (questions, received) = mpsc::channel(MAX_WAITING);
        tokio::spawn(converse(peer, received, settings.query_timeout));
        *link = Some(questions.clone());
        Ok(questions)
    }
}

/// As far in the future as the clock can say.
fn after(long: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(long).unwrap_or(now)
}

fn ended(reason: &str) -> LiteError {
    LiteError::Connection {
        reason: reason.to_owned(),
    }
}

/// Carries questions out and answers back until either side is gone.
async fn converse(
    mut peer: AdnlPeer<TcpStream>,
    mut questions: mpsc::Receiver<Question>,
    write_timeout: Duration,
) {
    let mut waiting: HashMap<[u8; 32], oneshot::Sender<_>> = HashMap::new();
    let why = loop {
        tokio::select! {
            question = questions.recv() => {
                let Some(Question { id, frame, answer }) = question else {
                    break "nobody asks any more".to_owned();
                };
                waiting.retain(|_, answer: &mut oneshot::Sender<_>| !answer.is_closed());
                if waiting.len() >= MAX_WAITING {
                    let _ = answer.send(Err(LiteError::Busy { waiting: waiting.len() }));
                    continue;
                }
                waiting.insert(id, answer);
                match tokio::time::timeout(write_timeout, peer.send(frame.into())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => break error.to_string(),
                    Err(_) => break "it takes no more bytes".to_owned(),
                }
            }
            frame = peer.next() => match frame {
                Some(Ok(bytes)) => {
                    if let Some((id, answer)) = wire::answer(&bytes)
                        && let Some(asked) = waiting.remove(&id)
                    {
                        let _ = asked.send(Ok(answer.to_vec()));
                    }
                }
                Some(Err(error)) => break error.to_string(),
                None => break "the server closed it".to_owned(),
            }
        }
    };
    for (_, answer) in waiting {
        let _ = answer.send(Err(ended(&why)));
    }
}
