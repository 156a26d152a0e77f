//! A vault and its guests, by their tasks, with channels in the place of sockets: real evidence, real
//! sessions, the owner's policy.

use super::support::chain::TestChain;
use super::support::nodes::keeper;
use super::support::port::Hub;
use super::support::{peer, peer_key, system, until};
use cocoon_actors::clock;
use cocoon_actors::directory::Directory;
use cocoon_actors::mesh::{Inbox, Mesh, pump};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::port::{Question, SwarmCommand, SwarmCommands, SwarmNotice, SwarmNotices};
use cocoon_actors::supervision::supervise;
use cocoon_actors::unlock::{Unlock, Waiting};
use cocoon_actors::vault::{MAX_WAITING_ASKS, RecordLog, VaultParts, serve};
use cocoon_attestation::source::GuestShape;
use cocoon_attestation::vault::{Event, Record, VaultConfig};
use cocoon_attestation::{
    Admission, AdmissionConfig, EvidenceSource as _, SimulatedSource, Trust, Verifier, policy,
};
use cocoon_protocol::directory::DirectoryConfig;
use cocoon_protocol::evidence::{Beacon, Claims, EvidenceBundle};
use cocoon_protocol::session::EnclaveSecrets;
use cocoon_protocol::vault::{ContentKey, Nonce, VaultRefusal, VaultReply, VaultRequest};
use cocoon_protocol::{Digest, PeerId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const VAULT: u8 = 20;
const GUEST: u8 = 21;
const STRANGER: u8 = 22;

fn model() -> Digest {
    Digest::sha256(b"secret weights")
}

fn key() -> ContentKey {
    ContentKey::from_bytes([0x5e; 32])
}

/// A log in memory, on a disk that may be full. It remembers what it did not take too.
#[derive(Clone, Default)]
struct Paper {
    records: Arc<Mutex<Vec<Record>>>,
    full: bool,
}

impl RecordLog for Paper {
    fn append(&mut self, record: &Record) -> std::io::Result<()> {
        self.records.lock().unwrap().push(record.clone());
        if self.full {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Paper {
    fn events(&self) -> Vec<(Event, String)> {
        let records = self.records.lock().unwrap();
        let of = |record: &Record| {
            let why = record.factor.or(record.reason).unwrap_or_default();
            (record.event, why.to_owned())
        };
        records.iter().map(of).collect()
    }
}

fn start_vault(hub: &Hub, chain: &TestChain, paper: Paper) {
    let (commands, notices) = hub.join(peer(VAULT));
    let metrics = Metrics::new();
    let mesh = supervise(Mesh::new(commands, metrics.clone()));
    let directory = supervise(Directory::new(DirectoryConfig::default(), None, metrics));
    let (asked, requests) = mpsc::channel(MAX_WAITING_ASKS);
    let verifier = Verifier::new(Trust::Simulated, policy::simulated::policy()).unwrap();
    tokio::spawn(pump(
        notices,
        Inbox {
            mesh: mesh.clone(),
            directory,
            attestor: None,
            negotiator: None,
            log: None,
            collateral: None,
            sessions: None,
            cashier: None,
            vault: Some(asked),
        },
    ));
    tokio::spawn(serve(
        VaultParts {
            collateral: keeper(&mesh),
            mesh,
            chain: chain.shared(),
            admission: Admission::new(verifier, AdmissionConfig::default()),
            trust_domain: Trust::Simulated.trust_domain(),
            config: VaultConfig::new(Trust::Simulated, [].into()),
            keys: BTreeMap::from([(model(), key())]),
            log: Box::new(paper),
        },
        requests,
    ));
}

fn guest(hub: &Hub, chain: &TestChain, shape: Option<GuestShape>) -> (Waiting, SwarmNotices) {
    let (commands, notices) = hub.join(peer(GUEST));
    let source = SimulatedSource::new(&[GUEST; 8]).unwrap();
    let unlock = Unlock {
        key: peer_key(GUEST),
        source: Arc::new(match shape {
            Some(shape) => source.shaped(shape),
            None => source,
        }),
        chain: chain.shared(),
        model: model(),
        config: Digest::sha256(b"a configuration"),
        vault: peer(VAULT),
        trust_domain: Trust::Simulated.trust_domain(),
    };
    (Waiting::new(unlock, commands), notices)
}

/// What a guest in order shows.
async fn evidence(chain: &TestChain) -> EvidenceBundle {
    let secrets = EnclaveSecrets::generate(&mut StdRng::from_os_rng());
    let head = chain.shared().head().await.unwrap();
    let claims = Claims {
        noise_key: *secrets.noise_key(),
        mlkem_key: secrets.mlkem_key().to_vec(),
        receipt_key: super::support::key(GUEST).verifying_key().to_bytes(),
        peer: peer(GUEST),
        model: model(),
        config: Digest::sha256(b"a configuration"),
        gpu_evidence: Digest::ZERO,
        canary: Digest::ZERO,
        beacon: Beacon {
            seqno: head.seqno,
            hash: head.hash,
        },
        epoch: clock::now().millis() / 3_600_000,
    };
    let source = SimulatedSource::new(&[GUEST; 8]).unwrap();
    source.make(clock::now(), &claims).unwrap()
}

/// A guest that asks until the test ends.
fn asking(mut waiting: Waiting, mut notices: SwarmNotices) -> JoinHandle<Option<ContentKey>> {
    tokio::spawn(async move { waiting.key(&mut notices).await })
}

async fn question(commands: &SwarmCommands, request: VaultRequest) -> VaultReply {
    let (reply, answer) = oneshot::channel();
    let command = SwarmCommand::Ask {
        peer: peer(VAULT),
        question: Question::Vault,
        request: request.encode(),
        reply,
    };
    assert!(commands.send(command).await.is_ok());
    VaultReply::decode(&answer.await.unwrap().unwrap()).unwrap()
}

#[track_caller]
fn refused(reply: &VaultReply, wanted: VaultRefusal) {
    assert!(
        matches!(reply, VaultReply::Refused { reason, .. } if *reason == wanted),
        "{reply:?}"
    );
}

#[test]
fn a_guest_in_order_gets_the_key_inside_of_the_session() {
    system(async {
        let (hub, chain, paper) = (Hub::default(), TestChain::new(&[]).await, Paper::default());
        start_vault(&hub, &chain, paper.clone());
        let (mut waiting, mut notices) = guest(&hub, &chain, None);
        assert_eq!(waiting.key(&mut notices).await, Some(key()));
        let done = [
            (Event::Released, String::new()),
            (Event::Delivered, String::new()),
        ];
        until("the vault knows", || paper.events() == done).await;
        // While the weights are read the swarm is served, and nobody gets a session.
        let work = async {
            let (commands, _) = hub.join(peer(STRANGER));
            let (reply, opened) = oneshot::channel();
            let command = SwarmCommand::OpenSession {
                peer: peer(GUEST),
                reply,
            };
            assert!(commands.send(command).await.is_ok());
            let mut stream = opened.await.unwrap().unwrap();
            let mut rest = Vec::new();
            let _ = futures::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
            rest
        };
        assert_eq!(waiting.hold(&mut notices, work).await, Some(vec![]));
    });
}

#[test]
fn a_guest_of_another_measurement_gets_nothing_and_the_owner_reads_why() {
    system(async {
        let (hub, chain, paper) = (Hub::default(), TestChain::new(&[]).await, Paper::default());
        start_vault(&hub, &chain, paper.clone());
        let (waiting, notices) = guest(&hub, &chain, Some(|report| report.mr_td = [7; 48]));
        let asking = asking(waiting, notices);
        until("a refusal", || !paper.events().is_empty()).await;
        assert_eq!(paper.events()[0], (Event::Refused, "mrtd".to_owned()));
        assert!(!asking.is_finished());
        asking.abort();
    });
}

#[test]
fn a_stranger_with_a_guests_evidence_gets_nothing() {
    system(async {
        let (hub, chain, paper) = (Hub::default(), TestChain::new(&[]).await, Paper::default());
        start_vault(&hub, &chain, paper.clone());
        let (commands, mut notices) = hub.join(peer(STRANGER));
        // It shows what a guest in order would show, with a quote of its own machine.
        let shown = evidence(&chain).await;
        let digest = shown.claims.digest();
        tokio::spawn(async move {
            while let Some(notice) = notices.recv().await {
                if let SwarmNotice::Asked { reply, .. } = notice {
                    let bundle = cocoon_protocol::EvidenceReply::Bundle(shown.clone());
                    let _ = reply.send(bundle.encode());
                }
            }
        });
        let hello = question(&commands, VaultRequest::Hello { model: model() }).await;
        let VaultReply::Nonce { nonce, .. } = hello else {
            panic!("{hello:?}");
        };
        let claim = VaultRequest::Claim {
            nonce,
            model: model(),
            evidence: digest,
        };
        refused(&question(&commands, claim).await, VaultRefusal::Evidence);
        // The same request again, word for word.
        refused(&question(&commands, claim).await, VaultRefusal::Nonce);
        // And at once with a new one.
        let hello = question(&commands, VaultRequest::Hello { model: model() }).await;
        refused(&hello, VaultRefusal::TooSoon);
        let unknown = VaultRequest::Hello {
            model: Digest::ZERO,
        };
        refused(
            &question(&commands, unknown).await,
            VaultRefusal::UnknownModel,
        );
        let told: Vec<_> = paper.events().into_iter().map(|(_, why)| why).collect();
        assert_eq!(
            told,
            ["peer_id", "nonce_replayed", "too_soon", "unknown_model"]
        );
    });
}

#[test]
fn a_vault_that_cannot_write_its_log_releases_nothing() {
    system(async {
        let (hub, chain) = (Hub::default(), TestChain::new(&[]).await);
        let paper = Paper {
            full: true,
            ..Paper::default()
        };
        start_vault(&hub, &chain, paper.clone());
        let (waiting, notices) = guest(&hub, &chain, None);
        let asking = asking(waiting, notices);
        let tried = [
            (Event::Released, String::new()),
            (Event::NotDelivered, "cannot_record".to_owned()),
        ];
        until("an attempt has failed", || paper.events() == tried).await;
        assert!(!asking.is_finished());
        asking.abort();
    });
}

#[test]
fn what_is_no_request_is_no_answer_and_a_vault_goes_on() {
    system(async {
        let (hub, chain, paper) = (Hub::default(), TestChain::new(&[]).await, Paper::default());
        start_vault(&hub, &chain, paper.clone());
        let (commands, _notices) = hub.join(peer(STRANGER));
        for request in [vec![], vec![0xff; 100], vec![0; 4_096]] {
            let (reply, answer) = oneshot::channel();
            let command = SwarmCommand::Ask {
                peer: peer(VAULT),
                question: Question::Vault,
                request,
                reply,
            };
            assert!(commands.send(command).await.is_ok());
            assert!(answer.await.unwrap().is_err());
        }
        let nobodys = VaultRequest::Claim {
            nonce: Nonce::from_bytes([1; 32]),
            model: model(),
            evidence: Digest::ZERO,
        };
        refused(&question(&commands, nobodys).await, VaultRefusal::Nonce);
    });
}

/// The key comes from the vault alone, and only as an answer to our own claim.
#[test]
fn a_session_of_somebody_else_is_not_taken() {
    system(async {
        let (hub, chain) = (Hub::default(), TestChain::new(&[]).await);
        // There is no vault: the guest asks in vain.
        let (waiting, notices) = guest(&hub, &chain, None);
        let asking = asking(waiting, notices);
        let (commands, _notices) = hub.join(peer(STRANGER));
        let (reply, opened) = oneshot::channel();
        let command = SwarmCommand::OpenSession {
            peer: peer(GUEST),
            reply,
        };
        assert!(commands.send(command).await.is_ok());
        let mut stream = opened.await.unwrap().unwrap();
        let mut rest = Vec::new();
        let _ = futures::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
        assert!(rest.is_empty());
        assert!(!asking.is_finished());
        asking.abort();
    });
}

#[test]
fn what_the_swarm_said_meanwhile_is_kept() {
    system(async {
        let (swarm, mut notices) = mpsc::channel(8);
        let (hub, one, two) = (Hub::default(), peer(1), peer(2));
        let (mut waiting, _) = guest(&hub, &TestChain::new(&[]).await, None);
        let told = |notice| {
            let swarm = swarm.clone();
            async move { assert!(swarm.send(notice).await.is_ok()) }
        };
        told(SwarmNotice::Listening {
            address: "/ip4/127.0.0.1/tcp/1".to_owned(),
        })
        .await;
        told(SwarmNotice::Connected { peer: one }).await;
        told(SwarmNotice::Connected { peer: two }).await;
        told(SwarmNotice::Disconnected { peer: one }).await;
        drop(swarm);
        assert_eq!(
            waiting
                .hold(&mut notices, std::future::pending::<()>())
                .await,
            None
        );
        let kept = waiting.into_missed().into_notices();
        let connected: Vec<PeerId> = kept
            .iter()
            .filter_map(|notice| match notice {
                SwarmNotice::Connected { peer } => Some(*peer),
                _ => None,
            })
            .collect();
        assert_eq!((kept.len(), connected), (2, vec![two]));
    });
}
