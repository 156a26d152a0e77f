//! Whose turn it is.
//!
//! A client with a hundred prompts must not keep another with one from its answer. So turns go round the
//! clients, not the prompts: the client that was served longest ago is next, and within a client the prompt
//! that came first. A client that comes anew takes its place at the end of the round. Admission and the
//! reading of prompts have a round each.
//!
//! Time counts turns, nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crate::CacheScope;

/// A sequence, numbered in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SequenceId(pub(crate) u64);

/// Whom fairness is for. Everybody without a scope is one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client(Option<[u8; 32]>);

impl From<Option<CacheScope>> for Client {
    fn from(scope: Option<CacheScope>) -> Self {
        Self(scope.map(|scope| scope.0))
    }
}

#[derive(Debug, Default)]
struct Account {
    waiting: BTreeSet<SequenceId>,
    running: BTreeSet<SequenceId>,
    /// When one of its sequences was admitted last.
    admitted: u64,
    /// When a piece of one of its prompts was read last.
    read: u64,
}

/// The clients that have a sequence waiting or running.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    accounts: BTreeMap<Client, Account>,
    running: usize,
    waiting: usize,
    /// Counts turns.
    clock: u64,
}

impl Clients {
    /// Sequences that run.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Sequences that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Lets the sequence wait, at its place by arrival.
    pub(crate) fn wait(&mut self, client: Client, id: SequenceId) {
        self.leave(client, id);
        if self.account(client).waiting.insert(id) {
            self.waiting = self.waiting.saturating_add(1);
        }
    }

    /// Lets the sequence run. That was its client's turn.
    pub(crate) fn admit(&mut self, client: Client, id: SequenceId) {
        let now = self.tick();
        let account = self.account(client);
        account.admitted = now;
        let waited = account.waiting.remove(&id);
        let added = account.running.insert(id);
        debug_assert!(waited && added, "who is admitted has waited");
        self.waiting = self.waiting.saturating_sub(usize::from(waited));
        self.running = self.running.saturating_add(usize::from(added));
    }

    /// Removes the sequence, if it is here.
    pub(crate) fn leave(&mut self, client: Client, id: SequenceId) {
        let Some(account) = self.accounts.get_mut(&client) else {
            return;
        };
        let waited = account.waiting.remove(&id);
        let ran = account.running.remove(&id);
        let gone = account.waiting.is_empty() && account.running.is_empty();
        self.waiting = self.waiting.saturating_sub(usize::from(waited));
        self.running = self.running.saturating_sub(usize::from(ran));
        if gone {
            self.accounts.remove(&client);
        }
    }

    /// The waiting sequence whose turn it is to be admitted.
    pub(crate) fn next(&self) -> Option<SequenceId> {
        self.accounts
            .values()
            .filter_map(|account| Some((account.admitted, *account.waiting.first()?)))
            .min()
            .map(|(_, id)| id)
    }

    /// The running sequences, oldest first.
    pub(crate) fn by_age(&self) -> Vec<SequenceId> {
        let mut ids: Vec<SequenceId> = self
            .accounts
            .values()
            .flat_map(|account| account.running.iter().copied())
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The running sequences in the order in which their prompts are read: one of each client, then another
    /// of each, and so on.
    pub(crate) fn by_turn(&self) -> Vec<(Client, SequenceId)> {
        let mut turns: Vec<(usize, u64, SequenceId, Client)> = self
            .accounts
            .iter()
            .flat_map(|(client, account)| {
                let ids = account.running.iter().enumerate();
                ids.map(|(place, id)| (place, account.read, *id, *client))
            })
            .collect();
        turns.sort_unstable();
        turns.into_iter().map(|(.., id, at)| (at, id)).collect()
    }

    /// A piece of one of the client's prompts is read now.
    pub(crate) fn read(&mut self, client: Client) {
        let now = self.tick();
        self.account(client).read = now;
    }

    /// The sequence that loses its place when there is too little memory: the youngest of the client that
    /// runs most. So the oldest of all is never chosen but when it runs alone, and always gets to its end.
    pub(crate) fn youngest_of_busiest(&self) -> Option<SequenceId> {
        self.busiest().map(|(_, id)| id)
    }

    /// The sequence that makes room for a client of which nothing runs: the youngest of the client that runs
    /// most, if that one keeps another.
    pub(crate) fn surplus_for(&self, client: Client) -> Option<SequenceId> {
        let own = self.accounts.get(&client);
        if own.is_some_and(|account| !account.running.is_empty()) {
            return None;
        }
        let (running, id) = self.busiest()?;
        (running > 1).then_some(id)
    }

    fn busiest(&self) -> Option<(usize, SequenceId)> {
        self.accounts
            .values()
            .filter_map(|account| Some((account.running.len(), *account.running.last()?)))
            .max()
    }

    fn account(&mut self, client: Client) -> &mut Account {
        let clock = &mut self.clock;
        self.accounts.entry(client).or_insert_with(|| {
            *clock = clock.saturating_add(1);
            Account {
                admitted: *clock,
                read: *clock,
                ..Account::default()
            }
        })
    }

    fn tick(&mut self) -> u64 {
        self.clock = self.clock.saturating_add(1);
        self.clock
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
    use super::*;

    fn client(number: u8) -> Client {
        Client::from(Some(CacheScope([number; 32])))
    }

    #[test]
    fn turns_go_round_the_clients_and_by_arrival_within_one() {
        let mut clients = Clients::default();
        for (id, who) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3)] {
            clients.wait(client(who), SequenceId(id));
        }
        let owners = [1, 1, 1, 2, 3, 3];
        let mut order = vec![];
        while let Some(id) = clients.next() {
            order.push(id.0);
            clients.admit(client(owners[id.0 as usize]), id);
        }
        assert_eq!(order, [0, 3, 4, 1, 5, 2]);
        assert_eq!((clients.running(), clients.waiting()), (6, 0));
    }

    #[test]
    fn a_client_that_comes_anew_waits_for_one_round() {
        let mut clients = Clients::default();
        clients.wait(client(1), SequenceId(0));
        clients.wait(client(2), SequenceId(1));
        clients.wait(client(9), SequenceId(2));
        assert_eq!(clients.next(), Some(SequenceId(0)));
    }

    #[test]
    fn who_lost_its_place_is_the_first_of_its_client_again() {
        let mut clients = Clients::default();
        for id in 0..3 {
            clients.wait(client(1), SequenceId(id));
        }
        clients.admit(client(1), SequenceId(0));
        clients.admit(client(1), SequenceId(1));
        clients.wait(client(1), SequenceId(1));
        assert_eq!(clients.next(), Some(SequenceId(1)));
    }

    #[test]
    fn the_busiest_client_gives_way_with_its_youngest() {
        let mut clients = Clients::default();
        for (id, who) in [(0, 1), (1, 2), (2, 2), (3, 3)] {
            clients.wait(client(who), SequenceId(id));
        }
        for (id, who) in [(0, 1), (1, 2), (2, 2)] {
            clients.admit(client(who), SequenceId(id));
        }
        assert_eq!(clients.youngest_of_busiest(), Some(SequenceId(2)));
        assert_eq!(clients.surplus_for(client(3)), Some(SequenceId(2)));
        assert_eq!(clients.surplus_for(client(1)), None);
        clients.leave(client(2), SequenceId(2));
        assert_eq!(
            clients.surplus_for(client(3)),
            None,
            "nobody has more than one"
        );
    }
}
