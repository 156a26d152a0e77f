//! `GET /v1/attestation/report`: what the verified workers show, in the shape that clients of dstack's vllm-proxy,
//! NEAR AI's gateway and ACI know.
//!
//! The difference that no shape can hide: there a gateway is an enclave and answers for itself. This gateway is the
//! caller's own program on the caller's own machine; it passes on the evidence of workers, which it has verified and
//! which the caller can verify again. Evidence is made once an hour, so no nonce of a caller's can be in it: it is
//! as fresh as the block of the chain that it names. `docs/aci.md` says of every field what it holds.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_actors::gateway_port::{BeaconReference, WorkerAttestation};
use cocoon_attestation::{Check, FactorResult, Trust, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::HttpState;
use super::error::ApiError;
use super::receipts::{SIGNING_ALGORITHM, algorithm};

/// Digits of a nonce, as in ACI.
const NONCE_DIGITS: usize = 64;

/// What may be asked. Parameters of other gateways that are not here are not looked at.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ReportQuery {
    /// Only workers that serve this model.
    model: Option<String>,
    /// Checked for its form and then bound to nothing.
    nonce: Option<String>,
    signing_algo: Option<String>,
    /// Only the worker whose receipts this key signs, hexadecimal.
    signing_address: Option<String>,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Null: the gateway is no enclave.
    gateway_attestation: Option<()>,
    /// One for each verified worker.
    model_attestations: Vec<Attestation>,
}

/// What one worker shows.
#[derive(Debug, Serialize)]
struct Attestation {
    /// The key that signs its receipts, hexadecimal.
    signing_address: String,
    signing_public_key: String,
    signing_algo: &'static str,
    /// Null: see the module's doc.
    request_nonce: Option<()>,
    tee_type: &'static str,
    /// The TDX quote, hexadecimal.
    intel_quote: String,
    /// What the quote's report data has to be, hexadecimal.
    report_data: String,
    /// Null: it is not a list of dstack's events. The firmware's own log is `cocoon.event_log_b64`.
    event_log: Option<()>,
    /// Null: it is not one of NVIDIA's requests. The evidence is `cocoon.gpu_evidence_b64`.
    nvidia_payload: Option<()>,
    /// Null: no dstack application runs there.
    info: Option<()>,
    /// ACI's claims about the worker.
    claims: Claims,
    cocoon: Details,
}

/// The claims of ACI, section 8.3.
#[derive(Debug, Serialize)]
struct Claims {
    tee_attested: Claim,
    gpu_attested: Claim,
    tcb_up_to_date: Claim,
    os_known_good: Claim,
    serving_software_known_good: Claim,
    model_weights_provenance: Claim,
}

/// One of them.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Claim {
    /// The hardware's quote shows it.
    Asserted { source: Source, reason: String },
    /// It was not looked at, or cannot be known.
    Unknown,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Source {
    HardwareProven,
    /// From Intel's collateral.
    VerifierDerived,
}

/// What has no place in the other shapes.
#[derive(Debug, Serialize)]
struct Details {
    peer: String,
    models: Vec<String>,
    /// `intel` or `simulated`.
    trust: String,
    /// By what receipts name it.
    evidence: String,
    /// Milliseconds since 1970.
    valid_until_unix_ms: u64,
    /// Not made before this block of the chain: what there is instead of a nonce.
    beacon: BeaconReference,
    /// Hours since 1970 in which the keys were made.
    epoch: u64,
    model_digest: String,
    config_digest: String,
    noise_key: String,
    mlkem_key_b64: String,
    /// Intel's collateral as it was when the evidence was made; null if it is no JSON.
    collateral: Option<Value>,
    event_log_b64: Option<String>,
    gpu_evidence_b64: Option<String>,
    image_proof_b64: Option<String>,
    /// The encoded bundle: all of the above as the protocol has it.
    evidence_bundle_b64: String,
    /// Why this gateway accepts it, factor by factor.
    factors: Value,
}

/// The handler.
pub(super) async fn report(
    State(state): State<Arc<HttpState>>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Json<Report>, ApiError> {
    let Query(query) = query?;
    algorithm(query.signing_algo.as_deref())?;
    if query.nonce.as_deref().is_some_and(|nonce| !is_nonce(nonce)) {
        return Err(ApiError::invalid(
            StatusCode::BAD_REQUEST,
            "invalid_nonce",
            "a nonce has 64 lower-case hexadecimal digits; it would be bound to nothing all the same, \
             since evidence is made once an hour: see `cocoon.beacon` for how fresh it is",
        ));
    }
    let found = state.node.attestations(query.model.as_deref()).await?;
    let attestations: Vec<Attestation> = found.iter().map(attestation).collect();
    let wanted = |attestation: &Attestation| {
        let address = query.signing_address.as_deref();
        address.is_none_or(|address| attestation.signing_address.eq_ignore_ascii_case(address))
    };
    let model_attestations: Vec<_> = attestations.into_iter().filter(wanted).collect();
    if model_attestations.is_empty() {
        return Err(ApiError::invalid(
            StatusCode::NOT_FOUND,
            "no_attestation",
            "no worker that serves this model with this key is verified now; see GET /status.json",
        ));
    }
    Ok(Json(Report {
        gateway_attestation: None,
        model_attestations,
    }))
}

fn is_nonce(text: &str) -> bool {
    text.len() == NONCE_DIGITS
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn attestation(worker: &WorkerAttestation) -> Attestation {
    let bundle = &worker.bundle;
    let claims = &bundle.claims;
    let verdict = &worker.verdict;
    let present = |bytes: &[u8]| (!bytes.is_empty()).then(|| BASE64.encode(bytes));
    let key = hex::encode(claims.receipt_key);
    Attestation {
        signing_address: key.clone(),
        signing_public_key: key,
        signing_algo: SIGNING_ALGORITHM,
        request_nonce: None,
        tee_type: "tdx",
        intel_quote: hex::encode(&bundle.quote),
        report_data: hex::encode(claims.report_data()),
        event_log: None,
        nvidia_payload: None,
        info: None,
        claims: Claims::of(verdict),
        cocoon: Details {
            peer: worker.peer.to_string(),
            models: worker.models.clone(),
            trust: verdict.trust.name().to_owned(),
            evidence: claims.digest().to_string(),
            valid_until_unix_ms: verdict.valid_until.millis(),
            beacon: claims.beacon.into(),
            epoch: claims.epoch,
            model_digest: claims.model.to_string(),
            config_digest: claims.config.to_string(),
            noise_key: hex::encode(claims.noise_key),
            mlkem_key_b64: BASE64.encode(&claims.mlkem_key),
            collateral: serde_json::from_slice(&bundle.collateral_json).ok(),
            event_log_b64: present(&bundle.attached.event_log),
            gpu_evidence_b64: present(&bundle.attached.gpu_evidence),
            image_proof_b64: present(&bundle.attached.image_proof),
            evidence_bundle_b64: BASE64.encode(bundle.encode()),
            // Names, results and sentences: always JSON.
            factors: serde_json::to_value(&verdict.factors).unwrap_or_default(),
        },
    }
}

impl Claims {
    /// A claim is asserted if every factor that it rests on passed, under Intel's root. The simulated root shows
    /// nothing of any hardware.
    fn of(verdict: &Verdict) -> Self {
        let claim = |factors: &[Check], source: Source, reason: &str| {
            let passed = |check: &Check| verdict.result(*check) == Some(FactorResult::Pass);
            let names: Vec<_> = factors.iter().map(|check| check.name()).collect();
            if verdict.trust == Trust::Intel && factors.iter().all(passed) {
                Claim::Asserted {
                    source,
                    reason: format!("{reason}: {} passed", names.join(", ")),
                }
            } else {
                Claim::Unknown
            }
        };
        let hardware = || Source::HardwareProven;
        Self {
            tee_attested: claim(
                &[
                    Check::SignatureChain,
                    Check::RootPinned,
                    Check::ReportData,
                    Check::Debug,
                    Check::PeerId,
                    Check::NoiseKey,
                    Check::MlKemKey,
                    Check::ReceiptKey,
                ],
                hardware(),
                "a TDX guest without debug holds the session's and the receipts' keys",
            ),
            gpu_attested: claim(
                &[Check::GpuEvidence],
                Source::VerifierDerived,
                "the evidence of the guest's GPUs was verified",
            ),
            tcb_up_to_date: claim(
                &[
                    Check::TcbStatus,
                    Check::TdxModule,
                    Check::QeIdentity,
                    Check::RootCrl,
                    Check::PckCrl,
                ],
                Source::VerifierDerived,
                "Intel's collateral of the time",
            ),
            os_known_good: claim(
                &[Check::MrTd, Check::Rtmr0, Check::Rtmr1, Check::Rtmr2],
                hardware(),
                "firmware, kernel and initial file system are an image of the policy's",
            ),
            serving_software_known_good: claim(
                &[Check::Rtmr1, Check::Rtmr2, Check::Rtmr3],
                hardware(),
                "the image holds the program that serves",
            ),
            model_weights_provenance: claim(
                &[Check::ModelDigest, Check::Rtmr3],
                hardware(),
                "the model's digest was measured before it was loaded",
            ),
        }
    }
}
