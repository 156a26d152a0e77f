//! Panels times tiles of activations: the products of a forward pass.
//!
//! For quantised weights, the products of one block are summed exactly in whole numbers and then multiplied
//! with both scales; a row's blocks are added one after the other. A minimum adds (minimum of the row) ·
//! (d · Σq of the activations); an offset of the codes is taken off the whole-number sum. For other weights
//! every product is fused into one of two sums, for even and odd columns. Each output has one lane of one
//! register, so its value depends on nothing but its own row of weights and of activations.

use std::ops::Range;

use super::{
    activations::View,
    lanes::{Isa, Kernel, LANES, Lanes, dispatch, unroll},
    matrix::Slab,
    pack::{BLOCK, Layout},
};

/// Bytes ahead of the current block that are asked for.
const AHEAD: usize = 4096;

/// One tile of activations, times some panels of one slab.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) view: View,
    /// First row of the tile, and its rows: 8, 4, 2 or 1.
    pub(super) first: usize,
    pub(super) height: usize,
    pub(super) columns: usize,
    /// The output, [rows of activations, `stride`].
    pub(super) y: *mut f32,
    pub(super) stride: usize,
}

// SAFETY: threads write different elements of `y`; see `View` for the rest.
unsafe impl Send for Tile {}
// SAFETY: as above.
unsafe impl Sync for Tile {}

/// Multiplies `panels` of `slab` with `tile`.
///
/// # Safety
/// The tile's activations are written and read by no one who writes, its output has room for its rows of
/// `stride`, the slab's rows lie within `stride`, and no other thread writes these panels' rows of the tile.
pub(super) unsafe fn multiply(isa: Isa, slab: &Slab, panels: Range<usize>, tile: &Tile) {
    let job = Job {
        panels: slab.bytes(),
        range: panels,
        first_row: slab.first_row,
        rows: slab.rows,
        layout: slab.layout,
        tile: *tile,
    };
    match tile.height {
        8 => job.go::<8>(isa),
        4 => job.go::<4>(isa),
        2 => job.go::<2>(isa),
        _ => job.go::<1>(isa),
    }
}

struct Job<'a> {
    panels: &'a [u8],
    range: Range<usize>,
    first_row: usize,
    rows: usize,
    layout: Layout,
    tile: Tile,
}

impl Job<'_> {
    fn go<const T: usize>(self, isa: Isa) {
        match self.layout {
            Layout::Q4_0 => dispatch(isa, Blocks::<Q4_0, T>::new(self)),
            Layout::Q4_1 => dispatch(isa, Blocks::<Q4_1, T>::new(self)),
            Layout::Q5_0 => dispatch(isa, Blocks::<Q5_0, T>::new(self)),
            Layout::Q5_1 => dispatch(isa, Blocks::<Q5_1, T>::new(self)),
            Layout::Q8_0 => dispatch(isa, Blocks::<Q8_0, T>::new(self)),
            Layout::Q4_K => dispatch(isa, Blocks::<Q4_K, T>::new(self)),
            Layout::Q5_K => dispatch(isa, Blocks::<Q5_K, T>::new(self)),
            Layout::Q6_K => dispatch(isa, Halves::<T>(self)),
            Layout::F16 => dispatch(isa, Plain::<F16, T>::new(self)),
            Layout::BF16 => dispatch(isa, Plain::<BF16, T>::new(self)),
            Layout::F32 => dispatch(isa, Plain::<F32, T>::new(self)),
        }
    }

    /// Writes the results of one panel; its last rows may be padding.
    ///
    /// # Safety
    /// As for [`multiply`]; the processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn store<S: Lanes, const T: usize>(&self, panel: usize, sums: [S::F; T]) {
        let count = (self.rows - panel * LANES).min(LANES);
        let column = self.first_row + panel * LANES;
        let first = self.tile.first * self.tile.stride + column;
        unroll!(t < T, {
            let mut all = [0.0; LANES];
            // SAFETY: the caller answers for the instructions.
            unsafe { S::store(&mut all, sums[t]) };
            let to = self.tile.y.wrapping_add(first + t * self.tile.stride);
            // SAFETY: the caller promises room for these rows; only `count` of them are written.
            unsafe { std::ptr::copy_nonoverlapping(all.as_ptr(), to, count) };
        });
    }
}

/// The part of `all` that belongs to a tile whose first row is `first`: `width` numbers for each of `T` rows.
///
/// # Safety
/// `all` was written up to there, and nobody writes it while the slice lives.
unsafe fn of_tile<'a, X, const T: usize>(all: *mut X, first: usize, width: usize) -> &'a [X] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(all.wrapping_add(first * width), T * width) }
}

/// What distinguishes one layout of blocks with one scale from another.
trait Blocked {
    const LAYOUT: Layout;
    const BITS: u32;
    /// Index into `OFFSETS`, for codes with an offset.
    const OFFSET: Option<usize>;
    const MINIMUM: bool;

    /// The scales and minimums of a unit's `block`-th block.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn scales<S: Lanes>(scales: &[u8], block: usize) -> (S::F, S::F);
}

macro_rules! blocked {
    ($name:ident, $bits:literal, $offset:expr, $minimum:literal, $scales:ident) => {
        #[allow(non_camel_case_types)] // ggml's name
        struct $name;
        impl Blocked for $name {
            const LAYOUT: Layout = Layout::$name;
            const BITS: u32 = $bits;
            const OFFSET: Option<usize> = $offset;
            const MINIMUM: bool = $minimum;
            #[inline(always)]
            unsafe fn scales<S: Lanes>(scales: &[u8], block: usize) -> (S::F, S::F) {
                // SAFETY: the caller's promise is the same.
                unsafe { $scales::<S>(scales, block) }
            }
        }
    };
}
blocked!(Q4_0, 4, Some(0), false, scale);
blocked!(Q5_0, 5, Some(1), false, scale);
blocked!(Q8_0, 8, Some(2), false, scale);
blocked!(Q4_1, 4, None, true, scale_and_minimum);
blocked!(Q5_1, 5, None, true, scale_and_minimum);
blocked!(Q4_K, 4, None, true, scale_of_scale);
blocked!(Q5_K, 5, None, true, scale_of_scale);

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn scale<S: Lanes>(scales: &[u8], block: usize) -> (S::F, S::F) {
    let halves = &scales.as_chunks::<32>().0[block % 2];
    // SAFETY: the caller answers for the instructions.
    unsafe { (S::load_half(halves), S::splat(0.0)) }
}

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn scale_and_minimum<S: Lanes>(scales: &[u8], _block: usize) -> (S::F, S::F) {
    let halves = scales.as_chunks::<32>().0;
    // SAFETY: the caller answers for the instructions.
    unsafe { (S::load_half(&halves[0]), S::load_half(&halves[1])) }
}

/// Both products have at most 17 bits and are exact.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn scale_of_scale<S: Lanes>(scales: &[u8], block: usize) -> (S::F, S::F) {
    let halves = scales.as_chunks::<32>().0;
    let bytes = scales.as_chunks::<16>().0;
    // SAFETY: the caller answers for the instructions.
    unsafe {
        let (d, m) = (S::load_half(&halves[0]), S::load_half(&halves[1]));
        let scale = S::mul(d, S::load_unsigned(&bytes[4 + block % 8]));
        let minimum = S::mul(m, S::load_unsigned(&bytes[12 + block % 8]));
        (scale, S::sub(S::splat(0.0), minimum))
    }
}

struct Blocks<'a, K, const T: usize>(Job<'a>, std::marker::PhantomData<K>);

impl<'a, K: Blocked, const T: usize> Blocks<'a, K, T> {
    fn new(job: Job<'a>) -> Self {
        Self(job, std::marker::PhantomData)
    }
}

impl<K: Blocked, const T: usize> Kernel for Blocks<'_, K, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let job = self.0;
        let (tile, columns) = (&job.tile, job.tile.columns);
        let blocks = columns / BLOCK;
        let size = K::LAYOUT.panel_bytes(columns);
        // SAFETY: `reserve` made room for the tile and it was written; the caller of `multiply` answers for that.
        let (q, d, dsum, correction) = unsafe {
            let corrections = tile.view.corrections[K::OFFSET.unwrap_or(0)];
            (
                of_tile::<i8, T>(tile.view.q, tile.first, columns),
                of_tile::<f32, T>(tile.view.d, tile.first, blocks),
                of_tile::<f32, T>(tile.view.dsum, tile.first, blocks),
                of_tile::<i32, T>(corrections, tile.first, blocks),
            )
        };
        let q = q.as_chunks::<4>().0.as_chunks::<8>().0.as_chunks::<T>().0;
        let d = d.as_chunks::<T>().0;
        let dsum = dsum.as_chunks::<T>().0;
        let correction = correction.as_chunks::<T>().0;
        // SAFETY: the caller answers for the instructions.
        unsafe { prefetch_first::<S>(&job.panels[job.range.start * size..]) };
        for panel in job.range.clone() {
            let panel_bytes = &job.panels[panel * size..][..size];
            let mut tiles = q.iter().zip(d).zip(dsum.iter().zip(correction));
            // SAFETY: the caller answers for the instructions.
            unsafe {
                let mut sums = [S::splat(0.0); T];
                for unit in panel_bytes.chunks(K::LAYOUT.unit_bytes()) {
                    let (scales, codes) = unit.split_at(K::LAYOUT.scale_bytes());
                    prefetch::<S>(scales);
                    let lines = codes.as_chunks::<64>().0.chunks_exact(K::BITS as usize);
                    let blocks = lines.zip(&mut tiles).enumerate();
                    for (block, (lines, ((q, d), (dsum, correction)))) in blocks {
                        prefetch::<S>(lines.as_flattened());
                        let groups = S::codes(K::BITS, lines);
                        let (scale, minimum) = K::scales::<S>(scales, block);
                        unroll!(t < T, {
                            let mut whole = match K::OFFSET {
                                Some(_) => S::splat_int(correction[t]),
                                None => S::splat_int(0),
                            };
                            unroll!(g < 8, {
                                whole = S::dot(K::BITS, whole, groups[g], q[t][g]);
                            });
                            let both = S::mul(scale, S::splat(d[t]));
                            sums[t] = S::fma(S::to_float(whole), both, sums[t]);
                            if K::MINIMUM {
                                sums[t] = S::fma(minimum, S::splat(dsum[t]), sums[t]);
                            }
                        });
                    }
                }
                job.store::<S, T>(panel, sums);
            }
        }
    }
}

/// Asks for the bytes a run begins with, which come too early for [`prefetch`].
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn prefetch_first<S: Lanes>(panels: &[u8]) {
    for line in panels.as_chunks::<64>().0.iter().take(AHEAD / 64) {
        // SAFETY: the caller answers for the instructions.
        unsafe { S::prefetch(line.as_ptr()) };
    }
}

/// Asks for the bytes that come [`AHEAD`] of these.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn prefetch<S: Lanes>(bytes: &[u8]) {
    for line in bytes.as_chunks::<64>().0 {
        // SAFETY: the caller answers for the instructions; the address need not be valid.
        unsafe { S::prefetch(line.as_ptr().wrapping_add(AHEAD)) };
    }
}

/// Q6_K: the halves of a block have scales of their own.
struct Halves<'a, const T: usize>(Job<'a>);

impl<const T: usize> Kernel for Halves<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        const BITS: u32 = 6;
        let job = self.0;
        let (tile, columns) = (&job.tile, job.tile.columns);
        let blocks = columns / BLOCK;
        let size = Layout::Q6_K.panel_bytes(columns);
        // SAFETY: `reserve` made room for the tile and it was written; the caller of `multiply` answers for that.
        let (q, d, correction) = unsafe {
            (
                of_tile::<i8, T>(tile.view.q, tile.first, columns),
                of_tile::<f32, T>(tile.view.d, tile.first, blocks),
                of_tile::<i32, T>(tile.view.halves, tile.first, 2 * blocks),
            )
        };
        let q = q.as_chunks::<4>().0.as_chunks::<8>().0.as_chunks::<T>().0;
        let d = d.as_chunks::<T>().0;
        let correction = correction.as_chunks::<2>().0.as_chunks::<T>().0;
        // SAFETY: the caller answers for the instructions.
        unsafe { prefetch_first::<S>(&job.panels[job.range.start * size..]) };
        for panel in job.range.clone() {
            let panel_bytes = &job.panels[panel * size..][..size];
            let mut tiles = q.iter().zip(d).zip(correction);
            // SAFETY: the caller answers for the instructions.
            unsafe {
                let mut sums = [S::splat(0.0); T];
                for unit in panel_bytes.chunks_exact(Layout::Q6_K.unit_bytes()) {
                    let (scales, codes) = unit.split_at(Layout::Q6_K.scale_bytes());
                    prefetch::<S>(scales);
                    let of_unit = S::load_half(&scales.as_chunks::<32>().0[0]);
                    let of_blocks = scales.as_chunks::<16>().0[2..].as_chunks::<2>().0;
                    let lines = codes.as_chunks::<64>().0.chunks_exact(BITS as usize);
                    let blocks = lines.zip(&mut tiles).zip(of_blocks);
                    for ((lines, ((q, d), correction)), of_block) in blocks {
                        prefetch::<S>(lines.as_flattened());
                        let groups = S::codes(BITS, lines);
                        let scale = [
                            S::mul(of_unit, S::load_signed(&of_block[0])),
                            S::mul(of_unit, S::load_signed(&of_block[1])),
                        ];
                        unroll!(t < T, {
                            let d = S::splat(d[t]);
                            unroll!(half < 2, {
                                let mut whole = S::splat_int(correction[t][half]);
                                unroll!(g < 4, {
                                    let g = half * 4 + g;
                                    whole = S::dot(BITS, whole, groups[g], q[t][g]);
                                });
                                let both = S::mul(scale[half], d);
                                sums[t] = S::fma(S::to_float(whole), both, sums[t]);
                            });
                        });
                    }
                }
                job.store::<S, T>(panel, sums);
            }
        }
    }
}

/// What distinguishes one layout without blocks from another.
trait Number {
    const LAYOUT: Layout;
    /// Sixteen numbers.
    type Column: Copy;
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<S: Lanes>(column: &Self::Column) -> S::F;
    /// The columns of a panel.
    fn columns(panel: &[u8]) -> &[Self::Column];
}

macro_rules! number {
    ($name:ident, $bytes:literal, $load:ident) => {
        struct $name;
        impl Number for $name {
            const LAYOUT: Layout = Layout::$name;
            type Column = [u8; $bytes * LANES];
            #[inline(always)]
            unsafe fn load<S: Lanes>(column: &Self::Column) -> S::F {
                // SAFETY: the caller's promise is the same.
                unsafe { S::$load(column) }
            }
            fn columns(panel: &[u8]) -> &[Self::Column] {
                panel.as_chunks().0
            }
        }
    };
}
number!(F16, 2, load_half);
number!(BF16, 2, load_bfloat);
number!(F32, 4, load_single);

struct Plain<'a, K, const T: usize>(Job<'a>, std::marker::PhantomData<K>);

impl<'a, K: Number, const T: usize> Plain<'a, K, T> {
    fn new(job: Job<'a>) -> Self {
        Self(job, std::marker::PhantomData)
    }
}

impl<K: Number, const T: usize> Kernel for Plain<'_, K, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let job = self.0;
        let (tile, columns) = (&job.tile, job.tile.columns);
        let size = K::LAYOUT.panel_bytes(columns);
        // SAFETY: `reserve` made room for the tile and it was written; the caller of `multiply` answers for that.
        let x = unsafe { of_tile::<f32, T>(tile.view.plain, tile.first, columns) };
        let x = x.as_chunks::<T>().0;
        let (x_pairs, x_last) = x.as_chunks::<2>();
        // SAFETY: the caller answers for the instructions.
        unsafe { prefetch_first::<S>(&job.panels[job.range.start * size..]) };
        for panel in job.range.clone() {
            let weights = &K::columns(&job.panels[panel * size..][..size])[..columns];
            let (pairs, last) = weights.as_chunks::<2>();
            // SAFETY: the caller answers for the instructions.
            unsafe {
                let mut even = [S::splat(0.0); T];
                let mut odd = even;
                for (pair, x) in pairs.iter().zip(x_pairs) {
                    let ahead = std::ptr::from_ref(pair).cast::<u8>().wrapping_add(AHEAD);
                    S::prefetch(ahead);
                    if size_of::<K::Column>() == 64 {
                        S::prefetch(ahead.wrapping_add(64));
                    }
                    let (w, v) = (K::load::<S>(&pair[0]), K::load::<S>(&pair[1]));
                    unroll!(t < T, {
                        even[t] = S::fma(w, S::splat(x[0][t]), even[t]);
                        odd[t] = S::fma(v, S::splat(x[1][t]), odd[t]);
                    });
                }
                for (w, x) in last.iter().zip(x_last) {
                    let w = K::load::<S>(w);
                    unroll!(t < T, {
                        even[t] = S::fma(w, S::splat(x[t]), even[t]);
                    });
                }
                unroll!(t < T, {
                    even[t] = S::add(even[t], odd[t]);
                });
                job.store::<S, T>(panel, even);
            }
        }
    }
}
