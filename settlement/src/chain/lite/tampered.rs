//! No flipped bit of an answer changes what is believed: true answers of a devnet's liteserver, each damaged at many
//! places, are refused or read as before.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cocoon_protocol::{NanoTon, TonAddress};
use ton_net_block::BlockLink;

use super::history::{self, Place};
use super::server::Server;
use super::wire::{self, BlockId, Request};
use super::{GlobalConfig, LiteError, LiteSettings, proof, walk};
use crate::chain::LocalChain;
use crate::contract::OutMessage;
use crate::devnet::{Devnet, Liteserver, faucet, global_config};

/// Places that are damaged in one answer.
const PLACES: usize = 80;

struct Scene {
    server: Server,
    settings: LiteSettings,
    init: BlockId,
    head: BlockId,
    _liteserver: Liteserver,
}

impl Scene {
    async fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = u32::try_from(now.as_secs()).unwrap();
        let chain = LocalChain::instant(Devnet::in_memory(now).unwrap());
        for _ in 0..3 {
            let to = TonAddress {
                workchain: 0,
                hash: [2; 32],
            };
            let message = OutMessage::transfer(to, NanoTon::from_nano(1_000_000));
            faucet().unwrap().send(&chain, &[message]).await.unwrap();
        }
        chain.devnet().request_key_block(true);
        chain.devnet().advance(now).unwrap();
        chain.devnet().advance(now).unwrap();
        let liteserver = Liteserver::bind(chain.clone(), "127.0.0.1:0".parse().unwrap(), 0)
            .await
            .unwrap();
        let json = global_config(&chain.devnet(), std::slice::from_ref(&liteserver)).unwrap();
        let config = GlobalConfig::parse(json.to_string().as_bytes()).unwrap();
        let mut scene = Self {
            server: Server::new(config.servers[0].clone()),
            settings: LiteSettings::default(),
            init: config.init_block,
            head: config.init_block,
            _liteserver: liteserver,
        };
        scene.head = wire::masterchain_info(&scene.ask(Request::MasterchainInfo).await).unwrap();
        scene
    }

    async fn ask(&self, request: Request<'_>) -> Vec<u8> {
        self.server
            .ask(&request, Duration::from_secs(10), &self.settings)
            .await
            .unwrap()
    }
}

/// Reads `answer` whole, then with one bit turned at each of many places.
fn damaged<T: PartialEq + Debug>(
    name: &str,
    answer: &[u8],
    read: impl Fn(&[u8]) -> Result<T, LiteError>,
) {
    let truth = read(answer).unwrap();
    let mut refused = 0usize;
    let step = (answer.len() / PLACES).max(1);
    for (turn, at) in (0..answer.len()).step_by(step).enumerate() {
        let mut bytes = answer.to_vec();
        bytes[at] ^= 1 << (turn % 8);
        match read(&bytes) {
            Ok(found) => assert_eq!(found, truth, "{name}: bit {} of byte {at}", turn % 8),
            Err(_) => refused += 1,
        }
    }
    for end in [0, 1, answer.len() / 2, answer.len() - 1] {
        assert!(read(&answer[..end]).is_err(), "{name} cut at {end}");
    }
    // Most of an answer matters; what does not is ids that are not looked at.
    assert!(refused > 0, "{name}: nothing was refused");
}

#[tokio::test]
async fn no_flipped_bit_changes_what_is_believed() {
    let scene = Scene::new().await;
    let (init, head) = (scene.init, scene.head);

    let links = scene
        .ask(Request::BlockProof {
            known: &init,
            target: &head,
        })
        .await;
    damaged("block proof", &links, |bytes| {
        walk::check(&init, &wire::block_proof(bytes)?)
    });

    let header = scene.ask(Request::BlockHeader(&head)).await;
    damaged("header", &header, |bytes| {
        proof::header(&head, wire::block_header(bytes)?.1)
    });

    let address = faucet().unwrap().address();
    let account = scene
        .ask(Request::Account {
            block: &head,
            address,
        })
        .await;
    damaged("account", &account, |bytes| {
        proof::account(&head, address, wire::account(bytes)?)
    });
    let nobody = TonAddress {
        workchain: 0,
        hash: [0x55; 32],
    };
    let absent = scene
        .ask(Request::Account {
            block: &head,
            address: nobody,
        })
        .await;
    damaged("absence", &absent, |bytes| {
        proof::account(&head, nobody, wire::account(bytes)?)
    });
    // What proves one address's account proves nothing of another's.
    for (answer, other) in [(&account, nobody), (&absent, address)] {
        let answer = wire::account(answer).unwrap();
        assert!(proof::account(&head, other, answer).is_err());
    }

    let config = scene.ask(Request::ConfigAll(&head)).await;
    damaged("configuration", &config, |bytes| {
        let (state, config) = wire::config_info(bytes)?;
        let params = proof::config(&head, state, config)?;
        Ok(params.as_dict().root().clone())
    });

    let old = scene.ask(Request::LookupBlock(2)).await;
    let (old, _) = wire::block_header(&old).unwrap();
    // A state that is true, but of another block.
    let older = scene.ask(Request::ConfigAll(&old)).await;
    let (state, _) = wire::config_info(&config).unwrap();
    let (_, other) = wire::config_info(&older).unwrap();
    assert!(proof::config(&head, state, other).is_err());
    let back = scene
        .ask(Request::BlockProof {
            known: &head,
            target: &old,
        })
        .await;
    damaged("old block", &back, |bytes| {
        proof::backwards(&head, &old, &wire::block_proof(bytes)?)
    });
    let another = BlockId {
        root_hash: [7; 32],
        ..old
    };
    let links = wire::block_proof(&back).unwrap();
    assert!(proof::backwards(&head, &another, &links).is_err());
    // The header is true, but no state lists a block with this file hash.
    let unlisted = BlockId {
        file_hash: [7; 32],
        ..old
    };
    let mut forged = links.clone();
    for step in &mut forged.steps {
        if let BlockLink::Back { to, .. } = step {
            *to = (&unlisted).into();
        }
    }
    assert!(proof::backwards(&head, &unlisted, &forged).is_err());
    assert!(proof::backwards(&another, &old, &links).is_err());

    let shard = proof::account(&head, address, wire::account(&account).unwrap())
        .unwrap()
        .unwrap();
    let place = Place {
        lt: shard.last_trans_lt,
        hash: shard.last_trans_hash.0,
    };
    let list = scene
        .ask(Request::Transactions {
            count: history::PER_ANSWER,
            address,
            lt: place.lt,
            hash: &place.hash,
        })
        .await;
    damaged("transactions", &list, |bytes| {
        let (cells, next) = history::read(address, place, bytes)?;
        // The blocks are the server's word.
        let cells: Vec<_> = cells.into_iter().map(|(cell, _)| cell).collect();
        Ok((cells, next))
    });
    for other in [
        Place {
            lt: place.lt + 1,
            ..place
        },
        Place {
            hash: [9; 32],
            ..place
        },
    ] {
        assert!(history::read(address, other, &list).is_err());
    }
    assert!(history::read(nobody, place, &list).is_err());
}
