//! `cocoon registry`: what a network agrees on, on chain: heads of logs, digests of models, parameters. Reading it, and the
//! way of a change: drafted, signed by k of n, sent, applied after its time lock.

mod args;
mod error;
mod show;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cocoon_attestation::log::Note;
use cocoon_protocol::{Digest, NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::chain::{Chain, TransactionSummary};
use cocoon_settlement::contract::registry::{
    Change, Draft, Governance, GovernanceError, MAX_DRAFT_BYTES, RegistryState, Subject,
    apply_message, deploy_registry_message, fetch_registry,
};
use ed25519_dalek::SigningKey;
use serde::Serialize;

pub use self::args::{
    DeployArgs, DraftArgs, DraftChange, GovernanceArgs, RegistryAction, RegistryArgs,
};
pub use self::error::RegistryError;
use super::verify::told;
use super::wallet::open;
use super::{CommandError, CommandResult, block_on};
use crate::config::{Config, Effective, Environment, Flags};
use crate::secret_file::{SecretFileError, Token};
use crate::terminal::said_yes;
use crate::wiring::chain::connect;

/// How long a draft may gather signatures, unless said otherwise.
const DRAFT_HOURS: u32 = 72;
/// Longest time that may be asked for: a forgotten draft shall not come back next year.
const MAX_DRAFT_HOURS: u32 = 24 * 30;
const SECONDS_AN_HOUR: u32 = 3600;
/// Longest wait for a transaction.
const PATIENCE: Duration = Duration::from_secs(75);

impl GovernanceArgs {
    fn governance(&self) -> Result<Governance, GovernanceError> {
        let delay = self.delay_hours.saturating_mul(SECONDS_AN_HOUR);
        Governance::new(self.threshold, delay, &self.signers)
    }
}

/// Does it.
///
/// # Errors
/// Why it was not done.
pub fn run(args: &RegistryArgs) -> CommandResult {
    match &args.action {
        RegistryAction::Key { out } => key(out, args.json),
        RegistryAction::Sign { draft, key, yes } => sign(draft, key, *yes, args.json),
        RegistryAction::Deploy(deploy) => block_on(deployed(deploy, args.json)),
        RegistryAction::Show { address, settings } => {
            block_on(shown(settings, *address, args.json))
        }
        RegistryAction::Draft(draft) => block_on(drafted(draft, args.json)),
        RegistryAction::Send { draft, settings } => block_on(sent(settings, draft, args.json)),
        RegistryAction::Apply {
            id,
            address,
            settings,
        } => block_on(applied(settings, *address, *id, args.json)),
    }
}

fn print<T: Serialize>(json: bool, value: &T, human: &str) -> Result<(), CommandError> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{human}");
    }
    Ok(())
}

#[derive(Serialize)]
struct MadeKey {
    public: PublicKey32,
}

fn key(out: &Path, json: bool) -> CommandResult {
    let public = public(&signing_key(&Token::create(out).map_err(secret)?, out)?);
    let human = format!(
        "{public}\nThis is the public half; the secret one is in {}. Keep a copy: a registry cannot replace a lost \
         key, only its other signers can.\n",
        out.display()
    );
    print(json, &MadeKey { public }, &human)?;
    Ok(ExitCode::SUCCESS)
}

fn secret(error: SecretFileError) -> RegistryError {
    RegistryError::SecretFile(error)
}

fn signing_key(token: &Token, path: &Path) -> Result<SigningKey, RegistryError> {
    let mut seed = [0; 32];
    hex::decode_to_slice(token.reveal(), &mut seed).map_err(|_| RegistryError::File {
        path: path.to_owned(),
        reason: "not a key made by `cocoon registry key`: 64 hexadecimal digits".to_owned(),
    })?;
    Ok(SigningKey::from_bytes(&seed))
}

fn public(key: &SigningKey) -> PublicKey32 {
    PublicKey32::from_bytes(key.verifying_key().to_bytes())
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> RegistryError + '_ {
    move |error| RegistryError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn bounded(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= most) {
        Ok(bytes)
    } else {
        Err(std::io::Error::other(format!("larger than {most} bytes")))
    }
}

fn read_draft(path: &Path) -> Result<Draft, RegistryError> {
    let bytes = bounded(path, MAX_DRAFT_BYTES).map_err(file(path))?;
    serde_json::from_slice(&bytes).map_err(|error| RegistryError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Whole or not at all: a draft with signatures of several people is not to be lost to a full disk.
fn write_draft(path: &Path, draft: &Draft, anew: bool) -> Result<(), RegistryError> {
    use std::io::Write as _;
    let bytes = serde_json::to_vec_pretty(draft).map_err(|error| RegistryError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    if anew {
        let mut new = std::fs::File::create_new(path).map_err(file(path))?;
        new.write_all(&bytes).map_err(file(path))?;
        return new.sync_all().map_err(file(path));
    }
    let beside = path.with_extension("json.new");
    std::fs::write(&beside, bytes).map_err(file(&beside))?;
    std::fs::rename(&beside, path).map_err(file(path))
}

#[derive(Serialize)]
struct Drafted<'a> {
    says: String,
    signatures: usize,
    #[serde(flatten)]
    draft: &'a Draft,
}

fn sign(path: &Path, key_file: &Path, yes: bool, json: bool) -> CommandResult {
    let mut draft = read_draft(path)?;
    let says = show::subject(&draft.subject().map_err(RegistryError::from)?);
    let key = signing_key(&Token::load(key_file).map_err(secret)?, key_file)?;
    // What is signed is told from the change itself, never from words in the file.
    eprintln!(
        "registry {} of network {}, message {}, to be sent before unix second {}:\n  {says}",
        draft.registry, draft.global_id, draft.seqno, draft.valid_until
    );
    if !yes && !said_yes("Sign it?").map_err(CommandError::io("cannot ask"))? {
        return Err(RegistryError::Declined.into());
    }
    draft.sign(&key).map_err(RegistryError::from)?;
    write_draft(path, &draft, false)?;
    let signatures = draft.signatures.len();
    let human = format!(
        "signed; {signatures} signatures are in {}\n",
        path.display()
    );
    let report = Drafted {
        says,
        signatures,
        draft: &draft,
    };
    print(json, &report, &human)?;
    Ok(ExitCode::SUCCESS)
}

fn config(flags: &Flags) -> Result<Config, CommandError> {
    Ok(Effective::load(flags, &Environment::of_process())?.config)
}

/// The registry that was named, or that the node compares its log with.
fn chosen(named: Option<TonAddress>, flags: &Flags) -> Result<TonAddress, CommandError> {
    let registry = named.or(config(flags)?.registry);
    Ok(registry.ok_or(RegistryError::Unnamed)?)
}

async fn chain_of(flags: &Flags) -> Result<std::sync::Arc<dyn Chain>, CommandError> {
    Ok(connect(&config(flags)?, told()).await?)
}

async fn registry(chain: &dyn Chain, address: TonAddress) -> Result<RegistryState, RegistryError> {
    fetch_registry(chain, address)
        .await?
        .ok_or(RegistryError::None(address))
}

async fn shown(flags: &Flags, address: Option<TonAddress>, json: bool) -> CommandResult {
    let address = chosen(address, flags)?;
    let chain = chain_of(flags).await?;
    let state = registry(chain.as_ref(), address).await?;
    let now = chain.head().await?.unix;
    print(json, &show::json(&state), &show::human(&state, now))?;
    Ok(ExitCode::SUCCESS)
}

async fn drafted(draft: &DraftArgs, json: bool) -> CommandResult {
    let address = chosen(None, &draft.settings)?;
    if draft.hours == 0 || draft.hours > MAX_DRAFT_HOURS {
        return Err(RegistryError::Hours.into());
    }
    let subject = match &draft.change {
        DraftChange::Log { checkpoint } => Subject::Propose(log_change(checkpoint)?),
        DraftChange::Model { digest, status } => Subject::Propose(Change::Model {
            digest: *digest,
            status: *status,
        }),
        DraftChange::Parameter { id, value: None } => Subject::Propose(Change::Parameter {
            id: *id,
            value: None,
        }),
        DraftChange::Parameter {
            id,
            value: Some(value),
        } => Subject::Propose(Change::number(*id, *value)?),
        DraftChange::Governance(args) => Subject::Propose(Change::Governance(
            args.governance().map_err(RegistryError::from)?,
        )),
        DraftChange::Cancel { id } => Subject::Cancel(*id),
    };
    let chain = chain_of(&draft.settings).await?;
    let state = registry(chain.as_ref(), address).await?;
    if let Subject::Cancel(id) = subject
        && !state.pending.contains_key(&id)
    {
        return Err(RegistryError::NotPending { id }.into());
    }
    let now = chain.head().await?.unix;
    let made = Draft::new(
        address,
        chain.global_id().await?,
        state.seqno.saturating_add(1),
        now.saturating_add(draft.hours.saturating_mul(SECONDS_AN_HOUR)),
        &subject,
    )
    .map_err(RegistryError::from)?;
    write_draft(&draft.out, &made, true)?;
    let says = show::subject(&subject);
    let human = format!(
        "{says}\nwritten to {}; {} of {} signers have to sign it: `cocoon registry sign {} --key FILE`\n",
        draft.out.display(),
        state.governance.threshold,
        state.governance.signers().len(),
        draft.out.display(),
    );
    let report = Drafted {
        says,
        signatures: 0,
        draft: &made,
    };
    print(json, &report, &human)?;
    Ok(ExitCode::SUCCESS)
}

/// The rebuilders' signatures on the checkpoint are not checked here: the registry's signers answer for what they sign,
/// and `cocoon log verify` checks them.
fn log_change(path: &Path) -> Result<Change, RegistryError> {
    /// A checkpoint with many signatures.
    const MAX_CHECKPOINT_BYTES: u64 = 16 * 1024;
    let bad = |reason: String| RegistryError::File {
        path: path.to_owned(),
        reason,
    };
    let bytes = bounded(path, MAX_CHECKPOINT_BYTES).map_err(file(path))?;
    let note = Note::parse_unsigned(&bytes).map_err(|error| bad(error.to_string()))?;
    let checkpoint: cocoon_attestation::log::Checkpoint = note
        .text()
        .parse()
        .map_err(|error: cocoon_attestation::log::CheckpointError| bad(error.to_string()))?;
    Ok(Change::log_head(&checkpoint.origin, checkpoint.head))
}

#[derive(Serialize)]
struct Done {
    registry: TonAddress,
    transaction: Digest,
    lt: u64,
    fees: NanoTon,
}

impl Done {
    fn of(transaction: &TransactionSummary) -> Self {
        Self {
            registry: transaction.account,
            transaction: transaction.hash,
            lt: transaction.lt,
            fees: transaction.total_fees,
        }
    }
}

async fn sent(flags: &Flags, path: &Path, json: bool) -> CommandResult {
    let draft = read_draft(path)?;
    let (chain, wallet, network) = open(&config(flags)?).await?;
    if network != draft.global_id {
        return Err(RegistryError::OtherNetwork {
            draft: draft.global_id,
            chain: network,
        }
        .into());
    }
    let state = registry(chain.as_ref(), draft.registry).await?;
    let next = state.seqno.saturating_add(1);
    if draft.seqno != next {
        return Err(RegistryError::Overtaken {
            draft: draft.seqno,
            next,
        }
        .into());
    }
    let message = draft
        .message(&state.governance)
        .map_err(RegistryError::from)?;
    eprintln!("sent; waiting for its block");
    wallet.send(chain.as_ref(), &[message]).await?;
    // What counts is what the registry did, not that the wallet paid.
    let transaction = caused_by(
        chain.as_ref(),
        draft.registry,
        state.last_lt,
        wallet.address(),
    )
    .await?;
    let human = format!(
        "transaction {}, {} of fees; `cocoon registry show {}` says when it may be applied\n",
        transaction.hash, transaction.total_fees, draft.registry
    );
    print(json, &Done::of(&transaction), &human)?;
    Ok(ExitCode::SUCCESS)
}

async fn deployed(deploy: &DeployArgs, json: bool) -> CommandResult {
    let governance = deploy
        .governance
        .governance()
        .map_err(RegistryError::from)?;
    let message =
        deploy_registry_message(&governance, deploy.value).map_err(RegistryError::from)?;
    let address = governance.address()?;
    let (chain, wallet, _) = open(&config(&deploy.settings)?).await?;
    if let Some(state) = fetch_registry(chain.as_ref(), address).await? {
        // The same rules give the same address: somebody was faster, or asked twice.
        print(json, &show::json(&state), &show::human(&state, 0))?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("deploying {address}; waiting for its block");
    let transaction = wallet.send(chain.as_ref(), &[message]).await?;
    let human = format!(
        "registry {address}\n{} of {} signers decide; put the address into the nodes' configuration (`registry`)\n",
        governance.threshold,
        governance.signers().len(),
    );
    let done = Done {
        registry: address,
        ..Done::of(&transaction)
    };
    print(json, &done, &human)?;
    Ok(ExitCode::SUCCESS)
}

async fn applied(flags: &Flags, address: Option<TonAddress>, id: u32, json: bool) -> CommandResult {
    let address = chosen(address, flags)?;
    let (chain, wallet, _) = open(&config(flags)?).await?;
    let now = chain.head().await?.unix;
    let before = registry(chain.as_ref(), address).await?;
    let pending = before
        .pending
        .get(&id)
        .ok_or(RegistryError::NotPending { id })?;
    if now < pending.applies_at {
        return Err(RegistryError::TooEarly {
            id,
            applies_at: pending.applies_at,
            now,
        }
        .into());
    }
    eprintln!("sent; waiting for its block");
    let message = apply_message(address, id)?;
    let paid = wallet.send(chain.as_ref(), &[message]).await?;
    // What counts is what the registry did, not that the wallet paid.
    let applied = caused_by(chain.as_ref(), address, before.last_lt, wallet.address()).await?;
    let human = format!(
        "change {id} is in force; transaction {}, {} of fees\n",
        applied.hash, paid.total_fees
    );
    print(json, &Done::of(&applied), &human)?;
    Ok(ExitCode::SUCCESS)
}

/// The registry's transaction that this wallet caused, if it did what it was for.
async fn caused_by(
    chain: &dyn Chain,
    registry: TonAddress,
    after_lt: u64,
    wallet: TonAddress,
) -> Result<TransactionSummary, RegistryError> {
    /// More than can come in between.
    const PAGE: u16 = 32;
    const LOOK: Duration = Duration::from_millis(500);
    let found = async {
        loop {
            let page = chain.transactions(registry, after_lt, PAGE).await?;
            let found = page.into_iter().find(|one| one.source == Some(wallet));
            if let Some(found) = found {
                return match found.success {
                    true => Ok(found),
                    false => Err(RegistryError::Refused {
                        exit_code: found.exit_code,
                    }),
                };
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .unwrap_or(Err(RegistryError::NotSeen(registry)))
}
