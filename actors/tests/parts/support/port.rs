//! A mesh of channels in the place of sockets: each node's swarm is a task that hands what its
//! actors ask for to the others.

use cocoon_actors::port::{
    GossipId, Judgement, MAX_SWARM_COMMANDS, MAX_SWARM_EVENTS, PortError, Question, SessionStream,
    SwarmCommand, SwarmCommands, SwarmNotice, SwarmNotices,
};
use cocoon_protocol::PeerId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::compat::TokioAsyncReadCompatExt;

/// Bytes that one end of a stream may be ahead of the other.
const STREAM_BYTES: usize = 64 * 1024;

/// Two ends of a byte stream.
pub fn streams() -> (SessionStream, SessionStream) {
    let (left, right) = tokio::io::duplex(STREAM_BYTES);
    (boxed(left), boxed(right))
}

pub fn boxed(stream: DuplexStream) -> SessionStream {
    Box::new(stream.compat())
}

/// Everybody who takes part.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    nodes: BTreeMap<PeerId, mpsc::Sender<SwarmNotice>>,
    sessions: Vec<JoinHandle<()>>,
    judged: Vec<Judgement>,
    asked: Vec<Question>,
}

impl Hub {
    /// A node joins: its end of the port.
    pub fn join(&self, peer: PeerId) -> (SwarmCommands, SwarmNotices) {
        let (commands, mut asked) = mpsc::channel(MAX_SWARM_COMMANDS);
        let (notices, told) = mpsc::channel(MAX_SWARM_EVENTS);
        self.0.lock().unwrap().nodes.insert(peer, notices);
        let hub = self.clone();
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                hub.perform(peer, command).await;
            }
        });
        (commands, told)
    }

    /// Nobody reaches it any more.
    pub fn leave(&self, peer: PeerId) {
        self.0.lock().unwrap().nodes.remove(&peer);
    }

    /// Cuts every session's stream, as a network does that is gone.
    pub fn cut_sessions(&self) {
        for session in self.0.lock().unwrap().sessions.drain(..) {
            session.abort();
        }
    }

    /// What the nodes thought of one another's adverts.
    pub fn judged(&self) -> Vec<Judgement> {
        self.0.lock().unwrap().judged.clone()
    }

    /// Questions of this kind that somebody was asked.
    pub fn asked(&self, question: Question) -> usize {
        let asked = &self.0.lock().unwrap().asked;
        asked.iter().filter(|asked| **asked == question).count()
    }

    fn node(&self, peer: PeerId) -> Result<mpsc::Sender<SwarmNotice>, PortError> {
        let known = self.0.lock().unwrap().nodes.get(&peer).cloned();
        known.ok_or_else(|| PortError::Unreachable {
            peer,
            reason: "it has left".to_owned(),
        })
    }

    async fn perform(&self, from: PeerId, command: SwarmCommand) {
        match command {
            SwarmCommand::Publish {
                topic,
                bytes,
                reply,
            } => {
                let others: Vec<_> = {
                    let state = self.0.lock().unwrap();
                    let others = state.nodes.iter().filter(|(peer, _)| **peer != from);
                    others.map(|(_, notices)| notices.clone()).collect()
                };
                let nobody = others.is_empty();
                for notices in others {
                    let notice = SwarmNotice::Gossip {
                        topic,
                        message: GossipId(vec![1]),
                        relay: from,
                        bytes: bytes.clone(),
                    };
                    let _ = notices.send(notice).await;
                }
                let _ = reply.send(if nobody {
                    Err(PortError::NobodyListens)
                } else {
                    Ok(())
                });
            }
            SwarmCommand::Judge { judgement, .. } => self.0.lock().unwrap().judged.push(judgement),
            SwarmCommand::Ask {
                peer,
                question,
                request,
                reply,
            } => match self.node(peer) {
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
                Ok(notices) => {
                    self.0.lock().unwrap().asked.push(question);
                    let (answer, answered) = oneshot::channel();
                    let notice = SwarmNotice::Asked {
                        peer: from,
                        question,
                        request,
                        reply: answer,
                    };
                    let _ = notices.send(notice).await;
                    tokio::spawn(async move {
                        let _ = reply.send(answered.await.map_err(|_| PortError::NoAnswer {
                            peer,
                            reason: "it refused".to_owned(),
                        }));
                    });
                }
            },
            SwarmCommand::OpenSession { peer, reply } => {
                let opened = match self.node(peer) {
                    Err(error) => Err(error),
                    Ok(notices) => {
                        let (ours, theirs) = self.session();
                        let notice = SwarmNotice::Session {
                            peer: from,
                            stream: theirs,
                        };
                        let _ = notices.send(notice).await;
                        Ok(ours)
                    }
                };
                let _ = reply.send(opened);
            }
            SwarmCommand::Shutdown { done } => {
                self.leave(from);
                let _ = done.send(());
            }
        }
    }

    /// Two ends with a wire between them that can be cut.
    fn session(&self) -> (SessionStream, SessionStream) {
        let (left, mut left_wire) = tokio::io::duplex(STREAM_BYTES);
        let (right, mut right_wire) = tokio::io::duplex(STREAM_BYTES);
        let wire = tokio::spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut left_wire, &mut right_wire).await;
        });
        self.0.lock().unwrap().sessions.push(wire);
        (boxed(left), boxed(right))
    }
}
