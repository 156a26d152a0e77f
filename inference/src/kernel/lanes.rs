//! Sixteen numbers at a time: the few vector operations the kernels are written in.
//!
//! Every kernel of this room is one generic function over [`Lanes`]; an instruction set is one implementation
//! of this trait. A lane always belongs to one output (a row of weights, a token of the cache, a column of the
//! values), sums over lanes use one fixed tree, and every multiplication followed by an addition is fused.
//! So all implementations compute the same bits, whatever registers they have.

use super::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::{x86_256::Avx2, x86_512::Avx512};

/// Numbers in one vector; rows in one panel; tokens in one page.
pub(super) const LANES: usize = 16;

/// Repeats a block for `i` = 0, 1, … below `n`, which is at most 8 and known to the compiler. Loops over arrays
/// of registers are written with this, because a loop that is not unrolled keeps the arrays in memory.
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $n:expr, $body:block, $($k:literal)*) => {
        $(
            if $k < $n {
                let $i: usize = $k;
                $body
            }
        )*
    };
}
pub(super) use unroll;

/// Vectors of sixteen lanes.
///
/// # Safety
/// Every function may be called only where the processor has the implementation's instructions, which
/// [`dispatch`] sees to. That is all there is to it: memory is read and written through references. (They are
/// also what keeps the compiler from checking every pointer where debug assertions are on.)
pub(super) trait Lanes: Copy + 'static {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixty-four bytes: four consecutive columns of sixteen rows.
    type B: Copy;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// Reads 16 f32.
    unsafe fn load(x: &[f32; LANES]) -> Self::F;
    /// Writes 16 f32.
    unsafe fn store(x: &mut [f32; LANES], v: Self::F);
    /// Reads 16 f32 from their bytes in the order of this machine.
    unsafe fn load_single(x: &[u8; 64]) -> Self::F;
    /// Reads 16 IEEE halves.
    unsafe fn load_half(x: &[u8; 32]) -> Self::F;
    /// Reads 16 bfloat16.
    unsafe fn load_bfloat(x: &[u8; 32]) -> Self::F;
    /// Reads 16 unsigned bytes as numbers.
    unsafe fn load_unsigned(x: &[u8; LANES]) -> Self::F;
    /// Reads 16 signed bytes as numbers.
    unsafe fn load_signed(x: &[u8; LANES]) -> Self::F;
    /// a + b.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// a − b.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// a · b.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// a / b.
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a if a > b, else b: b where either is not a number.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// a if a < b, else b: b where either is not a number.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// 0 where x < limit, else v.
    unsafe fn zero_below(x: Self::F, limit: Self::F, v: Self::F) -> Self::F;
    /// 2^i for whole i in −126..=127; anything for other numbers.
    unsafe fn power_of_two(i: Self::F) -> Self::F;
    /// The sum of all lanes: i and i+8, then i+4, i+2, i+1.
    unsafe fn sum(v: Self::F) -> f32;
    /// The largest lane.
    unsafe fn largest(v: Self::F) -> f32;

    /// All lanes `x`.
    unsafe fn splat_int(x: i32) -> Self::I;
    /// The whole numbers as f32, rounded to nearest.
    unsafe fn to_float(v: Self::I) -> Self::F;
    /// Unpacks one block's codes of `bits` = 4, 5, 6 or 8 bits (see `pack`), as many lines: eight groups of
    /// four columns.
    unsafe fn codes(bits: u32, lines: &[[u8; 64]]) -> [Self::B; 8];
    /// Adds to each lane the product of its four codes (below 2^bits) with four signed bytes above −128.
    unsafe fn dot(bits: u32, acc: Self::I, codes: Self::B, four: [i8; 4]) -> Self::I;

    /// Asks for the cache line at `p`, which need not be valid.
    unsafe fn prefetch(p: *const u8);
}

/// e^x with a relative error below 3·10⁻⁷ for x in −87.3..=88.3; 0 below, e^88.3 above; e^0 is exactly 1.
///
/// Cephes' expf: x = n·ln 2 + f with |f| ≤ ln 2 / 2, a polynomial for e^f, times 2ⁿ.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<S: Lanes>(x: S::F) -> S::F {
    const LOWEST: f32 = -87.3;
    const ROUNDER: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    // SAFETY: arithmetic on values alone; the caller answers for the instructions.
    unsafe {
        let c = |x: f32| S::splat(x);
        let clamped = S::min(c(88.3), S::max(c(LOWEST), x));
        let n = S::sub(
            S::fma(clamped, c(std::f32::consts::LOG2_E), c(ROUNDER)),
            c(ROUNDER),
        );
        let f = S::fma(n, c(-0.693_359_4), clamped);
        let f = S::fma(n, c(2.121_944_4e-4), f);
        let mut p = c(1.987_569_1e-4);
        for coefficient in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ] {
            p = S::fma(p, f, c(coefficient));
        }
        let p = S::add(S::fma(S::mul(f, f), p, f), c(1.0));
        S::zero_below(x, c(LOWEST), S::mul(p, S::power_of_two(n)))
    }
}

/// An instruction set the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// No vector instructions asked for by name.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
}

impl Isa {
    /// All of them, best last.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Whether this processor has it.
    pub fn available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The best one this processor has.
    pub fn best() -> Self {
        let mut best = Self::Portable;
        for isa in Self::ALL {
            if isa.available() {
                best = isa;
            }
        }
        best
    }

    /// What runs, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512-vnni",
        }
    }
}

/// A piece of work written over [`Lanes`].
pub(super) trait Kernel {
    /// What it computes.
    type Output;
    /// Does the work. Implementations are `#[inline(always)]`, so that they are compiled with the
    /// instructions of `S`.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    unsafe fn run<S: Lanes>(self) -> Self::Output;
}

/// Runs `kernel` compiled for `isa`, which must be one that [`Isa::available`] answers for.
#[inline]
pub(super) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    debug_assert!(isa.available(), "an instruction set that is not there");
    match isa {
        // SAFETY: needs no particular instruction.
        Isa::Portable => unsafe { kernel.run::<Scalar>() },
        // SAFETY: `Compute` holds only an `Isa` that was found on this processor.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { run_256(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { run_512(kernel) },
        // SAFETY: never chosen, see `Isa::available`; needs no particular instruction.
        #[cfg(not(target_arch = "x86_64"))]
        _ => unsafe { kernel.run::<Scalar>() },
    }
}

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_256<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller answers for the instructions.
    unsafe { kernel.run::<Avx2>() }
}

/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn run_512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller answers for the instructions.
    unsafe { kernel.run::<Avx512>() }
}
