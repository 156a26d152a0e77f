//! Vouchers that are not worth what they should be. Each ends the job by name, with a receipt for
//! what was served, and the books hold what they held before.

use cocoon_protocol::receipt::Ending;
use cocoon_protocol::{ClientFrame, JobErrorCode, NanoTon, Receipt, SignedVoucher, TonAddress};
use ed25519_dalek::SigningKey;

use crate::buyer::{Buyer, End, Talk};
use crate::purse::{DAY_S, Purse, books};
use crate::scene::{DEPOSIT, Scene, serve};

/// More than any of these jobs gets to generate.
const MANY: u32 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voucher_that_is_worth_no_more_ends_the_job_and_is_not_kept() {
    let Some(mut scene) = Scene::set().await else {
        return;
    };
    let (buyer, mut purse, channel) = scene.customer().await;
    let spare = purse.terms(scene.shop.payout, DAY_S);
    let spare = purse.open(&[(spare, DEPOSIT)]).await[0];
    // The spare channel is known to the worker, and holds something.
    let mut earned = serve(&buyer, &purse, spare, 8).await.cumulative;
    let held_on_spare = earned;

    let one = NanoTon::from_nano(1);
    let stranger = SigningKey::from_bytes(&[9; 32]);
    type Forge<'a> = Box<dyn Fn(NanoTon) -> SignedVoucher + 'a>;
    let sign = |total: NanoTon| purse.sign(channel, total);
    let cases: Vec<(&str, Forge<'_>)> = vec![
        (
            "a smaller total",
            Box::new(move |held| sign(held.saturating_sub(one))),
        ),
        ("an equal total", Box::new(sign)),
        ("nothing at all", Box::new(move |_| sign(NanoTon::ZERO))),
        (
            "another's signature",
            Box::new(|held| {
                let voucher = sign(held.saturating_add(one)).voucher;
                voucher.sign(&stranger, purse.global_id)
            }),
        ),
        (
            "a signature over another total",
            Box::new(|held| SignedVoucher {
                signature: sign(held.saturating_add(one)).signature,
                ..sign(held.saturating_add(one).saturating_add(one))
            }),
        ),
        (
            "no signature",
            Box::new(move |held| SignedVoucher {
                signature: [0; 64],
                ..sign(held.saturating_add(one))
            }),
        ),
        (
            "a signature for another network",
            Box::new(|held| {
                let voucher = sign(held.saturating_add(one)).voucher;
                voucher.sign(&purse.key, purse.global_id + 1)
            }),
        ),
        (
            "a total above the deposit",
            Box::new(move |_| sign(DEPOSIT)),
        ),
        (
            "the largest total there is",
            Box::new(move |_| sign(NanoTon::from_nano(u64::MAX))),
        ),
        (
            "another channel of ours",
            Box::new(|_| purse.sign(spare, NanoTon::from_nano(100_000_000))),
        ),
        (
            "a channel that does not exist",
            Box::new(|held| {
                let nowhere = TonAddress {
                    workchain: 0,
                    hash: [7; 32],
                };
                purse.sign(nowhere, held.saturating_add(one))
            }),
        ),
    ];
    for (what, forge) in &cases {
        let mut talk = buyer.order(channel, MANY).await;
        let paid = pay_for_a_frame(&mut talk, &purse).await;
        talk.send(&ClientFrame::Voucher(forge(paid))).await;
        let receipt = refused(&mut talk, what).await;
        assert_eq!(receipt.cumulative, paid, "{what}");
        earned = paid.saturating_add(held_on_spare);

        let (held, in_log) = books(&scene.worker).await;
        assert_eq!(held[&channel], paid, "{what}");
        assert_eq!(held[&spare], held_on_spare, "{what}");
        assert_eq!(held.len(), 2, "{what}");
        assert_eq!(in_log, earned, "{what}");
        scene.assert_alive(&format!("a voucher: {what}")).await;
    }
    one_voucher_does_not_pay_two_jobs(&mut scene, &buyer, &purse, channel, spare).await;

    let (_, before) = books(&scene.worker).await;
    assert!(before >= earned);
    scene.honest_job("bad vouchers").await;
    let ended = scene.worker.status().await.ended_jobs;
    let stalled = u64::try_from(cases.len()).unwrap() + 1;
    assert_eq!(ended.get("payment_stalled"), Some(&stalled), "{ended:?}");
}

/// Pays what is owed for the first frame, properly, and returns the channel's total.
async fn pay_for_a_frame(talk: &mut Talk, purse: &Purse) -> NanoTon {
    talk.accepted().await;
    while talk.tokens == 0 {
        if let Some(end) = talk.step().await {
            panic!("an early end: {end:?}");
        }
    }
    let total = talk.base.saturating_add(talk.owed());
    talk.send(&ClientFrame::Voucher(purse.sign(talk.channel, total)))
        .await;
    total
}

/// The job ends because of a voucher, with a receipt.
async fn refused(talk: &mut Talk, what: &str) -> Receipt {
    let End::Failed(error, Some(receipt)) = talk.end().await else {
        panic!("{what}: not refused");
    };
    assert_eq!(error.code, JobErrorCode::VoucherInvalid, "{what}: {error}");
    assert_eq!(receipt.ending, Ending::PaymentStalled, "{what}");
    assert!(talk.next().await.is_none(), "{what}: nothing follows");
    *receipt
}

/// Two jobs at once, each on its own channel. What pays for the one is not taken for the other,
/// though it is signed by the same client and worth something.
async fn one_voucher_does_not_pay_two_jobs(
    scene: &mut Scene,
    buyer: &Buyer,
    purse: &Purse,
    channel: TonAddress,
    spare: TonAddress,
) {
    let mut honest = buyer.order(spare, MANY).await;
    let paid = pay_for_a_frame(&mut honest, purse).await;
    let mut cheat = buyer.order(channel, MANY).await;
    let before = pay_for_a_frame(&mut cheat, purse).await;

    let more = paid.saturating_add(NanoTon::from_nano(10_000_000));
    let voucher = purse.sign(spare, more);
    cheat.send(&ClientFrame::Voucher(voucher)).await;
    let receipt = refused(&mut cheat, "the other job's channel").await;
    assert_eq!(receipt.cumulative, before);
    let (held, _) = books(&scene.worker).await;
    assert_eq!((held[&channel], held[&spare]), (before, paid));

    // Where it belongs it is good.
    honest.send(&ClientFrame::Voucher(voucher)).await;
    honest.send(&ClientFrame::Cancel).await;
    let End::Finished(_, receipt) = honest.end().await else {
        panic!("the honest job did not end as it should");
    };
    assert_eq!(receipt.cumulative, more);
    scene.assert_alive("a voucher of the other job").await;
}
