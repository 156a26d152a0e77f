//! From a leaf to a pinned root: RFC 5280, section 6, as far as NVIDIA's certificates go.
//!
//! Looked at: names and signatures from one to the next, validity at a given time, who may sign
//! certificates and for how long a path, and that the leaf may sign data and nothing else. There are
//! no name constraints or policies in these certificates; a critical extension of that kind would
//! refuse the certificate when it is decoded.

use cocoon_protocol::gpu::MAX_GPU_CERTIFICATES;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::certificate::{Certificate, CertificateError};
use super::time::shown;

/// Why certificates are no chain. Certificates are counted from the leaf, which is 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// None, or only the root.
    #[error("there is no certificate below the root")]
    Empty,
    /// More than is looked at.
    #[error("a chain has at most {MAX_GPU_CERTIFICATES} certificates, this has {0}")]
    TooLong(usize),
    /// Text that should be a certificate is none.
    #[error("certificate {at} is not PEM")]
    NotPem {
        /// Which.
        at: usize,
    },
    /// One cannot be used.
    #[error("certificate {at}: {source}")]
    Certificate {
        /// Which.
        at: usize,
        /// Why.
        source: CertificateError,
    },
    /// Two do not belong together.
    #[error("certificate {at} ({subject}) was not signed by the next one")]
    NotIssued {
        /// The lower of the two.
        at: usize,
        /// Whose it is.
        subject: String,
    },
    /// Not in force.
    #[error("certificate {at} ({subject}) is in force from {from} to {until}, not at {now}")]
    NotInForce {
        /// Which.
        at: usize,
        /// Whose it is.
        subject: String,
        /// First second.
        from: String,
        /// Last second.
        until: String,
        /// The time in question.
        now: String,
        /// Whether its time is over, rather than not begun.
        expired: bool,
    },
    /// One that may not sign certificates did.
    #[error("certificate {at} ({subject}) may not sign certificates, or not for so long a path")]
    NotAnAuthority {
        /// Which.
        at: usize,
        /// Whose it is.
        subject: String,
    },
    /// The leaf is an authority, or its key is not for signatures.
    #[error("the leaf ({0}) is not a certificate for signing data")]
    NotALeaf(String),
    /// Ends in another root, or in none.
    #[error("the chain ends in {seen}, not in the pinned {wanted}")]
    OtherRoot {
        /// Subject or issuer of the topmost certificate.
        seen: String,
        /// Subject of the pinned root.
        wanted: String,
    },
}

/// The certificates of a PEM file as DER, in order; what is between them is passed over.
///
/// # Errors
/// A part that is not PEM, with its number.
pub fn from_pem(text: &str) -> Result<Vec<Vec<u8>>, ChainError> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut rest = text;
    let mut certificates = Vec::new();
    while let Some((_, from)) = rest.split_once("-----BEGIN") {
        let at = certificates.len();
        let wrong = || ChainError::NotPem { at };
        if at == MAX_GPU_CERTIFICATES {
            return Err(ChainError::TooLong(at.saturating_add(1)));
        }
        let (body, after) = from.split_once(END).ok_or_else(wrong)?;
        let pem = format!("-----BEGIN{}{END}\n", body.replace('\r', ""));
        let (label, der) = der::pem::decode_vec(pem.as_bytes()).map_err(|_| wrong())?;
        if label != "CERTIFICATE" {
            return Err(wrong());
        }
        certificates.push(der);
        rest = after;
    }
    Ok(certificates)
}

/// Certificates from the leaf up, without the root.
#[derive(Clone, Debug)]
pub struct Chain {
    path: Vec<Certificate>,
    /// A topmost certificate that names itself as its issuer, as most chains carry one.
    root: Option<Certificate>,
}

impl Chain {
    /// Decodes certificates, the leaf first, with or without the root.
    ///
    /// # Errors
    /// Which cannot be used, and why.
    pub fn from_der<'a>(
        certificates: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, ChainError> {
        let mut path = Vec::new();
        for (at, der) in certificates.into_iter().enumerate() {
            if at == MAX_GPU_CERTIFICATES {
                return Err(ChainError::TooLong(at.saturating_add(1)));
            }
            path.push(
                Certificate::from_der(der)
                    .map_err(|source| ChainError::Certificate { at, source })?,
            );
        }
        let root = path.pop_if(|last| last.issuer() == last.subject());
        if path.is_empty() {
            return Err(ChainError::Empty);
        }
        Ok(Self { path, root })
    }

    /// The certificate whose key signs reports.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        // `from_der` lets no empty chain be.
        #[allow(clippy::indexing_slicing)]
        &self.path[0]
    }

    /// All below the root, the leaf first.
    #[must_use]
    pub fn path(&self) -> &[Certificate] {
        &self.path
    }

    /// Each certificate below the root with the one that must have signed it.
    pub fn with_issuers<'a>(
        &'a self,
        root: &'a Certificate,
    ) -> impl Iterator<Item = (&'a Certificate, &'a Certificate)> {
        self.path
            .iter()
            .zip(self.path.iter().skip(1).chain(std::iter::once(root)))
    }

    /// Whether the top was signed by this very root.
    ///
    /// # Errors
    /// [`ChainError::OtherRoot`].
    pub fn ends_in(&self, root: &Certificate) -> Result<(), ChainError> {
        let other = |seen: String| ChainError::OtherRoot {
            seen,
            wanted: root.subject(),
        };
        let top = self.path.last().ok_or(ChainError::Empty)?;
        match &self.root {
            Some(own) if own != root => {
                return Err(other(format!("{} (another certificate)", own.subject())));
            }
            _ => {}
        }
        if root.issued(top) {
            Ok(())
        } else {
            Err(other(top.issuer()))
        }
    }

    /// Names, signatures, and what each may be used for; not the root's signature.
    ///
    /// # Errors
    /// The first certificate that is out of order.
    pub fn links(&self) -> Result<(), ChainError> {
        let leaf = self.leaf();
        let signs = leaf
            .extension::<KeyUsage>()
            .is_some_and(|usage| usage.digital_signature());
        if authority(leaf).is_some() || !signs {
            return Err(ChainError::NotALeaf(leaf.subject()));
        }
        // Whatever is above the leaf; the root too, if the chain carries it.
        let above = || self.path.iter().skip(1).chain(self.root.as_ref());
        for (at, certificate) in above().enumerate() {
            let at = at.saturating_add(1);
            // Authorities between this one and the leaf.
            let between = at.saturating_sub(1);
            let signs = certificate
                .extension::<KeyUsage>()
                .is_some_and(|usage| usage.key_cert_sign());
            let allowed = authority(certificate)
                .is_some_and(|path| path.is_none_or(|most| between <= usize::from(most)));
            if !signs || !allowed {
                return Err(ChainError::NotAnAuthority {
                    at,
                    subject: certificate.subject(),
                });
            }
        }
        for (at, (lower, upper)) in self.path.iter().zip(above()).enumerate() {
            if !upper.issued(lower) {
                return Err(ChainError::NotIssued {
                    at,
                    subject: lower.subject(),
                });
            }
        }
        Ok(())
    }

    /// Whether all are in force at a second since 1970.
    ///
    /// # Errors
    /// The first that is not; one whose time has not begun before one whose time is over.
    pub fn in_force(&self, now: u64) -> Result<(), ChainError> {
        let outside = |expired: bool| {
            self.path
                .iter()
                .chain(self.root.as_ref())
                .enumerate()
                .find_map(|(at, certificate)| {
                    let (from, until) = certificate.validity();
                    let wrong = if expired { now > until } else { now < from };
                    wrong.then(|| ChainError::NotInForce {
                        at,
                        subject: certificate.subject(),
                        from: shown(from),
                        until: shown(until),
                        now: shown(now),
                        expired,
                    })
                })
        };
        outside(false).or_else(|| outside(true)).map_or(Ok(()), Err)
    }

    /// First and last second in which all are in force.
    #[must_use]
    pub fn validity(&self) -> (u64, u64) {
        self.path
            .iter()
            .map(Certificate::validity)
            .fold((0, u64::MAX), |(from, until), (first, last)| {
                (from.max(first), until.min(last))
            })
    }
}

/// For an authority: how many authorities may be below it, if that is limited.
fn authority(certificate: &Certificate) -> Option<Option<u8>> {
    certificate
        .extension::<BasicConstraints>()
        .filter(|constraints| constraints.ca)
        .map(|constraints| constraints.path_len_constraint)
}
