//! Which addresses to believe when a peer says where it listens.
//!
//! identify hands us whatever the peer writes. A peer on the internet that names `127.0.0.1` or
//! `192.168.1.1` would make us knock at our own doors, so an address is kept only if it is no
//! closer than the connection over which it was told. Names are not taken from strangers at all:
//! what they resolve to is theirs to choose at any time.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use std::net::IpAddr;

/// How far an address reaches; nearer is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// This host only.
    Loopback,
    /// A private or link-local network.
    Private,
    /// Anywhere.
    Public,
}

/// How far `address` reaches; nothing for one that does not begin with a usable IP address.
#[must_use]
pub fn reach(address: &Multiaddr) -> Option<Reach> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => reach_of_ip(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => reach_of_ip(IpAddr::V6(ip)),
        _ => None,
    }
}

fn reach_of_ip(ip: IpAddr) -> Option<Reach> {
    // `::ffff:127.0.0.1` reaches what `127.0.0.1` reaches.
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    if ip.is_loopback() {
        return Some(Reach::Loopback);
    }
    let private = match ip {
        IpAddr::V4(v4) => {
            // 100.64.0.0/10 is carrier-grade NAT (RFC 6598).
            let [first, second, ..] = v4.octets();
            if v4.is_broadcast() {
                return None;
            }
            v4.is_private() || v4.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    Some(if private {
        Reach::Private
    } else {
        Reach::Public
    })
}

/// Whether an address told over a connection that itself reaches `told_over` may be dialled.
#[must_use]
pub fn believable(address: &Multiaddr, told_over: Reach) -> bool {
    let mut parts = address.iter();
    let Some(reach) = reach(address) else {
        return false;
    };
    parts.next();
    let transport = match (parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), rest) => {
            port != 0 && matches!(rest, None | Some(Protocol::P2p(_)))
        }
        (Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) => {
            port != 0 && matches!(parts.next(), None | Some(Protocol::P2p(_)))
        }
        _ => false,
    };
    transport && parts.next().is_none() && reach >= told_over
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(address: &str, over: Reach) -> bool {
        believable(&address.parse().unwrap(), over)
    }

    #[test]
    fn a_stranger_far_away_cannot_point_us_at_our_own_host_or_network() {
        for near in [
            "/ip4/127.0.0.1/tcp/22",
            "/ip6/::1/tcp/22",
            "/ip6/::ffff:127.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/ip4/10.0.0.1/udp/1/quic-v1",
            "/ip4/100.64.0.1/tcp/80",
            "/ip4/169.254.169.254/tcp/80",
            "/ip6/fe80::1/tcp/80",
            "/ip6/fd00::1/tcp/80",
        ] {
            assert!(!told(near, Reach::Public), "{near}");
            assert!(told(near, Reach::Loopback), "{near}");
        }
        assert!(told("/ip4/192.168.1.1/tcp/80", Reach::Private));
        assert!(!told("/ip4/127.0.0.1/tcp/80", Reach::Private));
        assert!(told("/ip4/9.9.9.9/udp/4001/quic-v1", Reach::Public));
        assert!(told("/ip6/2620:fe::fe/tcp/4001", Reach::Public));
    }

    #[test]
    fn only_plain_tcp_and_quic_to_a_real_address_are_taken() {
        for odd in [
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/9.9.9.9/tcp/0",
            "/ip4/9.9.9.9/udp/1",
            "/ip4/224.0.0.1/tcp/1",
            "/ip4/255.255.255.255/tcp/1",
            "/dns4/example.org/tcp/1",
            "/memory/7",
            "/ip4/9.9.9.9",
            "/ip4/9.9.9.9/tcp/1/ws",
            "/ip4/9.9.9.9/tcp/1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X/p2p-circuit",
            "",
        ] {
            assert!(!told(odd, Reach::Loopback), "{odd}");
        }
        let named = "/ip4/9.9.9.9/tcp/1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X";
        assert!(told(named, Reach::Public));
    }
}
