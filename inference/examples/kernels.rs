//! How close the kernels come to what this machine could do at most.
//!
//! ```text
//! cargo run -p cocoon-inference --example kernels [threads]
//! ```
//!
//! Prints memory bandwidth and arithmetic per number of threads, then, for some shapes and formats, bytes of
//! weights per second for one row of activations and multiplications per second for many. Matrices for one row
//! are taken in turns from a set larger than the caches, as a forward pass does.

#![allow(clippy::arithmetic_side_effects)] // a measurement, not a library
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Instant;

use cocoon_inference::{
    gguf::Format,
    kernel::{Attend, Compute, Isa, KvCache, Matrix, Part, Precision, Sequence, ceiling},
};

/// Weights that are certainly not in a cache any more when their turn comes again.
const SET_BYTES: usize = 160 << 20;

fn matrix(format: Format, rows: usize, columns: usize) -> Matrix {
    // Any bits will do, but halves must be finite: all bytes of a scale small.
    let len = rows * columns / format.block_elements() * format.block_bytes();
    let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 59) as u8).collect();
    let part = Part {
        format,
        bytes: &bytes,
        rows,
        order: None,
    };
    Matrix::pack(&[part], columns).unwrap()
}

fn best(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    (0..runs)
        .map(|_| {
            let begin = Instant::now();
            f();
            begin.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

fn main() {
    let most = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let isa = std::env::args().nth(2).map_or(Isa::best(), |name| {
        Isa::ALL.into_iter().find(|i| i.name() == name).unwrap()
    });
    let mut counts = vec![1];
    if most > 1 {
        counts.push(most);
    }
    for threads in counts {
        let compute = Compute::with_isa(threads, isa);
        let c = ceiling::measure(&compute);
        println!(
            "\n{} on {threads} thread(s): {:.1} GB/s, {:.0} G int8 MAC/s, {:.0} G f32 FLOP/s",
            compute.name(),
            c.bytes_per_second / 1e9,
            c.int8_macs_per_second / 1e9,
            c.f32_flops_per_second / 1e9,
        );
        let formats = [
            Format::Q4_0,
            Format::Q4_1,
            Format::Q4_K,
            Format::Q5_K,
            Format::Q6_K,
            Format::Q8_0,
            Format::F16,
        ];
        for format in formats {
            for (columns, rows) in [(576, 1536), (576, 49152), (4096, 4096)] {
                if columns % format.block_elements() != 0 {
                    continue;
                }
                report(&compute, &c, format, rows, columns);
            }
        }
        attention(&compute);
        overhead(&compute);
    }
}

fn report(compute: &Compute, c: &ceiling::Ceiling, format: Format, rows: usize, columns: usize) {
    let one = matrix(format, rows, columns);
    let bytes = one.bytes();
    let mut set = vec![one];
    while set.len() * bytes < SET_BYTES {
        set.push(matrix(format, rows, columns));
    }
    let x: Vec<f32> = (0..512 * columns)
        .map(|i| (i % 101) as f32 / 50.0 - 1.0)
        .collect();
    let mut y = vec![0.0; 512 * rows];
    let seconds = best(5, || {
        for m in &set {
            compute.multiply(m, &x[..columns], &mut y[..rows]);
        }
    });
    let rate = (set.len() * bytes) as f64 / seconds;
    print!(
        "{format:?} {columns}×{rows}: m=1 {:.1} GB/s ({:.0} %)",
        rate / 1e9,
        100.0 * rate / c.bytes_per_second
    );
    let peak = if format.block_elements() == 1 {
        c.f32_flops_per_second / 2.0
    } else {
        c.int8_macs_per_second
    };
    for m in [2, 4, 8, 64, 512] {
        if m == 512 && rows > 10_000 {
            continue;
        }
        let runs = if m < 64 { 5 } else { 3 };
        let count = if m < 64 { set.len() } else { 1 };
        let seconds = best(runs, || {
            for w in &set[..count] {
                compute.multiply(w, &x[..m * columns], &mut y[..m * rows]);
            }
        });
        let rate = (count * m * rows * columns) as f64 / seconds;
        print!(
            ", m={m} {:.0} GMAC/s ({:.0} %)",
            rate / 1e9,
            100.0 * rate / peak
        );
    }
    println!();
}

fn attention(compute: &Compute) {
    for (heads, kv_heads, width) in [(9, 3, 64), (32, 8, 128)] {
        for (start, rows) in [
            (500usize, 1usize),
            (4000, 1),
            (32000, 1),
            (0, 512),
            (3584, 512),
        ] {
            let pages: Vec<u32> = (0..(start + rows).div_ceil(16) as u32).collect();
            let mut cache =
                KvCache::new(pages.len(), kv_heads, width, width, Precision::Half, false);
            let all = [Sequence {
                rows: 0..start + rows,
                start: 0,
                pages: &pages,
            }];
            let k = vec![0.5; (start + rows) * kv_heads * width];
            let begin = Instant::now();
            cache.write(&all, &k, &k);
            let written = begin.elapsed().as_secs_f64() / (start + rows) as f64;
            let sequences = [Sequence {
                rows: 0..rows,
                start,
                pages: &pages,
            }];
            let a = Attend {
                cache: &cache,
                sequences: &sequences,
                heads,
                scale: 0.1,
                window: None,
                softcap: None,
            };
            let q = vec![0.5; rows * heads * width];
            let mut out = q.clone();
            let seconds = best(5, || compute.attend(&a, &q, &mut out));
            let seen = rows * start + rows * (rows + 1) / 2;
            println!(
                "attention {heads}/{kv_heads}×{width}, {rows} row(s) after {start}: {:.1} µs, {:.1} GMAC/s, \
                 cache {:.1} GB/s, written in {:.2} µs a token",
                seconds * 1e6,
                (2 * seen * heads * width) as f64 / seconds / 1e9,
                ((start + rows) * kv_heads * width * 4) as f64 / seconds / 1e9,
                written * 1e6,
            );
        }
    }
}

fn overhead(compute: &Compute) {
    let seconds = best(5, || {
        for _ in 0..1000 {
            compute.run(&|_, _| {});
        }
    });
    let x = vec![0.5f32; 1536 * 2];
    let mut y = vec![0.0; 1536];
    let silu = best(5, || {
        for _ in 0..1000 {
            compute.silu_product(&x, 1536, &mut y);
        }
    });
    let weight = vec![1.0; 576];
    let norm = best(5, || {
        for _ in 0..1000 {
            compute.rms_norm(&x[..576], &weight, 1e-5, &mut y[..576]);
        }
    });
    println!(
        "fork and join {:.2} µs, silu of 1536 {:.2} µs, norm of 576 {:.2} µs",
        seconds * 1e3,
        silu * 1e3,
        norm * 1e3
    );
}
