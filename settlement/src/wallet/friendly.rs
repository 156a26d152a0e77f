//! Addresses as people pass them on (TEP-2): 36 bytes in base64, with a checksum, and a mark whether coins should come
//! back when nothing is deployed there.

use cocoon_protocol::TonAddress;
use tycho_types::models::{Base64StdAddrFlags, DisplayBase64StdAddr, StdAddr, StdAddrFormat};

use crate::contract::encoding::{std_addr, ton_address};

/// One of the two forms of an address; `testnet` marks it as of no value.
#[must_use]
pub fn friendly(address: TonAddress, bounceable: bool, testnet: bool) -> String {
    DisplayBase64StdAddr {
        addr: &std_addr(address),
        flags: Base64StdAddrFlags {
            testnet,
            base64_url: true,
            bounceable,
        },
    }
    .to_string()
}

/// Reads any form: `0:…` in hexadecimal, or base64 of either alphabet. The second value is whether a transfer there should
/// bounce; a raw address does not say.
pub fn parse(text: &str) -> Result<(TonAddress, Option<bool>), BadAddress> {
    let (address, flags) = StdAddr::from_str_ext(text.trim(), StdAddrFormat::any())
        .map_err(|_| BadAddress(text.chars().take(80).collect()))?;
    let bounce = (!text.contains(':')).then_some(flags.bounceable);
    Ok((ton_address(&address), bounce))
}

/// Nothing that coins could be sent to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no TON address; check that it was copied whole")]
pub struct BadAddress(String);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// From `@ton/core` 0.63.1, `Address.toString`.
    #[test]
    fn forms_are_those_of_an_independent_implementation() {
        let address = parse("0:7fd215a40b81daadef08d32aec841f737c3dd92908d0b9231cf7058158991096")
            .unwrap()
            .0;
        let bounceable = "EQB_0hWkC4Hare8I0yrshB9zfD3ZKQjQuSMc9wWBWJkQlleQ";
        let plain = "UQB_0hWkC4Hare8I0yrshB9zfD3ZKQjQuSMc9wWBWJkQlgpV";
        assert_eq!(friendly(address, true, false), bounceable);
        assert_eq!(friendly(address, false, false), plain);
        assert_eq!(parse(bounceable).unwrap(), (address, Some(true)));
        assert_eq!(parse(plain).unwrap(), (address, Some(false)));
        let other = plain.replace("pV", "pU");
        assert!(parse(&other).is_err(), "the checksum must be looked at");
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = parse(&String::from_utf8_lossy(bytes));
        });
    }
}
