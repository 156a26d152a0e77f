//! Who does the job, and for how much.
//!
//! A client asks a few verified workers for a quote ([`QuoteRequest`]); each answers with a signed
//! [`Offer`] or a [`Refusal`]; the client takes the one with the least expected wait plus weighted
//! cost ([`Negotiation`]) and redeems it in a session. The worker keeps its offers and the slots
//! behind them in an [`OfferBook`]; an offer is binding until it expires.
//!
//! **Why ask synchronously, and three.** Ranking by gossiped load herds clients onto the same
//! workers (Mitzenmacher, "How useful is old information?", 2000), and pooled probes (Prequal, NSDI
//! 2024) or idle queues assume few, busy dispatchers. Asking d = 3 at the moment of need takes most
//! of what asking everybody would ("the power of two choices", Mitzenmacher 2001), for one round
//! trip.

mod book;
mod choice;
mod quote;

#[cfg(test)]
mod book_tests;
#[cfg(test)]
mod choice_tests;

pub use book::{
    Lease, LeaseId, MAX_REMEMBERED_OFFERS, OfferBook, OfferBookConfig, RedeemError, WorkerTerms,
};
pub use choice::{
    Candidate, LineVerdict, MAX_CANDIDATES, Mismatch, Negotiation, NegotiationConfig,
    NegotiationInput, NegotiationOutput, ScoreLine, Wish,
};
pub use quote::{
    Decline, MAX_DECLINE_BYTES, MAX_OFFER_BYTES, MAX_QUOTE_REPLY_BYTES, MAX_QUOTE_REQUEST_BYTES,
    OFFER_DOMAIN, OFFER_PAYLOAD_TYPE, Offer, QuoteReply, QuoteRequest, Refusal, decode_offer,
};
