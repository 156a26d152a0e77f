//! The command line.

use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use crate::build_info;
use crate::command::{
    CommandResult, FAILURE, audit, bench, chat, collateral, config, demo, devnet, doctor, funds,
    gpu, guest, ledger, log, model, policy, receipt, registry, run, status, vault, verify, wallet,
};
use crate::config::Flags;
use crate::terminal::plain;

static LONG_VERSION: LazyLock<String> = LazyLock::new(build_info::long_version);

/// Open language models in attested guests, paid by the token, with nobody in the middle.
#[derive(Debug, Parser)]
#[command(name = "cocoon", version = build_info::VERSION, long_version = LONG_VERSION.as_str())]
#[command(propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: a worker, a client or a bootstrap node
    Run(Flags),
    /// Run a chain on this machine, for development
    Devnet(devnet::DevnetArgs),
    /// Talk to a model through the local gateway
    Chat(chat::ChatArgs),
    /// Show a node: workers and their evidence, channels, settlement
    Status(status::StatusArgs),
    /// Show where a node's money is: wallet, channels, what is promised, owed, and on its way back
    Funds(funds::FundsArgs),
    /// Check a receipt, factor by factor; exit 0 only if it is verified
    Verify(verify::VerifyArgs),
    /// Show, check, export and recount receipts
    Receipt(receipt::ReceiptArgs),
    /// Check, dump, back up, restore, repair a node's ledger; prove what is in it
    Ledger(Box<ledger::LedgerArgs>),
    /// Hold a worker's published leaves against the chain; exit 0 only if nothing is wrong
    Audit(Box<audit::AuditArgs>),
    /// Run a whole network on this machine: a prompt, its payment, its settlement
    Demo(demo::DemoArgs),
    /// Fetch, list, show, verify and remove models
    Model(model::ModelArgs),
    /// What is demanded of evidence: a template, checking, signing, explaining a refusal
    Policy(policy::PolicyArgs),
    /// The transparency log of guest images: sign it, prove that an image stands in it, check it
    Log(log::LogArgs),
    /// What a network agrees on, on chain: read it, and draft, sign, send and apply changes
    Registry(registry::RegistryArgs),
    /// Measure a guest's image, read a firmware's event log
    Guest(guest::GuestArgs),
    /// Judge the evidence of GPUs, and pin what they should run
    Gpu(gpu::GpuArgs),
    /// Keep a model secret: encrypt it, and release its key to attested guests only
    Vault(vault::VaultArgs),
    /// Make, import, show and use the node's wallet
    Wallet(wallet::WalletArgs),
    /// Measure the engine on this machine, against its ceilings and against llama.cpp
    Bench(bench::BenchArgs),
    /// Look at Intel's collateral, fetch it, hand it to a node
    Collateral(collateral::CollateralArgs),
    /// Say what this machine lacks to run a worker, and how to mend it; exit 0 only if nothing is missing
    Doctor(Box<doctor::DoctorArgs>),
    /// Print the configuration in force and where each value comes from
    Config(config::ConfigArgs),
}

/// Parses the process's arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    match dispatch(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", plain(&error.to_string()));
            ExitCode::from(FAILURE)
        }
    }
}

fn dispatch(command: &Command) -> CommandResult {
    match command {
        Command::Run(flags) => run::run(flags),
        Command::Devnet(args) => devnet::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Status(args) => status::run(args),
        Command::Funds(args) => funds::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Receipt(args) => receipt::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Model(args) => model::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Log(args) => log::run(args),
        Command::Registry(args) => registry::run(args),
        Command::Guest(args) => guest::run(args),
        Command::Gpu(args) => gpu::run(args),
        Command::Vault(args) => vault::run(args),
        Command::Wallet(args) => wallet::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Collateral(args) => collateral::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Config(args) => config::run(args),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_version_says_whether_simulated_evidence_is_compiled_in() {
        let version = Cli::command().render_long_version();
        let expected = if build_info::SIMULATED_EVIDENCE {
            "COMPILED IN"
        } else {
            "not compiled in"
        };
        assert!(version.contains(expected), "{version}");
    }

    #[test]
    fn the_documented_commands_parse() {
        for line in [
            "cocoon run --role worker --slots 2 --listen /ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/udp/0/quic-v1",
            "cocoon devnet --data-dir /tmp/x --listen 127.0.0.1:0",
            "cocoon chat hello there --model m --json",
            "cocoon status --json",
            "cocoon funds --json",
            "cocoon verify -",
            "cocoon verify receipt.json --evidence simulated --chain-url http://127.0.0.1:1",
            "cocoon verify receipt.json --offline --block 7:0000000000000000000000000000000000000000000000000000000000000000",
            "cocoon receipt show chatcmpl-00 --json",
            "cocoon receipt verify receipt.json --json",
            "cocoon receipt export 00 --out receipt.json --open --gateway http://127.0.0.1:1",
            "cocoon receipt recount receipt.json --model m.gguf --request a.json --response b.json --json",
            "cocoon demo --model m.gguf --keep",
            "cocoon config --check",
            "cocoon collateral show c.json --json",
            "cocoon collateral fetch --fmspc b0c06f000000 --out c.json",
            "cocoon collateral import c.json --data-dir /tmp/x",
            "cocoon doctor --json",
            "cocoon doctor --root /mnt/guest --evidence tdx --model-path /models/m.gguf --thorough",
            "cocoon bench engine --model m.gguf --json",
            "cocoon bench engine --model m --device cuda --batches 1,8",
            "cocoon gpu rims driver.swidtag vbios.swidtag --out manifest.toml --allow-expired-signers",
            "cocoon gpu show report.bin --json",
            "cocoon gpu verify evidence.bin --manifest manifest.toml --nonce 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f --json",
            "cocoon gpu verify report.bin --chain chain.pem --manifest manifest.toml --nonce 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f --at 2025-10-09T08:53:20Z --expired-rim-signers allow --allow-unknown-mode",
            "cocoon ledger check --global-id -239 --json",
            "cocoon ledger check --directory /tmp/ledger",
            "cocoon ledger dump --column worker.channels",
            "cocoon ledger backup /tmp/backup --data-dir /tmp/x",
            "cocoon ledger restore /tmp/backup --data-dir /tmp/x --json",
            "cocoon ledger repair --out /tmp/repaired",
            "cocoon ledger repair --in-place --json",
            "cocoon ledger prove 00000000000000000000000000000001",
            "cocoon ledger prove --verify proof.json --chain-url http://127.0.0.1:1 --json",
            "cocoon ledger publish --out leaves --contract 0:0000000000000000000000000000000000000000000000000000000000000000",
            "cocoon ledger reconcile --yes",
            "cocoon audit 0:0000000000000000000000000000000000000000000000000000000000000000 --leaves http://127.0.0.1:1/leaves --json",
            "cocoon bench settlement --threads 8 --json",
            "cocoon model pull",
            "cocoon model pull hf:Qwen/Qwen3-0.6B --name qwen",
            "cocoon model list --json",
            "cocoon model show ./model.gguf --memory 24GiB --json",
            "cocoon model verify m --json",
            "cocoon model remove m --yes",
            "cocoon policy template",
            "cocoon policy check policy.toml --key example.org/release+01234567+AAAA --json",
            "cocoon policy sign policy.toml --key release.key --out policy.toml.note",
            "cocoon policy explain evidence --policy policy.toml --at 1760000000 --json",
            "cocoon bench verify --rounds 10 --json",
            "cocoon log init images --origin example.org/guest-images",
            "cocoon log append images --image guest.toml --revision abc --json",
            "cocoon log key example.org/alice --out alice.key",
            "cocoon log sign images --key alice.key",
            "cocoon log prove images --image guest --out guest.proof",
            "cocoon log verify guest.proof --rebuilders rebuilders.toml --json",
            "cocoon log --json verify images --rebuilders rebuilders.toml --since checkpoint.old",
            "cocoon log show images",
            "cocoon guest measure --firmware OVMF.fd --kernel vmlinuz --initrd initrd --cmdline x --memory 8GiB --toml",
            "cocoon guest measure --firmware OVMF.fd --kernel vmlinuz --pages each-section --handover patched --json",
            "cocoon guest log",
            "cocoon guest log CCEL --draft",
            "cocoon guest log CCEL --policy rtmr0.toml",
            "cocoon model canary m --json",
            "cocoon model canary m --upstream http://127.0.0.1:8000/v1 --upstream-model n",
            "cocoon vault key --out owner.key",
            "cocoon vault seal m.gguf --key owner.key --out m.cocoon-sealed --name m --json",
            "cocoon vault show m.cocoon-sealed --quick --json",
            "cocoon vault open m.cocoon-sealed --key owner.key --out m.gguf",
            "cocoon vault serve --key a --key b --sealed m.cocoon-sealed --policy-path p.toml --json",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
    }
}
