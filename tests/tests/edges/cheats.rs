//! Workers with good evidence that cheat at the job. The client pays for what has arrived and no
//! more, says what happened in a typed error, and goes on.

use cocoon::gateway_client::AnswerDetails;
use cocoon::local_mesh::{Node, verified_workers};
use cocoon_actors::clock;
use cocoon_actors::job::pipe::{Pipe, Received};
use cocoon_actors::port::SessionStream;
use cocoon_attestation::{EvidenceSource as _, SimulatedSource, Trust};
use cocoon_protocol::evidence::Claims;
use cocoon_protocol::job::Tokens;
use cocoon_protocol::negotiation::{Offer, QuoteReply};
use cocoon_protocol::receipt::{Ending, Receipt};
use cocoon_protocol::session::{EnclaveSecrets, SessionBinding};
use cocoon_protocol::{
    ClientFrame, Digest, FinishReason, JobRequest, NanoTon, PeerId, PublicKey32, SignedReceipt,
    WorkerFrame,
};
use ed25519_dalek::SigningKey;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::api::{Error, ask};
use crate::fake::{Fake, Identity, Manners};
use crate::mesh::{Mesh, Watched, wait};
use crate::rogue::garbage;

/// Put into each channel, nanoTON.
const DEPOSIT: u64 = 50_000_000;
/// What the honest answer says.
const TEXT: &str = "An answer.";
/// Tokens that are asked for.
const TOKENS: u32 = 64;
const PROMPT_TOKENS: u32 = 7;

/// How a worker cheats. Its name is its model's, so that each request finds one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cheat {
    /// It does not.
    None,
    QuoteOfGarbage,
    NoQuote,
    DearerOffer,
    PaidElsewhere,
    OfferOfAnotherWorker,
    SessionOfGarbage,
    NoHandshake,
    OtherKeys,
    HangsUp,
    GarbageInTheTunnel,
    ClaimsVouchers,
    MiscountsThePrompt,
    TokensBeforeAccepting,
    MoreTokensThanOffered,
    ReceiptOfAnotherKey,
    ReceiptOverMore,
    ReceiptOverAnotherAnswer,
    ReceiptOverMadeUpTokens,
    ReceiptOfAnotherModel,
}

/// What the client must say of it, and what it may have signed by then.
struct Outcome {
    status: u16,
    code: &'static str,
    message: &'static str,
    signed: u64,
}

impl Cheat {
    const ALL: [Self; 20] = [
        Self::QuoteOfGarbage,
        Self::NoQuote,
        Self::DearerOffer,
        Self::PaidElsewhere,
        Self::OfferOfAnotherWorker,
        Self::None,
        Self::SessionOfGarbage,
        Self::NoHandshake,
        Self::OtherKeys,
        Self::HangsUp,
        Self::GarbageInTheTunnel,
        Self::ClaimsVouchers,
        Self::MiscountsThePrompt,
        Self::TokensBeforeAccepting,
        Self::MoreTokensThanOffered,
        Self::ReceiptOfAnotherKey,
        Self::ReceiptOverMore,
        Self::ReceiptOverAnotherAnswer,
        Self::ReceiptOverMadeUpTokens,
        Self::ReceiptOfAnotherModel,
    ];

    fn model(self) -> String {
        format!("{self:?}")
    }

    fn outcome(self) -> Outcome {
        // Seven tokens of one nanoTON, and eight of ten.
        let answered = 87;
        let (status, code, message, signed) = match self {
            Self::None => (200, "", "", answered),
            Self::QuoteOfGarbage
            | Self::NoQuote
            | Self::DearerOffer
            | Self::PaidElsewhere
            | Self::OfferOfAnotherWorker => (503, "all_workers_busy", "busy", 0),
            Self::SessionOfGarbage
            | Self::NoHandshake
            | Self::OtherKeys
            | Self::HangsUp
            | Self::GarbageInTheTunnel
            | Self::MiscountsThePrompt
            | Self::TokensBeforeAccepting => (502, "worker_lost", "after 0 tokens", 0),
            Self::ClaimsVouchers => (402, "payment_failed", "we signed", 0),
            // Seven of one nanoTON and 64 of ten: what was offered, and no token more.
            Self::MoreTokensThanOffered => (502, "worker_lost", "after 64 tokens", 647),
            Self::ReceiptOfAnotherKey => (502, "worker_failed", "another key", answered),
            Self::ReceiptOverMore => (502, "worker_failed", "another amount", answered),
            Self::ReceiptOverAnotherAnswer => (502, "worker_failed", "another answer", answered),
            Self::ReceiptOverMadeUpTokens => (502, "worker_failed", "other tokens", answered),
            Self::ReceiptOfAnotherModel => (502, "worker_failed", "another model", answered),
        };
        Outcome {
            status,
            code,
            message,
            signed,
        }
    }

    fn quote(self, identity: &Identity, mut offer: Offer) -> Option<Vec<u8>> {
        let one = NanoTon::from_nano(1);
        match self {
            Self::QuoteOfGarbage => return Some(garbage(500)),
            Self::NoQuote => return None,
            Self::DearerOffer => offer.price.output = offer.price.output.saturating_add(one),
            Self::PaidElsewhere => offer.payout.hash = [7; 32],
            Self::OfferOfAnotherWorker => {
                let other = Identity::serving("another", offer.model_digest);
                offer.worker = other.peer();
                return Some(QuoteReply::Offer(offer.sign(&other.key).unwrap()).encode());
            }
            _ => {}
        }
        Some(QuoteReply::Offer(offer.sign(&identity.key).unwrap()).encode())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cheats_is_paid_for_what_arrived_and_named_in_the_error() {
    let mesh = Mesh::bare().await;
    let deposit = DEPOSIT.to_string();
    let mut client = mesh
        .client("client", &[("deposit-nanoton", deposit.as_str())])
        .await;
    mesh.give(&client.node, NanoTon::from_nano(5 * NanoTon::PER_TON))
        .await;
    let mut fakes = Vec::new();
    for cheat in Cheat::ALL {
        fakes.push(join(&mesh, cheat).await);
    }
    verified_workers(&client.node, fakes.len()).await.unwrap();

    // Some of these wait for a second worker to turn up, so several at once.
    let node = &client.node;
    let asking = Cheat::ALL.map(|cheat| async move { (cheat, answer_of(node, cheat).await) });
    let answers: Vec<_> = futures::stream::iter(asking).buffered(8).collect().await;
    for ((cheat, answer), fake) in answers.into_iter().zip(&fakes) {
        assert_outcome(&client, cheat, answer, fake.peer).await;
    }
    client.assert_alive("cheating workers").await;
    let again = answer_of(&client.node, Cheat::None).await;
    again.expect("the honest one still serves");
}

/// What comes of asking a cheat. A quote that was late on a busy machine is asked for again, as the
/// answer says one should.
async fn answer_of(node: &Node, cheat: Cheat) -> Result<AnswerDetails, Error> {
    let wanted = cheat.outcome().status;
    let mut answer = None;
    wait("the worker is asked", async || {
        let came = ask(node, &cheat.model(), "Hello!", TOKENS).await;
        let late = came.as_ref().is_err_and(|error| error.status == 503);
        answer = Some(came);
        !late || wanted == 503
    })
    .await;
    answer.unwrap()
}

async fn join(mesh: &Mesh, cheat: Cheat) -> Fake {
    let identity = Identity::serving(&cheat.model(), Digest::sha256(b"weights"));
    let claims = identity.claims(mesh).await;
    let source = SimulatedSource::new(&identity.peer().to_bytes()).unwrap();
    let bundle = source.make(clock::now(), &claims).unwrap();
    let manners = Manners {
        quote: Box::new(move |identity, request, client, evidence| {
            cheat.quote(identity, identity.offer(request, client, evidence))
        }),
        serve: Box::new(move |identity, client, stream| {
            let claims = claims.clone();
            Box::pin(async move {
                let job = Job {
                    cheat,
                    client,
                    claims,
                };
                // How it ended is for the client to say.
                let _ = job.serve(&identity, stream).await;
            })
        }),
        ..Manners::showing(bundle)
    };
    Fake::join(mesh, identity, manners)
}

async fn assert_outcome(
    client: &Watched,
    cheat: Cheat,
    answer: Result<AnswerDetails, Error>,
    peer: PeerId,
) {
    let Outcome {
        status,
        code,
        message,
        signed,
    } = cheat.outcome();
    match answer {
        Ok(details) => {
            assert_eq!(status, 200, "{cheat:?} was answered");
            assert_eq!(details.cost_nanoton, signed.to_string());
        }
        Err(error) => {
            let told = (error.status, error.code.as_str());
            assert_eq!(told, (status, code), "{cheat:?}: {}", error.message);
            assert!(
                error.message.contains(message),
                "{cheat:?}: {}",
                error.message
            );
            if status == 502 {
                assert!(error.message.contains(&peer.to_string()), "{cheat:?}");
            }
        }
    }
    let channels = client.status().await.channels;
    let to_it = channels
        .iter()
        .filter(|channel| channel.peer.as_deref() == Some(&peer.to_string()));
    let total: u64 = to_it.map(|channel| channel.signed_nanoton).sum();
    assert_eq!(total, signed, "signed to {cheat:?}");
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// One session with one client.
struct Job {
    cheat: Cheat,
    client: PeerId,
    claims: Claims,
}

impl Job {
    async fn serve(&self, identity: &Identity, mut stream: SessionStream) -> Result<(), Broken> {
        match self.cheat {
            Cheat::SessionOfGarbage => {
                stream.write_all(&garbage(5_000)).await?;
                stream.close().await?;
                stream.read_to_end(&mut Vec::new()).await?;
                return Ok(());
            }
            Cheat::NoHandshake => return Ok(()),
            _ => {}
        }
        let others = EnclaveSecrets::generate(&mut StdRng::from_os_rng());
        let secrets = match self.cheat {
            Cheat::OtherKeys => &others,
            _ => &identity.secrets,
        };
        let binding = SessionBinding {
            trust_domain: Trust::Simulated.trust_domain(),
            report_data: self.claims.report_data(),
        };
        let mut rng = StdRng::from_os_rng();
        let (mut pipe, _) = Pipe::accept(stream, &[(secrets, binding)], &mut rng).await?;
        let Received::Frame(frame) = pipe.receive().await? else {
            return Ok(());
        };
        let ClientFrame::Job(request) = ClientFrame::decode(&frame)? else {
            return Ok(());
        };
        self.converse(identity, &request, &mut pipe).await
    }

    async fn converse(
        &self,
        identity: &Identity,
        request: &JobRequest,
        pipe: &mut Pipe,
    ) -> Result<(), Broken> {
        let tokens =
            |text: &str, tokens: u32| WorkerFrame::Tokens(Tokens::of(text, tokens)).encode();
        match self.cheat {
            Cheat::GarbageInTheTunnel => {
                pipe.send(&garbage(300)).await?;
                pipe.receive().await?;
                return Ok(());
            }
            Cheat::TokensBeforeAccepting => {
                pipe.send(&tokens(TEXT, 8)).await?;
                pipe.receive().await?;
                return Ok(());
            }
            _ => {}
        }
        let accepted = WorkerFrame::Accepted {
            prompt_tokens: match self.cheat {
                Cheat::MiscountsThePrompt => 100_000,
                _ => PROMPT_TOKENS,
            },
            paid_so_far: match self.cheat {
                Cheat::ClaimsVouchers => NanoTon::from_nano(1),
                _ => NanoTon::ZERO,
            },
        };
        pipe.send(&accepted.encode()).await?;
        let cumulative = match self.cheat {
            Cheat::HangsUp => return Ok(()),
            Cheat::MoreTokensThanOffered => {
                // Every token that was offered, and then one more.
                pipe.send(&tokens("a ", TOKENS)).await?;
                pipe.receive().await?;
                pipe.send(&tokens("b ", 1)).await?;
                pipe.receive().await?;
                return Ok(());
            }
            _ => {
                pipe.send(&tokens(TEXT, 8)).await?;
                voucher(pipe).await?
            }
        };
        let finished = WorkerFrame::Finished {
            finish: FinishReason::Stop,
            receipt: self.receipt(identity, request, cumulative),
        };
        pipe.send(&finished.encode()).await?;
        pipe.finish().await?;
        pipe.receive().await?;
        Ok(())
    }

    fn receipt(
        &self,
        identity: &Identity,
        request: &JobRequest,
        cumulative: NanoTon,
    ) -> SignedReceipt {
        let other = SigningKey::from_bytes(&[7; 32]);
        let key = match self.cheat {
            Cheat::ReceiptOfAnotherKey => &other,
            _ => &identity.receipt_key,
        };
        let mut receipt = Receipt {
            job: request.job,
            worker: identity.peer(),
            client: self.client,
            model: self.cheat.model(),
            model_digest: identity.terms.digest,
            evidence: self.claims.digest(),
            request_commitment: request.salt.request(&request.chat),
            response_commitment: request.salt.response(&[TEXT]),
            prompt_tokens: PROMPT_TOKENS,
            output_tokens: 8,
            price: identity.terms.price,
            amount: identity.terms.price.cost(PROMPT_TOKENS, 8).unwrap(),
            channel: request.channel,
            cumulative,
            ending: Ending::Stop,
            started: clock::now(),
            ended: clock::now(),
            receipt_key: PublicKey32::from_bytes(key.verifying_key().to_bytes()),
            tokens_commitment: None,
            tokenizer: None,
        };
        match self.cheat {
            Cheat::ReceiptOverMore => {
                receipt.amount = receipt.amount.saturating_add(NanoTon::from_nano(1));
            }
            Cheat::ReceiptOverAnotherAnswer => {
                receipt.response_commitment = request.salt.response(&["Another answer."]);
            }
            // It has sent none.
            Cheat::ReceiptOverMadeUpTokens => {
                receipt.tokens_commitment = Some(request.salt.tokens(&[vec![1; 8]]));
            }
            Cheat::ReceiptOfAnotherModel => receipt.model_digest = Digest::sha256(b"other weights"),
            _ => {}
        }
        receipt.sign(key).unwrap()
    }
}

async fn voucher(pipe: &mut Pipe) -> Result<NanoTon, Broken> {
    let Received::Frame(frame) = pipe.receive().await? else {
        return Err("no voucher".into());
    };
    match ClientFrame::decode(&frame)? {
        ClientFrame::Voucher(signed) => Ok(signed.voucher.cumulative),
        _ => Err("no voucher".into()),
    }
}
