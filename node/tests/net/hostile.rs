//! Strangers' bytes at every door. Each time the node must be alive afterwards, for others too.

use crate::node::{LIMIT, Node, converse, leaf, quiet, until};
use crate::rogue::Rogue;
use cocoon::net::limits::MAX_REQUEST_BYTES;
use cocoon_actors::port::{Judgement, PortError, Question, SwarmNotice};
use cocoon_protocol::advert::MAX_ADVERT_BYTES;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// A node and an honest neighbour of it.
async fn pair() -> (Node, Node) {
    let mut node = Node::start(quiet()).await;
    let mut honest = Node::start(leaf(&node)).await;
    honest.connected_to(node.peer).await;
    node.connected_to(honest.peer).await;
    (node, honest)
}

fn port(address: &Multiaddr) -> u16 {
    address
        .iter()
        .find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        })
        .unwrap()
}

/// Bytes that look like nothing, the same each run.
fn garbage(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(length)
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_bare_ports_is_dropped() {
    let (mut node, honest) = pair().await;
    let mut idle = Vec::new();
    for length in [0, 1, 20, 70_000] {
        let mut socket = TcpStream::connect(("127.0.0.1", port(node.tcp())))
            .await
            .unwrap();
        // The node may close before it has read everything.
        let _ = socket.write_all(&garbage(length)).await;
        if length > 20 {
            let mut sink = Vec::new();
            let _ = timeout(LIMIT, socket.read_to_end(&mut sink)).await.unwrap();
        } else {
            idle.push(socket);
        }
    }
    let datagrams = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    for length in [1, 100, 1200, 1472] {
        let to = ("127.0.0.1", port(node.quic()));
        datagrams.send_to(&garbage(length), to).await.unwrap();
    }
    converse(&honest, &mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_question_protocols_closes_the_stream_and_no_more() {
    let (mut node, honest) = pair().await;
    let rogue = Rogue::connect(&mut node).await;
    let too_long = u32::try_from(MAX_REQUEST_BYTES + 1).unwrap().to_be_bytes();
    let cut_short = [&100u32.to_be_bytes()[..], b"only this"].concat();
    for name in ["evidence", "offer"] {
        for bytes in [&[0xff; 9][..], &too_long, &cut_short, &garbage(10_000), b""] {
            let mut stream = rogue.open(&node, name).await;
            let _ = stream.write_all(bytes).await;
            let _ = stream.close().await;
            let mut answer = Vec::new();
            let _ = timeout(LIMIT, stream.read_to_end(&mut answer))
                .await
                .unwrap();
            assert!(answer.is_empty());
        }
    }
    converse(&honest, &mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_a_session_reaches_only_that_session() {
    let (mut node, honest) = pair().await;
    let rogue = Rogue::connect(&mut node).await;
    let mut stream = rogue.open(&node, "session").await;
    stream.write_all(&garbage(5_000)).await.unwrap();
    stream.close().await.unwrap();
    let (peer, mut session) = node.session().await;
    assert_eq!(peer, rogue.peer);
    let mut got = Vec::new();
    timeout(LIMIT, session.read_to_end(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, garbage(5_000));
    converse(&honest, &mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_none_is_a_typed_error() {
    let (mut node, _honest) = pair().await;
    let rogue = Rogue::connect(&mut node).await;
    let mut streams = rogue.accept("evidence");
    let answers = [
        u32::MAX.to_be_bytes().to_vec(),
        [&10u32.to_be_bytes()[..], b"short"].concat(),
        Vec::new(),
    ];
    let count = answers.len();
    tokio::spawn(async move {
        for bytes in answers {
            let (_, mut stream) = streams.next().await.unwrap();
            let _ = stream.write_all(&bytes).await;
            let _ = stream.close().await;
        }
    });
    for _ in 0..count {
        let error = node
            .ask(rogue.peer, Question::Evidence, b"")
            .await
            .unwrap_err();
        assert!(matches!(error, PortError::NoAnswer { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversize_gossip_is_never_delivered_and_the_node_goes_on() {
    let (mut node, honest) = pair().await;
    let rogue = Rogue::connect(&mut node).await;
    // Just over the advert's limit, which gossip's framing lets through.
    rogue.gossip(&garbage(MAX_ADVERT_BYTES + 1)).await;
    until("it is refused", || async {
        node.metric("cocoon_net_refused_total{what=\"gossip: too large\"}") >= 1.0
    })
    .await;
    // Over the message's, and over the frame's.
    for length in [5_000, 200_000] {
        rogue.gossip(&garbage(length)).await;
    }
    honest.publish(b"a small one").await;
    let (message, relay, bytes) = node.advert().await;
    assert_eq!(
        (bytes.as_slice(), relay),
        (&b"a small one"[..], honest.peer)
    );
    node.judge(message, relay, Judgement::Accept).await;
    converse(&honest, &mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_sessions_from_one_peer_leaves_room_for_others() {
    let (mut node, honest) = pair().await;
    let rogue = Rogue::connect(&mut node).await;
    let mut held = Vec::new();
    let mut opened = 0;
    while opened < 40 {
        held.push(rogue.open(&node, "session").await);
        opened += 1;
    }
    until("the flood is cut off", || async {
        node.metric("cocoon_net_refused_total{what=\"session: limit\"}") >= 32.0
    })
    .await;
    let _ours = honest.open(node.peer).await.unwrap();
    let honest_peer = honest.peer;
    let mut taken = 0;
    // Held, not dropped: a dropped session gives its place back.
    let mut sessions = Vec::new();
    node.next("the honest session", |notice| match notice {
        SwarmNotice::Session { peer, stream } => {
            sessions.push(stream);
            taken += usize::from(peer != honest_peer);
            if peer == honest_peer {
                Ok(())
            } else {
                Err(SwarmNotice::Connected { peer })
            }
        }
        other => Err(other),
    })
    .await;
    assert_eq!(taken, 8);
}
