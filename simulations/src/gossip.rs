//! How clients come to know workers: adverts spread, evidence is fetched and examined.

use std::rc::Rc;

use cocoon_protocol::advert::decode_advert;
use cocoon_protocol::directory::Acceptance;
use cocoon_protocol::wire::Verified;
use cocoon_protocol::{Advert, Digest, DirectoryInput, DirectoryOutput, PeerId};

use crate::event::Event;
use crate::world::World;

/// An advert reaches each client over so many independent paths of the mesh, unless it is lost.
const PATHS: usize = 2;
/// What it takes to verify evidence, in milliseconds (measured 0.6 ms, rounded up).
const EXAMINATION_MS: u64 = 1;

impl World {
    /// A worker signs an advert and sends it to everybody.
    pub(crate) fn on_advert_due(&mut self, id: usize, incarnation: u64) {
        let now = self.queue.now();
        let lifetime_ms = self.scenario.workers.advert_lifetime_ms;
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        if !worker.process.is(incarnation) {
            return;
        }
        if worker.evidence_expires <= now {
            // New evidence for the same keys; only its digest matters here.
            worker.evidence = Digest::from_bytes(self.chance.bytes());
            let lifetime_ms = self.scenario.workers.evidence_lifetime_ms;
            worker.evidence_expires = now.saturating_add(lifetime_ms);
        }
        let advert = Advert {
            peer: worker.peer,
            // Over restarts too, because it begins with the clock.
            sequence: now.millis(),
            issued: now,
            lifetime_ms: u32::try_from(lifetime_ms).unwrap_or(u32::MAX),
            models: vec![worker.terms.clone()],
            slots: worker.slots,
            evidence: worker.evidence,
            evidence_expires: worker.evidence_expires,
            payout: worker.payout,
            ledger: worker.ledger,
            tcb_expires: worker.evidence_expires,
        };
        worker.first_advert.get_or_insert(now);
        // Every node would check the signature for itself, always with this result.
        let bytes = advert.sign(&worker.key).map_err(|error| error.to_string());
        let decoded =
            bytes.and_then(|bytes| decode_advert(&bytes).map_err(|error| error.to_string()));
        match decoded {
            Ok(advert) => self.spread(id, &Rc::new(advert)),
            Err(reason) => self.refused_by_codec(reason),
        }
        if self.is_busy() {
            let interval = self.scenario.workers.advert_interval_ms;
            self.queue.schedule(
                interval,
                Event::AdvertDue {
                    worker: id,
                    incarnation,
                },
            );
        }
    }

    fn spread(&mut self, worker: usize, advert: &Rc<Verified<Advert>>) {
        let now = self.queue.now();
        for client in 0..self.clients.len() {
            let to = self.client_node(client);
            for _ in 0..PATHS {
                let tally = &mut self.tally.directory;
                tally.adverts_sent = tally.adverts_sent.saturating_add(1);
                match self.links.datagram(now, worker, to, &mut self.chance) {
                    Some(at) => {
                        let advert = Rc::clone(advert);
                        self.queue
                            .schedule_at(at, Event::AdvertArrives { client, advert });
                    }
                    None => tally.adverts_lost = tally.adverts_lost.saturating_add(1),
                }
            }
        }
    }

    /// An advert reaches a client.
    pub(crate) fn on_advert_arrives(&mut self, id: usize, advert: &Verified<Advert>) {
        let now = self.queue.now();
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        if client.process.down {
            return;
        }
        let tally = &mut self.tally.directory;
        let count = match client.directory.judge(now, advert) {
            Acceptance::Fresh => &mut tally.fresh,
            Acceptance::Duplicate => &mut tally.duplicate,
            Acceptance::Invalid(_) => &mut tally.invalid,
        };
        *count = count.saturating_add(1);
        if client.directory.judge(now, advert) == Acceptance::Fresh {
            let input = DirectoryInput::Advert(advert.clone());
            self.feed_directory(id, input);
        }
    }

    /// Gives a client's directory an input and does what it wants.
    pub(crate) fn feed_directory(&mut self, id: usize, input: DirectoryInput) {
        let now = self.queue.now();
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        for output in client.directory.handle(now, input) {
            match output {
                DirectoryOutput::FetchEvidence { peer, evidence } => {
                    self.fetch_evidence(id, peer, evidence);
                }
                DirectoryOutput::Verified { peer } => self.note_verified(id, peer),
                DirectoryOutput::Joined { .. } | DirectoryOutput::Left { .. } => {}
            }
        }
        self.arm_directory(id);
    }

    /// Sees to it that the directory looks at the clock when it wants to.
    fn arm_directory(&mut self, id: usize) {
        let now = self.queue.now();
        let busy = self.is_busy();
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        let Some(wanted) = client.directory.next_tick() else {
            return;
        };
        let wanted = wanted.max(now.saturating_add(1));
        if busy && client.next_tick.is_none_or(|armed| wanted < armed) {
            client.next_tick = Some(wanted);
            let incarnation = client.process.incarnation;
            self.queue.schedule_at(
                wanted,
                Event::DirectoryTick {
                    client: id,
                    incarnation,
                },
            );
        }
    }

    /// A client's directory looks at the clock.
    pub(crate) fn on_directory_tick(&mut self, id: usize, incarnation: u64) {
        let now = self.queue.now();
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        // An earlier tick was armed meanwhile, or it belongs to an earlier process.
        if !client.process.is(incarnation) || client.next_tick != Some(now) {
            return;
        }
        client.next_tick = None;
        self.feed_directory(id, DirectoryInput::Tick);
    }

    fn fetch_evidence(&mut self, client: usize, peer: PeerId, evidence: Digest) {
        let now = self.queue.now();
        let Some(&worker) = self.worker_by_peer.get(&peer) else {
            return;
        };
        let tally = &mut self.tally.directory;
        tally.evidence_fetched = tally.evidence_fetched.saturating_add(1);
        let from = self.client_node(client);
        let asked = self.links.request(now, from, worker, &mut self.chance);
        let answered = self.links.request(asked, worker, from, &mut self.chance);
        let (Some(node), Some(client_node)) = (self.workers.get(worker), self.clients.get(client))
        else {
            return;
        };
        if node.process.down {
            // No answer; the directory's own time-out must deal with it.
            return;
        }
        let event = Event::EvidenceExamined {
            client,
            incarnation: client_node.process.incarnation,
            worker,
            evidence,
            good: node.honest_evidence && node.evidence == evidence,
        };
        self.queue
            .schedule_at(answered.saturating_add(EXAMINATION_MS), event);
    }

    /// A client has examined evidence.
    pub(crate) fn on_evidence_examined(
        &mut self,
        id: usize,
        incarnation: u64,
        worker: usize,
        evidence: Digest,
        good: bool,
    ) {
        let (Some(client), Some(worker)) = (self.clients.get(id), self.workers.get(worker)) else {
            return;
        };
        if !client.process.is(incarnation) {
            return;
        }
        let (peer, valid_until) = (worker.peer, worker.evidence_expires);
        let input = if good {
            DirectoryInput::EvidenceAccepted {
                peer,
                evidence,
                valid_until,
            }
        } else {
            let tally = &mut self.tally.directory;
            tally.evidence_refused = tally.evidence_refused.saturating_add(1);
            let reason = "refused in this scenario".to_owned();
            DirectoryInput::EvidenceRejected {
                peer,
                evidence,
                reason,
            }
        };
        self.feed_directory(id, input);
    }

    fn note_verified(&mut self, client: usize, peer: PeerId) {
        let now = self.queue.now();
        let Some(&worker) = self.worker_by_peer.get(&peer) else {
            return;
        };
        let (Some(client), Some(worker_node)) =
            (self.clients.get_mut(client), self.workers.get(worker))
        else {
            return;
        };
        let first = client.verified.insert(worker) && client.process.incarnation == 0;
        if let Some(since) = worker_node.first_advert.filter(|_| first) {
            self.tally
                .verified_after_ms
                .add(now.saturating_since(since));
        }
    }
}
