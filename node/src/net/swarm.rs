//! The task that owns the swarm: commands in, notices out. What the sockets say is in `events`.

use crate::net::addresses::Reach;
use crate::net::behaviour::{NodeBehaviour, answer_limit, protocol, protocol_version};
use crate::net::company::{Action, Company};
use crate::net::errands::{Errand, PendingAsk, give_up};
use crate::net::gossip::{MAX_QUEUE_PER_PEER, Topics, topic_limit};
use crate::net::limits::{
    MAX_COMMANDS_PER_TURN, MAX_ERRANDS, MAX_REQUEST_BYTES, NetLimits, QuestionGate, millis,
};
use crate::net::metrics::NetMetrics;
use crate::net::questions::reply_limit;
use crate::net::reach::Reaching;
use crate::net::{NetConfig, NetError};
use cocoon_actors::port::{Judgement, PortError, Question, SwarmCommand, SwarmNotice, Topic};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId};
use libp2p::request_response::{OutboundRequestId, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, kad};
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info};

/// How often deadlines and redials are looked at; they are late by at most this.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// How long a shutdown waits for the other ends to close.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);
/// An answer of the actors to a peer's question.
pub(super) struct Answer {
    peer: PeerId,
    question: Question,
    channel: ResponseChannel<Vec<u8>>,
    /// Nothing when the actors refused or took too long.
    bytes: Option<Vec<u8>>,
}

struct Stopping {
    done: Vec<oneshot::Sender<()>>,
    deadline: Instant,
}

/// The swarm and everything that waits for it.
pub(super) struct SwarmTask {
    pub(super) swarm: Swarm<NodeBehaviour>,
    pub(super) topics: Topics,
    pub(super) limits: NetLimits,
    pub(super) version: String,
    pub(super) kad_protocol: StreamProtocol,
    pub(super) protocols: [StreamProtocol; 5],
    pub(super) metrics: NetMetrics,
    pub(super) company: Company,
    /// Connected peers and how near the nearest connection is.
    pub(super) peers: BTreeMap<PeerId, Reach>,
    /// Those of them that dialled us.
    pub(super) callers: BTreeSet<PeerId>,
    pub(super) reaching: Reaching<Errand>,
    pub(super) searches: HashMap<kad::QueryId, PeerId>,
    pub(super) asks: BTreeMap<(u8, OutboundRequestId), PendingAsk>,
    pub(super) gate: QuestionGate,
    pub(super) answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    notices: mpsc::Sender<SwarmNotice>,
    /// Notices that found the queue full. The sockets are polled only while this is empty, so it
    /// holds what one event says and no more.
    outbox: VecDeque<SwarmNotice>,
    listeners: Vec<ListenerId>,
    stopping: Option<Stopping>,
}

impl SwarmTask {
    pub(super) fn new(
        swarm: Swarm<NodeBehaviour>,
        config: &NetConfig,
        bootstrap: Vec<(PeerId, Multiaddr)>,
        metrics: NetMetrics,
        listeners: Vec<ListenerId>,
        notices: mpsc::Sender<SwarmNotice>,
    ) -> Result<Self, NetError> {
        let (network, limits) = (&config.network, &config.limits);
        Ok(Self {
            swarm,
            topics: Topics::of(network),
            version: protocol_version(network),
            kad_protocol: protocol(network, "kad")?,
            // In the order of `rank`.
            protocols: [
                protocol(network, "evidence")?,
                protocol(network, "offer")?,
                protocol(network, "collateral")?,
                protocol(network, "log")?,
                protocol(network, "vault")?,
            ],
            metrics,
            company: Company::new(Instant::now(), bootstrap, limits.wanted_peers),
            peers: BTreeMap::new(),
            callers: BTreeSet::new(),
            reaching: Reaching::new(MAX_ERRANDS, millis(limits.reach_ms)),
            searches: HashMap::new(),
            asks: BTreeMap::new(),
            gate: QuestionGate::new(limits),
            answers: FuturesUnordered::new(),
            notices,
            outbox: VecDeque::new(),
            listeners,
            stopping: None,
            limits: limits.clone(),
        })
    }

    /// Runs until shut down. See the module `net` for why no wait here can be for ever.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<SwarmCommand>) {
        info!(peer = %self.swarm.local_peer_id(), "swarm started");
        let mut clock = tokio::time::interval(HOUSEKEEPING);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        loop {
            tokio::select! {
                command = commands.recv(), if open => {
                    open = command.is_some();
                    self.on_commands(command, &mut commands);
                }
                () = room(&self.notices), if !self.outbox.is_empty() => self.flush(),
                Some(answer) = self.answers.next() => self.on_answer(answer),
                event = self.swarm.select_next_some(), if self.outbox.is_empty() => {
                    self.on_event(Instant::now(), event);
                }
                _ = clock.tick() => self.on_clock(Instant::now()),
            }
            if self.has_stopped(Instant::now()) {
                break;
            }
        }
        info!("swarm stopped");
    }

    fn on_commands(
        &mut self,
        first: Option<SwarmCommand>,
        queue: &mut mpsc::Receiver<SwarmCommand>,
    ) {
        let now = Instant::now();
        let Some(first) = first else {
            debug!("every sender of commands is gone");
            self.stop(now, None);
            return;
        };
        self.on_command(now, first);
        for _ in 1..MAX_COMMANDS_PER_TURN {
            let Ok(command) = queue.try_recv() else { break };
            self.on_command(now, command);
        }
    }

    fn on_command(&mut self, now: Instant, command: SwarmCommand) {
        if self.stopping.is_some() {
            return refuse_stopped(command, &mut self.stopping);
        }
        match command {
            SwarmCommand::Publish {
                topic,
                bytes,
                reply,
            } => drop(reply.send(self.publish(topic, bytes))),
            SwarmCommand::Judge {
                message,
                relay,
                judgement,
            } => self.judge(&MessageId(message.0), &relay, judgement),
            SwarmCommand::Ask {
                peer,
                question,
                request,
                reply,
            } => {
                let (bytes, limit) = (request.len(), MAX_REQUEST_BYTES);
                let errand = Errand::Ask {
                    question,
                    request,
                    reply,
                };
                if bytes > limit {
                    errand.fail(PortError::TooLarge { bytes, limit });
                } else if self.asks.len() >= self.limits.asks {
                    errand.fail(PortError::Full {
                        limit: self.limits.asks,
                    });
                } else {
                    self.send_to(now, peer, errand);
                }
            }
            SwarmCommand::OpenSession { peer, reply } => {
                self.send_to(now, peer, Errand::Session { reply });
            }
            SwarmCommand::Shutdown { done } => self.stop(now, Some(done)),
        }
    }

    fn publish(&mut self, topic: Topic, message: Vec<u8>) -> Result<(), PortError> {
        let (bytes, limit) = (message.len(), topic_limit(topic));
        let too_large = PortError::TooLarge { bytes, limit };
        if bytes > limit {
            return Err(too_large);
        }
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        match gossip.publish(self.topics.ident(topic).clone(), message) {
            // The same bytes went out a moment ago: the mesh has them.
            Ok(_) | Err(gossipsub::PublishError::Duplicate) => Ok(()),
            Err(gossipsub::PublishError::MessageTooLarge) => Err(too_large),
            Err(gossipsub::PublishError::AllQueuesFull(_)) => Err(PortError::Full {
                limit: MAX_QUEUE_PER_PEER,
            }),
            Err(error) => {
                debug!(%error, ?topic, "not published");
                Err(PortError::NobodyListens)
            }
        }
    }

    pub(super) fn judge(&mut self, message: &MessageId, relay: &PeerId, judgement: Judgement) {
        let acceptance = match judgement {
            Judgement::Accept => MessageAcceptance::Accept,
            Judgement::Ignore => MessageAcceptance::Ignore,
            Judgement::Reject => MessageAcceptance::Reject,
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        if !gossip.report_message_validation_result(message, relay, acceptance) {
            debug!(%message, "judged after gossip had forgotten it");
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        self.gate.leave(answer.peer);
        let (peer, question) = (answer.peer, answer.question);
        match answer.bytes {
            // Dropping the channel closes the stream, which the peer reads as "no answer".
            None => self.metrics.refuse("question: no answer of ours"),
            Some(bytes) if bytes.len() > reply_limit(question) => {
                debug!(%peer, ?question, bytes = bytes.len(), "our answer is over the limit");
                self.metrics.refuse("question: our answer too large");
            }
            Some(bytes) => {
                let behaviour = self.swarm.behaviour_mut().question(question);
                if behaviour.send_response(answer.channel, bytes).is_err() {
                    debug!(%peer, ?question, "the peer no longer waits for our answer");
                }
            }
        }
    }

    /// A peer's question that passed the gate: hands it to the actors.
    pub(super) fn hand_over(
        &mut self,
        peer: PeerId,
        question: Question,
        request: Vec<u8>,
        channel: ResponseChannel<Vec<u8>>,
    ) {
        let (reply, answer) = oneshot::channel();
        let limit = answer_limit(&self.limits);
        self.answers.push(Box::pin(async move {
            let bytes = tokio::time::timeout(limit, answer).await;
            Answer {
                peer,
                question,
                channel,
                bytes: bytes.ok().and_then(Result::ok),
            }
        }));
        self.notify(SwarmNotice::Asked {
            peer,
            question,
            request,
            reply,
        });
    }

    /// Tells the actors, now or as soon as there is room.
    pub(super) fn notify(&mut self, notice: SwarmNotice) {
        if self.stopping.is_some() {
            return;
        }
        if !self.outbox.is_empty() {
            self.outbox.push_back(notice);
            return;
        }
        match self.notices.try_send(notice) {
            Ok(()) => {}
            Err(TrySendError::Full(notice)) => {
                self.metrics.stalled.inc();
                self.outbox.push_back(notice);
            }
            Err(TrySendError::Closed(notice)) => self.nobody_listens(notice),
        }
    }

    /// Hands over what waits, as far as there is room.
    fn flush(&mut self) {
        while let Some(notice) = self.outbox.pop_front() {
            match self.notices.try_send(notice) {
                Ok(()) => {}
                Err(TrySendError::Full(notice)) => {
                    self.outbox.push_front(notice);
                    return;
                }
                Err(TrySendError::Closed(notice)) => self.nobody_listens(notice),
            }
        }
    }

    /// Tells the actors what the next one of its kind replaces anyway, if there is room.
    pub(super) fn notify_if_room(&self, notice: SwarmNotice) {
        let _ = self.notices.try_send(notice);
    }

    /// The actors are gone: gossip is not forwarded unjudged, the rest is refused by dropping.
    fn nobody_listens(&mut self, notice: SwarmNotice) {
        if let SwarmNotice::Gossip { message, relay, .. } = notice {
            self.judge(&MessageId(message.0), &relay, Judgement::Ignore);
        }
    }

    fn on_clock(&mut self, now: Instant) {
        for failed in self.reaching.expire(now) {
            give_up(failed);
        }
        let limit_ms = self.limits.answer_ms;
        for (_, ask) in self.asks.extract_if(.., |_, ask| ask.deadline <= now) {
            let error = PortError::TimedOut {
                peer: ask.peer,
                limit_ms,
            };
            let _ = ask.reply.send(Err(error));
        }
        self.gate.forget_rested(now);
        if self.stopping.is_some() {
            return;
        }
        for action in self.company.tick(now, self.peers.len()) {
            match action {
                Action::DialBootstrap(peer, address) => {
                    let dial = DialOpts::peer_id(peer)
                        .condition(PeerCondition::DisconnectedAndNotDialing)
                        .addresses(vec![address])
                        .build();
                    if let Err(error) = self.swarm.dial(dial) {
                        debug!(%peer, %error, "bootstrap node not dialled");
                    }
                }
                Action::Lookup { dial } => self.look_for_company(dial),
            }
        }
    }

    fn look_for_company(&mut self, dial: usize) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        if kad.bootstrap().is_err() {
            return; // An empty routing table: there is nobody to ask.
        }
        let mut strangers: Vec<PeerId> = kad
            .kbuckets()
            .flat_map(|bucket| {
                bucket
                    .iter()
                    .map(|entry| *entry.node.key.preimage())
                    .collect::<Vec<_>>()
            })
            .filter(|peer| !self.peers.contains_key(peer))
            .collect();
        strangers.shuffle(&mut rand::rng());
        for peer in strangers.into_iter().take(dial) {
            let known = DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            if let Err(error) = self.swarm.dial(known) {
                debug!(%peer, %error, "not dialled");
            }
        }
    }

    fn stop(&mut self, now: Instant, done: Option<oneshot::Sender<()>>) {
        let stopping = self.stopping.get_or_insert_with(|| Stopping {
            done: Vec::new(),
            deadline: now.checked_add(SHUTDOWN_LIMIT).unwrap_or(now),
        });
        stopping.done.extend(done);
        for errand in self.reaching.abandon() {
            errand.fail(PortError::Stopped);
        }
        for (_, ask) in std::mem::take(&mut self.asks) {
            let _ = ask.reply.send(Err(PortError::Stopped));
        }
        self.outbox.clear();
        self.answers.clear();
        for listener in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        for peer in self.peers.keys() {
            // An error means that it is gone already.
            let _ = self.swarm.disconnect_peer_id(*peer);
        }
    }

    pub(super) const fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    fn has_stopped(&mut self, now: Instant) -> bool {
        let Some(stopping) = &mut self.stopping else {
            return false;
        };
        if !self.peers.is_empty() && now < stopping.deadline {
            return false;
        }
        for done in stopping.done.drain(..) {
            let _ = done.send(());
        }
        true
    }
}

/// Waits until the actors have taken a notice, or are gone. The place is not held: the task is the
/// only one that sends, so it is still there afterwards.
async fn room(notices: &mpsc::Sender<SwarmNotice>) {
    let _ = notices.reserve().await;
}

fn refuse_stopped(command: SwarmCommand, stopping: &mut Option<Stopping>) {
    match command {
        SwarmCommand::Publish { reply, .. } => drop(reply.send(Err(PortError::Stopped))),
        SwarmCommand::Ask { reply, .. } => drop(reply.send(Err(PortError::Stopped))),
        SwarmCommand::OpenSession { reply, .. } => drop(reply.send(Err(PortError::Stopped))),
        SwarmCommand::Shutdown { done } => {
            if let Some(stopping) = stopping {
                stopping.done.push(done);
            }
        }
        SwarmCommand::Judge { .. } => {}
    }
}
