//! Inbound sessions, until each has proved its keys and sent a job.

use super::{Job, WorkerParts};
use crate::ask::ask;
use crate::attestor::{Enclave, Enclaves, binding};
use crate::clock;
use crate::job::HANDSHAKE_LIMIT;
use crate::job::chat::Scopes;
use crate::job::pipe::{Pipe, PipeError, Received};
use crate::port::SessionStream;
use cocoon_protocol::PeerId;
use cocoon_protocol::job::{ClientFrame, JobRequest};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{Instrument, debug, info_span, warn};

/// Takes inbound sessions, `limit` at once, until the sender is gone.
pub async fn serve(
    parts: WorkerParts,
    mut sessions: mpsc::Receiver<(PeerId, SessionStream)>,
    limit: usize,
) {
    let slots = Arc::new(tokio::sync::Semaphore::new(limit));
    let scopes = Arc::new(Scopes::draw());
    while let Some((client, stream)) = sessions.recv().await {
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            warn!(%client, limit, "session refused: too many run");
            continue;
        };
        let (parts, scopes) = (parts.clone(), Arc::clone(&scopes));
        tokio::spawn(async move {
            let _slot = slot;
            session(parts, scopes, client, stream).await;
        });
    }
}

async fn session(parts: WorkerParts, scopes: Arc<Scopes>, client: PeerId, stream: SessionStream) {
    let greeted = timeout(HANDSHAKE_LIMIT, greet(&parts, stream)).await;
    match greeted {
        Err(_) => debug!(%client, "session: no job within the limit"),
        Ok(Err(error)) => debug!(%client, %error, "session: refused"),
        Ok(Ok((pipe, enclave, request))) => {
            let span = info_span!("job", job = %request.job, side = "worker", %client);
            let job = Job {
                parts,
                scopes,
                client,
                pipe,
                enclave,
                request,
                started: clock::now(),
            };
            job.run().instrument(span).await;
        }
    }
}

/// Why a session ended before it had a job.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error(transparent)]
    Pipe(#[from] PipeError),
    #[error(transparent)]
    Wire(#[from] cocoon_protocol::WireError),
    #[error(transparent)]
    Ask(#[from] crate::ask::AskError),
    #[error("the first frame is no job")]
    NoJob,
}

async fn greet(
    parts: &WorkerParts,
    stream: SessionStream,
) -> Result<(Pipe, Arc<Enclave>, JobRequest), GreetError> {
    let (trust_domain, enclaves) = ask(&parts.attestor, Enclaves).await?;
    let keys: Vec<_> = enclaves
        .iter()
        .map(|enclave| {
            (
                &enclave.secrets,
                binding(trust_domain, &enclave.bundle.claims),
            )
        })
        .collect();
    let mut rng = StdRng::from_os_rng();
    let (mut pipe, index) = Pipe::accept(stream, &keys, &mut rng).await?;
    let enclave = enclaves.get(index).cloned().ok_or(GreetError::NoJob)?;
    let Received::Frame(frame) = pipe.receive().await? else {
        return Err(GreetError::NoJob);
    };
    match ClientFrame::decode(&frame)? {
        ClientFrame::Job(request) => Ok((pipe, enclave, request)),
        _ => Err(GreetError::NoJob),
    }
}
