//! Memory for weights: zeroed, in huge pages where the system gives them.
//!
//! A product reads every byte of a matrix once. With pages of 4 kB it would miss the translation buffer at every
//! page, and the hardware's prefetchers stop at its end; so even small matrices lie in huge pages, many in one.

use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

/// A huge page on the processors of today.
pub(super) const HUGE_BYTES: usize = 2 << 20;
/// Address space that small stores share; memory is taken as it is written.
const SHARED_BYTES: usize = 16 * HUGE_BYTES;
/// Stores begin at a cache line.
const LINE: usize = 64;

/// Zeroed bytes that begin at a cache line.
pub(super) struct Store {
    region: Arc<Region>,
    offset: usize,
    len: usize,
}

/// Mapped memory of which every byte belongs to at most one [`Store`]. It is given back with its last store.
struct Region {
    start: *mut u8,
    _map: MmapMut,
}

// SAFETY: the memory is reached through `Store` alone, whose ranges do not overlap and which borrows them as a
// vector does its own.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// The region that small stores are taken from, and how much of it is taken.
static OPEN: Mutex<Option<(Arc<Region>, usize)>> = Mutex::new(None);

impl Region {
    fn map(bytes: usize) -> Option<Arc<Self>> {
        let mut map = MmapMut::map_anon(bytes).ok()?;
        // A hint; small pages do as well, only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Arc::new(Self {
            start: map.as_mut_ptr(),
            _map: map,
        }))
    }
}

impl Store {
    /// `len` zeroed bytes; `None` where the system has no memory for them.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        if len >= HUGE_BYTES {
            let region = Region::map(len)?;
            return Some(Self {
                region,
                offset: 0,
                len,
            });
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (region, taken) = match open.take() {
            Some((region, taken)) if len <= SHARED_BYTES - taken => (region, taken),
            _ => (Region::map(SHARED_BYTES)?, 0),
        };
        let end = (taken + len).next_multiple_of(LINE);
        *open = Some((region.clone(), end));
        Some(Self {
            region,
            offset: taken,
            len,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let start = self.region.start.wrapping_add(self.offset);
        // SAFETY: the range lies within the region, which lives as long as `self`, and no other store has it.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.region.start.wrapping_add(self.offset);
        // SAFETY: as in `bytes`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }
}

/// Numbers for which any bits are a value, zero bits among them, and which need no more than a cache line's
/// alignment.
///
/// # Safety
/// That is the promise.
pub(super) unsafe trait Plain: Copy {}
// SAFETY: any bits are an integer.
unsafe impl Plain for u16 {}
// SAFETY: any bits are a float.
unsafe impl Plain for f32 {}

/// A store of zeroed numbers.
pub(super) struct Zeroed<E> {
    store: Store,
    numbers: std::marker::PhantomData<E>,
}

impl<E: Plain> Zeroed<E> {
    /// `len` zeros; `None` where the system has no memory for them.
    pub(super) fn new(len: usize) -> Option<Self> {
        Some(Self {
            store: Store::zeroed(len.checked_mul(size_of::<E>())?)?,
            numbers: std::marker::PhantomData,
        })
    }
}

impl<E: Plain> std::ops::Deref for Zeroed<E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        let bytes = self.store.bytes();
        // SAFETY: whole numbers, aligned, of a type for which any bits are a value.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<E>()) }
    }
}

impl<E: Plain> std::ops::DerefMut for Zeroed<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        let bytes = self.store.bytes_mut();
        let len = bytes.len() / size_of::<E>();
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn stores_are_zeroed_aligned_and_apart() {
        let mut stores = vec![];
        for len in [
            0,
            1,
            64,
            100,
            HUGE_BYTES - 1,
            HUGE_BYTES,
            3,
            HUGE_BYTES * 2 + 5,
        ] {
            for _ in 0..20 {
                let mut store = Store::zeroed(len).unwrap();
                assert_eq!(store.bytes().len(), len);
                assert!(store.bytes().iter().all(|b| *b == 0));
                assert!(store.bytes().as_ptr().addr().is_multiple_of(LINE));
                store.bytes_mut().fill(stores.len() as u8 + 1);
                stores.push(store);
            }
        }
        for (i, store) in stores.iter().enumerate() {
            assert!(store.bytes().iter().all(|b| *b == i as u8 + 1));
        }
    }
}
