//! The tunnel between a client and an enclave.
//!
//! **Pattern.** `Noise_NKpsk2_25519_ChaChaPoly_SHA256` (Noise revision 34). The client is anonymous
//! and knows the enclave's X25519 static key and ML-KEM-768 key (FIPS 203) from verified evidence:
//!
//! ```text
//!   <- s                                   known from the evidence
//!   ...
//!   -> e, es        payload = ML-KEM-768 ciphertext (1088 B)      message 1, 1136 B
//!   <- e, ee, psk   payload = empty                               message 2,   48 B
//! ```
//!
//! `psk` is the secret the client encapsulated, so a recorded session stays closed to somebody who
//! can break X25519 later. Forward secrecy against such an attacker is only as fine as the rotation
//! of the ML-KEM key. The composition is this project's own; it has no independent review yet.
//!
//! **Binding.** The prologue is `trust domain ‖ report_data`, so both ends must have the same quote
//! under the same attestation root in mind, or message 1 does not decrypt.
//!
//! **Replay.** Anybody can send a recorded message 1 again and the responder will answer it. Nothing
//! is in it but the KEM ciphertext, and the initiator can send application data only through the
//! [`Channel`] it gets from message 2.
//!
//! **Records.** After the handshake each Noise message carries one padded record ([`record`]):
//! frames larger than a record are split, the end is explicit, and keys move on every
//! [`REKEY_AFTER_MESSAGES`] messages. On the byte stream each Noise message is preceded by its
//! length ([`stream`]).
//!
//! **What is made impossible.** The underlying crate has three sharp edges: it panics on a
//! ciphertext shorter than its tag, hands out transport ciphers before the handshake is complete,
//! and hands them out twice, which repeats nonces. Here every length is checked before decryption
//! (twice: in the channel and in [`cipher`]), the handshake is consumed by the one function that
//! takes the ciphers and that function refuses an incomplete one, and the cipher states are private.
//!
//! A handshake cannot be finished twice:
//! ```compile_fail,E0382
//! # use cocoon_protocol::session::Initiator;
//! fn twice(initiator: Initiator, message_2: &[u8]) {
//!     let _ = initiator.finish(message_2);
//!     let _ = initiator.finish(message_2);
//! }
//! ```
//! A channel cannot be copied:
//! ```compile_fail,E0277
//! # use cocoon_protocol::session::Channel;
//! fn copy(channel: &Channel) -> Channel {
//!     Channel::clone(channel)
//! }
//! ```
//!
//! No randomness of its own: every function that needs some takes a generator.
//!
//! **Left in memory.** Keys, the KEM secret and reassembly buffers are overwritten when dropped.
//! `noise-protocol` keeps one unwiped copy of the psk inside its handshake state, and the frames
//! handed to the caller are the caller's to wipe.

mod channel;
mod cipher;
mod dh;
mod handshake;
mod kem;
mod record;
mod secrets;
mod stream;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod interop_tests;

pub use channel::{Channel, Opened, Opener, Sealer};
pub use handshake::{Initiator, Responder, SessionBinding};
pub use secrets::EnclaveSecrets;
pub use stream::{StreamDecoder, encode_message};

use thiserror::Error;

/// Bytes of an AEAD tag.
pub const TAG_BYTES: usize = 16;
/// Largest Noise message (Noise revision 34, section 3).
pub const MAX_MESSAGE_BYTES: usize = 65_535;
/// Bytes of an X25519 key.
pub const NOISE_KEY_BYTES: usize = 32;
/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
pub const MLKEM_KEY_BYTES: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203, table 3).
pub const MLKEM_CIPHERTEXT_BYTES: usize = 1088;
/// Bytes of the first handshake message: ephemeral, KEM ciphertext, tag.
pub const MESSAGE_1_BYTES: usize = NOISE_KEY_BYTES + MLKEM_CIPHERTEXT_BYTES + TAG_BYTES;
/// Bytes of the second handshake message: ephemeral, empty payload, tag.
pub const MESSAGE_2_BYTES: usize = NOISE_KEY_BYTES + TAG_BYTES;

/// Largest frame either end will send or reassemble: 512 KiB, twice the largest chat request.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;
/// Records are padded with zeros to a multiple of this many bytes. With frames of about eight
/// tokens this leaves 0.01 bit of length per token and makes 1 % of answers identifiable by their
/// lengths instead of 89 % (measured over 1,362 texts; timing is not hidden).
pub const PAD_BYTES: usize = 64;
/// Bytes before a record's data: type and length.
pub const RECORD_HEADER_BYTES: usize = 3;
/// Largest padded record: the largest multiple of [`PAD_BYTES`] that fits a message with its tag.
pub const MAX_RECORD_BYTES: usize = (MAX_MESSAGE_BYTES - TAG_BYTES) / PAD_BYTES * PAD_BYTES;
/// Most data in one record.
pub const MAX_RECORD_DATA_BYTES: usize = MAX_RECORD_BYTES - RECORD_HEADER_BYTES;
/// Each direction replaces its key (Noise `REKEY`) after this many messages, so that a key lifted
/// from memory does not open what was said much earlier.
pub const REKEY_AFTER_MESSAGES: u64 = 1024;
/// Most messages in one direction of one session; the last is kept for the end. Far below the nonce
/// limit of 2^64 - 1, at which the underlying crate panics.
pub const MAX_SESSION_MESSAGES: u64 = 1 << 32;

/// Why a session could not start or cannot go on. None of these names any content.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SessionError {
    /// The ML-KEM key does not have the length of one.
    #[error("an ML-KEM-768 key has {MLKEM_KEY_BYTES} bytes, this has {got}")]
    KemKeyLength {
        /// Bytes given.
        got: usize,
    },
    /// The ML-KEM key fails the modulus check of FIPS 203, section 7.2.
    #[error("the ML-KEM-768 key is not a valid encoding")]
    KemKeyInvalid,
    /// A handshake message has a length it cannot have.
    #[error("handshake message {message} has {expected} bytes, this has {got}")]
    HandshakeLength {
        /// Which message, 1 or 2.
        message: u8,
        /// Bytes it must have.
        expected: usize,
        /// Bytes it has.
        got: usize,
    },
    /// The other end's public key gives an all-zero shared secret (RFC 7748, section 6.1).
    #[error("the other end's X25519 key in handshake message {message} is of low order")]
    WeakKey {
        /// Which message, 1 or 2.
        message: u8,
    },
    /// A handshake message does not authenticate: other keys, another prologue, or changed bytes.
    #[error("handshake message {message} does not authenticate")]
    HandshakeRejected {
        /// Which message, 1 or 2.
        message: u8,
    },
    /// The ciphers were asked for before both messages were exchanged. Not reachable from outside.
    #[error("the handshake is not complete")]
    Incomplete,
    /// A Noise message is too short to hold a tag.
    #[error("a message has at least {TAG_BYTES} bytes, this has {got}")]
    MessageTooShort {
        /// Bytes given or announced.
        got: usize,
    },
    /// A Noise message is longer than allowed at this point of the session.
    #[error("a message has at most {limit} bytes here, this has {got}")]
    MessageTooLong {
        /// Bytes given or announced.
        got: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A message does not authenticate: changed, repeated, left out or out of order.
    #[error("message {index} of this direction does not authenticate")]
    Forged {
        /// How many messages were opened before it.
        index: u64,
    },
    /// An authentic message does not hold a well-formed record.
    #[error("malformed record: {0}")]
    Malformed(#[from] RecordError),
    /// A frame is larger than [`MAX_FRAME_BYTES`].
    #[error("a frame has at most {MAX_FRAME_BYTES} bytes, this has at least {got}")]
    FrameTooLong {
        /// Bytes given, or received so far.
        got: usize,
    },
    /// This end already sent its end of session.
    #[error("this end of the session is already closed")]
    Closed,
    /// The other end sent something after its end of session.
    #[error("a message followed the end of the session")]
    AfterEnd,
    /// An earlier error made this direction unusable.
    #[error("this direction failed earlier")]
    Broken,
    /// The byte stream ended without the explicit end of session.
    #[error("the stream ended before the session did")]
    Truncated,
    /// [`MAX_SESSION_MESSAGES`] were sent or received.
    #[error("a session has at most {MAX_SESSION_MESSAGES} messages in one direction")]
    Exhausted,
}

/// What is wrong with a record inside an authentic message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Its size is no multiple of [`PAD_BYTES`], or zero.
    #[error("{got} bytes are no multiple of {PAD_BYTES}")]
    Size {
        /// Bytes of the record.
        got: usize,
    },
    /// Its type is none of the known.
    #[error("unknown type {0}")]
    Type(u8),
    /// Its announced length does not fit the record, or the record's type.
    #[error("length {announced} in a record of {size} bytes")]
    Length {
        /// Bytes announced.
        announced: usize,
        /// Bytes of the record.
        size: usize,
    },
    /// Its padding holds something.
    #[error("padding is not zero")]
    Padding,
    /// The end of the session came in the middle of a frame.
    #[error("the session ended inside a frame")]
    EndInsideFrame,
}
