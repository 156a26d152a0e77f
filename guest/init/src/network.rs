//! The addresses that the host gives. Not measured: who can answer to an address is the host's to
//! say anyway, and peers are known by their keys.

use std::net::IpAddr;

use crate::error::InitError;

/// Most addresses or name servers.
const MAX_LINES: usize = 16;

/// What the network's file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// With the lengths of their prefixes.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    pub(crate) gateways: Vec<IpAddr>,
    pub(crate) nameservers: Vec<IpAddr>,
}

impl Network {
    /// Lines of a word and an address; empty ones and those that begin with `#` are passed over.
    pub(crate) fn parse(text: &str) -> Result<Self, InitError> {
        let mut network = Self::default();
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        for (number, line) in lines.enumerate() {
            let wrong = || InitError::Network(line.chars().take(80).collect());
            if number >= MAX_LINES {
                return Err(wrong());
            }
            let (word, value) = line.split_once(' ').ok_or_else(wrong)?;
            let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
            match word {
                "address" => {
                    let (ip, prefix) = value.split_once('/').ok_or_else(wrong)?;
                    let ip = address(ip)?;
                    let most = if ip.is_ipv4() { 32 } else { 128 };
                    let prefix = prefix.parse().map_err(|_| wrong())?;
                    if prefix > most {
                        return Err(wrong());
                    }
                    network.addresses.push((ip, prefix));
                }
                "gateway" => network.gateways.push(address(value)?),
                "nameserver" => network.nameservers.push(address(value)?),
                _ => return Err(wrong()),
            }
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_gateways_and_name_servers_are_read() {
        let text = "# from the host\n\naddress 10.0.2.15/24\naddress fd00::2/64\n\
                    gateway 10.0.2.2\nnameserver 10.0.2.3\n";
        let network = Network::parse(text).unwrap();
        assert_eq!(
            network.addresses,
            [
                ("10.0.2.15".parse().unwrap(), 24),
                ("fd00::2".parse().unwrap(), 64)
            ]
        );
        assert_eq!(network.gateways.len(), 1);
        assert_eq!(network.nameservers.len(), 1);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "address 10.0.2.15",
            "address 10.0.2.15/33",
            "gateway somewhere",
            "gateway",
            "route 0.0.0.0/0",
            "gateway 10.0.2.2 dev lo",
            &"nameserver 1.1.1.1\n".repeat(17),
        ] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }
}
