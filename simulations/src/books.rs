//! The auditor: it sees both ends of every channel at once, which no node does, and checks that the
//! money adds up after every step.

use std::collections::BTreeMap;

use cocoon_protocol::units::NanoTon;

use crate::violation::Violation;

/// What both ends of one channel wrote down, and what the network did with it.
#[derive(Debug, Clone, Copy, Default)]
struct Channel {
    /// Newest total the client signed. Survives its process.
    signed: NanoTon,
    /// Newest total the worker stored. Survives its process.
    held: NanoTon,
    /// Newest total in a voucher that never arrived.
    lost: NanoTon,
    /// Cost of everything that reached the client.
    received: NanoTon,
    /// Cost of everything that left the worker.
    sent: NanoTon,
}

/// All channels, by (client, worker).
#[derive(Debug, Default)]
pub(crate) struct Books {
    channels: BTreeMap<(usize, usize), Channel>,
    vouchers: u64,
    pub(crate) violations: Vec<Violation>,
}

/// The books of all channels, summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) channels: u64,
    pub(crate) vouchers: u64,
    pub(crate) signed: NanoTon,
    pub(crate) held: NanoTon,
    pub(crate) undelivered: NanoTon,
    pub(crate) received: NanoTon,
    pub(crate) sent: NanoTon,
}

impl Books {
    /// The newest total that `client` signed for `worker`, which its next job starts from.
    pub(crate) fn signed(&self, client: usize, worker: usize) -> NanoTon {
        self.channel(client, worker).signed
    }

    /// The newest total that `worker` holds of `client`, which its next job starts from.
    pub(crate) fn held(&self, client: usize, worker: usize) -> NanoTon {
        self.channel(client, worker).held
    }

    /// Tokens of this cost left the worker.
    pub(crate) fn tokens_sent(&mut self, client: usize, worker: usize, cost: NanoTon) {
        let channel = self.channels.entry((client, worker)).or_default();
        channel.sent = channel.sent.saturating_add(cost);
    }

    /// Tokens of this cost reached the client.
    pub(crate) fn tokens_received(&mut self, client: usize, worker: usize, cost: NanoTon) {
        let channel = self.channels.entry((client, worker)).or_default();
        channel.received = channel.received.saturating_add(cost);
    }

    /// The client signed a voucher for this total.
    pub(crate) fn voucher_signed(&mut self, client: usize, worker: usize, total: NanoTon) {
        self.vouchers = self.vouchers.saturating_add(1);
        let channel = self.channels.entry((client, worker)).or_default();
        channel.signed = channel.signed.max(total);
        if channel.signed > channel.received {
            self.violations.push(Violation::PaidForNothing {
                client,
                worker,
                signed: channel.signed,
                received: channel.received,
            });
        }
    }

    /// The worker stored a voucher for this total.
    pub(crate) fn voucher_held(&mut self, client: usize, worker: usize, total: NanoTon) {
        let channel = self.channels.entry((client, worker)).or_default();
        channel.held = channel.held.max(total);
        if channel.held > channel.signed {
            self.violations.push(Violation::HeldUnsigned {
                client,
                worker,
                signed: channel.signed,
                held: channel.held,
            });
        }
    }

    /// A voucher for this total will never arrive.
    pub(crate) fn voucher_lost(&mut self, client: usize, worker: usize, total: NanoTon) {
        let channel = self.channels.entry((client, worker)).or_default();
        channel.lost = channel.lost.max(total);
    }

    /// Nothing is on its way any more: every channel must add up to the last nanoTON.
    pub(crate) fn close(&mut self) -> Totals {
        let mut totals = Totals {
            vouchers: self.vouchers,
            ..Totals::default()
        };
        for ((client, worker), channel) in &self.channels {
            // The newest voucher arrived or was lost; there is no third way.
            if channel.signed != channel.held.max(channel.lost) {
                self.violations.push(Violation::MoneyDoesNotAddUp {
                    client: *client,
                    worker: *worker,
                    signed: channel.signed,
                    held: channel.held,
                    lost: channel.lost,
                });
            }
            let undelivered = channel.signed.saturating_sub(channel.held);
            totals.channels = totals.channels.saturating_add(1);
            totals.signed = totals.signed.saturating_add(channel.signed);
            totals.held = totals.held.saturating_add(channel.held);
            totals.undelivered = totals.undelivered.saturating_add(undelivered);
            totals.received = totals.received.saturating_add(channel.received);
            totals.sent = totals.sent.saturating_add(channel.sent);
        }
        totals
    }

    fn channel(&self, client: usize, worker: usize) -> Channel {
        self.channels
            .get(&(client, worker))
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn nano(nano: u64) -> NanoTon {
        NanoTon::from_nano(nano)
    }

    fn books_after_one_voucher() -> Books {
        let mut books = Books::default();
        books.tokens_sent(0, 1, nano(10));
        books.tokens_received(0, 1, nano(10));
        books.voucher_signed(0, 1, nano(10));
        books
    }

    #[test]
    fn a_voucher_that_arrives_balances() {
        let mut books = books_after_one_voucher();
        books.voucher_held(0, 1, nano(10));
        let totals = books.close();
        assert_eq!(
            (totals.signed, totals.held, totals.undelivered),
            (nano(10), nano(10), nano(0))
        );
        assert!(books.violations.is_empty());
    }

    #[test]
    fn a_lost_voucher_is_accounted_for_until_a_later_one_replaces_it() {
        let mut books = books_after_one_voucher();
        books.voucher_lost(0, 1, nano(10));
        assert_eq!(books.close().undelivered, nano(10));
        books.tokens_received(0, 1, nano(5));
        books.voucher_signed(0, 1, nano(15));
        books.voucher_held(0, 1, nano(15));
        assert_eq!(books.close().undelivered, nano(0));
        assert!(books.violations.is_empty());
    }

    #[test]
    fn each_way_of_not_adding_up_is_seen() {
        let mut books = books_after_one_voucher();
        books.close();
        assert!(matches!(
            books.violations.as_slice(),
            [Violation::MoneyDoesNotAddUp { .. }]
        ));

        let mut books = books_after_one_voucher();
        books.voucher_held(0, 1, nano(11));
        assert!(matches!(
            books.violations.as_slice(),
            [Violation::HeldUnsigned { .. }]
        ));

        let mut books = books_after_one_voucher();
        books.voucher_signed(0, 1, nano(11));
        assert!(matches!(
            books.violations.as_slice(),
            [Violation::PaidForNothing { .. }]
        ));
    }
}
