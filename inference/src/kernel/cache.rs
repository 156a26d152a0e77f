//! Keys and values of one layer, in pages of sixteen tokens.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use super::{
    lanes::{LANES, Lanes},
    store::Zeroed,
};

/// Tokens of one page.
pub const PAGE_TOKENS: usize = 16;
const _: () = assert!(
    PAGE_TOKENS == LANES,
    "a vector holds one score per token of a page"
);

/// How a cache keeps its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// IEEE half: 11 bits of significand; numbers beyond ±65504 are kept as ±65504.
    #[default]
    Half,
    /// IEEE single.
    Single,
}

impl Precision {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Half => 2,
            Self::Single => 4,
        }
    }
}

/// One sequence of a batch.
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    /// Its rows in the batch, one for each new token.
    pub rows: Range<usize>,
    /// Tokens in the cache before these rows.
    pub start: usize,
    /// The pages of its tokens, in order; at least enough for `start + rows.len()`.
    pub pages: &'a [u32],
}

/// Keys and values of one layer.
///
/// Page p of head h holds the keys of 16 tokens column by column, so that one vector has the same column of
/// all tokens, and their values token by token. Where the value is a prefix of the key (a latent that serves
/// as both), only keys are kept, token by token. Rows of tokens are padded to 16 numbers.
pub struct KvCache {
    pub(super) keys: Numbers,
    pub(super) values: Numbers,
    pages: usize,
    kv_heads: usize,
    key_width: usize,
    value_width: usize,
    prefix: bool,
    /// Room for one row while it is written.
    row: Vec<f32>,
    row_half: Vec<half::f16>,
}

/// A cache's numbers; zero pages cost no memory until they are written.
pub(super) enum Numbers {
    Half(Zeroed<u16>),
    Single(Zeroed<f32>),
}

/// A number as the cache keeps it.
pub(super) trait Element: Copy {
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<S: Lanes>(x: &[Self; LANES]) -> S::F;
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn load<S: Lanes>(x: &[Self; LANES]) -> S::F {
        // SAFETY: 16 halves are 32 bytes; the caller answers for the instructions.
        unsafe { S::load_half(&std::mem::transmute::<[u16; LANES], [u8; 32]>(*x)) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Lanes>(x: &[Self; LANES]) -> S::F {
        // SAFETY: the caller answers for the instructions.
        unsafe { S::load(x) }
    }
}

impl Numbers {
    fn zeroed(precision: Precision, len: usize) -> Option<Self> {
        Some(match precision {
            Precision::Half => Self::Half(Zeroed::new(len)?),
            Precision::Single => Self::Single(Zeroed::new(len)?),
        })
    }

    fn copy_within(&mut self, from: Range<usize>, to: usize) {
        match self {
            Self::Half(v) => v.copy_within(from, to),
            Self::Single(v) => v.copy_within(from, to),
        }
    }
}

impl KvCache {
    /// A cache of `pages` pages. With `prefix`, the first `value_width` columns of a key are its value.
    ///
    /// # Panics
    /// Where `prefix` is asked for with values wider than keys, or the system has no memory for the cache.
    pub fn new(
        pages: usize,
        kv_heads: usize,
        key_width: usize,
        value_width: usize,
        precision: Precision,
        prefix: bool,
    ) -> Self {
        assert!(
            !prefix || value_width <= key_width,
            "a value of {value_width} is no prefix of a key of {key_width}"
        );
        let stride = |width: usize| width.next_multiple_of(LANES);
        let key_page = PAGE_TOKENS * if prefix { stride(key_width) } else { key_width };
        let value_page = PAGE_TOKENS * if prefix { 0 } else { stride(value_width) };
        let numbers = |of_page: usize| {
            let len = pages.checked_mul(of_page)?.checked_mul(kv_heads)?;
            Numbers::zeroed(precision, len)
        };
        let (Some(keys), Some(values)) = (numbers(key_page), numbers(value_page)) else {
            panic!(
                "no memory for a cache of {pages} pages of {kv_heads} × ({key_page} + {value_page})"
            );
        };
        Self {
            keys,
            values,
            pages,
            kv_heads,
            key_width,
            value_width,
            prefix,
            row: vec![],
            row_half: vec![],
        }
    }

    /// Pages.
    pub fn pages(&self) -> usize {
        self.pages
    }
    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }
    /// Numbers of one key.
    pub fn key_width(&self) -> usize {
        self.key_width
    }
    /// Numbers of one value.
    pub fn value_width(&self) -> usize {
        self.value_width
    }
    /// Whether values are prefixes of keys.
    pub fn prefix(&self) -> bool {
        self.prefix
    }
    /// How numbers are kept.
    pub fn precision(&self) -> Precision {
        match self.keys {
            Numbers::Half(_) => Precision::Half,
            Numbers::Single(_) => Precision::Single,
        }
    }
    /// Bytes of one page, all heads, keys and values.
    pub fn page_bytes(&self) -> usize {
        (self.key_page() + self.value_page()) * self.kv_heads * self.precision().bytes()
    }

    /// Numbers between the keys of two tokens, where keys are kept token by token.
    pub(super) fn key_stride(&self) -> usize {
        self.key_width.next_multiple_of(LANES)
    }
    /// Numbers between the values of two tokens.
    pub(super) fn value_stride(&self) -> usize {
        if self.prefix {
            self.key_stride()
        } else {
            self.value_width.next_multiple_of(LANES)
        }
    }
    /// Numbers of the keys of one page of one head.
    pub(super) fn key_page(&self) -> usize {
        PAGE_TOKENS
            * if self.prefix {
                self.key_stride()
            } else {
                self.key_width
            }
    }
    /// Numbers of the values of one page of one head.
    pub(super) fn value_page(&self) -> usize {
        if self.prefix {
            0
        } else {
            PAGE_TOKENS * self.value_stride()
        }
    }

    /// Puts the new tokens' `keys` [rows, kv_heads · key_width] and `values` [rows, kv_heads · value_width]
    /// (empty where values are prefixes of keys) into the pages of their sequences.
    ///
    /// # Panics
    /// Where rows or pages are not there.
    pub fn write(&mut self, sequences: &[Sequence<'_>], keys: &[f32], values: &[f32]) {
        let (key_width, value_width) = (
            self.kv_heads * self.key_width,
            self.kv_heads * self.value_width,
        );
        for sequence in sequences {
            for (i, row) in sequence.rows.clone().enumerate() {
                let position = sequence.start + i;
                let page = sequence.pages[position / PAGE_TOKENS] as usize;
                assert!(page < self.pages, "page {page} of {}", self.pages);
                let slot = position % PAGE_TOKENS;
                self.write_keys(page, slot, &keys[row * key_width..][..key_width]);
                if !self.prefix {
                    self.write_values(page, slot, &values[row * value_width..][..value_width]);
                }
            }
        }
    }

    fn write_keys(&mut self, page: usize, slot: usize, row: &[f32]) {
        let (width, heads, size) = (self.key_width, self.kv_heads, self.key_page());
        let (step, first) = if self.prefix {
            (1, slot * self.key_stride())
        } else {
            (PAGE_TOKENS, slot)
        };
        let at = |head: usize| (page * heads + head) * size + first;
        put(
            &mut self.keys,
            &mut self.row,
            &mut self.row_half,
            row,
            width,
            step,
            at,
        );
    }

    fn write_values(&mut self, page: usize, slot: usize, row: &[f32]) {
        let (width, heads, size) = (self.value_width, self.kv_heads, self.value_page());
        let first = slot * self.value_stride();
        let at = |head: usize| (page * heads + head) * size + first;
        put(
            &mut self.values,
            &mut self.row,
            &mut self.row_half,
            row,
            width,
            1,
            at,
        );
    }

    /// Copies page `from` over page `to`.
    ///
    /// # Panics
    /// Where there is no such page.
    pub fn copy_page(&mut self, from: usize, to: usize) {
        assert!(from < self.pages && to < self.pages, "no such page");
        let (keys, values) = (
            self.key_page() * self.kv_heads,
            self.value_page() * self.kv_heads,
        );
        self.keys
            .copy_within(from * keys..(from + 1) * keys, to * keys);
        self.values
            .copy_within(from * values..(from + 1) * values, to * values);
    }
}

/// Writes the heads of one row, `width` numbers each, from `at(head)` on in steps of `step`.
fn put(
    numbers: &mut Numbers,
    clamped: &mut Vec<f32>,
    halves: &mut Vec<half::f16>,
    row: &[f32],
    width: usize,
    step: usize,
    at: impl Fn(usize) -> usize,
) {
    fn scatter<T: Copy>(
        to: &mut [T],
        from: &[T],
        width: usize,
        step: usize,
        at: impl Fn(usize) -> usize,
    ) {
        if width == 0 {
            return;
        }
        for (head, from) in from.chunks_exact(width).enumerate() {
            let to = &mut to[at(head)..][..(width - 1) * step + 1];
            for (to, from) in to.iter_mut().step_by(step).zip(from) {
                *to = *from;
            }
        }
    }
    match numbers {
        Numbers::Half(to) => {
            const MOST: f32 = 65504.0;
            clamped.clear();
            clamped.extend(row.iter().map(|x| x.clamp(-MOST, MOST)));
            halves.resize(row.len(), half::f16::ZERO);
            halves.convert_from_f32_slice(clamped);
            scatter(to, halves.reinterpret_cast(), width, step, at);
        }
        Numbers::Single(to) => scatter(to, row, width, step, at),
    }
}
