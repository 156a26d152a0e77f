//! Connections: ADNL frames in, ADNL frames out, one task for each query.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use adnl::AdnlPeer;
use futures::{SinkExt, StreamExt};
use tl_proto::{TlRead, TlWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use ton_liteapi::tl::request::{LiteQuery, Request, WaitMasterchainSeqno};
use ton_liteapi::tl::response::{Error as TlError, Response};

use super::answer::{Desk, Refusal, code};
use super::{Shared, locked};

/// Largest query in bytes: an external message of full size fits.
pub const MAX_QUERY_BYTES: usize = 128 * 1024;
/// Queries of one connection that are worked on at once; the next frame is read when one of them is done.
pub const MAX_QUERIES_IN_FLIGHT: usize = 64;
/// Longest wait for a block in milliseconds (`waitMasterchainSeqno`).
pub const MAX_WAIT_MS: u32 = 30_000;
/// A connection that says nothing for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// A handshake takes no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// TL tags, in the order of their bytes on the wire.
mod tag {
    pub(super) const QUERY: [u8; 4] = [0x7a, 0xf9, 0x8b, 0xb4];
    pub(super) const ANSWER: [u8; 4] = [0x16, 0x84, 0xac, 0x0f];
    pub(super) const PING: [u8; 4] = [0x9a, 0x2b, 0x08, 0x4d];
    pub(super) const PONG: [u8; 4] = [0x03, 0xfb, 0x69, 0xdc];
    /// `tcp.authentificate nonce:bytes`, the first thing that the official client says.
    pub(super) const AUTHENTICATE: [u8; 4] = [0x12, 0xab, 0x5b, 0x44];
    /// `tcp.authentificationNonce nonce:bytes`, the answer.
    pub(super) const NONCE: [u8; 4] = [0xb6, 0x4a, 0x5d, 0xe3];
    /// `liteServer.partialBlockProof`, the answer to `getBlockProof`.
    pub(super) const BLOCK_PROOF: [u8; 4] = [0xc1, 0xd2, 0xd0, 0x8e];
    /// `liteServer.signatureSet`, in answers to `getBlockProof`.
    pub(super) const SIGNATURE_SET: [u8; 4] = [0xe6, 0xa6, 0x44, 0xf6];
    /// What no client knows.
    pub(super) const UNKNOWN: [u8; 4] = [0xc0, 0xc0, 0x0c, 0x0c];
}

pub(super) async fn accept(listener: TcpListener, shared: Weak<Shared>) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Too many open files, most likely: others have to end first.
                tracing::warn!(%error, "liteserver cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let Ok(place) = shared.connections.clone().try_acquire_owned() else {
            tracing::debug!("too many connections, one closed");
            continue;
        };
        tokio::spawn(async move {
            let place = Arc::new(place);
            let mut faults = shared.faults.subscribe();
            tokio::select! {
                () = session(socket, &shared, &place) => {}
                _ = faults.wait_for(|faults| faults.down) => {}
            }
            // In this order: when all places are free, nobody holds the chain.
            drop(shared);
            drop(place);
        });
    }
}

async fn session(socket: TcpStream, shared: &Arc<Shared>, place: &Arc<OwnedSemaphorePermit>) {
    // Small answers are waited for.
    let _ = socket.set_nodelay(true);
    let handshake = AdnlPeer::handle_handshake(socket, |_| Some(shared.key));
    let Ok(Ok(mut peer)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await else {
        return;
    };
    let in_flight = Arc::new(Semaphore::new(MAX_QUERIES_IN_FLIGHT));
    let (answers, mut ready) = mpsc::channel::<Vec<u8>>(MAX_QUERIES_IN_FLIGHT);
    loop {
        tokio::select! {
            Some(answer) = ready.recv() => {
                if peer.send(answer.into()).await.is_err() {
                    return;
                }
            }
            frame = tokio::time::timeout(IDLE_TIMEOUT, peer.next()), if in_flight.available_permits() > 0 => {
                let Ok(Some(Ok(frame))) = frame else { return };
                if frame.len() > MAX_QUERY_BYTES {
                    return;
                }
                match read(&frame) {
                    Frame::Query { id, query } => {
                        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
                        let (shared, place, answers) = (shared.clone(), place.clone(), answers.clone());
                        let query = query.to_vec();
                        tokio::spawn(async move {
                            if let Some(answer) = work(&shared, query).await {
                                let _ = answers.send(envelope(id, &answer)).await;
                            }
                            drop(permit);
                            drop(shared);
                            drop(place);
                        });
                    }
                    Frame::Reply(reply) => {
                        if peer.send(reply.into()).await.is_err() {
                            return;
                        }
                    }
                    Frame::Other => {}
                }
            }
        }
    }
}

enum Frame<'a> {
    Query {
        id: [u8; 32],
        query: &'a [u8],
    },
    /// Something that is answered at once.
    Reply(Vec<u8>),
    /// Something that needs no answer, or that nobody understands.
    Other,
}

fn read(frame: &[u8]) -> Frame<'_> {
    let Some((tag, rest)) = frame.split_first_chunk::<4>() else {
        return Frame::Other;
    };
    match *tag {
        tag::QUERY => {
            let Some((id, rest)) = rest.split_first_chunk::<32>() else {
                return Frame::Other;
            };
            match <&[u8]>::read_from(rest, &mut 0) {
                Ok(query) => Frame::Query { id: *id, query },
                Err(_) => Frame::Other,
            }
        }
        tag::PING => {
            let Some(random) = rest.first_chunk::<8>() else {
                return Frame::Other;
            };
            Frame::Reply([tag::PONG.as_slice(), random].concat())
        }
        // Everybody may ask here, so the client's signature over this is not looked at.
        tag::AUTHENTICATE => {
            let mut reply = tag::NONCE.to_vec();
            [5u8; 32].as_slice().write_to(&mut reply);
            Frame::Reply(reply)
        }
        _ => Frame::Other,
    }
}

/// `adnl.message.answer`.
fn envelope(id: [u8; 32], answer: &[u8]) -> Vec<u8> {
    let mut message = tag::ANSWER.to_vec();
    message.extend_from_slice(&id);
    answer.write_to(&mut message);
    message
}

/// The answer to a query, or the error in its place, as TL. `None` where the server went down before it.
async fn work(shared: &Arc<Shared>, query: Vec<u8>) -> Option<Vec<u8>> {
    let delay = shared.faults.borrow().delay_ms;
    if delay > 0 {
        unless_down(shared, tokio::time::sleep(Duration::from_millis(delay))).await?;
    }
    let answered = match tl_proto::deserialize::<LiteQuery>(&query) {
        Ok(query) => {
            let query = query.wrapped_request;
            let waited = match &query.wait_masterchain_seqno {
                Some(wait) => unless_down(shared, reached(shared, wait)).await?,
                None => Ok(()),
            };
            match waited {
                Ok(()) => answer(shared, query.request).await,
                Err(refusal) => Err(refusal),
            }
        }
        Err(error) => Err(Refusal::new(
            code::PROTOCOL,
            format!("cannot read the query: {error}"),
        )),
    };
    let mut bytes = answered.unwrap_or_else(|refusal| {
        tracing::debug!(code = refusal.code, reason = %refusal.message, "liteserver query refused");
        tl_proto::serialize(Response::Error(TlError {
            code: refusal.code,
            message: refusal.message.as_str().into(),
        }))
    });
    if bytes.starts_with(&tag::BLOCK_PROOF) && shared.faults.borrow().unknown_signatures {
        disguise(&mut bytes);
    }
    Some(bytes)
}

/// Something that takes time, given up when the server goes down.
async fn unless_down<T>(shared: &Arc<Shared>, wait: impl Future<Output = T>) -> Option<T> {
    let mut faults = shared.faults.subscribe();
    tokio::select! {
        done = wait => Some(done),
        _ = faults.wait_for(|faults| faults.down) => None,
    }
}

/// Waits for a block as long as the client wants to.
async fn reached(shared: &Arc<Shared>, wait: &WaitMasterchainSeqno) -> Result<(), Refusal> {
    let mut heads = shared.chain.devnet().watch_head();
    let patience = Duration::from_millis(wait.timeout_ms.min(MAX_WAIT_MS).into());
    let seqno = wait.seqno;
    let made = heads.wait_for(|head| *head >= seqno);
    match tokio::time::timeout(patience, made).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Refusal::new(
            code::TIMEOUT,
            format!("block {seqno} was not made in time"),
        )),
    }
}

/// Replaces the tags of signature sets.
fn disguise(bytes: &mut [u8]) {
    let places: Vec<usize> = bytes
        .windows(4)
        .enumerate()
        .filter(|(_, window)| *window == tag::SIGNATURE_SET)
        .map(|(at, _)| at)
        .collect();
    for at in places {
        if let Some(place) = bytes.get_mut(at..at.saturating_add(4)) {
            place.copy_from_slice(&tag::UNKNOWN);
        }
    }
}

/// Proofs and get methods take a while, and the chain is behind a lock: off the threads that serve sockets.
async fn answer(shared: &Arc<Shared>, request: Request) -> Result<Vec<u8>, Refusal> {
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || {
        let faults = *shared.faults.borrow();
        let mut forks = locked(&shared.forks);
        let mut devnet = shared.chain.devnet();
        Desk {
            devnet: &mut devnet,
            faults,
            forks: &mut forks,
        }
        .answer(&request)
    })
    .await
    .unwrap_or_else(|error| Err(Refusal::new(code::INTERNAL, error.to_string())))
}

/// Reads a frame, for the test of strange bytes.
#[cfg(test)]
pub(super) fn fuzz(frame: &[u8]) {
    let _ = read(frame);
}
