//! What the kernels promise: values against f64 arithmetic, and the same bits from every instruction set,
//! number of threads and batch.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attention;
mod elementwise;
mod pool;
mod product;

use half::f16;

use super::{Compute, Isa};
use crate::gguf::Format;

/// The formats whose weights are numbers without blocks, and all others.
const FORMATS: [Format; 11] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::F16,
    Format::BF16,
    Format::F32,
];

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between −1 and 1.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }

    /// `rows` rows of `columns` weights: all bits random, but the scales of moderate size.
    fn weights(&mut self, format: Format, rows: usize, columns: usize) -> Vec<u8> {
        let mut out = vec![];
        let blocks = rows * columns / format.block_elements();
        for _ in 0..blocks {
            let at = out.len();
            match format {
                Format::F32 => out.extend(self.number().to_le_bytes()),
                Format::F16 => out.extend(f16::from_f32(self.number()).to_le_bytes()),
                Format::BF16 => out.extend(half::bf16::from_f32(self.number()).to_le_bytes()),
                _ => out.extend((0..format.block_bytes()).map(|_| self.next() as u8)),
            }
            let halves: &[usize] = match format {
                Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
                Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
                Format::Q6_K => &[208],
                _ => &[],
            };
            for half in halves {
                let d = f16::from_f32(self.number() * 0.02);
                out[at + half..][..2].copy_from_slice(&d.to_le_bytes());
            }
        }
        out
    }
}

/// Every instruction set this processor has.
fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// Every instruction set, alone and with several threads.
fn computes() -> Vec<Compute> {
    isas()
        .flat_map(|isa| [1, 3].map(|threads| Compute::with_isa(threads, isa)))
        .collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_best_instruction_set_is_one_that_is_there() {
    assert!(Isa::best().available());
    assert_eq!(Compute::new(1).isa(), Isa::best());
    for isa in isas() {
        assert_eq!(Compute::with_isa(1, isa).name(), isa.name());
    }
}
