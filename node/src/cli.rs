//! The command line.

use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use crate::build_info;
use crate::command::{
    CommandResult, FAILURE, bench, chat, config, demo, devnet, model, run, status, vault, verify,
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
    /// Check a receipt, factor by factor; exit 0 only if it is verified
    Verify(verify::VerifyArgs),
    /// Run a whole network on this machine: a prompt, its payment, its settlement
    Demo(demo::DemoArgs),
    /// Fetch, list, show, verify and remove models
    Model(model::ModelArgs),
    /// Keep a model secret: encrypt it, and release its key to attested guests only
    Vault(vault::VaultArgs),
    /// Measure the engine on this machine, against its ceilings and against llama.cpp
    Bench(bench::BenchArgs),
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
        Command::Verify(args) => verify::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Model(args) => model::run(args),
        Command::Vault(args) => vault::run(args),
        Command::Bench(args) => bench::run(args),
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
            "cocoon verify -",
            "cocoon verify receipt.json --evidence simulated --chain-url http://127.0.0.1:1",
            "cocoon demo --model m.gguf --keep",
            "cocoon config --check",
            "cocoon bench engine --model m.gguf --json",
            "cocoon bench engine --model m --device cuda --batches 1,8",
            "cocoon model pull",
            "cocoon model pull hf:Qwen/Qwen3-0.6B --name qwen",
            "cocoon model list --json",
            "cocoon model show ./model.gguf --memory 24GiB --json",
            "cocoon model verify m --json",
            "cocoon model remove m --yes",
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
