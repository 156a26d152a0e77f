//! What people see of a client's books: receipts, evidence, channels.

use super::Cashier;
use crate::ask::{Ask, Query};
use crate::cashier::CashierError;
use actix::prelude::*;
use cocoon_protocol::{Digest, JobId};
use cocoon_settlement::contract::ChannelState;
use cocoon_settlement::ledger::{ClientChannel, ClientSummary, KeptEvidence, KeptReceipt};

/// A stored receipt.
#[derive(Debug)]
pub enum FindReceipt {
    /// Of this job.
    Job(JobId),
    /// Of this name.
    Leaf(Digest),
}
impl Query for FindReceipt {
    type Answer = Result<Option<KeptReceipt>, CashierError>;
}
impl Handler<Ask<FindReceipt>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<FindReceipt>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Some(books) = &self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let found = match query {
            FindReceipt::Job(job) => books.parts.ledger.receipt(&job),
            FindReceipt::Leaf(leaf) => books.parts.ledger.receipt_by_leaf(&leaf),
        };
        reply.send(found.map_err(CashierError::from));
    }
}

/// The evidence that stored receipts name.
#[derive(Debug)]
pub struct FindEvidence(pub Digest);
impl Query for FindEvidence {
    type Answer = Result<Option<KeptEvidence>, CashierError>;
}
impl Handler<Ask<FindEvidence>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<FindEvidence>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        reply.send(match &self.paying {
            Some(books) => {
                let found = books.parts.ledger.evidence(&query.0);
                found.map_err(CashierError::from)
            }
            None => Err(CashierError::WrongRole),
        });
    }
}

/// A client's channel, for people.
#[derive(Clone, Debug)]
pub struct ChannelFunds {
    /// As the ledger has it.
    pub channel: ClientChannel,
    /// As the chain showed it last, if it has since the start.
    pub seen: Option<ChannelState>,
    /// Whether a job is on it.
    pub leased: bool,
}

/// Every channel, closed ones included, for people.
#[derive(Debug)]
pub struct ClientFunds;
impl Query for ClientFunds {
    type Answer = Result<Vec<ChannelFunds>, CashierError>;
}
impl Handler<Ask<ClientFunds>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<ClientFunds>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        let Some(books) = &self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let mut channels = Vec::new();
        let gathered = books.parts.ledger.for_each_channel(|channel| {
            channels.push(ChannelFunds {
                seen: books.seen.get(&channel.address).copied(),
                leased: books.leased.contains_key(&channel.address),
                channel,
            });
            Ok(())
        });
        reply.send(gathered.map(|()| channels).map_err(CashierError::from));
    }
}

/// The channels, for people.
#[derive(Debug)]
pub struct ClientBooks;
impl Query for ClientBooks {
    type Answer = Result<ClientSummary, CashierError>;
}
impl Handler<Ask<ClientBooks>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<ClientBooks>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send(match &self.paying {
            Some(books) => books.parts.ledger.summary().map_err(CashierError::from),
            None => Err(CashierError::WrongRole),
        });
    }
}
