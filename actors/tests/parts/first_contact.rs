//! Jobs that begin before their channel is on chain.

use crate::support::books::{channel_terms, earning, open_channel, voucher};
use crate::support::chain::{TestChain, wallet};
use crate::support::model::Scripted;
use crate::support::nodes::{CLIENT, Client, Worker, WorkerSetup, ended, price, read};
use crate::support::port::Hub;
use crate::support::{job, milliton, nano, peer, system, until, until_async};
use cocoon_actors::ask::{Address, ask, tell};
use cocoon_actors::cashier::earning::{
    Accept, CloseWorkerJob, CreditGiven, Earning, OpenWorkerJob, Reconciled,
};
use cocoon_actors::cashier::{Cashier, CashierError};
use cocoon_actors::gateway_port::{Completion, JobEvent};
use cocoon_actors::metrics::FirstContactLabels;
use cocoon_actors::metrics::Metrics;
use cocoon_actors::supervision::supervise;
use cocoon_protocol::job::{OpeningTerms, Outcome};
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::contract::{ChannelTerms, open_message, top_up_message};
use cocoon_settlement::credit::{CreditError, FirstContactConfig, FirstContactError};
use cocoon_settlement::ledger::{ClientChannel, ClientChannelState};
use tempfile::TempDir;

const WORKER: u8 = 2;
const OTHER: u8 = 3;

fn told(terms: &ChannelTerms) -> OpeningTerms {
    OpeningTerms {
        client: terms.client,
        client_key: terms.client_key,
        nonce: terms.nonce,
        close_delay_s: terms.close_delay_s,
    }
}

fn gauge(metrics: &Metrics, state: &'static str) -> i64 {
    let labels = FirstContactLabels { state };
    metrics.first_contact_nanoton.get_or_create(&labels).get()
}

/// A worker's cashier that serves strangers before their channels are there.
struct Till {
    chain: TestChain,
    parts: Vec<Earning>,
    cashier: Address<Cashier>,
    directory: TempDir,
}

impl Till {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let chain = TestChain::new(&[CLIENT, WORKER, OTHER]).await;
        let mut till = Self {
            parts: Vec::new(),
            cashier: supervise(Cashier::earning(earning(
                &directory.path().join("unused"),
                &chain,
                WORKER,
            ))),
            chain,
            directory,
        };
        let mut parts = earning(&till.directory.path().join("books"), &till.chain, WORKER);
        parts.first_contact = FirstContactConfig {
            per_client: milliton(2),
            total: milliton(3),
            forget_ms: 3_600_000,
        };
        till.parts.push(parts);
        till.restart();
        till
    }

    /// What a crash leaves: the same disk, a new cashier.
    fn restart(&mut self) {
        let parts = self.parts.last().unwrap();
        let again = Earning {
            ledger: parts.ledger.clone(),
            chain: parts.chain.clone(),
            metrics: parts.metrics.clone(),
            ..*parts
        };
        self.cashier = supervise(Cashier::earning(again));
        tell(&self.cashier, Reconciled(true)).unwrap();
    }

    async fn open(
        &self,
        number: u8,
        client: u8,
        terms: &ChannelTerms,
        needed: NanoTon,
    ) -> Result<NanoTon, CashierError> {
        self.open_at(
            number,
            client,
            terms.address().unwrap(),
            Some(told(terms)),
            needed,
        )
        .await
    }

    async fn open_at(
        &self,
        number: u8,
        client: u8,
        channel: TonAddress,
        terms: Option<OpeningTerms>,
        needed: NanoTon,
    ) -> Result<NanoTon, CashierError> {
        let open = OpenWorkerJob {
            job: job(number),
            client: peer(client),
            channel,
            needed,
            credit_window: nano(1_000),
            terms,
        };
        let opened = ask(&self.cashier, open).await.unwrap();
        opened.map(|channel| channel.held)
    }

    async fn pay(
        &self,
        terms: &ChannelTerms,
        total: NanoTon,
        by: u8,
    ) -> Result<NanoTon, CashierError> {
        let channel = terms.address().unwrap();
        let accept = Accept {
            channel,
            voucher: voucher(channel, total, by),
        };
        ask(&self.cashier, accept).await.unwrap()
    }

    async fn close(&self, number: u8, terms: &ChannelTerms, cost: NanoTon) {
        let close = CloseWorkerJob {
            job: job(number),
            channel: terms.address().unwrap(),
            outcome: Outcome::ClientLost,
            receipt: None,
            cost,
        };
        ask(&self.cashier, close).await.unwrap().unwrap();
    }

    async fn outstanding(&self) -> NanoTon {
        let credit = ask(&self.cashier, CreditGiven).await.unwrap().unwrap();
        credit.first_contact
    }
}

#[test]
fn a_channel_that_is_not_there_is_served_on_within_the_limits_and_only_if_its_terms_lead_to_it() {
    system(async {
        let till = Till::new().await;
        let terms = channel_terms(CLIENT, WORKER, 0);
        let channel = terms.address().unwrap();
        let untold = till.open_at(1, CLIENT, channel, None, milliton(1)).await;
        assert!(matches!(untold, Err(CashierError::NotOpen(_))));
        // Somebody else's channel, whatever is said about it.
        let theirs = channel_terms(CLIENT, OTHER, 0);
        for (address, said) in [
            (theirs.address().unwrap(), told(&theirs)),
            (
                channel,
                OpeningTerms {
                    nonce: 1,
                    ..told(&terms)
                },
            ),
            (
                channel,
                OpeningTerms {
                    client: wallet(OTHER).address(),
                    ..told(&terms)
                },
            ),
        ] {
            let refused = till
                .open_at(1, CLIENT, address, Some(said), milliton(1))
                .await;
            assert!(
                matches!(refused, Err(CashierError::NotOurs(_))),
                "{refused:?}"
            );
        }
        let hasty = ChannelTerms {
            close_delay_s: 60,
            ..terms
        };
        let refused = till.open(1, CLIENT, &hasty, milliton(1)).await;
        assert!(matches!(refused, Err(CashierError::ClosesTooSoon { .. })));

        assert_eq!(
            till.open(1, CLIENT, &terms, milliton(1)).await.unwrap(),
            nano(0)
        );
        let busy = till.open(2, CLIENT, &terms, milliton(1)).await;
        assert!(matches!(busy, Err(CashierError::InUse(_))));
        // No voucher is taken for more than was admitted, nor by another key.
        assert!(
            till.pay(&terms, milliton(1).saturating_add(nano(1)), CLIENT)
                .await
                .is_err()
        );
        assert!(till.pay(&terms, nano(10), OTHER).await.is_err());
        assert_eq!(
            till.pay(&terms, milliton(1), CLIENT).await.unwrap(),
            milliton(1)
        );
        till.close(1, &terms, milliton(1)).await;
        assert_eq!(
            till.outstanding().await,
            milliton(1),
            "signed for, and worth nothing yet"
        );

        let too_much = till
            .open(2, CLIENT, &terms, milliton(1).saturating_add(nano(1)))
            .await;
        assert!(matches!(
            too_much,
            Err(CashierError::FirstContact(FirstContactError::Client { .. }))
        ));
        // Another name is another client, and all names share one limit.
        let second = channel_terms(OTHER, WORKER, 0);
        till.open(3, OTHER, &second, milliton(2)).await.unwrap();
        let third = channel_terms(OTHER, WORKER, 1);
        let all = till.open(4, 5, &third, nano(1)).await;
        assert!(matches!(
            all,
            Err(CashierError::FirstContact(FirstContactError::Total { .. }))
        ));
    });
}

#[test]
fn what_was_served_counts_over_a_restart_until_the_channel_is_there_and_pays() {
    system(async {
        let mut till = Till::new().await;
        let terms = channel_terms(CLIENT, WORKER, 0);
        till.open(1, CLIENT, &terms, milliton(2)).await.unwrap();
        till.pay(&terms, milliton(2), CLIENT).await.unwrap();
        till.parts
            .last()
            .unwrap()
            .ledger
            .recover(cocoon_actors::clock::now())
            .unwrap();
        till.restart();
        assert_eq!(till.outstanding().await, milliton(2));
        let refused = till.open(2, CLIENT, &terms, nano(1)).await;
        assert!(matches!(
            refused,
            Err(CashierError::FirstContact(FirstContactError::Client { .. }))
        ));

        assert_eq!(
            open_channel(&till.chain, &terms, CLIENT).await,
            terms.address().unwrap()
        );
        // Without another job on it.
        until_async("the channel to be found", async || {
            till.outstanding().await == nano(0)
        })
        .await;
        let ledger = &till.parts.last().unwrap().ledger;
        let channel = ledger.channel(&terms.address().unwrap()).unwrap().unwrap();
        assert_eq!(
            (channel.expected, channel.held_total()),
            (None, milliton(2))
        );
        // From now on it is one like any other: served on up to its deposit.
        assert_eq!(
            till.open(2, CLIENT, &terms, milliton(500)).await.unwrap(),
            milliton(2)
        );
        till.restart();
        assert_eq!(till.outstanding().await, nano(0));
    });
}

#[test]
fn a_deposit_that_does_not_cover_what_is_signed_confirms_nothing() {
    system(async {
        let till = Till::new().await;
        let terms = channel_terms(CLIENT, WORKER, 0);
        till.open(1, CLIENT, &terms, milliton(2)).await.unwrap();
        till.pay(&terms, milliton(2), CLIENT).await.unwrap();
        till.close(1, &terms, milliton(2)).await;
        // The reserve, and less than two thousandths above it.
        let open = open_message(&terms, milliton(4)).unwrap();
        let client = wallet(CLIENT);
        client.send(&till.chain.local, &[open]).await.unwrap();
        let refused = till.open(2, CLIENT, &terms, nano(1)).await;
        assert!(matches!(refused, Err(CashierError::Underfunded { .. })));
        assert_eq!(till.outstanding().await, milliton(2));
        let more = top_up_message(terms.address().unwrap(), milliton(100)).unwrap();
        client.send(&till.chain.local, &[more]).await.unwrap();
        till.open(2, CLIENT, &terms, milliton(10)).await.unwrap();
        assert_eq!(till.outstanding().await, nano(0));
    });
}

#[test]
fn vouchers_on_channels_that_are_not_there_make_nobody_a_client_that_has_paid() {
    system(async {
        let till = Till::new().await;
        // On chain, and not paid on: what strangers may have together (6) is used up.
        let open = async |number: u8, nonce: u32| {
            let terms = channel_terms(OTHER, WORKER, nonce);
            open_channel(&till.chain, &terms, OTHER).await;
            let query = OpenWorkerJob {
                job: job(number),
                client: peer(10 + number),
                channel: terms.address().unwrap(),
                needed: milliton(10),
                credit_window: milliton(2),
                terms: None,
            };
            ask(&till.cashier, query).await.unwrap().map(|_| ())
        };
        for number in 0..3 {
            open(number, number.into()).await.unwrap();
        }
        // A newcomer signs for a channel that is not there, and is a stranger all the same.
        let terms = channel_terms(CLIENT, WORKER, 0);
        let refused = till.open(9, CLIENT, &terms, milliton(1)).await;
        assert!(
            matches!(
                refused,
                Err(CashierError::Credit(CreditError::Strangers { .. }))
            ),
            "{refused:?}"
        );
        assert_eq!(till.outstanding().await, nano(0), "nothing stays reserved");
    });
}

struct Mesh {
    chain: TestChain,
    client: Client,
    worker: Worker,
}

impl Mesh {
    async fn new(first_contact: NanoTon) -> Self {
        let (hub, chain) = (Hub::default(), TestChain::new(&[CLIENT]).await);
        let client = Client::start(&hub, &chain);
        let setup = WorkerSetup {
            first_contact,
            ..WorkerSetup::honest(WORKER, Scripted::of(20))
        };
        let worker = Worker::start(&hub, &chain, setup);
        client.verified(1).await;
        Self {
            chain,
            client,
            worker,
        }
    }

    fn channel(&self) -> ClientChannel {
        let mut channels = Vec::new();
        let ledger = &self.client.ledger;
        ledger
            .for_each_channel(|channel| {
                channels.push(channel);
                Ok(())
            })
            .unwrap();
        assert_eq!(channels.len(), 1, "no deposit twice");
        channels.remove(0)
    }

    fn is_open(&self) -> bool {
        self.channel().state == ClientChannelState::Open
    }

    fn held(&self) -> NanoTon {
        let channel = self.worker.ledger.channel(&self.channel().address);
        channel.unwrap().unwrap().held_total()
    }
}

fn completed(event: JobEvent) -> Completion {
    match event {
        JobEvent::Finished(completion) => completion,
        other => panic!("not completed: {other:?}"),
    }
}

#[test]
fn a_newcomers_jobs_are_done_before_its_channel_is_there_and_paid_when_it_is() {
    system(async {
        let mesh = Mesh::new(milliton(3)).await;
        mesh.chain.stop(true);
        let mut paid = NanoTon::ZERO;
        for jobs in 1..=2 {
            // The second one on the same channel.
            let (text, end) = read(&mut mesh.client.submit("three words long").await).await;
            assert_eq!(text, Scripted::answer(20));
            paid = paid.saturating_add(completed(end).cost);
            ended(&mesh.worker.metrics, &[("completed", jobs)]).await;
        }
        assert!(!mesh.is_open());
        assert_eq!(paid, price().cost(6, 40).unwrap());
        assert_eq!((mesh.held(), mesh.channel().signed_total()), (paid, paid));
        let all = i64::try_from(paid.nano()).unwrap();
        let metrics = &mesh.worker.metrics;
        assert_eq!(
            (gauge(metrics, "outstanding"), gauge(metrics, "given")),
            (all, all)
        );

        mesh.chain.stop(false);
        until("the channel", || mesh.is_open()).await;
        until("the worker to see it", || {
            gauge(metrics, "outstanding") == 0
        })
        .await;
        assert_eq!((gauge(metrics, "given"), gauge(metrics, "lost")), (all, 0));
        let (_, end) = read(&mut mesh.client.submit("three words long").await).await;
        assert_eq!(mesh.held(), paid.saturating_add(completed(end).cost));
        assert_eq!(gauge(metrics, "given"), all, "not a first contact any more");
    });
}

#[test]
fn where_no_credit_is_given_the_job_waits_for_its_channel_and_nobody_is_blamed() {
    system(async {
        let mesh = Mesh::new(nano(0)).await;
        mesh.chain.stop(true);
        let mut asked = mesh.client.submit("three words long").await;
        let refusals = &mesh.worker.metrics.first_contact_refusals;
        until("the refusal", || refusals.get() == 1).await;
        assert!(mesh.client.metrics.ended_jobs().is_empty(), "it waits");
        mesh.chain.stop(false);
        let (text, end) = read(&mut asked).await;
        assert_eq!(text, Scripted::answer(20));
        assert_eq!(completed(end).worker, mesh.worker.peer);
        ended(&mesh.client.metrics, &[("completed", 1)]).await;
        ended(&mesh.worker.metrics, &[("completed", 1)]).await;
        assert!(mesh.is_open());
        assert_eq!(gauge(&mesh.worker.metrics, "given"), 0);
    });
}
