//! A node under test, held by the ends of its port.

use cocoon::net::limits::NetLimits;
use cocoon::net::{NetConfig, spawn};
use cocoon_actors::port::{
    GossipId, Judgement, PortError, Question, SessionStream, SwarmCommand, SwarmCommands,
    SwarmNotice, SwarmNotices, Topic,
};
use cocoon_protocol::domain::Network;
use cocoon_protocol::ids::{Digest, Keypair, PeerId};
use libp2p::Multiaddr;
use prometheus_client::registry::Registry;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How adverts begin that only find out whether gossip flows; nobody else sees them.
const WARM_UP: &[u8] = b"warm-up ";

/// How long anything may take before a test fails. Only ever reached by a failing test.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The network of the tests, with an attestation root of their own.
pub(crate) fn network(root: u8) -> Network {
    Network {
        id: "test".to_owned(),
        trust_domain: Digest::from_bytes([root; 32]),
    }
}

/// A configuration that listens over TCP and QUIC and looks for nobody by itself.
pub(crate) fn quiet() -> NetConfig {
    let mut config = NetConfig::new(
        Keypair::generate_ed25519(),
        network(1),
        vec![
            "/ip4/127.0.0.1/tcp/0".parse().unwrap(),
            "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(),
        ],
    );
    config.limits = NetLimits {
        wanted_peers: 0,
        ..NetLimits::default()
    };
    config
}

/// A configuration that looks for company, as nodes do.
pub(crate) fn sociable(bootstrap: &[Multiaddr]) -> NetConfig {
    NetConfig {
        bootstrap: bootstrap.to_vec(),
        limits: NetLimits::default(),
        ..quiet()
    }
}

/// A configuration that knows one peer and stays out of the DHT, so that it meets nobody else.
pub(crate) fn leaf(of: &Node) -> NetConfig {
    NetConfig {
        bootstrap: vec![of.tcp().clone()],
        reachable: false,
        ..quiet()
    }
}

/// See the module's doc.
pub(crate) struct Node {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) commands: SwarmCommands,
    pub(crate) task: JoinHandle<()>,
    pub(crate) registry: Registry,
    notices: SwarmNotices,
    /// Notices that came before they were asked for.
    backlog: VecDeque<SwarmNotice>,
}

impl Node {
    /// Starts a node and waits until it listens everywhere.
    pub(crate) async fn start(config: NetConfig) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let (peer, listeners) = (config.keypair.public().to_peer_id(), config.listen.len());
        let mut registry = Registry::default();
        let (commands, notices, task) = spawn(config, &mut registry).unwrap();
        let mut node = Self {
            peer,
            addresses: Vec::new(),
            commands,
            task,
            registry,
            notices,
            backlog: VecDeque::new(),
        };
        for _ in 0..listeners {
            let address = node
                .next("its listening address", |notice| match notice {
                    SwarmNotice::Listening { address } => Ok(address),
                    other => Err(other),
                })
                .await;
            node.addresses.push(address.parse().unwrap());
        }
        node
    }

    fn address(&self, with: &str) -> &Multiaddr {
        let found = self.addresses.iter().find(|a| a.to_string().contains(with));
        found.expect("listens there")
    }
    pub(crate) fn tcp(&self) -> &Multiaddr {
        self.address("/tcp/")
    }
    pub(crate) fn quic(&self) -> &Multiaddr {
        self.address("/quic-v1")
    }

    /// Waits for a notice; `pick` gives back what it does not want.
    pub(crate) async fn next<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(SwarmNotice) -> Result<T, SwarmNotice>,
    ) -> T {
        for _ in 0..self.backlog.len() {
            match pick(self.backlog.pop_front().unwrap()) {
                Ok(found) => return found,
                Err(other) => self.backlog.push_back(other),
            }
        }
        timeout(LIMIT, async {
            loop {
                match pick(self.notices.recv().await.expect("the swarm runs")) {
                    Ok(found) => return found,
                    Err(other) => self.backlog.push_back(other),
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{} waited for {what}", self.peer))
    }

    pub(crate) async fn connected_to(&mut self, wanted: PeerId) {
        self.next("a connection", |notice| match notice {
            SwarmNotice::Connected { peer } if peer == wanted => Ok(()),
            other => Err(other),
        })
        .await;
    }

    pub(crate) async fn disconnected_from(&mut self, wanted: PeerId) {
        self.next("a disconnection", |notice| match notice {
            SwarmNotice::Disconnected { peer } if peer == wanted => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// The next advert by gossip: its id, who relayed it, its bytes.
    pub(crate) async fn advert(&mut self) -> (GossipId, PeerId, Vec<u8>) {
        self.next("an advert", |notice| match notice {
            SwarmNotice::Gossip {
                message,
                relay,
                bytes,
                ..
            } if !bytes.starts_with(WARM_UP) => Ok((message, relay, bytes)),
            other => Err(other),
        })
        .await
    }

    /// Waits until gossip flows from this node to `other` directly. gossipsub forwards to the
    /// peers it knows to be subscribed at that moment, so a test must not begin before.
    pub(crate) async fn gossips_to(&self, other: &mut Self) {
        for attempt in 0u32.. {
            let advert = [WARM_UP, &attempt.to_be_bytes()].concat();
            let heard = other.next("a warm-up", |notice| match notice {
                SwarmNotice::Gossip { relay, bytes, .. }
                    if relay == self.peer && bytes.starts_with(WARM_UP) =>
                {
                    Ok(())
                }
                other => Err(other),
            });
            self.publish(&advert).await;
            if timeout(Duration::from_millis(200), heard).await.is_ok() {
                return;
            }
        }
    }

    /// The next question.
    pub(crate) async fn asked(&mut self) -> (PeerId, Question, Vec<u8>, oneshot::Sender<Vec<u8>>) {
        self.next("a question", |notice| match notice {
            SwarmNotice::Asked {
                peer,
                question,
                request,
                reply,
            } => Ok((peer, question, request, reply)),
            other => Err(other),
        })
        .await
    }

    /// The next inbound session.
    pub(crate) async fn session(&mut self) -> (PeerId, SessionStream) {
        self.next("a session", |notice| match notice {
            SwarmNotice::Session { peer, stream } => Ok((peer, stream)),
            other => Err(other),
        })
        .await
    }

    pub(crate) async fn judge(&self, message: GossipId, relay: PeerId, judgement: Judgement) {
        let command = SwarmCommand::Judge {
            message,
            relay,
            judgement,
        };
        self.commands.send(command).await.expect("runs");
    }

    pub(crate) async fn try_publish(&self, advert: &[u8]) -> Result<(), PortError> {
        let (reply, answer) = oneshot::channel();
        let advert = advert.to_vec();
        let command = SwarmCommand::Publish {
            topic: Topic::Adverts,
            bytes: advert,
            reply,
        };
        self.commands.send(command).await.expect("runs");
        timeout(LIMIT, answer)
            .await
            .expect("in time")
            .expect("answered")
    }

    /// Publishes as soon as a connected peer is known to take part in the gossip.
    pub(crate) async fn publish(&self, advert: &[u8]) {
        until("somebody listens", || async {
            match self.try_publish(advert).await {
                Ok(()) => true,
                Err(PortError::NobodyListens | PortError::Full { .. }) => false,
                Err(error) => panic!("not published: {error}"),
            }
        })
        .await;
    }

    pub(crate) fn start_ask(
        &self,
        peer: PeerId,
        question: Question,
        request: &[u8],
    ) -> oneshot::Receiver<Result<Vec<u8>, PortError>> {
        let (reply, answer) = oneshot::channel();
        let command = SwarmCommand::Ask {
            peer,
            question,
            request: request.to_vec(),
            reply,
        };
        self.commands.try_send(command).expect("has room");
        answer
    }

    pub(crate) async fn ask(
        &self,
        peer: PeerId,
        question: Question,
        request: &[u8],
    ) -> Result<Vec<u8>, PortError> {
        let answer = self.start_ask(peer, question, request);
        timeout(LIMIT, answer)
            .await
            .expect("in time")
            .expect("answered")
    }

    pub(crate) async fn open(&self, peer: PeerId) -> Result<SessionStream, PortError> {
        let (reply, answer) = oneshot::channel();
        let command = SwarmCommand::OpenSession { peer, reply };
        self.commands.try_send(command).expect("has room");
        timeout(LIMIT, answer)
            .await
            .expect("in time")
            .expect("answered")
    }

    /// Shuts the node down and waits for its task to end.
    pub(crate) async fn shut_down(self) {
        let (done, closed) = oneshot::channel();
        let command = SwarmCommand::Shutdown { done };
        self.commands.send(command).await.expect("runs");
        timeout(LIMIT, closed)
            .await
            .expect("in time")
            .expect("answered");
        timeout(LIMIT, self.task).await.expect("in time").unwrap();
    }

    /// The sum of the node's metrics whose lines begin so.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines()
            .filter(|l| l.starts_with(line))
            .filter_map(|l| l.rsplit(' ').next())
            .map(|value| value.parse::<f64>().unwrap())
            .sum()
    }
}

/// Polls a condition that no notice announces.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    timeout(LIMIT, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("waited until {what}"));
}

/// One question from `asker` to `asked`, and its answer: both ends are alive and in their senses.
pub(crate) async fn converse(asker: &Node, asked: &mut Node) {
    let answer = asker.start_ask(asked.peer, Question::Offer, b"how are you");
    let (from, question, request, reply) = asked.asked().await;
    assert_eq!((from, question), (asker.peer, Question::Offer));
    reply.send(request).unwrap();
    let answer = timeout(LIMIT, answer).await.expect("in time").unwrap();
    assert_eq!(answer.unwrap(), b"how are you");
}
