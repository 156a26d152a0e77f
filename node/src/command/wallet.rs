//! `cocoon wallet`: the coins of a node, for the person who owns them.
//!
//! The key lies in the node's data directory, where `cocoon run` finds it. Words and keys are read from files or standard
//! input, never from arguments, which other users of the machine could see; and nothing but `export` prints them.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use cocoon_protocol::TonAddress;
use cocoon_protocol::units::NanoTon;
use cocoon_settlement::chain::Chain;
use cocoon_settlement::wallet::{
    BadAddress, Mnemonic, MnemonicError, Wallet, WalletKey, WalletVersion, friendly, parse_address,
};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use zeroize::Zeroizing;

use super::verify::told;
use super::{CommandError, CommandResult, block_on};
use crate::config::{Config, Effective, Environment, Flags};
use crate::secret_file::{SecretFileError, Token};
use crate::wiring::chain::connect;
use crate::wiring::keys::{WALLET_KEY, keep_wallet_key, wallet_key};

/// The words of a wallet that was made here or imported as words, in the data directory, mode 600.
const WORDS_FILE: &str = "wallet-words";
/// Largest file of words, a key or a password that is read, bytes.
const MAX_SECRET_BYTES: u64 = 4096;
/// Mainnet's ConfigParam 19; addresses of other networks are marked as worthless.
const MAINNET_GLOBAL_ID: i32 = -239;

/// Flags of `cocoon wallet`.
#[derive(Clone, Debug, clap::Args)]
pub struct WalletArgs {
    /// What to do
    #[command(subcommand)]
    pub action: WalletAction,
}

/// What can be done with a wallet.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum WalletAction {
    /// Make a wallet of 24 new words; they are kept in the data directory until you move them away
    New(NewArgs),
    /// Take over a wallet: 24 words, or a key from `cocoon wallet export`
    Import(ImportArgs),
    /// Print the wallet's addresses, balance and seqno
    Show(ShowArgs),
    /// Send TON
    Send(SendArgs),
    /// Print the key, or the words; whoever reads them owns the coins
    Export(ExportArgs),
}

/// Flags of `cocoon wallet new`.
#[derive(Clone, Debug, clap::Args)]
pub struct NewArgs {
    /// Which contract: v5r1 or v4r2
    #[arg(long, value_name = "VERSION", default_value_t = WalletVersion::V5R1)]
    pub contract: WalletVersion,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The settings of the node
    #[command(flatten)]
    pub flags: Flags,
}

/// Flags of `cocoon wallet import`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// A file with the words or the key, or - for standard input
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// A file with the password of the words, where they have one
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Which contract, for words and for a key that does not say: v5r1 or v4r2
    #[arg(long, value_name = "VERSION", default_value_t = WalletVersion::V5R1)]
    pub contract: WalletVersion,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The settings of the node
    #[command(flatten)]
    pub flags: Flags,
}

/// Flags of `cocoon wallet show`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The settings of the node
    #[command(flatten)]
    pub flags: Flags,
}

/// Flags of `cocoon wallet send`.
#[derive(Clone, Debug, clap::Args)]
pub struct SendArgs {
    /// To whom, in any form; a bounceable address gets its coins back to you where nothing takes them
    #[arg(value_name = "ADDRESS")]
    pub to: String,
    /// How much, in TON: 0.25
    #[arg(value_name = "TON")]
    pub amount: NanoTon,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The settings of the node
    #[command(flatten)]
    pub flags: Flags,
}

/// Flags of `cocoon wallet export`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArgs {
    /// The words instead of the key
    #[arg(long)]
    pub words: bool,
    /// The settings of the node
    #[command(flatten)]
    pub flags: Flags,
}

/// Why a wallet command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// Nothing is overwritten.
    #[error("{path} holds a wallet already; move it away first, or use another --data-dir")]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// No key yet.
    #[error("no wallet in {directory}; make one with `cocoon wallet new`")]
    None {
        /// Where it would be.
        directory: PathBuf,
    },
    /// No words.
    #[error(
        "the wallet in {directory} was not made of words, or they were moved away; its key is there"
    )]
    NoWords {
        /// Where they would be.
        directory: PathBuf,
    },
    /// Words.
    #[error(transparent)]
    Words(#[from] MnemonicError),
    /// Receiver.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// Not said yes to.
    #[error("not sent: {about}; say --yes where nobody can be asked")]
    NotConfirmed {
        /// What would have been sent.
        about: String,
    },
    /// A file of secrets.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
}

/// A wallet as it is shown.
#[derive(Clone, Debug, Serialize)]
struct Shown {
    version: &'static str,
    address: String,
    bounceable: String,
    non_bounceable: String,
    balance_nanoton: u64,
    seqno: u32,
    global_id: i32,
    chain: String,
}

/// A transfer as it is shown.
#[derive(Clone, Debug, Serialize)]
struct Sent {
    transaction: String,
    message: String,
    to: String,
    amount_nanoton: u64,
    fees_nanoton: u64,
    seqno: u32,
}

/// Does it.
///
/// # Errors
/// No key, no chain, not enough coins, words that make no key.
pub fn run(args: &WalletArgs) -> CommandResult {
    match &args.action {
        WalletAction::New(args) => new(args),
        WalletAction::Import(args) => import(args),
        WalletAction::Show(args) => show(args),
        WalletAction::Send(args) => send(args),
        WalletAction::Export(args) => export(args),
    }
}

fn config(flags: &Flags) -> Result<Config, CommandError> {
    Ok(Effective::load(flags, &Environment::of_process())?.config)
}

/// A node's data directory is for its owner alone.
fn empty_place(config: &Config) -> Result<&Path, CommandError> {
    let directory = config.data_dir.as_path();
    for file in [WALLET_KEY, WORDS_FILE] {
        let path = directory.join(file);
        if path.exists() {
            return Err(WalletError::Exists { path }.into());
        }
    }
    crate::wiring::make_private(directory)?;
    Ok(directory)
}

fn new(args: &NewArgs) -> CommandResult {
    let config = config(&args.flags)?;
    let directory = empty_place(&config)?;
    let words = Mnemonic::generate(None).map_err(WalletError::from)?;
    let key = keep(directory, &words, args.contract)?;
    made(directory, &key, args.json, true)
}

/// Words first: if only they were written, nothing is lost.
fn keep(
    directory: &Path,
    words: &Mnemonic,
    version: WalletVersion,
) -> Result<WalletKey, CommandError> {
    Token::store(
        &directory.join(WORDS_FILE),
        words.reveal().replace(' ', "-"),
    )
    .map_err(WalletError::from)?;
    Ok(keep_wallet_key(
        directory,
        WalletKey::of_words(words, version),
    )?)
}

fn made(directory: &Path, key: &WalletKey, json: bool, words: bool) -> CommandResult {
    let files = if words {
        vec![directory.join(WALLET_KEY), directory.join(WORDS_FILE)]
    } else {
        vec![directory.join(WALLET_KEY)]
    };
    if json {
        let made = serde_json::json!({ "version": key.version.as_str(), "files": files });
        println!("{}", serde_json::to_string_pretty(&made)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("a {} wallet is in {}", key.version, directory.display());
    if words {
        println!(
            "write its words down: `cocoon wallet export --words` prints them; then keep {} off this machine if you like",
            WORDS_FILE
        );
    }
    println!("`cocoon wallet show` prints its addresses");
    Ok(ExitCode::SUCCESS)
}

fn import(args: &ImportArgs) -> CommandResult {
    let config = config(&args.flags)?;
    let text = secret(&args.from)?;
    let password = match &args.password_file {
        Some(path) => Some(secret(path)?),
        None => None,
    };
    let text = text.trim();
    let is_key = !text.contains(char::is_whitespace) && text.len() >= 64;
    if is_key && let Some(mut key) = WalletKey::parse(text) {
        let directory = empty_place(&config)?;
        if !text.contains(':') {
            key.version = args.contract;
        }
        let key = keep_wallet_key(directory, key)?;
        return made(directory, &key, args.json, false);
    }
    // Words as they are exported have dashes between.
    let text = Zeroizing::new(text.replace('-', " "));
    let words = Mnemonic::parse(
        &text,
        password
            .as_ref()
            .map(|text| text.trim_end_matches(['\r', '\n'])),
    )
    .map_err(WalletError::from)?;
    let directory = empty_place(&config)?;
    // The words alone would not open a wallet that has a password, so only its key is kept.
    if password.is_some() {
        let key = keep_wallet_key(directory, WalletKey::of_words(&words, args.contract))?;
        return made(directory, &key, args.json, false);
    }
    let key = keep(directory, &words, args.contract)?;
    made(directory, &key, args.json, true)
}

/// A small text from a file or from standard input.
fn secret(path: &Path) -> Result<Zeroizing<String>, CommandError> {
    let mut text = Zeroizing::new(String::with_capacity(
        usize::try_from(MAX_SECRET_BYTES).unwrap_or(0),
    ));
    let what = format!("cannot read {}", path.display());
    if path.as_os_str() == "-" {
        std::io::stdin()
            .take(MAX_SECRET_BYTES)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_SECRET_BYTES).read_to_string(&mut text))
    }
    .map_err(CommandError::io(what))?;
    Ok(text)
}

fn key_of(config: &Config) -> Result<WalletKey, CommandError> {
    wallet_key(&config.data_dir)?.ok_or_else(|| {
        WalletError::None {
            directory: config.data_dir.clone(),
        }
        .into()
    })
}

/// The chain and the wallet on it.
/// The chain, this node's wallet, and the network's number.
pub(super) async fn open(config: &Config) -> Result<(Arc<dyn Chain>, Wallet, i32), CommandError> {
    let key = key_of(config)?;
    let chain = connect(config, told()).await?;
    let global_id = chain.global_id().await?;
    let wallet = key.wallet(global_id)?;
    Ok((chain, wallet, global_id))
}

fn forms(address: TonAddress, global_id: i32) -> (String, String) {
    let testnet = global_id != MAINNET_GLOBAL_ID;
    (
        friendly(address, true, testnet),
        friendly(address, false, testnet),
    )
}

fn show(args: &ShowArgs) -> CommandResult {
    let config = config(&args.flags)?;
    let shown = block_on(async {
        let (chain, wallet, global_id) = open(&config).await?;
        let (bounceable, non_bounceable) = forms(wallet.address(), global_id);
        Ok(Shown {
            version: wallet.version().as_str(),
            address: wallet.address().to_string(),
            bounceable,
            non_bounceable,
            balance_nanoton: wallet.balance(chain.as_ref()).await?.nano(),
            seqno: wallet.seqno(chain.as_ref()).await?,
            global_id,
            chain: chain.standing().to_string(),
        })
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    let balance = NanoTon::from_nano(shown.balance_nanoton).to_string();
    let network = format!("global id {}, {}", shown.global_id, shown.chain);
    let seqno = shown.seqno.to_string();
    for (name, value) in [
        ("wallet", shown.version),
        ("address", &shown.address),
        ("to receive", &shown.non_bounceable),
        ("bounceable", &shown.bounceable),
        ("balance", &balance),
        ("seqno", &seqno),
        ("network", &network),
    ] {
        table.add_row([name, value]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn send(args: &SendArgs) -> CommandResult {
    let config = config(&args.flags)?;
    let (to, bounce) = parse_address(&args.to).map_err(WalletError::from)?;
    let bounce = bounce.unwrap_or(false);
    let sent = block_on(async {
        let (chain, wallet, global_id) = open(&config).await?;
        let message = Wallet::payment(to, args.amount, bounce);
        let messages = std::slice::from_ref(&message);
        let prepared = wallet.prepare(chain.as_ref(), messages).await?;
        let (bounceable, non_bounceable) = forms(to, global_id);
        let form = if bounce { bounceable } else { non_bounceable };
        let about = format!(
            "{} to {form}, at most {} of fees",
            args.amount, prepared.fee
        );
        if !args.yes {
            confirm(&about)?;
        }
        let seqno = wallet.seqno(chain.as_ref()).await?;
        if !args.json {
            eprintln!("sent; waiting for the transaction, up to a minute");
        }
        // Signed anew: whoever was asked may have thought for longer than the transfer is valid.
        let done = wallet.send(chain.as_ref(), messages).await?;
        let forwarded = done.sent.iter().fold(NanoTon::ZERO, |sum, one| {
            sum.saturating_add(one.forward_fee)
        });
        Ok(Sent {
            transaction: done.hash.to_string(),
            message: done
                .in_message
                .map_or_else(String::new, |hash| hash.to_string()),
            to: form,
            amount_nanoton: args.amount.nano(),
            fees_nanoton: done.total_fees.saturating_add(forwarded).nano(),
            seqno,
        })
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&sent)?);
    } else {
        println!(
            "sent {} to {}; fees {}; transaction {}",
            args.amount,
            sent.to,
            NanoTon::from_nano(sent.fees_nanoton),
            sent.transaction
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn confirm(about: &str) -> Result<(), CommandError> {
    let refused = || WalletError::NotConfirmed {
        about: about.to_owned(),
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused().into());
    }
    // Standard output is for the result.
    eprint!("Send {about}? [y/N] ");
    let io = || CommandError::io("cannot ask");
    std::io::stderr().flush().map_err(io())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(io())?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(refused().into())
    }
}

fn export(args: &ExportArgs) -> CommandResult {
    let config = config(&args.flags)?;
    if args.words {
        let path = config.data_dir.join(WORDS_FILE);
        let token = match Token::load(&path) {
            Ok(token) => token,
            Err(SecretFileError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Err(WalletError::NoWords {
                    directory: config.data_dir,
                }
                .into());
            }
            Err(error) => return Err(WalletError::from(error).into()),
        };
        println!(
            "{}",
            Zeroizing::new(token.reveal().replace('-', " ")).as_str()
        );
    } else {
        println!("{}", key_of(&config)?.to_text().as_str());
    }
    Ok(ExitCode::SUCCESS)
}
