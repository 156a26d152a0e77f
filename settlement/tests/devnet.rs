//! The devnet: blocks, persistence, determinism, bounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::{Chain, ChainError, LocalChain, StackItem};
use cocoon_settlement::contract::{self, OutMessage};
use cocoon_settlement::devnet::{self, Devnet, GLOBAL_ID, Limits, MAX_EXTERNAL_BYTES, MINTED};
use cocoon_settlement::wallet::Wallet;
use support::{GENESIS, Scene, key, ton};

fn somebody(n: u8) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [n; 32],
    }
}

#[tokio::test]
async fn the_faucet_holds_everything_at_genesis() {
    let chain = LocalChain::instant(Devnet::in_memory(GENESIS).unwrap());
    assert_eq!(
        devnet::faucet().unwrap().balance(&chain).await.unwrap(),
        MINTED
    );
    assert_eq!(chain.head().await.unwrap().seqno, 1, "the key block");
    assert_eq!(chain.global_id().await.unwrap(), GLOBAL_ID);
    let supply = chain.devnet().supply().unwrap();
    assert_eq!((supply.balances, supply.collected), (MINTED.nano(), 0));
}

#[tokio::test]
async fn empty_blocks_bring_new_beacons() {
    let mut chain = Devnet::in_memory(GENESIS).unwrap();
    let hashes: Vec<_> = (0..5)
        .map(|n| chain.advance(GENESIS + n).unwrap())
        .collect();
    for (index, block) in hashes.iter().enumerate() {
        assert_eq!(chain.block(block.seqno).unwrap(), *block);
        assert!(
            hashes[..index]
                .iter()
                .all(|earlier| earlier.hash != block.hash)
        );
    }
    assert!(matches!(
        chain.block(7),
        Err(ChainError::NoSuchBlock { seqno: 7 })
    ));
    assert_eq!(
        chain.advance(1).unwrap().unix,
        GENESIS + 4,
        "the clock never runs backwards"
    );
}

#[tokio::test]
async fn a_first_transfer_deploys_the_wallet_and_a_replayed_one_is_refused() {
    let chain = LocalChain::instant(Devnet::in_memory(GENESIS).unwrap());
    let wallet = Wallet::from_key(key(1), GLOBAL_ID).unwrap();
    assert_eq!(wallet.seqno(&chain).await.unwrap(), 0);
    let unfunded = wallet
        .send(&chain, &[OutMessage::transfer(somebody(5), ton(1))])
        .await;
    assert!(
        matches!(unfunded, Err(ChainError::InsufficientBalance { .. })),
        "{unfunded:?}"
    );

    let faucet = devnet::faucet().unwrap();
    let funding = faucet
        .send(&chain, &[OutMessage::transfer(wallet.address(), ton(1000))])
        .await
        .unwrap();
    println!(
        "wallet transfer: gas {} fees {} sent {:?}",
        funding.gas_used, funding.total_fees, funding.sent
    );
    let until = chain.head().await.unwrap().unix + 60;
    let boc = wallet
        .transfer(0, until, &[OutMessage::transfer(somebody(5), ton(1))])
        .unwrap();
    chain.send_external(&boc).await.unwrap();
    assert_eq!(wallet.seqno(&chain).await.unwrap(), 1);
    let account = chain.account(somebody(5)).await.unwrap().unwrap();
    assert_eq!(account.balance, ton(1));
    // V4R2: 33 is a wrong seqno, 36 an expired message.
    let replayed = chain.send_external(&boc).await;
    assert!(
        matches!(
            replayed,
            Err(ChainError::NotAccepted {
                exit_code: Some(33),
                ..
            })
        ),
        "{replayed:?}"
    );
    let late = wallet
        .transfer(1, GENESIS, &[OutMessage::transfer(somebody(5), ton(1))])
        .unwrap();
    let late = chain.send_external(&late).await;
    assert!(
        matches!(
            late,
            Err(ChainError::NotAccepted {
                exit_code: Some(36 | 35),
                ..
            })
        ),
        "{late:?}"
    );
    let nobody = Wallet::from_key(key(77), GLOBAL_ID).unwrap();
    let boc = nobody
        .transfer(0, until, &[OutMessage::transfer(somebody(5), ton(1))])
        .unwrap();
    assert!(matches!(
        chain.send_external(&boc).await,
        Err(ChainError::NotAccepted {
            exit_code: None,
            ..
        })
    ));
}

#[tokio::test]
async fn a_closed_and_reopened_chain_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let faucet = devnet::faucet().unwrap();
    let (head, account, history, supply) = {
        let chain = LocalChain::instant(Devnet::open(directory.path(), GENESIS).unwrap());
        for n in 1..4 {
            faucet
                .send(&chain, &[OutMessage::transfer(somebody(n), ton(7))])
                .await
                .unwrap();
        }
        chain.devnet().jump(1000);
        let unix = chain.devnet().head().unix;
        chain.devnet().advance(unix).unwrap();
        (
            chain.head().await.unwrap(),
            chain.account(faucet.address()).await.unwrap(),
            chain.transactions(faucet.address(), 0, 10).await.unwrap(),
            chain.devnet().supply().unwrap(),
        )
    };
    // The genesis time counts for a new chain only.
    let chain = LocalChain::instant(Devnet::open(directory.path(), 1).unwrap());
    assert_eq!(chain.head().await.unwrap(), head);
    assert_eq!(chain.account(faucet.address()).await.unwrap(), account);
    assert_eq!(
        chain.transactions(faucet.address(), 0, 10).await.unwrap(),
        history
    );
    assert_eq!(chain.devnet().supply().unwrap(), supply);
    assert_eq!(chain.devnet().clock_ahead(), 1000);
    faucet
        .send(&chain, &[OutMessage::transfer(somebody(9), ton(7))])
        .await
        .unwrap();
    assert_eq!(
        chain
            .transactions(faucet.address(), history[2].lt, 10)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_directory_copied_at_any_moment_opens_at_a_whole_block() {
    let directory = tempfile::tempdir().unwrap();
    let chain = LocalChain::instant(Devnet::open(directory.path(), GENESIS).unwrap());
    let faucet = devnet::faucet().unwrap();
    for n in 1..5 {
        faucet
            .send(&chain, &[OutMessage::transfer(somebody(n), ton(7))])
            .await
            .unwrap();
        // What a killed process leaves behind: everything it wrote, nothing closed or flushed.
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let copy = Devnet::open(copy.path(), GENESIS).unwrap();
        assert_eq!(copy.head(), chain.devnet().head());
        assert_eq!(copy.supply().unwrap(), chain.devnet().supply().unwrap());
        assert_eq!(copy.account(somebody(n)).unwrap().unwrap().balance, ton(7));
    }
}

#[tokio::test]
async fn what_does_not_fit_into_a_block_waits_for_the_next_even_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let faucet = devnet::faucet().unwrap();
    let gifts: Vec<_> = (1..4)
        .map(|n| OutMessage::transfer(somebody(n), ton(7)))
        .collect();
    let mut in_flight = Vec::new();
    for block in 1..6 {
        let mut chain = Devnet::open(directory.path(), GENESIS).unwrap();
        chain.set_limits(Limits {
            transactions_per_block: 1,
            ..Limits::default()
        });
        if block == 1 {
            chain
                .submit(&faucet.transfer(0, GENESIS + 60, &gifts).unwrap())
                .unwrap();
        }
        chain.advance(GENESIS + block).unwrap();
        let supply = chain.supply().unwrap();
        assert_eq!(
            supply.minted,
            supply.balances + supply.in_flight + supply.collected
        );
        in_flight.push(supply.in_flight);
    }
    // Wallet, then one receiver a block.
    assert!(
        in_flight
            .windows(2)
            .all(|pair| pair[0] > pair[1] || pair[0] == 0),
        "{in_flight:?}"
    );
    assert_eq!(in_flight[3], 0);
    let chain = Devnet::open(directory.path(), GENESIS).unwrap();
    assert!((1..4).all(|n| chain.account(somebody(n)).unwrap().unwrap().balance == ton(7)));
}

#[tokio::test]
async fn the_same_messages_at_the_same_times_give_the_same_blocks() {
    let mut heads = Vec::new();
    for _ in 0..2 {
        let scene = Scene::with_channel(ton(100)).await;
        scene.claim(&scene.voucher(ton(50))).await.unwrap();
        heads.push(scene.chain.head().await.unwrap());
    }
    assert_eq!(heads[0], heads[1]);
}

#[tokio::test]
async fn history_is_read_in_pages_oldest_first() {
    let chain = LocalChain::instant(Devnet::in_memory(GENESIS).unwrap());
    let faucet = devnet::faucet().unwrap();
    for n in 0..5 {
        faucet
            .send(&chain, &[OutMessage::transfer(somebody(n), ton(1))])
            .await
            .unwrap();
    }
    let all = chain.transactions(faucet.address(), 0, 100).await.unwrap();
    assert_eq!(all.len(), 5);
    assert!(all.windows(2).all(|pair| pair[0].lt < pair[1].lt));
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map_or(
            0,
            |transaction: &cocoon_settlement::chain::TransactionSummary| transaction.lt,
        );
        let page = chain
            .transactions(faucet.address(), after, 2)
            .await
            .unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(
        chain
            .transactions(somebody(200), 0, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        chain
            .transactions(faucet.address(), 0, 0)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn two_transfers_with_one_seqno_in_one_block_are_one() {
    let chain = LocalChain::new(Devnet::in_memory(GENESIS).unwrap());
    let faucet = devnet::faucet().unwrap();
    for n in 1..=2 {
        let boc = faucet
            .transfer(
                0,
                GENESIS + 60,
                &[OutMessage::transfer(somebody(n), ton(1))],
            )
            .unwrap();
        chain.send_external(&boc).await.unwrap();
        chain
            .send_external(&boc)
            .await
            .expect("the same message while it waits is the same message");
    }
    chain.devnet().advance(GENESIS + 1).unwrap();
    assert_eq!(
        chain
            .transactions(faucet.address(), 0, 10)
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(chain.account(somebody(1)).await.unwrap().is_some());
    assert!(chain.account(somebody(2)).await.unwrap().is_none());
}

#[tokio::test]
async fn coins_for_a_contract_that_is_not_there_come_back_if_they_may() {
    let scene = Scene::new().await;
    let before = scene.balance(scene.client.address()).await;
    scene
        .client
        .send(
            &scene.chain,
            &[contract::top_up_message(somebody(60), ton(500)).unwrap()],
        )
        .await
        .unwrap();
    let lost = before
        .checked_sub(scene.balance(scene.client.address()).await)
        .unwrap();
    assert!(lost < ton(2), "{lost}");
    scene.assert_conserved();
}

#[tokio::test]
async fn messages_that_are_none_are_refused_by_kind() {
    let mut chain = Devnet::in_memory(GENESIS).unwrap();
    let internal = {
        use tycho_types::models::{IntMsgInfo, MsgInfo, OwnedMessage};
        let message = OwnedMessage {
            info: MsgInfo::Int(IntMsgInfo::default()),
            init: None,
            body: tycho_types::cell::Cell::default().into(),
            layout: None,
        };
        tycho_types::boc::Boc::encode(tycho_types::cell::CellBuilder::build_from(message).unwrap())
    };
    let cases = [
        vec![],
        b"not a bag of cells".to_vec(),
        vec![0xb5; MAX_EXTERNAL_BYTES + 1],
        internal,
    ];
    for bytes in cases {
        assert!(matches!(
            chain.submit(&bytes),
            Err(ChainError::BadMessage { .. })
        ));
    }
}

#[test]
fn no_bytes_from_outside_make_the_chain_panic_or_stop() {
    let chain = std::sync::Mutex::new(Devnet::in_memory(GENESIS).unwrap());
    let faucet = devnet::faucet().unwrap();
    let good = faucet
        .transfer(
            0,
            GENESIS + 60,
            &[OutMessage::transfer(somebody(1), ton(1))],
        )
        .unwrap();
    // Random bytes rarely parse; a real message with some bytes changed gets further in.
    bolero::check!()
        .with_iterations(2000)
        .with_type::<(Vec<u8>, Vec<(u16, u8)>)>()
        .for_each(|(bytes, changes)| {
            let mut chain = chain.lock().unwrap();
            let _ = chain.submit(bytes);
            let mut mutated = good.clone();
            for (at, value) in changes {
                let at = usize::from(*at) % mutated.len();
                mutated[at] = *value;
            }
            let _ = chain.submit(&mutated);
        });
    chain.lock().unwrap().advance(GENESIS + 1).unwrap();
}

#[tokio::test]
async fn waiting_messages_have_a_limit() {
    let mut chain = Devnet::in_memory(GENESIS).unwrap();
    chain.set_limits(Limits {
        waiting_externals: 8,
        ..Limits::default()
    });
    let faucet = devnet::faucet().unwrap();
    let message = |n: usize| {
        let value = NanoTon::from_nano(u64::try_from(n).unwrap());
        faucet
            .transfer(0, GENESIS + 60, &[OutMessage::transfer(somebody(1), value)])
            .unwrap()
    };
    for n in 0..8 {
        chain.submit(&message(n)).unwrap();
    }
    let refused = chain.submit(&message(8));
    assert!(matches!(refused, Err(ChainError::Busy { waiting: 8 })));
    chain.advance(GENESIS + 1).unwrap();
    assert_eq!(
        chain.transactions(faucet.address(), 0, 10).unwrap().len(),
        1
    );
}

#[tokio::test]
async fn get_methods_answer_or_say_why_not() {
    let scene = Scene::with_channel(ton(100)).await;
    let nobody = scene.chain.get_method(somebody(1), "seqno", &[]).await;
    assert!(matches!(nobody, Err(ChainError::NoContract { .. })));
    let unknown = scene
        .chain
        .get_method(scene.channel, "no_such_method", &[])
        .await;
    assert!(
        matches!(unknown, Err(ChainError::GetMethod { exit_code: 11, .. })),
        "{unknown:?}"
    );
    let mut nested = StackItem::Null;
    for _ in 0..20 {
        nested = StackItem::Tuple(vec![nested]);
    }
    for args in [
        vec![nested],
        vec![StackItem::Null; 17],
        vec![StackItem::Cell(vec![1, 2, 3])],
    ] {
        let refused = scene
            .chain
            .get_method(scene.channel, "available", &args)
            .await;
        assert!(
            matches!(refused, Err(ChainError::Encoding { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_directory_of_another_layout_is_refused_with_a_word_on_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    drop(Devnet::open(directory.path(), GENESIS).unwrap());
    let rewrite = |version: Option<u32>| {
        let db = rocksdb::DB::open_default(directory.path()).unwrap();
        match version {
            Some(version) => db.put(b"v", version.to_be_bytes()).unwrap(),
            None => db.delete(b"v").unwrap(),
        }
    };
    for version in [None, Some(1), Some(3)] {
        rewrite(version);
        let refused = Devnet::open(directory.path(), GENESIS).err().unwrap();
        assert!(matches!(refused, ChainError::Directory { .. }), "{refused}");
        assert!(
            refused.to_string().contains("another directory"),
            "{refused}"
        );
    }
    rewrite(Some(2));
    Devnet::open(directory.path(), GENESIS).unwrap();
}

#[test]
fn a_directory_whose_accounts_were_changed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Devnet::open(directory.path(), GENESIS).unwrap());
    {
        let db = rocksdb::DB::open_default(directory.path()).unwrap();
        let faucet = devnet::faucet().unwrap().address();
        db.delete([b"a".as_slice(), &[0], &faucet.hash].concat())
            .unwrap();
    }
    let refused = Devnet::open(directory.path(), GENESIS).err().unwrap();
    assert!(refused.to_string().contains("damaged"), "{refused}");
}

#[tokio::test]
async fn a_gift_comes_with_its_own_block_and_has_a_limit() {
    let mut chain = Devnet::in_memory(GENESIS).unwrap();
    let before = chain.head().seqno;
    let given = chain.give(somebody(1), ton(5), GENESIS).unwrap();
    assert!(given.success);
    assert_eq!((chain.head().seqno, given.block), (before + 1, before + 1));
    assert_eq!(chain.account(somebody(1)).unwrap().unwrap().balance, ton(5));
    let more = NanoTon::from_nano(devnet::MAX_GIFT.nano() + 1);
    assert!(matches!(
        chain.give(somebody(1), more, GENESIS),
        Err(ChainError::Encoding { .. })
    ));
    // Somebody else's transfer with the same key and seqno waits already.
    let other = devnet::faucet().unwrap().transfer(
        1,
        GENESIS + 60,
        &[OutMessage::transfer(somebody(2), ton(1))],
    );
    chain.submit(&other.unwrap()).unwrap();
    chain.give(somebody(1), ton(5), GENESIS).unwrap();
    assert_eq!(
        chain.account(somebody(1)).unwrap().unwrap().balance,
        ton(10)
    );
    assert_eq!(chain.account(somebody(2)).unwrap().unwrap().balance, ton(1));
}
