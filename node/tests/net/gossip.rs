//! Adverts by gossip: forwarded after their judgement and not before.

use crate::node::{LIMIT, Node, converse, leaf, quiet, until};
use cocoon_actors::port::{Judgement, PortError, Question};
use cocoon_protocol::advert::MAX_ADVERT_BYTES;
use tokio::time::timeout;

/// `a — hub — c`: the ends know the hub and cannot meet.
async fn line() -> (Node, Node, Node) {
    let mut hub = Node::start(quiet()).await;
    let mut a = Node::start(leaf(&hub)).await;
    let mut c = Node::start(leaf(&hub)).await;
    for end in [&mut a, &mut c] {
        end.connected_to(hub.peer).await;
        hub.connected_to(end.peer).await;
        hub.gossips_to(end).await;
    }
    (a, hub, c)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_advert_is_forwarded_once_it_is_accepted_and_not_before() {
    let (a, mut hub, mut c) = line().await;
    a.publish(b"first").await;
    a.publish(b"second").await;
    let (first, first_relay, bytes) = hub.advert().await;
    assert_eq!((bytes.as_slice(), first_relay), (&b"first"[..], a.peer));
    let (second, second_relay, bytes) = hub.advert().await;
    assert_eq!(bytes, b"second");
    // The first came first and is not judged: if it were forwarded unjudged, the far end would
    // have it before the second.
    hub.judge(second, second_relay, Judgement::Accept).await;
    let (_, relay, bytes) = c.advert().await;
    assert_eq!((bytes.as_slice(), relay), (&b"second"[..], hub.peer));
    hub.judge(first, first_relay, Judgement::Accept).await;
    assert_eq!(c.advert().await.2, b"first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_or_ignored_advert_goes_no_further() {
    let (a, mut hub, mut c) = line().await;
    for (advert, judgement) in [
        (&b"bad"[..], Judgement::Reject),
        (b"old", Judgement::Ignore),
        (b"good", Judgement::Accept),
    ] {
        a.publish(advert).await;
        let (message, relay, bytes) = hub.advert().await;
        assert_eq!(bytes, advert);
        hub.judge(message, relay, judgement).await;
    }
    assert_eq!(c.advert().await.2, b"good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_keeps_relaying_invalid_adverts_is_no_longer_heard() {
    let (a, mut hub, c) = line().await;
    for invalid in 0..4u8 {
        a.publish(&[invalid]).await;
        let (message, relay, bytes) = hub.advert().await;
        assert_eq!((bytes, relay), (vec![invalid], a.peer));
        hub.judge(message, relay, Judgement::Reject).await;
    }
    // Commands are taken in order, so the hub has judged before it asks.
    assert!(hub.try_publish(&[0; MAX_ADVERT_BYTES + 1]).await.is_err());
    let _ = a.try_publish(b"from the graylisted").await;
    // The same connection carries a question after it, so it has arrived by now.
    converse(&a, &mut hub).await;
    c.publish(b"from the other").await;
    let (_, relay, bytes) = hub.advert().await;
    assert_eq!((bytes.as_slice(), relay), (&b"from the other"[..], c.peer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_advert_at_the_limit_travels_and_one_byte_more_is_a_typed_error() {
    let (a, mut hub, _c) = line().await;
    let largest = vec![7; MAX_ADVERT_BYTES];
    a.publish(&largest).await;
    assert_eq!(hub.advert().await.2, largest);
    let error = a.try_publish(&[7; MAX_ADVERT_BYTES + 1]).await.unwrap_err();
    assert_eq!(
        error,
        PortError::TooLarge {
            bytes: MAX_ADVERT_BYTES + 1,
            limit: MAX_ADVERT_BYTES
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lonely_node_is_told_that_nobody_listens() {
    let node = Node::start(quiet()).await;
    assert_eq!(
        node.try_publish(b"hello?").await,
        Err(PortError::NobodyListens)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_adverts_back_to_back_all_arrive() {
    let (a, mut hub, _c) = line().await;
    // Together far more than one gossip frame may hold.
    for n in 0..60u8 {
        a.publish(&[n; 1500]).await;
    }
    let mut seen: Vec<u8> = Vec::new();
    while seen.len() < 60 {
        let (message, relay, bytes) = hub.advert().await;
        hub.judge(message, relay, Judgement::Accept).await;
        seen.push(bytes[0]);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..60).collect::<Vec<u8>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_that_take_no_notices_stop_the_sockets_but_not_the_commands() {
    let mut hub = Node::start(quiet()).await;
    let mut config = leaf(&hub);
    config.limits.answer_ms = 300;
    let mut deaf = Node::start(config).await;
    deaf.connected_to(hub.peer).await;
    hub.connected_to(deaf.peer).await;
    // Fill the deaf node's queue of notices until its swarm stands still.
    let mut published = 0u32;
    until("the swarm stands still", || {
        published += 1;
        let advert = published.to_be_bytes();
        let (hub, deaf) = (&hub, &deaf);
        async move {
            let _ = hub.try_publish(&advert).await;
            // Twenty a turn: the queue holds 256.
            for more in 0..20u8 {
                let _ = hub.try_publish(&[&advert[..], &[more]].concat()).await;
            }
            deaf.metric("cocoon_net_stalled_total") > 0.0
        }
    })
    .await;
    // It takes commands still, and keeps its deadline for an answer that it does not hear although
    // the hub would give it.
    let at = hub.peer;
    let answering = tokio::spawn(async move {
        loop {
            let (.., reply) = hub.asked().await;
            let _ = reply.send(b"here".to_vec());
        }
    });
    let error = deaf.ask(at, Question::Offer, b"").await.unwrap_err();
    let limit_ms = 300;
    assert_eq!(error, PortError::TimedOut { peer: at, limit_ms });
    // Once the notices are taken everything goes on.
    let goes_on = async {
        loop {
            let mut answer = deaf.start_ask(at, Question::Offer, b"");
            let answer = loop {
                tokio::select! {
                    answer = &mut answer => break answer.unwrap(),
                    _ = deaf.advert() => {}
                }
            };
            match answer {
                Err(PortError::TimedOut { .. }) => {}
                answer => break answer,
            }
        }
    };
    let answer = timeout(LIMIT, goes_on).await.expect("goes on in time");
    assert_eq!(answer.unwrap(), b"here");
    answering.abort();
}
