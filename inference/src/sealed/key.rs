//! The keys of sealed models; see the module's doc for how one is made from the other.

use std::fmt;

use cocoon_protocol::Digest;
use cocoon_protocol::vault::ContentKey;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac;
use zeroize::Zeroizing;

use super::{SealedError, TAG_BYTES};

/// Bytes of an owner's key.
pub const OWNER_KEY_BYTES: usize = 32;

const CONTENT: &[u8] = b"cocoon/sealed/v1/content";
const HEADER: &[u8] = b"cocoon/sealed/v1/header";
const CHUNKS: &[u8] = b"cocoon/sealed/v1/chunks";
const KEY_ID: &[u8] = b"cocoon/sealed/v1/key-id";

/// What an owner keeps. Wiped when dropped, and never printed.
pub struct OwnerKey(Zeroizing<[u8; OWNER_KEY_BYTES]>);

impl OwnerKey {
    /// From its bytes. Whoever made the array wipes it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; OWNER_KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key that opens every sealed file of the weights of this digest.
    ///
    /// # Errors
    /// [`SealedError::Library`].
    pub fn content_key(&self, model: &Digest) -> Result<ContentKey, SealedError> {
        let key = derive(model.as_bytes(), &self.0[..], CONTENT)?;
        Ok(ContentKey::from_bytes(*key))
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerKey(…)")
    }
}

/// Names a content key in headers and logs. It tells nothing of the key, which is 32 uniform bytes.
///
/// # Errors
/// [`SealedError::Library`].
pub fn key_id(key: &ContentKey) -> Result<[u8; 16], SealedError> {
    let long = derive(&[], key.reveal(), KEY_ID)?;
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(long.iter()) {
        *to = *from;
    }
    Ok(id)
}

/// The two keys of one file.
pub(super) struct FileKeys {
    header: hmac::Key,
    chunks: LessSafeKey,
}

impl FileKeys {
    pub(super) fn new(content: &ContentKey, salt: &[u8; 32]) -> Result<Self, SealedError> {
        let header = derive(salt, content.reveal(), HEADER)?;
        let chunks = derive(salt, content.reveal(), CHUNKS)?;
        let chunks =
            UnboundKey::new(&AES_256_GCM, &chunks[..]).map_err(|_| SealedError::Library)?;
        Ok(Self {
            header: hmac::Key::new(hmac::HMAC_SHA256, &header[..]),
            chunks: LessSafeKey::new(chunks),
        })
    }

    pub(super) fn tag(&self, head: &[u8]) -> hmac::Tag {
        hmac::sign(&self.header, head)
    }

    /// Compares in constant time.
    pub(super) fn tag_fits(&self, head: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.header, head, tag).is_ok()
    }

    /// Seals a chunk in place and appends its tag.
    pub(super) fn seal(&self, place: Place, chunk: &mut Vec<u8>) -> Result<(), SealedError> {
        self.chunks
            .seal_in_place_append_tag(place.nonce()?, Aad::empty(), chunk)
            .map_err(|_| SealedError::Library)
    }

    /// Opens a chunk in place; `None` if it is not the one that was sealed for this place.
    pub(super) fn open<'a>(
        &self,
        place: Place,
        chunk: &'a mut [u8],
    ) -> Result<Option<&'a [u8]>, SealedError> {
        if chunk.len() < TAG_BYTES {
            return Ok(None);
        }
        let opened = self
            .chunks
            .open_in_place(place.nonce()?, Aad::empty(), chunk);
        Ok(opened.ok().map(|plain| &*plain))
    }
}

/// Where a chunk stands: STREAM's counter and its mark of the end.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) last: bool,
}

impl Place {
    fn nonce(self) -> Result<Nonce, SealedError> {
        let number = u32::try_from(self.number).map_err(|_| SealedError::Library)?;
        let [a, b, c, d] = number.to_be_bytes();
        let nonce = [0, 0, 0, 0, 0, 0, 0, a, b, c, d, u8::from(self.last)];
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

fn derive(salt: &[u8], key: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, SealedError> {
    let mut out = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(key)
        .expand(&[info], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out[..]))
        .map_err(|_| SealedError::Library)?;
    Ok(out)
}
