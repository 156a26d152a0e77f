//! Watches that everybody is shown one log of guest images.
//!
//! A thin shell around [`LogHeads`]: heads come by gossip and in the proofs of workers' evidence, questions about
//! them go to peers, what is new goes out again. The largest head and a split view, once seen, are kept on disk, so
//! that neither a restart nor patience makes a node forget them. An alarm stays until people have chosen other
//! rebuilders or another log.
//!
//! Where the operator names a registry, the head that is written on chain there is compared too: everybody reads the same
//! chain, so whoever was shown another log finds out without meeting anybody.

use crate::ask::{Address, Ask, Named, Query, ask, tell};
use crate::clock;
use crate::mesh::{AskPeer, Mesh, Publish};
use crate::metrics::Metrics;
use crate::port::{Judgement, Question, Topic};
use actix::prelude::*;
use cocoon_attestation::log::RebuilderSet;
use cocoon_protocol::ids::PeerId;
use cocoon_protocol::log::{ConsistencyReply, ConsistencyRequest, LogNews, TreeHead};
use cocoon_protocol::log_heads::{HeadsInput, HeadsOutput, LogHeads, SignedHead};
use cocoon_protocol::{Digest, TonAddress};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::registry::{AgainstChain, compare_heads, fetch_registry, log_key};
use cocoon_settlement::ledger::KeptLogNews;
use cocoon_settlement::store::{Store, StoreError, WriteBatch, load};
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// How often the state machine looks at its clocks.
const TICK: Duration = Duration::from_secs(1);
/// How often the largest head is shown to everybody. Longer than gossip remembers a message, or it would not go out.
const NEWS_INTERVAL: Duration = Duration::from_secs(150);
/// How often the head on chain is read. Its changes wait an hour at least.
const REGISTRY_INTERVAL: Duration = Duration::from_secs(600);
/// Questions to peers under way at once.
const MAX_QUESTIONS: usize = 8;

/// See the module's doc.
pub struct LogWatch {
    heads: LogHeads<RebuilderSet>,
    origin: String,
    /// What is kept on disk is filed under log, rebuilders and threshold: new ones begin anew.
    place: Digest,
    /// Leaf hashes of the log, on a node whose operator keeps a copy; it answers any question.
    leaves: Arc<[Digest]>,
    asking: usize,
    store: Arc<dyn Store>,
    mesh: Address<Mesh>,
    metrics: Metrics,
    registry: Option<Registry>,
    /// The log's head there, as it was read last.
    on_chain: Option<TreeHead>,
    /// The log on chain is not the one that this node was shown.
    contradicted: bool,
}

/// A registry on chain, to compare the log with.
#[derive(Clone)]
pub struct Registry {
    /// Where it is read.
    pub chain: Arc<dyn Chain>,
    /// The contract.
    pub address: TonAddress,
}

impl LogWatch {
    /// Goes on from what an earlier run has kept.
    ///
    /// # Errors
    /// The store's.
    pub fn new(
        rebuilders: RebuilderSet,
        leaves: Vec<Digest>,
        store: Arc<dyn Store>,
        mesh: Address<Mesh>,
        metrics: Metrics,
        registry: Option<Registry>,
    ) -> Result<Self, StoreError> {
        let place = place(&rebuilders);
        let origin = rebuilders.origin().to_owned();
        let kept = load::<KeptLogNews>(&store, place.as_bytes())?;
        let kept = kept.and_then(|kept| LogNews::decode(&kept.news).ok());
        let heads = match kept {
            None => LogHeads::new(rebuilders),
            Some(LogNews::Head(checkpoint)) => LogHeads::resume(rebuilders.clone(), &checkpoint)
                .unwrap_or_else(|| LogHeads::new(rebuilders)),
            Some(LogNews::SplitView(split)) => LogHeads::alarmed(rebuilders, split),
        };
        if heads.alarm().is_some() {
            metrics.log_split_view.set(1);
            error!(log = %origin, "{SPLIT}");
        }
        Ok(Self {
            heads,
            origin,
            place,
            leaves: leaves.into(),
            asking: 0,
            store,
            mesh,
            metrics,
            registry,
            on_chain: None,
            contradicted: false,
        })
    }

    /// Reads the log's head on chain and compares.
    fn look_at_registry(&self, context: &mut Context<Self>) {
        let Some(Registry { chain, address }) = self.registry.clone() else {
            return;
        };
        let reading = async move {
            match fetch_registry(chain.as_ref(), address).await {
                Ok(state) => state,
                Err(error) => {
                    warn!(%address, %error, "the registry was not read; the log was not compared with it");
                    None
                }
            }
        };
        context.spawn(reading.into_actor(self).map(|state, actor: &mut Self, _| {
            let head = state.and_then(|state| state.logs.get(&log_key(&actor.origin)).copied());
            actor.on_chain = head.or(actor.on_chain);
            actor.compare();
        }));
    }

    /// A head that this node's own copies cannot judge is left to a later look: the chain's waits for nobody's delay.
    fn compare(&mut self) {
        let Some(on_chain) = self.on_chain else {
            return;
        };
        let seen: Vec<_> = self
            .heads
            .largest()
            .map(SignedHead::head)
            .into_iter()
            .collect();
        let other = match compare_heads(&seen, on_chain) {
            _ if self.heads.is_proven(on_chain) => None,
            AgainstChain::Same | AgainstChain::Nothing => None,
            AgainstChain::Split { seen, .. } => Some(seen),
            AgainstChain::Ask { older, request } => {
                let reply = match request.answer(&self.leaves) {
                    found @ ConsistencyReply::Found(_) => found,
                    ConsistencyReply::NotFound => self.heads.answer(&request),
                };
                match reply {
                    ConsistencyReply::Found(found) if found.older_root != older.root => Some(older),
                    ConsistencyReply::Found(_) => None,
                    ConsistencyReply::NotFound => {
                        debug!(log = %self.origin, entries = on_chain.size, "the registry's head is of another size, and no copy of the log is here");
                        None
                    }
                }
            }
        };
        if let Some(other) = other
            && !self.contradicted
        {
            self.contradicted = true;
            self.metrics.log_split_view.set(1);
            error!(
                log = %self.origin,
                entries = on_chain.size,
                on_chain = %on_chain.root,
                shown = %other.root,
                "SPLIT VIEW: the registry's log is not the one that this node was shown. No image is admitted by it any more"
            );
        }
    }

    /// Feeds the state machine; says whether it wants this passed on and whether somebody is at fault.
    fn drive(&mut self, input: HeadsInput, context: &mut Context<Self>) -> Driven {
        let mut driven = Driven::default();
        for output in self.heads.handle(clock::now(), input) {
            match output {
                HeadsOutput::Ask { peer, request } => self.question(peer, request, context),
                HeadsOutput::Forward(news) => driven.forward = Some(news),
                HeadsOutput::Adopted(signed) => {
                    info!(log = %self.origin, entries = signed.head().size, "the log has grown");
                    self.keep(&LogNews::Head(signed.checkpoint().to_vec()), context);
                    self.compare();
                }
                HeadsOutput::Unproven(signed) => {
                    warn!(
                        log = %self.origin,
                        entries = signed.head().size,
                        "nobody could show that this signed head is of the log that others see"
                    );
                }
                HeadsOutput::Alarm(split) => {
                    error!(log = %self.origin, "{SPLIT}");
                    self.metrics.log_split_view.set(1);
                    let news = LogNews::SplitView(*split);
                    self.keep(&news, context);
                    driven.forward = Some(news);
                }
                HeadsOutput::Refused { peer, fault } => {
                    debug!(%peer, %fault, "refused news of the log");
                    driven.faulty = true;
                }
            }
        }
        driven
    }

    /// Answers from our own copy of the log if we have one, else asks the peer.
    fn question(&mut self, peer: PeerId, request: ConsistencyRequest, context: &mut Context<Self>) {
        if self.asking >= MAX_QUESTIONS {
            return; // The state machine asks again at its timeout.
        }
        self.asking = self.asking.saturating_add(1);
        let (mesh, leaves) = (self.mesh.clone(), Arc::clone(&self.leaves));
        let asking = async move {
            if let found @ ConsistencyReply::Found(_) = request.answer(&leaves) {
                return found;
            }
            let question = AskPeer {
                peer,
                question: Question::Log,
                request: request.encode(),
            };
            match ask(&mesh, question).await {
                Ok(Ok(reply)) => {
                    ConsistencyReply::decode(&reply).unwrap_or(ConsistencyReply::NotFound)
                }
                _ => ConsistencyReply::NotFound,
            }
        };
        context.spawn(
            asking
                .into_actor(self)
                .map(move |reply, actor: &mut Self, context| {
                    actor.asking = actor.asking.saturating_sub(1);
                    let answer = HeadsInput::Answer {
                        peer,
                        request,
                        reply,
                    };
                    actor.show(answer, context);
                }),
        );
    }

    /// For what did not come by gossip: what is to be passed on is published.
    fn show(&mut self, input: HeadsInput, context: &mut Context<Self>) {
        if let Some(news) = self.drive(input, context).forward {
            self.publish(&news, context);
        }
    }

    fn publish(&self, news: &LogNews, context: &mut Context<Self>) {
        let publish = Publish {
            topic: Topic::Log,
            bytes: news.encode(),
        };
        let mesh = self.mesh.clone();
        context.spawn(
            async move {
                // Until somebody listens there is nobody to tell.
                let _ = ask(&mesh, publish).await;
            }
            .into_actor(self),
        );
    }

    /// Off this thread: the disk is waited for.
    fn keep(&self, news: &LogNews, context: &mut Context<Self>) {
        let mut batch = WriteBatch::new();
        batch.put(&KeptLogNews {
            place: self.place,
            news: news.encode(),
        });
        let store = Arc::clone(&self.store);
        let kept = tokio::task::spawn_blocking(move || store.commit(batch));
        context.spawn(
            async move {
                if let Ok(Err(error)) = kept.await {
                    warn!(%error, "the log's head was not stored; after a restart the first one shown is believed");
                }
            }
            .into_actor(self),
        );
    }
}

/// What an operator has to know.
const SPLIT: &str = "SPLIT VIEW: the rebuilders' keys signed two different logs of guest images. No image is admitted by \
    this log any more. Find out whose keys were used, then choose other rebuilders or another log in the policy";

fn place(rebuilders: &RebuilderSet) -> Digest {
    let mut keys: Vec<_> = rebuilders.keys().iter().map(ToString::to_string).collect();
    keys.sort();
    let text = format!(
        "{}\n{}\n{}",
        rebuilders.origin(),
        rebuilders.threshold(),
        keys.join("\n")
    );
    Digest::sha256(text.as_bytes())
}

#[derive(Default)]
struct Driven {
    forward: Option<LogNews>,
    faulty: bool,
}

impl Named for LogWatch {
    const NAME: &'static str = "log_watch";
}
impl Actor for LogWatch {
    type Context = Context<Self>;
    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(TICK, |actor, context| {
            actor.show(HeadsInput::Tick, context);
        });
        self.look_at_registry(context);
        context.run_interval(REGISTRY_INTERVAL, |actor, context| {
            actor.look_at_registry(context)
        });
        context.run_interval(NEWS_INTERVAL, |actor, context| {
            if let Some(news) = actor.heads.news() {
                actor.publish(&news, context);
            }
        });
    }
}
impl Supervised for LogWatch {
    fn restarting(&mut self, _: &mut Self::Context) {
        // The questions that were under way have ended with the futures that asked them.
        self.asking = 0;
    }
}
impl Handler<crate::supervision::Stop> for LogWatch {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// News by gossip, to be judged before it is passed on.
#[derive(Debug)]
pub struct JudgeNews {
    /// Who relayed it.
    pub relay: PeerId,
    /// The encoded news.
    pub bytes: Vec<u8>,
}
impl Query for JudgeNews {
    type Answer = Judgement;
}
impl Handler<Ask<JudgeNews>> for LogWatch {
    type Result = ();
    fn handle(&mut self, asked: Ask<JudgeNews>, context: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Ok(news) = LogNews::decode(&query.bytes) else {
            return reply.send(Judgement::Reject);
        };
        let peer = query.relay;
        let driven = self.drive(HeadsInput::News { peer, news }, context);
        reply.send(if driven.faulty {
            Judgement::Reject
        } else if driven.forward.is_some() {
            Judgement::Accept
        } else {
            Judgement::Ignore
        });
    }
}

/// A head that came within a worker's proof.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShowHead {
    /// Whose proof.
    pub peer: PeerId,
    /// The signed checkpoint.
    pub checkpoint: Vec<u8>,
}
impl Handler<ShowHead> for LogWatch {
    type Result = ();
    fn handle(&mut self, shown: ShowHead, context: &mut Self::Context) {
        let ShowHead { peer, checkpoint } = shown;
        let news = LogNews::Head(checkpoint);
        self.show(HeadsInput::News { peer, news }, context);
    }
}

/// Shows the watch a head, if there is a watch and it has room; the next proof shows it again.
pub fn show_head(watch: &Address<LogWatch>, peer: PeerId, checkpoint: Vec<u8>) {
    if let Err(error) = tell(watch, ShowHead { peer, checkpoint }) {
        debug!(%error, "a head was not looked at");
    }
}

/// A peer's question; `None` if its bytes are none.
#[derive(Debug)]
pub struct AnswerLog {
    /// The encoded request.
    pub request: Vec<u8>,
}
impl Query for AnswerLog {
    type Answer = Option<Vec<u8>>;
}
impl Handler<Ask<AnswerLog>> for LogWatch {
    type Result = ();
    fn handle(&mut self, asked: Ask<AnswerLog>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let answer = ConsistencyRequest::decode(&query.request)
            .ok()
            .map(|request| {
                match request.answer(&self.leaves) {
                    found @ ConsistencyReply::Found(_) => found,
                    ConsistencyReply::NotFound => self.heads.answer(&request),
                }
                .encode()
            });
        reply.send(answer);
    }
}

/// What is known of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogView {
    /// The log's name.
    pub origin: String,
    /// Entries of the largest head that is known to be everybody's.
    pub entries: u64,
    /// Whether a registry's head of it was read.
    pub compared: bool,
    /// Whether two logs were signed, or the one on chain is another.
    pub split: bool,
}
/// The [`LogView`].
#[derive(Debug)]
pub struct ViewLog;
impl Query for ViewLog {
    type Answer = LogView;
}
impl Handler<Ask<ViewLog>> for LogWatch {
    type Result = ();
    fn handle(&mut self, asked: Ask<ViewLog>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send(LogView {
            origin: self.origin.clone(),
            entries: self.heads.largest().map_or(0, |signed| signed.head().size),
            compared: self.on_chain.is_some(),
            split: self.contradicted || self.heads.alarm().is_some(),
        });
    }
}
