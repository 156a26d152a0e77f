//! Where the time of a forward pass goes, by kind of operation. Off, it costs one load per operation.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

static ON: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Products with weights, but for the head's.
    Linear,
    /// The product with the head: logits.
    Head,
    /// Scores, softmax and sums over the cache, and writing to it.
    Attention,
    /// Norms.
    Norm,
    /// Rotary positions.
    Rotation,
    /// The gate of the feed-forward.
    Gate,
    /// Everything else between them: embeddings, sums, copies, routing.
    Rest,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Linear,
        Self::Head,
        Self::Attention,
        Self::Norm,
        Self::Rotation,
        Self::Gate,
        Self::Rest,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "products with weights",
            Self::Head => "logits",
            Self::Attention => "attention",
            Self::Norm => "norms",
            Self::Rotation => "rotary positions",
            Self::Gate => "gates",
            Self::Rest => "embeddings, sums, copies",
        }
    }
}

/// Begins to measure, from zero, in the whole process; or stops.
pub fn measure(on: bool) {
    for counter in &NANOSECONDS {
        counter.store(0, Ordering::Relaxed);
    }
    ON.store(on, Ordering::Relaxed);
}

/// Time since [`measure`] began, by kind.
pub fn measured() -> Vec<(Part, Duration)> {
    Part::ALL
        .into_iter()
        .zip(&NANOSECONDS)
        .map(|(part, counter)| (part, Duration::from_nanos(counter.load(Ordering::Relaxed))))
        .collect()
}

/// Does `work` and counts its time.
pub(crate) fn timed<T>(part: Part, work: impl FnOnce() -> T) -> T {
    if !ON.load(Ordering::Relaxed) {
        return work();
    }
    let start = Instant::now();
    let done = work();
    let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    if let Some((_, counter)) = Part::ALL
        .iter()
        .zip(&NANOSECONDS)
        .find(|(p, _)| **p == part)
    {
        counter.fetch_add(took, Ordering::Relaxed);
    }
    done
}
