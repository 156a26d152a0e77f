//! What this machine could do at most: the rates that the kernels' own are measured against.
//!
//! Rates are those of the best of several runs. On a machine shared with others the best run is the one that
//! was disturbed least, and the ceiling is what nothing disturbs.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use super::{
    Compute,
    compute::PIECES,
    lanes::{Kernel, LANES, Lanes, dispatch, unroll},
    store::{HUGE_BYTES, Store},
};

/// Bytes read to measure memory: several times what caches hold.
const STREAM_BYTES: usize = 256 << 20;
/// Independent sums, enough to hide the latency of one operation.
const CHAINS: usize = 16;
/// Rounds of `CHAINS` operations in one measurement.
const ROUNDS: usize = 1 << 18;

/// Ceilings for one number of threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceiling {
    /// Threads computing at once.
    pub threads: usize,
    /// Bytes read from memory per second.
    pub bytes_per_second: f64,
    /// 8-bit multiplications with accumulation per second, as the quantised kernels do them.
    pub int8_macs_per_second: f64,
    /// f32 operations per second; a fused multiplication and addition is two.
    pub f32_flops_per_second: f64,
}

/// Measures all ceilings of `compute`; takes about a second.
pub fn measure(compute: &Compute) -> Ceiling {
    Ceiling {
        threads: compute.threads(),
        bytes_per_second: bytes_per_second(compute),
        int8_macs_per_second: int8_macs_per_second(compute),
        f32_flops_per_second: f32_flops_per_second(compute),
    }
}

/// Bytes per second that all threads together read from memory, each byte once, in order.
pub fn bytes_per_second(compute: &Compute) -> f64 {
    let Some(mut memory) = Store::zeroed(STREAM_BYTES) else {
        return 0.0;
    };
    memory.bytes_mut().fill(1); // pages never written are all one page
    let memory = memory.bytes();
    let piece = HUGE_BYTES;
    let seconds = best(5, || {
        compute.share(STREAM_BYTES / piece, &|i| {
            let bytes = &memory[i * piece..][..piece];
            black_box(dispatch(compute.isa(), Stream(bytes)));
        });
    });
    STREAM_BYTES as f64 / seconds
}

/// Products of 8-bit numbers, added to 32 bits, per second of all threads together.
pub fn int8_macs_per_second(compute: &Compute) -> f64 {
    let macs = CHAINS * ROUNDS * 64;
    rate(compute, macs, |isa| dispatch(isa, Int8))
}

/// f32 operations per second of all threads together.
pub fn f32_flops_per_second(compute: &Compute) -> f64 {
    let flops = CHAINS * ROUNDS * LANES * 2;
    rate(compute, flops, |isa| dispatch(isa, Float))
}

fn rate(compute: &Compute, operations: usize, kernel: impl Fn(super::Isa) -> f32 + Sync) -> f64 {
    let pieces = compute.threads() * PIECES;
    let seconds = best(5, || {
        compute.share(pieces, &|_| {
            black_box(kernel(compute.isa()));
        });
    });
    (operations * pieces) as f64 / seconds
}

/// Seconds of the fastest of `runs` runs, after one that does not count.
fn best(runs: usize, f: impl Fn()) -> f64 {
    f();
    let mut best = Duration::MAX;
    for _ in 0..runs {
        let begin = Instant::now();
        f();
        best = best.min(begin.elapsed());
    }
    best.as_secs_f64().max(1e-9)
}

/// Reads bytes and adds them up as f32, as cheaply as they can be used at all.
struct Stream<'a>(&'a [u8]);

impl Kernel for Stream<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) -> f32 {
        let mut sums = [[0.0; LANES]; 4];
        // SAFETY: the caller answers for the instructions.
        unsafe {
            let mut v = [S::splat(0.0); 4];
            for lines in self.0.as_chunks::<64>().0.as_chunks::<4>().0 {
                unroll!(i < 4, {
                    S::prefetch(lines[i].as_ptr().wrapping_add(4096));
                    v[i] = S::add(v[i], S::load_single(&lines[i]));
                });
            }
            unroll!(i < 4, {
                S::store(&mut sums[i], v[i]);
            });
        }
        sums.as_flattened().iter().sum()
    }
}

/// The kernels' product of codes and activations, on registers.
struct Int8;

impl Kernel for Int8 {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) -> f32 {
        let lines = black_box([[7u8; 64]; 8]);
        let fours = black_box([[7i8; 4]; CHAINS]);
        // SAFETY: the caller answers for the instructions.
        unsafe {
            let codes = S::codes(8, &lines);
            let (mut a, mut b) = ([S::splat_int(0); 8], [S::splat_int(0); 8]);
            for _ in 0..ROUNDS {
                unroll!(i < 8, {
                    a[i] = S::dot(4, a[i], codes[i], fours[i]);
                    b[i] = S::dot(4, b[i], codes[i], fours[8 + i]);
                });
            }
            let mut total = S::splat(0.0);
            unroll!(i < 8, {
                total = S::add(total, S::add(S::to_float(a[i]), S::to_float(b[i])));
            });
            S::sum(total)
        }
    }
}

/// Fused multiplications and additions on registers.
struct Float;

impl Kernel for Float {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) -> f32 {
        let x = black_box([0.5f32; LANES]);
        // SAFETY: the caller answers for the instructions.
        unsafe {
            let x = S::load(&x);
            let (mut a, mut b) = ([x; 8], [x; 8]);
            for _ in 0..ROUNDS {
                unroll!(i < 8, {
                    a[i] = S::fma(a[i], x, x);
                    b[i] = S::fma(b[i], x, x);
                });
            }
            let mut total = S::splat(0.0);
            unroll!(i < 8, {
                total = S::add(total, S::add(a[i], b[i]));
            });
            S::sum(total)
        }
    }
}
