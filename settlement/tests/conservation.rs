//! Random walks over channel, opener and ledger, by honest and hostile parties: no coin appears or vanishes, no worker is
//! paid more than was signed, and the client always gets out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_protocol::voucher::{Release, SignedRelease, SignedVoucher};
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::contract::{
    self, CHANNEL_RESERVE, ChannelTerms, MIN_OPENER_ITEM, OpenerItem, OpenerTerms, OutMessage,
};
use cocoon_settlement::devnet::GLOBAL_ID;
use proptest::prelude::*;
use support::{CLOSE_DELAY, Scene, key, ton};

/// Channels of the one pair that a walk uses.
const CHANNELS: usize = 2;
/// Walks of a run.
const CASES: u32 = 64;
/// Walks tried to find a shorter one that fails too.
const MAX_SHRINKS: u32 = 200;
/// Steps of a walk at most.
const MAX_STEPS: usize = 20;
/// Rent of an hour or two, and what rounding leaves, nanoTON.
const A_LITTLE: u64 = 100_000;

/// Coins that cannot pay for their own bounce, nanoTON.
const DUST: u64 = 400_000;

/// Who sends a message. Everybody may send anything; most of it is refused.
#[derive(Clone, Copy, Debug)]
enum Party {
    Client,
    Worker,
    Stranger,
}

/// One step of a walk. Channels and vouchers are named by a number, taken modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    /// The client signs a voucher for so much more, and the worker claims it.
    Earn(usize, u64),
    /// The client signs a voucher for so much more, and it is kept.
    Sign(usize, u64),
    /// Somebody delivers a voucher that was signed some time.
    Replay(usize, usize),
    /// A voucher, changed or made up.
    Forge(usize, u64, u8),
    /// The client signs a release at its newest voucher plus so much, and somebody sends it.
    Release(usize, u64, Party),
    /// Somebody sends a release that was signed some time, or made up.
    OldRelease(usize, usize, u8, Party),
    TopUp(usize, u64, Party),
    StartClose(usize, Party),
    Finish(usize, Party),
    Reopen(usize, u64),
    OpenMany(Vec<(usize, bool, u64)>, Party, u64),
    Coins(bool, u64),
    Commit(u64),
    Withdraw(Party),
    Pass(u32),
}

fn party() -> impl Strategy<Value = Party> {
    prop_oneof![
        3 => Just(Party::Client),
        3 => Just(Party::Worker),
        1 => Just(Party::Stranger),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let channel = || 0..CHANNELS;
    let amount = || prop_oneof![4 => 0..150_000_000_u64, 1 => 0..10_000_000_000_u64];
    let items = proptest::collection::vec((channel(), any::<bool>(), 0..80_000_000_u64), 0..5);
    prop_oneof![
        4 => (channel(), amount()).prop_map(|(c, more)| Step::Earn(c, more)),
        2 => (channel(), amount()).prop_map(|(c, more)| Step::Sign(c, more)),
        2 => (channel(), any::<usize>()).prop_map(|(c, which)| Step::Replay(c, which)),
        2 => (channel(), amount(), 0..4_u8).prop_map(|(c, more, how)| Step::Forge(c, more, how)),
        1 => (channel(), amount(), party()).prop_map(|(c, more, who)| Step::Release(c, more, who)),
        5 => (channel(), any::<usize>(), 0..5_u8, prop_oneof![4 => Just(Party::Worker), 1 => party()])
            .prop_map(|(c, which, how, who)| Step::OldRelease(c, which, how, who)),
        2 => (channel(), amount(), party()).prop_map(|(c, more, who)| Step::TopUp(c, more, who)),
        3 => (channel(), party()).prop_map(|(c, who)| Step::StartClose(c, who)),
        1 => (channel(), party()).prop_map(|(c, who)| Step::Finish(c, who)),
        1 => (channel(), amount()).prop_map(|(c, more)| Step::Reopen(c, more)),
        2 => (items, party(), 0..400_000_000_u64)
            .prop_map(|(items, who, value)| Step::OpenMany(items, who, value)),
        1 => (any::<bool>(), amount()).prop_map(|(to_opener, coins)| Step::Coins(to_opener, coins)),
        1 => (0..1000_u64).prop_map(Step::Commit),
        1 => party().prop_map(Step::Withdraw),
        1 => (0..CLOSE_DELAY * 2).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, max_shrink_iters: MAX_SHRINKS, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_sums_are_right(steps in proptest::collection::vec(step(), 1..MAX_STEPS)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut walk = Walk::begin().await;
            for step in steps {
                walk.step(step).await;
            }
            walk.the_client_gets_out().await;
        });
    }
}

/// One channel, and everything that the client ever signed for it.
struct Pair {
    terms: ChannelTerms,
    address: TonAddress,
    vouchers: Vec<SignedVoucher>,
    releases: Vec<SignedRelease>,
    /// The most that was signed.
    promised: NanoTon,
    /// All that the contract has sent to the worker's wallet, and what the worker itself had sent along.
    paid: u64,
    brought: u64,
}

struct Walk {
    scene: Scene,
    pairs: Vec<Pair>,
    opener: OpenerTerms,
}

impl Walk {
    async fn begin() -> Self {
        let scene = Scene::new().await;
        let mut pairs = Vec::new();
        for nonce in 0..u32::try_from(CHANNELS).unwrap() {
            let terms = ChannelTerms {
                nonce,
                ..scene.terms
            };
            let open = contract::open_message(&terms, ton(150)).unwrap();
            scene.client.send(&scene.chain, &[open]).await.unwrap();
            pairs.push(Pair {
                terms,
                address: terms.address().unwrap(),
                vouchers: Vec::new(),
                releases: Vec::new(),
                promised: NanoTon::ZERO,
                paid: 0,
                brought: 0,
            });
        }
        let deploy = contract::deploy_ledger_message(&scene.ledger, ton(20)).unwrap();
        scene.worker.send(&scene.chain, &[deploy]).await.unwrap();
        let opener = OpenerTerms {
            owner: scene.client.address(),
        };
        Self {
            scene,
            pairs,
            opener,
        }
    }

    /// Sends a message as one of the parties; a wallet that cannot pay for it does not.
    async fn send(&self, who: Party, message: OutMessage) {
        let wallet = match who {
            Party::Client => &self.scene.client,
            Party::Worker => &self.scene.worker,
            Party::Stranger => &self.scene.stranger,
        };
        let _ = wallet.send(&self.scene.chain, &[message]).await;
    }

    fn sign(&mut self, channel: usize, more: u64) -> SignedVoucher {
        let pair = &mut self.pairs[channel];
        let newest = pair.vouchers.last();
        let total = newest.map_or(NanoTon::ZERO, |newest| newest.voucher.cumulative);
        let cumulative = total.checked_add(NanoTon::from_nano(more)).unwrap();
        let voucher = cocoon_protocol::voucher::Voucher {
            channel: pair.address,
            cumulative,
        }
        .sign(&self.scene.voucher_key, GLOBAL_ID);
        pair.vouchers.push(voucher);
        pair.promised = pair.promised.max(cumulative);
        voucher
    }

    async fn step(&mut self, step: Step) {
        let mut before = Vec::new();
        for pair in &self.pairs {
            before.push((
                self.channel(pair).await,
                self.scene.history(pair.address).await.len(),
            ));
        }
        self.act(step.clone()).await;
        self.scene.assert_conserved();
        for (index, (before, seen)) in before.into_iter().enumerate() {
            self.look(index, &before, seen, &step).await;
        }
    }

    async fn channel(&self, pair: &Pair) -> contract::ChannelState {
        contract::fetch_channel(&self.scene.chain, pair.address)
            .await
            .unwrap()
            .expect("opened at the beginning, never gone")
    }

    /// What must hold of a channel after every step.
    async fn look(
        &mut self,
        index: usize,
        before: &contract::ChannelState,
        seen: usize,
        step: &Step,
    ) {
        let after = self.channel(&self.pairs[index]).await;
        let worker = self.scene.worker.address();
        let history = self.scene.history(self.pairs[index].address).await;
        let pair = &mut self.pairs[index];
        for transaction in &history[seen..] {
            // What a stranger or the client sends and is refused goes back to them, not to the worker.
            let own = transaction.source == Some(worker);
            for sent in &transaction.sent {
                if sent.destination == worker {
                    pair.paid += sent.value.nano();
                }
            }
            if own
                && transaction
                    .sent
                    .iter()
                    .any(|sent| sent.destination == worker)
            {
                pair.brought += transaction.value.nano();
            }
            let claimed = after.claimed > before.claimed;
            if transaction.source.is_none() {
                assert!(
                    claimed && transaction.success && transaction.sent.len() == 1,
                    "an accepted claim is a paid claim: {step:?} {transaction:?}"
                );
            }
        }
        assert!(
            pair.paid <= pair.promised.nano() + pair.brought,
            "the worker was paid {} of {} signed, {step:?}",
            pair.paid,
            pair.promised
        );
        assert!(after.claimed <= pair.promised, "{step:?}");
        assert!(after.claimed >= before.claimed, "what was paid stays paid");
        if before.finished {
            let same = contract::ChannelState {
                balance: after.balance,
                last_lt: after.last_lt,
                ..*before
            };
            assert_eq!(after, same, "finished is finished");
            // What is sent to it bounces, unless it is too little to pay for that.
            let most = before.balance.nano() + DUST;
            assert!(
                after.balance.nano() <= most,
                "{step:?} {before:?} {after:?}"
            );
        }
        if let Some(at) = before.close_at
            && !after.finished
        {
            assert_eq!(after.close_at, Some(at), "the delay cannot be drawn out");
        }
        // Nobody but the worker, for what it earned, takes coins out of a channel that is not finished.
        if !after.finished {
            let due = after.claimed.checked_sub(before.claimed).unwrap();
            let least = before.balance.nano().saturating_sub(due.nano() + A_LITTLE);
            assert!(
                after.balance.nano() >= least,
                "{step:?}: {before:?} {after:?}"
            );
        }
    }

    /// After the delay, at the client's own word, whatever was done before: all but what was signed away.
    async fn the_client_gets_out(&mut self) {
        for index in 0..self.pairs.len() {
            let pair = &self.pairs[index];
            let before = self.channel(pair).await;
            if before.finished {
                continue;
            }
            let start = contract::start_close_message(pair.address).unwrap();
            self.send(Party::Client, start).await;
            self.scene.pass(CLOSE_DELAY);
            let purse = self.scene.balance(self.scene.client.address()).await;
            let held = self.channel(&self.pairs[index]).await.balance;
            let finish = contract::finish_message(self.pairs[index].address).unwrap();
            self.send(Party::Client, finish).await;
            let after = self.channel(&self.pairs[index]).await;
            assert!(
                after.finished && after.balance <= CHANNEL_RESERVE,
                "{after:?}"
            );
            let gained = self.scene.balance(self.scene.client.address()).await;
            // A message to the channel and its transaction cost about 0.0006 TON.
            let due = held
                .nano()
                .saturating_sub(CHANNEL_RESERVE.nano() + 1_500_000);
            assert!(
                gained.nano() >= purse.nano() + due,
                "{gained} after {purse}, with {held} in the channel"
            );
            self.scene.assert_conserved();
        }
        // The opener keeps nothing but its rent.
        let address = self.opener.address().unwrap();
        let empty = contract::open_many_message(&self.opener, 0, &[]).unwrap();
        self.send(Party::Client, empty).await;
        let left = self.scene.balance(address).await;
        assert!(left <= contract::OPENER_RESERVE, "{left}");
        self.scene.assert_conserved();
    }
}

impl Walk {
    async fn act(&mut self, step: Step) {
        match step {
            Step::Earn(channel, more) => {
                let voucher = self.sign(channel, more);
                let _ = self.scene.claim(&voucher).await;
            }
            Step::Sign(channel, more) => {
                self.sign(channel, more);
            }
            Step::Replay(channel, which) => {
                let vouchers = &self.pairs[channel].vouchers;
                if let Some(index) = which.checked_rem(vouchers.len()) {
                    let _ = self.scene.claim(&vouchers[index]).await;
                }
            }
            Step::Forge(channel, more, how) => self.forge(channel, more, how).await,
            Step::Release(channel, more, who) => {
                let total = self.sign(channel, 0).voucher.cumulative;
                let release = Release {
                    channel: self.pairs[channel].address,
                    cumulative: total.checked_add(NanoTon::from_nano(more)).unwrap(),
                };
                let signed = release.sign(&self.scene.voucher_key, GLOBAL_ID);
                let pair = &mut self.pairs[channel];
                pair.promised = pair.promised.max(release.cumulative);
                pair.releases.push(signed);
                self.send(who, contract::release_message(&signed).unwrap())
                    .await;
            }
            Step::OldRelease(channel, which, how, who) => {
                let other = &self.pairs[(channel + 1) % CHANNELS];
                let pair = &self.pairs[channel];
                let made_up = Release {
                    channel: pair.address,
                    cumulative: ton(50),
                };
                let old = which
                    .checked_rem(pair.releases.len())
                    .map(|index| pair.releases[index]);
                let signed = match how {
                    0 => match old {
                        Some(old) => old,
                        None => return,
                    },
                    1 => made_up.sign(&key(9), GLOBAL_ID),
                    2 => made_up.sign(&self.scene.voucher_key, -239),
                    // The other channel's release, sent to this one.
                    3 => match other.releases.last() {
                        Some(other) => SignedRelease {
                            release: Release {
                                channel: pair.address,
                                ..other.release
                            },
                            ..*other
                        },
                        None => return,
                    },
                    // A voucher, sent as a release.
                    _ => match pair.vouchers.last() {
                        Some(newest) => SignedRelease {
                            release: Release {
                                channel: pair.address,
                                cumulative: newest.voucher.cumulative,
                            },
                            signature: newest.signature,
                        },
                        None => return,
                    },
                };
                let before = self.channel(&self.pairs[channel]).await.finished;
                self.send(who, contract::release_message(&signed).unwrap())
                    .await;
                let after = self.channel(&self.pairs[channel]).await.finished;
                assert!(
                    before == after || how == 0,
                    "{how}: nobody signed this release"
                );
            }
            Step::TopUp(channel, amount, who) => {
                let channel = self.pairs[channel].address;
                let message =
                    contract::top_up_message(channel, NanoTon::from_nano(amount)).unwrap();
                self.send(who, message).await;
            }
            Step::StartClose(channel, who) => {
                let message = contract::start_close_message(self.pairs[channel].address).unwrap();
                self.send(who, message).await;
            }
            Step::Finish(channel, who) => {
                let message = contract::finish_message(self.pairs[channel].address).unwrap();
                self.send(who, message).await;
            }
            Step::Reopen(channel, amount) => {
                let message =
                    contract::open_message(&self.pairs[channel].terms, NanoTon::from_nano(amount))
                        .unwrap();
                self.send(Party::Client, message).await;
            }
            Step::OpenMany(items, who, value) => {
                let items: Vec<_> = items
                    .into_iter()
                    .map(|(channel, open, amount)| {
                        let pair = &self.pairs[channel];
                        let amount = NanoTon::from_nano(amount).max(MIN_OPENER_ITEM);
                        if open {
                            OpenerItem::Open {
                                terms: pair.terms,
                                deposit: amount,
                            }
                        } else {
                            OpenerItem::TopUp {
                                channel: pair.address,
                                amount,
                            }
                        }
                    })
                    .collect();
                // Often too little for the whole list.
                let message = contract::open_many_message(&self.opener, 5, &items)
                    .unwrap()
                    .with_value(NanoTon::from_nano(value));
                self.send(who, message).await;
            }
            Step::Coins(to_opener, coins) => {
                let to = if to_opener {
                    self.opener.address().unwrap()
                } else {
                    self.scene.ledger_address
                };
                let message = OutMessage::transfer(to, NanoTon::from_nano(coins));
                self.send(Party::Stranger, message).await;
            }
            Step::Commit(jobs) => {
                let ledger = self.scene.ledger_state().await;
                let commit = self.scene.commit(ledger.seqno + 1, jobs, ledger.total);
                let _ = self.scene.send_commit(&commit).await;
                assert!(self.scene.ledger_state().await.jobs >= ledger.jobs);
            }
            Step::Withdraw(who) => {
                let message = contract::withdraw_message(self.scene.ledger_address).unwrap();
                self.send(who, message).await;
            }
            Step::Pass(seconds) => self.scene.pass(seconds),
        }
    }

    async fn forge(&mut self, channel: usize, more: u64, how: u8) {
        let pair = &self.pairs[channel];
        let cumulative = pair
            .promised
            .checked_add(NanoTon::from_nano(more + 1))
            .unwrap();
        let voucher = cocoon_protocol::voucher::Voucher {
            channel: pair.address,
            cumulative,
        };
        let forged = match how {
            0 => voucher.sign(&key(9), GLOBAL_ID),
            1 => voucher.sign(&self.scene.voucher_key, -239),
            2 => match pair.vouchers.last() {
                Some(newest) => SignedVoucher { voucher, ..*newest },
                None => return,
            },
            // A release, claimed like a voucher.
            _ => match pair.releases.last() {
                Some(release) => SignedVoucher {
                    voucher: cocoon_protocol::voucher::Voucher {
                        channel: pair.address,
                        cumulative: release.release.cumulative,
                    },
                    signature: release.signature,
                },
                None => return,
            },
        };
        let result = self.scene.claim(&forged).await;
        assert!(result.is_err(), "{how}: {result:?}");
    }
}
