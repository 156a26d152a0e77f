//! A client's books in the storm: its ledger, its wallet, and channels that it opens, tops up, closes and gets back.

use std::sync::Arc;

use cocoon_protocol::{JobId, NanoTon, Outcome, PeerId, SignedVoucher, TonAddress};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::{
    CHANNEL_RESERVE, ChannelTerms, fetch_channel, finish_message, open_message,
    start_close_message, top_up_message,
};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::{
    ChannelOpening, ClientChannel, ClientChannelState, ClientLedger, ReceiptFile, SCHEMA,
};
use cocoon_settlement::store::MemoryStore;
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;

use crate::fuse::{Disk, Fuse};
use crate::sums;
use crate::worker::Worker;
use crate::world::World;
use crate::{Died, milliton};

/// Put into each channel.
const DEPOSIT: NanoTon = NanoTon::from_nano(400_000_000);
/// Topped up with as much, once less than this can be promised.
const LOW: NanoTon = NanoTon::from_nano(120_000_000);
/// The contract's reserve, and room for the gas of opening.
const KEPT: NanoTon = CHANNEL_RESERVE.saturating_add(milliton(1));
/// Time for the worker to claim once the client closes, seconds. Longer than any worker is away.
const CLOSE_DELAY_S: u32 = 600;

/// A client: what lies on its disk, and its process while it lives.
pub(crate) struct Client {
    pub(crate) peer: PeerId,
    pub(crate) wallet: Wallet,
    key: SigningKey,
    platters: Arc<MemoryStore>,
    pub(crate) life: Option<Life>,
    pub(crate) back_at: u32,
    pub(crate) deaths: u32,
}

/// A client's process.
pub(crate) struct Life {
    pub(crate) fuse: Arc<Fuse>,
    pub(crate) ledger: ClientLedger<Disk>,
    /// A transfer that may still be applied: its number, and until when. The next one waits for it.
    under_way: Option<(u32, u32)>,
    /// It wants this channel closed.
    closing: Option<TonAddress>,
}

impl Client {
    pub(crate) fn new(peer: PeerId, key: SigningKey) -> Self {
        Self {
            peer,
            wallet: Wallet::from_key(key.clone(), GLOBAL_ID).unwrap(),
            key,
            platters: Arc::new(MemoryStore::new(SCHEMA)),
            life: None,
            back_at: 0,
            deaths: 0,
        }
    }

    pub(crate) fn on_disk(&self) -> ClientLedger<Arc<MemoryStore>> {
        ClientLedger::new(Arc::clone(&self.platters))
    }

    /// Every channel on its disk.
    pub(crate) fn channels(&self) -> Vec<ClientChannel> {
        sums::channels(&self.on_disk())
    }

    pub(crate) fn start(&mut self, world: &World) {
        let fuse = Fuse::new();
        let ledger = ClientLedger::new(Disk {
            platters: Arc::clone(&self.platters),
            fuse: Arc::clone(&fuse),
        });
        ledger.recover(world.now()).unwrap();
        self.life = Some(Life {
            fuse,
            ledger,
            under_way: None,
            closing: None,
        });
    }

    /// A channel to this worker that can pay so much; none while one has to be opened or filled first.
    pub(crate) fn channel_to(
        &self,
        worker: PeerId,
        needed: NanoTon,
        busy: &[TonAddress],
    ) -> Option<ClientChannel> {
        let closing = self.life.as_ref().and_then(|life| life.closing);
        self.channels().into_iter().find(|channel| {
            channel.worker == worker
                && channel.state == ClientChannelState::Open
                && channel.available() >= needed
                && closing != Some(channel.address)
                && !busy.contains(&channel.address)
        })
    }

    /// Looks at its channels and does at most one thing about them: open, fill, close, take back.
    pub(crate) async fn manage(
        &mut self,
        world: &mut World,
        workers: &[Worker],
        busy: &[TonAddress],
        leaving: bool,
    ) -> Result<(), Died> {
        let channels = self.channels();
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        for channel in &channels {
            look(world, life, channel, &self.wallet).await?;
        }
        if let Some((seqno, valid_until)) = life.under_way {
            let head = world.chain.head().await.unwrap();
            let next = self.wallet.seqno(&world.chain).await.unwrap();
            if next == seqno && head.unix <= valid_until {
                return Ok(());
            }
            life.under_way = None;
        }
        if leaving {
            return self.leave(world, &channels).await;
        }
        if life.closing.is_none() && world.happens(4) {
            let idle = |channel: &&ClientChannel| {
                channel.state == ClientChannelState::Open && !busy.contains(&channel.address)
            };
            life.closing = channels.iter().find(idle).map(|channel| channel.address);
        }
        if let Some(address) = life.closing {
            let message = start_close_message(address).unwrap();
            return self.transfer(world, &[message]).await;
        }
        if let Some(message) = finishing(world, &channels).await {
            return self.transfer(world, &[message]).await;
        }
        for worker in workers {
            let mine: Vec<_> = channels
                .iter()
                .filter(|channel| channel.worker == worker.peer)
                .collect();
            let open = mine
                .iter()
                .find(|channel| channel.state == ClientChannelState::Open);
            let opening = mine
                .iter()
                .any(|channel| matches!(channel.state, ClientChannelState::Opening { .. }));
            match open {
                Some(channel) if channel.available() < LOW => {
                    let message = top_up_message(channel.address, DEPOSIT).unwrap();
                    return self.transfer(world, &[message]).await;
                }
                Some(_) => {}
                None if opening => {}
                None => return self.open(world, worker).await,
            }
        }
        Ok(())
    }

    /// After the storm: closes everything and takes it back.
    async fn leave(&mut self, world: &mut World, channels: &[ClientChannel]) -> Result<(), Died> {
        let open = channels
            .iter()
            .find(|channel| channel.state == ClientChannelState::Open);
        if let Some(channel) = open {
            let message = start_close_message(channel.address).unwrap();
            return self.transfer(world, &[message]).await;
        }
        if let Some(message) = finishing(world, channels).await {
            return self.transfer(world, &[message]).await;
        }
        Ok(())
    }

    async fn transfer(
        &mut self,
        world: &mut World,
        messages: &[cocoon_settlement::contract::OutMessage],
    ) -> Result<(), Died> {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        let prepared = self.wallet.prepare(&world.chain, messages).await.unwrap();
        let seqno = self.wallet.seqno(&world.chain).await.unwrap();
        life.under_way = Some((seqno, prepared.valid_until));
        // Whether it arrived shows on chain.
        let _ = world.send(&life.fuse, &prepared.boc).await;
        if life.fuse.is_out() {
            Err(Died)
        } else {
            Ok(())
        }
    }

    async fn open(&mut self, world: &mut World, worker: &Worker) -> Result<(), Died> {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        let payout = worker.wallet.address();
        let terms = ChannelTerms {
            client: self.wallet.address(),
            worker: payout,
            client_key: crate::public(&self.key),
            nonce: life.ledger.next_nonce(&payout)?,
            close_delay_s: CLOSE_DELAY_S,
        };
        let address = terms.address().unwrap();
        let message = open_message(&terms, DEPOSIT).unwrap();
        let transfer = self.wallet.prepare(&world.chain, &[message]).await.unwrap();
        let opening = ChannelOpening {
            worker: worker.peer,
            address,
            terms,
            deposit: DEPOSIT,
            reserve: KEPT,
            valid_until: transfer.valid_until,
        };
        let seqno = self.wallet.seqno(&world.chain).await.unwrap();
        life.under_way = Some((seqno, transfer.valid_until));
        life.ledger.open_channel(opening, world.now())?;
        life.ledger
            .record_opening_sent(&address, transfer.message)?;
        let _ = world.send(&life.fuse, &transfer.boc).await;
        if life.fuse.is_out() {
            Err(Died)
        } else {
            Ok(())
        }
    }

    /// Signs a total: durable before anybody sees it.
    pub(crate) fn sign(
        &mut self,
        world: &World,
        channel: &TonAddress,
        cumulative: NanoTon,
    ) -> Result<SignedVoucher, Died> {
        let life = self.life.as_ref().ok_or(Died)?;
        Ok(life
            .ledger
            .sign_voucher(channel, cumulative, &self.key, GLOBAL_ID, world.now())?)
    }

    pub(crate) fn open_job(
        &mut self,
        world: &World,
        job: JobId,
        worker: PeerId,
        channel: TonAddress,
    ) -> Result<(), Died> {
        let life = self.life.as_ref().ok_or(Died)?;
        Ok(life.ledger.open_job(job, worker, channel, world.now())?)
    }

    pub(crate) fn close_job(
        &mut self,
        world: &World,
        job: &JobId,
        outcome: &Outcome,
        receipt: Option<&ReceiptFile>,
    ) -> Result<(), Died> {
        if let Some(life) = &self.life {
            life.ledger.close_job(job, outcome, receipt, world.now())?;
        }
        Ok(())
    }
}

/// Writes down what the chain says about a channel.
async fn look(
    world: &World,
    life: &mut Life,
    channel: &ClientChannel,
    wallet: &Wallet,
) -> Result<(), Died> {
    if channel.state == ClientChannelState::Closed {
        return Ok(());
    }
    // The head first: what is not there after it can only come from later blocks.
    let head = world.chain.head().await.unwrap();
    let state = fetch_channel(&world.chain, channel.address).await.unwrap();
    let address = &channel.address;
    match (channel.state, state) {
        (_, Some(state)) if state.finished => {
            life.ledger.record_closed(address)?;
        }
        (ClientChannelState::Open | ClientChannelState::Opening { .. }, Some(state))
            if state.close_at.is_some() =>
        {
            life.closing = life.closing.filter(|closing| closing != address);
            life.ledger
                .record_closing(address, state.close_at.unwrap())?;
        }
        (ClientChannelState::Opening { .. } | ClientChannelState::Open, Some(state)) => {
            let deposit = state.claimed.saturating_add(state.balance);
            if channel.state != ClientChannelState::Open || deposit > channel.deposit {
                life.ledger.record_open(address, deposit)?;
            }
        }
        (
            ClientChannelState::Opening {
                valid_until,
                message,
            },
            None,
        ) if head.unix > valid_until => {
            let applied = sums::transactions(&world.chain, wallet.address()).await;
            assert!(
                !applied.iter().any(|one| one.in_message == message),
                "a transfer that was applied deploys in the same block"
            );
            life.ledger.record_closed(address)?;
        }
        _ => {}
    }
    Ok(())
}

/// A message that takes the rest of a channel back, where one is ripe.
async fn finishing(
    world: &World,
    channels: &[ClientChannel],
) -> Option<cocoon_settlement::contract::OutMessage> {
    let head = world.chain.head().await.unwrap();
    channels
        .iter()
        .find(|channel| {
            matches!(channel.state, ClientChannelState::Closing { close_at } if close_at <= head.unix)
        })
        .map(|channel| finish_message(channel.address).unwrap())
}
