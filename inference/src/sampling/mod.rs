//! From logits to tokens: choosing, constraining, guessing ahead.
//!
//! One [`Sampler`] belongs to one answer. For each position it takes the model's logits and gives a
//! [`Choice`], in this order, which is what users of llama.cpp and vLLM expect:
//!
//! 1. log-probabilities are read off the logits as the model computed them;
//! 2. what the constraint does not allow is set to −∞ ([`ConstraintState`]);
//! 3. the logit bias is added;
//! 4. the repetition penalty divides or multiplies (tokens of prompt and answer), then frequency and presence
//!    penalties are taken away (tokens of the answer);
//! 5. temperature 0 takes the likeliest token that is left, the lowest number among equals, and is done;
//! 6. temperature divides; top-k, min-p and top-p each keep a part of what the one before has left, each of
//!    a probability that sums to 1 over that part;
//! 7. a token is drawn.
//!
//! **Randomness** is a function of the seed and of the token's absolute position (prompt and answer) alone, so
//! an answer that is resumed in the middle, verified several tokens at a time or computed again after its
//! cache was given to others continues with the same tokens. Only which tokens are the *answer's* must be
//! said again: [`Sampler::resume`].
//!
//! **Several answers to one prompt** (`n`) are several samplers whose seeds follow one another:
//! [`seed_of_choice`].
//!
//! Nothing here knows of text: stop strings and whole characters are `stream`'s.

mod constraint;
mod logits;
mod penalties;
mod sampler;
mod speculation;
mod vocabulary;

pub use constraint::{ConstraintState, Grammars, TokenBytes};
pub use sampler::{Choice, RawLogprobs, Sampler, log_probability};
pub use speculation::{Lookup, MAX_DRAFT, Verified, verify};

/// The seed of the `choice`-th answer of a request for `n`. The 0th is that of the same request with n = 1.
pub fn seed_of_choice(seed: u64, choice: u32) -> u64 {
    seed.wrapping_add(u64::from(choice))
}

#[cfg(test)]
mod tests {
    #[test]
    fn choices_have_different_seeds_and_the_first_keeps_the_requests_own() {
        assert_eq!(super::seed_of_choice(7, 0), 7);
        assert_eq!(super::seed_of_choice(u64::MAX, 1), 0);
        assert_ne!(super::seed_of_choice(7, 1), super::seed_of_choice(7, 2));
    }
}
