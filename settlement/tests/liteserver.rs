//! The devnet's liteservers: what ton-net proves, what it refuses, and what a client of the bare protocol gets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use adnl::AdnlPeer;
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::LocalChain;
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::devnet::{
    self, Devnet, Faults, Fork, Liteserver, MAX_DELAY_MS, MAX_LINKS, global_config,
};
use futures::{SinkExt, StreamExt};
use support::ton;
use tokio::net::TcpStream;
use ton_liteapi::tl::adnl::Message;
use ton_liteapi::tl::common::{AccountId, BlockIdExt, BlockLink, Int256};
use ton_liteapi::tl::request::{
    GetAccountState, GetBlock, GetBlockProof, GetState, LiteQuery, Request, WaitMasterchainSeqno,
    WrappedRequest,
};
use ton_liteapi::tl::response::{PartialBlockProof, Response};
use tycho_types::boc::Boc;
use tycho_types::models::{Block, MsgInfo, OwnedMessage};

fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u32::try_from(since.as_secs()).unwrap()
}

fn somebody(n: u8) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [n; 32],
    }
}

struct Net {
    chain: LocalChain,
    servers: Vec<Liteserver>,
}

impl Net {
    /// A chain of some blocks, with a gift of 7 TON in it, and this many liteservers.
    async fn new(servers: u32) -> Self {
        let chain = LocalChain::instant(Devnet::in_memory(now()).unwrap());
        {
            let mut devnet = chain.devnet();
            devnet.give(somebody(1), ton(7_000), now()).unwrap();
            devnet.advance(now()).unwrap();
        }
        Self::of(chain, servers).await
    }

    async fn of(chain: LocalChain, count: u32) -> Self {
        let mut servers = Vec::new();
        for number in 0..count {
            let address = "127.0.0.1:0".parse().unwrap();
            servers.push(
                Liteserver::bind(chain.clone(), address, number)
                    .await
                    .unwrap(),
            );
        }
        Self { chain, servers }
    }

    fn config(&self) -> ton_net::Config {
        let config = global_config(&self.chain.devnet(), &self.servers).unwrap();
        ton_net::Config::from_json(&config.to_string()).unwrap()
    }

    async fn ton_net(&self) -> ton_net::Client {
        ton_net::Client::connect(&self.config()).await.unwrap()
    }

    /// A client that believes everything.
    async fn bare(&self, server: usize) -> Bare {
        let server = &self.servers[server];
        let peer = AdnlPeer::connect(server.public_key(), server.address());
        Bare(peer.await.unwrap())
    }
}

struct Bare(AdnlPeer<TcpStream>);

impl Bare {
    /// The answer to one query; `None` where the connection ended.
    async fn query(&mut self, wrapped_request: WrappedRequest) -> Option<Response> {
        let query_id = Int256([8; 32]);
        let query = LiteQuery { wrapped_request };
        let message = tl_proto::serialize(Message::Query { query_id, query });
        self.0.send(message.into()).await.ok()?;
        let frame = self.0.next().await?.ok()?;
        match tl_proto::deserialize::<Message>(&frame).unwrap() {
            Message::Answer { answer, .. } => Some(answer),
            other => panic!("{other:?}"),
        }
    }
}

async fn ask(client: &mut Bare, request: Request) -> Response {
    client
        .query(WrappedRequest {
            wait_masterchain_seqno: None,
            request,
        })
        .await
        .unwrap()
}

async fn head(client: &mut Bare) -> BlockIdExt {
    match ask(client, Request::GetMasterchainInfo).await {
        Response::MasterchainInfo(info) => info.last,
        other => panic!("{other:?}"),
    }
}

fn account_query(id: BlockIdExt, address: TonAddress) -> Request {
    Request::GetAccountState(GetAccountState {
        id,
        account: AccountId {
            workchain: address.workchain.into(),
            id: Int256(address.hash),
        },
    })
}

fn proof_query(known_block: BlockIdExt, target_block: Option<BlockIdExt>) -> Request {
    Request::GetBlockProof(GetBlockProof {
        mode: (),
        known_block,
        target_block,
        allow_weak_target: None,
        base_block_from_request: None,
    })
}

async fn proof(client: &mut Bare, known: BlockIdExt, target: BlockIdExt) -> PartialBlockProof {
    match ask(client, proof_query(known, Some(target))).await {
        Response::PartialBlockProof(proof) => proof,
        other => panic!("{other:?}"),
    }
}

fn error_code(response: &Response) -> i32 {
    match response {
        Response::Error(error) => error.code,
        other => panic!("{other:?}"),
    }
}

fn address(of: TonAddress) -> ton_net::Address {
    ton_net::Address::parse(&of.to_string()).unwrap()
}

#[tokio::test]
async fn ton_net_walks_from_the_config_to_a_proved_account() {
    let net = Net::new(1).await;
    let mut client = net.ton_net().await;
    for holder in [somebody(1), devnet::faucet().unwrap().address()] {
        let account = client.account(&address(holder)).await.unwrap();
        let expected = net.chain.devnet().account(holder).unwrap().unwrap().balance;
        assert_eq!(account.value().balance.to_string(), nanoton(expected));
    }
    let nobody = client.account(&address(somebody(9))).await.unwrap();
    assert!(!nobody.value().exists());
    // A masterchain account is proved without a shard.
    let master = TonAddress {
        workchain: -1,
        ..somebody(3)
    };
    net.chain.devnet().give(master, ton(5), now()).unwrap();
    let account = client.account(&address(master)).await.unwrap();
    assert_eq!(account.value().balance.to_string(), nanoton(ton(5)));
}

/// As ton-net prints an amount.
fn nanoton(amount: NanoTon) -> String {
    amount.nano().to_string()
}

#[tokio::test]
async fn ton_net_follows_validators_that_change_over_more_links_than_one_answer_holds() {
    let net = Net::new(1).await;
    {
        let mut devnet = net.chain.devnet();
        for n in 0..u32::try_from(MAX_LINKS).unwrap() + 3 {
            devnet.request_key_block(n % 2 == 0);
            devnet.advance(now()).unwrap();
            devnet.advance(now()).unwrap();
        }
    }
    let mut client = net.ton_net().await;
    let report = client.sync().await.unwrap();
    assert_eq!(report.links, MAX_LINKS + 4);
    assert_eq!(report.rounds, 2);
    assert_eq!(
        &report.head.root_hash,
        net.chain.devnet().head().hash.as_bytes(),
        "the beacon is the root hash of a block that validators signed"
    );
}

#[tokio::test]
async fn ton_net_refuses_a_lying_server() {
    let net = Net::new(1).await;
    let server = &net.servers[0];
    let mut client = net.ton_net().await;
    let honest = client.sync().await.unwrap().head;
    server.set_faults(Faults {
        wrong_proofs: true,
        ..Faults::default()
    });
    let state = client.account_at(&address(somebody(1)), &honest).await;
    assert!(matches!(state, Err(ton_net::Error::Proof(_))), "{state:?}");
    net.chain.devnet().advance(now()).unwrap();
    let walk = client.sync().await;
    assert!(matches!(walk, Err(ton_net::Error::Sync(_))), "{walk:?}");
    server.set_faults(Faults {
        forked_head: Some(Fork::Unsigned),
        ..Faults::default()
    });
    let walk = client.sync().await;
    assert!(matches!(walk, Err(ton_net::Error::Sync(_))), "{walk:?}");
    server.set_faults(Faults {
        unknown_signatures: true,
        ..Faults::default()
    });
    let upgraded = client.sync().await;
    assert!(upgraded.is_err(), "{upgraded:?}");
    server.set_faults(Faults::default());
    let mut client = net.ton_net().await;
    client.account(&address(somebody(1))).await.unwrap();
}

#[tokio::test]
async fn a_signed_fork_is_proved_like_any_block_and_only_another_server_tells() {
    let net = Net::new(2).await;
    net.servers[1].set_faults(Faults {
        forked_head: Some(Fork::Signed),
        ..Faults::default()
    });
    let (mut honest, mut forked) = (net.bare(0).await, net.bare(1).await);
    let (ours, theirs) = (head(&mut honest).await, head(&mut forked).await);
    assert_eq!(ours.seqno, theirs.seqno);
    assert_ne!(ours.root_hash, theirs.root_hash);
    let refused = ask(&mut honest, account_query(theirs.clone(), somebody(1))).await;
    assert_eq!(error_code(&refused), 651);
    // By itself the forking server proves everything.
    let alone = Net {
        chain: net.chain.clone(),
        servers: net.servers.into_iter().skip(1).collect(),
    };
    let mut client = alone.ton_net().await;
    let proved = client.account(&address(somebody(1))).await.unwrap();
    assert_eq!(proved.anchor().root_hash, theirs.root_hash.0);
    assert_eq!(proved.value().balance.to_string(), nanoton(ton(7_000)));
}

#[tokio::test]
async fn a_dropped_message_is_accepted_and_never_comes() {
    let net = Net::new(1).await;
    let faucet = devnet::faucet().unwrap();
    let message = faucet
        .transfer(1, now() + 600, &[OutMessage::transfer(somebody(2), ton(1))])
        .unwrap();
    let mut client = net.bare(0).await;
    let send = |body: &[u8]| {
        Request::SendMessage(ton_liteapi::tl::request::SendMessage {
            body: body.to_vec(),
        })
    };
    net.servers[0].set_faults(Faults {
        drop_sends: true,
        ..Faults::default()
    });
    for faults in [net.servers[0].faults(), Faults::default()] {
        net.servers[0].set_faults(faults);
        let sent = ask(&mut client, send(&message)).await;
        assert!(matches!(sent, Response::SendMsgStatus(ref status) if status.status == 1));
        net.chain.devnet().advance(now()).unwrap();
        let arrived = net.chain.devnet().account(somebody(2)).unwrap();
        assert_eq!(arrived.is_some(), !faults.drop_sends);
    }
    let replayed = ask(&mut client, send(&message)).await;
    assert_eq!(error_code(&replayed), 0);
    let garbage = ask(&mut client, send(b"not a bag of cells")).await;
    assert_eq!(error_code(&garbage), 0);
}

#[tokio::test]
async fn a_server_that_is_down_closes_connections_and_a_slow_one_answers_after_the_others() {
    let net = Net::new(2).await;
    let (mut client, mut other) = (net.bare(0).await, net.bare(1).await);
    net.servers[0].set_faults(Faults {
        delay_ms: MAX_DELAY_MS,
        ..Faults::default()
    });
    let request = || WrappedRequest {
        wait_masterchain_seqno: None,
        request: Request::GetTime,
    };
    {
        let slow = client.query(request());
        tokio::pin!(slow);
        tokio::select! {
            _ = &mut slow => panic!("the slow one was first"),
            _ = head(&mut other) => {}
        }
        net.servers[0].set_faults(Faults {
            down: true,
            ..Faults::default()
        });
        assert!(
            slow.await.is_none(),
            "the connection ends, however slow it was"
        );
    }
    net.servers[0].set_faults(Faults::default());
    head(&mut net.bare(0).await).await;
}

#[tokio::test]
async fn a_query_waits_for_the_block_that_it_names() {
    let net = Net::new(1).await;
    let mut client = net.bare(0).await;
    let next = head(&mut client).await.seqno + 1;
    let waiting = |seqno, timeout_ms| WrappedRequest {
        wait_masterchain_seqno: Some(WaitMasterchainSeqno { seqno, timeout_ms }),
        request: Request::GetMasterchainInfo,
    };
    let early = client.query(waiting(next, 1)).await.unwrap();
    assert_eq!(error_code(&early), 652);
    let (answer, _) = tokio::join!(client.query(waiting(next, 20_000)), async {
        tokio::task::yield_now().await;
        net.chain.devnet().advance(now()).unwrap()
    });
    let Response::MasterchainInfo(info) = answer.unwrap() else {
        panic!("no head");
    };
    assert_eq!(info.last.seqno, next);
}

#[tokio::test]
async fn proofs_lead_back_too_and_over_a_restart_only_from_key_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let (early, late, key) = {
        let chain = LocalChain::instant(Devnet::open(directory.path(), now()).unwrap());
        let net = Net::of(chain, 1).await;
        let mut client = net.bare(0).await;
        net.chain.devnet().advance(now()).unwrap();
        let early = head(&mut client).await;
        net.chain.devnet().request_key_block(true);
        net.chain.devnet().advance(now()).unwrap();
        let key = head(&mut client).await;
        net.chain.devnet().advance(now()).unwrap();
        let late = head(&mut client).await;
        let back = proof(&mut client, late.clone(), early.clone()).await;
        assert!(back.complete);
        assert!(matches!(
            back.steps[..],
            [BlockLink::BlockLinkBack {
                to_key_block: false,
                ..
            }]
        ));
        // From an ordinary block forward: back to its key block, on to the next one, on to the end.
        let around = proof(&mut client, early.clone(), late.clone()).await;
        assert!(around.complete);
        assert!(matches!(
            around.steps[..],
            [
                BlockLink::BlockLinkBack {
                    to_key_block: true,
                    ..
                },
                BlockLink::BlockLinkForward {
                    to_key_block: true,
                    ..
                },
                BlockLink::BlockLinkForward {
                    to_key_block: false,
                    ..
                },
            ]
        ));
        let same = proof(&mut client, early.clone(), early.clone()).await;
        assert!(same.complete && same.steps.is_empty());
        net.servers[0].close().await;
        (early, late, key)
    };
    let chain = LocalChain::instant(Devnet::open(directory.path(), 1).unwrap());
    let net = Net::of(chain, 1).await;
    let mut client = net.bare(0).await;
    assert_eq!(head(&mut client).await, late);
    let Response::BlockData(block) = ask(
        &mut client,
        Request::GetBlock(GetBlock { id: early.clone() }),
    )
    .await
    else {
        panic!("an old block is gone");
    };
    assert_eq!(Boc::file_hash(&block.data).0, early.file_hash.0);
    let gone = ask(&mut client, account_query(early.clone(), somebody(1))).await;
    assert_eq!(error_code(&gone), 651);
    let gone = ask(&mut client, proof_query(early, Some(late.clone()))).await;
    assert_eq!(error_code(&gone), 651);
    net.chain.devnet().advance(now()).unwrap();
    let onward = head(&mut client).await;
    let forward = proof(&mut client, key, onward).await;
    assert!(forward.complete && forward.steps.len() == 1);
}

#[tokio::test]
async fn what_strangers_ask_is_answered_or_refused_and_the_server_lives() {
    let net = Net::new(1).await;
    let mut client = net.bare(0).await;
    let last = head(&mut client).await;
    let with = |change: fn(&mut BlockIdExt)| {
        let mut id = last.clone();
        change(&mut id);
        id
    };
    let unknown = [
        with(|id| id.seqno += 1),
        with(|id| id.seqno = u32::MAX),
        with(|id| id.root_hash.0[0] ^= 1),
        with(|id| id.file_hash.0[0] ^= 1),
        with(|id| id.workchain = 7),
        with(|id| id.workchain = i32::MIN),
        with(|id| id.shard = 1),
    ];
    for id in unknown {
        for request in [
            Request::GetBlock(GetBlock { id: id.clone() }),
            Request::GetState(GetState { id: id.clone() }),
            account_query(id.clone(), somebody(1)),
            proof_query(id.clone(), Some(last.clone())),
            proof_query(last.clone(), Some(id.clone())),
        ] {
            assert_eq!(error_code(&ask(&mut client, request).await), 651);
        }
    }
    let elsewhere = AccountId {
        workchain: 3,
        id: Int256([1; 32]),
    };
    let request = Request::GetAccountState(GetAccountState {
        id: last.clone(),
        account: elsewhere,
    });
    assert_eq!(error_code(&ask(&mut client, request).await), 651);
    head(&mut client).await;
}

#[tokio::test]
async fn bytes_that_are_no_query_end_a_connection_at_most() {
    let net = Net::new(1).await;
    let server = &net.servers[0];
    let mut frames: Vec<Vec<u8>> = vec![
        vec![],
        vec![1, 2, 3],
        vec![0x7a, 0xf9, 0x8b, 0xb4],
        [&[0x7a, 0xf9, 0x8b, 0xb4][..], &[9; 32], &[0xff; 40]].concat(),
        // A query of four bytes that says nothing: answered with an error.
        [
            &[0x7a, 0xf9, 0x8b, 0xb4][..],
            &[9; 32],
            &[4, 1, 2, 3, 4, 0, 0, 0],
        ]
        .concat(),
    ];
    frames.push(vec![0; devnet::MAX_QUERY_BYTES + 1]);
    for frame in frames {
        let mut peer = AdnlPeer::connect(server.public_key(), server.address())
            .await
            .unwrap();
        peer.send(frame.into()).await.unwrap();
        // A ping is still answered, except after the frame that is too long.
        let _ = peer
            .send([&[0x9a, 0x2b, 0x08, 0x4d][..], &[7; 8]].concat().into())
            .await;
        let _ = peer.next().await;
    }
    head(&mut net.bare(0).await).await;
}

#[tokio::test]
async fn every_coin_that_enters_or_leaves_a_block_is_in_its_value_flow() {
    let net = Net::new(1).await;
    let faucet = devnet::faucet().unwrap();
    {
        let mut devnet = net.chain.devnet();
        devnet.set_limits(devnet::Limits {
            transactions_per_block: 2,
            ..devnet::Limits::default()
        });
        let master = TonAddress {
            workchain: -1,
            ..somebody(4)
        };
        let gifts = [somebody(5), master, somebody(6), somebody(7)]
            .map(|to| OutMessage::transfer(to, ton(3)));
        devnet
            .submit(&faucet.transfer(1, now() + 600, &gifts).unwrap())
            .unwrap();
        for _ in 0..4 {
            devnet.advance(now()).unwrap();
        }
        assert_eq!(devnet.account(master).unwrap().unwrap().balance, ton(3));
        let supply = devnet.supply().unwrap();
        assert_eq!(supply.in_flight, 0);
        assert_eq!(supply.minted, supply.balances + supply.collected);
    }
    let mut client = net.bare(0).await;
    let mut id = head(&mut client).await;
    let mut carried = 0;
    while id.seqno > 0 {
        for id in [id.clone(), base_block(&mut client, &id).await] {
            let Response::BlockData(data) =
                ask(&mut client, Request::GetBlock(GetBlock { id })).await
            else {
                panic!("no block");
            };
            let block: Block = Boc::decode(&data.data).unwrap().parse().unwrap();
            let flow = block.load_value_flow().unwrap();
            assert!(flow.validate().unwrap(), "{flow:?}");
            carried += flow.exported.tokens.into_inner();
            for entry in block
                .load_extra()
                .unwrap()
                .account_blocks
                .load()
                .unwrap()
                .iter()
            {
                let (_, _, block) = entry.unwrap();
                for transaction in block.transactions.values() {
                    let (_, transaction) = transaction.unwrap();
                    let transaction = transaction.load().unwrap();
                    let message = transaction.in_msg.unwrap().parse::<OwnedMessage>().unwrap();
                    assert!(!matches!(message.info, MsgInfo::ExtOut(_)));
                }
            }
        }
        id = previous(&mut client, &id).await;
    }
    assert!(carried > 0, "no message crossed a border");
}

/// The base-chain block in a masterchain block.
async fn base_block(client: &mut Bare, master: &BlockIdExt) -> BlockIdExt {
    match ask(client, account_query(master.clone(), somebody(1))).await {
        Response::AccountState(state) => state.shardblk,
        other => panic!("{other:?}"),
    }
}

async fn previous(client: &mut Bare, id: &BlockIdExt) -> BlockIdExt {
    let request = Request::GetBlock(GetBlock { id: id.clone() });
    let Response::BlockData(data) = ask(client, request).await else {
        panic!("no block");
    };
    let block: Block = Boc::decode(&data.data).unwrap().parse().unwrap();
    let info = block.load_info().unwrap();
    let tycho_types::models::PrevBlockRef::Single(previous) = info.load_prev_ref().unwrap() else {
        panic!("two predecessors");
    };
    BlockIdExt {
        workchain: id.workchain,
        shard: id.shard,
        seqno: previous.seqno,
        root_hash: Int256(previous.root_hash.0),
        file_hash: Int256(previous.file_hash.0),
    }
}
