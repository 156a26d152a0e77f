//! How much a worker lets others have before it is sure of being paid. Three books without IO.
//!
//! - [`CreditBook`]: to clients, job by job. Tokens go out before the voucher that pays for them, by at most a credit
//!   window; whoever does not pay has had that for nothing, and identities cost nothing.
//! - [`FirstContactBook`]: to clients whose channel is not on chain yet. Their vouchers may turn out to be worth nothing.
//! - [`Doubt`]: to a chain whose head cannot be verified. What is earned meanwhile may turn out to be worth nothing.

mod doubt;
mod first_contact;
#[cfg(test)]
mod first_contact_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cocoon_protocol::{NanoTon, PeerId, UnixMillis};

pub use doubt::{Doubt, DoubtExhausted};
pub use first_contact::{
    FirstContact, FirstContactBook, FirstContactConfig, FirstContactError, MAX_FIRST_CONTACTS,
};

/// Clients with an account. One more is refused while every account has something open.
pub const MAX_ACCOUNTS: usize = 4_096;
/// So many windows of a job fit under each limit, however small it is.
pub const LEAST_WINDOWS: u64 = 3;

/// The worker's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditConfig {
    /// The most that one client may have unpaid: windows of its running jobs, and what earlier jobs left open.
    pub per_client: NanoTon,
    /// The most that all clients together may have unpaid who have not paid as much before.
    pub strangers: NanoTon,
    /// After so many milliseconds a debt is written off: then a stranger can be served again. So strangers cost at most
    /// [`strangers`](Self::strangers) in this time.
    pub forget_ms: u64,
}

/// Why no credit was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// The client has not paid for what it had.
    #[error(
        "{unpaid} are unpaid or in service, {limit} may be; pay what earlier jobs left open first"
    )]
    Client {
        /// Unpaid and reserved.
        unpaid: NanoTon,
        /// The limit.
        limit: NanoTon,
    },
    /// Newcomers have had as much as newcomers may have.
    #[error(
        "clients that have not paid before have {unpaid} on credit, {limit} may be; try again later"
    )]
    Strangers {
        /// Unpaid and reserved by all of them.
        unpaid: NanoTon,
        /// The limit.
        limit: NanoTon,
    },
    /// Too many clients owe something.
    #[error("{MAX_ACCOUNTS} clients have something open; try again later")]
    Full,
}

/// Who has how much unpaid.
///
/// **The rule.** A job reserves its credit window. A client that has paid less than it would have on credit is a
/// *stranger*, and all strangers share one limit. So whoever never pays, under however many names and channels, gets no
/// more than that limit in all; and whoever pays first gets no more for nothing than it has paid.
///
/// An offer's window is never smaller than its prompt and two frames, or the job would stall. So that a dear model can be
/// served at all, and a client whose connection broke can come back and pay, [`LEAST_WINDOWS`] of the job's windows fit in
/// any case.
#[derive(Debug)]
pub struct CreditBook {
    config: CreditConfig,
    accounts: BTreeMap<PeerId, Account>,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    /// Windows of running jobs.
    reserved: NanoTon,
    /// Left unpaid by jobs that ended.
    owed: NanoTon,
    /// When that last rose.
    owed_since: UnixMillis,
    /// Paid, as far as this process knows.
    paid: NanoTon,
}

impl Account {
    fn unpaid(&self) -> NanoTon {
        self.reserved.saturating_add(self.owed)
    }

    fn is_stranger(&self) -> bool {
        self.unpaid() > self.paid
    }
}

impl CreditBook {
    /// An empty book.
    #[must_use]
    pub fn new(config: CreditConfig) -> Self {
        Self {
            config,
            accounts: BTreeMap::new(),
        }
    }

    /// What strangers have unpaid now.
    #[must_use]
    pub fn strangers_unpaid(&self) -> NanoTon {
        let strangers = self
            .accounts
            .values()
            .filter(|account| account.is_stranger());
        strangers.fold(NanoTon::ZERO, |sum, account| {
            sum.saturating_add(account.unpaid())
        })
    }

    /// Everything unpaid now, by strangers and others.
    #[must_use]
    pub fn unpaid(&self) -> NanoTon {
        let accounts = self.accounts.values();
        accounts.fold(NanoTon::ZERO, |sum, account| {
            sum.saturating_add(account.unpaid())
        })
    }

    /// A job begins that may be `window` ahead of its vouchers. `paid_before` is what the ledger knows that this client
    /// has paid, for clients of an earlier process. Give it back with [`CreditBook::settle`].
    ///
    /// # Errors
    /// [`CreditError`]; nothing is reserved then.
    pub fn reserve(
        &mut self,
        now: UnixMillis,
        client: PeerId,
        window: NanoTon,
        paid_before: NanoTon,
    ) -> Result<(), CreditError> {
        self.forget(now);
        let mut account = self.accounts.get(&client).copied().unwrap_or(Account {
            reserved: NanoTon::ZERO,
            owed: NanoTon::ZERO,
            owed_since: now,
            paid: NanoTon::ZERO,
        });
        account.paid = account.paid.max(paid_before);
        let others = if account.is_stranger() {
            self.strangers_unpaid().saturating_sub(account.unpaid())
        } else {
            self.strangers_unpaid()
        };
        account.reserved = account.reserved.saturating_add(window);
        let least = window.saturating_mul(LEAST_WINDOWS);
        let (unpaid, limit) = (account.unpaid(), self.config.per_client.max(least));
        if unpaid > limit {
            return Err(CreditError::Client { unpaid, limit });
        }
        let unpaid = others.saturating_add(unpaid);
        let limit = self.config.strangers.max(least);
        if account.is_stranger() && unpaid > limit {
            return Err(CreditError::Strangers { unpaid, limit });
        }
        if !self.accounts.contains_key(&client) && self.accounts.len() >= MAX_ACCOUNTS {
            return Err(CreditError::Full);
        }
        self.accounts.insert(client, account);
        Ok(())
    }

    /// The job that reserved `window` has ended: it cost `cost`, and the client has paid `paid` while it ran. What it
    /// paid above the cost pays for earlier jobs.
    pub fn settle(
        &mut self,
        now: UnixMillis,
        client: PeerId,
        window: NanoTon,
        cost: NanoTon,
        paid: NanoTon,
    ) {
        if let Some(account) = self.accounts.get_mut(&client) {
            account.reserved = account.reserved.saturating_sub(window);
            account.paid = account.paid.saturating_add(paid);
            let owed = account.owed.saturating_add(cost).saturating_sub(paid);
            if owed > account.owed {
                account.owed_since = now;
            }
            account.owed = owed;
        }
        self.forget(now);
    }

    /// Writes off old debts, and drops accounts that say nothing. Who has paid is in the ledger.
    fn forget(&mut self, now: UnixMillis) {
        let forget_ms = self.config.forget_ms;
        self.accounts.retain(|_, account| {
            if now.saturating_since(account.owed_since) >= forget_ms {
                account.owed = NanoTon::ZERO;
            }
            account.unpaid() > NanoTon::ZERO
        });
    }
}
