//! Finding one another, and staying together when the bootstrap is gone.

use crate::node::{LIMIT, Node, converse, leaf, quiet, sociable};
use cocoon::net::{NetConfig, NetError, spawn};
use cocoon_actors::port::{Judgement, PortError, Question, SwarmNotice};
use cocoon_protocol::ids::PeerId;
use prometheus_client::registry::Registry;
use tokio::time::timeout;

/// A bootstrap node and three others that were given its address and nothing else, once all of
/// them are connected to all. The first two know it by TCP, the last by QUIC.
async fn four() -> (Node, [Node; 3]) {
    let bootstrap = Node::start(sociable(&[])).await;
    let mut nodes = [
        Node::start(sociable(&[bootstrap.tcp().clone()])).await,
        Node::start(sociable(&[bootstrap.tcp().clone()])).await,
        Node::start(sociable(&[bootstrap.quic().clone()])).await,
    ];
    let peers: Vec<PeerId> = nodes.iter().map(|node| node.peer).collect();
    for node in &mut nodes {
        let own = node.peer;
        for other in peers.iter().filter(|peer| **peer != own) {
            node.connected_to(*other).await;
        }
    }
    (bootstrap, nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_that_know_only_the_bootstrap_find_each_other() {
    let (bootstrap, [mut a, mut b, c]) = four().await;
    converse(&c, &mut a).await;
    converse(&a, &mut b).await;
    a.next("a round trip", |notice| match notice {
        SwarmNotice::RoundTrip { millis, .. } if millis > 0.0 => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(a.metric("cocoon_net_peers") >= 3.0);
    assert!(a.metric("libp2p_bandwidth_bytes_total") > 0.0);
    bootstrap.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_goes_on_when_the_bootstrap_is_gone() {
    let (bootstrap, [mut a, mut b, mut c]) = four().await;
    let gone = bootstrap.peer;
    for other in [&mut b, &mut c] {
        a.gossips_to(other).await;
    }
    bootstrap.shut_down().await;
    for node in [&mut a, &mut b, &mut c] {
        node.connected_to(gone).await;
        node.disconnected_from(gone).await;
    }
    a.publish(b"after the bootstrap").await;
    for node in [&mut b, &mut c] {
        let (message, relay, bytes) = node.advert().await;
        assert_eq!(bytes, b"after the bootstrap");
        node.judge(message, relay, Judgement::Accept).await;
    }
    converse(&b, &mut c).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_dials_its_bootstrap_again_when_it_comes_back() {
    let config = quiet();
    let bootstrap = Node::start(config.clone()).await;
    let (peer, at) = (bootstrap.peer, bootstrap.tcp().clone());
    let mut node = Node::start(leaf(&bootstrap)).await;
    node.connected_to(peer).await;
    bootstrap.shut_down().await;
    node.disconnected_from(peer).await;
    let mut port = at;
    port.pop();
    let again = Node::start(NetConfig {
        listen: vec![port],
        ..config
    })
    .await;
    node.connected_to(again.peer).await;
}

/// A killed process says no goodbye: its peers hold a connection that nobody is at the other end of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_killed_and_comes_back_is_heard_again_though_its_old_connection_lingers() {
    let mut bootstrap = Node::start(quiet()).await;
    let config = leaf(&bootstrap);
    let (frozen, is_frozen) = tokio::sync::oneshot::channel();
    let (thaw, thawed) = std::sync::mpsc::channel::<()>();
    let (first_life, at) = (config.clone(), bootstrap.peer);
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let node = runtime.block_on(async {
            let mut node = Node::start(first_life).await;
            node.connected_to(at).await;
            node.publish(b"I am here").await;
            node
        });
        // From here on nothing runs, and no socket is closed.
        frozen.send(()).unwrap();
        let _ = thawed.recv();
        drop(node);
    });
    is_frozen.await.unwrap();
    let (message, relay, bytes) = bootstrap.advert().await;
    assert_eq!(bytes, b"I am here");
    bootstrap.judge(message, relay, Judgement::Accept).await;
    let second_life = Node::start(config).await;
    second_life.publish(b"I am back").await;
    let (_, relay, bytes) = bootstrap.advert().await;
    assert_eq!(
        (relay, bytes.as_slice()),
        (second_life.peer, &b"I am back"[..])
    );
    drop(thaw);
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_never_dialled_is_found_through_the_bootstrap() {
    let mut bootstrap = Node::start(quiet()).await;
    // The client is first and outside of the DHT: it has asked around before there was a worker,
    // and the worker never hears of it. Only a look-up at the moment of the question can help.
    let mut client = Node::start(leaf(&bootstrap)).await;
    client.connected_to(bootstrap.peer).await;
    let mut worker = Node::start(NetConfig {
        bootstrap: vec![bootstrap.tcp().clone()],
        ..quiet()
    })
    .await;
    bootstrap.connected_to(worker.peer).await;
    // The bootstrap learns where the worker listens from identify, a moment after the connection;
    // a client that asks before that is told so, and asks again.
    let asked = worker.peer;
    let answering = tokio::spawn(async move {
        let (peer, _, request, reply) = worker.asked().await;
        assert_eq!(request, b"who");
        reply.send(b"me".to_vec()).unwrap();
        (worker, peer)
    });
    let answer = timeout(LIMIT, async {
        loop {
            match client.ask(asked, Question::Evidence, b"who").await {
                Err(PortError::Unreachable { .. }) => {}
                answer => break answer,
            }
        }
    })
    .await
    .expect("found in time");
    assert_eq!(answer.unwrap(), b"me");
    assert_eq!(answering.await.unwrap().1, client.peer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_nobody_knows_is_unreachable_with_a_reason() {
    let mut hub = Node::start(quiet()).await;
    let mut node = Node::start(leaf(&hub)).await;
    node.connected_to(hub.peer).await;
    hub.connected_to(node.peer).await;
    let nobody = PeerId::random();
    for error in [
        node.ask(nobody, Question::Offer, b"").await.unwrap_err(),
        node.open(nobody).await.err().unwrap(),
    ] {
        let PortError::Unreachable { peer, reason } = error else {
            panic!("{error}");
        };
        assert_eq!(peer, nobody);
        assert!(!reason.is_empty());
    }
    let itself = node.ask(node.peer, Question::Offer, b"").await.unwrap_err();
    assert!(matches!(itself, PortError::Unreachable { .. }), "{itself}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_has_gone_is_unreachable() {
    let gone = Node::start(quiet()).await;
    let peer = gone.peer;
    let mut node = Node::start(leaf(&gone)).await;
    node.connected_to(peer).await;
    gone.shut_down().await;
    node.disconnected_from(peer).await;
    let error = node.ask(peer, Question::Offer, b"").await.unwrap_err();
    assert!(matches!(error, PortError::Unreachable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_closes_connections_and_answers_what_waits() {
    let mut hub = Node::start(quiet()).await;
    let mut node = Node::start(leaf(&hub)).await;
    node.connected_to(hub.peer).await;
    let peer = node.peer;
    let waiting = node.start_ask(hub.peer, Question::Offer, b"never answered");
    let _held = hub.asked().await;
    let commands = node.commands.clone();
    node.shut_down().await;
    assert_eq!(waiting.await.unwrap(), Err(PortError::Stopped));
    hub.connected_to(peer).await;
    hub.disconnected_from(peer).await;
    assert!(commands.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_that_cannot_start_says_why() {
    let node = Node::start(quiet()).await;
    let mut taken = node.tcp().clone();
    taken.pop();
    let config = NetConfig {
        listen: vec![taken.clone()],
        ..quiet()
    };
    let error = spawn(config, &mut Registry::default()).err().unwrap();
    assert!(
        matches!(&error, NetError::Listen { address, .. } if *address == taken),
        "{error}"
    );
    // TEST-NET-1 (RFC 5737) is nobody's.
    let config = NetConfig {
        listen: vec!["/ip4/192.0.2.1/udp/0/quic-v1".parse().unwrap()],
        ..quiet()
    };
    let error = spawn(config, &mut Registry::default()).err().unwrap();
    assert!(matches!(&error, NetError::Listen { .. }), "{error}");
    let config = NetConfig {
        bootstrap: vec![taken.clone()],
        ..quiet()
    };
    let error = spawn(config, &mut Registry::default()).err().unwrap();
    assert!(
        matches!(&error, NetError::BootstrapWithoutPeer { address } if *address == taken),
        "{error}"
    );
}

#[test]
fn a_swarm_outside_of_a_runtime_is_an_error() {
    let error = spawn(quiet(), &mut Registry::default()).err().unwrap();
    assert!(matches!(error, NetError::NoRuntime), "{error}");
}
