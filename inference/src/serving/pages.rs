//! The pages of the key-value cache: who holds which, and which are kept for later.
//!
//! A page holds the keys and values of [`PAGE_TOKENS`] tokens. It is free, or held by one sequence that
//! writes to it, or full: then nobody writes to it any more, and any number of sequences of one
//! [`CacheScope`] may hold it. A full page that nobody holds is kept, so that the next prompt with the same
//! beginning need not be read again, until its memory is needed: the one unused for longest goes first, and
//! the end of a prompt before its beginning.
//!
//! **Identity.** Keys and values of a token depend on all tokens before it, so a full page is known by a
//! hash chain: SHA-256 over the scope, the identity of the page before and the page's own tokens. Somebody
//! who could make two texts collide could read answers to another text; hence a cryptographic hash, and
//! the scope inside it: a page of another scope cannot be found, whatever the tokens.
//!
//! **What can be learned by timing.** From one's own prompts: whether one's own earlier prompts are still
//! kept. The memory is shared, so this also tells how much memory all others have used since: the load of the
//! machine, as its queue would tell too, but nothing of what was asked.
//!
//! The block table is vLLM's (Kwon et al., *Efficient Memory Management for Large Language Model Serving
//! with PagedAttention*, 2023), and so is the hash chain.

use std::collections::{BTreeMap, HashMap};

use ring::digest::{Context, SHA256};

use super::PAGE_TOKENS;
use crate::CacheScope;

/// Says what is hashed, so that no other use of SHA-256 in this program can give the same bytes.
const DOMAIN: &[u8] = b"cocoon kv page 1";

/// Which tokens of whose a full page holds, and what comes before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity([u8; 32]);

impl Identity {
    /// The identity of the page that holds `tokens`, after the page `before`.
    pub(crate) fn new(scope: &CacheScope, before: Option<&Self>, tokens: &[u32]) -> Self {
        debug_assert_eq!(
            tokens.len(),
            PAGE_TOKENS,
            "only a full page has an identity"
        );
        let mut context = Context::new(&SHA256);
        context.update(DOMAIN);
        context.update(&scope.0);
        // No SHA-256 of anything known is zero, so zeros can mean that nothing comes before.
        context.update(&before.map_or([0; 32], |before| before.0));
        for token in tokens {
            context.update(&token.to_le_bytes());
        }
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(hash)
    }
}

/// A hold on one page. It cannot be copied: each is given back once, by [`Pages::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a page that is not released is lost"]
pub(crate) struct Lease(u32);

impl Lease {
    /// The page's number.
    pub(crate) fn page(&self) -> u32 {
        self.0
    }
}

#[derive(Debug, Default)]
struct Page {
    /// Sequences that hold it.
    holders: u32,
    /// Set while the page is full and can be found.
    identity: Option<Identity>,
    /// When it was released last, as a key of [`Pages::kept`]. Means something only while it is kept.
    released: u64,
}

/// All pages of one cache. Every map in it has at most as many entries as there are pages.
#[derive(Debug)]
pub(crate) struct Pages {
    pages: Vec<Page>,
    /// Pages with nothing in them.
    free: Vec<u32>,
    /// Full pages that can be found, held or not.
    known: HashMap<Identity, u32>,
    /// Full pages that nobody holds, by the time of their release: the first goes first.
    kept: BTreeMap<u64, u32>,
    /// Counts releases.
    clock: u64,
}

impl Pages {
    /// `count` free pages.
    pub(crate) fn new(count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            pages: (0..count).map(|_| Page::default()).collect(),
            // The last is taken first; low numbers first read better.
            free: (0..count).rev().collect(),
            known: HashMap::new(),
            kept: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Pages in all.
    pub(crate) fn total(&self) -> usize {
        self.pages.len()
    }

    /// Pages with nothing in them.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Pages that nobody holds, but that are kept for prompts with the same beginning.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Pages that could be taken now.
    pub(crate) fn available(&self) -> usize {
        self.free().saturating_add(self.kept())
    }

    /// Pages that somebody holds.
    pub(crate) fn held(&self) -> usize {
        self.total().saturating_sub(self.available())
    }

    /// A page to write to. Forgets the kept page that was unused for longest when no other is free.
    pub(crate) fn take(&mut self) -> Option<Lease> {
        let number = match self.free.pop() {
            Some(number) => number,
            None => self.forget_oldest()?,
        };
        let page = self.page(number)?;
        debug_assert_eq!(page.holders, 0, "a free page is held by nobody");
        debug_assert!(page.identity.is_none(), "a free page is not known");
        page.holders = 1;
        Some(Lease(number))
    }

    /// Whether a page with this identity could be shared.
    pub(crate) fn knows(&self, identity: &Identity) -> bool {
        self.known.contains_key(identity)
    }

    /// Whether a page with this identity is kept and held by nobody: sharing it makes one page less
    /// available.
    pub(crate) fn keeps(&self, identity: &Identity) -> bool {
        let number = self.known.get(identity).copied();
        let page = number.and_then(|number| self.pages.get(number as usize));
        page.is_some_and(|page| page.holders == 0)
    }

    /// The full page with this identity, not to be written to.
    pub(crate) fn share(&mut self, identity: &Identity) -> Option<Lease> {
        let number = *self.known.get(identity)?;
        let page = self.page(number)?;
        let idle = (page.holders == 0).then_some(page.released);
        page.holders = page.holders.saturating_add(1);
        if let Some(released) = idle {
            let kept = self.kept.remove(&released);
            debug_assert_eq!(kept, Some(number), "a known page without holders is kept");
        }
        Some(Lease(number))
    }

    /// Says that the page is full of what the identity says, and will not be written to any more. The lease
    /// moves to another page if that was known with the same contents already.
    pub(crate) fn fill(&mut self, lease: &mut Lease, identity: Identity) {
        if let Some(known) = self.known.get(&identity) {
            if *known != lease.0
                && let Some(shared) = self.share(&identity)
            {
                let own = std::mem::replace(lease, shared);
                self.release(own);
            }
            return;
        }
        let Some(page) = self.page(lease.0) else {
            return;
        };
        debug_assert_eq!(page.holders, 1, "a page that is written to has one holder");
        debug_assert!(page.identity.is_none(), "a full page is not written to");
        page.identity = Some(identity);
        self.known.insert(identity, lease.0);
    }

    /// Ends one hold. The pages of a sequence are released from the last to the first, so that the
    /// beginning, without which the rest cannot be found, is kept for longest.
    pub(crate) fn release(&mut self, lease: Lease) {
        let Lease(number) = lease;
        let now = self.clock;
        let Some(page) = self.page(number) else {
            return;
        };
        debug_assert!(page.holders > 0, "a leased page has a holder");
        page.holders = page.holders.saturating_sub(1);
        if page.holders > 0 {
            return;
        }
        if page.identity.is_some() {
            page.released = now;
            self.clock = now.saturating_add(1);
            self.kept.insert(now, number);
        } else {
            self.free.push(number);
        }
    }

    /// Whether the holder of this page may write to it.
    pub(crate) fn writable(&self, lease: &Lease) -> bool {
        let page = self.pages.get(lease.0 as usize);
        page.is_some_and(|page| page.holders == 1 && page.identity.is_none())
    }

    fn page(&mut self, number: u32) -> Option<&mut Page> {
        let page = self.pages.get_mut(number as usize);
        debug_assert!(page.is_some(), "a lease is on a page that exists");
        page
    }

    fn forget_oldest(&mut self) -> Option<u32> {
        let (_, number) = self.kept.pop_first()?;
        let identity = self.page(number)?.identity.take()?;
        self.known.remove(&identity);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;
    use proptest::prelude::*;

    const ANN: CacheScope = CacheScope([1; 32]);
    const BOB: CacheScope = CacheScope([2; 32]);

    fn first(scope: CacheScope, token: u32) -> Identity {
        Identity::new(&scope, None, &[token; PAGE_TOKENS])
    }

    #[test]
    fn scope_tokens_and_what_came_before_are_all_part_of_the_identity() {
        let page = [7; PAGE_TOKENS];
        let alone = Identity::new(&ANN, None, &page);
        let mut swapped = page;
        swapped[15] = 8;
        let others = [
            Identity::new(&BOB, None, &page),
            Identity::new(&ANN, Some(&alone), &page),
            Identity::new(&ANN, None, &swapped),
        ];
        assert!(others.iter().all(|other| *other != alone));
        assert_eq!(alone, Identity::new(&ANN, None, &page));
    }

    #[test]
    fn the_page_unused_for_longest_is_forgotten_first() {
        let mut pages = Pages::new(2);
        for token in [1, 2] {
            let mut lease = pages.take().unwrap();
            pages.fill(&mut lease, first(ANN, token));
            pages.release(lease);
        }
        let again = pages.share(&first(ANN, 1)).unwrap();
        pages.release(again);
        let _taken = pages.take().unwrap();
        assert!(pages.knows(&first(ANN, 1)));
        assert!(!pages.knows(&first(ANN, 2)));
    }

    #[test]
    fn a_held_page_is_never_forgotten() {
        let mut pages = Pages::new(1);
        let mut lease = pages.take().unwrap();
        pages.fill(&mut lease, first(ANN, 1));
        assert_eq!(pages.take(), None);
        pages.release(lease);
        assert!(pages.take().is_some());
    }

    #[test]
    fn the_same_contents_written_twice_end_up_in_one_page() {
        let mut pages = Pages::new(2);
        let mut one = pages.take().unwrap();
        let mut two = pages.take().unwrap();
        pages.fill(&mut one, first(ANN, 1));
        pages.fill(&mut two, first(ANN, 1));
        assert_eq!(one.page(), two.page());
        assert_eq!((pages.free(), pages.held()), (1, 1));
        // Another scope with the same tokens keeps its own.
        let mut three = pages.take().unwrap();
        pages.fill(&mut three, first(BOB, 1));
        assert_ne!(one.page(), three.page());
    }

    /// What may be done to pages.
    #[derive(Debug, Clone)]
    enum Act {
        Take,
        Share(u32),
        Fill(usize, u32),
        Release(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            Just(Act::Take),
            (0u32..6).prop_map(Act::Share),
            (any::<usize>(), 0u32..6).prop_map(|(lease, what)| Act::Fill(lease, what)),
            any::<usize>().prop_map(Act::Release),
        ]
    }

    proptest! {
        /// The model: a list of the holds there are, and for each page what it is full of.
        #[test]
        fn pages_are_counted_exactly_and_everything_is_available_at_the_end(
            count in 1usize..8, acts in proptest::collection::vec(act(), 0..200),
        ) {
            let mut pages = Pages::new(count);
            let mut leases: Vec<Lease> = vec![];
            let mut full: HashMap<u32, u32> = HashMap::new();
            for act in acts {
                match act {
                    Act::Take => {
                        let held: std::collections::BTreeSet<u32> = leases.iter().map(Lease::page).collect();
                        match pages.take() {
                            None => prop_assert_eq!(held.len(), count, "a page was available"),
                            Some(lease) => {
                                prop_assert!(!held.contains(&lease.page()), "two writers");
                                prop_assert!(pages.writable(&lease));
                                full.remove(&lease.page());
                                leases.push(lease);
                            }
                        }
                    }
                    Act::Share(what) => {
                        let id = first(ANN, what);
                        prop_assert_eq!(pages.knows(&id), full.values().any(|w| *w == what));
                        if let Some(lease) = pages.share(&id) {
                            prop_assert_eq!(full[&lease.page()], what);
                            prop_assert!(!pages.writable(&lease));
                            leases.push(lease);
                        }
                    }
                    Act::Fill(which, what) if !leases.is_empty() => {
                        let which = which % leases.len();
                        if pages.writable(&leases[which]) {
                            pages.fill(&mut leases[which], first(ANN, what));
                            full.insert(leases[which].page(), what);
                        }
                    }
                    Act::Release(which) if !leases.is_empty() => {
                        let lease = leases.swap_remove(which % leases.len());
                        pages.release(lease);
                    }
                    Act::Fill(..) | Act::Release(_) => {}
                }
                let mut holders: HashMap<u32, u32> = HashMap::new();
                for lease in &leases {
                    *holders.entry(lease.page()).or_default() += 1;
                }
                prop_assert_eq!(pages.held(), holders.len());
                prop_assert_eq!(pages.held() + pages.free() + pages.kept(), count);
                for (number, page) in (0u32..).zip(&pages.pages) {
                    prop_assert_eq!(page.holders, holders.get(&number).copied().unwrap_or(0));
                    prop_assert_eq!(page.identity.is_some(), full.contains_key(&number));
                    let free = pages.free.contains(&number);
                    let kept = pages.kept.values().any(|k| *k == number);
                    prop_assert_eq!(free, page.holders == 0 && page.identity.is_none());
                    prop_assert_eq!(kept, page.holders == 0 && page.identity.is_some());
                }
                prop_assert!(pages.known.len() <= count);
            }
            for lease in leases {
                pages.release(lease);
            }
            prop_assert_eq!(pages.available(), count);
        }
    }
}
