//! The mesh actor: the one that speaks to the swarm.
//!
//! It owns the swarm's command queue and knows which peers are connected and how far away they
//! are. [`pump`] is the other direction: a task that takes the swarm's notices in order and hands
//! each to the actor it concerns, waiting for an answer where gossip or a peer waits for one.

use crate::ask::{Address, Ask, AskError, Named, Query, ask, tell, tell_surely};
use crate::attestor::{Attestor, OwnEvidence};
use crate::cashier::Cashier;
use crate::cashier::releasing::ReleaseAsked;
use crate::clock;
use crate::collateral::CollateralKeeper;
use crate::directory::{Directory, Judge};
use crate::log_watch::{AnswerLog, JudgeNews, LogWatch};
use crate::metrics::Metrics;
use crate::negotiator::{Negotiator, Quote};
use crate::port::{
    GossipId, Judgement, MAX_SWARM_COMMANDS, PortError, Question, SessionStream, SwarmCommand,
    SwarmCommands, SwarmNotice, SwarmNotices, Topic,
};
use crate::vault::VaultAsked;
use actix::prelude::*;
use cocoon_protocol::advert::decode_advert;
use cocoon_protocol::ids::PeerId;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

/// Inbound sessions waiting for a job task; one more is closed at once.
pub const MAX_WAITING_SESSIONS: usize = 16;

/// See the module's doc.
pub struct Mesh {
    commands: SwarmCommands,
    peers: BTreeMap<PeerId, Option<f64>>,
    listening: Vec<String>,
    metrics: Metrics,
}

impl Mesh {
    /// A mesh actor in front of a running swarm.
    #[must_use]
    pub fn new(commands: SwarmCommands, metrics: Metrics) -> Self {
        Self {
            commands,
            peers: BTreeMap::new(),
            listening: Vec::new(),
            metrics,
        }
    }

    /// Hands a command to the swarm; if its queue does not take it, whoever waits hears why.
    fn command(&self, command: SwarmCommand) {
        let (command, error) = match self.commands.try_send(command) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(command)) => {
                let limit = MAX_SWARM_COMMANDS;
                (command, PortError::Full { limit })
            }
            Err(mpsc::error::TrySendError::Closed(command)) => (command, PortError::Stopped),
        };
        warn!(%error, "the swarm did not take a command");
        match command {
            SwarmCommand::Publish { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            SwarmCommand::Ask { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            SwarmCommand::OpenSession { reply, .. } => {
                let _ = reply.send(Err(error));
            }
            // Gossipsub forgets an unjudged message by itself.
            SwarmCommand::Judge { .. } => {}
            // Dropping the slot says that nothing is left to close.
            SwarmCommand::Shutdown { .. } => {}
        }
    }
}

impl Named for Mesh {
    const NAME: &'static str = "mesh";
}
impl Actor for Mesh {
    type Context = Context<Self>;
}
impl Supervised for Mesh {}

impl Handler<crate::supervision::Stop> for Mesh {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// Publishes to the mesh.
#[derive(Debug)]
pub struct Publish {
    /// Under which topic.
    pub topic: Topic,
    /// The message.
    pub bytes: Vec<u8>,
}
impl Query for Publish {
    type Answer = Result<(), PortError>;
}
impl Handler<Ask<Publish>> for Mesh {
    type Result = ();
    fn handle(&mut self, asked: Ask<Publish>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        self.command(SwarmCommand::Publish {
            topic: query.topic,
            bytes: query.bytes,
            reply: reply.into_sender(),
        });
    }
}

/// Asks a peer over one of the request-response protocols.
#[derive(Debug)]
pub struct AskPeer {
    /// Whom.
    pub peer: PeerId,
    /// Over which protocol.
    pub question: Question,
    /// The encoded request.
    pub request: Vec<u8>,
}
impl Query for AskPeer {
    type Answer = Result<Vec<u8>, PortError>;
}
impl Handler<Ask<AskPeer>> for Mesh {
    type Result = ();
    fn handle(&mut self, asked: Ask<AskPeer>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        self.command(SwarmCommand::Ask {
            peer: query.peer,
            question: query.question,
            request: query.request,
            reply: reply.into_sender(),
        });
    }
}

/// Opens a session stream to a peer.
#[derive(Debug)]
pub struct OpenSession(pub PeerId);
impl Query for OpenSession {
    type Answer = Result<SessionStream, PortError>;
}
impl Handler<Ask<OpenSession>> for Mesh {
    type Result = ();
    fn handle(&mut self, asked: Ask<OpenSession>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        self.command(SwarmCommand::OpenSession {
            peer: query.0,
            reply: reply.into_sender(),
        });
    }
}

/// Who is connected, how far away, and where we listen.
#[derive(Debug)]
pub struct ViewMesh;
/// The answer to [`ViewMesh`].
#[derive(Clone, Debug, Default)]
pub struct MeshView {
    /// Connected peers with the last measured round trip in milliseconds.
    pub peers: BTreeMap<PeerId, Option<f64>>,
    /// Our listening multiaddrs.
    pub listening: Vec<String>,
}
impl Query for ViewMesh {
    type Answer = MeshView;
}
impl Handler<Ask<ViewMesh>> for Mesh {
    type Result = ();
    fn handle(&mut self, asked: Ask<ViewMesh>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send(MeshView {
            peers: self.peers.clone(),
            listening: self.listening.clone(),
        });
    }
}

/// Closes every connection and ends the swarm's task.
#[derive(Debug)]
pub struct Disconnect;
impl Query for Disconnect {
    type Answer = ();
}
impl Handler<Ask<Disconnect>> for Mesh {
    type Result = ();
    fn handle(&mut self, asked: Ask<Disconnect>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        self.command(SwarmCommand::Shutdown {
            done: reply.into_sender(),
        });
    }
}

/// What the pump tells the actor about peers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
enum Link {
    Up(PeerId),
    Down(PeerId),
    RoundTrip(PeerId, f64),
    Listening(String),
    Judge(GossipId, PeerId, Judgement),
}

impl Handler<Link> for Mesh {
    type Result = ();
    fn handle(&mut self, link: Link, _: &mut Self::Context) {
        match link {
            Link::Up(peer) => {
                self.peers.insert(peer, None);
            }
            Link::Down(peer) => {
                self.peers.remove(&peer);
            }
            Link::RoundTrip(peer, millis) => {
                if let Some(measured) = self.peers.get_mut(&peer) {
                    *measured = Some(millis);
                }
            }
            Link::Listening(address) => {
                if !self.listening.contains(&address) {
                    info!(%address, "listening");
                    self.listening.push(address);
                }
            }
            Link::Judge(message, relay, judgement) => self.command(SwarmCommand::Judge {
                message,
                relay,
                judgement,
            }),
        }
        self.metrics
            .peers
            .set(i64::try_from(self.peers.len()).unwrap_or(i64::MAX));
    }
}

/// Whom the pump wakes for what. A role that a node does not have is `None`.
pub struct Inbox {
    /// Peers, commands.
    pub mesh: Address<Mesh>,
    /// Judges adverts.
    pub directory: Address<Directory>,
    /// Answers evidence requests (workers).
    pub attestor: Option<Address<Attestor>>,
    /// Answers quote requests (workers).
    pub negotiator: Option<Address<Negotiator>>,
    /// Watches the log of guest images (where the policy names one).
    pub log: Option<Address<LogWatch>>,
    /// Answers requests for collateral (not bootstrap nodes).
    pub collateral: Option<Arc<CollateralKeeper>>,
    /// Takes inbound sessions (workers).
    pub sessions: Option<mpsc::Sender<(PeerId, SessionStream)>>,
    /// Answers clients that want to close a channel together (workers).
    pub cashier: Option<Address<Cashier>>,
    /// Takes requests for keys (vaults).
    pub vault: Option<mpsc::Sender<VaultAsked>>,
}

/// Hands the swarm's notices on until the swarm ends. What says who is connected waits for room in
/// the mesh actor's mailbox: a lost "gone" would leave a ghost in every status.
pub async fn pump(mut notices: SwarmNotices, inbox: Inbox) {
    while let Some(notice) = notices.recv().await {
        if let Err(error) = inbox.take(notice).await {
            debug!(%error, "notice dropped");
        }
    }
}

impl Inbox {
    /// Hands on what the swarm said before there was anybody to hear it.
    pub async fn catch_up(&self, earlier: Vec<SwarmNotice>) {
        for notice in earlier {
            if let Err(error) = self.take(notice).await {
                debug!(%error, "earlier notice dropped");
            }
        }
    }

    async fn take(&self, notice: SwarmNotice) -> Result<(), AskError> {
        match notice {
            SwarmNotice::Gossip {
                topic,
                message,
                relay,
                bytes,
            } => {
                let judgement = match topic {
                    Topic::Adverts => self.judge(&bytes, relay).await,
                    Topic::Log => self.judge_news(bytes, relay).await,
                };
                tell_surely(&self.mesh, Link::Judge(message, relay, judgement)).await
            }
            SwarmNotice::Asked {
                peer,
                question,
                request,
                reply,
            } => self.answer(peer, question, request, reply).await,
            SwarmNotice::Session { peer, stream } => {
                if let Some(sessions) = &self.sessions
                    && sessions.try_send((peer, stream)).is_err()
                {
                    warn!(%peer, limit = MAX_WAITING_SESSIONS, "session refused: too many wait");
                }
                Ok(())
            }
            SwarmNotice::Connected { peer } => tell_surely(&self.mesh, Link::Up(peer)).await,
            SwarmNotice::Disconnected { peer } => tell_surely(&self.mesh, Link::Down(peer)).await,
            SwarmNotice::RoundTrip { peer, millis } => {
                tell(&self.mesh, Link::RoundTrip(peer, millis))
            }
            SwarmNotice::Listening { address } => {
                tell_surely(&self.mesh, Link::Listening(address)).await
            }
        }
    }

    /// A node whose policy names no log cannot tell news from noise: it neither passes it on nor blames anybody.
    async fn judge_news(&self, bytes: Vec<u8>, relay: PeerId) -> Judgement {
        match &self.log {
            Some(watch) => ask(watch, JudgeNews { relay, bytes })
                .await
                .unwrap_or(Judgement::Ignore),
            None => Judgement::Ignore,
        }
    }

    async fn judge(&self, bytes: &[u8], relay: PeerId) -> Judgement {
        match decode_advert(bytes) {
            Ok(advert) => ask(&self.directory, Judge { advert })
                .await
                // A busy directory must not punish the relay.
                .unwrap_or(Judgement::Ignore),
            Err(error) => {
                debug!(%relay, %error, "invalid advert");
                Judgement::Reject
            }
        }
    }

    async fn answer(
        &self,
        peer: PeerId,
        question: Question,
        request: Vec<u8>,
        reply: oneshot::Sender<Vec<u8>>,
    ) -> Result<(), AskError> {
        let answer = match question {
            Question::Evidence => match &self.attestor {
                Some(attestor) => ask(attestor, OwnEvidence { request }).await?,
                None => None,
            },
            Question::Collateral => self
                .collateral
                .as_ref()
                .and_then(|keeper| keeper.answer(clock::now(), &request)),
            Question::Log => match &self.log {
                Some(watch) => ask(watch, AnswerLog { request }).await?,
                None => None,
            },
            Question::Offer => match &self.negotiator {
                Some(negotiator) => {
                    ask(
                        negotiator,
                        Quote {
                            now: clock::now(),
                            client: peer,
                            request,
                        },
                    )
                    .await?
                }
                None => None,
            },
            // Its answer takes a look at the chain, so nobody waits for it here.
            Question::Release => {
                return match &self.cashier {
                    Some(cashier) => tell(
                        cashier,
                        ReleaseAsked {
                            peer,
                            request,
                            reply,
                        },
                    ),
                    None => Ok(()),
                };
            }
            // Its answer takes a conversation with the same peer, so nobody waits for it here.
            Question::Vault => {
                if let Some(vault) = &self.vault
                    && vault
                        .try_send(VaultAsked {
                            peer,
                            request,
                            reply,
                        })
                        .is_err()
                {
                    warn!(%peer, "request for a key refused: too many wait");
                }
                return Ok(());
            }
        };
        // Dropping the slot refuses the request: a node of another role, or bytes that are none.
        if let Some(answer) = answer {
            let _ = reply.send(answer);
        }
        Ok(())
    }
}
