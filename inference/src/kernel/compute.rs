//! The kernels as the layers call them: shapes checked once, work given to threads.

use std::{
    cell::Cell,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    activations::{Activations, Interleave, OFFSETS, Quantise, TILE, View, tile_at},
    attention::{Attend, Out, Task, attend},
    elementwise::{Add, Gate, GatedProduct, RmsNorm, Rotate},
    lanes::{Isa, dispatch},
    matrix::{Matrix, Slab},
    pack::Layout,
    pool::Pool,
    product,
};

/// Elements below which one thread does a small operation alone: a fork and join costs about as much.
const ALONE: usize = 1 << 15;
/// Bytes of weights that one thread takes at a time, at most: long enough for the prefetcher, short enough to
/// share evenly.
const RUN_BYTES: usize = 512 << 10;
/// Numbers of activations that are multiplied with one panel after another, so that they stay in the second
/// level of cache.
const NEAR_NUMBERS: usize = 256 << 10;
/// Pieces of work per thread that are enough to share evenly.
pub(super) const PIECES: usize = 8;

thread_local! {
    static ACTIVATIONS: Cell<Activations> = const { Cell::new(Activations::EMPTY) };
    static PARTIALS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Threads and the instruction set they compute with.
///
/// All results are bitwise the same for any number of threads, for a row alone and in a batch, and for any
/// instruction set. Cheap to share; one call runs at a time on all threads, and a call made meanwhile runs on its
/// caller's thread alone.
pub struct Compute {
    pool: Pool,
    isa: Isa,
}

impl Compute {
    /// Threads (the caller's included, at least 1) with the best instructions of this processor.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// As [`Self::new`], with `isa`, or the best one if the processor does not have that.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        let isa = if isa.available() { isa } else { Isa::best() };
        Self {
            pool: Pool::new(threads),
            isa,
        }
    }

    /// What runs: "avx512-vnni", "avx2" or "portable".
    pub fn name(&self) -> &'static str {
        self.isa.name()
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `f(part, parts)` once for every part, on several threads, and returns when all have ended.
    /// A panic of a part is raised here after that.
    pub fn run(&self, f: &(dyn Fn(usize, usize) + Sync)) {
        self.pool.run(f);
    }

    /// Calls `f` for every number below `count`, on several threads.
    pub(super) fn share(&self, count: usize, f: &(dyn Fn(usize) + Sync)) {
        if count == 1 {
            return f(0);
        }
        let next = AtomicUsize::new(0);
        self.pool.run(&|_, _| {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    break;
                }
                f(i);
            }
        });
    }

    /// Calls `f` for ranges that together are `0..rows`: one where the work is small.
    fn share_rows(&self, rows: usize, width: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
        if rows * width < ALONE || rows == 1 {
            return f(0..rows);
        }
        let step = rows.div_ceil(self.threads() * PIECES).max(1);
        self.share(rows.div_ceil(step), &|i| {
            f(i * step..rows.min((i + 1) * step));
        });
    }

    /// y = x · matrixᵀ: `x` [m, columns], `y` [m, rows].
    ///
    /// # Panics
    /// Where the lengths are not those of one m.
    pub fn multiply(&self, matrix: &Matrix, x: &[f32], y: &mut [f32]) {
        let (rows, columns) = (matrix.rows(), matrix.columns());
        if rows == 0 || columns == 0 {
            return y.fill(0.0);
        }
        let m = x.len() / columns;
        assert!(
            x.len() == m * columns && y.len() == m * rows,
            "a matrix of {rows} × {columns} does not fit {} inputs and {} outputs",
            x.len(),
            y.len()
        );
        if m == 0 {
            return;
        }
        let is_plain = |s: &Slab| matches!(s.layout, Layout::F16 | Layout::BF16 | Layout::F32);
        let plain = matrix.slabs().iter().any(is_plain);
        let quantised = !matrix.slabs().iter().all(is_plain);
        let mut activations = ACTIVATIONS.take();
        let view = activations.reserve(m, columns, quantised, plain);
        self.prepare(x, m, columns, quantised, plain, view);
        self.products(matrix, m, view, y);
        ACTIVATIONS.set(activations);
    }

    fn prepare(
        &self,
        x: &[f32],
        rows: usize,
        columns: usize,
        quantised: bool,
        plain: bool,
        view: View,
    ) {
        self.share_rows(rows, columns, &|range| {
            if quantised {
                let range = range.clone();
                let job = Quantise {
                    x,
                    rows,
                    columns,
                    range,
                    view,
                };
                dispatch(self.isa, job);
            }
            if plain {
                let job = Interleave {
                    x,
                    rows,
                    columns,
                    range,
                    view,
                };
                dispatch(self.isa, job);
            }
        });
    }

    fn products(&self, matrix: &Matrix, m: usize, view: View, y: &mut [f32]) {
        let (rows, columns) = (matrix.rows(), matrix.columns());
        // Rows of activations taken together, whole tiles; panels taken together.
        let chunk = (NEAR_NUMBERS / columns / TILE * TILE).max(TILE);
        let chunks = m.div_ceil(chunk);
        let panels: usize = matrix.slabs().iter().map(Slab::panels).sum();
        let share = panels * chunks / (self.threads() * PIECES);
        let together = |s: &Slab| {
            let most = RUN_BYTES / s.layout.panel_bytes(columns).max(1);
            share.min(most).max(1)
        };
        let groups = |s: &Slab| s.panels().div_ceil(together(s));
        let all_groups: usize = matrix.slabs().iter().map(groups).sum();
        let out = Out(y.as_mut_ptr());
        self.share(chunks * all_groups, &|i| {
            let (first_row, mut group) = (i / all_groups * chunk, i % all_groups);
            let end_row = m.min(first_row + chunk);
            for slab in matrix.slabs() {
                if group >= groups(slab) {
                    group -= groups(slab);
                    continue;
                }
                let step = together(slab);
                let range = group * step..slab.panels().min((group + 1) * step);
                let tile = |row: usize| {
                    let (first, height) = tile_at(row, m);
                    product::Tile {
                        view,
                        first,
                        height,
                        columns,
                        y: out.pointer(),
                        stride: rows,
                    }
                };
                let one = tile(first_row);
                // SAFETY: activations were written by `prepare`, which has ended. `y` was checked to have m
                // rows of `rows`, in which the slabs lie one after another. Every i has other panels or other rows.
                unsafe {
                    if one.first + one.height >= end_row {
                        product::multiply(self.isa, slab, range, &one);
                    } else {
                        for panel in range {
                            let mut row = first_row;
                            while row < end_row {
                                let tile = tile(row);
                                product::multiply(self.isa, slab, panel..panel + 1, &tile);
                                row += tile.height;
                            }
                        }
                    }
                }
                break;
            }
        });
    }

    /// Paged causal attention of one layer: `q` [rows, heads · key width], `out` [rows, heads · value width].
    ///
    /// # Panics
    /// Where shapes contradict one another or pages are missing.
    pub fn attend(&self, a: &Attend<'_>, q: &[f32], out: &mut [f32]) {
        a.check(q, out);
        let items = a.items();
        let out = Out(out.as_mut_ptr());
        let most = |i: usize| a.item(i).map_or(0, |item| a.stripes(&item).len());
        let stripes = if items < PIECES * self.threads() && self.threads() > 1 {
            (0..items).map(most).max().unwrap_or(0)
        } else {
            0
        };
        if stripes < 2 {
            // One thread alone where there is little to do.
            let tokens = a
                .sequences
                .iter()
                .map(|s| (s.start + s.rows.len()) * s.rows.len());
            let work = tokens.sum::<usize>() * a.heads * a.cache.key_width();
            let all = |i: usize| {
                if let Some(item) = a.item(i) {
                    // SAFETY: checked above.
                    unsafe { attend(self.isa, a, q, item, Task::Whole(out)) };
                }
            };
            if work < ALONE {
                (0..items).for_each(all);
            } else {
                self.share(items, &all);
            }
            return;
        }
        // Few sequences with much behind them: stripes on all threads, then their merging.
        let mut partials = PARTIALS.take();
        let len = a.partial_len();
        let needed = items * stripes * len;
        if partials.len() < needed {
            partials.resize(needed, 0.0);
        }
        let to = Out(partials.as_mut_ptr());
        self.share(items * stripes, &|i| {
            let (index, stripe) = (i / stripes, i % stripes);
            if let Some(item) = a.item(index)
                && stripe < a.stripes(&item).len()
            {
                let number = a.stripes(&item).start + stripe;
                let task = Task::Stripe(number, Out(to.pointer().wrapping_add(i * len)));
                // SAFETY: checked above; every i has its own `len` numbers of the partial results.
                unsafe { attend(self.isa, a, q, item, task) };
            }
        });
        self.share(items, &|i| {
            if let Some(item) = a.item(i) {
                let task = Task::Merge(Out(to.pointer().wrapping_add(i * stripes * len)), out);
                // SAFETY: checked above; the partial results were written, and are only read now.
                unsafe { attend(self.isa, a, q, item, task) };
            }
        });
        PARTIALS.set(partials);
    }

    /// Rows of x / √(mean of squares + epsilon) · weight, rows as long as `weight`.
    ///
    /// # Panics
    /// Where `x` is not whole rows or `out` not as long.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let width = weight.len();
        if width == 0 {
            return;
        }
        let rows = x.len() / width;
        assert!(
            x.len() == rows * width && out.len() == x.len(),
            "{} inputs and {} outputs in rows of {width}",
            x.len(),
            out.len()
        );
        let to = Slices::new(out, width);
        self.share_rows(rows, width, &|range| {
            let job = RmsNorm {
                x: &x[range.start * width..range.end * width],
                weight,
                epsilon,
                // SAFETY: ranges of rows do not overlap.
                out: unsafe { to.rows(range) },
            };
            dispatch(self.isa, job);
        });
    }

    /// Turns every head of `x` [rows, heads · head_width] by the angles of its row: `cos` and `sin`
    /// [rows, rotated / 2]. Numbers i and i + rotated / 2 of a head are turned by angle i; those from
    /// `rotated` on stay.
    ///
    /// # Panics
    /// Where the lengths contradict one another.
    pub fn rotate(&self, x: &mut [f32], heads: usize, head_width: usize, cos: &[f32], sin: &[f32]) {
        let width = heads * head_width;
        if width == 0 || x.is_empty() || cos.is_empty() {
            return;
        }
        let rows = x.len() / width;
        let half = cos.len() / rows.max(1);
        assert!(
            x.len() == rows * width
                && cos.len() == rows * half
                && sin.len() == cos.len()
                && 2 * half <= head_width
                && half > 0,
            "{} numbers, {heads} heads of {head_width}, {} cosines, {} sines",
            x.len(),
            cos.len(),
            sin.len()
        );
        let to = Slices::new(x, width);
        self.share_rows(rows, width, &|range| {
            let job = Rotate {
                // SAFETY: ranges of rows do not overlap.
                x: unsafe { to.rows(range.clone()) },
                heads,
                head_width,
                half,
                cos: &cos[range.start * half..range.end * half],
                sin: &sin[range.start * half..range.end * half],
            };
            dispatch(self.isa, job);
        });
    }

    /// gate · σ(gate) · up: `gate_up` [m, 2 · width], gate first; `out` [m, width].
    ///
    /// # Panics
    /// Where the lengths contradict one another.
    pub fn silu_product(&self, gate_up: &[f32], width: usize, out: &mut [f32]) {
        self.gated(Gate::Silu, gate_up, width, out);
    }

    /// As [`Self::silu_product`], with GELU in its tanh approximation.
    ///
    /// # Panics
    /// Where the lengths contradict one another.
    pub fn gelu_tanh_product(&self, gate_up: &[f32], width: usize, out: &mut [f32]) {
        self.gated(Gate::GeluTanh, gate_up, width, out);
    }

    fn gated(&self, gate: Gate, gate_up: &[f32], width: usize, out: &mut [f32]) {
        if width == 0 {
            return;
        }
        let rows = out.len() / width;
        assert!(
            out.len() == rows * width && gate_up.len() == 2 * out.len(),
            "{} inputs and {} outputs of width {width}",
            gate_up.len(),
            out.len()
        );
        let to = Slices::new(out, width);
        self.share_rows(rows, width, &|range| {
            let job = GatedProduct {
                gate_up: &gate_up[range.start * 2 * width..range.end * 2 * width],
                width,
                gate,
                // SAFETY: ranges of rows do not overlap.
                out: unsafe { to.rows(range) },
            };
            dispatch(self.isa, job);
        });
    }

    /// x + y into x.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "sums of different lengths");
        let width = 1024;
        let rows = x.len().div_ceil(width);
        let len = x.len();
        let to = Slices::new(x, width);
        self.share_rows(rows, width, &|range| {
            let job = Add {
                y: &y[range.start * width..len.min(range.end * width)],
                // SAFETY: ranges of rows do not overlap.
                x: unsafe { to.rows(range) },
            };
            dispatch(self.isa, job);
        });
    }
}

/// A slice that several threads write, each at rows of its own.
struct Slices<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `rows` is what gives access, and its callers keep apart.
unsafe impl Sync for Slices<'_> {}

impl<'a> Slices<'a> {
    fn new(slice: &'a mut [f32], width: usize) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            width,
            borrow: std::marker::PhantomData,
        }
    }

    /// Rows `range`, the last of all perhaps shorter.
    ///
    /// # Safety
    /// No row is given out twice.
    #[allow(clippy::mut_from_ref)]
    unsafe fn rows(&self, range: Range<usize>) -> &'a mut [f32] {
        let begin = (range.start * self.width).min(self.len);
        let end = (range.end * self.width).min(self.len).max(begin);
        // SAFETY: within the slice; the caller keeps rows apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.wrapping_add(begin), end - begin) }
    }
}

const _: () = assert!(OFFSETS.len() == 3, "one kind of correction for each offset");
