//! Two meshes back to back: a worker is found, its evidence examined, and a slot of it agreed on.

use crate::support::chain::TestChain;
use crate::support::model::{MODEL, Scripted};
use crate::support::nodes::{CLIENT, Client, Worker, WorkerSetup, canary, model_terms, price};
use crate::support::port::Hub;
use crate::support::{job, nano, peer, system, until};
use cocoon_actors::ask::{Address, ask, tell};
use cocoon_actors::attestor::AcceptedOf;
use cocoon_actors::clock;
use cocoon_actors::directory::{ListWorkers, Serving};
use cocoon_actors::gateway_port::{Gateway as _, GatewayError, JobEvent};
use cocoon_actors::mesh::{AskPeer, Mesh, OpenSession, Publish};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::negotiator::{Drain, Found, Negotiate, Negotiator, Redeem, Release};
use cocoon_actors::port::{Judgement, PortError, Question, Topic};
use cocoon_actors::supervision::supervise;
use cocoon_attestation::SimulatedSource;
use cocoon_protocol::directory::Standing;
use cocoon_protocol::negotiation::{
    Candidate, Lease, LineVerdict, Offer, RedeemError, Refusal, Wish,
};
use cocoon_protocol::{ModelTerms, OfferId, PeerId, Price};
use tokio::sync::mpsc;

const ONE: u8 = 2;
const TWO: u8 = 3;

async fn chain() -> TestChain {
    TestChain::new(&[CLIENT, ONE, TWO]).await
}

fn honest(seed: u8) -> WorkerSetup {
    WorkerSetup::honest(seed, Scripted::of(1))
}

/// A client and one worker that it has verified.
async fn pair() -> (Hub, Client, Worker) {
    let (hub, chain) = (Hub::default(), chain().await);
    let client = Client::start(&hub, &chain);
    let worker = Worker::start(&hub, &chain, honest(ONE));
    client.verified(1).await;
    (hub, client, worker)
}

async fn candidates(client: &Client) -> Vec<Candidate> {
    let model = MODEL.to_owned();
    let entries = ask(&client.directory, Serving { model }).await.unwrap();
    entries
        .iter()
        .map(|entry| Candidate::of(entry, MODEL).unwrap())
        .collect()
}

async fn negotiate(client: &Client, number: u8) -> Found {
    let negotiate = Negotiate {
        job: job(number),
        wish: Wish {
            client: client.peer,
            max_prompt_tokens: 100,
            max_output_tokens: 100,
        },
        candidates: candidates(client).await,
    };
    ask(&client.negotiator, negotiate).await.unwrap()
}

async fn redeem(
    negotiator: &Address<Negotiator>,
    offer: &Offer,
    client: PeerId,
) -> Result<Lease, RedeemError> {
    let redeem = Redeem {
        now: clock::now(),
        offer: offer.id,
        client,
    };
    ask(negotiator, redeem).await.unwrap()
}

#[test]
fn a_worker_is_found_and_verified_and_its_evidence_is_kept() {
    system(async {
        let (hub, client, worker) = pair().await;
        let entries = ask(&client.directory, ListWorkers).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].advert.peer, worker.peer);
        assert!(matches!(entries[0].standing, Standing::Verified { .. }));
        let kept = ask(&client.attestor, AcceptedOf(worker.peer))
            .await
            .unwrap();
        let kept = kept.unwrap();
        assert!(kept.verdict.accepted());
        assert_eq!(kept.bundle.claims.digest(), entries[0].advert.evidence);
        assert_eq!(kept.bundle.claims.canary, canary());
        let models = client.port.models().await.unwrap();
        assert_eq!(models.len(), 1);
        assert_eq!((models[0].id.as_str(), models[0].workers), (MODEL, 1));
        assert_eq!(hub.judged(), [Judgement::Accept]);
    });
}

#[test]
fn what_gossip_brings_is_judged_once_and_garbage_costs_the_relay() {
    system(async {
        let (hub, _client, worker) = pair().await;
        let judge = async |bytes: &[u8]| {
            let before = hub.judged().len();
            let publish = Publish {
                topic: Topic::Adverts,
                bytes: bytes.to_vec(),
            };
            ask(&worker.mesh, publish).await.unwrap().unwrap();
            until("a judgement", || hub.judged().len() > before).await;
            hub.judged()[before]
        };
        for garbage in [&b""[..], b"garbage", &[0xff; 5_000]] {
            assert_eq!(judge(garbage).await, Judgement::Reject);
        }
    });
}

#[test]
fn a_guest_under_debug_is_refused_by_name_and_never_served() {
    system(async {
        let (hub, chain) = (Hub::default(), chain().await);
        let client = Client::start(&hub, &chain);
        let source = SimulatedSource::new(b"machine").unwrap();
        let setup = WorkerSetup {
            source: source.shaped(|report| report.td_attributes[0] |= 1),
            ..honest(ONE)
        };
        let _worker = Worker::start(&hub, &chain, setup);
        let rejected = loop {
            let entries = ask(&client.directory, ListWorkers).await.unwrap();
            match entries.first().map(|entry| entry.standing.clone()) {
                Some(Standing::Rejected { reason }) => break reason,
                Some(Standing::Verified { .. }) => panic!("verified"),
                _ => tokio::task::yield_now().await,
            }
        };
        assert!(rejected.starts_with("debug_off"), "{rejected}");
        assert!(candidates(&client).await.is_empty());
        let mut refused = client.submit("hello").await;
        assert_eq!(
            refused.next().await,
            Some(JobEvent::Failed(GatewayError::NoVerifiedWorker { seen: 1 }))
        );
    });
}

#[test]
fn an_offer_becomes_a_lease_once_and_its_slot_comes_back() {
    system(async {
        let (_hub, client, worker) = pair().await;
        let offer = negotiate(&client, 1).await.offer.unwrap();
        assert_eq!((offer.worker, offer.client), (worker.peer, client.peer));
        assert_eq!(offer.price, price());

        // The one slot is promised.
        let found = negotiate(&client, 2).await;
        assert!(found.offer.is_none());
        let verdict = found.lines[0].verdict;
        assert_eq!(verdict, LineVerdict::Refused(Refusal::NoFreeSlot));

        let stranger = redeem(&worker.negotiator, &offer, peer(9)).await;
        assert!(matches!(stranger, Err(RedeemError::OtherClient { .. })));
        let lease = redeem(&worker.negotiator, &offer, client.peer).await;
        let lease = lease.unwrap();
        assert_eq!(lease.offer, offer);
        let again = redeem(&worker.negotiator, &offer, client.peer).await;
        assert!(matches!(again, Err(RedeemError::AlreadyRedeemed { .. })));
        assert!(negotiate(&client, 3).await.offer.is_none());

        tell(&worker.negotiator, Release(lease.id)).unwrap();
        assert!(negotiate(&client, 4).await.offer.is_some());
    });
}

#[test]
fn the_cheaper_of_two_wins_and_the_other_has_its_slot_back_at_once() {
    system(async {
        let (hub, chain) = (Hub::default(), chain().await);
        let client = Client::start(&hub, &chain);
        let _dear = Worker::start(&hub, &chain, honest(ONE));
        let cheap = WorkerSetup {
            terms: ModelTerms {
                price: Price {
                    input: nano(1),
                    output: nano(1),
                },
                ..model_terms()
            },
            ..honest(TWO)
        };
        let cheap = Worker::start(&hub, &chain, cheap);
        client.verified(2).await;
        let found = negotiate(&client, 1).await;
        assert_eq!(found.offer.unwrap().worker, cheap.peer);
        let verdicts: Vec<_> = found.lines.iter().map(|line| line.verdict).collect();
        assert!(verdicts.contains(&LineVerdict::Chosen));
        assert!(verdicts.contains(&LineVerdict::Declined));

        // The dear one's only slot is not kept for an offer that lost. That it hears of it takes a
        // message, so the next question may come a little early.
        let second = loop {
            match negotiate(&client, 2).await.offer {
                Some(offer) => break offer,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(second.worker, peer(ONE));
    });
}

#[test]
fn an_offer_or_a_lease_that_nobody_waits_for_any_more_keeps_no_slot() {
    system(async {
        let (_hub, client, worker) = pair().await;
        {
            let mut asking = Box::pin(negotiate(&client, 1));
            // Far enough for the question to be on its way.
            for _ in 0..3 {
                assert!(futures::poll!(asking.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
        }
        let offer = loop {
            match negotiate(&client, 2).await.offer {
                Some(offer) => break offer,
                None => tokio::task::yield_now().await,
            }
        };
        {
            let mut asking = Box::pin(redeem(&worker.negotiator, &offer, client.peer));
            assert!(futures::poll!(asking.as_mut()).is_pending());
        }
        // The lease has come and gone; a third job gets the slot.
        let third = loop {
            match negotiate(&client, 3).await.offer {
                Some(offer) => break offer,
                None => tokio::task::yield_now().await,
            }
        };
        redeem(&worker.negotiator, &third, client.peer)
            .await
            .unwrap();
    });
}

#[test]
fn a_worker_that_is_going_away_makes_no_offers_and_one_that_is_gone_is_a_line_of_the_answer() {
    system(async {
        let (hub, client, worker) = pair().await;
        tell(&worker.negotiator, Drain).unwrap();
        let found = negotiate(&client, 1).await;
        let verdict = found.lines[0].verdict;
        assert_eq!(verdict, LineVerdict::Refused(Refusal::Draining));

        hub.leave(worker.peer);
        let found = negotiate(&client, 2).await;
        assert!(found.offer.is_none());
        assert_eq!(found.lines[0].verdict, LineVerdict::Failed);
    });
}

#[test]
fn garbage_on_any_question_is_no_answer_and_the_worker_goes_on() {
    system(async {
        let (_hub, client, worker) = pair().await;
        for question in [Question::Evidence, Question::Offer, Question::Vault] {
            for request in [vec![], vec![0xff; 100], vec![0; 4_096]] {
                let ask_peer = AskPeer {
                    peer: worker.peer,
                    question,
                    request,
                };
                let answer = ask(&client.mesh, ask_peer).await.unwrap();
                assert!(
                    matches!(answer, Err(PortError::NoAnswer { .. })),
                    "{question:?}: {answer:?}"
                );
            }
        }
        negotiate(&client, 1).await.offer.unwrap();
    });
}

#[test]
fn an_unknown_offer_is_no_lease() {
    system(async {
        let (_hub, client, worker) = pair().await;
        let mut offer = negotiate(&client, 1).await.offer.unwrap();
        offer.id = OfferId::from_bytes([7; 16]);
        let refused = redeem(&worker.negotiator, &offer, client.peer).await;
        assert!(matches!(refused, Err(RedeemError::Unknown { .. })));
    });
}

#[test]
fn a_swarm_whose_queue_is_full_is_an_answer_and_so_is_one_that_has_stopped() {
    system(async {
        // Nobody takes commands here.
        let (commands, queue) = mpsc::channel(1);
        let mesh = supervise(Mesh::new(commands, Metrics::new()));
        let question = || AskPeer {
            peer: peer(ONE),
            question: Question::Offer,
            request: Vec::new(),
        };
        let mut first = Box::pin(ask(&mesh, question()));
        assert!(futures::poll!(first.as_mut()).is_pending());
        let full = ask(&mesh, question()).await.unwrap();
        assert!(matches!(full, Err(PortError::Full { .. })));
        let full = ask(&mesh, OpenSession(peer(ONE))).await.unwrap();
        assert!(matches!(full.err(), Some(PortError::Full { .. })));
        drop(queue);
        let stopped = ask(
            &mesh,
            Publish {
                topic: Topic::Adverts,
                bytes: Vec::new(),
            },
        )
        .await
        .unwrap();
        assert!(matches!(stopped, Err(PortError::Stopped)));
    });
}
