//! The devnet over its HTTP interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::time::Duration;

use cocoon_protocol::{NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::chain::{Chain, ChainError, DevnetClient};
use cocoon_settlement::contract::{self, ChannelTerms, OutMessage};
use cocoon_settlement::devnet::{self, GLOBAL_ID, ServeConfig, serve};
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Running {
    client: DevnetClient,
    base: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ChainError>>,
}

impl Running {
    async fn start(directory: &std::path::Path, start_paused: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let config = ServeConfig {
            start_paused,
            block_interval: Duration::from_millis(20),
            ..ServeConfig::new(directory.to_owned())
        };
        let server = tokio::spawn(serve(config, listener, async {
            let _ = stopped.await;
        }));
        Self {
            client: DevnetClient::new(&base).unwrap(),
            base,
            stop,
            server,
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.server.await.unwrap().unwrap();
    }
}

fn ton(milli: u64) -> NanoTon {
    NanoTon::from_nano(milli * 1_000_000)
}

#[tokio::test]
async fn a_client_over_http_opens_a_channel_while_blocks_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), false).await;
    let chain = &running.client;
    assert_eq!(chain.global_id().await.unwrap(), GLOBAL_ID);
    let client = Wallet::from_key(SigningKey::from_bytes(&[1; 32]), GLOBAL_ID).unwrap();
    let faucet = devnet::faucet().unwrap();
    faucet
        .send(chain, &[OutMessage::transfer(client.address(), ton(5000))])
        .await
        .unwrap();
    let terms = ChannelTerms {
        client: client.address(),
        worker: faucet.address(),
        client_key: PublicKey32::from_bytes([3; 32]),
        nonce: 1,
        close_delay_s: 60,
    };
    client
        .send(chain, &[contract::open_message(&terms, ton(1000)).unwrap()])
        .await
        .unwrap();
    let channel = contract::fetch_channel(chain, terms.address().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(channel.terms, terms);
    let found = chain.transactions(channel.address, 0, 10).await.unwrap();
    assert_eq!(
        (found.len(), found[0].value, found[0].source),
        (1, ton(1000), Some(client.address()))
    );
    let supply = chain.supply().await.unwrap();
    assert_eq!(
        supply.minted,
        supply.balances + supply.in_flight + supply.collected
    );

    // Stopped and started again, the chain is the same chain.
    let head = chain.head().await.unwrap();
    running.stop().await;
    let running = Running::start(directory.path(), true).await;
    assert_eq!(running.client.block(head.seqno).await.unwrap(), head);
    let again = contract::fetch_channel(&running.client, channel.address)
        .await
        .unwrap();
    assert_eq!(again, Some(channel));
    running.stop().await;
}

#[tokio::test]
async fn a_paused_chain_makes_blocks_only_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), true).await;
    let chain = &running.client;
    assert!(chain.info().await.unwrap().paused);
    let before = chain.head().await.unwrap();
    assert_eq!(before.seqno, 1);
    let after = chain.advance(3, 1000).await.unwrap();
    assert_eq!(after.seqno, 4);
    assert!(after.unix >= before.unix + 1000);
    assert!(!chain.resume().await.unwrap().paused);
    while chain.head().await.unwrap().seqno < 6 {
        tokio::task::yield_now().await;
    }
    assert!(chain.pause().await.unwrap().paused);
    running.stop().await;
}

#[tokio::test]
async fn errors_keep_their_type_over_the_wire() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), true).await;
    let chain = &running.client;
    let nobody = TonAddress {
        workchain: 0,
        hash: [1; 32],
    };
    assert_eq!(chain.account(nobody).await.unwrap(), None);
    assert!(matches!(
        chain.block(99).await,
        Err(ChainError::NoSuchBlock { seqno: 99 })
    ));
    let missing = chain.get_method(nobody, "seqno", &[]).await;
    assert!(matches!(missing, Err(ChainError::NoContract { address }) if address == nobody));
    let faucet = devnet::faucet().unwrap();
    let failed = chain.get_method(faucet.address(), "nothing", &[]).await;
    assert!(
        matches!(failed, Err(ChainError::GetMethod { exit_code: 11, .. })),
        "{failed:?}"
    );
    let stale = faucet
        .transfer(5, u32::MAX, &[OutMessage::transfer(nobody, ton(1))])
        .unwrap();
    let stale = chain.send_external(&stale).await;
    assert!(
        matches!(
            stale,
            Err(ChainError::NotAccepted {
                exit_code: Some(33),
                ..
            })
        ),
        "{stale:?}"
    );
    assert!(matches!(
        chain.send_external(b"garbage").await,
        Err(ChainError::BadMessage { .. })
    ));
    assert!(matches!(
        chain.advance(0, 0).await,
        Err(ChainError::Encoding { .. })
    ));
    running.stop().await;
}

#[tokio::test]
async fn bad_requests_get_an_answer_and_leave_the_server_alive() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), true).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("{}{path}", running.base);
    let json = "application/json";
    let requests = [
        http.get(url("/")),
        http.get(url("/api/lookupBlock")),
        http.get(url("/api/lookupBlock?seqno=-1")),
        http.get(url("/api/getAddressInformation?address=nonsense")),
        http.post(url("/api/sendBoc"))
            .header("content-type", json)
            .body("{"),
        http.post(url("/api/sendBoc"))
            .header("content-type", json)
            .body(r#"{"boc":"***"}"#),
        http.post(url("/api/sendBoc")).body("no content type"),
        http.post(url("/api/runGetMethod"))
            .header("content-type", json)
            .body("[".repeat(10_000)),
        http.post(url("/dev/advance"))
            .header("content-type", json)
            .body(r#"{"blocks":4000000000}"#),
        http.post(url("/api/sendBoc"))
            .header("content-type", json)
            .body(format!(r#"{{"boc":"{}"}}"#, "A".repeat(300_000))),
    ];
    for request in requests {
        let response = request.send().await.unwrap();
        let status = response.status();
        let body: serde_json::Value = response.json().await.unwrap();
        assert!(status.is_client_error(), "{status} {body}");
        assert_eq!(
            (&body["ok"], &body["error"]["kind"]),
            (&false.into(), &"bad_request".into()),
            "{body}"
        );
    }
    assert_eq!(running.client.head().await.unwrap().seqno, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable_after_bounded_attempts() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let client = DevnetClient::new(&format!("http://{free}")).unwrap();
    let result = client.head().await;
    assert!(
        matches!(result, Err(ChainError::Unreachable { attempts: 4, .. })),
        "{result:?}"
    );
}
