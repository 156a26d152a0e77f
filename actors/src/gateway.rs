//! The gateway actor: takes jobs from HTTP and runs each in a task of its own.

use crate::ask::{Address, Ask, AskError, Named, Query, ask};
use crate::clock;
use crate::directory::ListWorkers;
use crate::gateway_port::{self, GatewayError, JobHandle, JobSubmission, ServedModel, job_channel};
use crate::job::client::{ClientParts, run};
use crate::metrics::Side;
use actix::prelude::*;
use cocoon_protocol::JobId;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::{Instrument, info_span};

/// See the module's doc.
pub struct Gateway {
    parts: ClientParts,
    runtime: Handle,
    jobs: Arc<Semaphore>,
    limit: u32,
    closing: bool,
    rng: StdRng,
}

impl Gateway {
    /// A gateway that runs at most `limit` jobs at once, as tasks of `runtime`.
    #[must_use]
    pub fn new(parts: ClientParts, runtime: Handle, limit: u32, rng: StdRng) -> Self {
        Self {
            parts,
            runtime,
            jobs: Arc::new(Semaphore::new(usize::try_from(limit).unwrap_or(1))),
            limit,
            closing: false,
            rng,
        }
    }
}

impl Named for Gateway {
    const NAME: &'static str = "gateway";
}
impl Actor for Gateway {
    type Context = Context<Self>;
}
impl Supervised for Gateway {}

impl Handler<crate::supervision::Stop> for Gateway {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// Starts a job.
#[derive(Debug)]
pub struct Submit(pub JobSubmission);
impl Query for Submit {
    type Answer = Result<JobHandle, GatewayError>;
}
impl Handler<Ask<Submit>> for Gateway {
    type Result = ();
    fn handle(&mut self, asked: Ask<Submit>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        if self.closing {
            return reply.send(Err(GatewayError::ShuttingDown));
        }
        if let Err(error) = query.0.validate() {
            return reply.send(Err(error.into()));
        }
        let Ok(slot) = Arc::clone(&self.jobs).try_acquire_owned() else {
            return reply.send(Err(GatewayError::Overloaded { limit: self.limit }));
        };
        let job = JobId::random(&mut self.rng);
        let (events, handle) = job_channel(job);
        let parts = self.parts.clone();
        let running = parts.metrics.running(Side::Client);
        let span = info_span!("job", %job, side = "client");
        self.runtime.spawn(
            async move {
                let (_slot, _running) = (slot, running);
                run(parts, job, query.0, events).await;
            }
            .instrument(span),
        );
        reply.send(Ok(handle));
    }
}

/// Takes no more jobs; answered when the running ones have ended.
#[derive(Debug)]
pub struct Close;
impl Query for Close {
    type Answer = ();
}
impl Handler<Ask<Close>> for Gateway {
    type Result = ();
    fn handle(&mut self, asked: Ask<Close>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        self.closing = true;
        let (jobs, limit) = (Arc::clone(&self.jobs), self.limit);
        self.runtime.spawn(async move {
            if jobs.acquire_many(limit).await.is_ok() {
                reply.send(());
            }
        });
    }
}

/// The gateway actor as HTTP sees it.
#[derive(Clone)]
pub struct GatewayPort {
    gateway: Address<Gateway>,
    directory: Address<crate::directory::Directory>,
}

impl GatewayPort {
    /// The port in front of these actors.
    #[must_use]
    pub fn new(gateway: Address<Gateway>, directory: Address<crate::directory::Directory>) -> Self {
        Self { gateway, directory }
    }
}

/// What a full mailbox or a stopped actor means to somebody outside.
pub(crate) fn from_ask(error: AskError) -> GatewayError {
    match error {
        AskError::Full { .. } => GatewayError::Overloaded {
            limit: u32::try_from(crate::supervision::MAILBOX).unwrap_or(u32::MAX),
        },
        AskError::Stopped { .. } => GatewayError::ShuttingDown,
    }
}

#[async_trait::async_trait]
impl gateway_port::Gateway for GatewayPort {
    async fn submit(&self, submission: JobSubmission) -> Result<JobHandle, GatewayError> {
        ask(&self.gateway, Submit(submission))
            .await
            .map_err(from_ask)?
    }

    async fn models(&self) -> Result<Vec<ServedModel>, GatewayError> {
        let workers = ask(&self.directory, ListWorkers).await.map_err(from_ask)?;
        let now = clock::now();
        let mut models: BTreeMap<String, ServedModel> = BTreeMap::new();
        for entry in workers.iter().filter(|entry| entry.is_verified(now)) {
            for terms in &entry.advert.models {
                let model = models
                    .entry(terms.id.clone())
                    .or_insert_with(|| ServedModel {
                        id: terms.id.clone(),
                        digest: terms.digest.to_string(),
                        context_tokens: terms.context_tokens,
                        workers: 0,
                        price_input: terms.price.input,
                        price_output: terms.price.output,
                        first_seen_unix: entry.first_seen.seconds(),
                    });
                model.workers = model.workers.saturating_add(1);
                model.context_tokens = model.context_tokens.max(terms.context_tokens);
                model.price_input = model.price_input.min(terms.price.input);
                model.price_output = model.price_output.min(terms.price.output);
                model.first_seen_unix = model.first_seen_unix.min(entry.first_seen.seconds());
            }
        }
        Ok(models.into_values().collect())
    }
}
