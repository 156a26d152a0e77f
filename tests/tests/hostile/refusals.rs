//! Jobs that are refused before the first token: by their offer, their channel, their request.

use std::time::Duration;

use cocoon_actors::clock;
use cocoon_protocol::job::MAX_CHAT_BYTES;
use cocoon_protocol::{JobError, JobErrorCode, NanoTon, Offer, OfferId, TonAddress};
use serde_json::{Value, json};

use crate::buyer::{Buyer, PROMPT, chat, chat_value};
use crate::mesh::{Watched, wait};
use crate::purse::{DAY_S, Purse, books};
use crate::scene::{DEPOSIT, Scene, serve};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_a_good_offer_channel_or_request_is_refused_by_name() {
    let Some(mut scene) = Scene::set().await else {
        return;
    };
    let (buyer, mut purse, channel) = scene.customer().await;
    let late = buyer.offer(PROMPT, 16).await;
    let first = Count::of(&scene.worker).await;

    let mut refused = offers(&mut scene, &buyer, channel).await;
    refused += channels(&mut scene, &buyer, &mut purse).await;
    refused += requests(&mut scene, &buyer, channel).await;

    // Long enough ago by now, or soon.
    let left = late.expires.saturating_since(clock::now());
    tokio::time::sleep(Duration::from_millis(left + 1)).await;
    let error = refuse(&buyer, &late, channel, &chat("Hello", 16)).await;
    assert_eq!(error.code, JobErrorCode::OfferExpired, "{error}");
    scene.assert_alive("an offer past its time").await;

    // Each ended once, as what it was; nothing was served, nothing is held.
    let refused = refused + 1;
    wait("every refusal is counted", async || {
        Count::of(&scene.worker).await.rejected == first.rejected + refused
    })
    .await;
    let (held, earned) = books(&scene.worker).await;
    assert!(held.values().all(|held| *held == NanoTon::ZERO), "{held:?}");
    assert_eq!(earned, NanoTon::ZERO);
    assert_eq!(Count::of(&scene.worker).await.others, 0);

    a_channel_belongs_to_who_pays_on_it(&mut scene).await;
    scene.honest_job("all refusals").await;
}

/// Ended jobs.
struct Count {
    rejected: u64,
    others: u64,
}

impl Count {
    async fn of(worker: &Watched) -> Self {
        let ended = worker.status().await.ended_jobs;
        let rejected = ended.get("rejected").copied().unwrap_or(0);
        Self {
            rejected,
            others: ended.values().sum::<u64>() - rejected,
        }
    }
}

async fn refuse(buyer: &Buyer, offer: &Offer, channel: TonAddress, chat: &[u8]) -> JobError {
    buyer.job(offer, channel, chat).await.refusal().await
}

async fn offers(scene: &mut Scene, buyer: &Buyer, channel: TonAddress) -> u64 {
    let good = chat("Hello", 16);
    let mut invented = buyer.offer(PROMPT, 16).await;
    buyer.decline(&invented).await;
    // Declined: as good as never made.
    let error = refuse(buyer, &invented, channel, &good).await;
    assert_eq!(error.code, JobErrorCode::OfferUnknown, "{error}");
    invented.id = OfferId::from_bytes([7; 16]);
    let error = refuse(buyer, &invented, channel, &good).await;
    assert_eq!(error.code, JobErrorCode::OfferUnknown, "{error}");
    scene.assert_alive("an offer that was never made").await;

    let other = Buyer::of(&scene.shop).await;
    let others = other.offer(PROMPT, 16).await;
    let error = refuse(buyer, &others, channel, &good).await;
    assert_eq!(error.code, JobErrorCode::OfferUnknown, "{error}");
    // Neither taking it nor declining it has cost its owner anything: the job is refused for its
    // request, so the offer was redeemed.
    buyer.decline(&others).await;
    let error = refuse(&other, &others, channel, b"{}").await;
    assert_eq!(error.code, JobErrorCode::BadRequest, "{error}");
    let error = refuse(&other, &others, channel, &good).await;
    assert_eq!(error.code, JobErrorCode::OfferUnknown, "twice: {error}");
    scene.assert_alive("an offer made to somebody else").await;
    5
}

async fn channels(scene: &mut Scene, buyer: &Buyer, purse: &mut Purse) -> u64 {
    let payout = scene.shop.payout;
    let nowhere = TonAddress {
        workchain: 0,
        hash: [7; 32],
    };
    let somebody_elses = purse.terms(nowhere, DAY_S);
    let small = purse.terms(payout, DAY_S);
    let hasty = purse.terms(payout, 0);
    let closing = purse.terms(payout, DAY_S);
    // A job of 64 and 16 tokens may cost 1,664,000 nanoTON.
    let little = NanoTon::from_nano(4_000_000);
    let opened = purse
        .open(&[
            (somebody_elses, DEPOSIT),
            (small, little),
            (hasty, DEPOSIT),
            (closing, DEPOSIT),
        ])
        .await;
    purse.start_close(opened[3]).await;
    let cases = [
        ("no account", nowhere, JobErrorCode::ChannelUnknown),
        ("a wallet", purse.address(), JobErrorCode::ChannelUnknown),
        ("pays another", opened[0], JobErrorCode::ChannelUnknown),
        ("too little", opened[1], JobErrorCode::ChannelUnderfunded),
        // Its client could take everything back before the worker has claimed.
        ("closes at once", opened[2], JobErrorCode::ChannelUnknown),
        ("closing", opened[3], JobErrorCode::ChannelUnknown),
    ];
    for (what, channel, code) in cases {
        let offer = buyer.offer(PROMPT, 16).await;
        let error = refuse(buyer, &offer, channel, &chat("Hello", 16)).await;
        assert_eq!(error.code, code, "{what}: {error}");
        assert!(
            error.message.contains(&channel.to_string()),
            "{what}: {error} does not name the channel"
        );
        scene.assert_alive(&format!("a channel: {what}")).await;
    }
    u64::try_from(cases.len()).unwrap()
}

fn with(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = chat_value("Hello", 16);
    change(&mut value);
    value.to_string().into_bytes()
}

async fn requests(scene: &mut Scene, buyer: &Buyer, channel: TonAddress) -> u64 {
    let bad = JobErrorCode::BadRequest;
    let long = "word ".repeat(2 * usize::try_from(PROMPT).unwrap());
    let cases = [
        ("no JSON", b"{\"model\":".to_vec(), bad),
        ("a space", b" ".to_vec(), bad),
        ("no object", b"[]".to_vec(), bad),
        ("deep", "[".repeat(MAX_CHAT_BYTES).into_bytes(), bad),
        (
            "an unknown field",
            with(|chat| chat["tools"] = json!([])),
            bad,
        ),
        (
            "a field given twice",
            b"{\"model\":\"a\",\"model\":\"b\",\"messages\":[]}".to_vec(),
            bad,
        ),
        (
            "no messages",
            with(|chat| chat["messages"] = json!([])),
            bad,
        ),
        (
            "an unknown role",
            with(|chat| chat["messages"][0]["role"] = json!("tool")),
            bad,
        ),
        (
            "another model",
            with(|chat| chat["model"] = json!("another")),
            bad,
        ),
        ("no tokens", with(|chat| chat["max_tokens"] = json!(0)), bad),
        (
            "too hot",
            with(|chat| chat["temperature"] = json!(100)),
            bad,
        ),
        (
            "an empty stop",
            with(|chat| chat["stop"] = json!([""])),
            bad,
        ),
        (
            "more than was offered",
            chat(&long, 16),
            JobErrorCode::ContextTooLong,
        ),
        (
            "more than any context",
            chat(&"x".repeat(MAX_CHAT_BYTES - 1_000), 16),
            JobErrorCode::ContextTooLong,
        ),
    ];
    for (what, chat, code) in &cases {
        let offer = buyer.offer(PROMPT, 16).await;
        let error = refuse(buyer, &offer, channel, chat).await;
        assert_eq!(error.code, *code, "{what}: {error}");
        assert!(!error.message.contains("word"), "{what}: {error} quotes");
        scene.assert_alive(&format!("a request: {what}")).await;
    }
    u64::try_from(cases.len()).unwrap()
}

/// A stranger who names somebody's channel can neither use it nor keep its owner out, and a job's
/// name counts once.
async fn a_channel_belongs_to_who_pays_on_it(scene: &mut Scene) {
    let (owner, purse, channel) = scene.customer().await;
    let thief = Buyer::of(&scene.shop).await;

    // Before the owner has paid: the thief may name it, gets nothing worth a voucher, and leaves.
    let mut early = thief.order(channel, 16).await;
    early.accepted().await;
    drop(early);
    wait("the thief's job has ended", async || {
        scene
            .worker
            .status()
            .await
            .ended_jobs
            .contains_key("client_lost")
    })
    .await;
    let receipt = serve(&owner, &purse, channel, 16).await;
    let (held, earned) = books(&scene.worker).await;
    assert_eq!(
        (held[&channel], earned),
        (receipt.cumulative, receipt.cumulative)
    );

    // Since then it is the owner's.
    let error = thief.order(channel, 16).await.refusal().await;
    assert_eq!(error.code, JobErrorCode::ChannelUnknown, "{error}");
    assert_eq!(books(&scene.worker).await, (held, earned));
    scene.assert_alive("somebody else's channel").await;

    // The job's name of before.
    let offer = owner.offer(PROMPT, 16).await;
    let again = owner
        .named_job(receipt.job, &offer, channel, &chat("Hello", 16))
        .await;
    let error = again.refusal().await;
    assert_eq!(error.code, JobErrorCode::BadRequest, "{error}");
    scene.assert_alive("a job's name used twice").await;
}
