//! What a client hears when its job is refused or ends early, and nothing that quotes a conversation.

use crate::cashier::CashierError;
use crate::engine::StartError;
use cocoon_inference::EngineError;
use cocoon_protocol::job::{JobError, JobErrorCode};
use cocoon_protocol::negotiation::RedeemError;
use cocoon_protocol::receipt::Ending;
use cocoon_settlement::chain::ChainError;
use cocoon_settlement::ledger::LedgerError;
use tracing::warn;

/// A refusal before the first token.
pub(super) type Refused = JobError;

pub(super) fn refuse(code: JobErrorCode, message: impl ToString) -> Refused {
    JobError::new(code, message.to_string())
}

/// What a client hears of a job that did not finish.
pub(super) fn last_words(ending: Ending, fault: Option<String>) -> Refused {
    match (ending, fault) {
        (Ending::PaymentStalled, Some(fault)) => refuse(JobErrorCode::VoucherInvalid, fault),
        (Ending::PaymentStalled, None) => refuse(
            JobErrorCode::CreditExhausted,
            "no voucher came that pays for more",
        ),
        (Ending::ShutDown, _) => refuse(JobErrorCode::ShuttingDown, "the worker is going away"),
        (Ending::EngineFailed, _) => refuse(JobErrorCode::Internal, "the engine failed"),
        _ => refuse(JobErrorCode::Internal, "no receipt could be made"),
    }
}

/// What an engine says of a constraint may quote the constraint.
pub(super) fn engine_failed(error: &EngineError) {
    match error {
        EngineError::Constraint { .. } => warn!("the engine could not keep to the answer's format"),
        error => warn!(%error, "the engine failed"),
    }
}

pub(super) fn redeem_error(error: RedeemError) -> Refused {
    let code = match error {
        RedeemError::Expired { .. } => JobErrorCode::OfferExpired,
        _ => JobErrorCode::OfferUnknown,
    };
    refuse(code, error)
}

/// `constrained` names the parameter that says what the answer must look like.
pub(super) fn start_error(error: &StartError, constrained: Option<&str>) -> Refused {
    let code = match error {
        StartError::Busy { .. } => JobErrorCode::Overloaded,
        StartError::TooLong { .. } | StartError::Engine(EngineError::ContextTooLong { .. }) => {
            JobErrorCode::ContextTooLong
        }
        StartError::Engine(EngineError::Constraint { message }) => {
            let parameter = constrained.unwrap_or("response_format");
            return refuse(JobErrorCode::BadRequest, format!("{parameter}: {message}"));
        }
        StartError::Engine(EngineError::Parameter { name, wanted }) => {
            return refuse(
                JobErrorCode::BadRequest,
                format!("{name}: must be {wanted}"),
            );
        }
        StartError::Engine(EngineError::EmptyMessages | EngineError::EmptyPrompt)
        | StartError::Embedding(_) => JobErrorCode::BadRequest,
        StartError::Engine(EngineError::Unsupported { .. }) => JobErrorCode::Unsupported,
        StartError::Engine(EngineError::QueueFull { .. }) => JobErrorCode::Overloaded,
        StartError::Engine(EngineError::Template(_) | EngineError::Tokenizer(_)) => {
            // What these two have to say may quote the conversation, and is logged.
            return refuse(JobErrorCode::Internal, "the prompt could not be made");
        }
        StartError::Engine(_) => JobErrorCode::Internal,
    };
    refuse(code, error)
}

pub(super) fn cashier_error(error: &CashierError) -> Refused {
    let code = match error {
        CashierError::Underfunded { .. } => JobErrorCode::ChannelUnderfunded,
        CashierError::NotOpen(_)
        | CashierError::FirstContact(_)
        | CashierError::Closing { .. }
        | CashierError::NotOurs(_)
        | CashierError::ClosesTooSoon { .. }
        // Something else lives at the address that the client has named, or somebody else pays there.
        | CashierError::Chain(ChainError::ForeignCode { .. } | ChainError::BadData { .. })
        | CashierError::Ledger(LedgerError::ChannelConflict(_)) => JobErrorCode::ChannelUnknown,
        // Names of jobs are drawn by clients, at random.
        CashierError::Ledger(LedgerError::JobExists(_)) => JobErrorCode::BadRequest,
        CashierError::Credit(_) => JobErrorCode::CreditExhausted,
        CashierError::InUse(_)
        | CashierError::Unreconciled
        | CashierError::Doubt(_)
        | CashierError::Unproved(_) => JobErrorCode::Overloaded,
        _ => JobErrorCode::Internal,
    };
    refuse(code, error)
}
