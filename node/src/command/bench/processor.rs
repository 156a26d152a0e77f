//! The engine on the processor, through its whole way: queue, scheduler, sampler, text.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use cocoon_inference::kernel::{Compute, ceiling};
use cocoon_inference::{
    BurnEngine, CacheRoom, Engine, EngineOptions, Prompt, Request, SamplingParams, Target, profile,
};
use comfy_table::Table;

use super::peers::{Speeds, peers};
use super::{CommandError, CommandResult, EngineArgs, Figure, close, failed, right_aligned, say};
use crate::terminal::HEADER_LINE;

/// Answers at once in the measurement of many.
const MANY: usize = 8;

/// Measures and prints.
pub(super) fn run(args: &EngineArgs) -> CommandResult {
    let say = |line: String| say(args, &line);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).max(1);
    say(format!(
        "measuring the ceilings of this machine with {threads} threads"
    ));
    let ceilings = ceiling::measure(&Compute::new(threads));

    say(format!("loading {}", args.model.display()));
    let start = Instant::now();
    let room = args
        .prompt_tokens
        .saturating_add(args.answer_tokens as usize);
    let options = EngineOptions {
        target: Target::Processor { threads },
        cache: CacheRoom::Tokens((room as u64).saturating_add(64).saturating_mul(MANY as u64)),
        ..EngineOptions::default()
    };
    let engine = BurnEngine::load(&args.model, &options, &mut |_, _| {}).map_err(failed)?;
    let load = start.elapsed();
    let about = engine.describe().clone();
    let prompt = filler(&engine, args.prompt_tokens)?;
    let first = measure(&engine, &prompt, args.answer_tokens)?;
    let cold = load.saturating_add(first.to_first_token);

    let peers = if args.no_peer {
        Vec::new()
    } else {
        peers(args)
    };
    if peers.is_empty() && !args.no_peer {
        say(
            "llama.cpp is not here: run scripts/bench/fetch-peers.sh to compare with it".to_owned(),
        );
    }
    let (mut ours, mut theirs) = (Speeds::default(), Speeds::default());
    for round in 1..=args.rounds.max(1) {
        say(format!("round {round} of {}", args.rounds.max(1)));
        ours = ours.better(measure(&engine, &prompt, args.answer_tokens)?.speeds);
        for peer in &peers {
            match peer.measure(args, threads) {
                Ok(speeds) => theirs = theirs.better(speeds),
                Err(why) => say(format!("{} did not measure: {why}", peer.name)),
            }
        }
    }
    say(format!("{MANY} answers at once"));
    let many = many_at_once(&engine, args.answer_tokens)?;
    let profile = profiled(&engine, &prompt, args.answer_tokens)?;

    let read_ceiling = ceilings.bytes_per_second / about.bytes_per_token as f64;
    let work = about.weights_per_token as f64;
    let compute_ceiling = ceilings.int8_macs_per_second / work;
    let mut figures = vec![
        Figure::new("decode_tokens_per_second", ours.decode, "tok/s"),
        Figure::new("prefill_tokens_per_second", ours.prefill, "tok/s"),
        Figure::new("decode_of_bandwidth", ours.decode / read_ceiling, "ratio"),
        Figure::new("prefill_of_peak", ours.prefill / compute_ceiling, "ratio"),
        Figure::new("decode_8_tokens_per_second", many, "tok/s"),
        Figure::new("cold_first_token", cold.as_secs_f64() * 1e3, "ms"),
    ];
    if theirs.decode > 0.0 && theirs.prefill > 0.0 {
        figures.push(Figure::new(
            "decode_vs_llama_cpp",
            ours.decode / theirs.decode,
            "ratio",
        ));
        figures.push(Figure::new(
            "prefill_vs_llama_cpp",
            ours.prefill / theirs.prefill,
            "ratio",
        ));
    }
    if !args.json {
        println!("{} on {}, digest {}", about.id, about.runs_on, about.digest);
        println!(
            "memory read {:.1} GB/s, int8 {:.0} GMAC/s, f32 {:.0} GFLOP/s with {threads} threads",
            ceilings.bytes_per_second / 1e9,
            ceilings.int8_macs_per_second / 1e9,
            ceilings.f32_flops_per_second / 1e9,
        );
        println!(
            "a token reads {:.1} MB and takes {:.0} M multiply-adds; prompt {}, answer {} tokens\n",
            about.bytes_per_token as f64 / 1e6,
            work / 1e6,
            args.prompt_tokens,
            args.answer_tokens,
        );
        println!(
            "{}",
            speeds_table(ours, theirs, [read_ceiling, compute_ceiling])
        );
        println!("{MANY} answers at once: {many:.0} tok/s together");
        println!(
            "from nothing to the first token: {:.0} ms (loading {:.0} ms)\n",
            cold.as_secs_f64() * 1e3,
            load.as_secs_f64() * 1e3,
        );
        println!("{}", profile_table(&profile, args.answer_tokens));
    }
    close(&figures);
    Ok(ExitCode::SUCCESS)
}

struct Measured {
    speeds: Speeds,
    to_first_token: Duration,
}

/// One answer to a prompt that nothing of is cached.
fn measure(engine: &BurnEngine, prompt: &Prompt, tokens: u32) -> Result<Measured, CommandError> {
    let request = Request::new(prompt.clone(), endless(tokens));
    let start = Instant::now();
    let mut answer = engine.start(request).map_err(failed)?;
    let (mut first, mut count) = (None, 0u32);
    loop {
        let step = answer.step().map_err(failed)?;
        count = count.saturating_add(step.tokens);
        if count > 0 && first.is_none() {
            first = Some(start.elapsed());
        }
        if step.finish.is_some() {
            break;
        }
    }
    let to_first_token = first.unwrap_or_else(|| start.elapsed());
    let rest = start.elapsed().saturating_sub(to_first_token);
    Ok(Measured {
        speeds: Speeds {
            prefill: prompt.tokens.len() as f64 / to_first_token.as_secs_f64(),
            decode: f64::from(count.saturating_sub(1)) / rest.as_secs_f64(),
        },
        to_first_token,
    })
}

/// A prompt of so many tokens, always the same.
fn filler(engine: &BurnEngine, tokens: usize) -> Result<Prompt, CommandError> {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(tokens);
    let mut all = engine.tokens(&text).map_err(failed)?;
    all.truncate(tokens);
    Ok(Prompt { tokens: all })
}

/// Greedy, and never the end of the turn: the same number of tokens each time.
fn endless(tokens: u32) -> SamplingParams {
    SamplingParams {
        ignore_end: true,
        ..SamplingParams::greedy(tokens)
    }
}

/// Tokens per second of several short prompts' answers together.
fn many_at_once(engine: &BurnEngine, tokens: u32) -> Result<f64, CommandError> {
    let prompt = filler(engine, 16)?;
    let start = Instant::now();
    let made: u32 = std::thread::scope(|scope| {
        let one = || measure(engine, &prompt, tokens);
        let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(Ok(_)) => tokens,
                _ => 0,
            })
            .sum()
    });
    Ok(f64::from(made) / start.elapsed().as_secs_f64())
}

/// Where the time of an answer's tokens goes.
fn profiled(
    engine: &BurnEngine,
    prompt: &Prompt,
    tokens: u32,
) -> Result<Vec<(&'static str, Duration)>, CommandError> {
    let short = Prompt {
        tokens: prompt.tokens.iter().take(16).copied().collect(),
    };
    let start = Instant::now();
    profile::measure(true);
    measure(engine, &short, tokens)?;
    let parts = profile::measured();
    let whole = start.elapsed();
    profile::measure(false);
    let known: Duration = parts.iter().map(|(_, time)| *time).sum();
    let mut all: Vec<_> = parts
        .into_iter()
        .map(|(part, time)| (part.name(), time))
        .collect();
    all.push(("sampling, scheduling, text", whole.saturating_sub(known)));
    all.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    Ok(all)
}

fn speeds_table(ours: Speeds, theirs: Speeds, [read, compute]: [f64; 2]) -> Table {
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(["", "tok/s", "ceiling", "share", "llama.cpp", "ratio"]);
    let rows = [
        ("decode", ours.decode, read, theirs.decode),
        ("prefill", ours.prefill, compute, theirs.prefill),
    ];
    for (name, speed, ceiling, peer) in rows {
        let of_peer = |text: String| if peer > 0.0 { text } else { "-".to_owned() };
        table.add_row([
            name.to_owned(),
            format!("{speed:.1}"),
            format!("{ceiling:.0}"),
            format!("{:.0} %", speed / ceiling * 100.0),
            of_peer(format!("{peer:.1}")),
            of_peer(format!("{:.2}", speed / peer)),
        ]);
    }
    right_aligned(table)
}

fn profile_table(profile: &[(&'static str, Duration)], tokens: u32) -> Table {
    let all: Duration = profile.iter().map(|(_, time)| *time).sum();
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(["per token", "µs", "share"]);
    for (name, time) in profile {
        table.add_row([
            (*name).to_owned(),
            format!("{:.0}", time.as_secs_f64() * 1e6 / f64::from(tokens.max(1))),
            format!("{:.0} %", time.as_secs_f64() / all.as_secs_f64() * 100.0),
        ]);
    }
    right_aligned(table)
}
