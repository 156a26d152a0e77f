//! Jobs in the storm: tokens one way, vouchers the other, metered by the state machines that nodes use.

use cocoon_protocol::evidence::Attached;
use cocoon_protocol::metering::{Payee, Payer};
use cocoon_protocol::receipt::{Ending, Receipt, SignedReceipt};
use cocoon_protocol::session::MLKEM_KEY_BYTES;
use cocoon_protocol::{
    Beacon, Claims, Digest, EvidenceBundle, JobId, NanoTon, Outcome, PeerId, Price, Salt,
    TonAddress,
};
use cocoon_settlement::ledger::ReceiptFile;
use rand::Rng;

use crate::client::Client;
use crate::worker::Worker;
use crate::world::World;
use crate::{Died, key, milliton, public};

/// Tokens in a frame.
const FRAME: u32 = 8;
/// Frames a second, at most.
const FRAMES_A_SECOND: u32 = 2;
const PRICE: Price = Price {
    input: NanoTon::from_nano(3_001),
    output: NanoTon::from_nano(200_003),
};
/// A prompt and a few frames.
const WINDOW: NanoTon = milliton(6);
const MOST_TOKENS: u32 = 160;
const MOST_PROMPT: u32 = 200;

/// A job that both ends believe in, or one of them.
pub(crate) struct Job {
    id: JobId,
    pub(crate) client: usize,
    pub(crate) worker: usize,
    pub(crate) channel: TonAddress,
    prompt: u32,
    left: u32,
    /// Gone when the client's process died.
    payer: Option<Payer>,
    /// Gone when the worker's process died.
    payee: Option<Payee>,
}

/// What the jobs came to, as an onlooker counts it who never dies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) begun: u64,
    pub(crate) completed: u64,
    pub(crate) worker_lost: u64,
    pub(crate) client_lost: u64,
    /// What the tokens cost that arrived at clients.
    pub(crate) delivered: u64,
}

/// The most that a job can cost.
pub(crate) fn worst_case() -> NanoTon {
    PRICE.cost(MOST_PROMPT, MOST_TOKENS).unwrap()
}

/// The most that a worker is owed for one job that died, and no voucher covers.
pub(crate) const fn window() -> NanoTon {
    WINDOW
}

/// Begins a job between two processes, where a channel can carry it.
pub(crate) async fn begin(
    world: &mut World,
    clients: &mut [Client],
    workers: &mut [Worker],
    busy: &[TonAddress],
    tally: &mut Tally,
    (at, to): (usize, usize),
) -> Option<Job> {
    let (client, worker) = (&mut clients[at], &mut workers[to]);
    if client.life.is_none() || !worker.is_ready() {
        return None;
    }
    let channel = client.channel_to(worker.peer, worst_case(), busy)?;
    let mut id = [0; 16];
    world.chance.fill(&mut id);
    let id = JobId::from_bytes(id);
    // Whoever dies in here is found dead by the storm's next round.
    let opened = worker
        .open_job(world, id, client.peer, channel.address, worst_case())
        .await;
    let Ok(Some(_)) = opened else { return None };
    let mut job = Job {
        id,
        client: at,
        worker: to,
        channel: channel.address,
        prompt: world.chance.random_range(1..MOST_PROMPT),
        left: world.chance.random_range(1..MOST_TOKENS),
        payer: None,
        payee: None,
    };
    tally.begun += 1;
    // What was signed and never arrived comes first: from there both count.
    let base = channel.signed_total();
    let brought = match channel.newest_voucher() {
        Some(voucher) => worker.take(world, &voucher).await,
        None => Ok(()),
    };
    if brought.is_ok() {
        let mut payee = Payee::new(PRICE, base, base, WINDOW);
        payee.on_accepted(job.prompt).unwrap();
        job.payee = Some(payee);
    }
    if client
        .open_job(world, id, worker.peer, channel.address)
        .is_ok()
    {
        let mut payer = Payer::new(PRICE, base, WINDOW, worst_case());
        payer.on_accepted(job.prompt).unwrap();
        job.payer = Some(payer);
    }
    Some(job)
}

impl Job {
    /// A process has died.
    pub(crate) fn forget_client(&mut self, client: usize) {
        if self.client == client {
            self.payer = None;
        }
    }

    /// The same for a worker.
    pub(crate) fn forget_worker(&mut self, worker: usize) {
        if self.worker == worker {
            self.payee = None;
        }
    }

    /// A second of it. True when it is over at both ends.
    pub(crate) async fn go_on(
        &mut self,
        world: &World,
        client: &mut Client,
        worker: &mut Worker,
        tally: &mut Tally,
    ) -> bool {
        match (&self.payer, &self.payee) {
            (Some(_), Some(_)) => {}
            (Some(_), None) => {
                tally.worker_lost += 1;
                self.worker_is_gone(world, client);
                return true;
            }
            (None, Some(_)) => {
                tally.client_lost += 1;
                let _ = worker.close_job(world, &self.id, &Outcome::ClientLost, None);
                return true;
            }
            (None, None) => return true,
        }
        for _ in 0..FRAMES_A_SECOND {
            let tokens = self.left.min(FRAME);
            let payee = self.payee.as_mut().unwrap();
            if tokens == 0 || !payee.may_send(tokens) {
                break;
            }
            payee.sent(tokens).unwrap();
            self.left -= tokens;
            let payer = self.payer.as_mut().unwrap();
            let before = payer.owed();
            let total = payer.on_tokens(tokens).unwrap();
            tally.delivered += payer.owed().saturating_sub(before).nano();
            if let Some(total) = total
                && !self.pay(world, client, worker, total).await
            {
                return false;
            }
        }
        self.left == 0 && self.end(world, client, worker, tally).await
    }

    /// The client signs, the worker takes. False if somebody died of it.
    async fn pay(
        &mut self,
        world: &World,
        client: &mut Client,
        worker: &mut Worker,
        total: NanoTon,
    ) -> bool {
        let Ok(voucher) = client.sign(world, &self.channel, total) else {
            return false;
        };
        if worker.take(world, &voucher).await.is_err() {
            return false;
        }
        let payee = self.payee.as_mut().unwrap();
        payee.on_voucher(total).unwrap();
        true
    }

    /// The client pays for what arrived, whether the worker hears of it or not.
    fn worker_is_gone(&mut self, world: &World, client: &mut Client) {
        let total = self.payer.as_mut().and_then(Payer::on_end);
        let paid = total.map_or(Ok(()), |total| {
            client.sign(world, &self.channel, total).map(drop)
        });
        if paid.is_ok() {
            let _ = client.close_job(world, &self.id, &Outcome::WorkerLost, None);
        }
    }

    /// The last voucher, the receipt, and both books closed.
    async fn end(
        &mut self,
        world: &World,
        client: &mut Client,
        worker: &mut Worker,
        tally: &mut Tally,
    ) -> bool {
        if let Some(total) = self.payer.as_mut().unwrap().on_end()
            && !self.pay(world, client, worker, total).await
        {
            return false;
        }
        let receipt = self.receipt(worker.peer, client.peer);
        let done = Outcome::Completed;
        if worker
            .close_job(world, &self.id, &done, Some(&receipt))
            .is_err()
        {
            return false;
        }
        self.payee = None;
        let file = ReceiptFile {
            receipt,
            salt: Salt::from_bytes([9; 32]),
            evidence: evidence(worker.peer),
        };
        if client
            .close_job(world, &self.id, &done, Some(&file))
            .is_ok()
        {
            tally.completed += 1;
        }
        true
    }

    fn receipt(&self, worker: PeerId, client: PeerId) -> SignedReceipt {
        let payee = self.payee.as_ref().unwrap();
        let enclave = key(77);
        Receipt {
            job: self.id,
            worker,
            client,
            model: "smollm2".to_owned(),
            model_digest: Digest::sha256(b"model"),
            evidence: evidence(worker).claims.digest(),
            request_commitment: Digest::sha256(b"request"),
            response_commitment: Digest::sha256(b"response"),
            prompt_tokens: self.prompt,
            output_tokens: payee.output_tokens(),
            price: PRICE,
            amount: payee.owed(),
            channel: self.channel,
            cumulative: payee.cumulative(),
            ending: Ending::Stop,
            started: cocoon_protocol::UnixMillis::from_millis(1),
            ended: cocoon_protocol::UnixMillis::from_millis(2),
            receipt_key: public(&enclave),
            tokens_commitment: None,
            tokenizer: None,
        }
        .sign(&enclave)
        .unwrap()
    }
}

/// Evidence that nobody would accept; the storm is about money.
fn evidence(worker: PeerId) -> EvidenceBundle {
    EvidenceBundle {
        quote: vec![1; 64],
        collateral_json: vec![1; 64],
        claims: Claims {
            noise_key: [1; 32],
            mlkem_key: vec![1; MLKEM_KEY_BYTES],
            receipt_key: [1; 32],
            peer: worker,
            model: Digest::sha256(b"model"),
            config: Digest::ZERO,
            gpu_evidence: Digest::ZERO,
            beacon: Beacon {
                seqno: 1,
                hash: Digest::ZERO,
            },
            epoch: 1,
            canary: Digest::ZERO,
        },
        attached: Attached::default(),
    }
}

impl From<cocoon_settlement::ledger::LedgerError> for Died {
    fn from(error: cocoon_settlement::ledger::LedgerError) -> Self {
        match error {
            cocoon_settlement::ledger::LedgerError::Store(_) => Self,
            other => panic!("a living ledger refused: {other}"),
        }
    }
}
