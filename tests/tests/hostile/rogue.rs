//! A hostile peer: a bare libp2p swarm that speaks our protocol names and nothing else of ours, so
//! that it can send any bytes anywhere.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::time::Duration;

use cocoon::net::limits::MAX_EVIDENCE_REPLY_BYTES;
use cocoon::net::questions::{read_frame, write_frame};
use cocoon_protocol::Advert;
use cocoon_protocol::advert::decode_advert;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, PublishError, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::mesh::{LIMIT, network, wait};

#[derive(NetworkBehaviour)]
struct Hostile {
    streams: libp2p_stream::Behaviour,
    gossip: gossipsub::Behaviour,
}

type Published = Result<(), PublishError>;

/// See the module's doc.
pub(crate) struct Rogue {
    pub(crate) key: Keypair,
    pub(crate) peer: PeerId,
    victim: PeerId,
    control: libp2p_stream::Control,
    publish: mpsc::Sender<(Vec<u8>, oneshot::Sender<Published>)>,
    heard: watch::Receiver<BTreeMap<PeerId, Advert>>,
}

/// The peer that an address ends in.
pub(crate) fn peer_of(address: &Multiaddr) -> PeerId {
    match address.iter().last() {
        Some(libp2p::multiaddr::Protocol::P2p(peer)) => peer,
        _ => panic!("{address} names no peer"),
    }
}

impl Rogue {
    /// A stranger with a new identity, connected to whoever listens there.
    pub(crate) async fn connect(victim: &Multiaddr) -> Self {
        let key = Keypair::generate_ed25519();
        let mut swarm = SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| Hostile {
                streams: libp2p_stream::Behaviour::new(),
                gossip: gossip(),
            })
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
            .build();
        let topic = IdentTopic::new(network().topic("adverts"));
        swarm.behaviour_mut().gossip.subscribe(&topic).unwrap();
        swarm.dial(victim.clone()).unwrap();
        timeout(LIMIT, async {
            while !matches!(
                swarm.select_next_some().await,
                SwarmEvent::ConnectionEstablished { .. }
            ) {}
        })
        .await
        .expect("a connection");
        let control = swarm.behaviour().streams.new_control();
        let (publish, mut orders) = mpsc::channel::<(Vec<u8>, oneshot::Sender<Published>)>(8);
        let (hear, heard) = watch::channel(BTreeMap::new());
        let again = victim.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    order = orders.recv() => {
                        let Some((bytes, reply)) = order else { break };
                        let gossip = &mut swarm.behaviour_mut().gossip;
                        let _ = reply.send(gossip.publish(topic.clone(), bytes).map(drop));
                    }
                    event = swarm.select_next_some() => match event {
                        // A node may close what it has no use for.
                        SwarmEvent::ConnectionClosed { num_established: 0, .. } => {
                            let _ = swarm.dial(again.clone());
                        }
                        SwarmEvent::Behaviour(HostileEvent::Gossip(
                            gossipsub::Event::Message { message, .. },
                        )) => {
                            if let Ok(advert) = decode_advert(&message.data) {
                                hear.send_modify(|heard| {
                                    heard.insert(advert.peer, (*advert).clone());
                                });
                            }
                        }
                        _ => {}
                    }
                }
            }
        });
        Self {
            peer: key.public().to_peer_id(),
            key,
            victim: peer_of(victim),
            control,
            publish,
            heard,
        }
    }

    /// What a peer says about itself, as soon as it is heard.
    pub(crate) async fn advert_of(&self, peer: PeerId) -> Advert {
        let mut heard = self.heard.clone();
        let heard = timeout(LIMIT, heard.wait_for(|heard| heard.contains_key(&peer)));
        heard.await.expect("in time").unwrap()[&peer].clone()
    }

    /// A raw stream under one of our protocol names.
    pub(crate) async fn open(&self, name: &str) -> Stream {
        let protocol = StreamProtocol::try_from_owned(network().protocol(name)).unwrap();
        let mut control = self.control.clone();
        timeout(LIMIT, control.open_stream(self.victim, protocol))
            .await
            .expect("in time")
            .expect("a stream")
    }

    /// One question, framed as it should be. `None` where the stream was closed without an answer.
    pub(crate) async fn ask(&self, name: &str, question: &[u8]) -> Option<Vec<u8>> {
        let mut stream = self.open(name).await;
        write_frame(&mut stream, question, usize::MAX).await.ok()?;
        stream.close().await.ok()?;
        timeout(LIMIT, read_frame(&mut stream, MAX_EVIDENCE_REPLY_BYTES))
            .await
            .expect("an answer or the end of the stream")
            .ok()
    }

    /// Writes anything, and returns what came until the other end closed the stream.
    pub(crate) async fn say(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.open(name).await;
        // The other end may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.close().await;
        rest(&mut stream).await
    }

    /// Hands bytes to gossip, as soon as it knows that the victim listens.
    pub(crate) async fn gossip(&self, bytes: &[u8]) {
        wait("gossip takes the rogue's bytes", async || {
            let (reply, published) = oneshot::channel();
            self.publish.send((bytes.to_vec(), reply)).await.unwrap();
            matches!(
                published.await.unwrap(),
                Ok(()) | Err(PublishError::Duplicate)
            )
        })
        .await;
    }
}

fn gossip() -> gossipsub::Behaviour {
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(network().protocol("gossip"))
        .validation_mode(ValidationMode::Anonymous)
        .message_id_fn(|message: &gossipsub::Message| gossipsub::MessageId(message.data.clone()))
        .max_transmit_size(1 << 20)
        .build()
        .unwrap();
    gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config).unwrap()
}

/// Everything until the stream ends, in whatever way it ends.
pub(crate) async fn rest(stream: &mut Stream) -> Vec<u8> {
    let mut got = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut got))
        .await
        .expect("the end of the stream");
    got
}

/// Bytes that look like nothing, the same each run.
pub(crate) fn garbage(length: usize) -> Vec<u8> {
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
