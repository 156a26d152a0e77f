//! Workers whose evidence is not in order, before a real client. Each is named as refused, with the
//! factor that refused it, and never sees a job, though all of them are cheaper than the honest one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use cocoon::local_mesh::verified_workers;
use cocoon_actors::clock;
use cocoon_actors::gateway_port::WorkerStanding;
use cocoon_attestation::source::GuestShape;
use cocoon_attestation::{Check, EvidenceSource as _, SimulatedSource};
use cocoon_protocol::evidence::{Claims, EvidenceBundle, EvidenceReply, EvidenceRequest};
use cocoon_protocol::{Advert, Digest, Keypair, ModelTerms, NanoTon};

use crate::api::ask;
use crate::fake::{Fake, Identity, Manners};
use crate::mesh::{MODEL, Mesh, Watched, wait};
use crate::rogue::{Rogue, garbage, peer_of};

/// One way of not being in order.
struct Story {
    /// How the client's reason begins.
    reason: &'static str,
    /// What is not true in the claims, though the quote binds it.
    claims: fn(&mut Claims),
    /// What is not in order with the guest.
    shape: Option<GuestShape>,
    /// What was changed after the quote was made.
    bundle: fn(&mut EvidenceBundle),
    advert: fn(&mut Advert),
    /// Bytes instead of the evidence.
    bytes: Option<Vec<u8>>,
}

impl Story {
    const fn of(reason: &'static str) -> Self {
        Self {
            reason,
            claims: |_| {},
            shape: None,
            bundle: |_| {},
            advert: |_| {},
            bytes: None,
        }
    }

    async fn tell(self, mesh: &Mesh, digest: Digest) -> Fake {
        let identity = Identity::serving(MODEL, digest);
        let mut claims = identity.claims(mesh).await;
        (self.claims)(&mut claims);
        let mut source = SimulatedSource::new(&identity.peer().to_bytes()).unwrap();
        if let Some(shape) = self.shape {
            source = source.shaped(shape);
        }
        let mut bundle = source.make(clock::now(), &claims).unwrap();
        (self.bundle)(&mut bundle);
        let manners = Manners {
            evidence_bytes: self.bytes,
            advert: self.advert,
            ..Manners::showing(bundle)
        };
        Fake::join(mesh, identity, manners)
    }
}

fn stories() -> Vec<Story> {
    vec![
        Story {
            shape: Some(|report| report.td_attributes[0] |= 1),
            ..Story::of("debug_off:")
        },
        Story {
            shape: Some(|report| report.mr_td = [7; 48]),
            ..Story::of("mrtd:")
        },
        Story {
            shape: Some(|report| report.rt_mr1 = [7; 48]),
            ..Story::of("rtmr1:")
        },
        Story {
            shape: Some(|report| report.rt_mr3 = [7; 48]),
            ..Story::of("rtmr3:")
        },
        Story {
            shape: Some(|report| report.mr_config_id = [7; 48]),
            ..Story::of("mrconfigid:")
        },
        Story {
            claims: |claims| claims.peer = Keypair::generate_ed25519().public().to_peer_id(),
            ..Story::of("peer_id:")
        },
        Story {
            claims: |claims| claims.model = Digest::sha256(b"other weights"),
            ..Story::of("model_digest:")
        },
        Story {
            claims: |claims| claims.epoch -= 3,
            ..Story::of("epoch: the claimed hour is over")
        },
        Story {
            claims: |claims| claims.epoch += 2,
            ..Story::of("epoch: the claimed hour has not begun")
        },
        Story {
            claims: |claims| claims.beacon.hash = Digest::sha256(b"a block of nobody's"),
            ..Story::of("beacon:")
        },
        Story {
            claims: |claims| claims.gpu_evidence = Digest::sha256(b"a GPU"),
            ..Story::of("gpu_evidence:")
        },
        Story {
            // A key that the quote does not bind, for somebody else to listen with.
            bundle: |bundle| bundle.claims.noise_key = [7; 32],
            ..Story::of("report_data:")
        },
        Story {
            bundle: |bundle| bundle.quote[700] ^= 1,
            ..Story::of("signature_chain:")
        },
        Story {
            bundle: |bundle| bundle.quote = garbage(5_000),
            ..Story::of("quote_structure:")
        },
        Story {
            // Collateral that calls itself newer than everybody's; garbage would be replaced by what the client has.
            bundle: |bundle| {
                let json = String::from_utf8(bundle.collateral_json.clone()).unwrap();
                let (old, new) = (r#"DataNumber\":20"#, r#"DataNumber\":99"#);
                assert!(json.contains(old));
                bundle.collateral_json = json.replace(old, new).into_bytes();
            },
            ..Story::of("signature_chain:")
        },
        Story {
            advert: |advert| advert.evidence = Digest::sha256(b"other evidence"),
            ..Story::of("advertised_evidence:")
        },
        Story {
            advert: |advert| {
                let other = ModelTerms {
                    id: "another model".to_owned(),
                    digest: Digest::sha256(b"other weights"),
                    ..advert.models[0].clone()
                };
                advert.models.push(other);
            },
            ..Story::of("the advert names weights that its evidence cannot cover")
        },
        Story {
            bytes: Some(EvidenceReply::NotFound.encode()),
            ..Story::of("the worker does not know this evidence")
        },
        Story {
            bytes: Some(garbage(1_000)),
            ..Story::of("EvidenceReply is not well-formed")
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_evidence_is_not_in_order_is_refused_by_factor_and_never_asked() {
    let Some(mesh) = Mesh::with_model().await else {
        return;
    };
    let honest = mesh.worker(&[]).await;
    let mut client = mesh.client("client", &[]).await;
    mesh.give(&client.node, NanoTon::from_nano(5 * NanoTon::PER_TON))
        .await;
    verified_workers(&client.node, 1).await.unwrap();

    let address = honest.tcp();
    let rogue = Rogue::connect(&address).await;
    let advert = rogue.advert_of(peer_of(&address)).await;
    let digest = advert.models[0].digest;

    let mut expected = BTreeMap::new();
    let mut fakes = Vec::new();
    for story in stories() {
        let reason = story.reason;
        let fake = story.tell(&mesh, digest).await;
        expected.insert(fake.peer.to_string(), reason);
        fakes.push(fake);
    }
    // The honest worker's own evidence, shown by somebody else.
    let request = EvidenceRequest {
        evidence: advert.evidence,
    };
    let reply = rogue.ask("evidence", &request.encode()).await.unwrap();
    let EvidenceReply::Bundle(stolen) = EvidenceReply::decode(&reply).unwrap() else {
        panic!("the honest worker has no evidence");
    };
    let thief = Identity::serving(MODEL, digest);
    let thief = Fake::join(&mesh, thief, Manners::showing(stolen));
    expected.insert(thief.peer.to_string(), "peer_id:");
    fakes.push(thief);
    // And one that is in order, so that all the others are refused for what is wrong with them.
    let control = Story::of("").tell(&mesh, digest).await;

    all_refused(&client, &expected, &control).await;

    for question in ["What is 2 + 2?", "And 3 + 3?", "And 4 + 4?"] {
        let answer = ask(&client.node, MODEL, question, 8).await.unwrap();
        assert_eq!(answer.worker, honest.node.run.peer);
    }
    for fake in &fakes {
        let deeds = &fake.deeds;
        let asked = deeds.evidence.load(Ordering::SeqCst);
        let offers = deeds.offers.load(Ordering::SeqCst);
        let sessions = deeds.sessions.load(Ordering::SeqCst);
        assert_eq!(
            (offers, sessions),
            (0, 0),
            "{}",
            expected[&fake.peer.to_string()]
        );
        let never_fetched = "the advert names weights";
        assert_eq!(
            asked == 0,
            expected[&fake.peer.to_string()].starts_with(never_fetched)
        );
    }
    // Who is verified is asked: so the others would have noticed.
    assert!(control.deeds.offers.load(Ordering::SeqCst) > 0);
    client.assert_alive("bad evidence of many kinds").await;
}

/// Waits until each has been refused for its own reason. In between an answer may get lost, and who
/// was refused often is not looked at for a while; but another factor is never to blame.
async fn all_refused(client: &Watched, expected: &BTreeMap<String, &'static str>, control: &Fake) {
    let mut told = BTreeSet::new();
    wait("the client has judged everybody", async || {
        let mut in_order = false;
        for worker in client.status().await.workers {
            let Some(wanted) = expected.get(&worker.peer) else {
                let verified = worker.standing == WorkerStanding::Verified;
                in_order |= verified && worker.peer == control.peer.to_string();
                continue;
            };
            assert_ne!(
                worker.standing,
                WorkerStanding::Verified,
                "`{wanted}` was due"
            );
            let reason = worker.reason.unwrap_or_default();
            let blamed = Check::ALL
                .iter()
                .any(|check| reason.starts_with(&format!("{}:", check.name())));
            if reason.starts_with(wanted) {
                assert_eq!(worker.standing, WorkerStanding::Rejected);
                if told.insert(worker.peer) {
                    println!("refused: {reason}");
                }
            } else {
                assert!(!blamed, "wanted `{wanted}…`, got `{reason}`");
            }
        }
        in_order && told.len() == expected.len()
    })
    .await;
}
