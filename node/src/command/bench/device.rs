//! The model on a device, forward pass by forward pass: what the device and burn's kernels are worth,
//! without queue, sampler and text.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use cocoon_inference::checkpoint::Checkpoint;
use cocoon_inference::kernel::{Compute, ceiling};
use cocoon_inference::serving::{Batch, Model, PAGE_TOKENS, Rows, Wanted};
use cocoon_inference::{CacheRoom, Decoder, Target, device_ceiling};
use comfy_table::Table;

use super::{
    CommandError, CommandResult, EngineArgs, Figure, Where, close, failed, right_aligned, say,
};
use crate::command::FAILURE;
use crate::terminal::HEADER_LINE;

/// Tokens that each answer has read before decoding is measured.
const CONTEXT: usize = 128;
/// Tokens of a prompt that are read at once.
const CHUNK: usize = 2_048;
/// Steps before those that are measured: kernels are compiled, tuned and recorded in them.
const WARM_UP: usize = 4;
/// Tokens of the prompt that is compared.
const CHECKED: usize = 64;
/// How far logits in bf16 may be from those in f32, as a share of these' standard deviation.
const TOLERANCE: f64 = 0.1;
/// Of the ceilings' sizes on a device that is none.
const SMALL: usize = 16;

fn target(place: Where) -> Result<Target, CommandError> {
    match place {
        #[cfg(feature = "cuda")]
        Where::Cuda => Ok(Target::Cuda),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda => Err(CommandError::NoCuda),
        Where::Reference | Where::Processor => Ok(Target::ReferenceRecorded),
    }
}

/// Measures and prints.
pub(super) fn run(args: &EngineArgs) -> CommandResult {
    let target = target(args.device)?;
    if let Some(reference) = &args.check {
        return check(args, &target, reference);
    }
    say(args, "measuring the device's ceilings");
    let scale = if args.device == Where::Cuda { 1 } else { SMALL };
    let mut ceilings = device_ceiling::measure(&target, scale).ok_or(CommandError::NoCuda)?;
    if args.device == Where::Reference {
        // burn's plain addition is far from what this memory can do; the kernels' reading is not.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ceilings.bytes_per_second = ceiling::bytes_per_second(&Compute::new(cores));
    }

    say(args, &format!("loading {}", args.model.display()));
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&args.model, &mut |_, _| {}).map_err(failed)?;
    let most = |list: &[usize]| list.iter().copied().max().unwrap_or(1);
    let per_answer = CONTEXT
        .saturating_add(args.answer_tokens as usize)
        .saturating_add(PAGE_TOKENS);
    let room = most(&args.batches)
        .saturating_mul(per_answer)
        .max(most(&args.prompts).saturating_add(PAGE_TOKENS));
    let mut model =
        Decoder::load(&checkpoint, &target, CacheRoom::Tokens(room as u64)).map_err(failed)?;
    let load = start.elapsed();
    let mut bench = Bench::new(&mut model);
    bench.read(0, &[1; 16])?;
    let cold = start.elapsed();

    let (weights, bytes) = bench.model.active();
    let read_ceiling = ceilings.bytes_per_second / bytes as f64;
    let compute_ceiling = ceilings.flops_per_second / (2.0 * weights as f64);
    let mut figures = vec![
        Figure::new("cold_first_token", cold.as_secs_f64() * 1e3, "ms"),
        Figure::new("load", load.as_secs_f64() * 1e3, "ms"),
        Figure::new("bandwidth", ceilings.bytes_per_second / 1e9, "GB/s"),
        Figure::new("matrix_peak", ceilings.flops_per_second / 1e12, "TFLOP/s"),
    ];
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(["", "tok/s", "ceiling", "share"]);
    let mut row = |name: String, speed: f64, ceiling: f64| {
        table.add_row([
            name.replace('_', " "),
            format!("{speed:.1}"),
            format!("{ceiling:.0}"),
            format!("{:.0} %", speed / ceiling * 100.0),
        ]);
        figures.push(Figure::new(
            format!("{name}_tokens_per_second"),
            speed,
            "tok/s",
        ));
        figures.push(Figure::new(
            format!("{name}_of_ceiling"),
            speed / ceiling,
            "ratio",
        ));
    };
    for &batch in &args.batches {
        say(args, &format!("decode, {batch} at once"));
        let speed = bench.decode(batch, args.answer_tokens as usize)?;
        let limit = (read_ceiling * batch as f64).min(compute_ceiling);
        row(format!("decode_{batch}"), speed, limit);
    }
    for &prompt in &args.prompts {
        if prompt > bench.model.shape().context_tokens {
            say(
                args,
                &format!("prefill of {prompt} left out: beyond the model's context"),
            );
            continue;
        }
        say(args, &format!("prefill, {prompt} tokens"));
        let tokens = filler(prompt);
        bench.read(0, &tokens)?;
        let start = Instant::now();
        bench.read(0, &tokens)?;
        let speed = prompt as f64 / start.elapsed().as_secs_f64();
        row(format!("prefill_{prompt}"), speed, compute_ceiling);
    }
    if !args.json {
        println!("{} on {}", args.model.display(), bench.model.runs_on());
        println!(
            "memory {:.0} GB/s, matrices {:.1} TFLOP/s; a token reads {:.1} MB; from nothing to the first token {:.0} ms",
            ceilings.bytes_per_second / 1e9,
            ceilings.flops_per_second / 1e12,
            bytes as f64 / 1e6,
            cold.as_secs_f64() * 1e3,
        );
        println!("\n{}", right_aligned(table));
    }
    close(&figures);
    Ok(ExitCode::SUCCESS)
}

/// Compares with logits in f32 that another program computed from the same weights.
fn check(args: &EngineArgs, target: &Target, reference: &Path) -> CommandResult {
    let read = std::fs::read(reference).map_err(|source| CommandError::Io {
        what: format!("cannot read {}", reference.display()),
        source,
    })?;
    let wanted: Vec<f64> = serde_json::from_slice(&read)?;
    let checkpoint = Checkpoint::open(&args.model, &mut |_, _| {}).map_err(failed)?;
    let room = CacheRoom::Tokens(CHECKED as u64);
    let mut model = Decoder::load(&checkpoint, target, room).map_err(failed)?;
    let tokens = filler(CHECKED);
    let (last, rest) = tokens.split_last().unwrap_or((&0, &[]));
    // The prompt without its last token, then that token as an answer's: both ways through the model.
    let mut bench = Bench::new(&mut model);
    bench.forward(vec![Bench::rows(0, 0, rest, CHECKED)])?;
    let batch = Batch {
        sequences: vec![Bench::rows(0, rest.len(), &[*last], CHECKED)],
    };
    let got = bench.model.forward(&batch).map_err(failed)?.values;
    let count = wanted.len().max(1) as f64;
    let mean = wanted.iter().sum::<f64>() / count;
    let spread = (wanted.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
    let apart = got
        .iter()
        .zip(&wanted)
        .map(|(a, b)| (f64::from(*a) - b).abs());
    let furthest = apart.fold(0.0, f64::max) / spread;
    let agrees = got.len() == wanted.len() && furthest <= TOLERANCE;
    println!(
        "{}: logits at most {furthest:.4} standard deviations from float32 (limit {TOLERANCE}): {}",
        bench.model.runs_on(),
        if agrees { "they agree" } else { "THEY DIFFER" },
    );
    close(&[Figure::new(
        "logits_furthest",
        furthest,
        "standard deviations",
    )]);
    Ok(if agrees {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

fn filler(tokens: usize) -> Vec<u32> {
    (0..tokens as u32)
        .map(|i| i.wrapping_mul(37) % 251)
        .collect()
}

struct Bench<'m> {
    model: &'m mut Decoder,
}

impl<'m> Bench<'m> {
    fn new(model: &'m mut Decoder) -> Self {
        Self { model }
    }

    /// The rows of sequence `owner`, each of which has pages of its own for `tokens` tokens.
    fn rows(owner: usize, start: usize, tokens: &[u32], of: usize) -> Rows {
        let pages = of.div_ceil(PAGE_TOKENS);
        let first = owner.saturating_mul(pages);
        let numbers = first..first.saturating_add(pages);
        Rows {
            tokens: tokens.to_vec(),
            start,
            pages: numbers
                .filter_map(|page| u32::try_from(page).ok())
                .collect(),
            wanted: Wanted::Last,
        }
    }

    fn forward(&mut self, sequences: Vec<Rows>) -> Result<(), CommandError> {
        self.model
            .forward(&Batch { sequences })
            .map(drop)
            .map_err(failed)
    }

    /// A prompt, in chunks.
    fn read(&mut self, owner: usize, tokens: &[u32]) -> Result<(), CommandError> {
        for (chunk, part) in tokens.chunks(CHUNK).enumerate() {
            let start = chunk.saturating_mul(CHUNK);
            self.forward(vec![Self::rows(owner, start, part, tokens.len())])?;
        }
        Ok(())
    }

    /// Tokens per second of `batch` answers together.
    fn decode(&mut self, batch: usize, tokens: usize) -> Result<f64, CommandError> {
        let of = CONTEXT.saturating_add(tokens);
        let prompt = filler(CONTEXT);
        for owner in 0..batch {
            self.forward(vec![Self::rows(owner, 0, &prompt, of)])?;
        }
        let mut step = |at: usize| {
            let start = CONTEXT.saturating_add(at);
            let row = |owner| Self::rows(owner, start, &[7], of);
            self.forward((0..batch).map(row).collect())
        };
        let warm = WARM_UP.min(tokens.saturating_sub(1));
        (0..warm).try_for_each(&mut step)?;
        let start = Instant::now();
        (warm..tokens).try_for_each(&mut step)?;
        let made = tokens.saturating_sub(warm).saturating_mul(batch);
        Ok(made as f64 / start.elapsed().as_secs_f64())
    }
}
