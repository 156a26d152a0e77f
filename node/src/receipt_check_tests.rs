#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use cocoon_attestation::{Image, Measurement, Policy, Trust};
use cocoon_protocol::Price;
use cocoon_protocol::ids::{Digest, JobId, Keypair, PublicKey32, TonAddress};
use cocoon_protocol::receipt::Ending;
use cocoon_protocol::units::UnixMillis;
use ed25519_dalek::SigningKey;

use super::*;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn peer(seed: u8) -> cocoon_protocol::ids::PeerId {
    Keypair::ed25519_from_bytes([seed; 32])
        .unwrap()
        .public()
        .to_peer_id()
}

fn receipt() -> Receipt {
    Receipt {
        job: JobId::from_bytes([1; 16]),
        worker: peer(1),
        client: peer(2),
        model: "m".to_owned(),
        model_digest: Digest::from_bytes([4; 32]),
        evidence: Digest::from_bytes([5; 32]),
        request_commitment: Digest::from_bytes([6; 32]),
        response_commitment: Digest::from_bytes([7; 32]),
        prompt_tokens: 10,
        output_tokens: 3,
        price: Price {
            input: NanoTon::from_nano(20),
            output: NanoTon::from_nano(160),
        },
        amount: NanoTon::from_nano(680),
        channel: TonAddress {
            workchain: 0,
            hash: [8; 32],
        },
        cumulative: NanoTon::from_nano(680),
        ending: Ending::Stop,
        started: UnixMillis::from_millis(1_790_000_000_000),
        ended: UnixMillis::from_millis(1_790_000_002_000),
        receipt_key: PublicKey32::from_bytes([0; 32]),
        tokens_commitment: Some(Digest::from_bytes([8; 32])),
        tokenizer: None,
    }
}

fn document(signed: &SignedReceipt, bundle: Option<&EvidenceBundle>) -> ReceiptDocument {
    ReceiptDocument {
        format: RECEIPT_FORMAT.to_owned(),
        id: signed.leaf().to_string(),
        job: JobId::from_bytes([1; 16]).to_string(),
        network: "devnet".to_owned(),
        signed_receipt: BASE64.encode(signed.encode()),
        evidence: bundle.map(|bundle| BASE64.encode(bundle.encode())),
        beacon: bundle.map(|bundle| bundle.claims.beacon.into()),
        salt: None,
    }
}

fn intel() -> Verifier {
    let image = Image {
        name: "any".to_owned(),
        mrtd: Measurement::ZERO,
        rtmr0: Measurement::ZERO,
        rtmr1: Measurement::ZERO,
        rtmr2: Measurement::ZERO,
    };
    Verifier::new(
        Trust::Intel,
        Policy {
            images: vec![image.into()],
            ..Policy::default()
        },
    )
    .unwrap()
}

fn result(report: &Report, name: &str) -> FactorResult {
    report
        .factors
        .iter()
        .find(|line| line.name == name)
        .unwrap()
        .result
}

fn checked(document: ReceiptDocument) -> Report {
    check(
        &Opened::from_document(document).unwrap(),
        &intel(),
        &unknown(),
    )
}

fn unknown() -> Block {
    Block::Unknown("nobody was asked".to_owned())
}

#[test]
fn without_evidence_a_receipt_is_in_order_and_not_verified() {
    let signed = receipt().sign(&key()).unwrap();
    let report = checked(document(&signed, None));
    for name in [
        "receipt_signature",
        "document_labels",
        "receipt_amount",
        "receipt_times",
    ] {
        assert_eq!(result(&report, name), FactorResult::Pass, "{name}");
    }
    assert_eq!(result(&report, "receipt_key_attested"), FactorResult::Skip);
    assert!(!report.verified);
}

#[test]
fn a_changed_receipt_is_refused_and_still_shown() {
    let mut signed = receipt().sign(&key()).unwrap();
    let mut changed = Receipt::decode(&signed.receipt).unwrap();
    changed.output_tokens = 2;
    signed.receipt = changed.encode();
    let report = checked(document(&signed, None));
    assert_eq!(result(&report, "receipt_signature"), FactorResult::Fail);
    assert_eq!(result(&report, "receipt_amount"), FactorResult::Skip);
    assert!(report.receipt.is_some() && !report.verified);
}

#[test]
fn sums_that_do_not_add_up_and_time_that_runs_backwards_are_seen() {
    let mut wrong = receipt();
    wrong.amount = NanoTon::from_nano(681);
    wrong.ended = UnixMillis::from_millis(1);
    let signed = wrong.sign(&key()).unwrap();
    let report = checked(document(&signed, None));
    assert_eq!(result(&report, "receipt_amount"), FactorResult::Fail);
    assert_eq!(result(&report, "receipt_times"), FactorResult::Fail);
}

#[test]
fn a_job_without_an_answer_is_free() {
    for (amount, expected) in [(0, FactorResult::Pass), (200, FactorResult::Fail)] {
        let mut silent = receipt();
        silent.output_tokens = 0;
        silent.amount = NanoTon::from_nano(amount);
        let signed = silent.sign(&key()).unwrap();
        assert_eq!(
            result(&checked(document(&signed, None)), "receipt_amount"),
            expected
        );
    }
}

#[test]
fn labels_that_lie_are_seen() {
    let signed = receipt().sign(&key()).unwrap();
    let mut lying = document(&signed, None);
    lying.job = "00".repeat(16);
    assert_eq!(
        result(&checked(lying), "document_labels"),
        FactorResult::Fail
    );
}

#[test]
fn what_is_no_document_is_a_typed_error() {
    assert!(matches!(
        Opened::read(b"{}"),
        Err(OpenError::NotADocument(_))
    ));
    assert!(matches!(
        Opened::read(&vec![b' '; MAX_DOCUMENT_BYTES + 1]),
        Err(OpenError::TooLarge { .. })
    ));
    let signed = receipt().sign(&key()).unwrap();
    let good = document(&signed, None);
    let other = ReceiptDocument {
        format: "cocoon-receipt/9".to_owned(),
        ..good.clone()
    };
    assert!(matches!(
        Opened::from_document(other),
        Err(OpenError::Format { .. })
    ));
    let odd = ReceiptDocument {
        signed_receipt: "!".to_owned(),
        ..good.clone()
    };
    assert!(matches!(
        Opened::from_document(odd),
        Err(OpenError::NotBase64 { .. })
    ));
    let short = ReceiptDocument {
        evidence: Some("AAAA".to_owned()),
        ..good
    };
    assert!(matches!(
        Opened::from_document(short),
        Err(OpenError::NotWire {
            field: "evidence",
            ..
        })
    ));
}

#[test]
fn fuzz_a_strangers_document_never_panics() {
    let signed = receipt().sign(&key()).unwrap();
    let verifier = intel();
    bolero::check!().with_iterations(2_000).for_each(|bytes| {
        let _ = Opened::read(bytes);
        let mut odd = document(&signed, None);
        odd.signed_receipt = BASE64.encode(bytes);
        odd.evidence = Some(BASE64.encode(bytes));
        if let Ok(opened) = Opened::from_document(odd) {
            assert!(!check(&opened, &verifier, &unknown()).verified);
        }
    });
}

#[cfg(feature = "simulated-evidence")]
mod with_simulated_evidence {
    use cocoon_attestation::{EvidenceSource, SimulatedSource, policy};
    use cocoon_protocol::evidence::Claims;
    use cocoon_protocol::session::EnclaveSecrets;
    use rand::SeedableRng;

    use super::*;

    const NOW_MS: u64 = 1_790_000_002_000;

    fn beacon() -> Beacon {
        Beacon {
            seqno: 9,
            hash: Digest::from_bytes([9; 32]),
        }
    }

    fn bundle() -> EvidenceBundle {
        let secrets = EnclaveSecrets::generate(&mut rand::rngs::StdRng::seed_from_u64(1));
        let claims = Claims {
            noise_key: *secrets.noise_key(),
            mlkem_key: secrets.mlkem_key().to_vec(),
            receipt_key: key().verifying_key().to_bytes(),
            peer: peer(1),
            model: Digest::from_bytes([4; 32]),
            config: Digest::from_bytes([10; 32]),
            gpu_evidence: Digest::ZERO,
            canary: Digest::ZERO,
            beacon: beacon(),
            epoch: NOW_MS / 3_600_000,
        };
        let now = UnixMillis::from_millis(NOW_MS);
        SimulatedSource::new(b"one")
            .unwrap()
            .make(now, &claims)
            .unwrap()
    }

    fn simulated() -> Verifier {
        Verifier::new(Trust::Simulated, policy::simulated::policy()).unwrap()
    }

    fn signed_for(bundle: &EvidenceBundle) -> SignedReceipt {
        let receipt = Receipt {
            evidence: bundle.claims.digest(),
            ..receipt()
        };
        receipt.sign(&key()).unwrap()
    }

    #[test]
    fn a_receipt_of_an_attested_enclave_is_verified() {
        let bundle = bundle();
        let opened = Opened::from_document(document(&signed_for(&bundle), Some(&bundle))).unwrap();
        assert_eq!(opened.claimed_beacon(), Some(beacon()));
        let report = check(&opened, &simulated(), &Block::Known(beacon()));
        assert!(report.verified, "{report:#?}");
        assert_eq!(report.trust, "simulated");
    }

    #[test]
    fn without_the_chains_block_or_under_intels_root_it_is_not() {
        let bundle = bundle();
        let opened = Opened::from_document(document(&signed_for(&bundle), Some(&bundle))).unwrap();
        // Everything else is looked at and passes; the block is skipped, and says why.
        let report = check(&opened, &simulated(), &unknown());
        assert!(!report.verified);
        for line in &report.factors {
            let skipped = ["evidence.beacon", "evidence"].contains(&line.name.as_str());
            assert!(line.result != FactorResult::Fail, "{line:?}");
            assert_eq!(
                line.required && line.result == FactorResult::Skip,
                skipped,
                "{line:?}"
            );
        }
        assert_eq!(
            result(&report, "evidence.signature_chain"),
            FactorResult::Pass
        );
        let line = report
            .factors
            .iter()
            .find(|line| line.name == "evidence.beacon");
        assert!(line.unwrap().reason.contains("nobody was asked"));
        let other = Beacon {
            seqno: 9,
            hash: Digest::from_bytes([1; 32]),
        };
        let report = check(&opened, &simulated(), &Block::Known(other));
        assert_eq!(result(&report, "evidence.beacon"), FactorResult::Fail);
        assert!(!report.verified);
        assert!(!check(&opened, &intel(), &Block::Known(beacon())).verified);
    }

    #[test]
    fn a_block_that_is_not_the_evidences_is_a_lie_of_the_document() {
        let bundle = bundle();
        let mut lying = document(&signed_for(&bundle), Some(&bundle));
        lying.beacon = Some(BeaconReference {
            seqno: 10,
            ..beacon().into()
        });
        let opened = Opened::from_document(lying).unwrap();
        let report = check(&opened, &simulated(), &Block::Known(beacon()));
        assert_eq!(result(&report, "document_labels"), FactorResult::Fail);
        assert!(!report.verified);
    }

    #[test]
    fn another_enclaves_key_or_evidence_is_refused() {
        let bundle = bundle();
        let thief = SigningKey::from_bytes(&[99; 32]);
        let stolen = Receipt {
            evidence: bundle.claims.digest(),
            ..receipt()
        }
        .sign(&thief)
        .unwrap();
        let opened = Opened::from_document(document(&stolen, Some(&bundle))).unwrap();
        let report = check(&opened, &simulated(), &Block::Known(beacon()));
        assert_eq!(result(&report, "receipt_key_attested"), FactorResult::Fail);
        assert!(!report.verified);

        let other = receipt().sign(&key()).unwrap();
        let opened = Opened::from_document(document(&other, Some(&bundle))).unwrap();
        let report = check(&opened, &simulated(), &Block::Known(beacon()));
        assert_eq!(
            result(&report, "evidence.advertised_evidence"),
            FactorResult::Fail
        );
        assert!(!report.verified);
    }
}
