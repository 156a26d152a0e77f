//! [`Lanes`] in AVX-512 with VNNI: one register holds sixteen lanes, one instruction multiplies 64 bytes.

use std::{arch::x86_64::*, mem::transmute};

use super::lanes::{LANES, Lanes, unroll};

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512;

// SAFETY of every block below: the caller answers for the instructions, see `Lanes`; transmutations are
// between types of one size that have no invalid bits.
impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(x: &[f32; LANES]) -> Self::F {
        unsafe { transmute::<[f32; LANES], __m512>(*x) }
    }
    #[inline(always)]
    unsafe fn store(x: &mut [f32; LANES], v: Self::F) {
        *x = unsafe { transmute::<__m512, [f32; LANES]>(v) };
    }
    #[inline(always)]
    unsafe fn load_single(x: &[u8; 64]) -> Self::F {
        unsafe { transmute::<[u8; 64], __m512>(*x) }
    }
    #[inline(always)]
    unsafe fn load_half(x: &[u8; 32]) -> Self::F {
        unsafe { _mm512_cvtph_ps(transmute::<[u8; 32], __m256i>(*x)) }
    }
    #[inline(always)]
    unsafe fn load_bfloat(x: &[u8; 32]) -> Self::F {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(transmute::<[u8; 32], __m256i>(*x));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_unsigned(x: &[u8; LANES]) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(transmute::<[u8; 16], __m128i>(*x))) }
    }
    #[inline(always)]
    unsafe fn load_signed(x: &[u8; LANES]) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(transmute::<[u8; 16], __m128i>(*x))) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn zero_below(x: Self::F, limit: Self::F, v: Self::F) -> Self::F {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), v) }
    }
    #[inline(always)]
    unsafe fn power_of_two(i: Self::F) -> Self::F {
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvttps_epi32(i), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            super::x86_256::sum_8(v)
        }
    }
    #[inline(always)]
    unsafe fn largest(v: Self::F) -> f32 {
        unsafe {
            let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            super::x86_256::largest_8(v)
        }
    }
    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn to_float(v: Self::I) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn codes(bits: u32, lines: &[[u8; 64]]) -> [Self::B; 8] {
        unsafe {
            let line = |i: usize| transmute::<[u8; 64], __m512i>(lines[i]);
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
            let fifteen = _mm512_set1_epi8(15);
            let low = |i: usize| _mm512_and_si512(line(i), fifteen);
            let high = |i: usize| _mm512_and_si512(_mm512_srli_epi16::<4>(line(i)), fifteen);
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
            let (shifted, mask) = if bits == 5 {
                let h = line(4);
                (
                    [
                        _mm512_slli_epi16::<4>(h),
                        _mm512_slli_epi16::<3>(h),
                        _mm512_slli_epi16::<2>(h),
                        _mm512_slli_epi16::<1>(h),
                        h,
                        _mm512_srli_epi16::<1>(h),
                        _mm512_srli_epi16::<2>(h),
                        _mm512_srli_epi16::<3>(h),
                    ],
                    _mm512_set1_epi8(0x10),
                )
            } else {
                let (h, i) = (line(4), line(5));
                (
                    [
                        _mm512_slli_epi16::<4>(h),
                        _mm512_slli_epi16::<2>(h),
                        h,
                        _mm512_srli_epi16::<2>(h),
                        _mm512_slli_epi16::<4>(i),
                        _mm512_slli_epi16::<2>(i),
                        i,
                        _mm512_srli_epi16::<2>(i),
                    ],
                    _mm512_set1_epi8(0x30),
                )
            };
            // nibble | (shifted & mask)
            let mut codes = nibbles;
            unroll!(g < 8, {
                codes[g] = _mm512_ternarylogic_epi32::<0xF8>(nibbles[g], shifted[g], mask);
            });
            codes
        }
    }
    #[inline(always)]
    unsafe fn dot(_bits: u32, acc: Self::I, codes: Self::B, four: [i8; 4]) -> Self::I {
        unsafe {
            _mm512_dpbusd_epi32(
                acc,
                codes,
                _mm512_set1_epi32(transmute::<[i8; 4], i32>(four)),
            )
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
