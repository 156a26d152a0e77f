//! What a worker has to lose, channel by channel: for the [settler](crate::settler), which watches it.

use super::{LedgerError, WorkerLedger};
use crate::settler::Stake;
use crate::store::Store;

impl<S: Store> WorkerLedger<S> {
    /// Every channel whose client has signed for more than the chain has paid, or that is being closed together.
    ///
    /// # Errors
    /// The store's failure.
    pub fn stakes(&self) -> Result<Vec<Stake>, LedgerError> {
        let mut stakes = Vec::new();
        self.for_each_channel(|channel| {
            let release = channel.release.filter(|release| !release.done);
            if channel.held_total() > channel.claimed || release.is_some() {
                stakes.push(Stake {
                    channel: channel.address,
                    held: channel.held_total(),
                    entered: channel.entered_total(),
                    covered: channel.covered_total(),
                    claimed: channel.claimed,
                    release,
                });
            }
            Ok(())
        })?;
        Ok(stakes)
    }
}
