//! Clients that do not pay. None gets more than one window of tokens, none keeps a slot for longer
//! than the voucher's limit, and each job has a receipt at its end.

use cocoon_actors::job::VOUCHER_LIMIT;
use cocoon_actors::job::pipe::Received;
use cocoon_protocol::receipt::Ending;
use cocoon_protocol::{
    ClientFrame, FinishReason, JobErrorCode, JobRequest, NanoTon, Receipt, TonAddress, WorkerFrame,
};
use tokio::time::{Instant, timeout};

use crate::buyer::{Buyer, End, Talk};
use crate::mesh::{LIMIT, wait};
use crate::purse::{DAY_S, Purse, books};
use crate::scene::{DEPOSIT, Scene};

/// More than any of these jobs gets to generate.
const MANY: u32 = 400;
/// Tokens in a full frame.
const FRAME: u32 = cocoon_protocol::job::FRAME_TOKENS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_pay_gets_one_window_and_a_receipt() {
    let Some(mut scene) = Scene::set().await else {
        return;
    };
    let (buyer, mut purse, _) = scene.customer().await;
    let wanted: Vec<_> = (0..8)
        .map(|_| (purse.terms(scene.shop.payout, DAY_S), DEPOSIT))
        .collect();
    let channels = purse.open(&wanted).await;
    let (buyer, purse) = (&buyer, &purse);

    // Each waits for the worker's patience to end, so all at once.
    let (nothing, words, second, drops, late, cancelled) = tokio::join!(
        never_pays(buyer, channels[0]),
        pays_with_words(buyer, channels[1]),
        says_a_second_job(buyer, channels[2]),
        pays_by_drops(buyer, purse, channels[3]),
        pays_a_drop_in_time(buyer, purse, [channels[4], channels[7]]),
        cancels(buyer, purse, channels[5]),
    );
    let total = [nothing, words, second, drops, late, cancelled]
        .into_iter()
        .fold(NanoTon::ZERO, NanoTon::saturating_add);
    scene.assert_alive("clients that do not pay").await;

    vanishes(&scene, buyer, channels[6]).await;
    scene.assert_alive("a client that vanishes").await;

    let (held, earned) = books(&scene.worker).await;
    assert_eq!(earned, total);
    assert_eq!(
        held.values()
            .fold(NanoTon::ZERO, |sum, held| sum.saturating_add(*held)),
        total
    );
    scene.honest_job("clients that do not pay").await;
    let ended = scene.worker.status().await.ended_jobs;
    for (outcome, count) in [
        ("payment_stalled", 3),
        ("cancelled", 3),
        ("client_lost", 3),
        ("completed", 1),
    ] {
        assert_eq!(ended.get(outcome), Some(&count), "{outcome} in {ended:?}");
    }
}

/// The worker has gone as far as the window lets it, and not a token further.
fn assert_one_window(talk: &Talk, paid: NanoTon) {
    let window = talk.offer.credit_window;
    let unpaid = talk.owed().saturating_sub(paid);
    assert!(unpaid <= window, "{unpaid} unpaid, the window is {window}");
    assert!(
        unpaid.saturating_add(frame_cost(talk)) > window,
        "it stopped at {unpaid}, before the window of {window} was used"
    );
}

async fn exhausted(talk: &mut Talk) -> Receipt {
    let End::Failed(error, Some(receipt)) = talk.end().await else {
        panic!("not refused for its credit");
    };
    assert_eq!(error.code, JobErrorCode::CreditExhausted, "{error}");
    assert_eq!(receipt.ending, Ending::PaymentStalled);
    assert!(talk.next().await.is_none(), "nothing follows");
    *receipt
}

async fn never_pays(buyer: &Buyer, channel: TonAddress) -> NanoTon {
    let mut talk = buyer.order(channel, MANY).await;
    talk.accepted().await;
    let receipt = exhausted(&mut talk).await;
    assert_one_window(&talk, NanoTon::ZERO);
    assert_eq!(receipt.cumulative, NanoTon::ZERO);
    NanoTon::ZERO
}

/// Says `Done`, which is for afterwards, where a voucher is due.
async fn pays_with_words(buyer: &Buyer, channel: TonAddress) -> NanoTon {
    let mut talk = buyer.order(channel, MANY).await;
    talk.accepted().await;
    talk.send(&ClientFrame::Done).await;
    hung_up(&mut talk).await
}

/// A second job on the session of the first.
async fn says_a_second_job(buyer: &Buyer, channel: TonAddress) -> NanoTon {
    let mut talk = buyer.order(channel, MANY).await;
    talk.accepted().await;
    let again = ClientFrame::Job(JobRequest {
        job: talk.job,
        offer: talk.offer.id,
        channel,
        chat: talk.chat.clone(),
        salt: crate::buyer::SALT,
        terms: None,
    });
    talk.send(&again).await;
    hung_up(&mut talk).await
}

/// To a client that breaks the session's rules the worker has nothing more to say.
async fn hung_up(talk: &mut Talk) -> NanoTon {
    loop {
        let received = timeout(LIMIT, talk.pipe.receive()).await.expect("in time");
        match received {
            Ok(Received::Frame(frame)) => match WorkerFrame::decode(&frame).unwrap() {
                WorkerFrame::Tokens(frame) => talk.tokens += frame.tokens,
                other => panic!("an answer to a broken rule: {other:?}"),
            },
            Ok(Received::Fin) => panic!("a proper end"),
            Err(_) => break,
        }
    }
    assert!(talk.owed() <= talk.offer.credit_window);
    NanoTon::ZERO
}

/// Pays one nanoTON at a time: each voucher costs the worker a write to its disk, so there may be
/// about as many as frames.
async fn pays_by_drops(buyer: &Buyer, purse: &Purse, channel: TonAddress) -> NanoTon {
    let mut talk = buyer.order(channel, MANY).await;
    use_the_window_up(&mut talk).await;
    let mut total = talk.base;
    for _ in 0..100 {
        total = total.saturating_add(NanoTon::from_nano(1));
        let voucher = ClientFrame::Voucher(purse.sign(channel, total));
        // Most of them come after the worker's last word.
        let _ = talk.pipe.send(&voucher.encode()).await;
    }
    let End::Failed(error, Some(receipt)) = talk.end().await else {
        panic!("drops paid for a job");
    };
    assert_eq!(error.code, JobErrorCode::VoucherInvalid, "{error}");
    assert_eq!(receipt.ending, Ending::PaymentStalled);
    assert!(receipt.cumulative < total, "not all were written");
    assert_one_window(&talk, receipt.cumulative);
    receipt.cumulative
}

/// Pays one nanoTON just before the worker's patience ends. That does not begin it anew: the job
/// ends before one that fell silent in between.
async fn pays_a_drop_in_time(buyer: &Buyer, purse: &Purse, channels: [TonAddress; 2]) -> NanoTon {
    let mut talk = buyer.order(channels[0], MANY).await;
    use_the_window_up(&mut talk).await;
    let silent = Instant::now();
    tokio::time::sleep_until(silent + VOUCHER_LIMIT.mul_f32(0.25)).await;
    let mut later = buyer.order(channels[1], MANY).await;
    use_the_window_up(&mut later).await;
    tokio::time::sleep_until(silent + VOUCHER_LIMIT.mul_f32(0.8)).await;
    let drop = talk.base.saturating_add(NanoTon::from_nano(1));
    talk.send(&ClientFrame::Voucher(purse.sign(channels[0], drop)))
        .await;
    let receipt = tokio::select! {
        receipt = exhausted(&mut talk) => receipt,
        _ = later.step() => panic!("a drop has bought more time than there is"),
    };
    assert_one_window(&talk, receipt.cumulative);
    assert_eq!(receipt.cumulative, drop);
    later.send(&ClientFrame::Cancel).await;
    let end = later.end().await;
    assert!(matches!(end, End::Finished(FinishReason::Cancelled, _)));
    drop
}

async fn use_the_window_up(talk: &mut Talk) {
    talk.accepted().await;
    while talk.owed().saturating_add(frame_cost(talk)) <= talk.offer.credit_window {
        assert!(talk.step().await.is_none(), "an early end");
    }
}

fn frame_cost(talk: &Talk) -> NanoTon {
    talk.offer.price.cost(0, FRAME).unwrap()
}

/// Pays for one frame, then wants no more.
async fn cancels(buyer: &Buyer, purse: &Purse, channel: TonAddress) -> NanoTon {
    let mut talk = buyer.order(channel, MANY).await;
    talk.accepted().await;
    while talk.tokens == 0 {
        assert!(talk.step().await.is_none(), "an early end");
    }
    let paid = talk.owed();
    talk.send(&ClientFrame::Voucher(purse.sign(channel, paid)))
        .await;
    talk.send(&ClientFrame::Cancel).await;
    let End::Finished(finish, receipt) = talk.end().await else {
        panic!("not cancelled");
    };
    assert_eq!(finish, FinishReason::Cancelled);
    assert_eq!(receipt.ending, Ending::Cancelled);
    assert_eq!(receipt.cumulative, paid);
    // What was on its way when the worker heard of it is on the receipt, and within the window.
    let unpaid = receipt.amount.saturating_sub(receipt.cumulative);
    assert!(unpaid <= talk.offer.credit_window);
    paid
}

/// Is gone in the middle of an answer: the slot and the channel are free again.
async fn vanishes(scene: &Scene, buyer: &Buyer, channel: TonAddress) {
    let lost = async || {
        let ended = scene.worker.status().await.ended_jobs;
        ended.get("client_lost").copied().unwrap_or(0)
    };
    let before = lost().await;
    let mut talk = buyer.order(channel, MANY).await;
    talk.accepted().await;
    drop(talk);
    wait("the worker has noticed", async || lost().await > before).await;
    let mut again = buyer.order(channel, MANY).await;
    again.accepted().await;
    again.send(&ClientFrame::Cancel).await;
    assert!(matches!(
        again.end().await,
        End::Finished(FinishReason::Cancelled, _)
    ));
}
