//! The question protocols on the wire: one request, one reply, each a single frame of
//! `u32` big-endian length ‖ bytes, bounded before anything is allocated.
//!
//! What the bytes mean is decided in `protocol/`; here is only how many there may be.

use crate::net::limits::{
    MAX_COLLATERAL_REPLY_BYTES, MAX_EVIDENCE_REPLY_BYTES, MAX_LOG_REPLY_BYTES,
    MAX_OFFER_REPLY_BYTES, MAX_RELEASE_REPLY_BYTES, MAX_REQUEST_BYTES, MAX_VAULT_REPLY_BYTES,
    NetLimits, millis,
};
use cocoon_actors::port::Question;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response as rr;
use std::io;

/// Bytes read at a time: memory grows with what has arrived, not with what was announced.
const CHUNK_BYTES: usize = 4096;

/// Largest reply to a question, in bytes.
#[must_use]
pub const fn reply_limit(question: Question) -> usize {
    match question {
        Question::Evidence => MAX_EVIDENCE_REPLY_BYTES,
        Question::Offer => MAX_OFFER_REPLY_BYTES,
        Question::Collateral => MAX_COLLATERAL_REPLY_BYTES,
        Question::Log => MAX_LOG_REPLY_BYTES,
        Question::Vault => MAX_VAULT_REPLY_BYTES,
        Question::Release => MAX_RELEASE_REPLY_BYTES,
    }
}

/// The question's part of its protocol name.
#[must_use]
pub const fn protocol_part(question: Question) -> &'static str {
    match question {
        Question::Evidence => "evidence",
        Question::Offer => "offer",
        Question::Collateral => "collateral",
        Question::Log => "log",
        Question::Vault => "vault",
        Question::Release => "release",
    }
}

/// Reads and writes the frames of one question protocol.
#[derive(Clone, Copy, Debug)]
pub struct QuestionCodec {
    request_limit: usize,
    reply_limit: usize,
}

impl QuestionCodec {
    /// The codec of a question.
    #[must_use]
    pub const fn new(question: Question) -> Self {
        Self {
            request_limit: MAX_REQUEST_BYTES,
            reply_limit: reply_limit(question),
        }
    }
}

/// The request-response behaviour of one question.
#[must_use]
pub fn behaviour(
    question: Question,
    protocol: StreamProtocol,
    limits: &NetLimits,
) -> rr::Behaviour<QuestionCodec> {
    rr::Behaviour::with_codec(
        QuestionCodec::new(question),
        [(protocol, rr::ProtocolSupport::Full)],
        rr::Config::default()
            .with_request_timeout(millis(limits.answer_ms))
            // Inbound and outbound together, per connection: room for both directions.
            .with_max_concurrent_streams(limits.questions_per_peer.saturating_mul(2)),
    )
}

/// Reads one frame of at most `limit` bytes.
pub async fn read_frame<T>(io: &mut T, limit: usize) -> io::Result<Vec<u8>>
where
    T: AsyncRead + Unpin + Send,
{
    let mut announced = [0u8; 4];
    io.read_exact(&mut announced).await?;
    let length = usize::try_from(u32::from_be_bytes(announced)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes, {limit} allowed"),
        ));
    }
    let mut frame = Vec::with_capacity(length.min(CHUNK_BYTES));
    let mut chunk = [0u8; CHUNK_BYTES];
    loop {
        let missing = length.saturating_sub(frame.len());
        if missing == 0 {
            return Ok(frame);
        }
        let Some(window) = chunk.get_mut(..missing.min(CHUNK_BYTES)) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let read = io.read(window).await?;
        match window.get(..read) {
            Some([]) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(arrived) => frame.extend_from_slice(arrived),
        }
    }
}

/// Writes one frame of at most `limit` bytes.
pub async fn write_frame<T>(io: &mut T, frame: &[u8], limit: usize) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let announced = u32::try_from(frame.len())
        .ok()
        .filter(|_| frame.len() <= limit)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a frame of {} bytes, {limit} allowed", frame.len()),
            )
        })?;
    io.write_all(&announced.to_be_bytes()).await?;
    io.write_all(frame).await?;
    io.flush().await
}

impl rr::Codec for QuestionCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_frame(io, self.request_limit).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_frame(io, self.reply_limit).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &request, self.request_limit).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        reply: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &reply, self.reply_limit).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use proptest::prelude::*;

    const LIMIT: usize = 10_000;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        block_on(read_frame(&mut Cursor::new(bytes), LIMIT))
    }

    fn write(frame: &[u8]) -> io::Result<Vec<u8>> {
        let mut wire = Cursor::new(Vec::new());
        block_on(write_frame(&mut wire, frame, LIMIT))?;
        Ok(wire.into_inner())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read(frame in proptest::collection::vec(any::<u8>(), 0..=LIMIT)) {
            prop_assert_eq!(read(&write(&frame).unwrap()).unwrap(), frame);
        }

        #[test]
        fn a_frame_cut_short_is_an_error(
            frame in proptest::collection::vec(any::<u8>(), 1..200), cut in any::<prop::sample::Index>()
        ) {
            let wire = write(&frame).unwrap();
            let error = read(&wire[..cut.index(wire.len())]).unwrap_err();
            prop_assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn any_bytes_are_a_bounded_frame_or_an_error() {
        bolero::check!()
            .with_iterations(20_000)
            .for_each(|bytes: &[u8]| {
                if let Ok(frame) = read(bytes) {
                    assert!(frame.len() <= LIMIT);
                    assert_eq!(frame, bytes[4..4 + frame.len()]);
                }
            });
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_at_its_length() {
        let announced = u32::try_from(LIMIT + 1).unwrap().to_be_bytes();
        assert_eq!(
            read(&announced).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(
            read(&[0xff; 4]).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let ours = write(&vec![0; LIMIT + 1]).unwrap_err();
        assert_eq!(ours.kind(), io::ErrorKind::InvalidInput);
    }
}
