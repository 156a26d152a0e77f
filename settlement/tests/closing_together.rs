//! Client and worker close a channel together, with the real contracts: the client's rest is back in the next blocks, the
//! worker is paid to the last nanoTON of its newest voucher, and no coin is lost on the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use std::collections::VecDeque;
use std::sync::Arc;

use cocoon_protocol::voucher::Release;
use cocoon_protocol::{JobId, Keypair, NanoTon, Outcome, PeerId, UnixMillis};
use cocoon_settlement::chain::{Chain, ChainError};
use cocoon_settlement::contract::{
    CHANNEL_RESERVE, claim_message, commit_message, fetch_channel, fetch_ledger, release_message,
    start_close_message,
};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::{
    ChannelOpening, ClientLedger, LedgerError, SCHEMA, WorkerLedger, check, check_voucher,
};
use cocoon_settlement::settler::{
    ChannelView, LedgerView, SendFailure, Settler, SettlerConfig, SettlerInput, SettlerOutput,
    release_fee,
};
use cocoon_settlement::store::MemoryStore;
use support::{CLOSE_DELAY, Scene, ton};

/// Of a channel of 1,000 milliTON.
const DEPOSIT: u64 = 1_000;
const SIGNED: NanoTon = NanoTon::from_nano(123_456_789);

fn peer(seed: u8) -> PeerId {
    Keypair::ed25519_from_bytes([seed; 32])
        .unwrap()
        .public()
        .to_peer_id()
}

fn job(n: u8) -> JobId {
    JobId::from_bytes([n; 16])
}

/// A client and a worker with a channel between them, on which a job was paid.
struct Pair {
    scene: Scene,
    client: ClientLedger<Arc<MemoryStore>>,
    store: Arc<MemoryStore>,
    worker: WorkerLedger<Arc<MemoryStore>>,
    settler: Settler,
    now: UnixMillis,
    /// The worker's messages to contracts, in order.
    sent: Vec<&'static str>,
    /// The worker dies before it sends a release.
    dies: bool,
}

impl Pair {
    async fn new() -> Self {
        let scene = Scene::with_ledger().await;
        let now = UnixMillis::from_millis(u64::from(scene.now()) * 1_000);
        let client = ClientLedger::new(Arc::new(MemoryStore::new(SCHEMA)));
        let opening = ChannelOpening {
            worker: peer(2),
            address: scene.channel,
            terms: scene.terms,
            deposit: ton(DEPOSIT),
            reserve: ton(5),
            valid_until: 0,
        };
        client.open_channel(opening, now).unwrap();
        let open = cocoon_settlement::contract::open_message(&scene.terms, ton(DEPOSIT)).unwrap();
        scene.client.send(&scene.chain, &[open]).await.unwrap();
        let state = scene.state().await;
        client.record_open(&scene.channel, state.balance).unwrap();

        let store = Arc::new(MemoryStore::new(SCHEMA));
        let (worker, settler) = boot(&scene, &store);
        worker
            .register_channel(
                scene.channel,
                peer(1),
                scene.terms.client_key,
                NanoTon::ZERO,
            )
            .unwrap();
        worker
            .open_job(job(1), peer(1), scene.channel, now)
            .unwrap();
        let signed = client
            .sign_voucher(&scene.channel, SIGNED, &scene.voucher_key, GLOBAL_ID, now)
            .unwrap();
        let channel = worker.channel(&scene.channel).unwrap().unwrap();
        let checked = check_voucher(&signed, &channel, state.capacity(), GLOBAL_ID).unwrap();
        worker.accept_voucher(&checked).unwrap();
        worker
            .close_job(&job(1), &Outcome::Completed, None, now)
            .unwrap();
        Self {
            scene,
            client,
            store,
            worker,
            settler,
            now,
            sent: Vec::new(),
            dies: false,
        }
    }

    /// The client asks, the worker answers.
    fn agree(&self) -> Result<(), LedgerError> {
        let channel = self.scene.channel;
        let until = self.scene.now() + 600;
        let noted = self.client.record_releasing(&channel, until).unwrap();
        let release = Release {
            channel,
            cumulative: noted.signed_total(),
        }
        .sign(&self.scene.voucher_key, GLOBAL_ID);
        self.worker.agree_release(&release, GLOBAL_ID)?;
        self.client.record_release_agreed(&channel).unwrap();
        Ok(())
    }

    fn restart_worker(&mut self) {
        let (worker, settler) = boot(&self.scene, &self.store);
        worker.recover(self.now).unwrap();
        (self.worker, self.settler) = (worker, settler);
    }

    async fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.scene.pass(1);
            self.now = self.now.saturating_add(1_000);
            let unsettled = self.worker.unsettled().unwrap();
            self.drive(SettlerInput::Unsettled(unsettled)).await;
            self.drive(SettlerInput::Tick).await;
        }
    }

    async fn drive(&mut self, input: SettlerInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.settler.handle(self.now, input) {
                inputs.extend(self.worker.perform(self.now, &output, 100).unwrap());
                inputs.extend(self.chain_side(output).await);
            }
        }
    }

    async fn chain_side(&mut self, output: SettlerOutput) -> Option<SettlerInput> {
        let scene = &self.scene;
        let unix = scene.now();
        match output {
            SettlerOutput::SubmitCommit(commit) => {
                self.sent.push("commit");
                let boc = commit_message(&commit, &scene.ledger_key, GLOBAL_ID).unwrap();
                let seqno = commit.seqno;
                let result = scene.chain.send_external(&boc).await.map_err(failure);
                Some(SettlerInput::CommitSent { seqno, result })
            }
            SettlerOutput::SubmitClaim { channel, voucher } => {
                self.sent.push("claim");
                let boc = claim_message(&voucher).unwrap();
                let result = scene.chain.send_external(&boc).await.map_err(failure);
                let cumulative = voucher.voucher.cumulative;
                Some(SettlerInput::ClaimSent {
                    channel,
                    cumulative,
                    result,
                })
            }
            SettlerOutput::SubmitRelease(signed) => {
                if self.dies {
                    return None;
                }
                self.sent.push("release");
                let message = release_message(&signed).unwrap();
                let sent = scene.worker.send(&scene.chain, &[message]).await;
                Some(SettlerInput::ReleaseSent {
                    channel: signed.release.channel,
                    result: sent.map(drop).map_err(failure),
                })
            }
            SettlerOutput::LookAtLedger => {
                let state = fetch_ledger(&scene.chain, scene.ledger_address).await;
                let view = state.unwrap().as_ref().map(LedgerView::from);
                Some(SettlerInput::Ledger { unix, view })
            }
            SettlerOutput::LookAtChannel(channel) => {
                let state = fetch_channel(&scene.chain, channel).await.unwrap();
                Some(SettlerInput::Channel {
                    unix,
                    channel,
                    view: state.as_ref().map(ChannelView::from),
                })
            }
            SettlerOutput::LookAtPrices => {
                Some(SettlerInput::Prices(scene.chain.prices().await.unwrap()))
            }
            SettlerOutput::RolledBack(reason) => panic!("{reason}"),
            _ => None,
        }
    }
}

fn boot(scene: &Scene, store: &Arc<MemoryStore>) -> (WorkerLedger<Arc<MemoryStore>>, Settler) {
    let worker = WorkerLedger::new(store.clone());
    let config = SettlerConfig::new(scene.ledger_address);
    let settler = Settler::new(config, worker.settler_start().unwrap());
    (worker, settler)
}

fn failure(error: ChainError) -> SendFailure {
    match error {
        ChainError::NotAccepted { exit_code, .. } => SendFailure::Refused { exit_code },
        _ => SendFailure::Unknown,
    }
}

#[tokio::test]
async fn the_rest_is_back_without_the_delay_and_every_nanoton_is_accounted_for() {
    let mut pair = Pair::new().await;
    let before = (
        pair.scene.balance(pair.scene.client.address()).await,
        pair.scene.balance(pair.scene.worker.address()).await,
        pair.scene.state().await.balance,
    );
    pair.agree().unwrap();
    pair.pass(10).await;
    assert_eq!(pair.sent, ["commit", "release"], "no claim beside it");
    let state = pair.scene.state().await;
    assert!(state.finished);
    assert_eq!(state.claimed, SIGNED);
    assert!(
        pair.scene.now() < support::GENESIS + CLOSE_DELAY,
        "no delay"
    );
    let client = pair.scene.balance(pair.scene.client.address()).await;
    let worker = pair.scene.balance(pair.scene.worker.address()).await;
    // The client: all that it did not sign for, but a little.
    let back = client.checked_sub(before.0).unwrap();
    let owed = before.2.checked_sub(SIGNED).unwrap();
    let kept = owed.checked_sub(back).unwrap();
    // The tombstone's reserve, and the message that brings the rest.
    let prices = pair.scene.chain.prices().await.unwrap();
    let most = CHANNEL_RESERVE.saturating_add(prices.message_fee(0, 0));
    assert!(kept <= most, "{back} of {owed}");
    // The worker: its newest voucher, less what the settler reckons with at most.
    let earned = worker.checked_sub(before.1).unwrap();
    let paid = SIGNED.checked_sub(earned).unwrap();
    let most = release_fee(&prices);
    assert!(paid <= most, "{paid}, at most {most}");
    println!("the client got {back} of {owed}; the release cost the worker {paid}");
    pair.scene.assert_conserved();
    // Both books say so.
    let channel = pair.worker.channel(&pair.scene.channel).unwrap().unwrap();
    assert_eq!(channel.claimed, SIGNED);
    assert!(channel.release.is_some_and(|release| release.done));
    assert!(check(&pair.store, Some(GLOBAL_ID)).unwrap().is_clean());
    pair.client.record_closed(&pair.scene.channel).unwrap();
    pair.pass(200).await;
    assert_eq!(pair.sent.len(), 2, "it is over: {:?}", pair.sent);
}

#[tokio::test]
async fn a_worker_that_dies_between_agreeing_and_sending_sends_after_its_start() {
    let mut pair = Pair::new().await;
    pair.agree().unwrap();
    pair.restart_worker();
    // The commit is sent, the release is noted and not sent.
    pair.dies = true;
    pair.pass(10).await;
    assert_eq!(pair.sent, ["commit"]);
    pair.dies = false;
    pair.restart_worker();
    assert!(matches!(
        pair.worker
            .open_job(job(2), peer(1), pair.scene.channel, pair.now),
        Err(LedgerError::ChannelReleased(_))
    ));
    pair.pass(100).await;
    assert_eq!(pair.sent, ["commit", "release"]);
    assert!(pair.scene.state().await.finished);
    pair.scene.assert_conserved();
}

#[tokio::test]
async fn a_release_that_comes_after_the_client_began_to_close_alone_still_ends_it_at_once() {
    let mut pair = Pair::new().await;
    pair.agree().unwrap();
    // The client waited long enough.
    let start = start_close_message(pair.scene.channel).unwrap();
    assert!(pair.scene.call(&pair.scene.client, start).await.success);
    let close_at = pair.scene.state().await.close_at.unwrap();
    pair.client
        .record_closing(&pair.scene.channel, close_at)
        .unwrap();
    pair.pass(10).await;
    let state = pair.scene.state().await;
    assert!(state.finished && state.claimed == SIGNED);
    assert!(pair.scene.now() < close_at);
    pair.scene.assert_conserved();
}

#[tokio::test]
async fn a_release_that_was_sent_twice_pays_once() {
    let mut pair = Pair::new().await;
    pair.agree().unwrap();
    pair.pass(10).await;
    let worker = pair.scene.balance(pair.scene.worker.address()).await;
    let release = pair.scene.release(SIGNED);
    let again = release_message(&release).unwrap();
    let done = pair.scene.call(&pair.scene.worker, again).await;
    assert!(!done.success);
    let after = pair.scene.balance(pair.scene.worker.address()).await;
    let lost = worker.checked_sub(after).unwrap();
    assert!(lost < ton(2), "{lost}");
    pair.scene.assert_conserved();
}
