//! TON's global configuration file: which liteservers there are, and the block that trust starts from.
//!
//! The list of servers needs no trust, since every answer is checked. The `init_block` is the root of trust: whoever can
//! change it chooses the chain that this node believes. So take the file from where you would take the program.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use serde::Deserialize;

use super::wire::BlockId;
use crate::chain::ChainError;

/// Largest file that is read, bytes. Mainnet's is 30 kB.
const MAX_CONFIG_BYTES: usize = 1024 * 1024;
/// Servers beyond these are not used.
pub const MAX_SERVERS: usize = 64;
/// Where a devnet named by its bare address serves the file.
pub const DEVNET_PATH: &str = "/global.config.json";
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// A liteserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    pub address: SocketAddr,
    /// Ed25519 key that the server proves it has.
    pub key: [u8; 32],
}

/// What is used of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalConfig {
    /// At least one, at most [`MAX_SERVERS`].
    pub servers: Vec<ServerAddress>,
    /// A key block of the masterchain.
    pub init_block: BlockId,
    /// Root hash of the zero state: names the network.
    pub zero_state: [u8; 32],
}

#[derive(Deserialize)]
struct File {
    liteservers: Vec<Server>,
    validator: Validator,
}

#[derive(Deserialize)]
struct Server {
    /// A signed 32-bit number, or the same bits unsigned.
    ip: i64,
    port: u16,
    id: Key,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "@type")]
    kind: String,
    key: String,
}

#[derive(Deserialize)]
struct Validator {
    zero_state: Block,
    init_block: Block,
}

#[derive(Deserialize)]
struct Block {
    workchain: i32,
    shard: i64,
    seqno: u32,
    root_hash: String,
    file_hash: String,
}

impl GlobalConfig {
    /// From the URL or the path of a file. A URL without a path, as `cocoon devnet` prints it, means the file at
    /// [`DEVNET_PATH`].
    pub async fn load(place: &str) -> Result<Self, ChainError> {
        let bad = |reason: String| ChainError::BadAnswer {
            endpoint: place.to_owned(),
            reason,
        };
        let text = text_at(place).await?;
        Self::parse(&text).map_err(bad)
    }

    /// From the file's content.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(json)
            .map_err(|error| format!("not a TON global configuration: {error}"))?;
        let mut servers = Vec::new();
        for server in file.liteservers.iter().take(MAX_SERVERS) {
            if server.id.kind != "pub.ed25519" {
                // A newer kind of key is another server's matter.
                continue;
            }
            let bits = i32::try_from(server.ip)
                .map(i32::cast_unsigned)
                .or_else(|_| u32::try_from(server.ip))
                .map_err(|_| format!("{} is no IPv4 address", server.ip))?;
            servers.push(ServerAddress {
                address: (Ipv4Addr::from_bits(bits), server.port).into(),
                key: hash("a liteserver's key", &server.id.key)?,
            });
        }
        if servers.is_empty() {
            return Err("it names no liteserver with an Ed25519 key".to_owned());
        }
        let init_block = block(&file.validator.init_block)?;
        if !init_block.is_masterchain() {
            return Err("its init_block is not in the masterchain".to_owned());
        }
        Ok(Self {
            servers,
            init_block,
            zero_state: hash("zero_state", &file.validator.zero_state.root_hash)?,
        })
    }
}

/// The file's bytes, at most [`MAX_CONFIG_BYTES`] of them; `place` as for [`GlobalConfig::load`].
pub(in crate::chain) async fn text_at(place: &str) -> Result<Vec<u8>, ChainError> {
    if place.starts_with("http://") || place.starts_with("https://") {
        return fetch(place).await;
    }
    read(Path::new(place.strip_prefix("file://").unwrap_or(place))).map_err(|error| {
        ChainError::Unreachable {
            endpoint: place.to_owned(),
            attempts: 1,
            reason: error.to_string(),
        }
    })
}

fn block(block: &Block) -> Result<BlockId, String> {
    Ok(BlockId {
        workchain: block.workchain,
        shard: block.shard.cast_unsigned(),
        seqno: block.seqno,
        root_hash: hash("a root_hash", &block.root_hash)?,
        file_hash: hash("a file_hash", &block.file_hash)?,
    })
}

fn hash(what: &str, text: &str) -> Result<[u8; 32], String> {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("{what} is not 32 bytes in base64"))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_CONFIG_BYTES).unwrap_or(u64::MAX);
    std::fs::File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(std::io::Error::other(format!(
            "larger than {MAX_CONFIG_BYTES} bytes"
        )));
    }
    Ok(bytes)
}

/// The URL that is asked: a bare address gets the devnet's path.
fn address_of(place: &str) -> Result<reqwest::Url, String> {
    let mut url = reqwest::Url::parse(place).map_err(|error| error.to_string())?;
    if url.path() == "/" || url.path().is_empty() {
        url.set_path(DEVNET_PATH);
    }
    Ok(url)
}

async fn fetch(place: &str) -> Result<Vec<u8>, ChainError> {
    let unreachable = |reason: String| ChainError::Unreachable {
        endpoint: place.to_owned(),
        attempts: 1,
        reason,
    };
    let url = address_of(place).map_err(|reason| ChainError::BadAnswer {
        endpoint: place.to_owned(),
        reason,
    })?;
    // A proxy of the environment would not find what is on this machine.
    let local = url.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    });
    let mut http = reqwest::Client::builder().timeout(FETCH_TIMEOUT);
    if local {
        http = http.no_proxy();
    }
    let mut response = http
        .build()
        .map_err(|error| unreachable(error.to_string()))?
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| unreachable(error.to_string()))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| unreachable(error.to_string()))?
    {
        if bytes.len().saturating_add(chunk.len()) > MAX_CONFIG_BYTES {
            return Err(ChainError::BadAnswer {
                endpoint: place.to_owned(),
                reason: format!("larger than {MAX_CONFIG_BYTES} bytes"),
            });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The shape of the published files, with one server on a negative `ip`.
    const FILE: &str = r#"{"@type":"config.global","dht":{"k":3},
        "liteservers":[
            {"ip":-2018135749,"port":53312,"id":{"@type":"pub.ed25519","key":"aF91CuUHuuOv9rm2W5+O/4h38M3sRm40DtSdRxQhmtQ="}},
            {"ip":2130706433,"port":1,"id":{"@type":"pub.future","key":"AA=="}}],
        "validator":{"@type":"validator.config.global",
            "zero_state":{"workchain":-1,"shard":-9223372036854775808,"seqno":0,
                "root_hash":"F6OpKZKqvqeFpXoJCYWiZc0x8yPYSdpREjlzfjIfsFU=","file_hash":"XplPz01CXAps5qeSWUtxcyBfdAo5zVb1N979KLSKD24="},
            "init_block":{"workchain":-1,"shard":-9223372036854775808,"seqno":46894135,
                "root_hash":"MEjmmhLPlG6+ubTPnKYcP/Sz/MiMQBV2OsASBOzBv58=","file_hash":"u9rAtFQ+kUFEnrN8PGO6aenMTiyQTXf1bRfkSs8dG+0="}}}"#;

    #[test]
    fn the_published_form_is_read() {
        let config = GlobalConfig::parse(FILE.as_bytes()).unwrap();
        assert_eq!(config.servers.len(), 1);
        assert_eq!(
            config.servers.first().unwrap().address.to_string(),
            "135.181.177.59:53312"
        );
        assert_eq!(config.init_block.seqno, 46_894_135);
        assert!(config.init_block.is_masterchain());
    }

    #[test]
    fn a_file_that_trust_cannot_start_from_is_refused() {
        for (from, to, says) in [
            (
                "\"workchain\":-1,\"shard\":-9223372036854775808,\"seqno\":46894135",
                "\"workchain\":0,\"shard\":-9223372036854775808,\"seqno\":46894135",
                "masterchain",
            ),
            ("pub.ed25519", "pub.aes", "no liteserver"),
            ("\"init_block\"", "\"other\"", "init_block"),
            ("MEjmmhLPlG6", "MEjmmhLPlG", "root_hash"),
        ] {
            let error = GlobalConfig::parse(FILE.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_bare_address_means_the_devnets_file() {
        for (place, url) in [
            (
                "http://127.0.0.1:8547",
                "http://127.0.0.1:8547/global.config.json",
            ),
            (
                "http://127.0.0.1:8547/",
                "http://127.0.0.1:8547/global.config.json",
            ),
            (
                "https://ton.org/global.config.json",
                "https://ton.org/global.config.json",
            ),
        ] {
            assert_eq!(address_of(place).unwrap().as_str(), url);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = GlobalConfig::parse(bytes);
        });
    }
}
