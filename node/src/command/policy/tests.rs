#![allow(clippy::unwrap_used)]

use cocoon_attestation::FactorResult;
use cocoon_attestation::log::NoteSigner;
use cocoon_attestation::policy::TEMPLATE;
use tempfile::TempDir;

use super::*;

/// The template with its examples in force.
fn policy_file(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("policy.toml");
    let text: String = TEMPLATE
        .lines()
        .map(|line| line.strip_prefix("#:").unwrap_or(line).to_owned() + "\n")
        .collect();
    std::fs::write(&path, text).unwrap();
    path
}

fn check_args(policy: &Path, key: &str) -> CheckArgs {
    CheckArgs {
        policy: policy.to_owned(),
        key: vec![key.to_owned()],
        signature: None,
        json: true,
    }
}

#[test]
fn a_policy_is_signed_and_checked_by_its_key_and_any_change_undoes_it() {
    let folder = tempfile::tempdir().unwrap();
    let policy = policy_file(&folder);
    let signer = NoteSigner::new("release.example/policy", &[1; 32]).unwrap();
    let secret = folder.path().join("policy.key");
    Token::store(&secret, signer.reveal()).unwrap();
    let public = signer.verifier().to_string();
    assert!(check::run(&check_args(&policy, &public)).is_err());

    let sign_args = SignArgs {
        policy: policy.clone(),
        key: secret,
        out: None,
    };
    sign(&sign_args).unwrap();
    check::run(&check_args(&policy, &public)).unwrap();
    let file = folder.path().join("policy.pub");
    std::fs::write(&file, format!("{public}\n")).unwrap();
    check::run(&check_args(&policy, file.to_str().unwrap())).unwrap();
    let other = NoteSigner::new("other.example/policy", &[2; 32]).unwrap();
    let other = other.verifier().to_string();
    assert!(check::run(&check_args(&policy, &other)).is_err());

    let text = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, text + "\n").unwrap();
    assert!(check::run(&check_args(&policy, &public)).is_err());
    // A signature of the earlier policy is not replaced silently either.
    assert!(sign(&sign_args).is_err());
}

#[test]
fn a_policy_that_cannot_be_meant_is_not_signed() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, TEMPLATE).unwrap();
    let args = SignArgs {
        policy,
        key: folder.path().join("nobody.key"),
        out: None,
    };
    assert!(matches!(
        sign(&args),
        Err(CommandError::PolicyFile(PolicyCommandError::Policy { .. }))
    ));
}

#[cfg(feature = "simulated-evidence")]
mod explaining {
    use base64::Engine as _;
    use cocoon_attestation::policy::simulated;
    use cocoon_attestation::{
        Check, EvidenceSource as _, Expectation, SimulatedSource, Trust, Verdict, Verifier,
    };
    use cocoon_protocol::evidence::{Beacon, Claims, EvidenceBundle};
    use cocoon_protocol::units::UnixMillis;
    use cocoon_protocol::{Digest, Keypair};

    use super::*;

    const NOW: UnixMillis = UnixMillis::from_millis(1_760_000_000_000);

    fn bundle() -> EvidenceBundle {
        let receipt_key = ed25519_dalek::SigningKey::from_bytes(&[5; 32]).verifying_key();
        let claims = Claims {
            noise_key: [9; 32],
            mlkem_key: vec![0; 1_184],
            receipt_key: receipt_key.to_bytes(),
            peer: Keypair::ed25519_from_bytes([1; 32])
                .unwrap()
                .public()
                .to_peer_id(),
            model: Digest::sha256(b"model"),
            config: Digest::sha256(b"config"),
            gpu_evidence: Digest::ZERO,
            canary: Digest::ZERO,
            beacon: Beacon {
                seqno: 1,
                hash: Digest::sha256(b"block"),
            },
            epoch: NOW.seconds() / 3_600,
        };
        SimulatedSource::new(b"machine")
            .unwrap()
            .make(NOW, &claims)
            .unwrap()
    }

    fn verdict(bundle: &EvidenceBundle) -> Verdict {
        let claims = &bundle.claims;
        let beacons = [claims.beacon];
        let expectation = Expectation::new(claims.peer, claims.model, claims.digest(), &beacons);
        Verifier::new(Trust::Simulated, simulated::policy())
            .unwrap()
            .examine(NOW, bundle, &expectation)
    }

    #[test]
    fn evidence_that_was_only_compared_with_itself_is_not_accepted() {
        let verdict = verdict(&bundle());
        let said = explain::explain(&verdict, "policy", &[]);
        assert!(said.accepted);
        let unsaid = explain::explain(&verdict, "policy", &[(Check::PeerId, "--peer")]);
        assert!(!unsaid.accepted);
        let line = unsaid.factors.iter().find(|line| line.name == "peer_id");
        let line = line.unwrap();
        assert_eq!(line.result, FactorResult::Skip);
        assert!(line.reason.contains("--peer"), "{}", line.reason);
    }

    #[test]
    fn what_stands_in_the_way_comes_with_what_to_change() {
        let mut bundle = bundle();
        bundle.collateral_json = b"{}".to_vec();
        let explanation = explain::explain(&verdict(&bundle), "policy", &[]);
        assert!(!explanation.accepted);
        let changes: Vec<_> = explanation
            .factors
            .iter()
            .filter(|line| line.result == FactorResult::Fail)
            .map(|line| (line.name, line.change.is_some()))
            .collect();
        assert_eq!(changes, [("collateral_structure", true)]);
        let text = explain::render(&explanation);
        assert!(text.contains("change  Worker:") && text.contains("REFUSED"));
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["format"], "cocoon.explanation/1");
        assert_eq!(json["accepted"], false);
        assert_eq!(json["factors"].as_array().unwrap().len(), Check::ALL.len());
    }

    #[test]
    fn evidence_is_read_from_the_wires_bytes_and_from_a_receipts_document() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle();
        let path = folder.path().join("evidence");
        std::fs::write(&path, bundle.encode()).unwrap();
        assert_eq!(explain::evidence(&path).unwrap(), bundle);
        let text = base64::engine::general_purpose::STANDARD.encode(bundle.encode());
        let document = serde_json::json!({ "evidence": text });
        std::fs::write(&path, document.to_string()).unwrap();
        assert_eq!(explain::evidence(&path).unwrap(), bundle);
        for nothing in ["{}", "{\"evidence\":\"no\"}", "evidence"] {
            std::fs::write(&path, nothing).unwrap();
            assert!(explain::evidence(&path).is_err(), "{nothing}");
        }
    }
}
