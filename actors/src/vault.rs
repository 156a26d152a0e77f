//! A vault's task: hands requests for keys to the state machine, and does what it says.
//!
//! A task, not an actor: its only input is one bounded queue, and nobody asks it anything else. The
//! keys are here and nowhere below; the decisions are in [`cocoon_attestation::vault`].

use crate::ask::{Address, AskError, ask};
use crate::attestor::{beacon, binding};
use crate::clock;
use crate::collateral::CollateralKeeper;
use crate::job::HANDSHAKE_LIMIT;
use crate::job::pipe::{Pipe, PipeError, Received};
use crate::mesh::{AskPeer, Mesh, OpenSession};
use crate::port::{PortError, Question};
use cocoon_attestation::vault::{Ask, Finding, Input, Output, Record, Vault, VaultConfig};
use cocoon_attestation::{Admission, Expectation};
use cocoon_protocol::evidence::{Beacon, Claims, EvidenceReply, EvidenceRequest};
use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::vault::{ContentKey, KeyRelease, Nonce, VaultRequest};
use cocoon_settlement::chain::Chain;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, error, warn};

/// Requests waiting for the vault; one more is refused.
pub const MAX_WAITING_ASKS: usize = 64;

/// A peer's request.
#[derive(Debug)]
pub struct VaultAsked {
    /// Who, as libp2p authenticated it.
    pub peer: PeerId,
    /// The encoded request.
    pub request: Vec<u8>,
    /// Where the encoded reply goes; dropping it refuses.
    pub reply: oneshot::Sender<Vec<u8>>,
}

/// The owner's log. What it has taken must be on the disk when it returns.
pub trait RecordLog: Send {
    /// Appends a record.
    ///
    /// # Errors
    /// If it is not on the disk; then no key is released.
    fn append(&mut self, record: &Record) -> std::io::Result<()>;
}

/// What a vault works with.
pub struct VaultParts {
    /// To reach guests.
    pub mesh: Address<Mesh>,
    /// Knows the beacons.
    pub chain: Arc<dyn Chain>,
    /// The owner's policy.
    pub admission: Admission,
    /// What quotes are judged by, where guests do not bring it.
    pub collateral: Arc<CollateralKeeper>,
    /// Sessions are bound to it.
    pub trust_domain: Digest,
    /// How patient it is. The models it holds are those of `keys`.
    pub config: VaultConfig,
    /// Content keys, by the digest of the plain weights.
    pub keys: BTreeMap<Digest, ContentKey>,
    /// Where releases and refusals are recorded.
    pub log: Box<dyn RecordLog>,
}

/// What examinations and deliveries are done with.
#[derive(Clone)]
struct Tools {
    mesh: Address<Mesh>,
    chain: Arc<dyn Chain>,
    admission: Arc<Mutex<Admission>>,
    collateral: Arc<CollateralKeeper>,
    trust_domain: Digest,
}

/// Serves until the sender of requests is gone.
pub async fn serve(parts: VaultParts, mut asked: mpsc::Receiver<VaultAsked>) {
    let mut task = Task {
        machine: Vault::new(VaultConfig {
            models: parts.keys.keys().copied().collect(),
            ..parts.config
        }),
        tools: Tools {
            mesh: parts.mesh,
            chain: parts.chain,
            admission: Arc::new(Mutex::new(parts.admission)),
            collateral: parts.collateral,
            trust_domain: parts.trust_domain,
        },
        keys: parts.keys,
        log: Arc::new(Mutex::new(parts.log)),
        replies: BTreeMap::new(),
        under_way: FuturesUnordered::new(),
        asks: 0,
        rng: StdRng::from_os_rng(),
    };
    loop {
        let input = tokio::select! {
            request = asked.recv() => match request {
                Some(request) => task.enter(request),
                None => return,
            },
            Some(input) = task.under_way.next(), if !task.under_way.is_empty() => Some(input),
        };
        if let Some(input) = input {
            task.take(input).await;
        }
    }
}

struct Task {
    machine: Vault,
    tools: Tools,
    keys: BTreeMap<Digest, ContentKey>,
    log: Arc<Mutex<Box<dyn RecordLog>>>,
    /// Bounded by the machine's open claims: everything else is answered at once.
    replies: BTreeMap<Ask, oneshot::Sender<Vec<u8>>>,
    under_way: FuturesUnordered<BoxFuture<'static, Input>>,
    asks: u64,
    rng: StdRng,
}

impl Task {
    /// A request as the machine's input; bytes that are none are refused by dropping their slot.
    fn enter(&mut self, asked: VaultAsked) -> Option<Input> {
        let peer = asked.peer;
        let request = match VaultRequest::decode(&asked.request) {
            Ok(request) => request,
            Err(error) => {
                debug!(%peer, %error, "no request for a key");
                return None;
            }
        };
        self.asks = self.asks.saturating_add(1);
        let ask = Ask(self.asks);
        // Who no longer waits has a claim that nobody answers any more.
        self.replies.retain(|_, reply| !reply.is_closed());
        self.replies.insert(ask, asked.reply);
        Some(match request {
            VaultRequest::Hello { model } => {
                let mut bytes = [0; 32];
                self.rng.fill_bytes(&mut bytes);
                Input::Hello {
                    ask,
                    peer,
                    model,
                    nonce: Nonce::from_bytes(bytes),
                }
            }
            VaultRequest::Claim {
                nonce,
                model,
                evidence,
            } => Input::Claim {
                ask,
                peer,
                nonce,
                model,
                evidence,
            },
        })
    }

    async fn take(&mut self, input: Input) {
        let mut recorded = true;
        for output in self.machine.handle(clock::now(), input) {
            match output {
                Output::Record(entry) => {
                    recorded = record(Arc::clone(&self.log), *entry).await;
                }
                Output::Reply { ask, reply } => {
                    if let Some(slot) = self.replies.remove(&ask) {
                        let _ = slot.send(reply.encode());
                    }
                }
                Output::Examine {
                    ask,
                    peer,
                    model,
                    evidence,
                } => {
                    let tools = self.tools.clone();
                    self.under_way.push(Box::pin(async move {
                        let finding = examine(tools, peer, model, evidence).await;
                        Input::Judged { ask, finding }
                    }));
                }
                Output::Release { ask, nonce, claims } => {
                    let key = self.keys.get(&claims.model).cloned();
                    let tools = self.tools.clone();
                    self.under_way.push(Box::pin(async move {
                        let (true, Some(key)) = (recorded, key) else {
                            return Input::Unrecorded { ask };
                        };
                        match deliver(tools, nonce, *claims, key).await {
                            Ok(()) => Input::Delivered { ask },
                            Err(error) => Input::Lost {
                                ask,
                                reason: error.to_string(),
                            },
                        }
                    }));
                }
            }
        }
    }
}

/// Whether a record is on the owner's disk.
async fn record(log: Arc<Mutex<Box<dyn RecordLog>>>, record: Record) -> bool {
    // The disk may take a moment.
    let written = tokio::task::spawn_blocking(move || {
        log.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&record)
    });
    match written.await.map_err(std::io::Error::other) {
        Ok(Ok(())) => true,
        Ok(Err(error)) | Err(error) => {
            error!(%error, "the log of releases cannot be written; no key is released");
            false
        }
    }
}

/// Fetches a guest's evidence and has it judged by the owner's policy.
async fn examine(tools: Tools, peer: PeerId, model: Digest, evidence: Digest) -> Finding {
    match fetch(&tools, peer, model, evidence).await {
        Ok(finding) => finding,
        Err(reason) => Finding::NoEvidence(reason),
    }
}

async fn fetch(
    tools: &Tools,
    peer: PeerId,
    model: Digest,
    evidence: Digest,
) -> Result<Finding, String> {
    let question = AskPeer {
        peer,
        question: Question::Evidence,
        request: EvidenceRequest { evidence }.encode(),
    };
    let reply = ask(&tools.mesh, question)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let mut bundle = match EvidenceReply::decode(&reply).map_err(|error| error.to_string())? {
        EvidenceReply::Bundle(bundle) => bundle,
        EvidenceReply::NotFound => return Err("the guest does not know it".to_owned()),
    };
    tools
        .collateral
        .complete(clock::now(), &mut bundle, Some(peer))
        .await;
    let recent_beacons: Vec<Beacon> = beacon(tools.chain.as_ref(), bundle.claims.beacon.seqno)
        .await
        .map_err(|error| format!("the beacon could not be looked up: {error}"))?
        .into_iter()
        .collect();
    let (admission, collateral) = (Arc::clone(&tools.admission), Arc::clone(&tools.collateral));
    tokio::task::spawn_blocking(move || {
        let expectation = Expectation {
            evaluation_floor: collateral.floor(&bundle.quote),
            ..Expectation::new(peer, model, evidence, &recent_beacons)
        };
        let admitted = admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(clock::now(), &peer, &bundle, &expectation);
        match admitted {
            Err(error) => Finding::NotExamined(error.to_string()),
            Ok(verdict) => {
                if let Err(error) = collateral.learn(&bundle, &verdict) {
                    warn!(%error, "collateral not stored");
                }
                Finding::Verdict(Box::new(verdict))
            }
        }
    })
    .await
    .map_err(|error| error.to_string())
}

/// Why a key was not handed over.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Pipe(#[from] PipeError),
    #[error("the guest answered where it should have ended")]
    NoEnd,
    #[error("the guest did not confirm it in time")]
    Slow,
}

/// Opens a session to the attested keys, sends the key, and waits for the guest's end.
async fn deliver(
    tools: Tools,
    nonce: Nonce,
    claims: Claims,
    key: ContentKey,
) -> Result<(), DeliverError> {
    let stream = ask(&tools.mesh, OpenSession(claims.peer)).await??;
    let conversation = async {
        let mut rng = StdRng::from_os_rng();
        let mut pipe = Pipe::connect(
            stream,
            &binding(tools.trust_domain, &claims),
            &claims.noise_key,
            &claims.mlkem_key,
            &mut rng,
        )
        .await?;
        let release = KeyRelease {
            nonce,
            model: claims.model,
            key,
        };
        pipe.send(&release.encode()).await?;
        pipe.finish().await?;
        match pipe.receive().await? {
            Received::Fin => Ok(()),
            Received::Frame(_) => Err(DeliverError::NoEnd),
        }
    };
    timeout(HANDSHAKE_LIMIT, conversation)
        .await
        .unwrap_or(Err(DeliverError::Slow))
}
