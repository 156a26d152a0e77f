//! A model's vocabulary as constraints see it.

use super::TokenBytes;
use crate::vocabulary::Vocabulary;

impl TokenBytes for Vocabulary {
    fn len(&self) -> usize {
        Vocabulary::len(self)
    }

    fn bytes(&self, token: u32) -> Option<&[u8]> {
        Vocabulary::bytes(self, token)
    }

    /// What says nothing ends the turn.
    fn end_tokens(&self) -> Vec<u32> {
        (0u32..)
            .take(self.len())
            .filter(|&token| Vocabulary::bytes(self, token).is_none())
            .collect()
    }
}
