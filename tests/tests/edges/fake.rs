//! A worker made by hand: the real swarm, the real codecs, evidence under the simulated root, and
//! whatever manners a test wants of it. The client is told nothing; it finds it as any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cocoon::net::limits::NetLimits;
use cocoon::net::{NetConfig, spawn};
use cocoon_actors::clock;
use cocoon_actors::port::{
    Judgement, Question, SessionStream, SwarmCommand, SwarmCommands, SwarmNotice, SwarmNotices,
    Topic,
};
use cocoon_protocol::evidence::{Beacon, Claims, EvidenceBundle, EvidenceReply};
use cocoon_protocol::negotiation::{Offer, QuoteReply, QuoteRequest, Refusal};
use cocoon_protocol::session::EnclaveSecrets;
use cocoon_protocol::{Advert, Digest, Keypair, ModelTerms, NanoTon, PeerId, Price, TonAddress};
use cocoon_settlement::chain::Chain;
use ed25519_dalek::SigningKey;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::mesh::{Mesh, network};

/// Between two adverts, as workers do.
const ADVERT_INTERVAL: Duration = Duration::from_secs(3);
/// Until the first advert has found somebody who listens.
const FIRST_ADVERT: Duration = Duration::from_millis(200);
const HOUR_MS: u64 = 3_600_000;

/// What the worker is, before anybody asks.
pub(crate) struct Identity {
    pub(crate) key: Keypair,
    pub(crate) secrets: EnclaveSecrets,
    pub(crate) receipt_key: SigningKey,
    pub(crate) terms: ModelTerms,
    pub(crate) payout: TonAddress,
}

impl Identity {
    /// A new one, that serves a model under this name.
    pub(crate) fn serving(model: &str, digest: Digest) -> Self {
        Self {
            key: Keypair::generate_ed25519(),
            secrets: EnclaveSecrets::generate(&mut StdRng::from_os_rng()),
            receipt_key: SigningKey::from_bytes(&rand::random()),
            terms: ModelTerms {
                id: model.to_owned(),
                digest,
                context_tokens: 2048,
                price: Price {
                    input: NanoTon::from_nano(1),
                    output: NanoTon::from_nano(10),
                },
            },
            payout: TonAddress {
                workchain: 0,
                hash: rand::random(),
            },
        }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.key.public().to_peer_id()
    }

    /// True claims, as of now.
    pub(crate) async fn claims(&self, mesh: &Mesh) -> Claims {
        let head = mesh.chain.head().await.unwrap();
        Claims {
            noise_key: *self.secrets.noise_key(),
            mlkem_key: self.secrets.mlkem_key().to_vec(),
            receipt_key: self.receipt_key.verifying_key().to_bytes(),
            peer: self.peer(),
            model: self.terms.digest,
            config: Digest::sha256(b"a configuration"),
            gpu_evidence: Digest::ZERO,
            canary: Digest::ZERO,
            beacon: Beacon {
                seqno: head.seqno,
                hash: head.hash,
            },
            epoch: clock::now().millis() / HOUR_MS,
        }
    }

    /// The offer that answers a request as it should be answered.
    pub(crate) fn offer(&self, request: &QuoteRequest, client: PeerId, evidence: Digest) -> Offer {
        Offer {
            id: request.offer_request,
            worker: self.peer(),
            client,
            model: request.model.clone(),
            model_digest: request.model_digest,
            price: self.terms.price,
            credit_window: NanoTon::from_nano(1_000_000),
            expected_wait_ms: 0,
            expires: clock::now().saturating_add(30_000),
            evidence,
            max_prompt_tokens: request.max_prompt_tokens,
            max_output_tokens: request.max_output_tokens,
            payout: self.payout,
        }
    }
}

/// How it answers a request for a quote: the bytes, or nothing at all.
pub(crate) type Quote =
    Box<dyn Fn(&Identity, &QuoteRequest, PeerId, Digest) -> Option<Vec<u8>> + Send + Sync>;
/// What it does with a session.
pub(crate) type Serve =
    Box<dyn Fn(Arc<Identity>, PeerId, SessionStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// How it behaves.
pub(crate) struct Manners {
    /// What it shows as its evidence.
    pub(crate) bundle: EvidenceBundle,
    /// What it answers instead, whatever it is asked for.
    pub(crate) evidence_bytes: Option<Vec<u8>>,
    /// A last touch to its advert.
    pub(crate) advert: fn(&mut Advert),
    pub(crate) quote: Quote,
    pub(crate) serve: Serve,
}

impl Manners {
    /// Shows this evidence and has never a free slot.
    pub(crate) fn showing(bundle: EvidenceBundle) -> Self {
        Self {
            bundle,
            evidence_bytes: None,
            advert: |_| {},
            quote: Box::new(|_, _, _, _| Some(QuoteReply::Refused(Refusal::NoFreeSlot).encode())),
            serve: Box::new(|_, _, _| Box::pin(async {})),
        }
    }
}

/// What it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) evidence: AtomicUsize,
    pub(crate) offers: AtomicUsize,
    pub(crate) sessions: AtomicUsize,
}

/// See the module's doc.
pub(crate) struct Fake {
    pub(crate) peer: PeerId,
    pub(crate) deeds: Arc<Deeds>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Joins the mesh through its bootstrap node.
    pub(crate) fn join(mesh: &Mesh, identity: Identity, manners: Manners) -> Self {
        let config = NetConfig {
            bootstrap: vec![mesh.bootstrap_address().parse().unwrap()],
            // It need not know the others; there are many of them in one process.
            limits: NetLimits {
                wanted_peers: 1,
                ..NetLimits::default()
            },
            ..NetConfig::new(
                identity.key.clone(),
                network(),
                vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            )
        };
        let (commands, notices, _) = spawn(config, &mut Registry::default()).unwrap();
        let deeds = Arc::new(Deeds::default());
        Self {
            peer: identity.peer(),
            task: tokio::spawn(live(
                Arc::new(identity),
                manners,
                commands,
                notices,
                Arc::clone(&deeds),
            )),
            deeds,
        }
    }
}

async fn live(
    identity: Arc<Identity>,
    manners: Manners,
    commands: SwarmCommands,
    mut notices: SwarmNotices,
    deeds: Arc<Deeds>,
) {
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                let published = publish(&identity, &manners, &commands).await;
                next = Instant::now() + if published { ADVERT_INTERVAL } else { FIRST_ADVERT };
            }
            notice = notices.recv() => {
                let Some(notice) = notice else { return };
                take(&identity, &manners, &commands, &deeds, notice).await;
            }
        }
    }
}

/// False if nobody listens yet.
async fn publish(identity: &Identity, manners: &Manners, commands: &SwarmCommands) -> bool {
    let now = clock::now();
    let mut advert = Advert {
        peer: identity.peer(),
        sequence: now.millis(),
        issued: now,
        lifetime_ms: 30_000,
        models: vec![identity.terms.clone()],
        slots: 4,
        evidence: manners.bundle.claims.digest(),
        evidence_expires: now.saturating_add(HOUR_MS),
        payout: identity.payout,
        ledger: identity.payout,
        tcb_expires: cocoon_protocol::UnixMillis::default(),
    };
    (manners.advert)(&mut advert);
    let (reply, published) = oneshot::channel();
    let advert = advert.sign(&identity.key).unwrap();
    let _ = commands
        .send(SwarmCommand::Publish {
            topic: Topic::Adverts,
            bytes: advert,
            reply,
        })
        .await;
    matches!(published.await, Ok(Ok(())))
}

async fn take(
    identity: &Arc<Identity>,
    manners: &Manners,
    commands: &SwarmCommands,
    deeds: &Deeds,
    notice: SwarmNotice,
) {
    match notice {
        SwarmNotice::Gossip { message, relay, .. } => {
            let judge = SwarmCommand::Judge {
                message,
                relay,
                judgement: Judgement::Accept,
            };
            let _ = commands.send(judge).await;
        }
        SwarmNotice::Asked {
            peer,
            question,
            request,
            reply,
        } => {
            let answer = match question {
                Question::Evidence => {
                    deeds.evidence.fetch_add(1, Ordering::SeqCst);
                    let bundle = || EvidenceReply::Bundle(manners.bundle.clone()).encode();
                    Some(manners.evidence_bytes.clone().unwrap_or_else(bundle))
                }
                // Anything else on this protocol is a decline, which is answered with no bytes.
                Question::Offer => match QuoteRequest::decode(&request) {
                    Ok(request) => {
                        deeds.offers.fetch_add(1, Ordering::SeqCst);
                        let evidence = manners.bundle.claims.digest();
                        (manners.quote)(identity, &request, peer, evidence)
                    }
                    Err(_) => Some(Vec::new()),
                },
                // It has no keys, no log and no collateral but what is in its bundle.
                Question::Vault | Question::Log | Question::Collateral | Question::Release => None,
            };
            if let Some(answer) = answer {
                let _ = reply.send(answer);
            }
        }
        SwarmNotice::Session { peer, stream } => {
            deeds.sessions.fetch_add(1, Ordering::SeqCst);
            tokio::spawn((manners.serve)(Arc::clone(identity), peer, stream));
        }
        _ => {}
    }
}
