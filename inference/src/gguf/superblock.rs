//! ggml's K formats: 256 elements to a block, whose scales are themselves quantised.
//!
//! After `ggml-common.h` (`block_q4_K`, `block_q5_K`, `block_q6_K`) and `ggml-quants.c`
//! (`dequantize_row_q4_K` and its neighbours). `d` and `dmin` are f16.
//!
//! | format | layout                                                                       | element             |
//! |--------|------------------------------------------------------------------------------|---------------------|
//! | Q4_K   | d, dmin, 12 bytes of 8 six-bit (s, m), 128 × two nibbles                     | (d·s)·q − (dmin·m)  |
//! | Q5_K   | d, dmin, 12 bytes of 8 six-bit (s, m), 32 × eight fifth bits, 128 × nibbles  | (d·s)·q − (dmin·m)  |
//! | Q6_K   | 128 × two nibbles, 64 × four upper bit pairs, 16 × i8 s, d                   | (d·s)·(q − 32)      |
//!
//! Q4_K and Q5_K go in four pieces of 64 elements: 32 bytes' low nibbles, then the same bytes' high ones.
//! Each half has its own s and m. Q6_K goes in two pieces of 128: low nibbles of 64 bytes, then high ones,
//! with a scale for every 16 elements.

// Numbers inside arrays of fixed length, at indices that loops over their lengths make.
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use half::f16;

pub(super) const Q4_K_BYTES: usize = 144;
pub(super) const Q5_K_BYTES: usize = 176;
pub(super) const Q6_K_BYTES: usize = 210;

/// Appends the elements of every whole block.
pub(super) fn each<const N: usize>(
    bytes: &[u8],
    out: &mut Vec<f32>,
    block: fn(&[u8; N], &mut [f32; 256]),
) {
    let mut elements = [0.0; 256];
    for bytes in bytes.as_chunks::<N>().0 {
        block(bytes, &mut elements);
        out.extend_from_slice(&elements);
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The `i`th of eight six-bit scales and minima (`get_scale_min_k4`). The first four of each lie in the low
/// six bits of bytes 0 to 3 and 4 to 7; the others have four bits in bytes 8 to 11, and two on top of those.
fn scale_and_minimum(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, minimum) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (
            (packed[i + 4] & 15) | ((packed[i - 4] >> 6) << 4),
            (packed[i + 4] >> 4) | ((packed[i] >> 6) << 4),
        )
    };
    (f32::from(scale), f32::from(minimum))
}

pub(super) fn q4_k(block: &[u8; Q4_K_BYTES], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, nibbles) = (&block[4..16], &block[16..]);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, i);
        let (scale, minimum) = (d * scale, dmin * minimum);
        for (l, out) in out.iter_mut().enumerate() {
            let q = (nibbles[i / 2 * 32 + l] >> (i % 2 * 4)) & 15;
            *out = scale * f32::from(q) - minimum;
        }
    }
}

pub(super) fn q5_k(block: &[u8; Q5_K_BYTES], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, fifth, nibbles) = (&block[4..16], &block[16..48], &block[48..]);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, i);
        let (scale, minimum) = (d * scale, dmin * minimum);
        for (l, out) in out.iter_mut().enumerate() {
            let q = (nibbles[i / 2 * 32 + l] >> (i % 2 * 4)) & 15;
            let top = (fifth[l] >> i) & 1;
            *out = scale * f32::from(q | (top << 4)) - minimum;
        }
    }
}

pub(super) fn q6_k(block: &[u8; Q6_K_BYTES], out: &mut [f32; 256]) {
    let (nibbles, pairs, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        // Which piece of 128, which quarter of it, and where in the quarter.
        let (piece, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let low = (nibbles[piece * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4)) & 15;
        let high = (pairs[piece * 32 + l] >> (quarter * 2)) & 3;
        let q = f32::from(low | (high << 4)) - 32.0;
        *out = d * f32::from(scales[i / 16].cast_signed()) * q;
    }
}
