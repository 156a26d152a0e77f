//! One sequence as the scheduler sees it: its tokens, how many of them the cache holds, and its pages.

use super::clients::{Client, SequenceId};
use super::pages::{Identity, Lease, Pages};
use super::{PAGE_TOKENS, Wanted};
use crate::sampling::Lookup;
use crate::{CacheScope, Pooling};

/// Pages that this many tokens take.
pub(crate) fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE_TOKENS)
}

/// What is wanted of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// More tokens.
    Answer,
    /// One row of numbers for the tokens it has.
    Embedding(Pooling),
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// In its client's queue. It may hold pages: those it kept while it was paused.
    Waiting,
    /// In every step, as far as there is room in it.
    Running,
    /// Its reader does not read. It may hold pages.
    Paused,
}

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) client: Client,
    pub(crate) scope: Option<CacheScope>,
    pub(crate) work: Work,
    pub(crate) state: State,
    /// Prompt and answer so far.
    pub(crate) tokens: Vec<u32>,
    /// Most tokens of prompt and answer.
    pub(crate) limit: usize,
    /// How many of the tokens the pages hold keys and values for.
    pub(crate) computed: usize,
    /// The pages, in order.
    pub(crate) table: Vec<Lease>,
    /// Where guesses come from, if any are made.
    pub(crate) lookup: Option<Lookup>,
    /// Identities of the first pages, as far as they were needed. Tokens are only ever appended, so they
    /// stay true.
    chain: Vec<Identity>,
}

impl Sequence {
    pub(crate) fn new(
        id: SequenceId,
        client: Client,
        scope: Option<CacheScope>,
        work: Work,
        tokens: Vec<u32>,
        limit: usize,
    ) -> Self {
        Self {
            id,
            client,
            scope,
            work,
            state: State::Waiting,
            tokens,
            limit,
            computed: 0,
            table: Vec::new(),
            lookup: None,
            chain: Vec::new(),
        }
    }

    /// Tokens that the model has not read. One while the sequence answers, more while it reads.
    pub(crate) fn unread(&self) -> usize {
        self.tokens.len().saturating_sub(self.computed)
    }

    /// Appends tokens of the answer.
    pub(crate) fn grow(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        for &token in tokens {
            if let Some(lookup) = &mut self.lookup {
                lookup.push(token);
            }
        }
    }

    /// Pages missing for this many tokens.
    pub(crate) fn missing(&self, tokens: usize) -> usize {
        pages_for(tokens).saturating_sub(self.table.len())
    }

    /// Tokens for which there must be room when it begins to run: its own and one more.
    pub(crate) fn tokens_to_begin(&self) -> usize {
        self.tokens.len().saturating_add(1).min(self.limit)
    }

    /// What is wanted of the next `rows` tokens.
    pub(crate) fn wanted(&self, rows: usize) -> Wanted {
        match self.work {
            Work::Embedding(Pooling::Mean) => Wanted::All,
            _ if rows < self.unread() => Wanted::None,
            _ => Wanted::Last,
        }
    }

    /// The identity of the page with this number in the sequence: `None` without a scope, and for a page
    /// that the tokens do not fill.
    pub(crate) fn identity(&mut self, page: usize) -> Option<Identity> {
        let scope = self.scope?;
        let wanted = page.saturating_add(1);
        let missing = wanted.saturating_sub(self.chain.len());
        let from = self.chain.len().saturating_mul(PAGE_TOKENS);
        let pages = self.tokens.get(from..).unwrap_or_default();
        for tokens in pages.chunks_exact(PAGE_TOKENS).take(missing) {
            let next = Identity::new(&scope, self.chain.last(), tokens);
            self.chain.push(next);
        }
        self.chain.get(page).copied()
    }

    /// The identity of the page that comes next, if the sequence stands at its beginning and could go on
    /// without reading it. Its last token it reads in any case, for what comes out.
    pub(crate) fn next_identity(&mut self) -> Option<Identity> {
        let after = self.computed.saturating_add(PAGE_TOKENS);
        let possible = self.computed.is_multiple_of(PAGE_TOKENS) && after < self.tokens.len();
        if !possible {
            return None;
        }
        self.identity(self.computed / PAGE_TOKENS)
    }

    /// How many fewer pages would be available if it began now: those it takes, and those kept ones that it
    /// shares.
    pub(crate) fn price(&mut self, pages: &Pages) -> usize {
        let mut price = self.missing(self.tokens_to_begin());
        if !self.table.is_empty() {
            return price;
        }
        let most = self.tokens.len().saturating_sub(1) / PAGE_TOKENS;
        for page in 0..most {
            match self.identity(page) {
                // Shared, but no longer available to others.
                Some(identity) if pages.keeps(&identity) => {}
                Some(identity) if pages.knows(&identity) => price = price.saturating_sub(1),
                _ => break,
            }
        }
        price
    }

    /// Takes over pages with the tokens that come next, as far as they are known. Gives back how many tokens
    /// need not be read.
    pub(crate) fn skip_known(&mut self, pages: &mut Pages) -> usize {
        let from = self.computed;
        while let Some(lease) = self.next_identity().and_then(|next| pages.share(&next)) {
            match self.table.get_mut(self.computed / PAGE_TOKENS) {
                Some(own) => pages.release(std::mem::replace(own, lease)),
                None => self.table.push(lease),
            }
            self.computed = self.computed.saturating_add(PAGE_TOKENS);
        }
        self.computed.saturating_sub(from)
    }

    /// The cache holds tokens up to here now. Pages that became full can be found from now on.
    pub(crate) fn advance(&mut self, computed: usize, pages: &mut Pages) {
        debug_assert!(computed >= self.computed && computed <= self.tokens.len());
        let filled = self.computed / PAGE_TOKENS..computed / PAGE_TOKENS;
        self.computed = computed;
        for page in filled {
            let Some(identity) = self.identity(page) else {
                return;
            };
            if let Some(lease) = self.table.get_mut(page) {
                pages.fill(lease, identity);
            }
        }
    }

    /// Gives all pages back, the last first.
    pub(crate) fn release(&mut self, pages: &mut Pages) {
        self.computed = 0;
        for lease in self.table.drain(..).rev() {
            pages.release(lease);
        }
    }
}
