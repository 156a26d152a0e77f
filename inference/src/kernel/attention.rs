//! Causal attention over pages.
//!
//! The query heads that share a head of keys, for all new rows of a sequence, are taken eight at a time, so
//! that keys and values are read once for eight. The cache is walked in stripes of 256 tokens that begin at
//! fixed positions. Within a stripe the scores are computed first, then their exponentials against the
//! stripe's own largest score, then the weighted sum of values; stripes are merged in order (Milakov and
//! Gimelshein 2018, "Online normalizer calculation for softmax"). What a row gets therefore depends neither on the other rows
//! of the batch nor on how stripes were given to threads.

use super::{
    cache::{Element, KvCache, Numbers, PAGE_TOKENS, Sequence},
    lanes::{Isa, Kernel, LANES, Lanes, dispatch, exp, unroll},
    softmax::{begin, exponentials, merge},
};

/// Tokens of one stripe.
const STRIPE: usize = 256;
/// Most query vectors of one tile.
const TILE: usize = 8;

/// Attention of one layer for a batch of sequences whose new tokens are in the cache already.
pub struct Attend<'a> {
    /// The layer's keys and values.
    pub cache: &'a KvCache,
    /// The sequences; their rows do not overlap.
    pub sequences: &'a [Sequence<'a>],
    /// Heads of the queries, a multiple of the cache's heads: consecutive ones share a head of keys.
    pub heads: usize,
    /// Factor on every score, usually 1/√(key width).
    pub scale: f32,
    /// A token sees the last so many tokens, itself included; `None`: all before it.
    pub window: Option<usize>,
    /// Scores s become cap · tanh(s / cap).
    pub softcap: Option<f32>,
}

/// One tile of query vectors: where its results go and which tokens it sees.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    sequence: &'a Sequence<'a>,
    kv_head: usize,
    /// First vector and number of vectors; vector v is row v / group, head kv_head · group + v mod group.
    first: usize,
    count: usize,
}

impl Attend<'_> {
    /// Query heads for each head of keys.
    fn group(&self) -> usize {
        self.heads / self.cache.kv_heads()
    }

    fn tiles(&self, sequence: &Sequence<'_>) -> usize {
        (sequence.rows.len() * self.group()).div_ceil(TILE)
    }

    /// Pieces of work.
    pub(super) fn items(&self) -> usize {
        let tiles: usize = self.sequences.iter().map(|s| self.tiles(s)).sum();
        tiles * self.cache.kv_heads()
    }

    /// The `index`-th piece of work.
    pub(super) fn item(&self, mut index: usize) -> Option<Item<'_>> {
        for sequence in self.sequences {
            let tiles = self.tiles(sequence);
            let here = tiles * self.cache.kv_heads();
            if index < here {
                let first = index % tiles * TILE;
                return Some(Item {
                    sequence,
                    kv_head: index / tiles,
                    first,
                    count: (sequence.rows.len() * self.group() - first).min(TILE),
                });
            }
            index -= here;
        }
        None
    }

    /// The tokens that vector `v` of a sequence sees.
    fn sees(&self, sequence: &Sequence<'_>, v: usize) -> (usize, usize) {
        let end = sequence.start + v / self.group() + 1;
        let begin = self.window.map_or(0, |w| end.saturating_sub(w));
        (begin, end)
    }

    /// The stripes that a piece of work sees.
    pub(super) fn stripes(&self, item: &Item<'_>) -> std::ops::Range<usize> {
        let (begin, _) = self.sees(item.sequence, item.first);
        let (_, end) = self.sees(item.sequence, item.first + item.count - 1);
        begin / STRIPE..end.div_ceil(STRIPE)
    }

    /// f32s of the partial result of one stripe of one piece of work.
    pub(super) fn partial_len(&self) -> usize {
        TILE * (2 + self.cache.value_width().next_multiple_of(LANES))
    }

    /// # Panics
    /// Where shapes contradict one another.
    pub(super) fn check(&self, q: &[f32], out: &[f32]) {
        let cache = self.cache;
        assert!(
            cache.kv_heads() > 0 && self.heads.is_multiple_of(cache.kv_heads()) && self.heads > 0,
            "{} heads of queries for {} of keys",
            self.heads,
            cache.kv_heads()
        );
        let (q_width, out_width) = (
            self.heads * cache.key_width(),
            self.heads * cache.value_width(),
        );
        assert_ne!(self.window, Some(0), "a window of no tokens");
        let mut seen = 0;
        for s in self.sequences {
            assert!(
                s.rows.start >= seen,
                "the sequences' rows are not in ascending order"
            );
            seen = s.rows.end.max(seen);
            let pages = (s.start + s.rows.len()).div_ceil(PAGE_TOKENS);
            assert!(pages <= s.pages.len(), "{pages} pages of {}", s.pages.len());
            assert!(
                s.pages[..pages]
                    .iter()
                    .all(|p| (*p as usize) < cache.pages()),
                "a page the cache does not have"
            );
        }
        assert!(
            seen * q_width <= q.len() && seen * out_width <= out.len(),
            "{seen} rows are more than queries or outputs"
        );
    }
}

/// Where results go; threads write different vectors.
#[derive(Clone, Copy)]
pub(super) struct Out(pub(super) *mut f32);
impl Out {
    /// The pointer; taken through a method, so that closures hold the whole `Out`, which may be shared.
    pub(super) fn pointer(self) -> *mut f32 {
        self.0
    }
}
// SAFETY: no two pieces of work have a vector in common.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// What to do with a piece of work.
#[derive(Clone, Copy)]
pub(super) enum Task {
    /// All stripes, merged into the output.
    Whole(Out),
    /// One stripe, into `partial_len` f32s.
    Stripe(usize, Out),
    /// The merging of stripes, `partial_len` f32s each, into the output.
    Merge(Out, Out),
}

/// Does `task` for `item`.
///
/// # Safety
/// `a` was checked with `q` and the output, and the pointers of `task` have room for what they receive.
pub(super) unsafe fn attend(isa: Isa, a: &Attend<'_>, q: &[f32], item: Item<'_>, task: Task) {
    match item.count {
        1 => sized::<1, 4>(isa, a, q, item, task),
        2 => sized::<2, 4>(isa, a, q, item, task),
        3 | 4 => sized::<4, 4>(isa, a, q, item, task),
        _ => sized::<8, 2>(isa, a, q, item, task),
    }
}

fn sized<const T: usize, const C: usize>(
    isa: Isa,
    a: &Attend<'_>,
    q: &[f32],
    item: Item<'_>,
    task: Task,
) {
    match (&a.cache.keys, &a.cache.values) {
        (Numbers::Half(keys), Numbers::Half(values)) => dispatch(
            isa,
            Tile::<u16, T, C> {
                a,
                q,
                item,
                task,
                keys,
                values: if a.cache.prefix() { keys } else { values },
            },
        ),
        (Numbers::Single(keys), Numbers::Single(values)) => dispatch(
            isa,
            Tile::<f32, T, C> {
                a,
                q,
                item,
                task,
                keys,
                values: if a.cache.prefix() { keys } else { values },
            },
        ),
        _ => {}
    }
}

/// T query vectors (of which `item.count` are real), C vectors of value columns at a time.
struct Tile<'a, E, const T: usize, const C: usize> {
    a: &'a Attend<'a>,
    q: &'a [f32],
    item: Item<'a>,
    task: Task,
    keys: &'a [E],
    values: &'a [E],
}

thread_local! {
    static SCRATCH: std::cell::Cell<Vec<f32>> = const { std::cell::Cell::new(Vec::new()) };
}

impl<E: Element, const T: usize, const C: usize> Kernel for Tile<'_, E, T, C> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let width = self.a.cache.value_width().next_multiple_of(LANES);
        let key = self.a.cache.key_stride();
        let partial = T * (2 + width);
        let mut scratch = SCRATCH.take();
        let needed = T * (key + STRIPE) + 2 * partial;
        if scratch.len() < needed {
            scratch.resize(needed, 0.0);
        }
        let (q, rest) = scratch.split_at_mut(T * key);
        let (scores, rest) = rest.split_at_mut(T * STRIPE);
        let (one, rest) = rest.split_at_mut(partial);
        let all = &mut rest[..partial];
        // SAFETY: the caller of `attend` answers for the pointers of `task`; `partial` is at most
        // `partial_len`. The rest is slices.
        unsafe {
            match self.task {
                Task::Whole(out) => {
                    self.gather(q);
                    begin::<T>(all);
                    for stripe in self.a.stripes(&self.item) {
                        self.stripe::<S>(stripe, q, scores, one);
                        merge::<S, T>(width, one, all);
                    }
                    self.finish(width, all, out);
                }
                Task::Stripe(stripe, to) => {
                    self.gather(q);
                    let to = std::slice::from_raw_parts_mut(to.0, partial);
                    self.stripe::<S>(stripe, q, scores, to);
                }
                Task::Merge(partials, out) => {
                    begin::<T>(all);
                    let step = self.a.partial_len();
                    for i in 0..self.a.stripes(&self.item).len() {
                        let from = partials.0.wrapping_add(i * step);
                        let one = std::slice::from_raw_parts(from, partial);
                        merge::<S, T>(width, one, all);
                    }
                    self.finish(width, all, out);
                }
            }
        }
        SCRATCH.set(scratch);
    }
}

impl<E: Element, const T: usize, const C: usize> Tile<'_, E, T, C> {
    /// The row of the batch and the head of vector `v`.
    fn vector(&self, v: usize) -> (usize, usize) {
        let (group, v) = (self.a.group(), self.item.first + v);
        let row = self.item.sequence.rows.start + v / group;
        (row, self.item.kv_head * group + v % group)
    }

    /// Where this head's part of a page is, among the parts of all pages.
    #[inline(always)]
    fn place(&self, page: u32) -> usize {
        page as usize * self.a.cache.kv_heads() + self.item.kv_head
    }

    /// Copies the queries: column by column for keys kept so, else vector by vector.
    fn gather(&self, to: &mut [f32]) {
        let cache = self.a.cache;
        let (width, stride) = (cache.key_width(), cache.key_stride());
        to.fill(0.0);
        for v in 0..self.item.count {
            let (row, head) = self.vector(v);
            let q = &self.q[(row * self.a.heads + head) * width..][..width];
            if cache.prefix() {
                to[v * stride..][..width].copy_from_slice(q);
            } else {
                for (to, q) in to.iter_mut().skip(v).step_by(T).zip(q) {
                    *to = *q;
                }
            }
        }
    }

    /// Writes the results of the tile.
    ///
    /// # Safety
    /// The output has room for the batch's rows.
    unsafe fn finish(&self, width: usize, all: &[f32], out: Out) {
        let value_width = self.a.cache.value_width();
        for v in 0..self.item.count {
            let (row, head) = self.vector(v);
            let factor = 1.0 / all[T + v];
            let values = &all[2 * T + v * width..][..value_width];
            let to = out
                .0
                .wrapping_add((row * self.a.heads + head) * value_width);
            for (i, value) in values.iter().enumerate() {
                // SAFETY: the caller answers for the room; no other thread has this vector.
                unsafe { *to.wrapping_add(i) = value * factor };
            }
        }
    }

    /// One stripe: the largest score, the sum of exponentials and the weighted values of each vector.
    ///
    /// # Safety
    /// The attention was checked; the processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn stripe<S: Lanes>(
        &self,
        stripe: usize,
        q: &[f32],
        scores: &mut [f32],
        partial: &mut [f32],
    ) {
        let base = stripe * STRIPE;
        let last = self.item.first + self.item.count - 1;
        let (begin, _) = self.a.sees(self.item.sequence, self.item.first);
        let (_, end) = self.a.sees(self.item.sequence, last);
        // Tokens of this stripe that any vector sees, counted from the stripe's first; whole pages for scores.
        let begin = begin.max(base) - base;
        let end = end.min(base + STRIPE) - base;
        let (first_page, end_page) = (begin / PAGE_TOKENS, end.div_ceil(PAGE_TOKENS));
        let pages = &self.item.sequence.pages[base / PAGE_TOKENS..];
        // SAFETY: `check` has seen that the pages are there; slices are as long as `run` made them.
        unsafe {
            for (page, number) in pages.iter().enumerate().take(end_page).skip(first_page) {
                // Pages lie anywhere, so that no hardware can guess the next one.
                if let Some(next) = pages.get(page + 1) {
                    let size = self.a.cache.key_page();
                    ask::<S, E>(self.keys, self.place(*next) * size, size);
                }
                self.scores::<S>(*number, q, &mut scores[page * PAGE_TOKENS..]);
            }
            let (largest, rest) = partial.split_at_mut(T);
            let (sums, values) = rest.split_at_mut(T);
            for v in 0..T {
                let scores = &mut scores[v * STRIPE..][..STRIPE];
                let scores = &mut scores[..end_page * PAGE_TOKENS][first_page * PAGE_TOKENS..];
                if v >= self.item.count {
                    scores.fill(0.0);
                    (largest[v], sums[v]) = (f32::NEG_INFINITY, 0.0);
                    continue;
                }
                let (from, to) = self.a.sees(self.item.sequence, self.item.first + v);
                let offset = base + first_page * PAGE_TOKENS;
                let from = from.saturating_sub(offset).min(scores.len());
                let to = to.saturating_sub(offset).min(scores.len()).max(from);
                scores[..from].fill(f32::NEG_INFINITY);
                scores[to..].fill(f32::NEG_INFINITY);
                (largest[v], sums[v]) = exponentials::<S>(scores);
            }
            self.values::<S>(pages, begin, end, scores, values);
        }
    }

    /// The scores of one page's tokens, for vector t at `scores[t · STRIPE..]`.
    ///
    /// # Safety
    /// The cache has the page; the processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn scores<S: Lanes>(&self, page: u32, q: &[f32], scores: &mut [f32]) {
        let cache = self.a.cache;
        let size = cache.key_page();
        let keys = &self.keys[self.place(page) * size..][..size];
        // SAFETY: the caller answers for the instructions.
        unsafe {
            let mut sums = [S::splat(0.0); T];
            if cache.prefix() {
                let width = cache.key_stride() / LANES;
                let q = q.as_chunks::<LANES>().0;
                let mut all = [[0.0; LANES]; T];
                for (token, key) in keys.as_chunks::<LANES>().0.chunks_exact(width).enumerate() {
                    let mut sums = [S::splat(0.0); T];
                    for (i, k) in key.iter().enumerate() {
                        let k = E::load::<S>(k);
                        unroll!(t < T, {
                            sums[t] = S::fma(k, S::load(&q[t * width + i]), sums[t]);
                        });
                    }
                    unroll!(t < T, {
                        all[t][token] = S::sum(sums[t]);
                    });
                }
                unroll!(t < T, {
                    sums[t] = S::load(&all[t]);
                });
            } else {
                let mut odd = sums;
                let (q_pairs, q_last) = q.as_chunks::<T>().0[..cache.key_width()].as_chunks::<2>();
                let (pairs, last) = keys.as_chunks::<PAGE_TOKENS>().0.as_chunks::<2>();
                for (pair, q) in pairs.iter().zip(q_pairs) {
                    let (k, l) = (E::load::<S>(&pair[0]), E::load::<S>(&pair[1]));
                    unroll!(t < T, {
                        sums[t] = S::fma(k, S::splat(q[0][t]), sums[t]);
                        odd[t] = S::fma(l, S::splat(q[1][t]), odd[t]);
                    });
                }
                for (k, q) in last.iter().zip(q_last) {
                    let k = E::load::<S>(k);
                    unroll!(t < T, {
                        sums[t] = S::fma(k, S::splat(q[t]), sums[t]);
                    });
                }
                unroll!(t < T, {
                    sums[t] = S::add(sums[t], odd[t]);
                });
            }
            let scale = S::splat(self.a.scale);
            unroll!(t < T, {
                let mut score = S::mul(sums[t], scale);
                if let Some(cap) = self.a.softcap {
                    // cap · tanh(s / cap) = cap · (1 − 2 / (e^(2 s / cap) + 1))
                    let one = S::splat(1.0);
                    let e = exp::<S>(S::mul(score, S::splat(2.0 / cap)));
                    let tanh = S::sub(one, S::div(S::splat(2.0), S::add(e, one)));
                    score = S::mul(tanh, S::splat(cap));
                }
                S::store(&mut scores.as_chunks_mut().0[t * STRIPE / LANES], score);
            });
        }
    }

    /// Sums the values of tokens `begin..end` of the stripe, each by its weight.
    ///
    /// # Safety
    /// The cache has the pages; the processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn values<S: Lanes>(
        &self,
        pages: &[u32],
        begin: usize,
        end: usize,
        weights: &[f32],
        to: &mut [f32],
    ) {
        let width = self.a.cache.value_width().next_multiple_of(LANES);
        let blocks = width / LANES;
        let mut block = 0;
        // SAFETY: the caller's promise is the same.
        unsafe {
            while block + C <= blocks {
                self.columns::<S, C>(pages, begin, end, weights, to, block);
                block += C;
            }
            while block < blocks {
                self.columns::<S, 1>(pages, begin, end, weights, to, block);
                block += 1;
            }
        }
    }

    /// As [`Self::values`], for N · 16 columns from 16 · `block` on.
    ///
    /// # Safety
    /// As for [`Self::values`].
    #[inline(always)]
    unsafe fn columns<S: Lanes, const N: usize>(
        &self,
        pages: &[u32],
        begin: usize,
        end: usize,
        weights: &[f32],
        to: &mut [f32],
        block: usize,
    ) {
        let cache = self.a.cache;
        let stride = cache.value_stride();
        let size = stride * PAGE_TOKENS;
        let width = cache.value_width().next_multiple_of(LANES);
        // SAFETY: the caller answers for the instructions.
        unsafe {
            let mut sums = [[S::splat(0.0); N]; T];
            let mut token = begin;
            while token < end {
                let page = token / PAGE_TOKENS;
                let at = self.place(pages[page]) * size;
                let stop = end.min((page + 1) * PAGE_TOKENS);
                if block == 0
                    && !cache.prefix()
                    && let Some(next) = pages.get(page + 1)
                {
                    ask::<S, E>(self.values, self.place(*next) * size, size);
                }
                let rows = self.values[at..][..size].as_chunks::<LANES>().0;
                let rows = rows.chunks_exact(stride / LANES).skip(token % PAGE_TOKENS);
                for (row, token) in rows.zip(token..stop) {
                    let row: &[[E; LANES]] = &row[block..][..N];
                    let mut v = [S::splat(0.0); N];
                    unroll!(i < N, {
                        v[i] = E::load::<S>(&row[i]);
                    });
                    let weights: &[f32] = &weights[token..][..(T - 1) * STRIPE + 1];
                    unroll!(t < T, {
                        let weight = S::splat(weights[t * STRIPE]);
                        unroll!(i < N, {
                            sums[t][i] = S::fma(v[i], weight, sums[t][i]);
                        });
                    });
                }
                token = stop;
            }
            let to = to.as_chunks_mut::<LANES>().0;
            unroll!(t < T, {
                unroll!(i < N, {
                    S::store(&mut to[t * (width / LANES) + block + i], sums[t][i]);
                });
            });
        }
    }
}

/// Asks for a page's `size` numbers from `at` on, at most 4 kB of them; the hardware sees to the rest.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn ask<S: Lanes, E>(numbers: &[E], at: usize, size: usize) {
    let from = numbers.as_ptr().wrapping_add(at).cast::<u8>();
    for line in 0..(size * size_of::<E>()).min(4096) / 64 {
        // SAFETY: the caller answers for the instructions; the address need not be valid.
        unsafe { S::prefetch(from.wrapping_add(line * 64)) };
    }
}
