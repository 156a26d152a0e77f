//! Lies in the gossip.

use cocoon_actors::clock;
use cocoon_protocol::advert::{ADVERT_DOMAIN, ADVERT_PAYLOAD_TYPE, MAX_ADVERT_BYTES};
use cocoon_protocol::{Advert, Digest, Keypair, NanoTon, PeerId, UnixMillis};
use libp2p::core::SignedEnvelope;

use crate::mesh::wait;
use crate::rogue::{Rogue, garbage};
use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_advert_that_is_too_large_or_not_the_peers_own_is_not_believed() {
    let Some(mut scene) = Scene::set().await else {
        return;
    };
    too_large(&mut scene).await;
    of_somebody_else(&mut scene).await;
    of_another_time(&mut scene).await;
    scene.honest_job("lies in the gossip").await;
}

async fn too_large(scene: &mut Scene) {
    let rogue = Rogue::connect(&scene.shop.address).await;
    rogue.gossip(&garbage(MAX_ADVERT_BYTES + 1)).await;
    wait("it is refused for its size", async || {
        let refused = "cocoon_net_refused_total{what=\"gossip: too large\"}";
        scene.worker.metric(refused).await >= 1
    })
    .await;
    // Over the bound of a message, and of a whole frame.
    for length in [5_000, 200_000] {
        rogue.gossip(&garbage(length)).await;
        scene
            .assert_alive(&format!("an advert of {length} bytes"))
            .await;
    }
}

fn advert(scene: &Scene, peer: PeerId, now: UnixMillis) -> Advert {
    Advert {
        peer,
        sequence: now.millis(),
        issued: now,
        lifetime_ms: 60_000,
        models: vec![scene.shop.terms.clone()],
        slots: 1,
        evidence: Digest::sha256(b"none"),
        evidence_expires: now.saturating_add(3_600_000),
        payout: scene.shop.payout,
        ledger: scene.shop.payout,
        tcb_expires: UnixMillis::default(),
    }
}

/// What `advert` says, in an envelope of `key`'s.
fn signed_by(advert: &Advert, own: &Keypair, key: &Keypair) -> Vec<u8> {
    let envelope = SignedEnvelope::from_protobuf_encoding(&advert.sign(own).unwrap()).unwrap();
    let (payload, _) = envelope
        .payload_and_signing_key(ADVERT_DOMAIN.to_owned(), ADVERT_PAYLOAD_TYPE)
        .unwrap();
    SignedEnvelope::new(
        key,
        ADVERT_DOMAIN.to_owned(),
        ADVERT_PAYLOAD_TYPE.to_vec(),
        payload.to_vec(),
    )
    .unwrap()
    .into_protobuf_encoding()
}

/// Prices of the workers that the worker has heard of.
async fn heard(scene: &Scene, peer: PeerId) -> Option<u64> {
    let status = scene.worker.status().await;
    let worker = status.workers.iter().find(|w| w.peer == peer.to_string());
    worker.map(|worker| worker.price_input_nanoton)
}

/// Gossips lies, then the truth. One peer's messages are judged in their order, so when the truth
/// has arrived, the lies have been judged.
async fn lies_then_truth(scene: &Scene, rogue: &Rogue, lies: &[Vec<u8>], truth: &Advert) {
    for lie in lies {
        rogue.gossip(lie).await;
    }
    rogue.gossip(&truth.sign(&rogue.key).unwrap()).await;
    let price = truth.models[0].price.input.nano();
    wait("the truth is heard", async || {
        heard(scene, rogue.peer).await == Some(price)
    })
    .await;
}

async fn of_somebody_else(scene: &mut Scene) {
    let victim = Keypair::generate_ed25519();
    let victim_peer = victim.public().to_peer_id();
    let rogue = Rogue::connect(&scene.shop.address).await;
    let now = clock::now();
    let victims = advert(scene, victim_peer, now);
    let mut changed = victims.sign(&victim).unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let lies = [
        signed_by(&victims, &victim, &rogue.key),
        changed,
        garbage(1_000),
    ];
    lies_then_truth(scene, &rogue, &lies, &advert(scene, rogue.peer, now)).await;
    assert_eq!(heard(scene, victim_peer).await, None);
    scene.assert_alive("adverts that others signed").await;

    // The victim's own word still counts, whoever brings it.
    let carrier = Rogue::connect(&scene.shop.address).await;
    carrier.gossip(&victims.sign(&victim).unwrap()).await;
    wait("the victim's own advert is heard", async || {
        heard(scene, victim_peer).await.is_some()
    })
    .await;
}

async fn of_another_time(scene: &mut Scene) {
    let rogue = Rogue::connect(&scene.shop.address).await;
    let now = clock::now();
    let truth = advert(scene, rogue.peer, now);
    let priced = |price: u64, at: UnixMillis| {
        let mut advert = advert(scene, rogue.peer, at);
        advert.models[0].price.input = NanoTon::from_nano(price);
        advert
    };
    let future = priced(1, now.saturating_add(3_600_000));
    let endless = Advert {
        lifetime_ms: u32::MAX,
        ..priced(2, now)
    };
    let repeated = Advert {
        models: vec![truth.models[0].clone(), truth.models[0].clone()],
        ..priced(3, now)
    };
    let lies = [&future, &endless, &repeated].map(|lie| lie.sign(&rogue.key).unwrap());
    lies_then_truth(scene, &rogue, &lies, &truth).await;

    // What was said before does not come back: the bystander's advert is judged after it.
    let old = Advert {
        sequence: truth.sequence - 1,
        ..priced(4, now)
    };
    let second = Rogue::connect(&scene.shop.address).await;
    second.gossip(&old.sign(&rogue.key).unwrap()).await;
    lies_then_truth(scene, &second, &[], &advert(scene, second.peer, now)).await;
    assert_eq!(
        heard(scene, rogue.peer).await,
        Some(truth.models[0].price.input.nano())
    );
    scene.assert_alive("adverts of another time").await;
}
