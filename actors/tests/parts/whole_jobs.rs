//! Whole jobs between whole nodes in one process: from a chat request to a receipt on both disks.

use crate::support::chain::{TestChain, wallet};
use crate::support::model::{Gate, MODEL, Scripted};
use crate::support::nodes::{
    CLIENT, Client, Worker, WorkerSetup, chat, ended, model_terms, price, read,
};
use crate::support::port::Hub;
use crate::support::{nano, system, until};
use cocoon_actors::ask::ask;
use cocoon_actors::gateway::Close;
use cocoon_actors::gateway_port::{
    Completion, Finish, Gateway as _, GatewayError, JobEvent, JobSubmission, Usage,
};
use cocoon_actors::metrics::{Metrics, Side};
use cocoon_protocol::EvidenceBundle;
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::{ModelTerms, NanoTon, Price, TonAddress};
use cocoon_settlement::ledger::ClientChannelState;
use std::sync::Arc;

const ONE: u8 = 2;
const TWO: u8 = 3;
/// A frame of the worker holds so many tokens.
const FRAME: usize = 8;

struct Mesh {
    hub: Hub,
    chain: TestChain,
    client: Client,
}

impl Mesh {
    async fn new() -> Self {
        Self::funded(&[CLIENT]).await
    }

    async fn funded(seeds: &[u8]) -> Self {
        let (hub, chain) = (Hub::default(), TestChain::new(seeds).await);
        let client = Client::start(&hub, &chain);
        Self { hub, chain, client }
    }

    fn worker(&self, setup: WorkerSetup) -> Worker {
        Worker::start(&self.hub, &self.chain, setup)
    }

    async fn with(model: Scripted) -> (Self, Worker) {
        let mesh = Self::new().await;
        let worker = mesh.worker(WorkerSetup::honest(ONE, model));
        mesh.client.verified(1).await;
        (mesh, worker)
    }

    async fn gated(words: usize, allowed: usize) -> (Self, Worker, OpenAtTheEnd) {
        let (model, gate) = Scripted::gated(words, allowed);
        let (mesh, worker) = Self::with(model).await;
        (mesh, worker, OpenAtTheEnd(gate))
    }

    fn signed(&self, channel: TonAddress) -> NanoTon {
        let channel = self.client.ledger.channel(&channel).unwrap();
        channel.unwrap().signed_total()
    }

    fn only_channel(&self) -> TonAddress {
        let mut channels = Vec::new();
        self.client
            .ledger
            .for_each_channel(|channel| {
                channels.push(channel);
                Ok(())
            })
            .unwrap();
        assert_eq!(channels.len(), 1);
        assert_eq!(channels[0].state, ClientChannelState::Open);
        channels[0].address
    }
}

/// A step that waits at the gate would keep the runtime from ending.
struct OpenAtTheEnd(Arc<Gate>);
impl Drop for OpenAtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

fn held(worker: &Worker, channel: TonAddress) -> NanoTon {
    let channel = worker.ledger.channel(&channel).unwrap();
    channel.unwrap().held_total()
}

fn nothing_runs(metrics: &Metrics, side: Side) -> bool {
    let labels = cocoon_actors::metrics::SideLabels { role: side };
    metrics.running_jobs.get_or_create(&labels).get() == 0
}

/// Every job is over at both ends: on disk, in the metrics, in the books.
async fn all_over(mesh: &Mesh, workers: &[&Worker]) {
    until("the end of every job", || {
        nothing_runs(&mesh.client.metrics, Side::Client)
            && workers
                .iter()
                .all(|worker| nothing_runs(&worker.metrics, Side::Worker))
    })
    .await;
    for worker in workers {
        assert!(worker.ledger.open_jobs().unwrap().is_empty());
    }
    let books = ask(
        &mesh.client.cashier,
        cocoon_actors::cashier::paying::ClientBooks,
    );
    assert_eq!(books.await.unwrap().unwrap().open_jobs, 0);
}

fn cost(prompt: u32, output: u32) -> NanoTon {
    price().cost(prompt, output).unwrap()
}

fn completed(event: JobEvent) -> Completion {
    match event {
        JobEvent::Finished(completion) => completion,
        other => panic!("not completed: {other:?}"),
    }
}

#[test]
fn a_prompt_is_answered_paid_and_receipted_and_both_ends_agree_to_the_nanoton() {
    system(async {
        let (mesh, worker) = Mesh::with(Scripted::of(20)).await;
        let mut handle = mesh.client.submit("three words long").await;
        let (text, end) = read(&mut handle).await;
        assert_eq!(text, Scripted::answer(20));
        let completion = completed(end);
        assert_eq!(completion.finishes, [Finish::Stop]);
        assert_eq!(completion.worker, worker.peer);
        assert_eq!(
            completion.usage,
            Usage {
                prompt_tokens: 3,
                completion_tokens: 20
            }
        );
        assert_eq!(completion.cost, cost(3, 20));
        assert_eq!(handle.next().await, None);

        ended(&mesh.client.metrics, &[("completed", 1)]).await;
        ended(&worker.metrics, &[("completed", 1)]).await;
        all_over(&mesh, &[&worker]).await;

        let channel = mesh.only_channel();
        assert_eq!(mesh.signed(channel), completion.cost);
        assert_eq!(held(&worker, channel), completion.cost);
        let kept = mesh.client.ledger.receipt(&handle.job()).unwrap().unwrap();
        let signed = SignedReceipt::decode(&kept.receipt).unwrap();
        assert_eq!(signed.leaf().to_string(), completion.receipt);
        let receipt = signed.verify().unwrap();
        assert_eq!((receipt.prompt_tokens, receipt.output_tokens), (3, 20));
        // What shows whose key signed it is there whatever the attestor remembers.
        let evidence = mesh.client.ledger.evidence(&receipt.evidence);
        let bundle = EvidenceBundle::decode(&evidence.unwrap().unwrap().bundle).unwrap();
        assert_eq!(bundle.claims.digest(), receipt.evidence);
        assert_eq!(bundle.claims.receipt_key, *receipt.receipt_key.as_bytes());
        assert_eq!(
            receipt.response_commitment,
            kept.salt.response(&[Scripted::answer(20)])
        );
        assert_eq!(receipt.amount, completion.cost);
        assert_eq!(receipt.cumulative, completion.cost);
        let entries = worker.ledger.entries(0, 10).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].credited, completion.cost);
    });
}

#[test]
fn jobs_one_after_the_other_share_a_channel_and_jobs_at_once_have_one_each() {
    system(async {
        let mesh = Mesh::new().await;
        let setup = WorkerSetup {
            slots: 2,
            ..WorkerSetup::honest(ONE, Scripted::of(10))
        };
        let worker = mesh.worker(setup);
        mesh.client.verified(1).await;
        for _ in 0..2 {
            let mut handle = mesh.client.submit("hello").await;
            completed(read(&mut handle).await.1);
        }
        let channel = mesh.only_channel();
        assert_eq!(mesh.signed(channel), nano(2 * cost(1, 10).nano()));

        let (mut one, mut two) = (
            mesh.client.submit("hello").await,
            mesh.client.submit("hello").await,
        );
        let (one, two) = tokio::join!(read(&mut one), read(&mut two));
        completed(one.1);
        completed(two.1);
        ended(&mesh.client.metrics, &[("completed", 4)]).await;
        ended(&worker.metrics, &[("completed", 4)]).await;
        all_over(&mesh, &[&worker]).await;
        assert!(mesh.chain.balance(wallet(CLIENT).address()).await < nano(98_000_000_000_000));
    });
}

#[test]
fn a_limit_of_tokens_ends_the_answer_and_is_said() {
    system(async {
        let (mesh, worker) = Mesh::with(Scripted::of(50)).await;
        let mut handle = mesh.client.port.submit(chat("hello", 5)).await.unwrap();
        let (text, end) = read(&mut handle).await;
        assert_eq!(text, Scripted::answer(5));
        let completion = completed(end);
        assert_eq!(completion.finishes, [Finish::Length]);
        assert_eq!(completion.cost, cost(1, 5));
        all_over(&mesh, &[&worker]).await;
    });
}

#[test]
fn an_asker_that_leaves_cancels_the_job_and_pays_for_what_arrived() {
    system(async {
        let (mesh, worker, gate) = Mesh::gated(100, FRAME).await;
        let mut handle = mesh.client.submit("hello").await;
        assert!(matches!(
            handle.next().await,
            Some(JobEvent::Accepted { .. })
        ));
        assert!(matches!(handle.next().await, Some(JobEvent::Delta(_))));
        drop(handle);
        ended(&mesh.client.metrics, &[("cancelled", 1)]).await;
        // The step that was under way.
        gate.0.open();
        ended(&worker.metrics, &[("cancelled", 1)]).await;
        all_over(&mesh, &[&worker]).await;
        let channel = mesh.only_channel();
        let paid = cost(1, u32::try_from(FRAME).unwrap());
        assert_eq!((mesh.signed(channel), held(&worker, channel)), (paid, paid));

        let mut handle = mesh.client.submit("again").await;
        completed(read(&mut handle).await.1);
        assert_eq!(mesh.only_channel(), channel);
    });
}

#[test]
fn an_asker_that_left_while_the_job_was_placed_costs_nothing() {
    system(async {
        let (mesh, worker) = Mesh::with(Scripted::of(10)).await;
        drop(mesh.client.submit("hello").await);
        ended(&mesh.client.metrics, &[("cancelled", 1)]).await;
        all_over(&mesh, &[&worker]).await;
        assert!(worker.ledger.entries(0, 10).unwrap().is_empty());
        // The slot that was promised to it is free.
        let mut handle = mesh.client.submit("again").await;
        completed(read(&mut handle).await.1);
    });
}

#[test]
fn a_worker_that_is_lost_after_text_ends_the_job_and_nothing_stays_in_use() {
    system(async {
        let (mesh, worker, gate) = Mesh::gated(100, FRAME).await;
        let mut handle = mesh.client.submit("hello").await;
        assert!(matches!(
            handle.next().await,
            Some(JobEvent::Accepted { .. })
        ));
        assert!(matches!(handle.next().await, Some(JobEvent::Delta(_))));
        let channel = mesh.only_channel();
        until("the voucher", || held(&worker, channel) > NanoTon::ZERO).await;
        mesh.hub.cut_sessions();
        assert_eq!(
            handle.next().await,
            Some(JobEvent::Failed(GatewayError::WorkerLost {
                peer: worker.peer,
                tokens_received: u32::try_from(FRAME).unwrap(),
            }))
        );
        gate.0.open();
        ended(&mesh.client.metrics, &[("worker_lost", 1)]).await;
        ended(&worker.metrics, &[("client_lost", 1)]).await;
        all_over(&mesh, &[&worker]).await;
        let paid = cost(1, u32::try_from(FRAME).unwrap());
        assert_eq!((mesh.signed(channel), held(&worker, channel)), (paid, paid));
        // What was paid is in the worker's log, under a receipt that the client never got.
        assert_eq!(worker.ledger.entries(0, 10).unwrap()[0].credited, paid);
        assert!(mesh.client.ledger.receipt(&handle.job()).unwrap().is_none());

        // After a pause the worker is asked again.
        let mut handle = mesh.client.submit("again").await;
        completed(read(&mut handle).await.1);
        assert_eq!(mesh.only_channel(), channel);
    });
}

#[test]
fn a_job_whose_worker_is_lost_before_any_text_is_done_by_another() {
    system(async {
        let mesh = Mesh::new().await;
        // Cheap, so that it is chosen, and deaf.
        let deaf = WorkerSetup {
            served: false,
            terms: ModelTerms {
                price: Price {
                    input: nano(1),
                    output: nano(1),
                },
                ..model_terms()
            },
            ..WorkerSetup::honest(ONE, Scripted::of(1))
        };
        let mut deaf = mesh.worker(deaf);
        let worker = mesh.worker(WorkerSetup::honest(TWO, Scripted::of(10)));
        mesh.client.verified(2).await;
        let mut inbound = deaf.inbound.take().unwrap();
        tokio::spawn(async move { while inbound.recv().await.is_some() {} });

        let mut handle = mesh.client.submit("hello").await;
        let (text, end) = read(&mut handle).await;
        assert_eq!(text, Scripted::answer(10));
        assert_eq!(completed(end).worker, worker.peer);
        // One job to the asker, two in the books: each attempt has its own end.
        ended(&mesh.client.metrics, &[("completed", 1)]).await;
        ended(&worker.metrics, &[("completed", 1)]).await;
        all_over(&mesh, &[&worker]).await;
        let lost = mesh.client.ledger.job(&handle.job()).unwrap().unwrap();
        assert_eq!(lost.end.unwrap().outcome, "worker_lost");
    });
}

#[test]
fn a_client_without_money_says_so_and_keeps_nobodys_slot() {
    system(async {
        let mesh = Mesh::funded(&[ONE]).await;
        let worker = mesh.worker(WorkerSetup::honest(ONE, Scripted::of(1)));
        mesh.client.verified(1).await;
        for _ in 0..3 {
            // If an offer were kept, the next job would find no slot for ten seconds.
            let mut handle = mesh.client.submit("hello").await;
            let (_, end) = read(&mut handle).await;
            assert!(
                matches!(&end, JobEvent::Failed(GatewayError::PaymentFailed { .. })),
                "{end:?}"
            );
        }
        ended(&mesh.client.metrics, &[("rejected", 3)]).await;
        all_over(&mesh, &[&worker]).await;
    });
}

#[test]
fn requests_that_cannot_work_are_refused_with_what_would() {
    system(async {
        let (mesh, worker) = Mesh::with(Scripted::of(1)).await;
        let unknown = JobSubmission {
            model: "another".to_owned(),
            ..chat("hello", 5)
        };
        let mut handle = mesh.client.port.submit(unknown).await.unwrap();
        assert_eq!(
            handle.next().await,
            Some(JobEvent::Failed(GatewayError::UnknownModel {
                model: "another".to_owned(),
                available: vec![MODEL.to_owned()],
            }))
        );
        let empty = JobSubmission {
            messages: Vec::new(),
            ..chat("hello", 5)
        };
        let refused = mesh.client.port.submit(empty).await;
        assert!(matches!(refused, Err(GatewayError::BadRequest { .. })));

        let long = "word ".repeat(2_000);
        let mut handle = mesh.client.submit(&long).await;
        let (_, end) = read(&mut handle).await;
        assert!(
            matches!(&end, JobEvent::Failed(GatewayError::ContextTooLong { .. })),
            "{end:?}"
        );
        all_over(&mesh, &[&worker]).await;
    });
}

#[test]
fn a_gateway_that_closes_takes_no_job_and_waits_for_those_that_run() {
    system(async {
        let (mesh, worker, gate) = Mesh::gated(100, FRAME).await;
        let mut running = mesh.client.submit("hello").await;
        assert!(matches!(
            running.next().await,
            Some(JobEvent::Accepted { .. })
        ));
        let mut closing = Box::pin(ask(&mesh.client.gateway, Close));
        assert!(futures::poll!(closing.as_mut()).is_pending());
        let refused = mesh.client.try_submit("too late").await;
        assert_eq!(refused.err(), Some(GatewayError::ShuttingDown));
        for _ in 0..100 {
            assert!(futures::poll!(closing.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        gate.0.open();
        let (text, end) = read(&mut running).await;
        assert_eq!(text, Scripted::answer(100));
        completed(end);
        closing.await.unwrap();
        all_over(&mesh, &[&worker]).await;
    });
}
