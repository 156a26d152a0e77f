//! What is at risk while a chain's head cannot be verified.

use cocoon_protocol::NanoTon;

/// Going on would risk more than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the chain's head cannot be verified, and {taken} of the {limit} that may be risked meanwhile are taken; {needed} \
     more do not fit"
)]
pub struct DoubtExhausted {
    /// Taken since the head was verified last.
    pub taken: NanoTon,
    /// The limit.
    pub limit: NanoTon,
    /// Asked for.
    pub needed: NanoTon,
}

/// Counts what is risked since the chain's head was verified last: for a worker what it serves, for a client what it
/// may sign. Back at zero with the first verified head.
#[derive(Debug)]
pub struct Doubt {
    limit: NanoTon,
    taken: NanoTon,
}

impl Doubt {
    /// Nothing risked yet.
    #[must_use]
    pub fn new(limit: NanoTon) -> Self {
        Self {
            limit,
            taken: NanoTon::ZERO,
        }
    }

    /// Taken since the head was verified last.
    #[must_use]
    pub fn taken(&self) -> NanoTon {
        self.taken
    }

    /// A job begins that may cost `needed`. `sound`: whether the head is verified now.
    ///
    /// # Errors
    /// [`DoubtExhausted`]; nothing is taken then.
    pub fn admit(&mut self, sound: bool, needed: NanoTon) -> Result<(), DoubtExhausted> {
        if sound {
            self.taken = NanoTon::ZERO;
            return Ok(());
        }
        let taken = self.taken.saturating_add(needed);
        if taken > self.limit {
            return Err(DoubtExhausted {
                taken: self.taken,
                limit: self.limit,
                needed,
            });
        }
        self.taken = taken;
        Ok(())
    }
}
