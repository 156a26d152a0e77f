//! Whether a receipt says what happened.

use super::served::Served;
use cocoon_protocol::evidence::Claims;
use cocoon_protocol::negotiation::Offer;
use cocoon_protocol::receipt::{Receipt, SignedReceipt};
use cocoon_protocol::{Digest, JobId, PeerId};

/// What the client knows of a job when its receipt comes.
pub(super) struct Happened<'a> {
    pub(super) job: JobId,
    pub(super) client: PeerId,
    pub(super) offer: &'a Offer,
    /// Of the evidence that was verified.
    pub(super) claims: &'a Claims,
    /// The commitment to what was asked.
    pub(super) asked: Digest,
    pub(super) served: &'a Served,
}

impl Happened<'_> {
    /// Every way in which a receipt could say something else, but two: its times are the worker's own, and
    /// which tokenizer counted can be checked only by somebody who has the model.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self, signed: &SignedReceipt) -> Result<(), &'static str> {
        let verified = signed.verify().map_err(|_| "its signature")?;
        let receipt: &Receipt = &verified;
        let Self { offer, served, .. } = self;
        let (response, tokens) = served.commitments();
        let checks = [
            (
                receipt.receipt_key.as_bytes() == &self.claims.receipt_key,
                "another key than the enclave's",
            ),
            (receipt.evidence == offer.evidence, "other evidence"),
            (receipt.job == self.job, "another job"),
            (receipt.worker == offer.worker, "another worker"),
            (receipt.client == self.client, "another client"),
            (receipt.model == offer.model, "another name of the model"),
            (receipt.model_digest == offer.model_digest, "another model"),
            (receipt.request_commitment == self.asked, "another request"),
            (
                receipt.response_commitment == response,
                "another answer than arrived",
            ),
            (
                receipt.tokens_commitment == tokens,
                "other tokens than arrived",
            ),
            (
                Some(receipt.prompt_tokens) == served.payer.prompt_tokens(),
                "another prompt length",
            ),
            (
                receipt.output_tokens == served.payer.output_tokens(),
                "another number of tokens than arrived",
            ),
            (receipt.price == offer.price, "another price"),
            (receipt.amount == served.payer.owed(), "another amount"),
            (receipt.channel == served.channel.address, "another channel"),
            (
                receipt.cumulative <= served.payer.cumulative(),
                "more than was signed",
            ),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, what)) => Err(what),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::served::Answer;
    use super::*;
    use crate::cashier::paying::LeasedChannel;
    use crate::gateway_port::JobSubmission;
    use cocoon_protocol::evidence::Beacon;
    use cocoon_protocol::ids::Keypair;
    use cocoon_protocol::job::Tokens;
    use cocoon_protocol::metering::Payer;
    use cocoon_protocol::{
        Ending, NanoTon, OfferId, Price, PublicKey32, Salt, TonAddress, UnixMillis,
    };
    use ed25519_dalek::SigningKey;

    const CHAT: &[u8] = b"{}";

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    fn digest(seed: u8) -> Digest {
        Digest::from_bytes([seed; 32])
    }

    fn peer(seed: u8) -> PeerId {
        let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        key.public().to_peer_id()
    }

    fn address(seed: u8) -> TonAddress {
        TonAddress {
            workchain: 0,
            hash: [seed; 32],
        }
    }

    fn offer() -> Offer {
        Offer {
            id: OfferId::from_bytes([1; 16]),
            worker: peer(1),
            client: peer(2),
            model: "m".to_owned(),
            model_digest: digest(4),
            price: Price {
                input: NanoTon::from_nano(10),
                output: NanoTon::from_nano(100),
            },
            credit_window: NanoTon::from_nano(10_000),
            expected_wait_ms: 0,
            expires: UnixMillis::from_millis(1),
            evidence: digest(5),
            max_prompt_tokens: 100,
            max_output_tokens: 100,
            payout: address(1),
        }
    }

    fn claims() -> Claims {
        Claims {
            noise_key: [0; 32],
            mlkem_key: Vec::new(),
            receipt_key: key().verifying_key().to_bytes(),
            peer: peer(1),
            model: digest(4),
            config: Digest::ZERO,
            gpu_evidence: Digest::ZERO,
            beacon: Beacon {
                seqno: 1,
                hash: Digest::ZERO,
            },
            epoch: 0,
            canary: Digest::ZERO,
        }
    }

    fn salt() -> Salt {
        Salt::from_bytes([7; 32])
    }

    fn frame(choice: u8, text: &str, ids: &[u32]) -> Tokens {
        Tokens {
            choice,
            ids: ids.to_vec(),
            ..Tokens::of(text, u32::try_from(ids.len()).unwrap())
        }
    }

    fn empty(choices: usize) -> Served {
        let channel = LeasedChannel {
            address: address(9),
            signed: NanoTon::ZERO,
            newest: None,
            opening: None,
        };
        let most = NanoTon::from_nano(1_000_000);
        let mut payer = Payer::new(offer().price, NanoTon::ZERO, NanoTon::ZERO, most);
        payer.on_accepted(5).unwrap();
        Served {
            channel,
            payer,
            salt: salt(),
            answers: vec![Answer::default(); choices],
            frames: 0,
            receipt: None,
        }
    }

    fn take(served: &mut Served, frame: &Tokens) -> Result<(), &'static str> {
        served.keep(frame, &JobSubmission::default())?;
        served.payer.on_tokens(frame.tokens).unwrap();
        Ok(())
    }

    /// Two answers, three tokens and one.
    fn served() -> Served {
        let mut served = empty(2);
        take(&mut served, &frame(0, "Hel", &[11, 12])).unwrap();
        take(&mut served, &frame(1, "Bon", &[21])).unwrap();
        take(&mut served, &frame(0, "lo", &[13])).unwrap();
        served
    }

    fn receipt(served: &Served) -> Receipt {
        Receipt {
            job: JobId::from_bytes([6; 16]),
            worker: peer(1),
            client: peer(2),
            model: "m".to_owned(),
            model_digest: digest(4),
            evidence: digest(5),
            request_commitment: salt().request(CHAT),
            response_commitment: salt().response(&["Hello", "Bon"]),
            prompt_tokens: 5,
            output_tokens: 4,
            price: offer().price,
            amount: NanoTon::from_nano(450),
            channel: address(9),
            cumulative: served.payer.cumulative(),
            ending: Ending::Stop,
            started: UnixMillis::from_millis(1),
            ended: UnixMillis::from_millis(2),
            receipt_key: PublicKey32::from_bytes([0; 32]),
            tokens_commitment: Some(salt().tokens(&[vec![11, 12, 13], vec![21]])),
            tokenizer: Some(digest(8)),
        }
    }

    fn checked(served: &Served, signed: &SignedReceipt) -> Result<(), &'static str> {
        let (offer, claims) = (offer(), claims());
        let happened = Happened {
            job: JobId::from_bytes([6; 16]),
            client: peer(2),
            offer: &offer,
            claims: &claims,
            asked: salt().request(CHAT),
            served,
        };
        happened.check(signed)
    }

    #[test]
    fn a_receipt_that_says_what_happened_is_taken() {
        let served = served();
        let signed = receipt(&served).sign(&key()).unwrap();
        assert_eq!(checked(&served, &signed), Ok(()));
    }

    #[test]
    fn each_field_that_says_something_else_is_seen() {
        type Lie = fn(&mut Receipt);
        let lies: [(&str, Lie); 18] = [
            ("other evidence", |r| r.evidence = digest(9)),
            ("another job", |r| r.job = JobId::from_bytes([9; 16])),
            ("another worker", |r| r.worker = peer(9)),
            ("another client", |r| r.client = peer(9)),
            ("another name of the model", |r| r.model.push('x')),
            ("another model", |r| r.model_digest = digest(9)),
            ("another request", |r| {
                r.request_commitment = salt().request(b"{ }");
            }),
            ("another request", |r| {
                r.request_commitment = Salt::from_bytes([8; 32]).request(CHAT);
            }),
            ("another answer than arrived", |r| {
                r.response_commitment = salt().response(&["Hello", "Bonn"]);
            }),
            ("another answer than arrived", |r| {
                r.response_commitment = salt().response(&["HelloBon"]);
            }),
            ("other tokens than arrived", |r| {
                r.tokens_commitment = Some(salt().tokens(&[vec![11, 12], vec![13, 21]]));
            }),
            ("other tokens than arrived", |r| r.tokens_commitment = None),
            ("another prompt length", |r| r.prompt_tokens = 6),
            ("another number of tokens than arrived", |r| {
                r.output_tokens = 5;
            }),
            ("another price", |r| {
                r.price.output = NanoTon::from_nano(99);
            }),
            ("another amount", |r| r.amount = NanoTon::from_nano(451)),
            ("another channel", |r| r.channel = address(8)),
            ("more than was signed", |r| {
                r.cumulative = NanoTon::from_nano(1_000_000);
            }),
        ];
        let served = served();
        for (wanted, lie) in lies {
            let mut receipt = receipt(&served);
            lie(&mut receipt);
            let signed = receipt.sign(&key()).unwrap();
            assert_eq!(checked(&served, &signed), Err(wanted));
        }
        let other = receipt(&served).sign(&SigningKey::from_bytes(&[4; 32]));
        assert_eq!(
            checked(&served, &other.unwrap()),
            Err("another key than the enclave's")
        );
        let mut flipped = receipt(&served).sign(&key()).unwrap();
        flipped.signature[9] ^= 1;
        assert_eq!(checked(&served, &flipped), Err("its signature"));
    }

    #[test]
    fn where_tokens_have_no_numbers_the_receipt_may_name_none() {
        let mut served = empty(1);
        take(&mut served, &Tokens::of("Hello", 4)).unwrap();
        let honest = Receipt {
            response_commitment: salt().response(&["Hello"]),
            tokens_commitment: None,
            ..receipt(&served)
        };
        let signed = honest.clone().sign(&key()).unwrap();
        assert_eq!(checked(&served, &signed), Ok(()));
        let made_up = Receipt {
            tokens_commitment: Some(salt().tokens(&[vec![1, 2, 3, 4]])),
            ..honest
        };
        assert_eq!(
            checked(&served, &made_up.sign(&key()).unwrap()),
            Err("other tokens than arrived")
        );
    }

    #[test]
    fn a_worker_that_tells_the_numbers_of_some_tokens_only_is_left() {
        for (first, second) in [
            (frame(0, "a", &[1]), Tokens::of("b", 1)),
            (Tokens::of("a", 1), frame(0, "b", &[1])),
        ] {
            let mut served = empty(1);
            take(&mut served, &first).unwrap();
            // Text without a token has no number, whatever came before.
            take(&mut served, &Tokens::of("held back", 0)).unwrap();
            assert_eq!(
                take(&mut served, &second),
                Err("it tells the numbers of some tokens and not of others")
            );
        }
    }
}
