//! Collateral travels apart from evidence: asked for once a family, from whoever has it.

use crate::support::chain::TestChain;
use crate::support::model::Scripted;
use crate::support::nodes::{CLIENT, Client, Worker, WorkerSetup};
use crate::support::port::Hub;
use crate::support::{peer, system};
use cocoon_actors::ask::ask;
use cocoon_actors::attestor::{AcceptedOf, Weather};
use cocoon_actors::clock;
use cocoon_actors::mesh::AskPeer;
use cocoon_actors::port::Question;
use cocoon_attestation::shelf::family_of;
use cocoon_protocol::{EvidenceReply, EvidenceRequest};

const ONE: u8 = 2;
const TWO: u8 = 3;
const NEWCOMER: u8 = 4;

async fn chain() -> TestChain {
    TestChain::new(&[CLIENT, ONE, TWO, NEWCOMER]).await
}

fn worker(hub: &Hub, chain: &TestChain, seed: u8) -> Worker {
    Worker::start(hub, chain, WorkerSetup::honest(seed, Scripted::of(1)))
}

#[test]
fn evidence_travels_without_collateral_and_one_answer_serves_a_family() {
    system(async {
        let (hub, chain) = (Hub::default(), chain().await);
        let client = Client::start(&hub, &chain);
        let one = worker(&hub, &chain, ONE);
        client.verified(1).await;
        assert_eq!(hub.asked(Question::Collateral), 1);
        let kept = ask(&client.attestor, AcceptedOf(one.peer)).await.unwrap();
        let kept = kept.unwrap();
        assert!(!kept.bundle.collateral_json.is_empty(), "kept whole");

        let sent = ask(
            &client.mesh,
            AskPeer {
                peer: one.peer,
                question: Question::Evidence,
                request: EvidenceRequest {
                    evidence: kept.bundle.claims.digest(),
                }
                .encode(),
            },
        );
        let EvidenceReply::Bundle(sent) =
            EvidenceReply::decode(&sent.await.unwrap().unwrap()).unwrap()
        else {
            panic!("no evidence")
        };
        assert!(sent.collateral_json.is_empty(), "sent without");
        assert_eq!(sent.quote, kept.bundle.quote);

        worker(&hub, &chain, TWO);
        client.verified(2).await;
        assert_eq!(hub.asked(Question::Collateral), 1, "asked for again");
    });
}

#[test]
fn a_client_serves_what_it_has_checked_when_the_worker_is_gone() {
    system(async {
        let (hub, chain) = (Hub::default(), chain().await);
        let client = Client::start(&hub, &chain);
        let one = worker(&hub, &chain, ONE);
        client.verified(1).await;
        let accepted = ask(&client.attestor, AcceptedOf(one.peer)).await.unwrap();
        let family = family_of(&accepted.unwrap().bundle.quote).unwrap();
        hub.leave(one.peer);

        let newcomer = Worker::start(&hub, &chain, WorkerSetup::honest(NEWCOMER, Scripted::of(1)));
        let now = clock::now();
        let nobody = newcomer
            .collateral
            .obtain(now, &family, now, Some(one.peer))
            .await;
        assert!(nobody.is_none(), "the worker that had it is gone");
        let served = newcomer
            .collateral
            .obtain(now, &family, now, Some(client.peer))
            .await;
        assert!(served.is_some());
        let far = cocoon_protocol::UnixMillis::from_millis(u64::MAX);
        let beyond = newcomer
            .collateral
            .obtain(now, &family, far, Some(client.peer))
            .await;
        assert!(beyond.is_none(), "nothing lasts for ever");
        let unknown = peer(99);
        assert!(
            newcomer
                .collateral
                .obtain(now, &family, now, Some(unknown))
                .await
                .is_none()
        );
    });
}

#[test]
fn what_was_checked_is_not_pushed_out_by_what_others_hand_over() {
    system(async {
        let (hub, chain) = (Hub::default(), chain().await);
        let client = Client::start(&hub, &chain);
        let one = worker(&hub, &chain, ONE);
        client.verified(1).await;
        let kept = ask(&client.attestor, AcceptedOf(one.peer)).await.unwrap();
        let kept = kept.unwrap().bundle.clone();
        // The last day of its life, when newer is looked for: peers might offer anything.
        let ends = client
            .collateral
            .expires(clock::now(), &kept.quote)
            .unwrap();
        let late = cocoon_protocol::UnixMillis::from_millis(ends.millis() - 1_000);
        let mut bundle = kept.clone();
        bundle.collateral_json.clear();
        client
            .collateral
            .complete(late, &mut bundle, Some(one.peer))
            .await;
        assert_eq!(bundle.collateral_json, kept.collateral_json);
        assert_eq!(hub.asked(Question::Collateral), 1, "only when it was new");
    });
}

#[test]
fn a_node_knows_until_when_its_platform_and_its_peers_count_as_up_to_date() {
    system(async {
        let (hub, chain) = (Hub::default(), chain().await);
        let client = Client::start(&hub, &chain);
        let one = worker(&hub, &chain, ONE);
        client.verified(1).await;
        let at_client = ask(&client.attestor, Weather).await.unwrap();
        let at_worker = ask(&one.attestor, Weather).await.unwrap();
        assert_eq!(at_client.own, None);
        assert!(at_worker.own.is_some_and(|until| until > clock::now()));
        assert_eq!(at_client.peers.get(&one.peer).copied(), at_worker.own);
    });
}
