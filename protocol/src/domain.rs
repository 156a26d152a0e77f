//! Which network, and whose word about hardware, a node believes in.
//!
//! Both stand in every protocol name and topic, so a simulated network and a real one cannot
//! speak by accident: they have no protocol in common.

use crate::ids::Digest;

/// In every protocol name and topic. Raised when any message changes: decoders are canonical, so nodes of two
/// versions could not read one another anyway.
const WIRE_VERSION: u32 = 3;

/// A network: its id and its attestation root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Short id, for example `devnet`.
    pub id: String,
    /// Digest of the attestation root.
    pub trust_domain: Digest,
}

impl Network {
    /// A libp2p protocol name: `/cocoon/<network>/<first 8 digits of the trust domain>/<name>/<version>`.
    #[must_use]
    pub fn protocol(&self, name: &str) -> String {
        format!("/{}/{name}/{WIRE_VERSION}", self.prefix())
    }

    /// A gossip topic, named like a protocol without the leading slash.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}/{name}/{WIRE_VERSION}", self.prefix())
    }

    fn prefix(&self) -> String {
        let domain = self.trust_domain.to_string();
        format!("cocoon/{}/{}", self.id, domain.get(..8).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_other_roots_share_no_protocol() {
        let network = |domain| Network {
            id: "devnet".to_owned(),
            trust_domain: Digest::from_bytes([domain; 32]),
        };
        assert_eq!(
            network(1).protocol("offer"),
            "/cocoon/devnet/01010101/offer/3"
        );
        assert_ne!(network(1).protocol("offer"), network(2).protocol("offer"));
        assert_ne!(network(1).topic("adverts"), network(2).topic("adverts"));
    }
}
