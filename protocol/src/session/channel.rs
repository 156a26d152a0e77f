//! A session after its handshake: frames in, Noise messages out, and back.
//!
//! The two directions are independent and can be [split](Channel::split), so that one task can read
//! while another writes.

use std::fmt;

use noise_protocol::CipherState;
use zeroize::{Zeroize, Zeroizing};

use super::{
    MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_RECORD_DATA_BYTES, MAX_SESSION_MESSAGES,
    REKEY_AFTER_MESSAGES, RecordError, SessionError, TAG_BYTES,
    cipher::RingChaChaPoly,
    record::{self, RecordKind},
};

type Cipher = CipherState<RingChaChaPoly>;

/// What one message brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A part of a frame; the next messages bring the rest.
    Partial,
    /// A complete frame.
    Frame(Vec<u8>),
    /// The end of this direction; nothing may follow.
    Fin,
}

/// Both directions of a session.
pub struct Channel {
    sealer: Sealer,
    opener: Opener,
    hash: [u8; 32],
}

impl Channel {
    pub(super) fn new(outgoing: Cipher, incoming: Cipher, hash: [u8; 32]) -> Self {
        Self {
            sealer: Sealer {
                cipher: outgoing,
                sealed: 0,
                closed: false,
            },
            opener: Opener {
                cipher: incoming,
                opened: 0,
                partial: Zeroizing::new(Vec::new()),
                state: OpenerState::Live,
            },
            hash,
        }
    }

    /// See [`Sealer::seal`].
    pub fn seal(&mut self, frame: &[u8]) -> Result<Vec<Vec<u8>>, SessionError> {
        self.sealer.seal(frame)
    }

    /// See [`Sealer::seal_fin`].
    pub fn seal_fin(&mut self) -> Result<Vec<u8>, SessionError> {
        self.sealer.seal_fin()
    }

    /// See [`Opener::open`].
    pub fn open(&mut self, message: &[u8]) -> Result<Opened, SessionError> {
        self.opener.open(message)
    }

    /// See [`Opener::end_of_stream`].
    pub fn end_of_stream(&self) -> Result<(), SessionError> {
        self.opener.end_of_stream()
    }

    /// The Noise handshake hash `h`: the same at both ends, different in every session; something
    /// to bind later statements to.
    pub fn handshake_hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The two directions apart.
    pub fn split(self) -> (Sealer, Opener) {
        (self.sealer, self.opener)
    }
}

/// The outgoing direction.
pub struct Sealer {
    cipher: Cipher,
    sealed: u64,
    closed: bool,
}

impl Sealer {
    /// Turns a frame of at most [`MAX_FRAME_BYTES`] into Noise messages, to be sent in this order.
    pub fn seal(&mut self, frame: &[u8]) -> Result<Vec<Vec<u8>>, SessionError> {
        if self.closed {
            return Err(SessionError::Closed);
        }
        if frame.len() > MAX_FRAME_BYTES {
            return Err(SessionError::FrameTooLong { got: frame.len() });
        }
        let parts = frame.len().div_ceil(MAX_RECORD_DATA_BYTES).max(1);
        let after = self
            .sealed
            .saturating_add(u64::try_from(parts).unwrap_or(u64::MAX));
        // Strictly below: the last message is kept for the end.
        if after >= MAX_SESSION_MESSAGES {
            return Err(SessionError::Exhausted);
        }
        let mut messages = Vec::with_capacity(parts);
        let mut rest = frame;
        while let Some((part, tail)) = rest.split_at_checked(MAX_RECORD_DATA_BYTES) {
            if tail.is_empty() {
                break;
            }
            messages.push(self.seal_record(RecordKind::More, part));
            rest = tail;
        }
        messages.push(self.seal_record(RecordKind::Last, rest));
        debug_assert_eq!(messages.len(), parts);
        debug_assert_eq!(self.sealed, after);
        Ok(messages)
    }

    /// Ends this direction. Without it the other end takes the end of the stream for an attack.
    pub fn seal_fin(&mut self) -> Result<Vec<u8>, SessionError> {
        if self.closed {
            return Err(SessionError::Closed);
        }
        if self.sealed >= MAX_SESSION_MESSAGES {
            return Err(SessionError::Exhausted);
        }
        self.closed = true;
        Ok(self.seal_record(RecordKind::Fin, &[]))
    }

    fn seal_record(&mut self, kind: RecordKind, data: &[u8]) -> Vec<u8> {
        let mut message = record::encode(kind, data);
        let size = message.len();
        message.resize(size.saturating_add(TAG_BYTES), 0);
        let sealed = self.cipher.encrypt_in_place(&mut message, size);
        debug_assert_eq!(sealed, message.len());
        debug_assert!(sealed <= MAX_MESSAGE_BYTES);
        count(&mut self.sealed, &mut self.cipher);
        message
    }
}

/// The incoming direction.
pub struct Opener {
    cipher: Cipher,
    opened: u64,
    partial: Zeroizing<Vec<u8>>,
    state: OpenerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenerState {
    Live,
    Ended,
    Broken,
}

impl Opener {
    /// Opens the next Noise message. Messages come over a reliable stream, so any error means an
    /// attack or a broken peer: this direction then answers only [`SessionError::Broken`].
    pub fn open(&mut self, message: &[u8]) -> Result<Opened, SessionError> {
        match self.state {
            OpenerState::Live => {}
            OpenerState::Ended => return Err(SessionError::AfterEnd),
            OpenerState::Broken => return Err(SessionError::Broken),
        }
        let result = self.open_live(message);
        if result.is_err() {
            self.state = OpenerState::Broken;
            self.partial.zeroize();
        }
        result
    }

    fn open_live(&mut self, message: &[u8]) -> Result<Opened, SessionError> {
        // Before any decryption: the crate's in-place decryption panics below one tag.
        if message.len() < TAG_BYTES {
            return Err(SessionError::MessageTooShort { got: message.len() });
        }
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(SessionError::MessageTooLong {
                got: message.len(),
                limit: MAX_MESSAGE_BYTES,
            });
        }
        if self.opened >= MAX_SESSION_MESSAGES {
            return Err(SessionError::Exhausted);
        }
        let text = self.cipher.decrypt_vec(message);
        let text = text.map_err(|()| SessionError::Forged { index: self.opened })?;
        let text = Zeroizing::new(text);
        count(&mut self.opened, &mut self.cipher);

        let (kind, data) = record::decode(&text)?;
        let size = self.partial.len().saturating_add(data.len());
        if size > MAX_FRAME_BYTES {
            return Err(SessionError::FrameTooLong { got: size });
        }
        match kind {
            RecordKind::More => {
                self.partial.extend_from_slice(data);
                Ok(Opened::Partial)
            }
            RecordKind::Last => {
                let mut frame = std::mem::take(&mut *self.partial);
                frame.extend_from_slice(data);
                Ok(Opened::Frame(frame))
            }
            RecordKind::Fin if self.partial.is_empty() => {
                self.state = OpenerState::Ended;
                Ok(Opened::Fin)
            }
            RecordKind::Fin => Err(RecordError::EndInsideFrame.into()),
        }
    }

    /// To be called when the byte stream ends: [`SessionError::Truncated`] unless the other end
    /// said that this was the end.
    pub fn end_of_stream(&self) -> Result<(), SessionError> {
        match self.state {
            OpenerState::Ended => Ok(()),
            OpenerState::Live => Err(SessionError::Truncated),
            OpenerState::Broken => Err(SessionError::Broken),
        }
    }
}

/// Counts a message and replaces the key when it is time; both ends count alike.
fn count(messages: &mut u64, cipher: &mut Cipher) {
    *messages = messages.saturating_add(1);
    if messages.is_multiple_of(REKEY_AFTER_MESSAGES) {
        cipher.rekey();
    }
}

macro_rules! opaque_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque_debug!(Channel, Sealer, Opener);

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use proptest::prelude::*;

    use super::super::{StreamDecoder, encode_message};
    use super::*;

    fn pair() -> (Channel, Channel) {
        let cipher = |key: u8| Cipher::new(&[key; 32], 0);
        (
            Channel::new(cipher(1), cipher(2), [0; 32]),
            Channel::new(cipher(2), cipher(1), [0; 32]),
        )
    }

    fn send(from: &mut Channel, to: &mut Channel, frame: &[u8]) -> Vec<Opened> {
        let messages = from.seal(frame).unwrap();
        messages
            .iter()
            .map(|message| to.open(message).unwrap())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_frames_survive_any_chunking_of_the_stream(
            frames in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..400), 0..12),
            cuts in proptest::collection::vec(1usize..300, 1..32),
        ) {
            let (mut client, mut worker) = pair();
            let mut bytes = Vec::new();
            for frame in &frames {
                for message in client.seal(frame).unwrap() {
                    bytes.extend(encode_message(&message).unwrap());
                }
            }
            bytes.extend(encode_message(&client.seal_fin().unwrap()).unwrap());

            let mut decoder = StreamDecoder::for_transport();
            let mut seen = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (mut chunk, tail) = rest.split_at((*cut).min(rest.len()));
                rest = tail;
                prop_assert_eq!(worker.end_of_stream(), Err(SessionError::Truncated));
                while let Some(message) = decoder.advance(&mut chunk).unwrap() {
                    if let Opened::Frame(frame) = worker.open(&message).unwrap() {
                        seen.push(frame);
                    }
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(worker.end_of_stream(), Ok(()));
        }
    }

    #[test]
    fn all_short_frames_look_alike() {
        let (mut client, _) = pair();
        for len in 0..=61 {
            let messages = client.seal(&vec![7; len]).unwrap();
            let sizes: Vec<usize> = messages.iter().map(Vec::len).collect();
            assert_eq!(sizes, [64 + TAG_BYTES], "{len} bytes");
        }
        assert_eq!(client.seal(&[7; 62]).unwrap()[0].len(), 128 + TAG_BYTES);
        // The end of the session looks like a short frame too.
        assert_eq!(client.seal_fin().unwrap().len(), 64 + TAG_BYTES);
    }

    #[test]
    fn large_frames_are_split_and_put_together() {
        let (mut client, mut worker) = pair();
        for len in [
            MAX_RECORD_DATA_BYTES - 1,
            MAX_RECORD_DATA_BYTES,
            MAX_RECORD_DATA_BYTES + 1,
            2 * MAX_RECORD_DATA_BYTES,
            MAX_FRAME_BYTES,
        ] {
            let frame: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
            let opened = send(&mut client, &mut worker, &frame);
            assert_eq!(opened.len(), len.div_ceil(MAX_RECORD_DATA_BYTES));
            let (last, parts) = opened.split_last().unwrap();
            assert!(parts.iter().all(|part| *part == Opened::Partial));
            assert_eq!(*last, Opened::Frame(frame));
        }
    }

    #[test]
    fn a_frame_above_the_limit_is_neither_sent_nor_collected() {
        let (mut client, mut worker) = pair();
        let long = vec![0; MAX_FRAME_BYTES + 1];
        let error = client.seal(&long).unwrap_err();
        assert_eq!(
            error,
            SessionError::FrameTooLong {
                got: MAX_FRAME_BYTES + 1
            }
        );
        // A peer that goes on with full records all the same.
        let part = vec![0; MAX_RECORD_DATA_BYTES];
        let mut result = Ok(Opened::Partial);
        for _ in 0..=MAX_FRAME_BYTES / MAX_RECORD_DATA_BYTES {
            assert_eq!(result, Ok(Opened::Partial));
            result = worker.open(&client.sealer.seal_record(RecordKind::More, &part));
        }
        assert!(matches!(result, Err(SessionError::FrameTooLong { .. })));
        assert!(worker.opener.partial.is_empty());
    }

    #[test]
    fn a_message_shorter_than_a_tag_is_an_error_and_not_a_panic() {
        for len in 0..TAG_BYTES {
            let (_, mut worker) = pair();
            let error = worker.open(&vec![0; len]).unwrap_err();
            assert_eq!(error, SessionError::MessageTooShort { got: len });
            assert_eq!(worker.open(&[0; 80]).unwrap_err(), SessionError::Broken);
        }
        let (_, mut worker) = pair();
        assert!(matches!(
            worker.open(&vec![0; MAX_MESSAGE_BYTES + 1]),
            Err(SessionError::MessageTooLong { .. })
        ));
    }

    #[test]
    fn changed_repeated_reordered_and_reflected_messages_are_forgeries() {
        let (mut client, mut worker) = pair();
        let first = client.seal(b"one").unwrap().remove(0);
        let second = client.seal(b"two").unwrap().remove(0);

        for index in 0..first.len() {
            let (_, mut worker) = pair();
            let mut bad = first.clone();
            bad[index] ^= 0x80;
            assert_eq!(worker.open(&bad), Err(SessionError::Forged { index: 0 }));
        }
        let (_, mut early) = pair();
        assert_eq!(early.open(&second), Err(SessionError::Forged { index: 0 }));
        assert_eq!(client.open(&first), Err(SessionError::Forged { index: 0 }));
        worker.open(&first).unwrap();
        assert_eq!(worker.open(&first), Err(SessionError::Forged { index: 1 }));
        // Nothing is accepted after a forgery, not even the right message.
        assert_eq!(worker.open(&second), Err(SessionError::Broken));
        assert_eq!(worker.end_of_stream(), Err(SessionError::Broken));
    }

    #[test]
    fn the_end_is_explicit_and_final_and_each_direction_has_its_own() {
        let (mut client, mut worker) = pair();
        assert_eq!(worker.end_of_stream(), Err(SessionError::Truncated));
        let fin = client.seal_fin().unwrap();
        assert_eq!(worker.open(&fin), Ok(Opened::Fin));
        assert_eq!(worker.end_of_stream(), Ok(()));
        assert_eq!(worker.open(&fin), Err(SessionError::AfterEnd));
        assert_eq!(client.seal(b"more"), Err(SessionError::Closed));
        assert_eq!(client.seal_fin(), Err(SessionError::Closed));
        // The worker may go on.
        assert_eq!(
            send(&mut worker, &mut client, b"late"),
            [Opened::Frame(b"late".to_vec())]
        );
    }

    #[test]
    fn an_end_inside_a_frame_is_malformed() {
        let (mut client, mut worker) = pair();
        let part = vec![0; MAX_RECORD_DATA_BYTES];
        worker
            .open(&client.sealer.seal_record(RecordKind::More, &part))
            .unwrap();
        assert_eq!(
            worker.open(&client.seal_fin().unwrap()),
            Err(SessionError::Malformed(RecordError::EndInsideFrame))
        );
    }

    #[test]
    fn keys_move_on_in_step() {
        let (mut client, mut worker) = pair();
        let (mut other, _) = pair();
        for index in 0..2 * REKEY_AFTER_MESSAGES + 3 {
            let message = client.seal(&index.to_le_bytes()).unwrap().remove(0);
            let never_rekeyed = {
                let mut text = record::encode(RecordKind::Last, &index.to_le_bytes());
                text.resize(text.len() + TAG_BYTES, 0);
                let size = text.len() - TAG_BYTES;
                other.sealer.cipher.encrypt_in_place(&mut text, size);
                text
            };
            assert_eq!(
                message == never_rekeyed,
                index < REKEY_AFTER_MESSAGES,
                "{index}"
            );
            assert_eq!(
                worker.open(&message).unwrap(),
                Opened::Frame(index.to_le_bytes().to_vec())
            );
        }
    }

    #[test]
    fn the_message_limit_leaves_room_for_the_end() {
        let (mut client, mut worker) = pair();
        client.sealer.sealed = MAX_SESSION_MESSAGES - 2;
        worker.opener.opened = MAX_SESSION_MESSAGES - 2;
        assert_eq!(send(&mut client, &mut worker, b"x").len(), 1);
        assert_eq!(client.seal(b"x"), Err(SessionError::Exhausted));
        assert_eq!(worker.open(&client.seal_fin().unwrap()), Ok(Opened::Fin));

        let (mut client, mut worker) = pair();
        worker.opener.opened = MAX_SESSION_MESSAGES;
        let message = client.seal(b"x").unwrap().remove(0);
        assert_eq!(worker.open(&message), Err(SessionError::Exhausted));
    }

    #[test]
    fn debug_output_shows_no_state() {
        assert_eq!(format!("{:?}", pair().0), "Channel { .. }");
    }
}
