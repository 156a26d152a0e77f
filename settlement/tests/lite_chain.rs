//! The liteserver client against the devnet's liteservers: that it answers what the chain holds, and what it does when
//! servers fail, lie, or speak a form that it does not know.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::lite::{GlobalConfig, Progress};
use cocoon_settlement::chain::{
    Chain, ChainError, ChainStanding, LiteChain, LiteError, LiteSettings, LocalChain, StackItem,
};
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::devnet::{
    Devnet, Faults, Fork, GLOBAL_ID, Liteserver, faucet, global_config,
};
use cocoon_settlement::wallet::{Wallet, WalletVersion};
use ed25519_dalek::SigningKey;

fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u32::try_from(since.as_secs()).unwrap()
}

fn somebody(n: u8) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [n; 32],
    }
}

const TON: NanoTon = NanoTon::from_nano(NanoTon::PER_TON);

struct Net {
    chain: LocalChain,
    servers: Vec<Liteserver>,
}

impl Net {
    /// A chain of some blocks, with a gift of 1 TON in it, and this many liteservers.
    async fn new(count: u32) -> Self {
        let chain = LocalChain::instant(Devnet::in_memory(now()).unwrap());
        chain.devnet().give(somebody(1), TON, now()).unwrap();
        chain.devnet().advance(now()).unwrap();
        let mut servers = Vec::new();
        for number in 0..count {
            let address = "127.0.0.1:0".parse().unwrap();
            servers.push(
                Liteserver::bind(chain.clone(), address, number)
                    .await
                    .unwrap(),
            );
        }
        Self { chain, servers }
    }

    fn config(&self) -> GlobalConfig {
        let json = global_config(&self.chain.devnet(), &self.servers).unwrap();
        GlobalConfig::parse(json.to_string().as_bytes()).unwrap()
    }

    fn lite(&self) -> LiteChain {
        self.lite_with(impatient())
    }

    fn lite_with(&self, settings: LiteSettings) -> LiteChain {
        LiteChain::new("test", self.config(), settings, Progress::default())
    }

    fn all(&self, faults: Faults) {
        for server in &self.servers {
            server.set_faults(faults);
        }
    }

    /// Makes blocks as time goes by, until dropped.
    fn makes_blocks(&self) -> Blocks {
        let chain = self.chain.clone();
        Blocks(tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                chain.devnet().advance(now()).unwrap();
            }
        }))
    }

    fn advance(&self) {
        self.chain.devnet().advance(now()).unwrap();
    }
}

struct Blocks(tokio::task::JoinHandle<()>);

impl Drop for Blocks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for nobody long. What is demoted is demoted for good.
fn impatient() -> LiteSettings {
    LiteSettings {
        query_timeout: Duration::from_secs(2),
        head_timeout: Duration::from_secs(2),
        head_grace: Duration::from_secs(2),
        first_backoff: Duration::from_millis(1),
        wrong_answer_pause: Duration::from_secs(3600),
        late_answer_pause: Duration::from_secs(3600),
        ..LiteSettings::default()
    }
}

fn reason_against(lite: &LiteChain, server: usize) -> LiteError {
    let state = lite.servers()[server].clone();
    state.demoted.expect("something is held against it")
}

#[tokio::test]
async fn every_answer_is_what_the_chain_holds() {
    let net = Net::new(2).await;
    let lite = net.lite();
    let faucet = faucet().unwrap();
    for n in 2..6 {
        let message = OutMessage::transfer(somebody(n), TON);
        faucet.send(&net.chain, &[message]).await.unwrap();
    }
    net.chain.devnet().request_key_block(true);
    net.advance();
    net.advance();

    assert_eq!(lite.global_id().await.unwrap(), GLOBAL_ID);
    assert_eq!(lite.head().await.unwrap(), net.chain.head().await.unwrap());
    assert_eq!(
        lite.prices().await.unwrap(),
        net.chain.prices().await.unwrap()
    );
    for seqno in 1..=lite.head().await.unwrap().seqno {
        assert_eq!(
            lite.block(seqno).await.unwrap(),
            net.chain.block(seqno).await.unwrap(),
            "block {seqno}"
        );
    }
    assert!(matches!(
        lite.block(1_000).await,
        Err(ChainError::NoSuchBlock { seqno: 1_000 })
    ));
    for address in [somebody(1), somebody(2), somebody(99), faucet.address()] {
        assert_eq!(
            lite.account(address).await.unwrap(),
            net.chain.account(address).await.unwrap()
        );
        assert_eq!(
            lite.transactions(address, 0, 100).await.unwrap(),
            net.chain.transactions(address, 0, 100).await.unwrap()
        );
    }
    let seqno = lite
        .get_method(faucet.address(), "seqno", &[])
        .await
        .unwrap();
    assert_eq!(seqno.stack, [StackItem::Num(5.into())]);
    assert_eq!(
        seqno,
        net.chain
            .get_method(faucet.address(), "seqno", &[])
            .await
            .unwrap()
    );
    assert!(matches!(
        lite.get_method(faucet.address(), "no_such_method", &[])
            .await,
        Err(ChainError::GetMethod { exit_code: 11, .. })
    ));
    assert!(matches!(
        lite.get_method(somebody(99), "seqno", &[]).await,
        Err(ChainError::NoContract { .. })
    ));
    assert_eq!(lite.standing(), ChainStanding::Verified);
}

#[tokio::test]
async fn a_long_history_comes_in_pages_oldest_first() {
    let net = Net::new(1).await;
    let lite = net.lite();
    let faucet = faucet().unwrap();
    for _ in 0..37 {
        let message = OutMessage::transfer(somebody(2), NanoTon::from_nano(1_000));
        faucet.submit(&net.chain, &[message]).await.unwrap();
    }
    let whole = net.chain.transactions(somebody(2), 0, 100).await.unwrap();
    assert_eq!(whole.len(), 37);
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = lite.transactions(somebody(2), after, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 10);
        after = last.lt;
        seen.extend(page);
    }
    assert_eq!(seen, whole);
}

#[tokio::test]
async fn a_wallet_pays_through_liteservers_and_a_replay_is_refused_with_its_code() {
    let net = Net::new(2).await;
    let lite = net.lite();
    let wallet = Wallet::of_version(
        WalletVersion::V5R1,
        SigningKey::from_bytes(&[7; 32]),
        GLOBAL_ID,
    )
    .unwrap();
    let _blocks = net.makes_blocks();
    let gift = OutMessage::transfer(wallet.address(), TON);
    faucet().unwrap().send(&lite, &[gift]).await.unwrap();
    let message = [OutMessage::transfer(somebody(2), NanoTon::from_nano(77))];
    let prepared = wallet.prepare(&lite, &message).await.unwrap();
    let done = wallet.settle(&lite, &prepared).await.unwrap();
    assert_eq!(done.in_message, Some(prepared.message));
    let there = lite.account(somebody(2)).await.unwrap().unwrap();
    assert_eq!(there.balance, NanoTon::from_nano(77));

    // This client knows that the message was taken; another one is told no.
    assert_eq!(
        lite.send_external(&prepared.boc).await.unwrap(),
        prepared.message
    );
    let error = net.lite().send_external(&prepared.boc).await.unwrap_err();
    assert!(
        matches!(
            error,
            ChainError::NotAccepted {
                exit_code: Some(133),
                ..
            }
        ),
        "{error:?}"
    );
    assert!(matches!(
        lite.send_external(b"not a bag").await,
        Err(ChainError::BadMessage { .. })
    ));
}

#[tokio::test]
async fn the_next_start_begins_at_the_newest_key_block() {
    let net = Net::new(1).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = || LiteSettings {
        anchor_file: Some(directory.path().join("anchor.json")),
        ..impatient()
    };
    for _ in 0..3 {
        net.chain.devnet().request_key_block(true);
        net.advance();
        net.advance();
    }
    net.lite_with(settings()).head().await.unwrap();
    let kept = std::fs::read_to_string(directory.path().join("anchor.json")).unwrap();

    // Somebody who hands out a configuration with another beginning of this network is not followed any more.
    let mut config = net.config();
    config.init_block.root_hash = [9; 32];
    let lite = LiteChain::new("test", config.clone(), settings(), Progress::default());
    lite.head().await.unwrap();
    let fresh = LiteChain::new("test", config, impatient(), Progress::default());
    assert!(fresh.head().await.is_err());
    assert_eq!(
        std::fs::read_to_string(directory.path().join("anchor.json")).unwrap(),
        kept
    );
}

#[tokio::test]
async fn a_start_while_nothing_can_be_verified_knows_its_network() {
    let net = Net::new(1).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = || LiteSettings {
        anchor_file: Some(directory.path().join("anchor.json")),
        ..impatient()
    };
    net.lite_with(settings()).global_id().await.unwrap();
    net.all(Faults {
        unknown_signatures: true,
        ..Faults::default()
    });
    let lite = net.lite_with(settings());
    assert_eq!(lite.global_id().await.unwrap(), GLOBAL_ID);
    assert!(matches!(
        lite.head().await,
        Err(ChainError::Unverifiable { .. })
    ));
}

#[tokio::test]
async fn others_answer_for_a_server_that_is_down_slow_or_wrong() {
    let cases = [
        Faults {
            down: true,
            ..Faults::default()
        },
        Faults {
            delay_ms: 60_000,
            ..Faults::default()
        },
        Faults {
            wrong_proofs: true,
            ..Faults::default()
        },
        Faults {
            unknown_signatures: true,
            ..Faults::default()
        },
        Faults {
            forked_head: Some(Fork::Unsigned),
            ..Faults::default()
        },
        Faults {
            drop_sends: true,
            ..Faults::default()
        },
    ];
    for faults in cases {
        let net = Net::new(2).await;
        let lite = net.lite_with(LiteSettings {
            query_timeout: Duration::from_millis(400),
            head_timeout: Duration::from_millis(400),
            ..impatient()
        });
        net.servers[0].set_faults(faults);
        for round in 0..3u8 {
            net.advance();
            let head = net.chain.head().await.unwrap();
            assert_eq!(lite.head().await.unwrap(), head, "{faults:?}");
            let message = OutMessage::transfer(somebody(10 + round), TON);
            let blocks = net.makes_blocks();
            faucet().unwrap().send(&lite, &[message]).await.unwrap();
            drop(blocks);
            let address = somebody(10 + round);
            assert_eq!(
                lite.account(address).await.unwrap(),
                net.chain.account(address).await.unwrap(),
                "{faults:?}"
            );
        }
        assert_eq!(lite.standing(), ChainStanding::Verified, "{faults:?}");
        assert_eq!(
            lite.servers()[0].demoted.is_some(),
            !faults.drop_sends,
            "{faults:?}"
        );
        assert!(lite.servers()[1].demoted.is_none(), "{faults:?}");
    }
}

#[tokio::test]
async fn signatures_of_an_unknown_form_are_a_state_and_not_an_end() {
    forms_that_are_not_known_are_a_state_and_not_an_end(Faults {
        unknown_signatures: true,
        ..Faults::default()
    })
    .await;
}

#[tokio::test]
async fn blocks_of_an_unknown_form_are_a_state_and_not_an_end() {
    forms_that_are_not_known_are_a_state_and_not_an_end(Faults {
        forked_head: Some(Fork::UnknownForm),
        ..Faults::default()
    })
    .await;
}

async fn forms_that_are_not_known_are_a_state_and_not_an_end(upgrade: Faults) {
    let net = Net::new(2).await;
    let lite = net.lite();
    let before = lite.account(somebody(1)).await.unwrap();
    let verified = lite.head().await.unwrap();
    // An upgrade of the network: every server sends what this program does not know.
    net.all(upgrade);
    net.chain.devnet().give(somebody(1), TON, now()).unwrap();
    net.advance();
    let error = lite.account(somebody(1)).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let ChainError::Unverifiable {
        last_seqno, reason, ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*last_seqno, verified.seqno);
    assert!(reason.contains("does not know"), "{reason}");
    assert!(matches!(
        lite.standing(),
        ChainStanding::Unverifiable { last_seqno, .. } if last_seqno == verified.seqno
    ));
    for refused in [
        lite.head().await.map(|_| ()),
        lite.transactions(somebody(1), 0, 1).await.map(|_| ()),
        lite.prices().await.map(|_| ()),
    ] {
        assert!(matches!(refused, Err(ChainError::Unverifiable { .. })));
    }
    // What was proved last can be had by whoever says how old it may be.
    let hour = Duration::from_secs(3600);
    assert_eq!(
        lite.account_within(somebody(1), hour).await.unwrap(),
        before
    );
    assert!(
        lite.account_within(somebody(1), Duration::ZERO)
            .await
            .is_err()
    );
    assert!(lite.account_within(somebody(2), hour).await.is_err());
    // A program that knows the form, or a network that went back, ends it.
    net.all(Faults::default());
    assert_eq!(
        lite.account(somebody(1)).await.unwrap(),
        net.chain.account(somebody(1)).await.unwrap()
    );
    assert_eq!(lite.standing(), ChainStanding::Verified);
}

#[tokio::test]
async fn wrong_proofs_from_everybody_are_not_believed() {
    let net = Net::new(2).await;
    let lite = net.lite();
    let truth = lite.account(somebody(1)).await.unwrap();
    net.all(Faults {
        wrong_proofs: true,
        ..Faults::default()
    });
    let error = lite.account(somebody(1)).await.unwrap_err();
    assert!(
        matches!(error, ChainError::Unverifiable { .. }),
        "{error:?}"
    );
    net.advance();
    assert!(lite.head().await.is_err());
    assert!(matches!(
        reason_against(&lite, 0),
        LiteError::NotProved { .. }
    ));
    net.all(Faults::default());
    assert_eq!(lite.account(somebody(1)).await.unwrap(), truth);
    assert_eq!(lite.standing(), ChainStanding::Verified);
}

#[tokio::test]
async fn two_signed_heads_of_one_number_are_an_alarm_that_stays() {
    let net = Net::new(2).await;
    let lite = net.lite();
    lite.head().await.unwrap();
    net.servers[1].set_faults(Faults {
        forked_head: Some(Fork::Signed),
        ..Faults::default()
    });
    net.advance();
    let error = lite.head().await.unwrap_err();
    assert!(error.to_string().contains("two validly signed"), "{error}");
    net.all(Faults::default());
    net.advance();
    assert!(lite.head().await.is_err());
    assert!(!lite.standing().is_sound());
}

#[tokio::test]
async fn nobody_there_is_late_first_and_unverifiable_later() {
    let net = Net::new(2).await;
    for (unverifiable_after, late) in [(Duration::from_secs(3600), true), (Duration::ZERO, false)] {
        let lite = net.lite_with(LiteSettings {
            unverifiable_after,
            ..impatient()
        });
        net.all(Faults::default());
        lite.head().await.unwrap();
        net.all(Faults {
            down: true,
            ..Faults::default()
        });
        let error = lite.head().await.unwrap_err();
        assert_eq!(
            matches!(error, ChainError::Unreachable { .. }),
            late,
            "{error:?}"
        );
        assert_eq!(lite.standing().is_sound(), late);
    }
}

#[tokio::test]
async fn an_old_head_is_not_taken_for_a_new_one() {
    let chain = LocalChain::new(Devnet::in_memory(now() - 10_000).unwrap());
    chain.devnet().advance(now() - 9_000).unwrap();
    let server = Liteserver::bind(chain.clone(), "127.0.0.1:0".parse().unwrap(), 0)
        .await
        .unwrap();
    let net = Net {
        chain,
        servers: vec![server],
    };
    let lite = net.lite();
    let error = lite.head().await.unwrap_err();
    assert!(error.to_string().contains("s old"), "{error}");
    net.advance();
    lite.head().await.unwrap();
}

#[tokio::test]
async fn callers_at_once_share_a_look_and_all_are_answered() {
    let net = Net::new(3).await;
    let lite = net.lite();
    let looks = (0..40u8).map(|n| {
        let lite = lite.clone();
        async move { lite.account(somebody(n % 4)).await }
    });
    for (n, found) in futures::future::join_all(looks)
        .await
        .into_iter()
        .enumerate()
    {
        let expected = net.chain.account(somebody(n as u8 % 4)).await.unwrap();
        assert_eq!(found.unwrap(), expected);
    }
}
