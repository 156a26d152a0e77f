//! Where the server is: on this machine's loopback or nowhere.

use std::net::{IpAddr, Ipv4Addr};

use ureq::http::Uri;

use super::UpstreamError;

/// A server's base address. What is sent there is plain text, so it never leaves this machine: the host is a
/// loopback address by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopbackUrl {
    /// `http://127.0.0.1:8000`
    root: String,
    /// `/v1`, or nothing.
    base: String,
}

impl LoopbackUrl {
    /// Reads `http://HOST:PORT/v1`. The name `localhost` becomes 127.0.0.1 here, so that nobody's resolver
    /// decides where it is.
    ///
    /// # Errors
    /// [`UpstreamError::Address`], [`UpstreamError::NotLoopback`].
    pub fn parse(url: &str) -> Result<Self, UpstreamError> {
        let wrong = |reason: &str| UpstreamError::Address {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let uri: Uri = url.trim().parse().map_err(|error| UpstreamError::Address {
            url: url.to_owned(),
            reason: format!("{error}"),
        })?;
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a user or password has no meaning here"));
        }
        if uri.query().is_some() {
            return Err(wrong("it has a query"));
        }
        let host = authority.host();
        let ip = if host.eq_ignore_ascii_case("localhost") {
            Some(IpAddr::V4(Ipv4Addr::LOCALHOST))
        } else {
            host.trim_matches(['[', ']']).parse().ok()
        };
        let ip = ip
            .filter(IpAddr::is_loopback)
            .ok_or_else(|| UpstreamError::NotLoopback {
                host: host.to_owned(),
            })?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("on the loopback it is plain http"));
        }
        let after_host = authority.as_str().strip_prefix(host).unwrap_or_default();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if after_host.is_empty() => 80,
            None => return Err(wrong("its port is none")),
        };
        Ok(Self {
            root: format!("http://{}", std::net::SocketAddr::new(ip, port)),
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// `http://127.0.0.1:8000`
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The URL of an endpoint of OpenAI's protocol, like `completions`.
    pub(super) fn endpoint(&self, name: &str) -> String {
        format!("{}{}/{name}", self.root, self.base)
    }

    /// The URL of an endpoint beside OpenAI's, like `tokenize`.
    pub(super) fn beside(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn loopback_addresses_are_taken_as_they_are_written() {
        for (url, endpoint) in [
            (
                "http://127.0.0.1:8000/v1",
                "http://127.0.0.1:8000/v1/completions",
            ),
            (
                "http://127.9.8.7:1/v1/",
                "http://127.9.8.7:1/v1/completions",
            ),
            ("http://localhost:8000", "http://127.0.0.1:8000/completions"),
            ("http://[::1]:8000/v1", "http://[::1]:8000/v1/completions"),
            ("http://127.0.0.1/v1", "http://127.0.0.1:80/v1/completions"),
        ] {
            assert_eq!(
                LoopbackUrl::parse(url).unwrap().endpoint("completions"),
                endpoint
            );
        }
    }

    #[test]
    fn what_would_leave_the_machine_is_refused() {
        for url in [
            "http://10.0.0.1:8000/v1",
            "http://example.org/v1",
            "http://0.0.0.0:8000/v1",
            "http://[::]:8000/v1",
            "http://localhost.example.org/v1",
            "https://192.168.0.1/v1",
            "http://127.0.0.1.example.org/v1",
            // Hosts that some parsers read as loopback and some resolvers do not.
            "http://0x7f.1/v1",
            "http://2130706433/v1",
        ] {
            let refused = LoopbackUrl::parse(url);
            assert!(
                matches!(refused, Err(UpstreamError::NotLoopback { .. })),
                "{url}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for url in [
            "",
            "127.0.0.1:8000",
            "/v1",
            "https://127.0.0.1:8000/v1",
            "http://me:secret@127.0.0.1:8000/v1",
            "http://127.0.0.1@10.0.0.1/v1",
            "http://127.0.0.1:8000/v1?key=x",
            "http://127.0.0.1:99999/v1",
        ] {
            let refused = LoopbackUrl::parse(url).unwrap_err();
            assert!(
                matches!(refused, UpstreamError::Address { .. }),
                "{url}: {refused:?}"
            );
            assert!(refused.to_string().contains("http://127.0.0.1:8000/v1"));
        }
    }
}
