//! A hostile peer: a bare libp2p swarm that speaks our protocol names and nothing else of ours.

use crate::node::{LIMIT, Node, network, until};
use futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, Stream, StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

#[derive(NetworkBehaviour)]
struct Hostile {
    streams: libp2p_stream::Behaviour,
    gossip: gossipsub::Behaviour,
}

type Published = Result<(), gossipsub::PublishError>;

/// See the module's doc.
pub(crate) struct Rogue {
    pub(crate) peer: PeerId,
    control: libp2p_stream::Control,
    publish: mpsc::Sender<(Vec<u8>, oneshot::Sender<Published>)>,
}

/// A protocol of the tests' network.
pub(crate) fn protocol(name: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(network(1).protocol(name)).unwrap()
}

impl Rogue {
    /// A rogue connected to `target`, by TCP.
    pub(crate) async fn connect(target: &mut Node) -> Self {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| {
                let config = gossipsub::ConfigBuilder::default()
                    .protocol_id_prefix(network(1).protocol("gossip"))
                    .validation_mode(ValidationMode::Anonymous)
                    .message_id_fn(|message: &gossipsub::Message| {
                        gossipsub::MessageId(message.data.clone())
                    })
                    .max_transmit_size(1 << 20)
                    .build()
                    .unwrap();
                Hostile {
                    streams: libp2p_stream::Behaviour::new(),
                    gossip: gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config)
                        .unwrap(),
                }
            })
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
            .build();
        let topic = IdentTopic::new(network(1).topic("adverts"));
        swarm.behaviour_mut().gossip.subscribe(&topic).unwrap();
        swarm.dial(target.tcp().clone()).unwrap();
        timeout(LIMIT, async {
            while !matches!(
                swarm.select_next_some().await,
                SwarmEvent::ConnectionEstablished { .. }
            ) {}
        })
        .await
        .unwrap();
        let peer = *swarm.local_peer_id();
        let control = swarm.behaviour().streams.new_control();
        let (publish, mut orders) = mpsc::channel::<(Vec<u8>, oneshot::Sender<Published>)>(8);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    order = orders.recv() => {
                        let Some((bytes, reply)) = order else { break };
                        let gossip = &mut swarm.behaviour_mut().gossip;
                        let _ = reply.send(gossip.publish(topic.clone(), bytes).map(drop));
                    }
                    _ = swarm.select_next_some() => {}
                }
            }
        });
        target.connected_to(peer).await;
        Self {
            peer,
            control,
            publish,
        }
    }

    /// A raw stream under one of our protocol names.
    pub(crate) async fn open(&self, to: &Node, name: &str) -> Stream {
        let mut control = self.control.clone();
        let opened = control.open_stream(to.peer, protocol(name));
        timeout(LIMIT, opened).await.unwrap().unwrap()
    }

    /// Takes streams under one of our protocol names.
    pub(crate) fn accept(&self, name: &str) -> libp2p_stream::IncomingStreams {
        self.control.clone().accept(protocol(name)).unwrap()
    }

    /// Hands these bytes to gossip, as soon as it knows that the target listens.
    pub(crate) async fn gossip(&self, bytes: &[u8]) {
        until("gossip takes the rogue's bytes", || async {
            let (reply, published) = oneshot::channel();
            self.publish.send((bytes.to_vec(), reply)).await.unwrap();
            matches!(
                published.await.unwrap(),
                Ok(()) | Err(gossipsub::PublishError::Duplicate)
            )
        })
        .await;
    }
}
