//! One worker, everything around it, and a bystander who must be served whatever happens.

use std::sync::Arc;

use cocoon_protocol::{ClientFrame, FinishReason, NanoTon, Payer, Receipt, TonAddress};

use crate::buyer::{Buyer, End, PROMPT, Shop};
use crate::mesh::{Mesh, Watched};
use crate::purse::{DAY_S, Purse};

/// Price of a prompt token, nanoTON.
const INPUT: &str = "1000";
/// Price of a generated token, nanoTON.
const OUTPUT: &str = "100000";
/// The worker's credit window, nanoTON: a whole prompt, and two frames of eight tokens.
const WINDOW: &str = "1700000";
/// Enough of a deposit for every job of a test.
pub(crate) const DEPOSIT: NanoTon = NanoTon::from_nano(NanoTon::PER_TON / 2);

/// See the module's doc.
pub(crate) struct Scene {
    // In the order in which they end.
    pub(crate) worker: Watched,
    pub(crate) mesh: Mesh,
    pub(crate) shop: Arc<Shop>,
    bystander: Buyer,
}

impl Scene {
    /// `None` where the model is not there.
    pub(crate) async fn set() -> Option<Self> {
        let mesh = Mesh::with_model().await?;
        let settings = [
            ("price-input-nanoton", INPUT),
            ("price-output-nanoton", OUTPUT),
            ("credit-window-nanoton", WINDOW),
            ("slots", "8"),
        ];
        let worker = mesh.worker(&settings).await;
        let shop = Arc::new(Shop::of(&worker).await);
        let bystander = Buyer::of(&shop).await;
        Some(Self {
            worker,
            mesh,
            shop,
            bystander,
        })
    }

    /// The worker is the process that was started, and a bystander gets an offer.
    pub(crate) async fn assert_alive(&mut self, after: &str) {
        self.worker.assert_alive(after).await;
        let offer = self.bystander.offer(PROMPT, 16).await;
        self.bystander.decline(&offer).await;
        println!("alive after {after}");
    }

    /// A client with coins and one open channel.
    pub(crate) async fn customer(&self) -> (Buyer, Purse, TonAddress) {
        let mut purse = Purse::with(&self.mesh, NanoTon::from_nano(5 * NanoTon::PER_TON)).await;
        let terms = purse.terms(self.shop.payout, DAY_S);
        let channel = purse.open(&[(terms, DEPOSIT)]).await[0];
        (Buyer::of(&self.shop).await, purse, channel)
    }

    /// A job that is done and paid as it should be.
    pub(crate) async fn honest_job(&mut self, after: &str) {
        let (buyer, purse, channel) = self.customer().await;
        let receipt = serve(&buyer, &purse, channel, 24).await;
        assert!(receipt.output_tokens > 0);
        assert_eq!(receipt.cumulative, receipt.amount, "a fresh channel");
        self.worker.assert_alive(after).await;
    }
}

/// Asks, pays for every frame as it comes, and returns the receipt.
pub(crate) async fn serve(
    buyer: &Buyer,
    purse: &Purse,
    channel: TonAddress,
    tokens: u32,
) -> Receipt {
    let mut talk = buyer.order(channel, tokens).await;
    talk.accepted().await;
    let worst = talk.offer.worst_cost().unwrap();
    // No window of our own: what has come is paid at once.
    let mut payer = Payer::new(talk.offer.price, talk.base, NanoTon::ZERO, worst);
    payer.on_accepted(talk.prompt_tokens).unwrap();
    loop {
        let before = talk.tokens;
        match talk.step().await {
            None => {
                if let Some(due) = payer.on_tokens(talk.tokens - before).unwrap() {
                    talk.send(&ClientFrame::Voucher(purse.sign(channel, due)))
                        .await;
                }
            }
            Some(End::Finished(finish, receipt)) => {
                assert!(matches!(finish, FinishReason::Stop | FinishReason::Length));
                assert_eq!(receipt.cumulative, payer.cumulative());
                talk.send(&ClientFrame::Done).await;
                talk.pipe.finish().await.unwrap();
                return *receipt;
            }
            Some(other) => panic!("an honest job ended otherwise: {other:?}"),
        }
    }
}
