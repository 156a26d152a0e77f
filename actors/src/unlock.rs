//! A guest with a sealed model, before it has the key: it shows evidence, asks its vault, and does
//! nothing else.
//!
//! The guest cannot read its weights yet, so it claims the digest that the sealed file's header names.
//! The vault believes that claim no more than any other: the guest opens the weights with the key, and
//! stops if they are not those of the digest. Until then no advert goes out, no offer is made and no
//! session is accepted but the vault's.
//!
//! One task between two ends of the swarm's port, without any of the actors: they are started when
//! there is a model to serve. What the swarm says of connections meanwhile is kept for them.

use crate::attestor::{Enclave, binding};
use crate::clock;
use crate::job::HANDSHAKE_LIMIT;
use crate::job::pipe::{Pipe, PipeError, Received};
use crate::port::{
    Judgement, PortError, Question, SessionStream, SwarmCommand, SwarmCommands, SwarmNotice,
    SwarmNotices,
};
use cocoon_attestation::{EvidenceError, EvidenceSource};
use cocoon_protocol::WireError;
use cocoon_protocol::evidence::{Beacon, Claims, EvidenceReply, EvidenceRequest};
use cocoon_protocol::ids::{Digest, Keypair, PeerId};
use cocoon_protocol::session::EnclaveSecrets;
use cocoon_protocol::units::UnixMillis;
use cocoon_protocol::vault::{
    ContentKey, KeyRelease, Nonce, VaultRefusal, VaultReply, VaultRequest,
};
use cocoon_settlement::chain::{Chain, ChainError};
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// Pause before the vault is asked again, when nothing is known of how long to wait.
pub const RETRY: Duration = Duration::from_secs(5);
/// Evidence that is still shown: this epoch's and the one before.
const KEPT_ENCLAVES: usize = 2;
/// Addresses that the swarm listens at and that are kept for the actors.
const MAX_LISTENING: usize = 64;
const EPOCH_MS: u64 = 3_600_000;

/// What a guest is that wants a key.
pub struct Unlock {
    /// Its libp2p identity.
    pub key: Keypair,
    /// Where quotes come from.
    pub source: Arc<dyn EvidenceSource>,
    /// Where beacons come from.
    pub chain: Arc<dyn Chain>,
    /// Digest of the plain weights, from the sealed file's header.
    pub model: Digest,
    /// Digest of the guest's configuration.
    pub config: Digest,
    /// Whom to ask.
    pub vault: PeerId,
    /// Sessions are bound to it.
    pub trust_domain: Digest,
}

/// Why there is no key now. All but the end of the swarm are tried again.
#[derive(Debug, thiserror::Error)]
enum UnlockError {
    #[error("no evidence: {0}")]
    Evidence(#[from] EvidenceError),
    #[error("no beacon: {0}")]
    Chain(#[from] ChainError),
    #[error("making evidence failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
    #[error("the vault was not reached: {0}")]
    Port(#[from] PortError),
    #[error("the vault's answer: {0}")]
    Wire(#[from] WireError),
    #[error("the vault answered something else than was asked")]
    OutOfTurn,
    #[error("the vault refuses: {}{}", .reason.label(), with_factor(.factor))]
    Refused {
        reason: VaultRefusal,
        factor: String,
        again_after: Duration,
    },
    #[error("the swarm has ended")]
    SwarmEnded,
}

fn with_factor(factor: &str) -> String {
    if factor.is_empty() {
        return String::new();
    }
    format!(" ({factor})")
}

/// What the swarm said that the actors will want to know.
#[derive(Debug, Default)]
pub struct Missed {
    connected: BTreeSet<PeerId>,
    listening: BTreeSet<String>,
}

impl Missed {
    /// As the swarm would say it now.
    #[must_use]
    pub fn into_notices(self) -> Vec<SwarmNotice> {
        let listening = self.listening.into_iter();
        let connected = self.connected.into_iter();
        listening
            .map(|address| SwarmNotice::Listening { address })
            .chain(connected.map(|peer| SwarmNotice::Connected { peer }))
            .collect()
    }
}

/// The guest in front of its vault.
pub struct Waiting {
    shared: Arc<Shared>,
    commands: SwarmCommands,
    missed: Missed,
}

/// What the asking half and the answering half both look at.
struct Shared {
    unlock: Unlock,
    /// Newest first.
    enclaves: Mutex<Vec<Arc<Enclave>>>,
    /// Of the claim that is under way: what a key must come with.
    nonce: Mutex<Option<Nonce>>,
}

impl Waiting {
    /// A guest that has asked nobody yet.
    #[must_use]
    pub fn new(unlock: Unlock, commands: SwarmCommands) -> Self {
        Self {
            shared: Arc::new(Shared {
                unlock,
                enclaves: Mutex::new(Vec::new()),
                nonce: Mutex::new(None),
            }),
            commands,
            missed: Missed::default(),
        }
    }

    /// Asks until there is a key; `None` when the swarm has ended.
    pub async fn key(&mut self, notices: &mut SwarmNotices) -> Option<ContentKey> {
        let (found, mut keys) = mpsc::channel(1);
        let asking = ask_on(Arc::clone(&self.shared), self.commands.clone());
        tokio::select! {
            never = asking => match never {},
            key = keys.recv() => key,
            () = self.answer(notices, Some(found)) => None,
        }
    }

    /// Keeps the swarm going while something else is done, and returns with it.
    pub async fn hold<T>(
        &mut self,
        notices: &mut SwarmNotices,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.answer(notices, None) => None,
        }
    }

    /// What the actors missed.
    #[must_use]
    pub fn into_missed(self) -> Missed {
        self.missed
    }

    /// Answers the swarm until it ends. Without `found` no session is taken.
    async fn answer(
        &mut self,
        notices: &mut SwarmNotices,
        found: Option<mpsc::Sender<ContentKey>>,
    ) {
        let mut sessions = JoinSet::new();
        while let Some(notice) = notices.recv().await {
            while sessions.try_join_next().is_some() {}
            match notice {
                // Not ours to judge yet: neither forwarded nor held against anybody.
                SwarmNotice::Gossip { message, relay, .. } => {
                    let judge = SwarmCommand::Judge {
                        message,
                        relay,
                        judgement: Judgement::Ignore,
                    };
                    let _ = self.commands.try_send(judge);
                }
                SwarmNotice::Asked {
                    question: Question::Evidence,
                    request,
                    reply,
                    ..
                } => {
                    if let Some(answer) = self.shared.evidence(&request) {
                        let _ = reply.send(answer);
                    }
                }
                // Dropping the slot refuses: no offers, and no keys to give.
                SwarmNotice::Asked { .. } | SwarmNotice::RoundTrip { .. } => {}
                SwarmNotice::Session { peer, stream } => match &found {
                    // One at a time: the vault has no reason for two.
                    Some(found) if peer == self.shared.unlock.vault && sessions.is_empty() => {
                        let (shared, found) = (Arc::clone(&self.shared), found.clone());
                        sessions.spawn(async move { shared.session(stream, found).await });
                    }
                    _ => debug!(%peer, "session refused: there is no model yet"),
                },
                SwarmNotice::Connected { peer } => {
                    self.missed.connected.insert(peer);
                }
                SwarmNotice::Disconnected { peer } => {
                    self.missed.connected.remove(&peer);
                }
                SwarmNotice::Listening { address } => {
                    info!(%address, "listening");
                    if self.missed.listening.len() < MAX_LISTENING {
                        self.missed.listening.insert(address);
                    }
                }
            }
        }
    }
}

/// Asks again and again. A key arrives elsewhere.
async fn ask_on(shared: Arc<Shared>, commands: SwarmCommands) -> Infallible {
    let (vault, model) = (shared.unlock.vault, shared.unlock.model);
    info!(%vault, %model, "the model is sealed: asking its owner's vault for the key");
    loop {
        let pause = match shared.ask_once(&commands).await {
            // The session has carried it, or is about to.
            Ok(()) => RETRY,
            Err(error) => {
                warn!(%error, "no key yet; asking again");
                match error {
                    UnlockError::Refused { again_after, .. } => again_after.max(RETRY),
                    _ => RETRY,
                }
            }
        };
        sleep(pause).await;
    }
}

impl Shared {
    async fn ask_once(&self, commands: &SwarmCommands) -> Result<(), UnlockError> {
        let evidence = self.enclave().await?.evidence();
        let model = self.unlock.model;
        let hello = VaultRequest::Hello { model };
        let nonce = match self.question(commands, hello).await? {
            VaultReply::Nonce { nonce, .. } => nonce,
            other => return Err(refusal(other)),
        };
        *lock(&self.nonce) = Some(nonce);
        let claim = VaultRequest::Claim {
            nonce,
            model,
            evidence,
        };
        match self.question(commands, claim).await? {
            VaultReply::Released => Ok(()),
            other => Err(refusal(other)),
        }
    }

    async fn question(
        &self,
        commands: &SwarmCommands,
        request: VaultRequest,
    ) -> Result<VaultReply, UnlockError> {
        let (reply, answer) = oneshot::channel();
        let command = SwarmCommand::Ask {
            peer: self.unlock.vault,
            question: Question::Vault,
            request: request.encode(),
            reply,
        };
        let ended = |_| UnlockError::SwarmEnded;
        commands
            .send(command)
            .await
            .map_err(|_| UnlockError::SwarmEnded)?;
        Ok(VaultReply::decode(&answer.await.map_err(ended)??)?)
    }

    /// This hour's enclave; a new one where there is none.
    async fn enclave(&self) -> Result<Arc<Enclave>, UnlockError> {
        let now = clock::now();
        let epoch = now.millis() / EPOCH_MS;
        let current = lock(&self.enclaves).first().cloned();
        if let Some(enclave) = current.filter(|one| one.bundle.claims.epoch == epoch) {
            return Ok(enclave);
        }
        let enclave = Arc::new(self.unlock.enter(now, epoch).await?);
        let mut enclaves = lock(&self.enclaves);
        enclaves.insert(0, Arc::clone(&enclave));
        enclaves.truncate(KEPT_ENCLAVES);
        Ok(enclave)
    }

    /// The answer to a request for our evidence; `None` if the bytes are no request.
    fn evidence(&self, request: &[u8]) -> Option<Vec<u8>> {
        let request = EvidenceRequest::decode(request).ok()?;
        let enclaves = lock(&self.enclaves);
        let found = enclaves
            .iter()
            .find(|enclave| enclave.evidence() == request.evidence);
        let reply = found.map_or(EvidenceReply::NotFound, |enclave| {
            EvidenceReply::Bundle(enclave.bundle.clone())
        });
        Some(reply.encode())
    }

    async fn session(&self, stream: SessionStream, found: mpsc::Sender<ContentKey>) {
        match timeout(HANDSHAKE_LIMIT, self.receive(stream)).await {
            Ok(Ok(key)) => {
                info!("the vault has released the key");
                let _ = found.send(key).await;
            }
            Ok(Err(error)) => warn!(%error, "the vault's session brought no key"),
            Err(_) => warn!("the vault's session brought no key in time"),
        }
    }

    async fn receive(&self, stream: SessionStream) -> Result<ContentKey, SessionFailed> {
        let enclaves = lock(&self.enclaves).clone();
        let keys: Vec<_> = enclaves
            .iter()
            .map(|enclave| {
                let binding = binding(self.unlock.trust_domain, &enclave.bundle.claims);
                (&enclave.secrets, binding)
            })
            .collect();
        let mut rng = StdRng::from_os_rng();
        let (mut pipe, _) = Pipe::accept(stream, &keys, &mut rng).await?;
        let Received::Frame(frame) = pipe.receive().await? else {
            return Err(SessionFailed::NoKey);
        };
        let release = KeyRelease::decode(frame)?;
        let asked = *lock(&self.nonce);
        if asked != Some(release.nonce) || release.model != self.unlock.model {
            return Err(SessionFailed::NotAsked);
        }
        // The vault takes our end as the sign that the key has arrived.
        pipe.finish().await?;
        Ok(release.key)
    }
}

/// Why a session brought no key.
#[derive(Debug, thiserror::Error)]
enum SessionFailed {
    #[error(transparent)]
    Pipe(#[from] PipeError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("it ended without one")]
    NoKey,
    #[error("it is for another request or another model than ours")]
    NotAsked,
}

impl Unlock {
    /// New keys, and a quote that binds them. What only a loaded model could say is zero.
    async fn enter(&self, now: UnixMillis, epoch: u64) -> Result<Enclave, UnlockError> {
        let head = self.chain.head().await?;
        let mut rng = StdRng::from_os_rng();
        let secrets = EnclaveSecrets::generate(&mut rng);
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let receipt_key = SigningKey::from_bytes(&seed);
        let claims = Claims {
            noise_key: *secrets.noise_key(),
            mlkem_key: secrets.mlkem_key().to_vec(),
            receipt_key: receipt_key.verifying_key().to_bytes(),
            peer: self.key.public().to_peer_id(),
            model: self.model,
            config: self.config,
            gpu_evidence: Digest::ZERO,
            canary: Digest::ZERO,
            beacon: Beacon {
                seqno: head.seqno,
                hash: head.hash,
            },
            epoch,
        };
        let source = Arc::clone(&self.source);
        // A quote takes tens of milliseconds of a guest's time.
        let bundle = tokio::task::spawn_blocking(move || source.make(now, &claims)).await??;
        Ok(Enclave {
            secrets,
            receipt_key,
            bundle,
            valid_until: UnixMillis::from_millis(epoch.saturating_add(1).saturating_mul(EPOCH_MS)),
        })
    }
}

fn refusal(reply: VaultReply) -> UnlockError {
    match reply {
        VaultReply::Refused {
            reason,
            factor,
            again_after_ms,
        } => UnlockError::Refused {
            reason,
            // A stranger's text: names of factors are plain words.
            factor: factor
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect(),
            again_after: Duration::from_millis(again_after_ms.into()),
        },
        VaultReply::Nonce { .. } | VaultReply::Released => UnlockError::OutOfTurn,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
