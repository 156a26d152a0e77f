//! Activations as the panels want them: in tiles of rows, quantised where the weights are.
//!
//! A row is quantised in blocks of 32: d = max |x| / 127 and q = x / d rounded to nearest even. A block whose
//! largest number is below 10⁻³⁵ counts as zero; one that holds a number that is not finite gets d = NaN, so
//! that everything it touches becomes NaN.
//!
//! Rows are taken in tiles of 8, 4, 2 and 1. Within a tile the numbers of all its rows for one block (or one
//! column) lie side by side, so that the kernel walks through them with one pointer. How rows are split into
//! tiles has no influence on their values.

use super::{
    lanes::{Kernel, LANES, Lanes},
    pack::BLOCK,
};

/// Most rows of one tile.
pub(super) const TILE: usize = 8;

/// Largest number of a block that counts as zero.
const NOTHING: f32 = 1e-35;

/// Which tile a row belongs to: the tile's first row and its height.
pub(super) fn tile_at(row: usize, rows: usize) -> (usize, usize) {
    let full = rows - rows % TILE;
    if row < full {
        return (row - row % TILE, TILE);
    }
    let mut first = full;
    for height in [4, 2, 1] {
        if (rows - full) & height != 0 {
            if row < first + height {
                return (first, height);
            }
            first += height;
        }
    }
    (first, 1)
}

/// Offsets of codes for which products are corrected; see `pack`.
pub(super) const OFFSETS: [i32; 3] = [8, 16, 128];

/// Room for the activations of one product; kept from one to the next.
#[derive(Default)]
pub(super) struct Activations {
    /// Quantised rows: per tile, per block, per row 32 bytes.
    q: Vec<i8>,
    /// Per tile, per block, per row: d.
    d: Vec<f32>,
    /// Likewise: d · Σq.
    dsum: Vec<f32>,
    /// Likewise, for each of `OFFSETS`: −offset · Σq.
    corrections: [Vec<i32>; 3],
    /// Likewise, but two: −32 · Σq of either half of the block.
    halves: Vec<i32>,
    /// Rows for weights that are not quantised: per tile, per column, per row.
    plain: Vec<f32>,
}

/// Pointers into [`Activations`], to be written by several threads at different rows.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) q: *mut i8,
    pub(super) d: *mut f32,
    pub(super) dsum: *mut f32,
    pub(super) corrections: [*mut i32; 3],
    pub(super) halves: *mut i32,
    pub(super) plain: *mut f32,
}

// SAFETY: threads write different rows, and read only after all have written.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl Activations {
    /// No room.
    pub(super) const EMPTY: Self = Self {
        q: Vec::new(),
        d: Vec::new(),
        dsum: Vec::new(),
        corrections: [Vec::new(), Vec::new(), Vec::new()],
        halves: Vec::new(),
        plain: Vec::new(),
    };

    /// Makes room for `rows` rows of `columns`.
    pub(super) fn reserve(
        &mut self,
        rows: usize,
        columns: usize,
        quantised: bool,
        plain: bool,
    ) -> View {
        fn grow<T: Copy + Default>(v: &mut Vec<T>, len: usize) -> *mut T {
            if v.len() < len {
                v.resize(len, T::default());
            }
            v.as_mut_ptr()
        }
        let blocks = if quantised { columns / BLOCK * rows } else { 0 };
        View {
            q: grow(&mut self.q, blocks * BLOCK),
            d: grow(&mut self.d, blocks),
            dsum: grow(&mut self.dsum, blocks),
            corrections: self.corrections.each_mut().map(|v| grow(v, blocks)),
            halves: grow(&mut self.halves, blocks * 2),
            plain: grow(&mut self.plain, if plain { rows * columns } else { 0 }),
        }
    }
}

/// Quantises rows `from..to` of `rows` rows.
pub(super) struct Quantise<'a> {
    pub(super) x: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) range: std::ops::Range<usize>,
    pub(super) view: View,
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let blocks = self.columns / BLOCK;
        for row in self.range.clone() {
            let (first, height) = tile_at(row, self.rows);
            let x = &self.x[row * self.columns..][..self.columns];
            for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                let at = first * blocks + block * height + (row - first);
                let one = quantise_block(x);
                // SAFETY: `reserve` made room for rows · blocks, and `at` is below that: tiles fill
                // first · blocks .. (first + height) · blocks. No other thread has this row.
                unsafe {
                    self.view
                        .q
                        .wrapping_add(at * BLOCK)
                        .cast::<[i8; BLOCK]>()
                        .write(one.q);
                    *self.view.d.wrapping_add(at) = one.d;
                    let sum = one.sums[0] + one.sums[1];
                    *self.view.dsum.wrapping_add(at) = one.d * sum as f32;
                    for (correction, offset) in self.view.corrections.iter().zip(OFFSETS) {
                        *correction.wrapping_add(at) = -offset * sum;
                    }
                    *self.view.halves.wrapping_add(2 * at) = -32 * one.sums[0];
                    *self.view.halves.wrapping_add(2 * at + 1) = -32 * one.sums[1];
                }
            }
        }
    }
}

struct Quantised {
    q: [i8; BLOCK],
    d: f32,
    /// Σq of columns 0 to 15 and 16 to 31.
    sums: [i32; 2],
}

#[inline(always)]
fn quantise_block(x: &[f32; BLOCK]) -> Quantised {
    // Without the sign, numbers are ordered as their bits are, infinity and NaN above all others.
    let mut bits = [0u32; LANES];
    for half in [0, LANES] {
        for i in 0..LANES {
            bits[i] = bits[i].max(x[half + i].to_bits() & 0x7fff_ffff);
        }
    }
    let mut most = 0;
    for b in bits {
        most = most.max(b);
    }
    let largest = f32::from_bits(most);
    let mut out = Quantised {
        q: [0; BLOCK],
        d: 0.0,
        sums: [0; 2],
    };
    if !largest.is_finite() {
        out.d = f32::NAN;
        return out;
    }
    if largest < NOTHING {
        return out;
    }
    out.d = largest / 127.0;
    let inverse = 1.0 / out.d;
    const ROUNDER: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    for half in 0..2 {
        let mut sum = 0i32;
        for i in 0..LANES {
            let rounded = (x[half * LANES + i] * inverse + ROUNDER)
                .to_bits()
                .cast_signed();
            let q = rounded.wrapping_sub(ROUNDER.to_bits().cast_signed());
            out.q[half * LANES + i] = q as i8;
            sum = sum.wrapping_add(q);
        }
        out.sums[half] = sum;
    }
    out
}

/// Copies rows `from..to` of `rows` rows into their tiles.
pub(super) struct Interleave<'a> {
    pub(super) x: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) range: std::ops::Range<usize>,
    pub(super) view: View,
}

impl Kernel for Interleave<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        for row in self.range.clone() {
            let (first, height) = tile_at(row, self.rows);
            let x = &self.x[row * self.columns..][..self.columns];
            for (column, x) in x.iter().enumerate() {
                let at = first * self.columns + column * height + (row - first);
                // SAFETY: `reserve` made room for rows · columns, and no other thread has this row.
                unsafe { *self.view.plain.wrapping_add(at) = *x };
            }
        }
    }
}
