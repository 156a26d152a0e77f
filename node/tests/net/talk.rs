//! Questions, answers and session streams between honest nodes, and their limits.

use crate::node::{LIMIT, Node, converse, leaf, network, quiet};
use cocoon::net::NetConfig;
use cocoon::net::limits::{
    MAX_EVIDENCE_REPLY_BYTES, MAX_OFFER_REPLY_BYTES, MAX_RELEASE_REPLY_BYTES, MAX_REQUEST_BYTES,
    MAX_VAULT_REPLY_BYTES,
};
use cocoon_actors::port::{PortError, Question};
use futures::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A connected pair; the first dialled the second.
async fn pair(limits: impl FnOnce(&mut NetConfig)) -> (Node, Node) {
    let mut config = quiet();
    limits(&mut config);
    let mut server = Node::start(config).await;
    let mut client = Node::start(leaf(&server)).await;
    client.connected_to(server.peer).await;
    server.connected_to(client.peer).await;
    (client, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_in_both_directions_up_to_their_limits() {
    let (mut client, mut server) = pair(|_| {}).await;
    for (question, limit) in [
        (Question::Evidence, MAX_EVIDENCE_REPLY_BYTES),
        (Question::Offer, MAX_OFFER_REPLY_BYTES),
        (Question::Vault, MAX_VAULT_REPLY_BYTES),
        (Question::Release, MAX_RELEASE_REPLY_BYTES),
    ] {
        let request = vec![1; MAX_REQUEST_BYTES];
        let answer = client.start_ask(server.peer, question, &request);
        let (peer, asked, got, reply) = server.asked().await;
        assert_eq!((peer, asked, got), (client.peer, question, request));
        reply.send(vec![2; limit]).unwrap();
        assert_eq!(answer.await.unwrap().unwrap(), vec![2; limit]);

        let answer = client.start_ask(server.peer, question, b"");
        let (.., reply) = server.asked().await;
        reply.send(vec![2; limit + 1]).unwrap();
        let error = answer.await.unwrap().unwrap_err();
        assert!(matches!(error, PortError::NoAnswer { .. }), "{error}");
    }
    converse(&server, &mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_the_limit_is_not_sent() {
    let (client, server) = pair(|_| {}).await;
    let error = client
        .ask(server.peer, Question::Offer, &[0; MAX_REQUEST_BYTES + 1])
        .await
        .unwrap_err();
    assert_eq!(
        error,
        PortError::TooLarge {
            bytes: MAX_REQUEST_BYTES + 1,
            limit: MAX_REQUEST_BYTES
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_the_actors_drop_is_no_answer_and_one_they_keep_times_out() {
    let mut server = Node::start(quiet()).await;
    let mut config = leaf(&server);
    config.limits.answer_ms = 300;
    let client = Node::start(config).await;
    let answer = client.start_ask(server.peer, Question::Offer, b"drop it");
    drop(server.asked().await);
    let error = answer.await.unwrap().unwrap_err();
    assert!(matches!(error, PortError::NoAnswer { .. }), "{error}");

    let answer = client.start_ask(server.peer, Question::Offer, b"keep it");
    let _kept = server.asked().await;
    let (peer, limit_ms) = (server.peer, 300);
    assert_eq!(
        answer.await.unwrap(),
        Err(PortError::TimedOut { peer, limit_ms })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_asks_too_fast_is_refused_and_others_are_not() {
    let (client, mut server) = pair(|config| {
        config.limits.question_burst = 2;
        // Never refills, so the test does not depend on how fast it runs.
        config.limits.questions_per_second = 0;
    })
    .await;
    let mut other = Node::start(leaf(&server)).await;
    other.connected_to(server.peer).await;
    converse(&client, &mut server).await;
    converse(&client, &mut server).await;
    for question in [Question::Offer, Question::Evidence] {
        let error = client.ask(server.peer, question, b"").await.unwrap_err();
        assert!(matches!(error, PortError::NoAnswer { .. }), "{error}");
    }
    converse(&other, &mut server).await;
    assert!(server.metric("cocoon_net_refused_total{what=\"question: too fast\"}") >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_has_only_so_many_questions_in_work() {
    let (client, mut server) = pair(|config| config.limits.questions_per_peer = 1).await;
    let held = client.start_ask(server.peer, Question::Offer, b"held");
    let (.., reply) = server.asked().await;
    let error = client
        .ask(server.peer, Question::Evidence, b"")
        .await
        .unwrap_err();
    assert!(matches!(error, PortError::NoAnswer { .. }), "{error}");
    reply.send(b"done".to_vec()).unwrap();
    assert_eq!(held.await.unwrap().unwrap(), b"done");
    converse(&client, &mut server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_carries_bytes_both_ways_and_its_end() {
    let (client, mut server) = pair(|_| {}).await;
    let mut ours = client.open(server.peer).await.unwrap();
    let (peer, mut theirs) = server.session().await;
    assert_eq!(peer, client.peer);
    let sent: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        ours.write_all(&sent).await.unwrap();
        ours.close().await.unwrap();
        let mut back = Vec::new();
        ours.read_to_end(&mut back).await.unwrap();
        back
    });
    let mut got = Vec::new();
    timeout(LIMIT, theirs.read_to_end(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, expected);
    theirs.write_all(b"thanks").await.unwrap();
    theirs.close().await.unwrap();
    assert_eq!(timeout(LIMIT, writer).await.unwrap().unwrap(), b"thanks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_to_a_peer_that_is_not_connected_dials_it() {
    let mut server = Node::start(quiet()).await;
    let client = Node::start(leaf(&server)).await;
    // Not waiting for the connection: the dial is under way or not begun.
    let mut ours = client.open(server.peer).await.unwrap();
    ours.write_all(b"x").await.unwrap();
    ours.flush().await.unwrap();
    let (_, mut theirs) = server.session().await;
    let mut byte = [0; 1];
    theirs.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_arrive_together_all_arrive() {
    let (client, mut server) = pair(|_| {}).await;
    let opened = futures::future::join_all((0..8).map(|_| client.open(server.peer))).await;
    assert!(opened.iter().all(Result::is_ok));
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(server.session().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_too_many_sessions_is_refused_until_one_ends() {
    let (client, mut server) = pair(|config| config.limits.sessions_per_peer = 2).await;
    let _first = client.open(server.peer).await.unwrap();
    let (_, first) = server.session().await;
    let _second = client.open(server.peer).await.unwrap();
    let (_, _second_there) = server.session().await;
    // The stream is negotiated before it can be counted, so the refusal is its end.
    let mut third = client.open(server.peer).await.unwrap();
    let mut nothing = Vec::new();
    let ended = timeout(LIMIT, third.read_to_end(&mut nothing))
        .await
        .unwrap();
    assert!(ended.is_err() || nothing.is_empty());
    assert!(server.metric("cocoon_net_refused_total{what=\"session: limit\"}") >= 1.0);
    drop(first);
    let _again = client.open(server.peer).await.unwrap();
    let (peer, _) = server.session().await;
    assert_eq!(peer, client.peer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_trust_domain_shares_no_protocol_with_us() {
    let mut server = Node::start(quiet()).await;
    let mut config = leaf(&server);
    config.network = network(2);
    let mut foreign = Node::start(config).await;
    foreign.connected_to(server.peer).await;
    server.connected_to(foreign.peer).await;
    for (error, name) in [
        (
            foreign.ask(server.peer, Question::Offer, b"").await.err(),
            "offer",
        ),
        (
            foreign
                .ask(server.peer, Question::Evidence, b"")
                .await
                .err(),
            "evidence",
        ),
        (foreign.open(server.peer).await.err(), "session"),
    ] {
        assert_eq!(
            error.unwrap(),
            PortError::Unsupported {
                peer: server.peer,
                protocol: network(2).protocol(name)
            }
        );
    }
    assert_eq!(
        foreign.try_publish(b"hello").await,
        Err(PortError::NobodyListens)
    );
}
