//! A client written by hand: the real codecs and the real tunnel, and nobody who minds what is sent
//! through them.

use std::sync::{Arc, Mutex};

use cocoon_actors::clock;
use cocoon_actors::job::pipe::{Pipe, Received};
use cocoon_attestation::Trust;
use cocoon_protocol::evidence::{Claims, EvidenceReply, EvidenceRequest};
use cocoon_protocol::negotiation::{
    Decline, Offer, QuoteReply, QuoteRequest, Refusal, decode_offer,
};
use cocoon_protocol::receipt::{Receipt, SignedReceipt};
use cocoon_protocol::session::SessionBinding;
use cocoon_protocol::{
    ClientFrame, Digest, FinishReason, JobError, JobId, JobRequest, ModelTerms, NanoTon, OfferId,
    PeerId, Salt, TonAddress, WorkerFrame,
};
use libp2p::Multiaddr;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::mesh::{LIMIT, MODEL, Watched, wait};
use super::rogue::{Rogue, peer_of};

/// What opens its receipts.
pub(crate) const SALT: Salt = Salt::from_bytes([0x5a; 32]);

/// What everybody knows of the worker under attack.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    pub(crate) address: Multiaddr,
    pub(crate) peer: PeerId,
    pub(crate) terms: ModelTerms,
    pub(crate) payout: TonAddress,
}

impl Shop {
    /// What the worker's own advert says.
    pub(crate) async fn of(worker: &Watched) -> Self {
        let address = worker.tcp();
        let peer = peer_of(&address);
        let advert = Rogue::connect(&address).await.advert_of(peer).await;
        Self {
            address,
            peer,
            terms: advert.model(MODEL).expect("its model").clone(),
            payout: advert.payout,
        }
    }

    /// A request for a quote with a new id.
    pub(crate) fn request(&self, prompt: u32, output: u32) -> QuoteRequest {
        QuoteRequest {
            offer_request: OfferId::from_bytes(rand::random()),
            model: MODEL.to_owned(),
            model_digest: self.terms.digest,
            max_prompt_tokens: prompt,
            max_output_tokens: output,
        }
    }
}

/// See the module's doc.
pub(crate) struct Buyer {
    pub(crate) rogue: Rogue,
    pub(crate) shop: Arc<Shop>,
    /// The claims that were asked for last.
    known: Mutex<Option<Claims>>,
}

impl Buyer {
    /// A buyer with a new identity.
    pub(crate) async fn of(shop: &Arc<Shop>) -> Self {
        Self {
            rogue: Rogue::connect(&shop.address).await,
            shop: Arc::clone(shop),
            known: Mutex::new(None),
        }
    }

    /// A quote request and its answer, if the allowance of questions is not used up.
    async fn try_quote(&self, request: &QuoteRequest) -> Option<QuoteReply> {
        let reply = self.rogue.ask("offer", &request.encode()).await?;
        Some(QuoteReply::decode(&reply).unwrap())
    }

    /// A quote request and its answer.
    pub(crate) async fn quote(&self, request: &QuoteRequest) -> QuoteReply {
        self.try_quote(request).await.expect("an answer")
    }

    /// An offer for a job of this size, as soon as there is a slot for it.
    pub(crate) async fn offer(&self, prompt: u32, output: u32) -> Offer {
        let mut found = None;
        wait("an offer", async || {
            match self.try_quote(&self.shop.request(prompt, output)).await {
                None | Some(QuoteReply::Refused(Refusal::NoFreeSlot | Refusal::Busy)) => {}
                Some(QuoteReply::Refused(refusal)) => panic!("{refusal}"),
                Some(QuoteReply::Offer(signed)) => found = Some(decode_offer(&signed).unwrap()),
            }
            found.is_some()
        })
        .await;
        let offer = found.unwrap();
        assert_eq!(
            (offer.worker, offer.client),
            (self.shop.peer, self.rogue.peer)
        );
        (*offer).clone()
    }

    /// Says that an offer is not needed, whoever it was made to.
    pub(crate) async fn decline(&self, offer: &Offer) {
        let decline = Decline { offer: offer.id }.encode();
        wait("a decline is answered, with no bytes", async || {
            self.rogue.ask("offer", &decline).await == Some(Vec::new())
        })
        .await;
    }

    /// What the enclave behind this evidence claims.
    pub(crate) async fn claims(&self, evidence: Digest) -> Claims {
        let known = self.known.lock().unwrap().clone();
        if let Some(known) = known.filter(|known| known.digest() == evidence) {
            return known;
        }
        let request = EvidenceRequest { evidence }.encode();
        let mut reply = None;
        wait("an answer about evidence", async || {
            reply = self.rogue.ask("evidence", &request).await;
            reply.is_some()
        })
        .await;
        let EvidenceReply::Bundle(bundle) = EvidenceReply::decode(&reply.unwrap()).unwrap() else {
            panic!("no such evidence");
        };
        assert_eq!(bundle.claims.digest(), evidence);
        *self.known.lock().unwrap() = Some(bundle.claims.clone());
        bundle.claims
    }

    /// A tunnel into the enclave that makes this offer.
    pub(crate) async fn tunnel(&self, offer: &Offer) -> Pipe {
        let claims = self.claims(offer.evidence).await;
        let (binding, mut rng) = (binding(&claims), rng());
        let connecting = Pipe::connect(
            Box::new(self.rogue.open("session").await),
            &binding,
            &claims.noise_key,
            &claims.mlkem_key,
            &mut rng,
        );
        timeout(LIMIT, connecting).await.expect("in time").unwrap()
    }

    /// A job under this offer, its request sent.
    pub(crate) async fn job(&self, offer: &Offer, channel: TonAddress, chat: &[u8]) -> Talk {
        let job = JobId::from_bytes(rand::random());
        self.named_job(job, offer, channel, chat).await
    }

    /// A job of this name, its request sent.
    pub(crate) async fn named_job(
        &self,
        job: JobId,
        offer: &Offer,
        channel: TonAddress,
        chat: &[u8],
    ) -> Talk {
        let mut talk = Talk {
            pipe: self.tunnel(offer).await,
            job,
            offer: offer.clone(),
            channel,
            chat: chat.to_vec(),
            prompt_tokens: 0,
            base: NanoTon::ZERO,
            text: String::new(),
            tokens: 0,
            ids: Vec::new(),
        };
        talk.request().await;
        talk
    }

    /// An offer, and a job under it.
    pub(crate) async fn order(&self, channel: TonAddress, tokens: u32) -> Talk {
        let offer = self.offer(PROMPT, tokens).await;
        self.job(&offer, channel, &chat("Tell me a long story.", tokens))
            .await
    }
}

/// Prompt tokens that the orders of these tests are offered; enough for a short question.
pub(crate) const PROMPT: u32 = 64;

/// Fresh randomness for a handshake.
pub(crate) fn rng() -> StdRng {
    StdRng::from_os_rng()
}

/// What a session with an enclave of these claims is bound to.
pub(crate) fn binding(claims: &Claims) -> SessionBinding {
    SessionBinding {
        trust_domain: Trust::Simulated.trust_domain(),
        report_data: claims.report_data(),
    }
}

/// An ordinary chat request.
pub(crate) fn chat_value(question: &str, max_tokens: u32) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
    })
}

/// An ordinary chat request, as it travels.
pub(crate) fn chat(question: &str, max_tokens: u32) -> Vec<u8> {
    chat_value(question, max_tokens).to_string().into_bytes()
}

/// One job, as its client sees it.
pub(crate) struct Talk {
    pub(crate) pipe: Pipe,
    pub(crate) job: JobId,
    pub(crate) offer: Offer,
    pub(crate) channel: TonAddress,
    pub(crate) chat: Vec<u8>,
    pub(crate) prompt_tokens: u32,
    /// Voucher total that the worker held when the job began.
    pub(crate) base: NanoTon,
    pub(crate) text: String,
    pub(crate) tokens: u32,
    /// Their numbers.
    pub(crate) ids: Vec<u32>,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) enum End {
    Finished(FinishReason, Box<Receipt>),
    Failed(JobError, Option<Box<Receipt>>),
}

impl Talk {
    pub(crate) async fn send(&mut self, frame: &ClientFrame) {
        timeout(LIMIT, self.pipe.send(&frame.encode()))
            .await
            .expect("in time")
            .expect("the session is open");
    }

    async fn request(&mut self) {
        let request = JobRequest {
            job: self.job,
            offer: self.offer.id,
            channel: self.channel,
            chat: self.chat.clone(),
            salt: SALT,
            terms: None,
        };
        self.send(&ClientFrame::Job(request)).await;
    }

    /// The worker's next frame; `None` at the end of the session, which must be a proper one.
    pub(crate) async fn next(&mut self) -> Option<WorkerFrame> {
        let received = timeout(LIMIT, self.pipe.receive()).await.expect("in time");
        match received.expect("no end without a word") {
            Received::Frame(frame) => Some(WorkerFrame::decode(&frame).unwrap()),
            Received::Fin => None,
        }
    }

    /// A refusal before the first token, properly said.
    pub(crate) async fn refusal(mut self) -> JobError {
        let frame = self.next().await;
        let Some(WorkerFrame::Failed {
            error,
            receipt: None,
        }) = frame
        else {
            panic!("not a refusal: {frame:?}");
        };
        assert!(self.next().await.is_none(), "nothing follows a refusal");
        error
    }

    /// Waits for the worker's consent.
    pub(crate) async fn accepted(&mut self) {
        let frame = self.next().await;
        let Some(WorkerFrame::Accepted {
            prompt_tokens,
            paid_so_far,
        }) = frame
        else {
            panic!("not accepted: {frame:?}");
        };
        (self.prompt_tokens, self.base) = (prompt_tokens, paid_so_far);
    }

    /// The next frame of a running job: `None` for tokens, else how it ended.
    pub(crate) async fn step(&mut self) -> Option<End> {
        match self.next().await.expect("a frame") {
            WorkerFrame::Tokens(frame) => {
                self.text.push_str(&frame.text);
                self.tokens += frame.tokens;
                self.ids.extend(frame.ids);
                None
            }
            WorkerFrame::Finished { finish, receipt } => {
                Some(End::Finished(finish, Box::new(self.check(&receipt))))
            }
            WorkerFrame::Failed { error, receipt } => {
                let receipt = receipt.map(|receipt| Box::new(self.check(&receipt)));
                Some(End::Failed(error, receipt))
            }
            frame @ WorkerFrame::Accepted { .. } => panic!("accepted twice: {frame:?}"),
        }
    }

    /// Reads on without another word until the job ends.
    pub(crate) async fn end(&mut self) -> End {
        loop {
            if let Some(end) = self.step().await {
                return end;
            }
        }
    }

    /// What the tokens that have arrived cost.
    pub(crate) fn owed(&self) -> NanoTon {
        match self.tokens {
            0 => NanoTon::ZERO,
            tokens => self.offer.price.cost(self.prompt_tokens, tokens).unwrap(),
        }
    }

    /// The receipt is signed and says what happened here.
    fn check(&self, signed: &SignedReceipt) -> Receipt {
        let receipt = (*signed.verify().expect("a signed receipt")).clone();
        assert_eq!(receipt.job, self.job);
        assert_eq!(receipt.worker, self.offer.worker);
        assert_eq!(receipt.client, self.offer.client);
        assert_eq!(receipt.channel, self.channel);
        assert_eq!(receipt.evidence, self.offer.evidence);
        assert_eq!(receipt.request_commitment, SALT.request(&self.chat));
        assert_eq!(receipt.response_commitment, SALT.response(&[&self.text]));
        assert_eq!(
            receipt.tokens_commitment,
            SALT.counted_tokens(&[&self.ids], self.tokens)
        );
        assert_eq!(receipt.prompt_tokens, self.prompt_tokens);
        assert_eq!(receipt.output_tokens, self.tokens);
        assert_eq!(receipt.amount, self.owed());
        assert!(receipt.ended <= clock::now());
        receipt
    }
}
