//! [`Lanes`] in plain Rust: runs everywhere, and is what the other implementations are tested against.

use half::{bf16, f16};

use super::lanes::{LANES, Lanes};

/// No particular instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalar;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Lanes for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 64];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    unsafe fn store(x: &mut [f32; LANES], v: Self::F) {
        *x = v;
    }
    #[inline(always)]
    unsafe fn load_single(x: &[u8; 64]) -> Self::F {
        each(|i| f32::from_ne_bytes(x.as_chunks::<4>().0[i]))
    }
    #[inline(always)]
    unsafe fn load_half(x: &[u8; 32]) -> Self::F {
        each(|i| f16::from_ne_bytes(x.as_chunks::<2>().0[i]).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bfloat(x: &[u8; 32]) -> Self::F {
        each(|i| bf16::from_ne_bytes(x.as_chunks::<2>().0[i]).to_f32())
    }
    #[inline(always)]
    unsafe fn load_unsigned(x: &[u8; LANES]) -> Self::F {
        each(|i| f32::from(x[i]))
    }
    #[inline(always)]
    unsafe fn load_signed(x: &[u8; LANES]) -> Self::F {
        each(|i| f32::from(x[i].cast_signed()))
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] / b[i])
    }
    // Without an instruction for it this is sixteen calls, and one place for them is enough.
    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn zero_below(x: Self::F, limit: Self::F, v: Self::F) -> Self::F {
        each(|i| if x[i] < limit[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    unsafe fn power_of_two(i: Self::F) -> Self::F {
        each(|lane| f32::from_bits((i[lane] as i32).wrapping_add(127).cast_unsigned() << 23))
    }
    #[inline(always)]
    unsafe fn sum(mut v: Self::F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }
    #[inline(always)]
    unsafe fn largest(mut v: Self::F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] = if v[i] > v[i + half] {
                    v[i]
                } else {
                    v[i + half]
                };
            }
        }
        v[0]
    }
    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn to_float(v: Self::I) -> Self::F {
        each(|i| v[i] as f32)
    }
    #[inline(never)]
    unsafe fn codes(bits: u32, lines: &[[u8; 64]]) -> [Self::B; 8] {
        let line = |i: usize| lines[i];
        std::array::from_fn(|group| {
            if bits == 8 {
                return line(group);
            }
            let low = line(group % 4);
            let shift = if group < 4 { 0 } else { 4 };
            let mut out: [u8; 64] = std::array::from_fn(|i| (low[i] >> shift) & 15);
            if bits == 5 {
                let high = line(4);
                for i in 0..64 {
                    out[i] |= ((high[i] >> group) & 1) << 4;
                }
            } else if bits == 6 {
                let high = line(4 + group / 4);
                for i in 0..64 {
                    out[i] |= ((high[i] >> (2 * (group % 4))) & 3) << 4;
                }
            }
            out
        })
    }
    #[inline(never)] // thousands of times otherwise; the loop within is what is compiled to vectors
    unsafe fn dot(_bits: u32, acc: Self::I, codes: Self::B, x: [i8; 4]) -> Self::I {
        std::array::from_fn(|row| {
            let mut sum = acc[row];
            for j in 0..4 {
                let product = i32::from(codes[row * 4 + j]) * i32::from(x[j]);
                sum = i32::wrapping_add(sum, product);
            }
            sum
        })
    }
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
}
