//! `cocoon ledger reconcile`: the way out when the chain contradicts a worker's disk.

use std::collections::BTreeMap;
use std::process::ExitCode;

use cocoon_actors::clock;
use cocoon_settlement::contract::fetch_channel;
use cocoon_settlement::ledger::{self, SCHEMA};
use cocoon_settlement::store::RocksStore;

use super::{LedgerToolError, Where, beside, chain};
use crate::command::{CommandError, CommandResult, block_on};
use crate::secret_file::Token;
use crate::wiring::keys::LEDGER_KEY_FILE;

/// Flags of `cocoon ledger reconcile`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReconcileArgs {
    /// Really do it
    #[arg(long)]
    pub yes: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which ledger and which chain. The node must not run
    #[command(flatten)]
    pub place: Where,
}

pub(super) fn reconcile(args: &ReconcileArgs) -> CommandResult {
    let config = args.place.config()?;
    let path = args.place.path()?;
    if !args.yes {
        let what = format!(
            "{} begins anew: its channels stay, its log is empty but for what clients still owe, and the node commits to \
             a new ledger contract under a new key. The old log and key are kept beside it",
            path.display()
        );
        return Err(LedgerToolError::NotConfirmed(what).into());
    }
    // Opened for writing: refused while a node has it.
    let old = RocksStore::open(&path, SCHEMA)?;
    let channels = ledger::worker_channels(&old)?;
    let claimed = block_on(async {
        let chain = chain(&config).await?;
        let mut claimed = BTreeMap::new();
        for address in channels {
            if let Some(state) = fetch_channel(chain.as_ref(), address).await? {
                claimed.insert(address, state.claimed);
            }
        }
        Ok(claimed)
    })?;
    let stamp = clock::now().millis();
    let unfinished = beside(&path, &format!(".anew-{stamp}"));
    let anew = RocksStore::open(&unfinished, SCHEMA)?;
    let report = ledger::rebase(&old, &anew, &claimed, clock::now())?;
    drop((old, anew));
    let moved = |what| CommandError::io(format!("cannot move {what}"));
    let kept = beside(&path, &format!(".before-{stamp}"));
    let key = config.data_dir.join(LEDGER_KEY_FILE);
    if key.exists() {
        std::fs::rename(&key, beside(&key, &format!(".before-{stamp}")))
            .map_err(moved("the key"))?;
    }
    // The key first: with a new key and the old log the node would refuse, not serve.
    Token::create(&key).map_err(CommandError::VaultKey)?;
    std::fs::rename(&path, &kept).map_err(moved("the old ledger"))?;
    std::fs::rename(&unfinished, &path).map_err(moved("the new ledger"))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!(
            "{} channels; {} of them owe {} above what the chain has paid, which the new log begins with; on {} the chain \
             has paid more than this disk knew\nthe old log is at {}\nStart the node: it deploys a new ledger contract and \
             serves. Clients send what this disk had lost with their next jobs",
            report.channels,
            report.owed_channels,
            report.owed,
            report.ahead_channels,
            kept.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}
