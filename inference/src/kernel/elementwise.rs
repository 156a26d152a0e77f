//! The small operations between the products.

use super::lanes::{Kernel, LANES, Lanes, exp};

/// Rows of x / √(mean of squares + epsilon) · weight (Zhang and Sennrich 2019, "Root Mean Square Layer
/// Normalization").
pub(super) struct RmsNorm<'a> {
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) epsilon: f32,
    pub(super) out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let width = self.weight.len();
        for (x, out) in self
            .x
            .chunks_exact(width)
            .zip(self.out.chunks_exact_mut(width))
        {
            let (lanes, rest) = x.as_chunks::<LANES>();
            let mut squares = [0.0f32; LANES];
            for x in lanes {
                for i in 0..LANES {
                    squares[i] += x[i] * x[i];
                }
            }
            for (square, x) in squares.iter_mut().zip(rest) {
                *square += x * x;
            }
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    squares[i] += squares[i + half];
                }
            }
            let factor = 1.0 / (squares[0] / width as f32 + self.epsilon).sqrt();
            for ((o, x), w) in out.iter_mut().zip(x).zip(self.weight) {
                *o = x * factor * w;
            }
        }
    }
}

/// Turns the first `2 · half` numbers of every head by the angles of their row: numbers i and i + half by
/// angle i (Su et al. 2021, "RoFormer", in the order of GPT-NeoX).
pub(super) struct Rotate<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) heads: usize,
    pub(super) head_width: usize,
    pub(super) half: usize,
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let rows = self.x.chunks_exact_mut(self.heads * self.head_width);
        let angles = self.cos.chunks_exact(self.half);
        for ((row, cos), sin) in rows.zip(angles).zip(self.sin.chunks_exact(self.half)) {
            for head in row.chunks_exact_mut(self.head_width) {
                let (first, rest) = head.split_at_mut(self.half);
                let pairs = first.iter_mut().zip(rest);
                for ((a, b), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

/// Which function gates a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// x · σ(x).
    Silu,
    /// x · Φ(x), approximated by tanh (Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"):
    /// ½ (1 + tanh z) = σ(2 z), z = √(2/π) (x + 0.044715 x³).
    GeluTanh,
}

/// Rows of gate(first half) · second half.
pub(super) struct GatedProduct<'a> {
    pub(super) gate_up: &'a [f32],
    pub(super) width: usize,
    pub(super) gate: Gate,
    pub(super) out: &'a mut [f32],
}

impl Kernel for GatedProduct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let rows = self.gate_up.chunks_exact(2 * self.width);
        for (row, out) in rows.zip(self.out.chunks_exact_mut(self.width)) {
            let (gates, ups) = row.split_at(self.width);
            let (gates, last_gates) = gates.as_chunks();
            let (ups, last_ups) = ups.as_chunks();
            let (out, last_out) = out.as_chunks_mut();
            for ((gate, up), out) in gates.iter().zip(ups).zip(out) {
                // SAFETY: the caller answers for the instructions.
                unsafe { S::store(out, gated::<S>(self.gate, S::load(gate), S::load(up))) };
            }
            let (mut gate, mut up) = ([0.0; LANES], [0.0; LANES]);
            gate[..last_gates.len()].copy_from_slice(last_gates);
            up[..last_ups.len()].copy_from_slice(last_ups);
            let mut all = [0.0; LANES];
            // SAFETY: as above.
            unsafe {
                S::store(
                    &mut all,
                    gated::<S>(self.gate, S::load(&gate), S::load(&up)),
                )
            };
            last_out.copy_from_slice(&all[..last_out.len()]);
        }
    }
}

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn gated<S: Lanes>(gate: Gate, g: S::F, u: S::F) -> S::F {
    // SAFETY: arithmetic on values alone; the caller answers for the instructions.
    unsafe {
        let exponent = match gate {
            Gate::Silu => S::sub(S::splat(0.0), g),
            Gate::GeluTanh => {
                let cube = S::mul(S::mul(g, g), g);
                let z = S::fma(cube, S::splat(0.044_715), g);
                S::mul(z, S::splat(-1.595_769)) // −2 √(2/π)
            }
        };
        let one = S::splat(1.0);
        S::mul(S::div(g, S::add(one, exp::<S>(exponent))), u)
    }
}

/// x + y into x.
pub(super) struct Add<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x += y;
        }
    }
}
