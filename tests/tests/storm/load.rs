//! Two clients that are asked all the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_tests::chat::request;
use serde_json::Value;
use tokio::task::JoinHandle;

const PROMPTS: [&str; 4] = [
    "Say hello.",
    "Name three rivers in Europe.",
    "Why is the sky blue?",
    "Write a short poem about rain.",
];
const TOKENS: u32 = 32;
/// Requests in flight at each client.
const ASKERS: usize = 2;
/// After a request that failed: the process is gone or knows no worker yet.
const AFTER_FAILURE: Duration = Duration::from_millis(300);
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    /// By `error.code` and message; `no answer` where the client itself was dead.
    pub(crate) failed: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Shared {
    urls: Mutex<Vec<String>>,
    tally: Mutex<Tally>,
    over: tokio::sync::watch::Sender<bool>,
}

/// Tasks that ask.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    askers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(urls: &[String]) -> Self {
        let shared = Arc::new(Shared {
            urls: Mutex::new(urls.to_vec()),
            tally: Mutex::default(),
            over: tokio::sync::watch::channel(false).0,
        });
        let askers = (0..urls.len() * ASKERS)
            .map(|asker| tokio::spawn(ask(Arc::clone(&shared), asker)))
            .collect();
        Self { shared, askers }
    }

    /// A client that was started again answers elsewhere.
    pub(crate) fn moved(&self, urls: &[String]) {
        *self.shared.urls.lock().unwrap() = urls.to_vec();
    }

    /// Waits for what is in flight.
    pub(crate) async fn stop(self) -> Tally {
        self.shared.over.send_replace(true);
        for asker in self.askers {
            asker.await.unwrap();
        }
        self.shared.tally.lock().unwrap().clone()
    }
}

async fn ask(shared: Arc<Shared>, asker: usize) {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(LONGEST_ANSWER)
        .build()
        .unwrap();
    let mut over = shared.over.subscribe();
    for prompt in PROMPTS.iter().cycle() {
        if *over.borrow() {
            return;
        }
        let url = {
            let urls = shared.urls.lock().unwrap();
            urls[asker % urls.len()].clone()
        };
        let failure = match answer(&http, &url, prompt).await {
            Ok(body) => body
                .pointer("/error/code")
                .and_then(Value::as_str)
                .map(|code| format!("{code}: {}", without_names(&body["error"]["message"]))),
            Err(_) => Some("no answer".to_owned()),
        };
        let failed = failure.is_some();
        {
            let mut tally = shared.tally.lock().unwrap();
            match failure {
                None => tally.answered += 1,
                Some(code) => *tally.failed.entry(code).or_default() += 1,
            }
        }
        if failed {
            let _ = tokio::time::timeout(AFTER_FAILURE, over.changed()).await;
        }
    }
}

async fn answer(http: &reqwest::Client, url: &str, prompt: &str) -> Result<Value, reqwest::Error> {
    http.post(format!("{url}/v1/chat/completions"))
        .json(&request(prompt, TOKENS))
        .send()
        .await?
        .json()
        .await
}

/// Addresses, amounts and peers differ each time.
fn without_names(message: &Value) -> String {
    let message = message.as_str().unwrap_or_default();
    let words = message.split_whitespace().map(|word| {
        if word.chars().any(|c| c.is_ascii_digit()) {
            "…"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}
