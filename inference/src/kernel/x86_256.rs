//! [`Lanes`] in AVX2: two registers hold sixteen lanes.

use std::{arch::x86_64::*, mem::transmute};

use super::lanes::{LANES, Lanes, unroll};

/// AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2;

/// The sum of eight lanes by halves.
///
/// # Safety
/// The processor has AVX.
#[inline(always)]
pub(super) unsafe fn sum_8(v: __m256) -> f32 {
    // SAFETY: the caller answers for the instructions.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }
}

/// The largest of eight lanes.
///
/// # Safety
/// The processor has AVX.
#[inline(always)]
pub(super) unsafe fn largest_8(v: __m256) -> f32 {
    // SAFETY: the caller answers for the instructions.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }
}

// SAFETY of every block below: the caller answers for the instructions, see `Lanes`; transmutations are
// between types of one size that have no invalid bits.
impl Lanes for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(x: &[f32; LANES]) -> Self::F {
        unsafe { transmute::<[f32; LANES], [__m256; 2]>(*x) }
    }
    #[inline(always)]
    unsafe fn store(x: &mut [f32; LANES], v: Self::F) {
        *x = unsafe { transmute::<[__m256; 2], [f32; LANES]>(v) };
    }
    #[inline(always)]
    unsafe fn load_single(x: &[u8; 64]) -> Self::F {
        unsafe { transmute::<[u8; 64], [__m256; 2]>(*x) }
    }
    #[inline(always)]
    unsafe fn load_half(x: &[u8; 32]) -> Self::F {
        unsafe {
            let [a, b] = transmute::<[u8; 32], [__m128i; 2]>(*x);
            [_mm256_cvtph_ps(a), _mm256_cvtph_ps(b)]
        }
    }
    #[inline(always)]
    unsafe fn load_bfloat(x: &[u8; 32]) -> Self::F {
        unsafe {
            let [a, b] = transmute::<[u8; 32], [__m128i; 2]>(*x);
            let (a, b) = (_mm256_cvtepu16_epi32(a), _mm256_cvtepu16_epi32(b));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_unsigned(x: &[u8; LANES]) -> Self::F {
        unsafe {
            let all = transmute::<[u8; 16], __m128i>(*x);
            let (a, b) = (all, _mm_unpackhi_epi64(all, all));
            [
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(a)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_signed(x: &[u8; LANES]) -> Self::F {
        unsafe {
            let all = transmute::<[u8; 16], __m128i>(*x);
            let (a, b) = (all, _mm_unpackhi_epi64(all, all));
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(a)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn zero_below(x: Self::F, limit: Self::F, v: Self::F) -> Self::F {
        unsafe {
            std::array::from_fn(|i| {
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[i], limit[i]), v[i])
            })
        }
    }
    #[inline(always)]
    unsafe fn power_of_two(i: Self::F) -> Self::F {
        unsafe {
            let power = |i: __m256| {
                let exponent = _mm256_add_epi32(_mm256_cvttps_epi32(i), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            };
            [power(i[0]), power(i[1])]
        }
    }
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        unsafe { sum_8(_mm256_add_ps(v[0], v[1])) }
    }
    #[inline(always)]
    unsafe fn largest(v: Self::F) -> f32 {
        unsafe { largest_8(_mm256_max_ps(v[0], v[1])) }
    }
    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn to_float(v: Self::I) -> Self::F {
        unsafe { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
    }
    #[inline(always)]
    unsafe fn codes(bits: u32, lines: &[[u8; 64]]) -> [Self::B; 8] {
        unsafe {
            let line = |i: usize| transmute::<[u8; 64], [__m256i; 2]>(lines[i]);
            if bits == 8 {
                return [
                    line(0),
                    line(1),
                    line(2),
                    line(3),
                    line(4),
                    line(5),
                    line(6),
                    line(7),
                ];
            }
            let both =
                |v: Self::B, f: &dyn Fn(__m256i) -> __m256i| -> Self::B { [f(v[0]), f(v[1])] };
            let fifteen = _mm256_set1_epi8(15);
            let low = |i: usize| both(line(i), &|v| _mm256_and_si256(v, fifteen));
            let high = |i: usize| {
                both(line(i), &|v| {
                    _mm256_and_si256(_mm256_srli_epi16::<4>(v), fifteen)
                })
            };
            let nibbles = [
                low(0),
                low(1),
                low(2),
                low(3),
                high(0),
                high(1),
                high(2),
                high(3),
            ];
            if bits == 4 {
                return nibbles;
            }
            // The upper bits wait in other lines, one byte for all groups; see `pack`.
            let (shifted, mask): ([Self::B; 8], __m256i) = if bits == 5 {
                let h = line(4);
                (
                    [
                        both(h, &|v| _mm256_slli_epi16::<4>(v)),
                        both(h, &|v| _mm256_slli_epi16::<3>(v)),
                        both(h, &|v| _mm256_slli_epi16::<2>(v)),
                        both(h, &|v| _mm256_slli_epi16::<1>(v)),
                        h,
                        both(h, &|v| _mm256_srli_epi16::<1>(v)),
                        both(h, &|v| _mm256_srli_epi16::<2>(v)),
                        both(h, &|v| _mm256_srli_epi16::<3>(v)),
                    ],
                    _mm256_set1_epi8(0x10),
                )
            } else {
                let (h, i) = (line(4), line(5));
                (
                    [
                        both(h, &|v| _mm256_slli_epi16::<4>(v)),
                        both(h, &|v| _mm256_slli_epi16::<2>(v)),
                        h,
                        both(h, &|v| _mm256_srli_epi16::<2>(v)),
                        both(i, &|v| _mm256_slli_epi16::<4>(v)),
                        both(i, &|v| _mm256_slli_epi16::<2>(v)),
                        i,
                        both(i, &|v| _mm256_srli_epi16::<2>(v)),
                    ],
                    _mm256_set1_epi8(0x30),
                )
            };
            let mut codes = nibbles;
            unroll!(g < 8, {
                unroll!(i < 2, {
                    let high = _mm256_and_si256(shifted[g][i], mask);
                    codes[g][i] = _mm256_or_si256(nibbles[g][i], high);
                });
            });
            codes
        }
    }
    #[inline(always)]
    unsafe fn dot(bits: u32, acc: Self::I, codes: Self::B, four: [i8; 4]) -> Self::I {
        unsafe {
            let x = _mm256_set1_epi32(transmute::<[i8; 4], i32>(four));
            let ones = _mm256_set1_epi16(1);
            let mut sums = acc;
            unroll!(i < 2, {
                let products = if bits == 8 {
                    // Two products of eight bits each do not fit into sixteen; those of four bits do.
                    let fifteen = _mm256_set1_epi8(15);
                    let low = _mm256_and_si256(codes[i], fifteen);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes[i]), fifteen);
                    let low = _mm256_maddubs_epi16(low, x);
                    let high = _mm256_maddubs_epi16(high, x);
                    let sixteen = _mm256_set1_epi16(16);
                    let low = _mm256_madd_epi16(low, ones);
                    _mm256_add_epi32(low, _mm256_madd_epi16(high, sixteen))
                } else {
                    // 2 · 63 · 127 = 16 002 fits.
                    _mm256_madd_epi16(_mm256_maddubs_epi16(codes[i], x), ones)
                };
                sums[i] = _mm256_add_epi32(acc[i], products);
            });
            sums
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
