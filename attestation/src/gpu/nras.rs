//! A token of NVIDIA's Remote Attestation Service: an optional second opinion.
//!
//! The service answers with a "detached EAT": `[["JWT", overall], {"GPU-0": token, …}]`, where both are
//! JSON Web Tokens signed with ES384 (RFC 7515, RFC 7518 section 3.4). The overall token names each
//! other one by the SHA-256 of its text. What is demanded: the algorithm ES384 and no other, whatever
//! the token says (`none` above all); a key of the set that the operator supplied; the issuer; the
//! time; our nonce in every token; a submodule for each GPU and no more, with the right digest, about
//! a GPU with this serial number; and that the service found all in order.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cocoon_protocol::gpu::{MAX_GPUS, MAX_NRAS_TOKEN_BYTES};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::certificate::verifies_fixed;

/// Who issues the tokens.
pub const NRAS_ISSUER: &str = "https://nras.attestation.nvidia.com";
/// Most keys of a key set.
pub const MAX_NRAS_KEYS: usize = 64;
/// Most bytes of a key set as a file.
pub const MAX_NRAS_KEYS_BYTES: usize = 256 * 1024;
/// How far a clock may be behind the service's, seconds.
const MAX_SKEW: u64 = 300;
/// Longest text of a token that a message repeats.
const MAX_SHOWN: usize = 64;

/// Why a token does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NrasError {
    /// More than is looked at.
    #[error("a token has at most {MAX_NRAS_TOKEN_BYTES} bytes, this has {0}")]
    TooLarge(usize),
    /// Not the service's form.
    #[error("not a detached EAT: {0}")]
    Malformed(&'static str),
    /// Not signed with ES384.
    #[error("{token} is signed with {algorithm:?}; only ES384 counts")]
    Algorithm {
        /// Which token.
        token: String,
        /// What its header says.
        algorithm: String,
    },
    /// Signed with a key that is not in the set.
    #[error("{token} names the key {key:?}, which is not in the key set")]
    UnknownKey {
        /// Which token.
        token: String,
        /// What its header says.
        key: String,
    },
    /// Signed by somebody else, or changed.
    #[error("the signature of {0} does not verify")]
    Signature(String),
    /// From somebody else.
    #[error("{token} was issued by {issuer:?}")]
    Issuer {
        /// Which token.
        token: String,
        /// Who says to have issued it.
        issuer: String,
    },
    /// Not yet, or not any more.
    #[error("{token} is in force from {from} to {until}")]
    NotInForce {
        /// Which token.
        token: String,
        /// First second.
        from: String,
        /// Last second.
        until: String,
    },
    /// About another nonce.
    #[error("{0} was made for another nonce")]
    Nonce(String),
    /// About other GPUs than these.
    #[error("the token is about {seen} GPUs, the evidence has {wanted}")]
    Count {
        /// GPUs of the token.
        seen: usize,
        /// GPUs of the evidence.
        wanted: usize,
    },
    /// The overall token names another token.
    #[error("{0} is not the one that the overall token names by its digest")]
    Digest(String),
    /// About a GPU with another serial number.
    #[error("{token} is about the GPU {seen}, this is {wanted}")]
    OtherGpu {
        /// Which token.
        token: String,
        /// Its `ueid`.
        seen: String,
        /// The serial number of the leaf certificate, decimal.
        wanted: String,
    },
    /// The service found something wrong.
    #[error("the service says of {token} that {claim} is not in order")]
    Refused {
        /// Which token.
        token: String,
        /// What is wrong.
        claim: &'static str,
    },
    /// No key set that can be used.
    #[error("not a key set with P-384 keys: {0}")]
    Keys(&'static str),
}

/// Keys of the service, by name: a JSON Web Key Set (RFC 7517), which the operator fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NrasKeys(BTreeMap<String, Vec<u8>>);

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl NrasKeys {
    /// Reads a key set. Keys that are not of the curve P-384 are passed over.
    ///
    /// # Errors
    /// Why it is none, or holds no key that can be used.
    pub fn from_json(json: &[u8]) -> Result<Self, NrasError> {
        if json.len() > MAX_NRAS_KEYS_BYTES {
            return Err(NrasError::Keys("it is too large"));
        }
        let set: KeySet = serde_json::from_slice(json)
            .map_err(|_| NrasError::Keys("it is not JSON of that form"))?;
        if set.keys.len() > MAX_NRAS_KEYS {
            return Err(NrasError::Keys("it has too many keys"));
        }
        let mut keys = BTreeMap::new();
        for key in set.keys {
            if key.kty != "EC" || key.crv.as_deref() != Some("P-384") {
                continue;
            }
            let coordinate = |text: Option<String>| {
                URL_SAFE_NO_PAD
                    .decode(text.unwrap_or_default())
                    .ok()
                    .filter(|bytes| bytes.len() == 48)
                    .ok_or(NrasError::Keys("a coordinate is not 48 bytes in base64url"))
            };
            let point = [vec![4], coordinate(key.x)?, coordinate(key.y)?].concat();
            if keys.insert(key.kid, point).is_some() {
                return Err(NrasError::Keys("a name comes twice"));
            }
        }
        if keys.is_empty() {
            return Err(NrasError::Keys("there is none"));
        }
        Ok(Self(keys))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Overall {
    iss: String,
    eat_nonce: String,
    exp: u64,
    nbf: u64,
    #[serde(rename = "x-nvidia-overall-att-result")]
    result: bool,
    submods: BTreeMap<String, (String, (String, String))>,
}

#[derive(Deserialize)]
struct Submodule {
    iss: String,
    eat_nonce: String,
    exp: u64,
    nbf: u64,
    ueid: String,
    measres: String,
    secboot: Option<bool>,
    dbgstat: Option<String>,
}

/// Checks a token about GPUs whose leaf certificates have these serial numbers (big-endian), in the
/// order of the evidence, against the nonce that they answered, at `now` in seconds since 1970.
///
/// # Errors
/// The first reason why it does not count.
pub fn check(
    token: &[u8],
    keys: &NrasKeys,
    nonce: &[u8; 32],
    serials: &[&[u8]],
    now: u64,
) -> Result<(), NrasError> {
    if token.len() > MAX_NRAS_TOKEN_BYTES {
        return Err(NrasError::TooLarge(token.len()));
    }
    let ((kind, overall_text), parts): ((String, String), BTreeMap<String, String>) =
        serde_json::from_slice(token)
            .map_err(|_| NrasError::Malformed("it is not [[\"JWT\", token], {name: token}]"))?;
    if kind != "JWT" {
        return Err(NrasError::Malformed("its first part is not called JWT"));
    }
    let name = "the overall token";
    let overall: Overall = verified(name, &overall_text, keys)?;
    in_order(
        name,
        &overall.iss,
        &overall.eat_nonce,
        (overall.nbf, overall.exp),
        nonce,
        now,
    )?;
    if serials.len() > MAX_GPUS
        || parts.len() != serials.len()
        || overall.submods.len() != serials.len()
    {
        return Err(NrasError::Count {
            seen: parts.len().max(overall.submods.len()),
            wanted: serials.len(),
        });
    }
    if !overall.result {
        return Err(NrasError::Refused {
            token: name.to_owned(),
            claim: "x-nvidia-overall-att-result",
        });
    }
    for (index, serial) in serials.iter().enumerate() {
        let name = format!("GPU-{index}");
        let part = parts
            .get(&name)
            .ok_or(NrasError::Malformed("a GPU has no token"))?;
        let (kind, (algorithm, digest)) = overall
            .submods
            .get(&name)
            .ok_or(NrasError::Malformed("a GPU has no digest"))?;
        if kind != "DIGEST"
            || algorithm != "SHA-256"
            || *digest != hex::encode(Sha256::digest(part))
        {
            return Err(NrasError::Digest(name));
        }
        let claims: Submodule = verified(&name, part, keys)?;
        in_order(
            &name,
            &claims.iss,
            &claims.eat_nonce,
            (claims.nbf, claims.exp),
            nonce,
            now,
        )?;
        let wanted = decimal(serial);
        if claims.ueid != wanted {
            return Err(NrasError::OtherGpu {
                token: name,
                seen: cut(&claims.ueid),
                wanted,
            });
        }
        let refused = |claim| NrasError::Refused {
            token: name.clone(),
            claim,
        };
        if claims.measres != "success" {
            return Err(refused("measres"));
        }
        if claims.secboot != Some(true) {
            return Err(refused("secboot"));
        }
        if claims.dbgstat.as_deref() != Some("disabled") {
            return Err(refused("dbgstat"));
        }
    }
    Ok(())
}

/// The claims of a JSON Web Token in compact form, if a key of the set signed it with ES384.
fn verified<T: DeserializeOwned>(name: &str, token: &str, keys: &NrasKeys) -> Result<T, NrasError> {
    let malformed = NrasError::Malformed("a token is not three parts of base64url with JSON");
    let (signed, signature) = token.rsplit_once('.').ok_or(malformed.clone())?;
    let (header, claims) = signed.split_once('.').ok_or(malformed.clone())?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed.clone());
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed.clone())?;
    if header.alg != "ES384" {
        return Err(NrasError::Algorithm {
            token: name.to_owned(),
            algorithm: cut(&header.alg),
        });
    }
    if header.crit.is_some() {
        return Err(NrasError::Malformed("a token has critical headers"));
    }
    let key = keys
        .0
        .get(&header.kid)
        .ok_or_else(|| NrasError::UnknownKey {
            token: name.to_owned(),
            key: cut(&header.kid),
        })?;
    if !verifies_fixed(key, signed.as_bytes(), &decode(signature)?) {
        return Err(NrasError::Signature(name.to_owned()));
    }
    serde_json::from_slice(&decode(claims)?)
        .map_err(|_| NrasError::Malformed("a token lacks claims that the service makes"))
}

fn in_order(
    name: &str,
    issuer: &str,
    seen: &str,
    (from, until): (u64, u64),
    nonce: &[u8; 32],
    now: u64,
) -> Result<(), NrasError> {
    if issuer != NRAS_ISSUER {
        return Err(NrasError::Issuer {
            token: name.to_owned(),
            issuer: cut(issuer),
        });
    }
    if from > now.saturating_add(MAX_SKEW) || now >= until {
        return Err(NrasError::NotInForce {
            token: name.to_owned(),
            from: super::time::shown(from),
            until: super::time::shown(until),
        });
    }
    if seen.to_ascii_lowercase() != hex::encode(nonce) {
        return Err(NrasError::Nonce(name.to_owned()));
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(MAX_SHOWN)
        .collect()
}

/// A big-endian integer in decimal, as the service writes serial numbers.
fn decimal(bytes: &[u8]) -> String {
    let mut digits = vec![0_u8];
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            let value = u32::from(*digit).saturating_mul(256).saturating_add(carry);
            *digit = u8::try_from(value % 10).unwrap_or_default();
            carry = value / 10;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 10).unwrap_or_default());
            carry /= 10;
        }
    }
    digits
        .iter()
        .rev()
        .map(|digit| char::from(b'0'.saturating_add(*digit)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second is the serial number of the certificate of NVIDIA's sample report; the decimal form
    /// is what NVIDIA's service wrote into the token about that GPU.
    #[test]
    fn serial_numbers_are_written_in_decimal() {
        assert_eq!(decimal(&[]), "0");
        assert_eq!(decimal(&[1, 0]), "256");
        assert_eq!(
            hex::decode("53c22ba15e5d68088282da074ed9fb37aa585771").map(|serial| decimal(&serial)),
            Ok("478176379286082186618948445787393647364802107249".to_owned())
        );
    }
}
