//! Where a worker's vault is.

use std::str::FromStr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// A vault's peer id, and an address of it if one is known; without one it is looked for in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultAddress {
    /// Who it is.
    pub peer: PeerId,
    /// Where; ends in `/p2p/<peer id>`.
    pub address: Option<Multiaddr>,
}

/// Why a text is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a peer id nor a multiaddr that ends in /p2p/ and one")]
pub struct NoVault;

impl FromStr for VaultAddress {
    type Err = NoVault;

    fn from_str(text: &str) -> Result<Self, NoVault> {
        if let Ok(peer) = text.parse() {
            return Ok(Self {
                peer,
                address: None,
            });
        }
        let address: Multiaddr = text.parse().map_err(|_| NoVault)?;
        match address.iter().last() {
            Some(Protocol::P2p(peer)) => Ok(Self {
                peer,
                address: Some(address),
            }),
            _ => Err(NoVault),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_vault_is_a_peer_id_or_an_address_that_ends_in_one() {
        let peer = PeerId::random();
        let bare: VaultAddress = peer.to_string().parse().unwrap();
        assert_eq!((bare.peer, bare.address), (peer, None));
        let text = format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer}");
        let full: VaultAddress = text.parse().unwrap();
        assert_eq!(full.peer, peer);
        assert_eq!(full.address.unwrap().to_string(), text);
        for wrong in ["", "vault", "/ip4/127.0.0.1/tcp/4001"] {
            assert_eq!(wrong.parse::<VaultAddress>(), Err(NoVault));
        }
    }
}
