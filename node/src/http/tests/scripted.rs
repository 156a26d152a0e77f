//! A gateway that plays a script, a server around it and a client in front.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_actors::gateway_port::{
    AdminCommand, Completion, Delta, Finish, Funds, Gateway, GatewayError, JobEvent, JobHandle,
    JobSubmission, NodeStatus, NodeView, Opening, RECEIPT_FORMAT, ReceiptDocument, ReceiptKey,
    ServedModel, Usage, WorkerAttestation, job_channel,
};
use cocoon_attestation::{Expectation, FactorResult, Image, Measurement, Policy, Trust, Verifier};
use cocoon_protocol::Price;
use cocoon_protocol::evidence::{Attached, Beacon, Claims, EvidenceBundle};
use cocoon_protocol::ids::{Digest, JobId, Keypair, PeerId, PublicKey32, TonAddress};
use cocoon_protocol::receipt::{Ending, Receipt, SignedReceipt};
use cocoon_protocol::units::{NanoTon, UnixMillis};
use ed25519_dalek::SigningKey;
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

pub(super) fn receipt_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// The receipt of the scripted job.
pub(super) fn signed_receipt() -> SignedReceipt {
    let receipt = Receipt {
        job: JobId::from_bytes(JOB),
        worker: worker(),
        client: worker(),
        model: "org/model".to_owned(),
        model_digest: Digest::from_bytes([4; 32]),
        evidence: Digest::from_bytes([5; 32]),
        request_commitment: Digest::from_bytes([6; 32]),
        response_commitment: Digest::from_bytes([7; 32]),
        prompt_tokens: 11,
        output_tokens: 2,
        price: Price {
            input: NanoTon::from_nano(20),
            output: NanoTon::from_nano(160),
        },
        amount: NanoTon::from_nano(540),
        channel: TonAddress {
            workchain: 0,
            hash: [8; 32],
        },
        cumulative: NanoTon::from_nano(540),
        ending: Ending::Stop,
        started: UnixMillis::from_millis(1),
        ended: UnixMillis::from_millis(2),
        receipt_key: PublicKey32::from_bytes([0; 32]),
        tokens_commitment: None,
        tokenizer: None,
    };
    receipt.sign(&receipt_key()).unwrap()
}

/// A worker as the attestor would have it, though no verifier would accept this one.
pub(super) fn attested_worker() -> WorkerAttestation {
    let bundle = EvidenceBundle {
        quote: b"quote".to_vec(),
        collateral_json: b"{\"tcb_info\":\"\"}".to_vec(),
        claims: Claims {
            noise_key: [1; 32],
            mlkem_key: vec![2; 1184],
            receipt_key: receipt_key().verifying_key().to_bytes(),
            peer: worker(),
            model: Digest::from_bytes([4; 32]),
            config: Digest::from_bytes([10; 32]),
            gpu_evidence: Digest::ZERO,
            beacon: Beacon {
                seqno: 9,
                hash: Digest::from_bytes([9; 32]),
            },
            epoch: 489_000,
            canary: Digest::ZERO,
        },
        attached: Attached {
            event_log: b"log".to_vec(),
            ..Attached::default()
        },
    };
    let image = Image {
        name: "any".to_owned(),
        mrtd: Measurement::ZERO,
        rtmr0: Measurement::ZERO,
        rtmr1: Measurement::ZERO,
        rtmr2: Measurement::ZERO,
    };
    let policy = Policy {
        images: vec![image.into()],
        ..Policy::default()
    };
    let beacons = [bundle.claims.beacon];
    let expectation = Expectation::new(
        worker(),
        bundle.claims.model,
        bundle.claims.digest(),
        &beacons,
    );
    let verifier = Verifier::new(Trust::Intel, policy).unwrap();
    let verdict = verifier.examine(UnixMillis::from_millis(1), &bundle, &expectation);
    WorkerAttestation {
        peer: worker(),
        models: vec!["org/model".to_owned()],
        bundle,
        verdict,
    }
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

    async fn funds(&self) -> Result<Funds, GatewayError> {
        Ok(Funds::default())
    }

    async fn receipt(
        &self,
        key: ReceiptKey,
        opening: Opening,
    ) -> Result<Option<ReceiptDocument>, GatewayError> {
        let signed = signed_receipt();
        let names = [
            ReceiptKey::Job(JobId::from_bytes(JOB)),
            ReceiptKey::Leaf(signed.leaf()),
        ];
        Ok(names.contains(&key).then(|| ReceiptDocument {
            format: RECEIPT_FORMAT.to_owned(),
            id: signed.leaf().to_string(),
            job: JobId::from_bytes(JOB).to_string(),
            network: "devnet".to_owned(),
            signed_receipt: BASE64.encode(signed.encode()),
            evidence: None,
            beacon: None,
            salt: (opening == Opening::Open).then(|| "5a".repeat(32)),
        }))
    }

    async fn attestations(
        &self,
        model: Option<&str>,
    ) -> Result<Vec<WorkerAttestation>, GatewayError> {
        let mut worker = attested_worker();
        match model {
            None | Some("org/model") => {}
            // Everything passed but what nobody asked for.
            Some("org/proven") => {
                for factor in &mut worker.verdict.factors {
                    factor.result = match factor.name {
                        "gpu_evidence" => FactorResult::Skip,
                        _ => FactorResult::Pass,
                    };
                }
            }
            Some(_) => return Ok(Vec::new()),
        }
        Ok(vec![worker])
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
