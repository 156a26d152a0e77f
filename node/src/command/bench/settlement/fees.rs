//! What the chain takes: every operation once, and commit and claim of 1 to 1,000 jobs, executed in a devnet.

use cocoon_protocol::{NanoTon, PublicKey32, TonAddress, UnixMillis};
use cocoon_settlement::chain::{Chain, LocalChain, TransactionSummary};
use cocoon_settlement::contract::{
    ChannelTerms, Commit, LedgerTerms, OutMessage, claim_message, commit_message,
    deploy_ledger_message, finish_message, open_message, start_close_message, top_up_message,
};
use cocoon_settlement::devnet::{self, Devnet, GLOBAL_ID};
use cocoon_settlement::ledger::{SCHEMA, WorkerLedger};
use cocoon_settlement::store::MemoryStore;
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;

use super::batch::Payer;
use super::{JOBS_PER_CLAIM, nano, odd};
use crate::command::CommandError;

const GENESIS: u32 = 1_795_000_000;
const CLOSE_DELAY_S: u32 = 3_600;
const TON: u64 = 1_000_000_000;

/// What one operation costs.
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// Of the contract's transaction.
    pub(super) gas: u64,
    pub(super) fees: NanoTon,
    /// Of everything the operation caused: the wallets' transactions before and after it too.
    pub(super) in_all: NanoTon,
}

/// What a claim with its commit costs a worker.
pub(super) struct Cost {
    /// Of both contracts' transactions.
    pub(super) gas: u64,
    /// What the worker has less than it earned: fees of both, of forwarding, of its own wallet.
    pub(super) paid: NanoTon,
}

impl Cost {
    pub(super) fn per_job(&self, jobs: u32) -> f64 {
        let paid = u32::try_from(self.paid.nano()).unwrap_or(u32::MAX);
        f64::from(paid) / f64::from(jobs)
    }
}

pub(super) struct Fees {
    pub(super) operations: Vec<Operation>,
    pub(super) per_claim: Vec<(u32, Cost)>,
}

struct Scene {
    chain: LocalChain,
    client: Wallet,
    worker: Wallet,
    ledger_key: SigningKey,
    ledger: LedgerTerms,
    operations: Vec<Operation>,
}

pub(super) async fn measure() -> Result<Fees, CommandError> {
    let mut scene = Scene::new().await?;
    let mut per_claim = Vec::new();
    let mut seqno = 0;
    for (nonce, jobs) in (0_u32..).zip(JOBS_PER_CLAIM) {
        // The first run of everything deploys; the costs below are those of a worker that is there.
        let terms = scene.terms(nonce);
        scene.open(&terms, nonce == 0).await?;
        seqno = scene.settle(&terms, jobs, seqno, &mut per_claim).await?;
    }
    scene.close().await?;
    Ok(Fees {
        operations: scene.operations,
        per_claim,
    })
}

impl Scene {
    async fn new() -> Result<Self, CommandError> {
        let chain = LocalChain::instant(Devnet::in_memory(GENESIS)?);
        let client = Wallet::from_key(SigningKey::from_bytes(&[1; 32]), GLOBAL_ID)?;
        let worker = Wallet::from_key(SigningKey::from_bytes(&[2; 32]), GLOBAL_ID)?;
        let ledger_key = SigningKey::from_bytes(&[4; 32]);
        let gifts = [&client, &worker]
            .map(|wallet| OutMessage::transfer(wallet.address(), nano(100_000 * TON / 1_000)));
        devnet::faucet()?.send(&chain, &gifts).await?;
        let ledger = LedgerTerms {
            owner: worker.address(),
            key: PublicKey32::from_bytes(ledger_key.verifying_key().to_bytes()),
        };
        let mut scene = Self {
            chain,
            client,
            worker,
            ledger_key,
            ledger,
            operations: Vec::new(),
        };
        // A wallet's first message deploys it; that is not what an operation costs.
        for wallet in [&scene.client, &scene.worker] {
            let message = OutMessage::transfer(wallet.address(), nano(1_000));
            wallet.send(&scene.chain, &[message]).await?;
        }
        let deploy = deploy_ledger_message(&scene.ledger, nano(TON))?;
        let worker = Wallet::from_key(SigningKey::from_bytes(&[2; 32]), GLOBAL_ID)?;
        scene.call("deploy the ledger", &worker, deploy).await?;
        Ok(scene)
    }

    fn terms(&self, nonce: u32) -> ChannelTerms {
        let key = SigningKey::from_bytes(&[3; 32]);
        ChannelTerms {
            client: self.client.address(),
            worker: self.worker.address(),
            client_key: PublicKey32::from_bytes(key.verifying_key().to_bytes()),
            nonce,
            close_delay_s: CLOSE_DELAY_S,
        }
    }

    async fn last(&self, account: TonAddress) -> Result<TransactionSummary, CommandError> {
        let mut after = 0;
        let mut last = None;
        loop {
            let page = self.chain.transactions(account, after, 256).await?;
            match page.into_iter().next_back() {
                Some(newest) => {
                    after = newest.lt;
                    last = Some(newest);
                }
                None => return last.ok_or_else(|| odd("an account without transactions")),
            }
        }
    }

    fn collected(&self) -> Result<u64, CommandError> {
        Ok(self.chain.devnet().supply()?.collected)
    }

    /// Sends through a wallet and notes what the receiver's transaction took.
    async fn call(
        &mut self,
        name: &'static str,
        wallet: &Wallet,
        message: OutMessage,
    ) -> Result<(), CommandError> {
        let receiver = message.destination();
        let before = self.collected()?;
        wallet.send(&self.chain, &[message]).await?;
        self.note(name, receiver, before).await
    }

    async fn note(
        &mut self,
        name: &'static str,
        receiver: TonAddress,
        before: u64,
    ) -> Result<(), CommandError> {
        let seen = self.last(receiver).await?;
        if !seen.success {
            return Err(odd(format!("{name} failed: {:?}", seen.exit_code)));
        }
        self.operations.push(Operation {
            name,
            gas: seen.gas_used,
            fees: seen.total_fees,
            in_all: nano(self.collected()?.saturating_sub(before)),
        });
        Ok(())
    }

    async fn open(&mut self, terms: &ChannelTerms, note: bool) -> Result<(), CommandError> {
        let open = open_message(terms, nano(20 * TON))?;
        let client = Wallet::from_key(SigningKey::from_bytes(&[1; 32]), GLOBAL_ID)?;
        if note {
            self.call("open a channel", &client, open).await?;
            let top_up = top_up_message(terms.address()?, nano(TON))?;
            self.call("top up", &client, top_up).await
        } else {
            client.send(&self.chain, &[open]).await?;
            Ok(())
        }
    }

    /// So many jobs through a worker's ledger, one commit and one claim.
    async fn settle(
        &mut self,
        terms: &ChannelTerms,
        jobs: u32,
        seqno: u32,
        per_claim: &mut Vec<(u32, Cost)>,
    ) -> Result<u32, CommandError> {
        let channel = terms.address()?;
        let ledger_address = self.ledger.address()?;
        let payer = Payer::new(channel, nano(20 * TON));
        let ledger = WorkerLedger::new(MemoryStore::new(SCHEMA));
        let now = UnixMillis::from_millis(1);
        for number in 0..jobs {
            payer.pay(&ledger, number, now)?;
        }
        let batch = ledger.prepare_batch(1, jobs, now).map_err(odd)?;
        let before = self.worth(ledger_address).await?;
        let known = cocoon_settlement::contract::fetch_ledger(&self.chain, ledger_address)
            .await?
            .ok_or_else(|| odd("no ledger contract"))?;
        let next = seqno.saturating_add(1);
        // Each ledger here begins anew; the contract's sums go on.
        let commit = Commit {
            ledger: ledger_address,
            seqno: next,
            valid_until: self.chain.head().await?.unix.saturating_add(60),
            root: batch.root(),
            jobs: known.jobs.saturating_add(batch.jobs()),
            total: known.total.saturating_add(batch.total),
        };
        let collected = self.collected()?;
        let boc = commit_message(&commit, &self.ledger_key, GLOBAL_ID)?;
        self.chain.send_external(&boc).await?;
        let committed = self.last(ledger_address).await?;
        if seqno == 0 {
            self.note("commit a batch", ledger_address, collected)
                .await?;
        }
        let covered = ledger.confirm_batch(1, None, now).map_err(odd)?;
        let voucher = covered
            .first()
            .map(|covered| covered.voucher.for_channel(channel))
            .ok_or_else(|| odd("nothing to claim"))?;
        let collected = self.collected()?;
        self.chain.send_external(&claim_message(&voucher)?).await?;
        let claimed = self.last(channel).await?;
        if seqno == 0 {
            self.note("claim", channel, collected).await?;
        }
        if !committed.success || !claimed.success {
            return Err(odd("commit or claim failed"));
        }
        let after = self.worth(ledger_address).await?;
        let earned = voucher.voucher.cumulative;
        let gained = after.saturating_sub(before);
        let cost = Cost {
            gas: committed.gas_used.saturating_add(claimed.gas_used),
            paid: earned.saturating_sub(gained),
        };
        per_claim.push((jobs, cost));
        Ok(next)
    }

    /// What the worker has: in its wallet and in its ledger contract.
    async fn worth(&self, ledger: TonAddress) -> Result<NanoTon, CommandError> {
        let mut sum = self.worker.balance(&self.chain).await?;
        if let Some(account) = self.chain.account(ledger).await? {
            sum = sum.saturating_add(account.balance);
        }
        Ok(sum)
    }

    /// The end of the first channel.
    async fn close(&mut self) -> Result<(), CommandError> {
        let channel = self.terms(0).address()?;
        let client = Wallet::from_key(SigningKey::from_bytes(&[1; 32]), GLOBAL_ID)?;
        let start = start_close_message(channel)?;
        self.call("start to close", &client, start).await?;
        {
            let mut devnet = self.chain.devnet();
            let unix = devnet.head().unix.saturating_add(CLOSE_DELAY_S);
            devnet.advance(unix)?;
        }
        let finish = finish_message(channel)?;
        self.call("finish", &client, finish).await
    }
}
