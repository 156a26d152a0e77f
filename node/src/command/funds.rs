//! `cocoon funds`: where a node's money is, as tables whose columns add up.

use std::process::ExitCode;

use cocoon_actors::gateway_port::{
    EarningFunds, Funds, LockState, LockedChannel, PayingFunds, Reclaimed,
};
use cocoon_protocol::units::NanoTon;
use comfy_table::{CellAlignment, Table};

use super::{CommandResult, block_on};
use crate::gateway_client::{DEFAULT_URL, GatewayClient};
use crate::terminal::{HEADER_LINE, plain, short_peer};

/// Flags of `cocoon funds`.
#[derive(Clone, Debug, clap::Args)]
pub struct FundsArgs {
    /// The node's HTTP
    #[arg(long, env = "COCOON_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Needed beyond loopback: the content of <data_dir>/api-token
    #[arg(long, env = "COCOON_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// As JSON, all amounts in nanoTON
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints.
///
/// # Errors
/// A node that does not answer.
pub fn run(args: &FundsArgs) -> CommandResult {
    let client = GatewayClient::new(&args.url, args.api_key.clone())?;
    let funds = block_on(async { Ok(client.funds().await?) })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&funds)?);
    } else {
        let now = cocoon_actors::clock::now().seconds();
        print!("{}", render(&funds, now));
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole picture, with moments as seen from `now`, seconds since 1970.
#[must_use]
pub fn render(funds: &Funds, now: u64) -> String {
    let Some(wallet) = &funds.wallet else {
        return "this node has no wallet\n".to_owned();
    };
    let balance = funds.wallet_nanoton.map_or_else(unread, ton);
    let mut text = format!("wallet {}: {balance}\n", plain(wallet));
    if !funds.chain_is_verified {
        text.push_str("the amounts may be old: ");
    }
    text.push_str(&format!("chain: {}\n", plain(&funds.chain)));
    if let Some(paying) = &funds.paying {
        text.push_str(&paying_text(paying, now));
        if let Some(wallet) = funds.wallet_nanoton {
            let all = wallet.saturating_add(paying.totals.locked_nanoton);
            text.push_str(&format!("wallet and channels together: {}\n", ton(all)));
        }
    }
    if let Some(earning) = &funds.earning {
        text.push_str(&earning_text(earning, now));
    }
    text
}

fn paying_text(paying: &PayingFunds, now: u64) -> String {
    let mut text = String::new();
    if paying.channels.is_empty() {
        text.push_str("no channel locks anything\n");
    } else {
        text.push_str(&format!("{}\n", locked_table(&paying.channels, now)));
    }
    let totals = &paying.totals;
    text.push_str(&format!(
        "locked {} of at most {}: {} opening, {} promised, {} free to promise, {} kept, {} on its way back\n",
        ton(totals.locked_nanoton),
        ton(paying.limit_nanoton),
        ton(totals.opening_nanoton),
        ton(totals.promised_nanoton),
        ton(totals.free_nanoton),
        ton(totals.kept_nanoton),
        ton(totals.returning_nanoton),
    ));
    if !paying.reclaimed.is_empty() {
        text.push_str(&format!("{}\n", reclaimed_table(&paying.reclaimed, now)));
    }
    text
}

fn locked_table(channels: &[LockedChannel], now: u64) -> Table {
    let header = [
        "channel",
        "to",
        "locked",
        "promised",
        "free",
        "kept",
        "claimed",
        "state",
        "since",
        "free when",
    ];
    let mut table = table(&header, 2..7);
    for channel in channels {
        let mut state = channel.state.label().replace('_', " ");
        if channel.in_use {
            state.push_str(", in use");
        }
        if !channel.seen_on_chain && channel.state != LockState::Opening {
            state.push_str(", not read");
        }
        table.add_row([
            short_peer(&channel.address),
            short_peer(&channel.worker),
            ton(channel.locked_nanoton),
            ton(channel.promised_nanoton),
            ton(channel.free_nanoton),
            ton(channel.kept_nanoton),
            ton(channel.claimed_nanoton),
            state,
            moment(channel.since_unix_ms / 1_000, now),
            free_when(channel, now),
        ]);
    }
    table
}

fn free_when(channel: &LockedChannel, now: u64) -> String {
    match channel.free_at_unix {
        None if channel.state == LockState::ClosingTogether => {
            "when the worker has sent it".to_owned()
        }
        Some(at) => moment(at.into(), now),
        None => format!("{} h after closing", channel.close_delay_s / 3_600),
    }
}

fn reclaimed_table(reclaimed: &[Reclaimed], now: u64) -> Table {
    let mut table = table(
        &["came back from", "to", "amount", "when", "transaction"],
        2..3,
    );
    for channel in reclaimed {
        table.add_row([
            short_peer(&channel.address),
            short_peer(&channel.worker),
            ton(channel.returned_nanoton),
            moment(channel.at_unix.into(), now),
            plain(&channel.transaction).into_owned(),
        ]);
    }
    table
}

fn earning_text(earning: &EarningFunds, now: u64) -> String {
    let mut text = String::new();
    if !earning.channels.is_empty() {
        let header = [
            "channel",
            "from",
            "signed",
            "claimed",
            "not in a batch",
            "claimable",
            "on its way",
            "closes",
        ];
        let mut table = table(&header, 2..7);
        for channel in &earning.channels {
            table.add_row([
                short_peer(&channel.address),
                short_peer(&channel.client),
                ton(channel.held_nanoton),
                ton(channel.claimed_nanoton),
                ton(channel.uncovered_nanoton),
                ton(channel.claimable_nanoton),
                ton(channel.claiming_nanoton),
                channel
                    .closes_at_unix
                    .map_or_else(|| "–".to_owned(), |at| moment(at.into(), now)),
            ]);
        }
        text.push_str(&format!("{table}\n"));
    }
    let totals = &earning.totals;
    text.push_str(&format!(
        "earned {}: {} claimed, {} not in a batch, {} claimable; {} served on credit\n",
        ton(totals.earned_nanoton),
        ton(totals.claimed_nanoton),
        ton(totals.uncovered_nanoton),
        ton(totals.claimable_nanoton),
        ton(totals.credit_nanoton),
    ));
    if totals.first_contact_nanoton > 0 || totals.first_contact_lost_nanoton > 0 {
        text.push_str(&format!(
            "{} served before its channel is on chain; {} written off because the channel never came\n",
            ton(totals.first_contact_nanoton),
            ton(totals.first_contact_lost_nanoton),
        ));
    }
    text.push_str(&format!(
        "ledger contract {}: {}, for commits\n",
        plain(&earning.ledger),
        earning.ledger_nanoton.map_or_else(unread, ton),
    ));
    text
}

fn table(header: &[&str], amounts: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        if amounts.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn ton(nano: u64) -> String {
    NanoTon::from_nano(nano).to_string()
}

fn unread() -> String {
    "not read".to_owned()
}

/// How long ago, or how soon, in the two largest units.
fn moment(unix: u64, now: u64) -> String {
    let text = |seconds: u64| {
        let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => format!("{seconds} s"),
            (0, 0, minutes) => format!("{minutes} min"),
            (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
            (days, hours, _) => format!("{days} d {} h", hours % 24),
        }
    };
    if unix > now {
        format!("in {}", text(unix.saturating_sub(now)))
    } else {
        format!("{} ago", text(now.saturating_sub(unix)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use cocoon_actors::gateway_port::LockedTotals;

    use super::*;

    #[test]
    fn every_amount_has_nine_decimals_and_strangers_text_no_escape_sequence() {
        let funds = Funds {
            chain: "verified".to_owned(),
            chain_is_verified: true,
            wallet: Some("0:ab\u{1b}[2J".to_owned()),
            wallet_nanoton: Some(9_007_199_254_740_993),
            paying: Some(PayingFunds {
                channels: vec![LockedChannel {
                    worker: "12D3KooWabcdefgh".to_owned(),
                    state: LockState::Closing,
                    locked_nanoton: 1_000_000_001,
                    free_nanoton: 1_000_000_001,
                    free_at_unix: Some(1_800_000_000),
                    seen_on_chain: true,
                    ..LockedChannel::default()
                }],
                totals: LockedTotals {
                    locked_nanoton: 1_000_000_001,
                    returning_nanoton: 1_000_000_001,
                    ..LockedTotals::default()
                },
                ..PayingFunds::default()
            }),
            earning: None,
        };
        let text = render(&funds, 1_800_000_000 - 83_400);
        for part in [
            "9007199.254740993 TON",
            "1.000000001 TON",
            "closing",
            "in 23 h 10 min",
            "together: 9007200.254740994 TON",
        ] {
            assert!(text.contains(part), "missing {part} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
        let stranger = render(&Funds::default(), 0);
        assert_eq!(stranger, "this node has no wallet\n");
        for (unix, said) in [
            (9, "1 s ago"),
            (10, "0 s ago"),
            (190_000, "in 2 d 4 h"),
            (130, "in 2 min"),
        ] {
            assert_eq!(moment(unix, 10), said);
        }
    }
}
