//! Work for clients whose channel is not on chain yet.

use std::collections::BTreeMap;

use cocoon_protocol::{NanoTon, PeerId, TonAddress, UnixMillis};

/// Channels served before they were seen on chain. More wait for the chain.
pub const MAX_FIRST_CONTACTS: usize = 256;

/// The worker's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstContactConfig {
    /// The most that one client may have on channels that are not on chain: the worst cases of running jobs, and what
    /// ended ones cost, signed for or not. 0: no job begins before its channel was seen.
    pub per_client: NanoTon,
    /// The same for all clients together. Identities and channels cost nothing, so this is what protects the worker.
    pub total: NanoTon,
    /// A channel that has not appeared so many milliseconds after its last job is written off. So first contacts cost at
    /// most [`total`](Self::total) in this time.
    pub forget_ms: u64,
}

/// Why a job has to wait for its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirstContactError {
    /// This worker gives none.
    #[error(
        "the channel is not on chain, and this worker serves nobody before; wait for the channel"
    )]
    Off,
    /// This client has had enough.
    #[error(
        "the channel is not on chain, and this client would have {unpaid} of {limit} before; wait for the channel"
    )]
    Client {
        /// With this job.
        unpaid: NanoTon,
        /// The limit.
        limit: NanoTon,
    },
    /// All clients have had enough.
    #[error(
        "the channel is not on chain, and newcomers would have {unpaid} of {limit} before; wait for the channel"
    )]
    Total {
        /// With this job.
        unpaid: NanoTon,
        /// The limit.
        limit: NanoTon,
    },
    /// Too many at once.
    #[error("{MAX_FIRST_CONTACTS} channels are served that are not on chain; wait for the channel")]
    Full,
    /// The channel was promised long ago, and has never appeared.
    #[error("the channel was announced too long ago and is still not on chain")]
    Overdue,
}

/// A channel that its client says is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstContact {
    /// Where it will be.
    pub channel: TonAddress,
    /// Who says so.
    pub client: PeerId,
    /// When it was first said.
    pub since: UnixMillis,
}

/// What is served for channels that nobody has seen.
///
/// **The rule.** A voucher on a channel that is not on chain is worth nothing yet, so everything that is served there
/// counts as unpaid, signed for or not: a running job with the most that it can cost, an ended one with what it did cost.
/// It counts until the channel is on chain with a deposit that covers its vouchers, or until it is written off.
#[derive(Debug)]
pub struct FirstContactBook {
    config: FirstContactConfig,
    channels: BTreeMap<TonAddress, Unconfirmed>,
    given: NanoTon,
    lost: NanoTon,
}

#[derive(Clone, Copy, Debug)]
struct Unconfirmed {
    client: PeerId,
    /// Worst cases of running jobs.
    reserved: NanoTon,
    /// What ended jobs cost.
    owed: NanoTon,
    /// When that last rose.
    risen: UnixMillis,
}

impl Unconfirmed {
    fn unpaid(&self) -> NanoTon {
        self.reserved.saturating_add(self.owed)
    }
}

impl FirstContactBook {
    /// An empty book.
    #[must_use]
    pub fn new(config: FirstContactConfig) -> Self {
        Self {
            config,
            channels: BTreeMap::new(),
            given: NanoTon::ZERO,
            lost: NanoTon::ZERO,
        }
    }

    /// A channel that an earlier process has served for, from the ledger: `held` is what was signed there. One whose last
    /// job must have been written off by now is left out.
    pub fn resume(&mut self, now: UnixMillis, contact: FirstContact, held: NanoTon) {
        // The last job was admitted within `forget_ms` of the first word, and counts for as long again.
        let longest = self.config.forget_ms.saturating_mul(2);
        if now.saturating_since(contact.since) >= longest || held == NanoTon::ZERO {
            return;
        }
        self.channels.insert(
            contact.channel,
            Unconfirmed {
                client: contact.client,
                reserved: NanoTon::ZERO,
                owed: held,
                risen: now,
            },
        );
    }

    /// A job begins on a channel that is not on chain, and can cost `needed`. Give it back with
    /// [`FirstContactBook::settle`].
    ///
    /// # Errors
    /// [`FirstContactError`]; nothing is reserved then.
    pub fn admit(
        &mut self,
        now: UnixMillis,
        contact: FirstContact,
        needed: NanoTon,
    ) -> Result<(), FirstContactError> {
        self.forget(now);
        if self.config.per_client == NanoTon::ZERO || self.config.total == NanoTon::ZERO {
            return Err(FirstContactError::Off);
        }
        if self.is_overdue(now, contact.since) {
            return Err(FirstContactError::Overdue);
        }
        let client = self.sum(|of| of.client == contact.client);
        let (unpaid, limit) = (client.saturating_add(needed), self.config.per_client);
        if unpaid > limit {
            return Err(FirstContactError::Client { unpaid, limit });
        }
        let unpaid = self.outstanding().saturating_add(needed);
        let limit = self.config.total;
        if unpaid > limit {
            return Err(FirstContactError::Total { unpaid, limit });
        }
        let known = self.channels.get(&contact.channel).copied();
        if known.is_none() && self.channels.len() >= MAX_FIRST_CONTACTS {
            return Err(FirstContactError::Full);
        }
        let mut channel = known.unwrap_or(Unconfirmed {
            client: contact.client,
            reserved: NanoTon::ZERO,
            owed: NanoTon::ZERO,
            risen: now,
        });
        channel.client = contact.client;
        channel.reserved = channel.reserved.saturating_add(needed);
        channel.risen = now;
        self.channels.insert(contact.channel, channel);
        Ok(())
    }

    /// The job that [reserved](Self::admit) `needed` has ended, and cost `cost`. Returns whether its channel is still
    /// not on chain: then nothing of it is paid.
    pub fn settle(
        &mut self,
        now: UnixMillis,
        channel: &TonAddress,
        needed: NanoTon,
        cost: NanoTon,
    ) -> bool {
        let known = self.channels.get_mut(channel);
        let is_unconfirmed = known.is_some();
        if let Some(known) = known {
            known.reserved = known.reserved.saturating_sub(needed);
            known.owed = known.owed.saturating_add(cost);
            known.risen = now;
            self.given = self.given.saturating_add(cost);
        }
        self.forget(now);
        is_unconfirmed
    }

    /// The channel is on chain, and its deposit covers what was signed. From now on it is one like any other.
    pub fn confirm(&mut self, channel: &TonAddress) {
        self.channels.remove(channel);
    }

    /// Channels that may appear.
    pub fn channels(&self) -> impl Iterator<Item = TonAddress> + '_ {
        self.channels.keys().copied()
    }

    /// Unpaid now, running jobs with their worst cases.
    #[must_use]
    pub fn outstanding(&self) -> NanoTon {
        self.sum(|_| true)
    }

    /// Served before the channel was on chain, in all, since the process began.
    #[must_use]
    pub fn given(&self) -> NanoTon {
        self.given
    }

    /// Of that, written off.
    #[must_use]
    pub fn lost(&self) -> NanoTon {
        self.lost
    }

    /// Writes off what has not appeared in time.
    pub fn forget(&mut self, now: UnixMillis) {
        let (forget_ms, mut lost) = (self.config.forget_ms, self.lost);
        self.channels.retain(|_, channel| {
            let is_idle = channel.reserved == NanoTon::ZERO;
            let is_late = now.saturating_since(channel.risen) >= forget_ms;
            if is_idle && is_late {
                lost = lost.saturating_add(channel.owed);
            }
            !is_idle || !(is_late || channel.owed == NanoTon::ZERO)
        });
        self.lost = lost;
    }

    fn is_overdue(&self, now: UnixMillis, since: UnixMillis) -> bool {
        now.saturating_since(since) >= self.config.forget_ms
    }

    fn sum(&self, which: impl Fn(&Unconfirmed) -> bool) -> NanoTon {
        let channels = self.channels.values().filter(|channel| which(channel));
        channels.fold(NanoTon::ZERO, |sum, channel| {
            sum.saturating_add(channel.unpaid())
        })
    }
}
