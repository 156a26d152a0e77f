//! In place of the crate `native-tls`, which would bring OpenSSL.
//!
//! `tonlib-client` asks for `reqwest` with its default TLS, for pictures on IPFS that nothing here looks at. This crate has
//! what `reqwest`, `hyper-tls` and `tokio-native-tls` name, and refuses every connection by TLS, as `reqwest` does here
//! without the feature `tonlib`. Types that only a connection would make have no value.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read, Write};
use std::marker::PhantomData;

pub type Result<T> = std::result::Result<T, Error>;

/// There is no TLS.
#[derive(Clone, Copy, Debug)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this program's HTTP client was built without TLS")
    }
}

impl std::error::Error for Error {}

#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    Sslv3,
    Tlsv10,
    Tlsv11,
    Tlsv12,
    Tlsv13,
}

/// No value.
#[derive(Clone, Debug)]
pub struct Certificate(Infallible);

impl Certificate {
    pub fn from_der(_: &[u8]) -> Result<Self> {
        Err(Error)
    }

    pub fn from_pem(_: &[u8]) -> Result<Self> {
        Err(Error)
    }

    pub fn to_der(&self) -> Result<Vec<u8>> {
        match self.0 {}
    }
}

/// No value.
#[derive(Clone, Debug)]
pub struct Identity(Infallible);

impl Identity {
    pub fn from_pkcs12(_: &[u8], _: &str) -> Result<Self> {
        Err(Error)
    }

    pub fn from_pkcs8(_: &[u8], _: &[u8]) -> Result<Self> {
        Err(Error)
    }
}

/// Can be made, because every HTTP client makes one, also for plain HTTP.
#[derive(Clone, Debug)]
pub struct TlsConnector(());

impl TlsConnector {
    pub fn new() -> Result<Self> {
        Ok(Self(()))
    }

    #[must_use]
    pub fn builder() -> TlsConnectorBuilder {
        TlsConnectorBuilder(())
    }

    /// Always [`HandshakeError::Failure`].
    pub fn connect<S: Read + Write>(
        &self,
        _domain: &str,
        _stream: S,
    ) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        Err(HandshakeError::Failure(Error))
    }
}

pub struct TlsConnectorBuilder(());

impl TlsConnectorBuilder {
    pub fn identity(&mut self, _: Identity) -> &mut Self {
        self
    }

    pub fn min_protocol_version(&mut self, _: Option<Protocol>) -> &mut Self {
        self
    }

    pub fn max_protocol_version(&mut self, _: Option<Protocol>) -> &mut Self {
        self
    }

    pub fn add_root_certificate(&mut self, _: Certificate) -> &mut Self {
        self
    }

    pub fn disable_built_in_roots(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn request_alpns(&mut self, _: &[&str]) -> &mut Self {
        self
    }

    pub fn use_sni(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn danger_accept_invalid_certs(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn danger_accept_invalid_hostnames(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn build(&self) -> Result<TlsConnector> {
        TlsConnector::new()
    }
}

/// No value.
#[derive(Clone)]
pub struct TlsAcceptor(Infallible);

impl TlsAcceptor {
    pub fn accept<S: Read + Write>(
        &self,
        _stream: S,
    ) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

/// No value.
#[derive(Debug)]
pub struct TlsStream<S>(Infallible, PhantomData<S>);

impl<S> TlsStream<S> {
    pub fn get_ref(&self) -> &S {
        match self.0 {}
    }

    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }
}

impl<S: Read + Write> TlsStream<S> {
    pub fn negotiated_alpn(&self) -> Result<Option<Vec<u8>>> {
        match self.0 {}
    }

    pub fn peer_certificate(&self) -> Result<Option<Certificate>> {
        match self.0 {}
    }

    pub fn shutdown(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}

/// No value.
#[derive(Debug)]
pub struct MidHandshakeTlsStream<S>(Infallible, PhantomData<S>);

impl<S> MidHandshakeTlsStream<S> {
    pub fn get_ref(&self) -> &S {
        match self.0 {}
    }

    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }

    pub fn handshake(self) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

#[derive(Debug)]
pub enum HandshakeError<S> {
    Failure(Error),
    WouldBlock(MidHandshakeTlsStream<S>),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn whoever_asks_for_tls_is_refused() {
        let connector = TlsConnector::builder().build().unwrap();
        let refused = connector.connect("ton.org", io::Cursor::new(Vec::new()));
        assert!(matches!(refused, Err(HandshakeError::Failure(_))));
        assert!(Certificate::from_der(&[]).is_err());
    }
}
