//! Noise messages on a byte stream: `length (2, big-endian) | message`.

use super::{MAX_MESSAGE_BYTES, MESSAGE_1_BYTES, SessionError, TAG_BYTES};

/// Puts the length before a message.
pub fn encode_message(message: &[u8]) -> Result<Vec<u8>, SessionError> {
    check(message.len(), MAX_MESSAGE_BYTES)?;
    let length = u16::try_from(message.len()).map_err(|_| SessionError::MessageTooLong {
        got: message.len(),
        limit: MAX_MESSAGE_BYTES,
    })?;
    let mut framed = Vec::with_capacity(message.len().saturating_add(2));
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    Ok(framed)
}

/// Takes messages out of a byte stream that arrives in any pieces.
///
/// It holds at most one message, takes memory only for bytes that arrived, and refuses a length it
/// will not accept as soon as the length is there.
#[derive(Debug)]
pub struct StreamDecoder {
    limit: usize,
    header: Option<u8>,
    /// Announced length of the message that is arriving.
    announced: Option<usize>,
    partial: Vec<u8>,
    broken: bool,
}

impl StreamDecoder {
    /// For a fresh stream: accepts nothing longer than a handshake message, so that a stranger
    /// cannot make us hold more, until [`Self::expect_transport`].
    pub fn for_handshake() -> Self {
        Self::with_limit(MESSAGE_1_BYTES)
    }

    /// For a stream whose handshake is done.
    pub fn for_transport() -> Self {
        Self::with_limit(MAX_MESSAGE_BYTES)
    }

    fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            header: None,
            announced: None,
            partial: Vec::new(),
            broken: false,
        }
    }

    /// From the next message on, accepts the largest a session can have.
    pub fn expect_transport(&mut self) {
        self.limit = MAX_MESSAGE_BYTES;
    }

    /// Takes bytes from the front of `input` until one message is complete or `input` is empty.
    /// Call it again with the rest after each message. After an error it only repeats
    /// [`SessionError::Broken`]: there is no way back into step.
    pub fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, SessionError> {
        if self.broken {
            return Err(SessionError::Broken);
        }
        let announced = match self.announced {
            Some(announced) => announced,
            None => match self.take_length(input) {
                Some(announced) => {
                    if let Err(error) = check(announced, self.limit) {
                        self.broken = true;
                        return Err(error);
                    }
                    self.announced = Some(announced);
                    announced
                }
                None => return Ok(None),
            },
        };
        let missing = announced.saturating_sub(self.partial.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.partial.extend_from_slice(taken);
        *input = rest;
        debug_assert!(self.partial.len() <= announced, "never more than announced");
        if self.partial.len() < announced {
            return Ok(None);
        }
        self.announced = None;
        Ok(Some(std::mem::take(&mut self.partial)))
    }

    /// Whether the stream could end here, between two messages.
    pub fn is_between_messages(&self) -> bool {
        self.header.is_none() && self.announced.is_none()
    }

    fn take_length(&mut self, input: &mut &[u8]) -> Option<usize> {
        let high = match self.header {
            Some(high) => high,
            None => take_byte(input)?,
        };
        match take_byte(input) {
            Some(low) => {
                self.header = None;
                Some(usize::from(u16::from_be_bytes([high, low])))
            }
            None => {
                self.header = Some(high);
                None
            }
        }
    }
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = input.split_first()?;
    *input = rest;
    Some(*byte)
}

fn check(got: usize, limit: usize) -> Result<(), SessionError> {
    if got < TAG_BYTES {
        Err(SessionError::MessageTooShort { got })
    } else if got > limit {
        Err(SessionError::MessageTooLong { got, limit })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_survive_any_chunking(
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), TAG_BYTES..200), 0..8),
            cuts in proptest::collection::vec(1usize..40, 1..64),
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                bytes.extend(encode_message(message).unwrap());
            }
            let mut decoder = StreamDecoder::for_transport();
            let mut seen = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (mut chunk, tail) = rest.split_at((*cut).min(rest.len()));
                rest = tail;
                while let Some(message) = decoder.advance(&mut chunk).unwrap() {
                    seen.push(message);
                }
                prop_assert!(chunk.is_empty());
            }
            prop_assert_eq!(seen, messages);
            prop_assert!(decoder.is_between_messages());
        }
    }

    #[test]
    fn an_impossible_length_is_refused_before_the_message_arrives() {
        for len in 0..16u16 {
            let mut decoder = StreamDecoder::for_transport();
            let error = decoder.advance(&mut &len.to_be_bytes()[..]).unwrap_err();
            assert_eq!(
                error,
                SessionError::MessageTooShort {
                    got: usize::from(len)
                }
            );
            assert_eq!(
                decoder.advance(&mut &[0u8][..]).unwrap_err(),
                SessionError::Broken
            );
        }
        let mut decoder = StreamDecoder::for_handshake();
        let error = decoder.advance(&mut &[0xff, 0xff][..]).unwrap_err();
        let wanted = SessionError::MessageTooLong {
            got: 65_535,
            limit: MESSAGE_1_BYTES,
        };
        assert_eq!(error, wanted);
    }

    #[test]
    fn transport_messages_are_accepted_only_after_the_handshake() {
        let big = encode_message(&vec![1; MAX_MESSAGE_BYTES]).unwrap();
        assert!(
            StreamDecoder::for_handshake()
                .advance(&mut &big[..])
                .is_err()
        );
        let mut decoder = StreamDecoder::for_handshake();
        decoder.expect_transport();
        let message = decoder.advance(&mut &big[..]).unwrap().unwrap();
        assert_eq!(message.len(), MAX_MESSAGE_BYTES);
    }

    #[test]
    fn memory_is_taken_for_what_arrived_and_not_for_what_was_announced() {
        let mut decoder = StreamDecoder::for_transport();
        assert_eq!(
            decoder.advance(&mut &[0xff, 0xff, 1, 2, 3][..]).unwrap(),
            None
        );
        assert!(decoder.partial.capacity() < 1024);
        assert!(!decoder.is_between_messages());
    }

    #[test]
    fn messages_that_cannot_be_are_not_framed() {
        assert!(encode_message(&[0; 15]).is_err());
        assert!(encode_message(&vec![0; MAX_MESSAGE_BYTES + 1]).is_err());
    }
}
