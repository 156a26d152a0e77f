//! The global config that clients start from (`config.global` of TL scheme `ton_api.tl`, as JSON).

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::Devnet;
use super::super::record::{BlockRecord, Place};
use super::Liteserver;
use crate::chain::ChainError;

/// Number of the block that clients start from: the first one, a key block.
const INIT_BLOCK: u32 = 1;

/// The config of a devnet with these servers. Servers that listen everywhere, or on an IPv6 address, which the format
/// cannot say, are named as 127.0.0.1.
pub fn global_config(devnet: &Devnet, servers: &[Liteserver]) -> Result<Value, ChainError> {
    let servers: Vec<Value> = servers
        .iter()
        .map(|server| {
            let address = match server.address().ip() {
                IpAddr::V4(address) if !address.is_unspecified() => address,
                _ => Ipv4Addr::LOCALHOST,
            };
            json!({
                // A signed 32-bit integer, most significant byte first.
                "ip": i32::from_be_bytes(address.octets()),
                "port": server.address().port(),
                "id": { "@type": "pub.ed25519", "key": STANDARD.encode(server.public_key()) },
            })
        })
        .collect();
    Ok(json!({
        "@type": "config.global",
        "liteservers": servers,
        "validator": {
            "@type": "validator.config.global",
            "zero_state": block_id(&devnet.zero),
            "init_block": block_id(&devnet.record(INIT_BLOCK)?),
        },
    }))
}

fn block_id(record: &BlockRecord) -> Value {
    let id = record.id(Place::Master);
    json!({
        "workchain": id.shard.workchain(),
        "shard": id.shard.prefix().cast_signed(),
        "seqno": id.seqno,
        "root_hash": STANDARD.encode(id.root_hash.0),
        "file_hash": STANDARD.encode(id.file_hash.0),
    })
}
