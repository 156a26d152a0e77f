//! The steps of the demo, in order.

use std::io::Write;
use std::path::Path;

use cocoon_actors::gateway_port::NodeStatus;
use cocoon_protocol::NanoTon;
use cocoon_settlement::chain::DevnetClient;
use futures::StreamExt;
use serde_json::json;

use super::money::{self, Purses};
use super::{DemoError, Steps, io, waiting};
use crate::command::demo::DemoArgs;
use crate::command::{status, verify};
use crate::gateway_client::{AnswerDetails, ChatPart, ClientError};
use crate::local_mesh::{Launcher, Node, Process, fund, verified_workers};
use crate::receipt_check::{Block, Opened, check};
use crate::terminal::{plain, short_peer};
use crate::{config, trust};

/// Price of a prompt token at each worker, nanoTON. Far above what a model of this size is worth:
/// a few short answers must be worth an on-chain claim.
const INPUT_NANOTON: [&str; 3] = ["50000", "60000", "70000"];
/// Price of a generated token at each worker, nanoTON.
const OUTPUT_NANOTON: [&str; 3] = ["200000", "240000", "280000"];
/// Coins that the faucet sends to each node.
const PURSE: NanoTon = NanoTon::from_nano(5 * NanoTon::PER_TON);
/// Put into each channel.
const DEPOSIT_NANOTON: &str = "1000000000";
/// The model's name in the mesh.
const MODEL_ID: &str = "smollm2-135m-instruct";

/// A running network.
pub(super) struct DemoMesh {
    pub(super) chain: DevnetClient,
    chain_url: String,
    pub(super) workers: Vec<Node>,
    pub(super) client: Node,
    bootstrap: Node,
    devnet: Process,
}

impl DemoMesh {
    pub(super) fn how_to_talk(&self) {
        let url = self.client.url();
        println!(
            "\nThe mesh keeps running. Talk to it:\n\n  \
             curl {url}/v1/chat/completions -H 'content-type: application/json' \\\n    \
             -d '{{\"model\": \"{MODEL_ID}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}], \"max_tokens\": 48}}'\n\n  \
             python3 - <<'PY'\n  \
             from openai import OpenAI\n  \
             client = OpenAI(base_url=\"{url}/v1\", api_key=\"unused-on-loopback\")\n  \
             for chunk in client.chat.completions.create(model=\"{MODEL_ID}\", stream=True, max_tokens=48,\n          \
             messages=[{{\"role\": \"user\", \"content\": \"Hello!\"}}]):\n      \
             if chunk.choices: print(chunk.choices[0].delta.content or \"\", end=\"\", flush=True)\n  \
             PY\n\n  \
             cocoon chat --url {url} 'Hello!'\n  cocoon status --url {url}\n\n\
             Ctrl-C stops it."
        );
    }

    /// From the outside in.
    pub(super) fn stop(mut self) -> Result<(), DemoError> {
        self.client.process.stop()?;
        for worker in &mut self.workers {
            worker.process.stop()?;
        }
        self.bootstrap.process.stop()?;
        self.devnet.stop()?;
        Ok(())
    }
}

/// Runs every step; the network is left running.
pub(super) async fn tell(args: &DemoArgs, directory: &Path) -> Result<DemoMesh, DemoError> {
    let mut steps = Steps::new();
    steps.begin("Starting a chain, a bootstrap node, three workers and a client");
    let binary = std::env::current_exe().map_err(io("finding this binary"))?;
    let launcher = Launcher::new(binary, directory.to_owned());
    let mut mesh = waiting("loading three models", start(args, &launcher)).await?;
    println!(
        "   6 processes below {}; the bootstrap's multiaddr is all they share",
        directory.display()
    );

    steps.begin("Waiting until the client has verified three workers");
    let seen = waiting(
        "fetching and verifying evidence",
        verified_workers(&mesh.client, 3),
    )
    .await?;
    println!("{}", status::workers(&seen.workers));
    let before = Purses::read(&mesh).await?;

    steps.begin("A chat request, streamed");
    let (first, _) = ask(
        &mesh.client,
        "What is the capital of France? Tell me about it.",
        80,
    )
    .await?;
    let first = answered(first)?;
    println!("   (a channel was opened on the way: the first job pays that price once)");

    steps.begin("The receipt, factor by factor");
    verify_receipt(&mesh, &first).await?;

    steps.begin("Killing the worker that answered, while it answers again");
    let victim = kill_while_answering(&mut mesh).await?;
    println!("\n   a third and a fourth request, at once:");
    let (third, fourth) = tokio::join!(
        collect(&mesh.client, "Why is the sky blue?", 48),
        collect(&mesh.client, "Name three rivers in Europe.", 48),
    );
    let later = [answered(third)?, answered(fourth)?];
    for answer in &later {
        if answer.worker == first.worker {
            return Err(DemoError::Wrong {
                what: "the worker after the kill".to_owned(),
                expected: "another one".to_owned(),
                found: answer.worker.clone(),
            });
        }
        println!(
            "   answered by {}, receipt {}",
            short_peer(&answer.worker),
            short_peer(&answer.receipt)
        );
    }

    steps.begin("Settlement");
    println!("   the killed worker is started again on its own disk, as a service manager would");
    let worker = restart(args, &launcher, &mesh, victim).await?;
    if let Some(place) = mesh.workers.get_mut(victim) {
        *place = worker;
    }
    let receipts = [first].into_iter().chain(later).collect::<Vec<_>>();
    let on_chain = money::settle(&mesh, &before, &receipts).await?;

    steps.begin("Summary");
    println!(
        "   transactions that any liteserver client can fetch, and check against signed blocks:"
    );
    for transaction in &on_chain {
        println!("   {transaction}");
    }
    println!(
        "   its global config: {0}/global.config.json; the chain's explorer: {0}/\n",
        mesh.chain_url
    );
    summary(
        &mesh.client.http.status().await?,
        steps.elapsed().as_secs_f64(),
    );
    Ok(mesh)
}

/// Counted from 1, for people.
fn worker_name(index: usize) -> String {
    format!("worker-{}", index.saturating_add(1))
}

fn worker_settings<'a>(
    model: &'a str,
    bootstrap: &'a str,
    chain: &'a str,
    index: usize,
) -> Vec<(&'static str, &'a str)> {
    vec![
        ("model-path", model),
        ("model-id", MODEL_ID),
        ("bootstrap", bootstrap),
        ("chain-url", chain),
        (
            "price-input-nanoton",
            INPUT_NANOTON.get(index).copied().unwrap_or("50000"),
        ),
        (
            "price-output-nanoton",
            OUTPUT_NANOTON.get(index).copied().unwrap_or("200000"),
        ),
        ("credit-window-nanoton", "10000000"),
        // The demo settles when it wants to, not by age.
        ("settle-every-s", "3600"),
    ]
}

async fn start(args: &DemoArgs, launcher: &Launcher) -> Result<DemoMesh, DemoError> {
    let (devnet, chain_url) = launcher.devnet()?;
    let chain = DevnetClient::new(&chain_url)?;
    let bootstrap = launcher.node("bootstrap", "bootstrap", &[]).await?;
    let address = bootstrap_address(&bootstrap);
    let model = args.model.display().to_string();
    let mut starting = Vec::new();
    for index in 0..3 {
        let settings = worker_settings(&model, &address, &chain_url, index);
        starting.push(launcher.spawn(&worker_name(index), "worker", &settings)?);
    }
    let client = launcher
        .node(
            "client",
            "client",
            &[
                ("bootstrap", &address),
                ("chain-url", &chain_url),
                ("deposit-nanoton", DEPOSIT_NANOTON),
            ],
        )
        .await?;
    let mut workers = Vec::new();
    for process in starting {
        workers.push(launcher.reach(process).await?);
    }
    let mut purses = vec![(client.wallet()?, PURSE)];
    for worker in &workers {
        purses.push((worker.wallet()?, PURSE));
    }
    fund(&chain, &purses).await?;
    Ok(DemoMesh {
        chain,
        chain_url,
        workers,
        client,
        bootstrap,
        devnet,
    })
}

fn bootstrap_address(bootstrap: &Node) -> String {
    let listen = &bootstrap.run.listen;
    let quic = listen.iter().find(|address| address.contains("quic"));
    quic.or(listen.first()).cloned().unwrap_or_default()
}

async fn restart(
    args: &DemoArgs,
    launcher: &Launcher,
    mesh: &DemoMesh,
    index: usize,
) -> Result<Node, DemoError> {
    let address = bootstrap_address(&mesh.bootstrap);
    let model = args.model.display().to_string();
    let settings = worker_settings(&model, &address, &mesh.chain_url, index);
    let name = worker_name(index);
    let starting = launcher.node(&name, "worker", &settings);
    Ok(waiting("starting the killed worker again", starting).await?)
}

/// An answer, or the typed error that a stream ended in.
type Answer = Result<AnswerDetails, ClientError>;

fn answered(answer: Answer) -> Result<AnswerDetails, DemoError> {
    Ok(answer?)
}

fn body(prompt: &str, max_tokens: u32) -> serde_json::Value {
    json!({
        "model": MODEL_ID,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": true,
    })
}

/// Asks and prints the tokens as they arrive.
async fn ask(client: &Node, prompt: &str, max_tokens: u32) -> Result<(Answer, usize), DemoError> {
    println!("   > {prompt}");
    print!("   ");
    let mut stream = Box::pin(client.http.stream(&body(prompt, max_tokens)).await?);
    let mut parts = 0_usize;
    let mut details = None;
    while let Some(part) = stream.next().await {
        match part {
            Ok(ChatPart::Text(text)) => {
                parts = parts.saturating_add(1);
                show(&text)?;
            }
            Ok(ChatPart::Finished { details: found, .. }) => details = Some(found),
            Ok(ChatPart::Usage(..)) => {}
            Err(error) => return Ok((Err(error), parts)),
        }
    }
    let details = details.unwrap_or_default();
    println!(
        "\n   {} by {}, receipt {}",
        cost(&details),
        short_peer(&details.worker),
        short_peer(&details.receipt)
    );
    Ok((Ok(details), parts))
}

fn cost(details: &AnswerDetails) -> String {
    let nano = details.cost_nanoton.parse().unwrap_or(0);
    NanoTon::from_nano(nano).to_string()
}

fn show(text: &str) -> Result<(), DemoError> {
    print!("{}", plain(text).replace('\n', "\n   "));
    std::io::stdout().flush().map_err(io("printing"))
}

/// Asks without printing.
async fn collect(client: &Node, prompt: &str, max_tokens: u32) -> Answer {
    let mut stream = Box::pin(client.http.stream(&body(prompt, max_tokens)).await?);
    let mut details = AnswerDetails::default();
    while let Some(part) = stream.next().await {
        if let ChatPart::Finished { details: found, .. } = part? {
            details = found;
        }
    }
    Ok(details)
}

async fn verify_receipt(mesh: &DemoMesh, answer: &AnswerDetails) -> Result<(), DemoError> {
    use cocoon_protocol::evidence::Beacon;
    use cocoon_settlement::chain::Chain;
    let document = mesh.client.http.receipt(&answer.receipt).await?;
    let wrong = |what: &str, found: String| DemoError::Wrong {
        what: what.to_owned(),
        expected: "a verified receipt".to_owned(),
        found,
    };
    let opened = Opened::from_document(document)
        .map_err(|error| wrong("the receipt's document", error.to_string()))?;
    let config = config::Config {
        evidence: config::EvidenceSource::Simulated,
        ..config::Config::default()
    };
    let verifier =
        trust::verifier(&config).map_err(|error| wrong("the policy", error.to_string()))?;
    let block = match opened.claimed_beacon() {
        None => Block::Unknown("the document holds no evidence".to_owned()),
        Some(claimed) => {
            let block = mesh.chain.block(claimed.seqno).await?;
            Block::Known(Beacon {
                seqno: block.seqno,
                hash: block.hash,
            })
        }
    };
    let report = check(&opened, &verifier, &block);
    print!("{}", verify::render(&report));
    if report.verified {
        Ok(())
    } else {
        Err(wrong("the receipt", "NOT VERIFIED".to_owned()))
    }
}

/// Returns which worker was killed.
async fn kill_while_answering(mesh: &mut DemoMesh) -> Result<usize, DemoError> {
    let prompt = "Write a long story about a dragon who learns to count.";
    println!("   > {prompt}");
    print!("   ");
    let mut stream = Box::pin(mesh.client.http.stream(&body(prompt, 400)).await?);
    let mut killed = None;
    let mut parts: usize = 0;
    while let Some(part) = stream.next().await {
        match part {
            Ok(ChatPart::Text(text)) => {
                show(&text)?;
                parts = parts.saturating_add(1);
                // A few frames in, so that something was sent and paid.
                if parts == 3 && killed.is_none() {
                    killed = Some(kill_the_busy_one(mesh).await?);
                }
            }
            Ok(ChatPart::Finished { .. }) => {
                return Err(DemoError::Wrong {
                    what: "the request whose worker was killed".to_owned(),
                    expected: "a typed error".to_owned(),
                    found: "a complete answer".to_owned(),
                });
            }
            Ok(ChatPart::Usage(..)) => {}
            Err(error) => {
                println!("\n   the request ended in: {error}");
                break;
            }
        }
    }
    killed.ok_or_else(|| DemoError::Wrong {
        what: "the killed worker".to_owned(),
        expected: "one that was answering".to_owned(),
        found: "none".to_owned(),
    })
}

async fn kill_the_busy_one(mesh: &mut DemoMesh) -> Result<usize, DemoError> {
    for (index, worker) in mesh.workers.iter_mut().enumerate() {
        if worker.http.status().await?.running_jobs > 0 {
            worker.process.kill()?;
            println!("\n   *** kill -9 {} ***", worker.process.name);
            return Ok(index);
        }
    }
    Err(DemoError::Wrong {
        what: "workers with a running job".to_owned(),
        expected: "one".to_owned(),
        found: "none".to_owned(),
    })
}

fn summary(client: &NodeStatus, seconds: f64) {
    println!(
        "   jobs at the client by outcome: {}",
        client
            .ended_jobs
            .iter()
            .map(|(outcome, count)| format!("{count} {outcome}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    println!(
        "\n   real       libp2p over QUIC and TCP between separate processes; burn running {MODEL_ID}; Noise\n\
         \x20             NKpsk2 with ML-KEM-768; dcap-qvl verifying quotes; Ed25519 vouchers and receipts; RocksDB\n\
         \x20             ledgers; Tolk contracts in a real TVM with TON's fees\n   \
         simulated  the TDX machine: quotes come from a made-up root, so the hardware's promise is\n\
         \x20             missing; no GPU evidence\n   \
         devnet     one process makes and signs the blocks: no consensus, no real coins\n\n   \
         done in {seconds:.1} s"
    );
}
