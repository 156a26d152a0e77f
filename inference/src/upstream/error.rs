//! What can go wrong with a server on this machine.

use std::time::Duration;

/// Why an upstream server cannot be used, or an answer not be had from it. Nothing here holds what was said.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The address is not one.
    #[error("{url:?} is no address of a server: {reason}; write it like http://127.0.0.1:8000/v1")]
    Address {
        /// As configured.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The address leads out of the guest.
    #[error(
        "the upstream server {host:?} is not on this machine's loopback; prompts would leave the guest as plain \
         text, so only 127.0.0.0/8, [::1] and localhost are spoken to"
    )]
    NotLoopback {
        /// As configured.
        host: String,
    },
    /// Nobody listens, or the connection broke before anything was said.
    #[error(
        "no server answers at {address}: {source}; start vLLM, SGLang or llama.cpp's server there, or correct \
         `upstream`"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server said no.
    #[error("the server at {address} refused with status {status}: {message}")]
    Refused {
        /// Where.
        address: String,
        /// HTTP status; 200 when it said so in the middle of an answer.
        status: u16,
        /// Its reason, shortened, without control characters.
        message: String,
    },
    /// The server said nothing for too long.
    #[error("the server at {address} sent nothing for {} s", .waited.as_secs())]
    Slow {
        /// Where.
        address: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection ended before the answer did.
    #[error("the server at {address} went away in the middle of an answer")]
    Cut {
        /// Where.
        address: String,
    },
    /// The server said what the protocol does not allow.
    #[error("the server at {address} sent something else than OpenAI's protocol: {what}")]
    Garbled {
        /// Where.
        address: String,
        /// What.
        what: String,
    },
    /// The server sends more than the request allows.
    #[error("the server at {address} sent {what} over the limit of {limit}")]
    TooMuch {
        /// Where.
        address: String,
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The server does not serve this model.
    #[error(
        "the server at {address} does not serve {wanted:?}; it serves {}", list(.served)
    )]
    WrongModel {
        /// Where.
        address: String,
        /// `upstream_model`.
        wanted: String,
        /// What it serves.
        served: Vec<String>,
    },
    /// The server has another tokenizer than the model file.
    #[error(
        "the server at {address} tokenises otherwise than the model file does; it serves another model than \
         `model_path` names"
    )]
    OtherVocabulary {
        /// Where.
        address: String,
    },
    /// The server counted another number of tokens.
    #[error(
        "the server at {address} counted {theirs} tokens of {what} where the model file's tokenizer counts {ours}"
    )]
    Miscounted {
        /// Where.
        address: String,
        /// Of the prompt, of the answer.
        what: &'static str,
        /// The server's count.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}
