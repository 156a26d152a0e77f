//! What collateral and quotes say of themselves, for an operator who looks for what is missing.
//!
//! Nothing here is authenticated: these are the words of a file. Whether they are true is for the
//! [`crate::Verifier`] to say.

use cocoon_protocol::evidence::{MAX_COLLATERAL_BYTES, MAX_QUOTE_BYTES};
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::intel::{extract_cert_chain, parse_pck_extension};
use dcap_qvl::quote::Quote;
use dcap_qvl::{QeIdentity, QuoteCollateralV3, TcbInfo};
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::{DateTime, Decode as _};

/// A platform family as Intel names it (FMSPC): 6 bytes.
pub type Fmspc = [u8; 6];

/// What collateral says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollateralFacts {
    /// The family that it is for.
    pub fmspc: Fmspc,
    /// The lower `tcbEvaluationDataNumber` of its two signed documents.
    pub evaluation: u32,
    /// All its parts are in force from here.
    pub from: UnixMillis,
    /// The first of its parts ends here.
    pub until: UnixMillis,
}

/// Why bytes are not collateral.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollateralError {
    /// More than any real one.
    #[error("it is larger than {MAX_COLLATERAL_BYTES} bytes, which no collateral is")]
    TooLarge,
    /// Not JSON of the right fields, or a part that cannot be read.
    #[error("{0} cannot be read")]
    Unreadable(&'static str),
    /// A part does not say what it must.
    #[error("it does not say {0}")]
    Silent(&'static str),
}

/// Reads what collateral says of itself.
///
/// # Errors
/// [`CollateralError`].
pub fn collateral(json: &[u8]) -> Result<CollateralFacts, CollateralError> {
    use CollateralError::{Silent, TooLarge, Unreadable};
    if json.len() > MAX_COLLATERAL_BYTES {
        return Err(TooLarge);
    }
    let whole: QuoteCollateralV3 =
        serde_json::from_slice(json).map_err(|_| Unreadable("the JSON of DCAP collateral"))?;
    let tcb_info: TcbInfo =
        serde_json::from_str(&whole.tcb_info).map_err(|_| Unreadable("its TCB information"))?;
    let qe_identity: QeIdentity =
        serde_json::from_str(&whole.qe_identity).map_err(|_| Unreadable("its enclave identity"))?;
    let fmspc = hex::decode(&tcb_info.fmspc)
        .ok()
        .and_then(|bytes| Fmspc::try_from(bytes).ok())
        .ok_or(Silent("for which platforms it is"))?;
    let mut windows = vec![
        (
            seconds(&tcb_info.issue_date),
            seconds(&tcb_info.next_update),
        ),
        (
            seconds(&qe_identity.issue_date),
            seconds(&qe_identity.next_update),
        ),
    ];
    for (der, part) in [
        (&whole.root_ca_crl, "its revocation list of the root"),
        (&whole.pck_crl, "its revocation list of the platforms"),
    ] {
        let list = CertificateList::<Rfc5280>::from_der(der).map_err(|_| Unreadable(part))?;
        let list = list.tbs_cert_list;
        windows.push((
            Some(list.this_update.to_unix_duration().as_secs()),
            list.next_update.map(|at| at.to_unix_duration().as_secs()),
        ));
    }
    let (mut from, mut until) = (0, u64::MAX);
    for (begins, ends) in windows {
        from = from.max(begins.ok_or(Silent("since when it is in force"))?);
        until = until.min(ends.ok_or(Silent("until when it is in force"))?);
    }
    let millis = |seconds: u64| UnixMillis::from_millis(seconds.saturating_mul(1_000));
    Ok(CollateralFacts {
        fmspc,
        evaluation: tcb_info
            .tcb_evaluation_data_number
            .min(qe_identity.tcb_evaluation_data_number),
        from: millis(from),
        until: millis(until),
    })
}

fn seconds(rfc3339: &str) -> Option<u64> {
    let at = rfc3339.parse::<DateTime>().ok()?;
    Some(at.unix_duration().as_secs())
}

/// The family of the platform that made a quote, from the certificate inside it.
#[must_use]
pub fn family_of(quote: &[u8]) -> Option<Fmspc> {
    if quote.len() > MAX_QUOTE_BYTES {
        return None;
    }
    let quote = Quote::parse(quote).ok()?;
    let certificates = extract_cert_chain(&quote).ok()?;
    Some(parse_pck_extension(certificates.first()?).ok()?.fmspc)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const QUOTE: &[u8] = include_bytes!("../tests/fixtures/tdx_quote");
    const COLLATERAL: &[u8] = include_bytes!("../tests/fixtures/tdx_quote_collateral.json");

    #[test]
    fn real_collateral_says_whose_it_is_and_how_long_it_holds() {
        // Read from the fixture with Python's json and openssl.
        let facts = collateral(COLLATERAL).unwrap();
        assert_eq!(hex::encode(facts.fmspc), "b0c06f000000");
        assert_eq!(facts.evaluation, 17);
        assert_eq!(facts.until.millis(), 1_752_919_235_000);
        assert!(facts.from < facts.until);
        assert_eq!(family_of(QUOTE), Some(facts.fmspc));
    }

    #[test]
    fn what_is_no_collateral_says_which_part_cannot_be_read() {
        let broken = |key: &str, value: &str| {
            let mut json: serde_json::Value = serde_json::from_slice(COLLATERAL).unwrap();
            json[key] = value.into();
            collateral(json.to_string().as_bytes()).unwrap_err()
        };
        assert!(matches!(
            collateral(b"{}"),
            Err(CollateralError::Unreadable(_))
        ));
        assert_eq!(
            broken("tcb_info", "{}"),
            CollateralError::Unreadable("its TCB information")
        );
        assert_eq!(
            broken("qe_identity", ""),
            CollateralError::Unreadable("its enclave identity")
        );
        assert_eq!(
            broken("pck_crl", "00"),
            CollateralError::Unreadable("its revocation list of the platforms")
        );
        let large = vec![b' '; MAX_COLLATERAL_BYTES + 1];
        assert_eq!(collateral(&large), Err(CollateralError::TooLarge));
        assert_eq!(family_of(b"no quote"), None);
    }
}
