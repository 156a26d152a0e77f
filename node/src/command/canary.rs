//! `cocoon model canary`: what a model answers to the known questions, so that owners can pin it.

use std::process::ExitCode;

use cocoon_inference::canary::{self, Canary, CanaryError, Standing};
use cocoon_inference::store::Store;
use cocoon_protocol::Digest;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::{CommandError, CommandResult, FAILURE, block_on};
use crate::config::{Config, EngineDevice};
use crate::terminal::{HEADER_LINE, plain};
use crate::wiring::engine;

/// Memory for keys and values while the questions are answered, MiB.
const CACHE_MIB: u32 = 256;

/// Flags of `cocoon model canary`.
#[derive(Clone, Debug, clap::Args)]
pub struct CanaryArgs {
    /// A model's name, or a path
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// What computes it
    #[arg(long, value_enum, default_value = "processor")]
    pub device: EngineDevice,
    /// A server on this machine that computes it, like http://127.0.0.1:8000/v1
    #[arg(long, value_name = "URL", requires = "upstream_model")]
    pub upstream: Option<String>,
    /// The name under which that server serves it
    #[arg(long, value_name = "NAME", requires = "upstream")]
    pub upstream_model: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answered<'a> {
    model: Digest,
    runs_on: &'a str,
    canary: Digest,
    /// `known`, `unknown` or `differs`.
    standing: &'static str,
    answers: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    question: &'a str,
    digest: Digest,
    tokens: u32,
    answer: &'a str,
}

/// Loads the model, asks, prints. Exit 0 unless this program knows the model and it answered otherwise.
///
/// # Errors
/// A model that does not load or does not answer.
pub(super) fn run(store: &Store, args: &CanaryArgs) -> CommandResult {
    let path = store.find(&args.model)?.path;
    let config = Config {
        device: args.device,
        upstream: args.upstream.clone(),
        upstream_model: args.upstream_model.clone(),
        cache_mib: CACHE_MIB,
        ..Config::default()
    };
    let engine = block_on(async { Ok(engine::load(&config, &path).await?) })?;
    let canary =
        canary::ask(engine.as_ref()).map_err(|error| CommandError::Canary(error.into()))?;
    let about = engine.describe();
    let known = canary.check_known(about.digest);
    let answered = Answered {
        model: about.digest,
        runs_on: &about.runs_on,
        canary: canary.digest(),
        standing: match known {
            Ok(Standing::Known(_)) => "known",
            Ok(Standing::Unknown) => "unknown",
            Err(_) => "differs",
        },
        answers: canary
            .answers
            .iter()
            .map(|answer| Line {
                question: answer.question,
                digest: answer.digest(),
                tokens: answer.tokens,
                answer: &answer.text,
            })
            .collect(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answered)?);
    } else {
        print!("{}", render(&canary, &answered, &known));
    }
    Ok(match known {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILURE),
    })
}

fn render(
    canary: &Canary,
    answered: &Answered<'_>,
    known: &Result<Standing, CanaryError>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(HEADER_LINE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["question", "answer", "tokens"]);
    for answer in &canary.answers {
        table.add_row([
            answer.question.to_owned(),
            plain(&answer.text).into_owned(),
            answer.tokens.to_string(),
        ]);
    }
    let standing = match known {
        Ok(Standing::Known(device)) => format!("as this program knows it of a {device}"),
        Ok(Standing::Unknown) => {
            "this program does not know the model; to pin these answers: canary = the digest above"
                .to_owned()
        }
        Err(error) => format!("WRONG: {}", plain(&error.to_string())),
    };
    format!(
        "{table}\nmodel    {}\nrun on   {}\ncanary   {}\n{standing}\n",
        answered.model,
        plain(answered.runs_on),
        answered.canary
    )
}
