//! Changes of single bytes and letters of quotes and collateral.

use cocoon_protocol::evidence::EvidenceBundle;
use dcap_qvl::QuoteCollateralV3;

/// Header and report of version 4; version 5 has a descriptor of the body and longer reports.
fn signed_bytes(quote: &[u8]) -> usize {
    dcap_qvl::quote::Quote::parse(quote)
        .unwrap()
        .signed_length()
}

/// Flips a bit of the authentication data, `at` bytes behind its length.
pub(crate) fn flip_behind(bundle: &mut EvidenceBundle, at: usize) {
    let start = signed_bytes(&bundle.quote) + 4;
    bundle.quote[start + at] ^= 1;
}

/// Of the authentication data: signature 64, key 64, type 2, length 4, report of the enclave 384,
/// its signature 64, length 2, data 32, type 2, length 4, certificates.
pub(crate) const KEY: usize = 64;
pub(crate) const ENCLAVE: usize = 134;
pub(crate) const ENCLAVE_SIGNATURE: usize = ENCLAVE + 384;
const CERTIFICATES: usize = ENCLAVE_SIGNATURE + 64 + 2 + 32 + 6;

/// Changes a letter inside certificate `number`, leaf 0, where its signature is.
pub(crate) fn touch_certificate(bundle: &mut EvidenceBundle, number: usize) {
    let start = signed_bytes(&bundle.quote) + 4 + CERTIFICATES;
    let text = String::from_utf8_lossy(&bundle.quote[start..]).into_owned();
    let end = text.match_indices("-----END").nth(number).unwrap().0;
    let at = start + end - 20;
    bundle.quote[at] = if bundle.quote[at] == b'A' { b'B' } else { b'A' };
}

pub(crate) fn collateral(bundle: &mut EvidenceBundle, change: impl FnOnce(&mut QuoteCollateralV3)) {
    let mut collateral: QuoteCollateralV3 =
        serde_json::from_slice(&bundle.collateral_json).unwrap();
    change(&mut collateral);
    bundle.collateral_json = serde_json::to_vec(&collateral).unwrap();
}

pub(crate) fn flip_last(bytes: &mut [u8]) {
    *bytes.last_mut().unwrap() ^= 1;
}

pub(crate) fn replaced(text: &mut String, from: &str, to: &str) {
    let changed = text.replacen(from, to, 1);
    assert_ne!(&changed, text, "nothing to replace");
    *text = changed;
}
