//! One embedding in the making: from the outputs of a text's tokens to one row of length 1.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::{EngineError, Pooling};

/// What comes of one text.
pub(crate) type EmbeddingResult = Result<Vec<f32>, EngineError>;

/// The thread's end.
#[derive(Debug)]
pub(crate) struct EmbeddingWriter {
    result: SyncSender<EmbeddingResult>,
    gone: Arc<AtomicBool>,
}

/// The end of whoever waits. Dropping it cancels the embedding.
#[derive(Debug)]
pub(crate) struct EmbeddingReader {
    result: Receiver<EmbeddingResult>,
    gone: Arc<AtomicBool>,
}

/// Both ends.
pub(crate) fn channel() -> (EmbeddingWriter, EmbeddingReader) {
    let (sender, result) = sync_channel(1);
    let gone = Arc::new(AtomicBool::new(false));
    let writer = EmbeddingWriter {
        result: sender,
        gone: Arc::clone(&gone),
    };
    (writer, EmbeddingReader { result, gone })
}

impl EmbeddingWriter {
    /// Hands the result over, the only one. Never waits.
    pub(crate) fn send(&self, result: EmbeddingResult) {
        // Whoever has gone away wants none.
        let _ = self.result.try_send(result);
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

impl EmbeddingReader {
    /// Blocks.
    pub(crate) fn wait(self) -> EmbeddingResult {
        self.result.recv().unwrap_or(Err(EngineError::Stopped))
    }
}

impl Drop for EmbeddingReader {
    fn drop(&mut self) {
        // The thread looks before its next pass; while it sleeps there is nothing to cancel.
        self.gone.store(true, Ordering::SeqCst);
    }
}

/// Collects the rows of one text, piece by piece.
#[derive(Debug)]
pub(crate) struct Pool {
    pooling: Pooling,
    /// Tokens of the text.
    tokens: usize,
    sum: Vec<f64>,
}

impl Pool {
    pub(crate) fn new(pooling: Pooling, tokens: usize) -> Self {
        Self {
            pooling,
            tokens,
            sum: Vec::new(),
        }
    }

    /// Adds the rows of a piece of the text that begins at `start` and has `read` tokens; of a piece that is
    /// read again because its pages were given up, too. Gives the embedding after the last piece.
    pub(crate) fn take<'a>(
        &mut self,
        start: usize,
        read: usize,
        rows: impl IntoIterator<Item = &'a [f32]>,
    ) -> Option<EmbeddingResult> {
        if start == 0 {
            self.sum.clear();
        }
        for row in rows {
            if self.pooling == Pooling::Last {
                self.sum.clear();
            }
            self.sum.resize(row.len(), 0.0);
            for (sum, value) in self.sum.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        (start.saturating_add(read) >= self.tokens).then(|| self.finish())
    }

    /// A mean and a sum have the same direction, and only that is left at length 1.
    fn finish(&self) -> EmbeddingResult {
        let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        if !(length.is_finite() && length > 0.0) {
            return Err(EngineError::NotFinite {
                position: self.tokens,
            });
        }
        Ok(self.sum.iter().map(|x| (x / length) as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_mean_of_all_pieces_has_length_one() {
        let mut pool = Pool::new(Pooling::Mean, 3);
        assert!(pool.take(0, 2, [&[1.0, 0.0][..], &[2.0, 0.0]]).is_none());
        let embedding = pool.take(2, 1, [&[0.0, 4.0][..]]).unwrap().unwrap();
        assert_eq!(embedding, [0.6, 0.8]);
    }

    #[test]
    fn a_piece_that_is_read_again_counts_once() {
        let mut pool = Pool::new(Pooling::Mean, 2);
        assert!(pool.take(0, 1, [&[9.0, 1.0][..]]).is_none());
        assert!(pool.take(0, 1, [&[3.0, 0.0][..]]).is_none());
        let embedding = pool.take(1, 1, [&[0.0, 4.0][..]]).unwrap().unwrap();
        assert_eq!(embedding, [0.6, 0.8]);
    }

    #[test]
    fn the_last_is_the_last_alone() {
        let mut pool = Pool::new(Pooling::Last, 2);
        assert!(pool.take(0, 1, []).is_none());
        let embedding = pool.take(1, 1, [&[0.0, 4.0][..]]).unwrap().unwrap();
        assert_eq!(embedding, [0.0, 1.0]);
    }

    #[test]
    fn what_has_no_direction_is_an_error() {
        for value in [0.0, f32::NAN, f32::INFINITY] {
            let mut pool = Pool::new(Pooling::Mean, 1);
            let embedding = pool.take(0, 1, [&[value, 0.0][..]]).unwrap();
            assert!(matches!(
                embedding,
                Err(EngineError::NotFinite { position: 1 })
            ));
        }
    }
}
