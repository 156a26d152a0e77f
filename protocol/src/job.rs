//! What client and enclave say to one another about one job, inside their session.
//!
//! The client speaks first: one [`ClientFrame::Job`]. The worker redeems the offer, looks at the
//! channel, counts the prompt and answers [`WorkerFrame::Accepted`], then [`WorkerFrame::Tokens`]
//! as far as [`crate::metering`] lets it; the client answers with vouchers. One
//! [`WorkerFrame::Finished`] or [`WorkerFrame::Failed`] ends it, the client says
//! [`ClientFrame::Done`] when it has kept the receipt, and both close the session. Each end records
//! exactly one [`Outcome`].

mod opening;
mod outcome;

pub use opening::OpeningTerms;
pub use outcome::Outcome;

use crate::commitment::Salt;
use crate::ids::{JobId, OfferId, TonAddress};
use crate::proto;
use crate::proto::client_frame::{Cancel, Done, Frame as ClientBody};
use crate::proto::worker_frame::Frame as WorkerBody;
use crate::receipt::{Ending, SignedReceipt};
use crate::units::NanoTon;
use crate::voucher::SignedVoucher;
use crate::wire::{Wire, WireError, codec, field};

/// Most bytes of a chat request.
pub const MAX_CHAT_BYTES: usize = 256 * 1024;
/// Most bytes of a client's frame.
pub const MAX_CLIENT_FRAME_BYTES: usize = 260 * 1024;
/// Most bytes of a worker's frame.
pub const MAX_WORKER_FRAME_BYTES: usize = 20 * 1024;
/// Most bytes of text in one frame.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;
/// Most tokens in one frame that a decoder accepts.
pub const MAX_FRAME_TOKENS: u32 = 64;
/// Most bytes of an error's message.
pub const MAX_ERROR_MESSAGE_BYTES: usize = 512;
/// Answers that one job may ask for.
pub const MAX_CHOICES: u8 = 8;
/// Alternatives at one position of an answer.
pub const MAX_TOP_LOGPROBS: usize = 20;
/// Most bytes of a token of which a log-probability is told.
pub const MAX_LOGPROB_TOKEN_BYTES: usize = 512;
/// The log-probability of what is as good as impossible, as in OpenAI's API; none is lower.
pub const LEAST_LOGPROB: f32 = -9999.0;
/// Most bytes that a worker puts into a frame's text and log-probabilities together, so that the frame stays
/// below [`MAX_WORKER_FRAME_BYTES`] with all that is around them.
pub const MAX_TOKENS_BODY_BYTES: usize = 19 * 1024;
/// Tokens that a worker puts in one frame, except where text has to be flushed. Together with the
/// session's padding this hides almost all that lengths tell.
pub const FRAME_TOKENS: u32 = 8;

/// The job itself.
#[derive(Clone, PartialEq, Eq)]
pub struct JobRequest {
    /// Drawn by the client.
    pub job: JobId,
    /// The offer it redeems.
    pub offer: OfferId,
    /// The channel from this client to this worker.
    pub channel: TonAddress,
    /// What is asked, JSON in UTF-8, at most [`MAX_CHAT_BYTES`]: the body of an OpenAI chat completion
    /// request, or texts to be embedded.
    pub chat: Vec<u8>,
    /// Drawn by the client for this attempt; hides the content of the receipt's commitments.
    pub salt: Salt,
    /// What the channel is being deployed with, while it may not be on chain yet.
    pub terms: Option<OpeningTerms>,
}

/// Sizes only, never content.
impl std::fmt::Debug for JobRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobRequest")
            .field("job", &self.job)
            .field("offer", &self.offer)
            .field("channel", &self.channel)
            .field("chat", &format_args!("{} bytes", self.chat.len()))
            .field("terms", &self.terms)
            .finish()
    }
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// The first frame, once.
    Job(JobRequest),
    /// Payment as tokens arrive.
    Voucher(SignedVoucher),
    /// Stop generating; what was sent stays owed.
    Cancel,
    /// The receipt has arrived and is kept.
    Done,
}

/// More of an answer.
#[derive(Clone, Default, PartialEq)]
pub struct Tokens {
    /// Whole characters, at most [`MAX_TEXT_BYTES`].
    pub text: String,
    /// Tokens to pay, at most [`MAX_FRAME_TOKENS`]; none if this is text held back earlier.
    pub tokens: u32,
    /// Which of several answers this belongs to, below [`MAX_CHOICES`].
    pub choice: u8,
    /// In the last frame of each of several answers: why it ends. Never [`FinishReason::Cancelled`].
    pub finish: Option<FinishReason>,
    /// For the tokens in turn, at most [`MAX_FRAME_TOKENS`], if they were asked for.
    pub logprobs: Vec<PositionLogprobs>,
    /// The tokens' numbers in the model's vocabulary: as many as [`Self::tokens`], or none where the engine
    /// has none.
    pub ids: Vec<u32>,
}

impl Tokens {
    /// Text of a job's only answer.
    #[must_use]
    pub fn of(text: impl Into<String>, tokens: u32) -> Self {
        Self {
            text: text.into(),
            tokens,
            ..Self::default()
        }
    }
}

/// The log-probabilities at one position of an answer.
#[derive(Clone, Default, PartialEq)]
pub struct PositionLogprobs {
    /// The token that was chosen.
    pub chosen: TokenLogprob,
    /// The likeliest, likeliest first; at most [`MAX_TOP_LOGPROBS`].
    pub top: Vec<TokenLogprob>,
}

/// A token that could stand at a position, and how likely it was.
#[derive(Clone, Default, PartialEq)]
pub struct TokenLogprob {
    /// What it says: at most [`MAX_LOGPROB_TOKEN_BYTES`], not always whole characters.
    pub token: Vec<u8>,
    /// Natural logarithm of its probability, [`LEAST_LOGPROB`] to 0.
    pub logprob: f32,
}

impl TokenLogprob {
    /// What a worker tells of a token: numbers and bytes beyond the limits are brought within them.
    #[must_use]
    pub fn new(mut token: Vec<u8>, logprob: f32) -> Self {
        token.truncate(MAX_LOGPROB_TOKEN_BYTES);
        // NaN, which no engine should say, is no likelihood either.
        let logprob = if logprob >= LEAST_LOGPROB {
            logprob.min(0.0)
        } else {
            LEAST_LOGPROB
        };
        Self { token, logprob }
    }
}

impl PositionLogprobs {
    /// No fewer bytes than it takes in a frame.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        /// Tags, lengths, and the number.
        const AROUND: usize = 12;
        let candidates = self.top.iter().chain([&self.chosen]);
        candidates.fold(AROUND, |sum, each| {
            sum.saturating_add(each.token.len()).saturating_add(AROUND)
        })
    }
}

/// Sizes only, never content.
impl std::fmt::Debug for PositionLogprobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PositionLogprobs({} alternatives)", self.top.len())
    }
}

/// Sizes only, never content.
impl std::fmt::Debug for TokenLogprob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenLogprob({} bytes)", self.token.len())
    }
}

/// Sizes only, never content.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Tokens({} tokens, {} bytes",
            self.tokens,
            self.text.len()
        )?;
        if !self.logprobs.is_empty() {
            write!(f, ", {} positions", self.logprobs.len())?;
        }
        if !self.ids.is_empty() {
            write!(f, ", {} ids", self.ids.len())?;
        }
        if self.choice > 0 || self.finish.is_some() {
            write!(f, ", choice {}", self.choice)?;
        }
        if let Some(finish) = self.finish {
            write!(f, ", {finish:?}")?;
        }
        f.write_str(")")
    }
}

/// What a worker says.
#[derive(Clone, PartialEq)]
pub enum WorkerFrame {
    /// The job is taken; generation begins.
    Accepted {
        /// Tokens of the prompt, to be paid with the first generated token.
        prompt_tokens: u32,
        /// Total of the newest voucher the worker holds for the channel.
        paid_so_far: NanoTon,
    },
    /// More of the answer.
    Tokens(Tokens),
    /// The end, as it should be.
    Finished {
        /// Why the answer ends here.
        finish: FinishReason,
        /// The worker's statement about the job.
        receipt: SignedReceipt,
    },
    /// The end, otherwise.
    Failed {
        /// Why.
        error: JobError,
        /// There if any token was sent.
        receipt: Option<SignedReceipt>,
    },
}

/// Sizes only, never content.
impl std::fmt::Debug for WorkerFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accepted {
                prompt_tokens,
                paid_so_far,
            } => write!(
                f,
                "Accepted({prompt_tokens} prompt tokens, {paid_so_far} paid)"
            ),
            Self::Tokens(tokens) => std::fmt::Debug::fmt(tokens, f),
            Self::Finished { finish, .. } => write!(f, "Finished({finish:?})"),
            Self::Failed { error, receipt } => {
                write!(f, "Failed({error:?}, receipt: {})", receipt.is_some())
            }
        }
    }
}

/// Why an answer ended as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// End of turn or a stop string.
    Stop,
    /// The token limit or the end of the context.
    Length,
    /// The client cancelled.
    Cancelled,
}

/// Why a worker did not do, or not finish, a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.label())]
pub struct JobError {
    /// For programs.
    pub code: JobErrorCode,
    /// For people, at most [`MAX_ERROR_MESSAGE_BYTES`]; must hold no content.
    pub message: String,
}

impl JobError {
    /// An error; a message that is too long is cut at a character.
    #[must_use]
    pub fn new(code: JobErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let end = message.floor_char_boundary(MAX_ERROR_MESSAGE_BYTES);
        message.truncate(end);
        Self { code, message }
    }
}

macro_rules! codes {
    ($(#[$doc:meta] $name:ident = $label:literal,)*) => {
        /// The kinds of failure that a worker tells a client.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum JobErrorCode {
            $(#[$doc] $name,)*
        }

        impl JobErrorCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name, for people and metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            const fn to_proto(self) -> proto::JobErrorCode {
                match self { $(Self::$name => proto::JobErrorCode::$name,)* }
            }
        }
    };
}

codes! {
    /// The offer's time is over.
    OfferExpired = "offer_expired",
    /// No such offer, another client's, or redeemed before.
    OfferUnknown = "offer_unknown",
    /// No such channel on chain, or not from this client to this worker.
    ChannelUnknown = "channel_unknown",
    /// The channel does not hold what the job may cost.
    ChannelUnderfunded = "channel_underfunded",
    /// A voucher did not verify.
    VoucherInvalid = "voucher_invalid",
    /// The voucher that would let the job go on did not come in time.
    CreditExhausted = "credit_exhausted",
    /// The prompt is longer than the offer or the model allows.
    ContextTooLong = "context_too_long",
    /// The chat request makes no sense.
    BadRequest = "bad_request",
    /// Too much at once.
    Overloaded = "overloaded",
    /// The worker's own fault.
    Internal = "internal",
    /// The worker is going down.
    ShuttingDown = "shutting_down",
    /// This worker's engine cannot do what is asked; another's may.
    Unsupported = "unsupported",
}

codec!(ClientFrame);
codec!(WorkerFrame);

impl Wire for JobRequest {
    const NAME: &'static str = "JobRequest";
    const MAX_BYTES: usize = MAX_CLIENT_FRAME_BYTES;
    type Proto = proto::JobRequest;

    fn to_proto(&self) -> Self::Proto {
        proto::JobRequest {
            job: self.job.as_bytes().to_vec(),
            offer: self.offer.as_bytes().to_vec(),
            channel: Some(self.channel.into()),
            chat: self.chat.clone(),
            salt: self.salt.as_bytes().to_vec(),
            terms: self.terms.as_ref().map(Wire::to_proto),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let chat = field::<Self>("chat").bounded(proto.chat, MAX_CHAT_BYTES)?;
        std::str::from_utf8(&chat).map_err(|error| WireError::NotUtf8 {
            message: Self::NAME,
            field: "chat",
            valid_up_to: error.valid_up_to(),
        })?;
        Ok(Self {
            job: JobId::from_bytes(field::<Self>("job").array(&proto.job)?),
            offer: OfferId::from_bytes(field::<Self>("offer").array(&proto.offer)?),
            channel: field::<Self>("channel").address(proto.channel)?,
            chat,
            salt: Salt::from_bytes(field::<Self>("salt").array(&proto.salt)?),
            terms: proto.terms.map(OpeningTerms::from_proto).transpose()?,
        })
    }
}

impl Wire for ClientFrame {
    const NAME: &'static str = "ClientFrame";
    const MAX_BYTES: usize = MAX_CLIENT_FRAME_BYTES;
    type Proto = proto::ClientFrame;

    fn to_proto(&self) -> Self::Proto {
        let frame = match self {
            Self::Job(job) => ClientBody::Job(job.to_proto()),
            Self::Voucher(voucher) => ClientBody::Voucher(voucher.to_proto()),
            Self::Cancel => ClientBody::Cancel(Cancel {}),
            Self::Done => ClientBody::Done(Done {}),
        };
        proto::ClientFrame { frame: Some(frame) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("frame").required(proto.frame)? {
            ClientBody::Job(job) => Self::Job(JobRequest::from_proto(job)?),
            ClientBody::Voucher(voucher) => Self::Voucher(SignedVoucher::from_proto(voucher)?),
            ClientBody::Cancel(Cancel {}) => Self::Cancel,
            ClientBody::Done(Done {}) => Self::Done,
        })
    }
}

impl Wire for WorkerFrame {
    const NAME: &'static str = "WorkerFrame";
    const MAX_BYTES: usize = MAX_WORKER_FRAME_BYTES;
    type Proto = proto::WorkerFrame;

    fn to_proto(&self) -> Self::Proto {
        let frame = match self {
            Self::Accepted {
                prompt_tokens,
                paid_so_far,
            } => WorkerBody::Accepted(proto::Accepted {
                prompt_tokens: *prompt_tokens,
                paid_so_far: paid_so_far.nano(),
            }),
            Self::Tokens(tokens) => WorkerBody::Tokens(proto::Tokens {
                text: tokens.text.clone(),
                tokens: tokens.tokens,
                choice: u32::from(tokens.choice),
                finish: tokens
                    .finish
                    .map_or(0, |finish| Ending::from(finish).to_proto().into()),
                logprobs: tokens.logprobs.iter().map(position_to_proto).collect(),
                ids: tokens.ids.clone(),
            }),
            Self::Finished { finish, receipt } => WorkerBody::Finished(proto::Finished {
                finish: Ending::from(*finish).to_proto().into(),
                receipt: Some(receipt.to_proto()),
            }),
            Self::Failed { error, receipt } => WorkerBody::Failed(proto::Failed {
                code: error.code.to_proto().into(),
                message: error.message.clone(),
                receipt: receipt.as_ref().map(Wire::to_proto),
            }),
        };
        proto::WorkerFrame { frame: Some(frame) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("frame").required(proto.frame)? {
            WorkerBody::Accepted(accepted) => Self::Accepted {
                prompt_tokens: accepted.prompt_tokens,
                paid_so_far: NanoTon::from_nano(accepted.paid_so_far),
            },
            WorkerBody::Tokens(tokens) => Self::Tokens(tokens_from_proto(tokens)?),
            WorkerBody::Finished(finished) => {
                let receipt = field::<Self>("finished.receipt").required(finished.receipt)?;
                Self::Finished {
                    finish: finish_from_proto(finished.finish)
                        .ok_or(field::<Self>("finished.finish").unknown(finished.finish))?,
                    receipt: SignedReceipt::from_proto(receipt)?,
                }
            }
            WorkerBody::Failed(failed) => {
                field::<Self>("failed.message")
                    .at_most(failed.message.len(), MAX_ERROR_MESSAGE_BYTES)?;
                Self::Failed {
                    error: JobError {
                        code: code_from_proto(failed.code)
                            .ok_or(field::<Self>("failed.code").unknown(failed.code))?,
                        message: failed.message,
                    },
                    receipt: failed.receipt.map(SignedReceipt::from_proto).transpose()?,
                }
            }
        })
    }
}

fn position_to_proto(position: &PositionLogprobs) -> proto::PositionLogprobs {
    let candidate = |each: &TokenLogprob| proto::TokenLogprob {
        token: each.token.clone(),
        logprob: each.logprob,
    };
    proto::PositionLogprobs {
        chosen: Some(candidate(&position.chosen)),
        top: position.top.iter().map(candidate).collect(),
    }
}

fn tokens_from_proto(proto: proto::Tokens) -> Result<Tokens, WireError> {
    let finish = field::<WorkerFrame>("tokens.finish");
    let most = usize::try_from(MAX_FRAME_TOKENS).unwrap_or(usize::MAX);
    field::<WorkerFrame>("tokens.text").at_most(proto.text.len(), MAX_TEXT_BYTES)?;
    field::<WorkerFrame>("tokens.logprobs").at_most(proto.logprobs.len(), most)?;
    if !proto.ids.is_empty() {
        let ids = u32::try_from(proto.ids.len()).unwrap_or(u32::MAX);
        let tokens = i128::from(proto.tokens);
        field::<WorkerFrame>("tokens.ids").within::<u32>(ids, tokens, tokens)?;
    }
    Ok(Tokens {
        text: proto.text,
        tokens: field::<WorkerFrame>("tokens.tokens").within(
            proto.tokens,
            0,
            i128::from(MAX_FRAME_TOKENS),
        )?,
        choice: field::<WorkerFrame>("tokens.choice").within(
            proto.choice,
            0,
            i128::from(MAX_CHOICES.saturating_sub(1)),
        )?,
        finish: match proto.finish {
            0 => None,
            value => match finish_from_proto(value) {
                Some(FinishReason::Cancelled) | None => return Err(finish.unknown(value)),
                known => known,
            },
        },
        logprobs: proto
            .logprobs
            .into_iter()
            .map(position_from_proto)
            .collect::<Result<_, _>>()?,
        ids: proto.ids,
    })
}

fn position_from_proto(proto: proto::PositionLogprobs) -> Result<PositionLogprobs, WireError> {
    let chosen = field::<WorkerFrame>("tokens.logprobs.chosen").required(proto.chosen)?;
    field::<WorkerFrame>("tokens.logprobs.top").at_most(proto.top.len(), MAX_TOP_LOGPROBS)?;
    Ok(PositionLogprobs {
        chosen: candidate_from_proto(chosen)?,
        top: proto
            .top
            .into_iter()
            .map(candidate_from_proto)
            .collect::<Result<_, _>>()?,
    })
}

fn candidate_from_proto(proto: proto::TokenLogprob) -> Result<TokenLogprob, WireError> {
    field::<WorkerFrame>("tokens.logprobs.token")
        .at_most(proto.token.len(), MAX_LOGPROB_TOKEN_BYTES)?;
    // Written so that NaN is refused.
    if !(LEAST_LOGPROB..=0.0).contains(&proto.logprob) {
        #[allow(clippy::cast_possible_truncation)]
        let value = proto.logprob as i128;
        return Err(WireError::OutOfRange {
            message: WorkerFrame::NAME,
            field: "tokens.logprobs.logprob",
            value,
            low: -9999,
            high: 0,
        });
    }
    Ok(TokenLogprob {
        token: proto.token,
        logprob: proto.logprob,
    })
}

fn finish_from_proto(value: i32) -> Option<FinishReason> {
    match Ending::from_proto(value)? {
        Ending::Stop => Some(FinishReason::Stop),
        Ending::Length => Some(FinishReason::Length),
        Ending::Cancelled => Some(FinishReason::Cancelled),
        _ => None,
    }
}

fn code_from_proto(value: i32) -> Option<JobErrorCode> {
    JobErrorCode::ALL
        .iter()
        .copied()
        .find(|code| code.to_proto() as i32 == value)
}
