//! Channels that are served on before they were seen on chain: see [`crate::credit::FirstContactBook`].

use cocoon_protocol::{NanoTon, PeerId, PublicKey32, TonAddress, UnixMillis};

use super::{LedgerError, MAX_CHANNELS_TO_EXPECT, WorkerChannel, WorkerLedger, channel_key};
use crate::store::{Store, WriteBatch, load};

impl<S: Store> WorkerLedger<S> {
    /// Registers a channel that its client says is on its way to the chain, paying us. Its vouchers are kept like any
    /// others. A channel that is known already is returned as it is; one that was seen on chain has `expected: None`.
    /// [`WorkerLedger::register_channel`] or [`WorkerLedger::confirm_channel`] say that it has come.
    ///
    /// # Errors
    /// [`LedgerError::ChannelConflict`] as in `register_channel`, [`LedgerError::TooManyChannels`] when there are
    /// [`MAX_CHANNELS_TO_EXPECT`], or the store's failure.
    pub fn expect_channel(
        &self,
        address: TonAddress,
        client: PeerId,
        client_key: PublicKey32,
        now: UnixMillis,
    ) -> Result<WorkerChannel, LedgerError> {
        let writing = self.begin();
        let mut batch = WriteBatch::new();
        if let Some(mut known) = load::<WorkerChannel>(&self.latest(), &channel_key(&address))? {
            let another = known.client != client;
            if known.client_key != client_key || (another && known.held.is_some()) {
                return Err(LedgerError::ChannelConflict(address));
            }
            if another {
                known.client = client;
                batch.put(&known);
            }
            self.finish(writing, batch)?;
            return Ok(known);
        }
        let mut head = self.latest_head()?;
        if head.channels >= MAX_CHANNELS_TO_EXPECT {
            return Err(LedgerError::TooManyChannels {
                limit: MAX_CHANNELS_TO_EXPECT,
            });
        }
        head.channels = head.channels.saturating_add(1);
        let channel = WorkerChannel {
            address,
            client,
            client_key,
            base: NanoTon::ZERO,
            held: None,
            entered: None,
            covered: None,
            claimed: NanoTon::ZERO,
            pending: None,
            expected: Some(now),
            release: None,
        };
        batch.put(&channel);
        batch.put(&head);
        self.finish(writing, batch)?;
        Ok(channel)
    }

    /// An expected channel was seen on chain, with a deposit that covers its vouchers. Any other channel stays as it is.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn confirm_channel(&self, address: &TonAddress) -> Result<WorkerChannel, LedgerError> {
        let writing = self.begin();
        let mut channel = self.known_channel(address)?;
        let mut batch = WriteBatch::new();
        if channel.expected.take().is_some() {
            batch.put(&channel);
        }
        self.finish(writing, batch)?;
        Ok(channel)
    }

    /// Every channel that has not been seen on chain, with since when it is expected.
    ///
    /// # Errors
    /// The store's failure.
    pub fn expected_channels(&self) -> Result<Vec<(WorkerChannel, UnixMillis)>, LedgerError> {
        let mut expected = Vec::new();
        self.for_each_channel(|channel| {
            if let Some(since) = channel.expected {
                expected.push((channel, since));
            }
            Ok(())
        })?;
        Ok(expected)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::testing::{GLOBAL_ID, address, at, client_key, peer, public, ton, voucher};
    use super::super::{SCHEMA, check, check_voucher};
    use super::*;
    use crate::store::{MemoryStore, RocksStore};

    fn ledger() -> WorkerLedger<MemoryStore> {
        WorkerLedger::new(MemoryStore::new(SCHEMA))
    }

    #[test]
    fn an_expected_channel_keeps_its_vouchers_over_a_restart_and_becomes_one_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let key = public(&client_key(1));
        for life in 0..3 {
            let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
            assert!(check(&store, Some(GLOBAL_ID)).unwrap().is_clean());
            let ledger = WorkerLedger::new(store);
            match life {
                0 => {
                    let channel = ledger.expect_channel(address(1), peer(1), key, at(5));
                    let channel = channel.unwrap();
                    assert_eq!(channel.expected, Some(at(5)));
                    let voucher = voucher(1, 40);
                    let checked = check_voucher(&voucher, &channel, ton(50), GLOBAL_ID).unwrap();
                    ledger.accept_voucher(&checked).unwrap();
                }
                1 => {
                    let expected = ledger.expected_channels().unwrap();
                    let [(channel, since)] = expected.as_slice() else {
                        panic!("{expected:?}");
                    };
                    assert_eq!((channel.held_total(), *since), (ton(40), at(5)));
                    // Told of again: since when it is expected does not change.
                    let again = ledger.expect_channel(address(1), peer(1), key, at(9));
                    assert_eq!(again.unwrap().expected, Some(at(5)));
                    ledger.confirm_channel(&address(1)).unwrap();
                }
                _ => {
                    assert!(ledger.expected_channels().unwrap().is_empty());
                    let channel = ledger.channel(&address(1)).unwrap().unwrap();
                    assert_eq!((channel.held_total(), channel.expected), (ton(40), None));
                    let known = ledger.expect_channel(address(1), peer(1), key, at(9));
                    assert_eq!(known.unwrap().expected, None, "it was seen, and stays so");
                }
            }
        }
    }

    #[test]
    fn a_job_that_sees_the_channel_confirms_it_and_nobody_takes_over_what_another_has_signed() {
        let ledger = ledger();
        let key = public(&client_key(1));
        let channel = ledger.expect_channel(address(1), peer(1), key, at(5));
        // Until it has paid it is whoever's named it last.
        ledger
            .expect_channel(address(1), peer(2), key, at(6))
            .unwrap();
        let voucher = voucher(1, 7);
        let checked = check_voucher(&voucher, &channel.unwrap(), ton(50), GLOBAL_ID).unwrap();
        ledger.accept_voucher(&checked).unwrap();
        for (client, key) in [(peer(1), key), (peer(2), public(&client_key(2)))] {
            let stolen = ledger.expect_channel(address(1), client, key, at(7));
            assert!(matches!(stolen, Err(LedgerError::ChannelConflict(_))));
        }
        let seen = ledger.register_channel(address(1), peer(2), key, ton(0));
        assert_eq!(seen.unwrap().expected, None);
        assert!(ledger.expected_channels().unwrap().is_empty());
    }
}
