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
    lanes::{Isa, Kernel, LANES, Lanes, dispatch},
    matrix::Slab,
    pack::{BLOCK, Layout},
};

/// Bytes ahead of the current block that are asked for.
const AHEAD: usize = 2048;

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
        for (t, sum) in sums.into_iter().enumerate() {
            let to = self
                .tile
                .y
                .wrapping_add((self.tile.first + t) * self.tile.stride + column);
            // SAFETY: the caller promises room for these rows; only `count` of them are written.
            unsafe {
                if count == LANES {
                    S::store(to, sum);
                } else {
                    let mut all = [0.0; LANES];
                    S::store(all.as_mut_ptr(), sum);
                    std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
                }
            }
        }
    }
}

/// What distinguishes one layout of blocks with one scale from another.
trait Blocked {
    const LAYOUT: Layout;
    const BITS: u32;
    /// Index into `OFFSETS`, for codes with an offset.
    const OFFSET: Option<usize>;
    const MINIMUM: bool;

    /// The scales and minimums of a block.
    ///
    /// # Safety
    /// `scales` are those of a panel with more than `block` blocks; the processor has the instructions.
    unsafe fn scales<S: Lanes>(scales: *const u8, block: usize) -> (S::F, S::F);
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
            unsafe fn scales<S: Lanes>(scales: *const u8, block: usize) -> (S::F, S::F) {
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
/// As for [`Blocked::scales`].
#[inline(always)]
unsafe fn scale<S: Lanes>(scales: *const u8, block: usize) -> (S::F, S::F) {
    // SAFETY: `scale_bytes` has 32 bytes per block.
    unsafe {
        let d = S::load_half(scales.wrapping_add(block * 32).cast());
        (d, S::splat(0.0))
    }
}

/// # Safety
/// As for [`Blocked::scales`].
#[inline(always)]
unsafe fn scale_and_minimum<S: Lanes>(scales: *const u8, block: usize) -> (S::F, S::F) {
    let at = scales.wrapping_add(block * 64);
    // SAFETY: `scale_bytes` has 64 bytes per block.
    unsafe {
        (
            S::load_half(at.cast()),
            S::load_half(at.wrapping_add(32).cast()),
        )
    }
}

/// # Safety
/// As for [`Blocked::scales`].
#[inline(always)]
unsafe fn scale_of_scale<S: Lanes>(scales: *const u8, block: usize) -> (S::F, S::F) {
    let at = scales.wrapping_add(block / 8 * 320);
    let of_block = at.wrapping_add(64 + block % 8 * 16);
    // SAFETY: `scale_bytes` has 320 bytes per 8 blocks. Both products have at most 17 bits and are exact.
    unsafe {
        let d = S::load_half(at.cast());
        let m = S::load_half(at.wrapping_add(32).cast());
        let scale = S::mul(d, S::load_unsigned(of_block));
        let minimum = S::mul(m, S::load_unsigned(of_block.wrapping_add(128)));
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
        let code_bytes = K::BITS as usize * 64;
        let size = K::LAYOUT.panel_bytes(columns);
        let at = tile.first * blocks;
        let q0 = tile.view.q.cast_const().wrapping_add(at * BLOCK);
        let d0 = tile.view.d.cast_const().wrapping_add(at);
        let dsum0 = tile.view.dsum.cast_const().wrapping_add(at);
        let correction0 = match K::OFFSET {
            Some(i) => tile.view.corrections[i].cast_const().wrapping_add(at),
            None => std::ptr::null(),
        };
        for panel in job.range.clone() {
            let scales = job.panels[panel * size..][..size].as_ptr();
            let codes = scales.wrapping_add(K::LAYOUT.scale_bytes(columns));
            // SAFETY: all reads lie within one panel of `blocks` blocks, bounds checked above, or within one
            // tile of the activations, which `reserve` made room for.
            unsafe {
                let mut sums = [S::splat(0.0); T];
                for block in 0..blocks {
                    let line = codes.wrapping_add(block * code_bytes);
                    for i in 0..K::BITS as usize {
                        S::prefetch(line.wrapping_add(AHEAD + i * 64));
                    }
                    let groups = S::codes(K::BITS, line);
                    let (scale, minimum) = K::scales::<S>(scales, block);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let at = block * T + t;
                        let q = q0.wrapping_add(at * BLOCK);
                        let mut whole = match K::OFFSET {
                            Some(_) => S::splat_int(*correction0.wrapping_add(at)),
                            None => S::splat_int(0),
                        };
                        for (g, codes) in groups.into_iter().enumerate() {
                            whole = S::dot(K::BITS, whole, codes, q.wrapping_add(g * 4));
                        }
                        let both = S::mul(scale, S::splat(*d0.wrapping_add(at)));
                        *sum = S::fma(S::to_float(whole), both, *sum);
                        if K::MINIMUM {
                            *sum = S::fma(minimum, S::splat(*dsum0.wrapping_add(at)), *sum);
                        }
                    }
                }
                job.store::<S, T>(panel, sums);
            }
        }
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
        let code_bytes = BITS as usize * 64;
        let size = Layout::Q6_K.panel_bytes(columns);
        let at = tile.first * blocks;
        let q0 = tile.view.q.cast_const().wrapping_add(at * BLOCK);
        let d0 = tile.view.d.cast_const().wrapping_add(at);
        let correction0 = tile.view.halves.cast_const().wrapping_add(2 * at);
        for panel in job.range.clone() {
            let scales = job.panels[panel * size..][..size].as_ptr();
            let codes = scales.wrapping_add(Layout::Q6_K.scale_bytes(columns));
            // SAFETY: all reads lie within one panel of `blocks` blocks, bounds checked above, or within one
            // tile of the activations, which `reserve` made room for.
            unsafe {
                let mut sums = [S::splat(0.0); T];
                for block in 0..blocks {
                    let line = codes.wrapping_add(block * code_bytes);
                    for i in 0..BITS as usize {
                        S::prefetch(line.wrapping_add(AHEAD + i * 64));
                    }
                    let groups = S::codes(BITS, line);
                    let at = scales.wrapping_add(block / 8 * 288);
                    let of_block = at.wrapping_add(32 + block % 8 * 32).cast::<i8>();
                    let d = S::load_half(at.cast());
                    let scale = [
                        S::mul(d, S::load_signed(of_block)),
                        S::mul(d, S::load_signed(of_block.wrapping_add(16))),
                    ];
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let at = block * T + t;
                        let q = q0.wrapping_add(at * BLOCK);
                        let d = S::splat(*d0.wrapping_add(at));
                        for half in 0..2 {
                            let correction = *correction0.wrapping_add(2 * at + half);
                            let mut whole = S::splat_int(correction);
                            for g in half * 4..half * 4 + 4 {
                                whole = S::dot(BITS, whole, groups[g], q.wrapping_add(g * 4));
                            }
                            *sum = S::fma(S::to_float(whole), S::mul(scale[half], d), *sum);
                        }
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
    const BYTES: usize;
    /// # Safety
    /// 16 numbers can be read; the processor has the instructions.
    unsafe fn load<S: Lanes>(p: *const u8) -> S::F;
}

macro_rules! number {
    ($name:ident, $bytes:literal, $load:ident) => {
        struct $name;
        impl Number for $name {
            const LAYOUT: Layout = Layout::$name;
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<S: Lanes>(p: *const u8) -> S::F {
                // SAFETY: the caller's promise is the same.
                unsafe { S::$load(p.cast()) }
            }
        }
    };
}
number!(F16, 2, load_half);
number!(BF16, 2, load_bfloat);
number!(F32, 4, load);

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
        let step = K::BYTES * LANES;
        let x0 = tile
            .view
            .plain
            .cast_const()
            .wrapping_add(tile.first * columns);
        for panel in job.range.clone() {
            let weights = job.panels[panel * size..][..size].as_ptr();
            // SAFETY: all reads lie within one panel of `columns` columns, bounds checked above, or within one
            // tile of the activations, which `reserve` made room for.
            unsafe {
                let mut even = [S::splat(0.0); T];
                let mut odd = even;
                let mut column = 0;
                while column + 1 < columns {
                    let at = weights.wrapping_add(column * step);
                    S::prefetch(at.wrapping_add(AHEAD));
                    if K::BYTES == 4 {
                        S::prefetch(at.wrapping_add(AHEAD + 64));
                    }
                    let (w, v) = (K::load::<S>(at), K::load::<S>(at.wrapping_add(step)));
                    let x = x0.wrapping_add(column * T);
                    for t in 0..T {
                        even[t] = S::fma(w, S::splat(*x.wrapping_add(t)), even[t]);
                        odd[t] = S::fma(v, S::splat(*x.wrapping_add(T + t)), odd[t]);
                    }
                    column += 2;
                }
                if column < columns {
                    let w = K::load::<S>(weights.wrapping_add(column * step));
                    let x = x0.wrapping_add(column * T);
                    for t in 0..T {
                        even[t] = S::fma(w, S::splat(*x.wrapping_add(t)), even[t]);
                    }
                }
                for t in 0..T {
                    even[t] = S::add(even[t], odd[t]);
                }
                job.store::<S, T>(panel, even);
            }
        }
    }
}
