//! Decode steps recorded once and replayed: on a device, launching some hundred kernels one by one costs more
//! than computing them.
//!
//! A recording holds for a number of rows and a window of context, both powers of two, so that a growing
//! answer needs a new one only O(log n) times, and the same ones serve every batch. Prompts are not recorded:
//! their kernels are large. On a device that cannot record, the closure runs each time.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, FloatDType, Graph, Tensor, capture};

use crate::EngineError;
use crate::layers::{Activations, Fixed, FixedInputs, LayerCache, Place, Step, Trunk};
use crate::serving::Rows;

/// Rows of the largest recording; larger batches are computed in pieces.
const MAX_ROWS: usize = 128;
/// The smallest window, tokens.
const MIN_WINDOW: usize = 256;

type Recorded = Graph<Option<Tensor<2>>, Box<dyn FnMut() -> Option<Tensor<2>> + Send>>;

/// All recordings of one model.
pub(crate) struct Replays {
    recorded: BTreeMap<[usize; 2], (Arc<Mutex<Fixed>>, Recorded)>,
    place: Place,
    device: Device,
    trunk: Arc<Trunk>,
    cache: Arc<Mutex<Vec<LayerCache>>>,
    /// A page that no sequence has.
    spare: usize,
}

impl Replays {
    /// `cache` has a page more than sequences use, `spare`.
    pub(crate) fn new(
        place: &Place,
        trunk: &Arc<Trunk>,
        cache: &Arc<Mutex<Vec<LayerCache>>>,
        spare: usize,
    ) -> Option<Self> {
        let Place::Device { device, .. } = place else {
            return None;
        };
        Some(Self {
            recorded: BTreeMap::new(),
            place: place.clone(),
            device: device.clone(),
            trunk: Arc::clone(trunk),
            cache: Arc::clone(cache),
            spare,
        })
    }

    /// The logits of sequences of one new token each, row by row. They have been checked by [`Step::new`].
    pub(crate) fn decode(&mut self, sequences: &[Rows]) -> Result<Vec<f32>, EngineError> {
        let mut logits = Vec::new();
        for piece in sequences.chunks(MAX_ROWS) {
            let longest = piece.iter().map(|rows| rows.start).max().unwrap_or(0);
            let window = longest.saturating_add(1).next_power_of_two();
            let shape = [piece.len().next_power_of_two(), window.max(MIN_WINDOW)];
            let inputs = FixedInputs::new(piece, shape, self.spare);
            let rows = self.replay(inputs, shape)?;
            let [_, width] = rows.dims();
            let rows = rows.slice([0..piece.len(), 0..width]).cast(FloatDType::F32);
            let mut values = Activations::Device(rows).into_values()?;
            logits.append(&mut values);
        }
        Ok(logits)
    }

    fn replay(&mut self, inputs: FixedInputs, shape: [usize; 2]) -> Result<Tensor<2>, EngineError> {
        let lock = |fixed: &Mutex<Fixed>, inputs| {
            let mut fixed = fixed.lock().unwrap_or_else(PoisonError::into_inner);
            fixed.refresh(inputs, &self.device);
        };
        let output = if let Some((fixed, graph)) = self.recorded.get_mut(&shape) {
            lock(fixed, inputs);
            // SAFETY: everything that the closure reads and writes lives as long as the recording: it owns
            // the inputs and shares weights and cache by `Arc`. `&mut self`, held by the one thread that
            // owns the model, keeps others from using them meanwhile, and orders refresh, replay and read
            // on that thread's stream.
            unsafe { graph.replay() }.clone()
        } else {
            let fixed = Arc::new(Mutex::new(Fixed::new(inputs, shape, &self.device)));
            let graph = capture(&self.device, self.closure(Arc::clone(&fixed)));
            tracing::info!(
                rows = shape[0],
                window = shape[1],
                replayed = graph.is_hardware(),
                "decode step recorded"
            );
            let output = graph.output().clone();
            self.recorded.insert(shape, (fixed, graph));
            output
        };
        output.ok_or(EngineError::Stopped)
    }

    /// What is recorded: the whole step from tokens to logits.
    fn closure(&self, fixed: Arc<Mutex<Fixed>>) -> Box<dyn FnMut() -> Option<Tensor<2>> + Send> {
        let (place, trunk, cache) = (
            self.place.clone(),
            Arc::clone(&self.trunk),
            Arc::clone(&self.cache),
        );
        Box::new(move || {
            let inputs = fixed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            let step = Step::fixed(inputs);
            let hidden = trunk.hidden(&place, &mut cache, &step).ok()??;
            match trunk.logits(&place, &hidden) {
                Activations::Device(logits) => Some(logits),
                Activations::Host(_) => None,
            }
        })
    }
}
