//! The block explorer: a few pages of HTML for people, made on the server, with nothing loaded from elsewhere.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use cocoon_protocol::TonAddress;

use super::record::{BlockRecord, Place};
use super::{Devnet, GLOBAL_ID};
use crate::chain::{AccountState, ChainError, LocalChain, TransactionSummary};
use crate::contract::{self, ChannelState, LedgerState};

/// Blocks on the first page.
const NEWEST_BLOCKS: u32 = 30;
/// Transactions on an account's page.
const NEWEST_TRANSACTIONS: usize = 50;
/// Transactions on a block's page.
const MAX_LISTED: usize = 500;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:1.5rem auto;padding:0 1rem;color:#222}\
a{color:#0a58a8;text-decoration:none}a:hover{text-decoration:underline}\
h1{font-size:1.3rem}h2{font-size:1.05rem;margin-top:1.6rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .7rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}\
th{font-weight:600;color:#555}.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}.t{white-space:nowrap}\
code,pre{font:13px/1.45 ui-monospace,monospace;overflow-wrap:anywhere}pre{background:#f5f5f5;padding:.7rem;white-space:pre-wrap}\
input{font:inherit;padding:.15rem .4rem}";

/// Text that may hold anything, as HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>{title}</title><style>{STYLE}</style>\
         <h1><a href='/'>Cocoon devnet</a> · {title}</h1>{body}</html>"
    )
}

/// A page that says what went wrong.
pub(super) fn failure(error: &str) -> String {
    page("not found", &format!("<p>{}</p>", escape(error)))
}

fn account_link(address: TonAddress) -> String {
    format!("<a href='/account?address={address}'><code>{address}</code></a>")
}

fn block_link(seqno: u32) -> String {
    format!("<a href='/block?seqno={seqno}'>{seqno}</a>")
}

fn transaction_link(transaction: &TransactionSummary) -> String {
    format!(
        "<a href='/transaction?account={}&amp;lt={}'><code>{}</code></a>",
        transaction.account, transaction.lt, transaction.hash
    )
}

/// A moment in the form of RFC 9110, and as the chain writes it.
fn moment(unix: u32) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(unix.into()));
    let text = time.map_or_else(String::new, httpdate::fmt_http_date);
    format!("<span class=t title='unix second {unix}'>{text}</span>")
}

/// Rows of a name and a value that is HTML already.
fn facts(rows: &[(&str, String)]) -> String {
    let mut out = "<table>".to_owned();
    for (name, value) in rows {
        let _ = write!(out, "<tr><th>{name}<td>{value}");
    }
    out + "</table>"
}

fn code(text: impl std::fmt::Display) -> String {
    format!("<code>{}</code>", escape(&text.to_string()))
}

fn transactions(list: &[TransactionSummary]) -> String {
    if list.is_empty() {
        return "<p>None.</p>".to_owned();
    }
    let mut out =
        "<table><tr><th>transaction<th>account<th>block<th class=n>value in<th class=n>sent<th class=n>fees<th>result"
            .to_owned();
    for transaction in list {
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td>{}",
            transaction_link(transaction),
            account_link(transaction.account),
            block_link(transaction.block),
            transaction.value,
            transaction.sent.len(),
            transaction.total_fees,
            result(transaction),
        );
    }
    out + "</table>"
}

fn result(transaction: &TransactionSummary) -> String {
    let mut text = if transaction.success {
        "done"
    } else {
        "failed"
    }
    .to_owned();
    if let Some(exit_code) = transaction.exit_code.filter(|code| *code != 0) {
        let _ = write!(text, ", exit code {exit_code}");
    }
    if let Some(action) = transaction.action_result.filter(|code| *code != 0) {
        let _ = write!(text, ", action result {action}");
    }
    text
}

/// The newest blocks, where the coins are, and the faucet.
pub(super) fn home(devnet: &Devnet, paused: bool) -> Result<String, ChainError> {
    let head = devnet.head();
    let supply = devnet.supply()?;
    let nano = cocoon_protocol::NanoTon::from_nano;
    let mut body = facts(&[
        ("network", format!("global id {GLOBAL_ID}")),
        (
            "blocks",
            format!(
                "{}, {}",
                head.seqno,
                if paused {
                    "paused"
                } else {
                    "one after the other"
                }
            ),
        ),
        (
            "coins",
            format!(
                "{} in accounts, {} under way, {} taken as fees",
                nano(supply.balances),
                nano(supply.in_flight),
                nano(supply.collected)
            ),
        ),
        (
            "for clients",
            "<a href='/global.config.json'>global.config.json</a>".to_owned(),
        ),
    ]);
    body.push_str(
        "<h2>Look up</h2><form action='/account'><input name=address size=72 placeholder='0:…'> <button>account</button></form>\
         <h2>Faucet</h2><form action='/faucet' method=post><input name=address size=72 placeholder='0:…'> \
         <input name=nanoton size=18 placeholder='nanoTON'> <button>give</button></form>\
         <h2>Newest blocks</h2><table><tr><th>block<th>made<th class=n>transactions<th>root hash",
    );
    for seqno in (1..=head.seqno)
        .rev()
        .take(usize::try_from(NEWEST_BLOCKS).unwrap_or(0))
    {
        let record = devnet.record(seqno)?;
        let _ = write!(
            body,
            "<tr><td>{}{}<td>{}<td class=n>{}<td>{}",
            block_link(seqno),
            if record.key_block { " key" } else { "" },
            moment(record.unix),
            record.transactions,
            code(record.hashes.master.root),
        );
    }
    body.push_str("</table>");
    Ok(page("newest blocks", &body))
}

/// One block of the masterchain, and the base chain's under it.
pub(super) fn block(devnet: &Devnet, seqno: u32) -> Result<String, ChainError> {
    let record: BlockRecord = devnet.record(seqno)?;
    let previous = seqno
        .checked_sub(1)
        .map_or_else(|| "none: this is the zero state".to_owned(), block_link);
    let next = if seqno < devnet.head().seqno {
        block_link(seqno.saturating_add(1))
    } else {
        "not made yet".to_owned()
    };
    let id = |place| {
        let id = record.id(place);
        format!(
            "({},{:x},{})<br>root {}<br>file {}",
            id.shard.workchain(),
            id.shard.prefix(),
            id.seqno,
            code(record.hashes.get(place).root),
            code(record.hashes.get(place).file)
        )
    };
    let mut body = facts(&[
        ("masterchain", id(Place::Master)),
        ("base chain", id(Place::Base)),
        ("made", moment(record.unix)),
        (
            "logical time",
            format!("{} to {}", record.start_lt, record.end_lt.master),
        ),
        (
            "key block",
            if record.key_block {
                "yes".to_owned()
            } else {
                format!(
                    "no; the newest before it is {}",
                    block_link(record.previous_key_block)
                )
            },
        ),
        (
            "signed by",
            format!("set {} of validators", record.validators),
        ),
        (
            "state after it",
            format!(
                "{}<br>{}",
                code(record.states.master),
                code(record.states.base)
            ),
        ),
        ("before", previous),
        ("after", next),
    ]);
    let mut list = Vec::new();
    if seqno > 0 {
        for place in [Place::Master, Place::Base] {
            let room = MAX_LISTED.saturating_sub(list.len());
            list.extend(devnet.transactions_in(place, seqno, room)?);
        }
    }
    let _ = write!(
        body,
        "<h2>{} transactions</h2>{}",
        record.transactions,
        transactions(&list)
    );
    Ok(page(&format!("block {seqno}"), &body))
}

/// One account; a contract of ours with its state.
pub(super) async fn account(chain: &LocalChain, address: TonAddress) -> Result<String, ChainError> {
    let (account, list) = {
        let devnet = chain.devnet();
        let account = devnet.account(address)?;
        let lt = account.as_ref().map_or(0, |account| account.last_lt);
        (
            account,
            devnet.newest_transactions(address, lt, NEWEST_TRANSACTIONS)?,
        )
    };
    let Some(account) = account else {
        return Ok(page(
            "account",
            &format!("<p>Nothing ever arrived at {}.</p>", code(address)),
        ));
    };
    let mut body = facts(&[
        ("address", code(address)),
        ("balance", format!("{}", account.balance)),
        ("status", format!("{:?}", account.status).to_lowercase()),
        (
            "code hash",
            account.code_hash.map_or_else(|| "none".to_owned(), code),
        ),
        ("what it is", kind(chain, address, &account).await),
    ]);
    let _ = write!(body, "<h2>Newest transactions</h2>{}", transactions(&list));
    Ok(page("account", &body))
}

/// The contract behind a code hash, with its state where it is one of ours.
async fn kind(chain: &LocalChain, address: TonAddress, account: &AccountState) -> String {
    if account.code_hash.is_none() {
        return "no contract".to_owned();
    }
    if let Ok(Some(state)) = contract::fetch_channel(chain, address).await {
        return format!("a payment channel{}", channel(&state));
    }
    if let Ok(Some(state)) = contract::fetch_ledger(chain, address).await {
        return format!("a worker's ledger{}", ledger(&state));
    }
    let seqno = chain.devnet().get_method(address, "seqno", &[]);
    match seqno.ok().and_then(|result| result.stack.first()?.as_u64()) {
        Some(seqno) => format!("a wallet, seqno {seqno}"),
        None => "a contract that this explorer does not know".to_owned(),
    }
}

fn channel(state: &ChannelState) -> String {
    let standing = match (state.finished, state.close_at) {
        (true, _) => "finished".to_owned(),
        (false, Some(unix)) => format!("closing; anybody may finish it from {} on", moment(unix)),
        (false, None) => "open".to_owned(),
    };
    facts(&[
        ("client", account_link(state.terms.client)),
        ("worker", account_link(state.terms.worker)),
        ("key of vouchers", code(state.terms.client_key)),
        ("nonce", state.terms.nonce.to_string()),
        (
            "delay of closing",
            format!("{} s", state.terms.close_delay_s),
        ),
        ("standing", standing),
        ("claimed", state.claimed.to_string()),
        ("can still pay", state.available().to_string()),
    ])
}

fn ledger(state: &LedgerState) -> String {
    let roots = (1..=state.seqno)
        .rev()
        .map_while(|seqno| Some(format!("{seqno}: {}", code(state.root_of(seqno)?))))
        .collect::<Vec<_>>();
    facts(&[
        ("owner", account_link(state.owner)),
        ("key", code(state.key)),
        ("batches", state.seqno.to_string()),
        ("jobs", state.jobs.to_string()),
        ("earned", state.total.to_string()),
        ("roots remembered", roots.join("<br>")),
    ])
}

/// One transaction.
pub(super) fn transaction(
    devnet: &Devnet,
    account: TonAddress,
    lt: u64,
) -> Result<Option<String>, ChainError> {
    let Some(transaction) = devnet
        .newest_transactions(account, lt, 1)?
        .into_iter()
        .find(|transaction| transaction.lt == lt)
    else {
        return Ok(None);
    };
    let sent = transaction
        .sent
        .iter()
        .fold(String::new(), |mut out, sent| {
            let _ = write!(
                out,
                "<tr><td>{}<td class=n>{}<td>{}",
                account_link(sent.destination),
                sent.value,
                if sent.bounced { "came back" } else { "" }
            );
            out
        });
    let mut body = facts(&[
        ("hash", code(transaction.hash)),
        ("account", account_link(transaction.account)),
        ("block", block_link(transaction.block)),
        ("logical time", transaction.lt.to_string()),
        ("made", moment(transaction.unix)),
        (
            "message in",
            match transaction.source {
                Some(source) => format!(
                    "{} from {}{}",
                    transaction.value,
                    account_link(source),
                    if transaction.bounced {
                        ", come back"
                    } else {
                        ""
                    }
                ),
                None => format!(
                    "external {}",
                    transaction.in_message.map_or_else(String::new, code)
                ),
            },
        ),
        ("result", result(&transaction)),
        ("gas", transaction.gas_used.to_string()),
        ("fees", transaction.total_fees.to_string()),
    ]);
    if !sent.is_empty() {
        let _ = write!(
            body,
            "<h2>Sent</h2><table><tr><th>to<th class=n>value<th>{sent}</table>"
        );
    }
    Ok(Some(page("transaction", &body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_wrote_becomes_markup() {
        assert_eq!(
            escape("<a href='x'>&\""),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;"
        );
        assert!(!failure("<script>").contains("<script>"));
    }
}
