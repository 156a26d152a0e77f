//! Stage two: do the claims belong to this quote, this peer, this model and this hour?

use cocoon_protocol::evidence::{Claims, EvidenceBundle};
use cocoon_protocol::ids::Digest;
use cocoon_protocol::session::MLKEM_KEY_BYTES;
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::quote::TDReport10;
use ed25519_dalek::VerifyingKey;

use super::attached::gpu_binding;
use super::{Expectation, HOUR_MS, MAX_CLOCK_SKEW_MS, Verifier};
use crate::Check;
use crate::findings::Findings;

/// The prime of ML-KEM (FIPS 203, section 2.4.1).
const MLKEM_PRIME: u16 = 3_329;
/// Bytes of an ML-KEM-768 key that hold coefficients; the other 32 are a seed.
const MLKEM_COEFFICIENT_BYTES: usize = 1_152;

impl Verifier {
    pub(super) fn claims(
        &self,
        now: UnixMillis,
        td: &TDReport10,
        bundle: &EvidenceBundle,
        expectation: &Expectation<'_>,
        findings: &mut Findings,
    ) {
        let claims = &bundle.claims;
        let bound = claims.report_data() == td.report_data;
        findings.require(
            Check::ReportData,
            bound,
            (
                "the quote binds exactly these claims",
                "the quote was made for other claims",
            ),
            hex::encode(td.report_data),
            hex::encode(claims.report_data()),
        );
        let evidence = claims.digest();
        findings.require(
            Check::AdvertisedEvidence,
            evidence == expectation.evidence,
            (
                "this is the evidence that was advertised",
                "other evidence was advertised",
            ),
            evidence.to_string(),
            expectation.evidence.to_string(),
        );
        findings.require(
            Check::PeerId,
            claims.peer == expectation.peer,
            ("the quote names the peer", "the quote names another peer"),
            claims.peer.to_string(),
            expectation.peer.to_string(),
        );
        keys(claims, bound, findings);
        findings.require(
            Check::ModelDigest,
            claims.model == expectation.model,
            (
                "the quote names the advertised model",
                "the quote names another model",
            ),
            claims.model.to_string(),
            expectation.model.to_string(),
        );
        self.config(claims, findings);
        beacon(claims, expectation, findings);
        self.epoch(now, claims, findings);
        self.canary(claims, findings);
        gpu_binding(bundle, findings);
    }

    fn config(&self, claims: &Claims, findings: &mut Findings) {
        if self.policy.configs.is_empty() {
            findings.not_asked(
                Check::ConfigDigest,
                "the policy names no configurations; RTMR3 still has to hold the claimed one",
            );
            return;
        }
        findings.require(
            Check::ConfigDigest,
            self.policy.configs.contains(&claims.config),
            (
                "the policy allows the configuration",
                "the policy does not know the configuration",
            ),
            claims.config.to_string(),
            list(&self.policy.configs),
        );
    }

    fn epoch(&self, now: UnixMillis, claims: &Claims, findings: &mut Findings) {
        let latest = now.saturating_add(MAX_CLOCK_SKEW_MS).millis() / HOUR_MS;
        let seen = format!("hour {}", claims.epoch);
        let wanted = format!(
            "hour {} or up to {} earlier",
            now.millis() / HOUR_MS,
            self.policy.max_epoch_age_hours
        );
        if claims.epoch > latest {
            findings.fail(Check::Epoch, "the claimed hour has not begun", seen, wanted);
        } else if now >= self.epoch_end(claims.epoch) {
            findings.fail(
                Check::Epoch,
                "the claimed hour is over for too long",
                seen,
                wanted,
            );
        } else {
            findings.pass(Check::Epoch, "the claimed hour is recent enough", seen);
        }
    }

    /// The guest asked the model the known questions before it took work, and claims what came.
    fn canary(&self, claims: &Claims, findings: &mut Findings) {
        let Some(known) = self.policy.canary(&claims.model) else {
            findings.not_asked(Check::Canary, "the policy knows no answers of this model");
            return;
        };
        let asked = claims.canary != Digest::ZERO;
        findings.require(
            Check::Canary,
            asked && known.contains(&claims.canary),
            (
                "the model gave the known answers to the known questions",
                if asked {
                    "the model gave other answers than the known ones"
                } else {
                    "the guest did not ask its model the known questions"
                },
            ),
            claims.canary.to_string(),
            list(known),
        );
    }
}

/// The three keys are worth something if the quote binds them and they are keys at all.
fn keys(claims: &Claims, bound: bool, findings: &mut Findings) {
    if !bound {
        for check in [Check::NoiseKey, Check::MlKemKey, Check::ReceiptKey] {
            findings.not_reached(check, "the quote binds other claims, so no key of these");
        }
        return;
    }
    let reasons = (
        "bound by report_data",
        "bound by report_data, but not a usable key",
    );
    // Points of small order are caught by the session, which refuses an all-zero shared secret.
    findings.require(
        Check::NoiseKey,
        claims.noise_key != [0; 32],
        reasons,
        hex::encode(claims.noise_key),
        "an X25519 key",
    );
    findings.require(
        Check::MlKemKey,
        is_mlkem_key(&claims.mlkem_key),
        reasons,
        format!(
            "{} bytes, sha256 {}",
            claims.mlkem_key.len(),
            Digest::sha256(&claims.mlkem_key)
        ),
        "an ML-KEM-768 key",
    );
    findings.require(
        Check::ReceiptKey,
        VerifyingKey::from_bytes(&claims.receipt_key).is_ok_and(|key| !key.is_weak()),
        reasons,
        hex::encode(claims.receipt_key),
        "an Ed25519 key",
    );
}

/// The length, and the modulus check that FIPS 203, section 7.2, asks of whoever encapsulates.
fn is_mlkem_key(key: &[u8]) -> bool {
    key.len() == MLKEM_KEY_BYTES
        && key
            .iter()
            .take(MLKEM_COEFFICIENT_BYTES)
            .collect::<Vec<_>>()
            .chunks_exact(3)
            .all(|triple| match triple {
                [low, middle, high] => {
                    let (low, middle, high) =
                        (u16::from(**low), u16::from(**middle), u16::from(**high));
                    (low | (middle & 0xf) << 8) < MLKEM_PRIME
                        && (middle >> 4 | high << 4) < MLKEM_PRIME
                }
                _ => false,
            })
}

fn beacon(claims: &Claims, expectation: &Expectation<'_>, findings: &mut Findings) {
    let recent = expectation.recent_beacons;
    let newest = recent.iter().map(|beacon| beacon.seqno).max();
    let seen = format!("block {} {}", claims.beacon.seqno, claims.beacon.hash);
    match newest {
        None => findings.fail(
            Check::Beacon,
            "the verifier knows no recent block, so it cannot tell how old this is",
            seen,
            "a recent block",
        ),
        Some(newest) => findings.require(
            Check::Beacon,
            recent.contains(&claims.beacon),
            (
                "the claims name a recent block",
                "the claims name no recent block",
            ),
            seen,
            format!("one of {} blocks up to {newest}", recent.len()),
        ),
    }
}

fn list(digests: &[Digest]) -> String {
    digests
        .iter()
        .map(Digest::to_string)
        .collect::<Vec<_>>()
        .join(" or ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_key_with_a_coefficient_beyond_the_prime_is_not_an_mlkem_key() {
        let mut key = vec![0; MLKEM_KEY_BYTES];
        assert!(is_mlkem_key(&key));
        key[0] = 0x01;
        key[1] = 0x0d; // 0xd01 = 3329
        assert!(!is_mlkem_key(&key));
        key[0] = 0x00; // 0xd00 = 3328
        assert!(is_mlkem_key(&key));
        key[1] = 0x10;
        key[2] = 0xd0; // second coefficient of the triple: 0xd01
        assert!(!is_mlkem_key(&key));
    }

    #[test]
    fn a_key_of_another_length_is_not_an_mlkem_key() {
        assert!(!is_mlkem_key(&[]));
        assert!(!is_mlkem_key(&[0; MLKEM_KEY_BYTES - 1]));
    }
}
