//! `cocoon devnet`: a chain in one process, with the real contracts in a real TVM.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cocoon_settlement::devnet::{ServeConfig, serve};
use tokio::net::TcpListener;

use super::{CommandError, CommandResult, block_on};
use crate::signals;
use crate::telemetry::{self, LogFormat};

/// Flags of `cocoon devnet`.
#[derive(Clone, Debug, clap::Args)]
pub struct DevnetArgs {
    /// The chain's own directory: made if missing, continued if not
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where it answers. It has no authentication: stay on loopback
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8547")]
    pub listen: SocketAddr,
    /// Where a liteserver answers, for any TON light client; once for each liteserver. The default is the port after
    /// --listen's, which is 127.0.0.1:8548; port 0 is any free one
    #[arg(long, value_name = "IP:PORT")]
    pub liteserver: Vec<SocketAddr>,
    /// Milliseconds between blocks; TON makes one about every 400
    #[arg(long, value_name = "MS", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    pub block_interval_ms: u64,
    /// Make no block until asked to
    #[arg(long)]
    pub paused: bool,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Serves the chain until it is asked to stop. Prints its URL on standard output once it listens, and on standard
/// error what can be found there.
///
/// # Errors
/// A directory or an address that cannot be used.
pub fn run(args: &DevnetArgs) -> CommandResult {
    telemetry::start_logging(args.log_format)?;
    block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .map_err(CommandError::io(format!(
                "cannot listen on {}",
                args.listen
            )))?;
        let address = listener
            .local_addr()
            .map_err(CommandError::io("cannot read the address"))?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the devnet has no authentication and listens beyond loopback");
        }
        println!("http://{address}");
        eprintln!("explorer and faucet   http://{address}/");
        eprintln!("global config         http://{address}/global.config.json");
        let config = ServeConfig {
            block_interval: Duration::from_millis(args.block_interval_ms),
            start_paused: args.paused,
            liteservers: liteservers(args),
            ..ServeConfig::new(args.data_dir.clone())
        };
        serve(config, listener, async {
            if let Err(error) = signals::stop_requested().await {
                tracing::error!(%error, "cannot wait for signals");
            }
        })
        .await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Where liteservers listen. Beside an HTTP interface on any free port there is one on any free port.
fn liteservers(args: &DevnetArgs) -> Vec<SocketAddr> {
    if !args.liteserver.is_empty() {
        return args.liteserver.clone();
    }
    let mut address = args.listen;
    let port = match address.port() {
        0 => 0,
        port => port.wrapping_add(1),
    };
    address.set_port(port);
    vec![address]
}
