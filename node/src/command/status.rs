//! `cocoon status`: a node and what it sees, as tables.

use std::process::ExitCode;

use cocoon_actors::gateway_port::{ChannelStatus, NodeStatus, WorkerStatus};
use cocoon_protocol::units::NanoTon;
use comfy_table::{ContentArrangement, Table};

use super::{CommandResult, block_on};
use crate::gateway_client::{DEFAULT_URL, GatewayClient};
use crate::terminal::{HEADER_LINE, plain, short_peer};

/// Flags of `cocoon status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// The node's HTTP
    #[arg(long, env = "COCOON_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Needed beyond loopback: the content of <data_dir>/api-token
    #[arg(long, env = "COCOON_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints.
///
/// # Errors
/// A node that does not answer.
pub fn run(args: &StatusArgs) -> CommandResult {
    let client = GatewayClient::new(&args.url, args.api_key.clone())?;
    let status = block_on(async { Ok(client.status().await?) })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", render(&status));
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole picture.
#[must_use]
pub fn render(status: &NodeStatus) -> String {
    let mut text = format!(
        "{} {} on {}, {} evidence, up {} s, {} peers\n",
        plain(&status.role),
        plain(&status.peer),
        plain(&status.network),
        plain(&status.trust),
        status.uptime_s,
        status.connected_peers,
    );
    for address in &status.listen {
        text.push_str(&format!("  {}\n", plain(address)));
    }
    if let Some(days) = status.tcb_days_left {
        text.push_str(&format!(
            "this platform counts as up to date for {days:.1} days, unless Intel renews it\n"
        ));
    }
    if let Some(log) = &status.log {
        text.push_str(&format!("log of images {}: ", plain(&log.origin)));
        text.push_str(&if log.split_view {
            "SPLIT VIEW, its keys signed two logs; it admits nobody\n".to_owned()
        } else {
            format!(
                "{} entries, one log as far as anybody has shown\n",
                log.entries
            )
        });
    }
    if let Some(wallet) = &status.wallet {
        let balance = status
            .wallet_balance_nanoton
            .map_or_else(|| "not read yet".to_owned(), ton);
        text.push_str(&format!("wallet {}: {balance}\n", plain(wallet)));
    }
    if let Some(chain) = &status.chain {
        let good = chain.servers.iter().filter(|s| s.demoted.is_none()).count();
        text.push_str(&format!(
            "chain: {}; {good} of {} liteservers in order\n",
            plain(&chain.standing.to_string()),
            chain.servers.len(),
        ));
        for server in &chain.servers {
            if let Some(why) = &server.demoted {
                text.push_str(&format!("  {}: {}\n", plain(&server.address), plain(why)));
            }
        }
    }
    let ended: Vec<_> = status
        .ended_jobs
        .iter()
        .map(|(outcome, count)| format!("{count} {}", plain(outcome)))
        .collect();
    text.push_str(&format!("jobs: {} running", status.running_jobs));
    if !ended.is_empty() {
        text.push_str(&format!(", {}", ended.join(", ")));
    }
    text.push('\n');
    if !status.workers.is_empty() {
        text.push_str(&format!("{}\n", workers(&status.workers)));
    }
    if !status.channels.is_empty() {
        text.push_str(&format!("{}\n", channels(&status.channels)));
    }
    if let Some(settlement) = &status.settlement {
        text.push_str(&format!(
            "ledger {}: batch {} confirmed, {} receipts pending, earned {}, settled {}\n",
            plain(&settlement.ledger),
            settlement.confirmed_batch,
            settlement.pending_receipts,
            ton(settlement.earned_nanoton),
            ton(settlement.settled_nanoton),
        ));
    }
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(HEADER_LINE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// Workers: peer, model, price, evidence, round trip.
#[must_use]
pub fn workers(workers: &[WorkerStatus]) -> Table {
    let mut table = table(&[
        "worker",
        "model",
        "nanoTON in/out",
        "slots",
        "evidence",
        "round trip",
    ]);
    for worker in workers {
        let mut evidence = worker.standing.to_string();
        if let Some((passed, all)) = worker.factors {
            evidence.push_str(&format!(" {passed}/{all}"));
        }
        if let Some(days) = worker.tcb_days_left {
            evidence.push_str(&format!(", TCB {days:.0} d"));
        }
        if let Some(reason) = &worker.reason {
            evidence.push_str(&format!(": {}", plain(reason)));
        }
        table.add_row([
            short_peer(&worker.peer),
            plain(&worker.models.join(", ")).into_owned(),
            format!(
                "{}/{}",
                worker.price_input_nanoton, worker.price_output_nanoton
            ),
            worker.slots.to_string(),
            evidence,
            worker
                .round_trip_ms
                .map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms")),
        ]);
    }
    table
}

/// Channels: peer, contract, deposit, signed, claimed.
#[must_use]
pub fn channels(channels: &[ChannelStatus]) -> Table {
    let mut table = table(&["channel", "with", "deposit", "signed", "claimed"]);
    for channel in channels {
        table.add_row([
            short_peer(&channel.address),
            channel
                .peer
                .as_deref()
                .map_or_else(|| "–".to_owned(), short_peer),
            ton(channel.deposit_nanoton),
            ton(channel.signed_nanoton),
            ton(channel.claimed_nanoton),
        ]);
    }
    table
}

fn ton(nano: u64) -> String {
    NanoTon::from_nano(nano).to_string()
}

#[cfg(test)]
mod tests {
    use cocoon_actors::gateway_port::{ChainServer, ChainStatus, SettlementStatus, WorkerStanding};
    use cocoon_protocol::UnixMillis;
    use cocoon_settlement::chain::ChainStanding;

    use super::*;

    #[test]
    fn the_picture_names_workers_money_and_jobs_and_no_escape_sequence() {
        let status = NodeStatus {
            role: "client".to_owned(),
            peer: "12D3KooWclientpeer".to_owned(),
            running_jobs: 1,
            tcb_days_left: Some(3.5),
            ended_jobs: [("completed".to_owned(), 7)].into(),
            wallet: Some("0:00".to_owned()),
            wallet_balance_nanoton: Some(1_500_000_000),
            workers: vec![WorkerStatus {
                peer: "12D3KooWabcdefgh".to_owned(),
                models: vec!["evil\u{1b}[2J".to_owned()],
                price_input_nanoton: 20,
                price_output_nanoton: 160,
                standing: WorkerStanding::Verified,
                factors: Some((35, 35)),
                tcb_days_left: Some(28.9),
                round_trip_ms: Some(0.84),
                ..WorkerStatus::default()
            }],
            channels: vec![ChannelStatus {
                deposit_nanoton: 1,
                ..ChannelStatus::default()
            }],
            settlement: Some(SettlementStatus {
                confirmed_batch: 3,
                ..SettlementStatus::default()
            }),
            chain: Some(ChainStatus {
                standing: ChainStanding::Unverifiable {
                    since: UnixMillis::from_millis(1_775_700_000_000),
                    last_seqno: 9,
                    reason: "an unknown form\u{1b}[2J".to_owned(),
                },
                servers: vec![ChainServer {
                    address: "192.0.2.1:4000".to_owned(),
                    seqno: Some(9),
                    latency_ms: Some(3),
                    demoted: Some("it lags".to_owned()),
                }],
            }),
            ..NodeStatus::default()
        };
        let text = render(&status);
        for part in [
            "…abcdefgh",
            "20/160",
            "verified 35/35, TCB 29 d",
            "3.5 days",
            "0.8 ms",
            "1.500000000 TON",
            "7 completed",
            "batch 3",
            "unverifiable since unix second 1775700000",
            "0 of 1 liteservers in order",
            "192.0.2.1:4000: it lags",
        ] {
            assert!(text.contains(part), "missing {part} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
