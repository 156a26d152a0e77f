//! A session's frames over its byte stream: the Noise tunnel of `protocol` joined to a libp2p
//! stream.

use crate::job::SEND_LIMIT;
use crate::port::SessionStream;
use cocoon_protocol::session::{
    Channel, EnclaveSecrets, Initiator, Opened, Responder, SessionBinding, SessionError,
    StreamDecoder, encode_message,
};
use futures::io::{AsyncReadExt, AsyncWriteExt};
use rand::rngs::StdRng;
use std::time::Duration;

/// Bytes read from the stream at once.
const READ_BYTES: usize = 16 * 1024;

/// Why a session's pipe broke.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The stream failed or ended without the explicit end of the session: the other process died
    /// or the network did.
    #[error("the stream was lost: {0}")]
    Lost(#[from] std::io::Error),
    /// The other end takes nothing more.
    #[error("the other end took nothing for {} s", limit.as_secs())]
    Stalled {
        /// How long it was given.
        limit: Duration,
    },
    /// The other end broke the session's rules, or is not who the evidence says.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// What the other end sent.
pub enum Received {
    /// A complete frame.
    Frame(Vec<u8>),
    /// The end of its direction.
    Fin,
}

/// Sizes only: what is in a frame was encrypted for a reason.
impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frame(frame) => write!(f, "Frame({} bytes)", frame.len()),
            Self::Fin => f.write_str("Fin"),
        }
    }
}

/// A byte stream with the decoder in front of it.
struct Wire {
    stream: SessionStream,
    decoder: StreamDecoder,
    /// Bytes read and not yet decoded: `buffer[taken..]`.
    buffer: Vec<u8>,
    taken: usize,
}

impl Wire {
    fn new(stream: SessionStream) -> Self {
        Self {
            stream,
            decoder: StreamDecoder::for_handshake(),
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// The next Noise message. Cancel-safe: what was read stays in `self`.
    async fn message(&mut self) -> Result<Option<Vec<u8>>, PipeError> {
        loop {
            let mut rest = self.buffer.get(self.taken..).unwrap_or_default();
            let before = rest.len();
            let message = self.decoder.advance(&mut rest)?;
            self.taken = self.taken.saturating_add(before.saturating_sub(rest.len()));
            if message.is_some() {
                return Ok(message);
            }
            let mut chunk = vec![0; READ_BYTES];
            let read = self.stream.read(&mut chunk).await?;
            if read == 0 {
                return Ok(None);
            }
            chunk.truncate(read);
            self.buffer = chunk;
            self.taken = 0;
        }
    }

    async fn write(&mut self, message: &[u8]) -> Result<(), PipeError> {
        self.stream.write_all(&encode_message(message)?).await?;
        Ok(())
    }
}

/// A session after its handshake.
pub struct Pipe {
    wire: Wire,
    channel: Channel,
}

impl Pipe {
    /// The client's handshake with the enclave whose evidence was verified.
    ///
    /// # Errors
    /// [`PipeError::Session`] if the other end does not hold the attested keys.
    pub async fn connect(
        stream: SessionStream,
        binding: &SessionBinding,
        noise_key: &[u8; 32],
        mlkem_key: &[u8],
        rng: &mut StdRng,
    ) -> Result<Self, PipeError> {
        let mut wire = Wire::new(stream);
        let (initiator, first) = Initiator::start(binding, noise_key, mlkem_key, rng)?;
        wire.write(&first).await?;
        wire.stream.flush().await?;
        let second = wire.message().await?.ok_or(SessionError::Truncated)?;
        let channel = initiator.finish(&second)?;
        wire.decoder.expect_transport();
        Ok(Self { wire, channel })
    }

    /// The enclave's side of [`Pipe::connect`]. Keys rotate, so there may be more than one pair
    /// that a client can rightly have in mind; the first that opens message 1 is used, and its
    /// index returned.
    ///
    /// # Errors
    /// [`PipeError::Session`] if message 1 was made for none of them.
    pub async fn accept(
        stream: SessionStream,
        keys: &[(&EnclaveSecrets, SessionBinding)],
        rng: &mut StdRng,
    ) -> Result<(Self, usize), PipeError> {
        let mut wire = Wire::new(stream);
        let first = wire.message().await?.ok_or(SessionError::Truncated)?;
        let mut refused = SessionError::Incomplete;
        for (index, (secrets, binding)) in keys.iter().enumerate() {
            match Responder::accept(secrets, binding, &first, rng) {
                Ok((channel, second)) => {
                    wire.decoder.expect_transport();
                    wire.write(&second).await?;
                    wire.stream.flush().await?;
                    return Ok((Self { wire, channel }, index));
                }
                Err(error) => refused = error,
            }
        }
        Err(refused.into())
    }

    /// Seals and sends one frame. Not cancel-safe: a frame that was begun must be ended.
    ///
    /// # Errors
    /// [`PipeError::Lost`] when the stream is gone, [`PipeError::Stalled`] when the other end does
    /// not read. The pipe is of no use after either.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), PipeError> {
        let messages = self.channel.seal(frame)?;
        let wire = &mut self.wire;
        in_time(async {
            for message in messages {
                wire.write(&message).await?;
            }
            wire.stream.flush().await?;
            Ok(())
        })
        .await
    }

    /// The next frame. Cancel-safe.
    ///
    /// # Errors
    /// [`SessionError::Truncated`] when the stream ends before the session does.
    pub async fn receive(&mut self) -> Result<Received, PipeError> {
        loop {
            let Some(message) = self.wire.message().await? else {
                self.channel.end_of_stream()?;
                return Ok(Received::Fin);
            };
            match self.channel.open(&message)? {
                Opened::Partial => {}
                Opened::Frame(frame) => return Ok(Received::Frame(frame)),
                Opened::Fin => return Ok(Received::Fin),
            }
        }
    }

    /// Ends our direction and closes the stream.
    ///
    /// # Errors
    /// As [`Pipe::send`].
    pub async fn finish(&mut self) -> Result<(), PipeError> {
        let fin = self.channel.seal_fin()?;
        let wire = &mut self.wire;
        in_time(async {
            wire.write(&fin).await?;
            wire.stream.close().await?;
            Ok(())
        })
        .await
    }
}

async fn in_time(sending: impl Future<Output = Result<(), PipeError>>) -> Result<(), PipeError> {
    let limit = SEND_LIMIT;
    tokio::time::timeout(limit, sending)
        .await
        .unwrap_or(Err(PipeError::Stalled { limit }))
}
