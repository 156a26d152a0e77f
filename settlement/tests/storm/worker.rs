//! A worker's books in the storm: its ledger, its settler, and the driver between them and the chain.

use std::collections::VecDeque;
use std::sync::Arc;

use cocoon_protocol::{JobId, NanoTon, Outcome, PeerId, SignedReceipt, SignedVoucher, TonAddress};
use cocoon_settlement::chain::{Chain, ChainError};
use cocoon_settlement::contract::{
    ChannelState, LedgerTerms, claim_message, commit_message, deploy_ledger_message, fetch_channel,
    fetch_ledger,
};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::{SCHEMA, WorkerLedger, check_voucher};
use cocoon_settlement::settler::{
    ChannelView, LedgerView, SendFailure, Settler, SettlerConfig, SettlerInput, SettlerOutput,
    Standing,
};
use cocoon_settlement::store::MemoryStore;
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;
use rand::Rng;

use crate::fuse::{Disk, Fuse};
use crate::world::World;
use crate::{Died, milliton};

/// For about a hundred commits.
const LEDGER_DEPOSIT: NanoTon = NanoTon::from_nano(50_000_000);

/// A worker: what lies on its disk, and its process while it lives.
pub(crate) struct Worker {
    pub(crate) peer: PeerId,
    pub(crate) wallet: Wallet,
    pub(crate) terms: LedgerTerms,
    key: SigningKey,
    platters: Arc<MemoryStore>,
    pub(crate) life: Option<Life>,
    /// Starts again at this second.
    pub(crate) back_at: u32,
    pub(crate) deaths: u32,
}

/// A worker's process.
pub(crate) struct Life {
    pub(crate) fuse: Arc<Fuse>,
    pub(crate) ledger: WorkerLedger<Disk>,
    settler: Settler,
}

impl Worker {
    pub(crate) fn new(peer: PeerId, key: SigningKey) -> Self {
        let wallet = Wallet::from_key(key.clone(), GLOBAL_ID).unwrap();
        Self {
            peer,
            terms: LedgerTerms {
                owner: wallet.address(),
                key: crate::public(&key),
            },
            wallet,
            key,
            platters: Arc::new(MemoryStore::new(SCHEMA)),
            life: None,
            back_at: 0,
            deaths: 0,
        }
    }

    fn config(&self) -> SettlerConfig {
        SettlerConfig {
            batch_entries: 20,
            batch_credit: milliton(500),
            batch_age_ms: 60_000,
            channel_risk: milliton(100),
            watch_ms: 20_000,
            idle_look_ms: 20_000,
            ..SettlerConfig::new(self.terms.address().unwrap())
        }
    }

    /// The disk, whether the process lives or not.
    pub(crate) fn on_disk(&self) -> WorkerLedger<Arc<MemoryStore>> {
        WorkerLedger::new(Arc::clone(&self.platters))
    }

    /// Starts the process on its own disk.
    pub(crate) fn start(&mut self, world: &World) {
        let fuse = Fuse::new();
        let ledger = WorkerLedger::new(Disk {
            platters: Arc::clone(&self.platters),
            fuse: Arc::clone(&fuse),
        });
        ledger.recover(world.now()).unwrap();
        let settler = Settler::new(self.config(), ledger.settler_start().unwrap());
        self.life = Some(Life {
            fuse,
            ledger,
            settler,
        });
    }

    /// Whether it may serve.
    pub(crate) fn is_ready(&self) -> bool {
        self.life
            .as_ref()
            .is_some_and(|life| life.settler.standing() == Standing::Sound)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.life
            .as_ref()
            .is_some_and(|life| life.settler.is_settled())
    }

    /// Takes a job on a channel that is seen on chain, open and rich enough, or says no.
    pub(crate) async fn open_job(
        &mut self,
        world: &World,
        job: JobId,
        client: PeerId,
        channel: TonAddress,
        needed: NanoTon,
    ) -> Result<Option<NanoTon>, Died> {
        let Some(life) = &self.life else {
            return Ok(None);
        };
        let Some(state) = fetch_channel(&world.chain, channel).await.unwrap() else {
            return Ok(None);
        };
        if !state.is_open() || state.terms.worker != self.wallet.address() {
            return Ok(None);
        }
        let known =
            life.ledger
                .register_channel(channel, client, state.terms.client_key, state.claimed)?;
        let held = known.held_total().max(state.claimed);
        if held.saturating_add(needed) > state.capacity() {
            return Ok(None);
        }
        life.ledger.open_job(job, client, channel, world.now())?;
        Ok(Some(held))
    }

    /// Takes a voucher, unless it holds it already.
    pub(crate) async fn take(
        &mut self,
        world: &World,
        voucher: &SignedVoucher,
    ) -> Result<(), Died> {
        let Some(life) = &self.life else {
            return Err(Died);
        };
        let address = voucher.voucher.channel;
        let known = life.ledger.channel(&address)?.unwrap();
        if voucher.voucher.cumulative <= known.held_total() {
            return Ok(());
        }
        let capacity = fetch_channel(&world.chain, address)
            .await
            .unwrap()
            .map_or(NanoTon::ZERO, |state: ChannelState| state.capacity());
        let checked = check_voucher(voucher, &known, capacity, GLOBAL_ID).unwrap();
        life.ledger.accept_voucher(&checked)?;
        Ok(())
    }

    pub(crate) fn close_job(
        &mut self,
        world: &World,
        job: &JobId,
        outcome: &Outcome,
        receipt: Option<&SignedReceipt>,
    ) -> Result<(), Died> {
        if let Some(life) = &self.life {
            life.ledger.close_job(job, outcome, receipt, world.now())?;
        }
        Ok(())
    }

    /// Has what a voucher brought entered into the log, as the end of any job on its channel does.
    pub(crate) fn enter(&mut self, world: &mut World, client: PeerId, channel: TonAddress) {
        let mut id = [0; 16];
        world.chance.fill(&mut id);
        let (id, now) = (JobId::from_bytes(id), world.now());
        let life = self.life.as_ref().unwrap();
        life.ledger.open_job(id, client, channel, now).unwrap();
        self.close_job(world, &id, &Outcome::ClientLost, None)
            .unwrap();
    }

    /// A second of settling.
    pub(crate) async fn settle(&mut self, world: &mut World, flush: bool) -> Result<(), Died> {
        let Some(life) = &self.life else {
            return Ok(());
        };
        let unsettled = life.ledger.unsettled()?;
        self.drive(world, SettlerInput::Unsettled(unsettled))
            .await?;
        if flush {
            self.drive(world, SettlerInput::Flush).await?;
        }
        self.drive(world, SettlerInput::Tick).await
    }

    async fn drive(&mut self, world: &mut World, input: SettlerInput) -> Result<(), Died> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(life) = &mut self.life else {
                return Ok(());
            };
            for output in life.settler.handle(world.now(), input) {
                if let Some(answer) = life.ledger.perform(world.now(), &output, 100)? {
                    inputs.push_back(answer);
                }
                inputs.extend(
                    chain_side(world, life, &self.wallet, &self.terms, &self.key, output).await?,
                );
            }
        }
        Ok(())
    }
}

/// Performs the outputs that are the chain's.
async fn chain_side(
    world: &mut World,
    life: &Life,
    wallet: &Wallet,
    terms: &LedgerTerms,
    key: &SigningKey,
    output: SettlerOutput,
) -> Result<Option<SettlerInput>, Died> {
    let unix = world.chain.head().await.unwrap().unix;
    let alive = |fuse: &Fuse| if fuse.is_out() { Err(Died) } else { Ok(()) };
    Ok(match output {
        SettlerOutput::SubmitCommit(commit) => {
            let boc = commit_message(&commit, key, GLOBAL_ID).unwrap();
            let sent = world.send(&life.fuse, &boc).await;
            alive(&life.fuse)?;
            Some(SettlerInput::CommitSent {
                seqno: commit.seqno,
                result: sent.map_err(failure),
            })
        }
        SettlerOutput::SubmitClaim { channel, voucher } => {
            let sent = world
                .send(&life.fuse, &claim_message(&voucher).unwrap())
                .await;
            alive(&life.fuse)?;
            Some(SettlerInput::ClaimSent {
                channel,
                cumulative: voucher.voucher.cumulative,
                result: sent.map_err(failure),
            })
        }
        SettlerOutput::LookAtLedger => {
            let state = fetch_ledger(&world.chain, terms.address().unwrap())
                .await
                .unwrap();
            Some(SettlerInput::Ledger {
                unix,
                view: state.as_ref().map(LedgerView::from),
            })
        }
        SettlerOutput::LookAtChannel(channel) => {
            let state = fetch_channel(&world.chain, channel).await.unwrap();
            Some(SettlerInput::Channel {
                unix,
                channel,
                view: state.as_ref().map(ChannelView::from),
            })
        }
        SettlerOutput::DeployLedger => {
            let deploy = deploy_ledger_message(terms, LEDGER_DEPOSIT).unwrap();
            // Whether it arrived shows at the next look.
            let _ = world.transfer(&life.fuse, wallet, &[deploy]).await;
            alive(&life.fuse)?;
            None
        }
        SettlerOutput::LookAtPrices => {
            Some(SettlerInput::Prices(world.chain.prices().await.unwrap()))
        }
        SettlerOutput::RolledBack(reason) => panic!("{reason}"),
        _ => None,
    })
}

fn failure(error: ChainError) -> SendFailure {
    match error {
        ChainError::NotAccepted { exit_code, .. } => SendFailure::Refused { exit_code },
        _ => SendFailure::Unknown,
    }
}
