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
use cocoon_settlement::devnet::{self, Faults, Fork, GLOBAL_ID, ServeConfig, serve};
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

/// The server is on loopback, where a proxy from the environment would not find it.
fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
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
    let http = http();
    let url = |path: &str| format!("{}{path}", running.base);
    let json = "application/json";
    let requests = [
        http.get(url("/nothing-here")),
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

async fn page(url: String) -> (u16, String) {
    let response = http().get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn the_explorer_leads_from_a_block_to_an_account_and_its_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), true).await;
    let base = &running.base;
    let wallet = Wallet::from_key(SigningKey::from_bytes(&[1; 32]), GLOBAL_ID).unwrap();
    let given = running
        .client
        .give(wallet.address(), ton(500))
        .await
        .unwrap();
    running.client.resume().await.unwrap();
    let terms = ChannelTerms {
        client: wallet.address(),
        worker: wallet.address(),
        client_key: PublicKey32::from_bytes([3; 32]),
        nonce: 7,
        close_delay_s: 3600,
    };
    let open = contract::open_message(&terms, ton(100)).unwrap();
    let opened = wallet.send(&running.client, &[open]).await.unwrap();
    running.client.pause().await.unwrap();

    let (status, home) = page(format!("{base}/")).await;
    assert_eq!(status, 200);
    assert!(
        home.contains(&format!("/block?seqno={}", opened.block)),
        "{home}"
    );
    let (_, block) = page(format!("{base}/block?seqno={}", opened.block)).await;
    assert!(block.contains(&opened.hash.to_string()), "{block}");
    let link = format!(
        "/transaction?account={}&amp;lt={}",
        wallet.address(),
        opened.lt
    );
    assert!(block.contains(&link), "{block}");
    let (_, transaction) = page(format!("{base}{}", link.replace("&amp;", "&"))).await;
    let channel = terms.address().unwrap();
    assert!(
        transaction.contains(&format!("/account?address={channel}")),
        "{transaction}"
    );
    let (_, account) = page(format!("{base}/account?address={channel}")).await;
    assert!(account.contains("a payment channel"), "{account}");
    assert!(account.contains("0.000000000 TON"), "{account}");
    assert!(!account.contains("NanoTon"), "{account}");
    let (_, account) = page(format!("{base}/account?address={}", wallet.address())).await;
    assert!(account.contains("a wallet, seqno 1"), "{account}");
    assert!(
        !account.contains("http://") && !account.contains("https://"),
        "{account}"
    );
    let (_, block) = page(format!("{base}/block?seqno={}", given.block)).await;
    assert!(block.contains(&given.hash.to_string()));
    for (path, expected) in [
        ("/block?seqno=4000000000", 404),
        ("/block?seqno=%3Cscript%3E", 400),
        ("/account?address=%3Cscript%3E", 400),
        ("/transaction?account=0:00&lt=1", 400),
    ] {
        let (status, body) = page(format!("{base}{path}")).await;
        assert_eq!(status, expected, "{path}: {body}");
        assert!(!body.contains("<script>"), "{body}");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_faucet_gives_by_call_and_by_form() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), true).await;
    let receiver = TonAddress {
        workchain: 0,
        hash: [8; 32],
    };
    running.client.give(receiver, ton(2)).await.unwrap();
    let form = |body: String| {
        http()
            .post(format!("{}/faucet", running.base))
            .body(body)
            .send()
    };
    let done = form(format!("address={receiver}&nanoton=5")).await.unwrap();
    assert_eq!(done.status(), 200, "after a redirect to the transaction");
    assert!(done.url().path().starts_with("/transaction"));
    let coded = receiver.to_string().replace(':', "%3A");
    form(format!("address={coded}&nanoton=5")).await.unwrap();
    let account = running.client.account(receiver).await.unwrap().unwrap();
    assert_eq!(account.balance.nano(), ton(2).nano() + 10);
    for bad in ["", "address=0:1&nanoton=5", "\u{0}", "nanoton=-1"] {
        assert_eq!(form(bad.to_owned()).await.unwrap().status(), 400);
    }
    let greedy = running
        .client
        .give(receiver, NanoTon::from_nano(u64::MAX))
        .await;
    assert!(
        matches!(greedy, Err(ChainError::Encoding { .. })),
        "{greedy:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn faults_are_set_for_one_liteserver_or_for_all() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), true).await;
    let slow = Faults {
        delay_ms: 5,
        forked_head: Some(Fork::Signed),
        ..Faults::default()
    };
    let all = running.client.set_faults(None, slow).await.unwrap();
    assert_eq!(all.liteservers, [slow]);
    let one = running
        .client
        .set_faults(Some(0), Faults::default())
        .await
        .unwrap();
    assert_eq!(one.liteservers, [Faults::default()]);
    let none = running.client.set_faults(Some(1), slow).await;
    assert!(matches!(none, Err(ChainError::Encoding { .. })), "{none:?}");
    let unknown = http()
        .post(format!("{}/dev/fault", running.base))
        .header("content-type", "application/json")
        .body(r#"{"faults":{"on_fire":true}}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(unknown.status(), 400);
    running.stop().await;
}

#[tokio::test]
async fn the_config_names_the_same_servers_and_blocks_in_the_directory_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for _ in 0..2 {
        let running = Running::start(directory.path(), true).await;
        let served: serde_json::Value = http()
            .get(format!("{}/global.config.json", running.base))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let written = std::fs::read(directory.path().join("global.config.json")).unwrap();
        assert_eq!(
            served,
            serde_json::from_slice::<serde_json::Value>(&written).unwrap()
        );
        assert_eq!(served["validator"]["init_block"]["seqno"], 1);
        assert_eq!(served["liteservers"][0]["ip"], 0x7f00_0001);
        let block = running.client.key_block(true).await.unwrap();
        assert_eq!(running.client.head().await.unwrap(), block);
        names.push((
            served["validator"].clone(),
            served["liteservers"][0]["id"].clone(),
        ));
        running.stop().await;
    }
    assert_eq!(names[0], names[1]);
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
