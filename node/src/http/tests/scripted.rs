//! A gateway that plays a script, a server around it and a client in front.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cocoon_actors::gateway_port::{
    AdminCommand, Completion, Delta, Finish, Gateway, GatewayError, JobEvent, JobHandle,
    JobSubmission, NodeStatus, NodeView, RECEIPT_FORMAT, ReceiptDocument, ReceiptKey, ServedModel,
    Usage, job_channel,
};
use cocoon_protocol::ids::{JobId, Keypair, PeerId};
use cocoon_protocol::units::NanoTon;
use eventsource_stream::Eventsource;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::http::metrics::HttpMetrics;
use crate::http::{HttpLimits, HttpParts, HttpServer};
use crate::secret_file::Token;
use crate::telemetry;

/// One step of a job.
pub(super) enum Step {
    Emit(JobEvent),
    /// Wait until the test says so.
    Hold(Arc<Notify>),
    /// End without a terminal event.
    Vanish,
}

/// What `submit` does.
pub(super) enum Script {
    Refuse(GatewayError),
    Play(Vec<Step>),
}

#[derive(Default)]
pub(super) struct Scripted {
    scripts: Mutex<VecDeque<Script>>,
    pub(super) submissions: Mutex<Vec<JobSubmission>>,
    pub(super) commands: Mutex<Vec<AdminCommand>>,
}

pub(super) fn worker() -> PeerId {
    Keypair::ed25519_from_bytes([7; 32])
        .unwrap()
        .public()
        .to_peer_id()
}

pub(super) const JOB: [u8; 16] = [0xab; 16];

pub(super) fn accepted() -> Step {
    Step::Emit(JobEvent::Accepted {
        worker: worker(),
        prompt_tokens: 11,
    })
}

pub(super) fn delta(text: &str) -> Step {
    Step::Emit(JobEvent::Delta(Delta::of(text)))
}

pub(super) fn finished(finish: Finish) -> Step {
    all_finished(vec![finish])
}

pub(super) fn all_finished(finishes: Vec<Finish>) -> Step {
    Step::Emit(JobEvent::Finished(Completion {
        finishes,
        usage: Usage {
            prompt_tokens: 11,
            completion_tokens: 2,
        },
        cost: NanoTon::from_nano(540),
        worker: worker(),
        receipt: "cd".repeat(32),
    }))
}

pub(super) fn failed(error: GatewayError) -> Step {
    Step::Emit(JobEvent::Failed(error))
}

pub(super) fn hello() -> Script {
    Script::Play(vec![
        accepted(),
        delta("Hel"),
        delta("lo"),
        finished(Finish::Stop),
    ])
}

#[async_trait]
impl Gateway for Scripted {
    async fn submit(&self, submission: JobSubmission) -> Result<JobHandle, GatewayError> {
        self.submissions.lock().unwrap().push(submission);
        let steps = match self.scripts.lock().unwrap().pop_front().unwrap() {
            Script::Refuse(error) => return Err(error),
            Script::Play(steps) => steps,
        };
        let (events, handle) = job_channel(JobId::from_bytes(JOB));
        tokio::spawn(async move {
            for step in steps {
                match step {
                    Step::Emit(event) => {
                        if events.send(event).await.is_err() {
                            return;
                        }
                    }
                    Step::Hold(until) => until.notified().await,
                    Step::Vanish => return,
                }
            }
        });
        Ok(handle)
    }

    async fn models(&self) -> Result<Vec<ServedModel>, GatewayError> {
        Ok(vec![ServedModel {
            id: "org/model".to_owned(),
            digest: "00".repeat(32),
            context_tokens: 2048,
            workers: 3,
            price_input: NanoTon::from_nano(20),
            price_output: NanoTon::from_nano(160),
            first_seen_unix: 1_700_000_000,
        }])
    }
}

#[async_trait]
impl NodeView for Scripted {
    async fn health(&self) -> Result<(), GatewayError> {
        Ok(())
    }

    async fn status(&self) -> Result<NodeStatus, GatewayError> {
        Ok(NodeStatus {
            role: "client".to_owned(),
            ..NodeStatus::default()
        })
    }

    async fn receipt(&self, key: ReceiptKey) -> Result<Option<ReceiptDocument>, GatewayError> {
        Ok(
            (key == ReceiptKey::Job(JobId::from_bytes(JOB))).then(|| ReceiptDocument {
                format: RECEIPT_FORMAT.to_owned(),
                id: "cd".repeat(32),
                job: JobId::from_bytes(JOB).to_string(),
                network: "devnet".to_owned(),
                signed_receipt: String::new(),
                evidence: None,
            }),
        )
    }

    async fn admin(&self, command: AdminCommand) -> Result<(), GatewayError> {
        self.commands.lock().unwrap().push(command);
        Ok(())
    }
}

/// A gateway whose job waits and tells when it was cancelled.
pub(super) struct Cancellable {
    pub(super) cancelled: mpsc::UnboundedSender<()>,
    pub(super) first: Vec<JobEvent>,
}

#[async_trait]
impl Gateway for Cancellable {
    async fn submit(&self, _: JobSubmission) -> Result<JobHandle, GatewayError> {
        let (events, handle) = job_channel(JobId::from_bytes(JOB));
        for event in self.first.clone() {
            events.send(event).await.unwrap();
        }
        let cancelled = self.cancelled.clone();
        tokio::spawn(async move {
            events.cancelled().await;
            cancelled.send(()).unwrap();
        });
        Ok(handle)
    }

    async fn models(&self) -> Result<Vec<ServedModel>, GatewayError> {
        Ok(Vec::new())
    }
}

/// A running server. Stops when dropped.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) scripted: Arc<Scripted>,
    pub(super) admin_token: Token,
    pub(super) api_token: Token,
    pub(super) http: reqwest::Client,
    _stop: oneshot::Sender<()>,
}

pub(super) fn limits() -> HttpLimits {
    HttpLimits {
        max_body_bytes: 4096,
        max_jobs: 2,
        ..HttpLimits::default()
    }
}

pub(super) async fn serve(scripts: Vec<Script>) -> Server {
    serve_with("127.0.0.1:0", limits(), scripts, None).await
}

pub(super) async fn serve_without_gateway() -> Server {
    start("127.0.0.1:0", limits(), Vec::new(), |_| None).await
}

pub(super) async fn serve_with(
    address: &str,
    limits: HttpLimits,
    scripts: Vec<Script>,
    gateway: Option<Arc<dyn Gateway>>,
) -> Server {
    start(address, limits, scripts, |scripted| {
        Some(gateway.unwrap_or(scripted))
    })
    .await
}

async fn start(
    address: &str,
    limits: HttpLimits,
    scripts: Vec<Script>,
    gateway: impl FnOnce(Arc<dyn Gateway>) -> Option<Arc<dyn Gateway>>,
) -> Server {
    let scripted = Arc::new(Scripted {
        scripts: Mutex::new(scripts.into()),
        ..Scripted::default()
    });
    let secrets = tempfile::tempdir().unwrap();
    let token = |name: &str| Token::load_or_create(&secrets.path().join(name)).unwrap();
    let (admin_token, api_token) = (token("admin"), token("api"));
    let (_, mut registry) = telemetry::metrics();
    let metrics = HttpMetrics::default();
    metrics.register(&mut registry);
    let server = HttpServer::bind(address.parse().unwrap()).await.unwrap();
    let url = format!("http://127.0.0.1:{}", server.address().port());
    let parts = HttpParts {
        gateway: gateway(scripted.clone()),
        node: scripted.clone(),
        registry: Arc::new(registry),
        metrics,
        admin_token: admin_token.clone(),
        api_token: api_token.clone(),
        limits,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(server.serve(parts, async {
        let _ = stopped.await;
    }));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    Server {
        url,
        scripted,
        admin_token,
        api_token,
        http,
        _stop: stop,
    }
}

impl Server {
    pub(super) async fn post(&self, body: &Value) -> reqwest::Response {
        self.post_to("/v1/chat/completions", body).await
    }

    pub(super) async fn post_to(&self, path: &str, body: &Value) -> reqwest::Response {
        let url = format!("{}{path}", self.url);
        self.http.post(url).json(body).send().await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> reqwest::Response {
        self.http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }
}

pub(super) fn chat() -> Value {
    json!({"model": "org/model", "messages": [{"role": "user", "content": "hi"}]})
}

pub(super) fn streamed() -> Value {
    let mut body = chat();
    body["stream"] = json!(true);
    body
}

/// The `data:` of every event of a stream.
pub(super) async fn events(response: reqwest::Response) -> Vec<String> {
    response
        .bytes_stream()
        .eventsource()
        .map(|event| event.unwrap().data)
        .collect()
        .await
}
