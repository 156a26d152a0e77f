//! Where a model computes.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, FloatDType};

use crate::kernel::Compute;

/// Buffers that may wait to be used again.
const MAX_SPARE: usize = 32;

/// Where a model computes, and how its numbers are kept there.
#[derive(Clone)]
pub(crate) enum Place {
    /// On the processor, with our own kernels on slices; weights stay in the format of the file.
    Host(Host),
    /// On a device of burn's, weights dense. Also the plain reading of every operation, which tests compare
    /// the kernels with.
    Device {
        /// The device.
        device: Device,
        /// Of weights, cache and what flows between the layers. Norms and softmax are computed in f32.
        float: FloatDType,
    },
}

/// The processor: threads, and buffers that have been used before, so that a token allocates nothing once
/// the first ones have been computed.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) compute: Arc<Compute>,
    spare: Spare,
}

/// Buffers without an owner.
#[derive(Clone, Default)]
pub(crate) struct Spare(Arc<Mutex<Vec<Vec<f32>>>>);

impl Spare {
    /// A buffer of `length` numbers, whatever they are.
    pub(crate) fn take(&self, length: usize) -> Vec<f32> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let best = all
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.capacity() >= length)
            .min_by_key(|(_, buffer)| buffer.capacity())
            .map(|(at, _)| at);
        let mut buffer = best.map_or_else(Vec::new, |at| all.swap_remove(at));
        drop(all);
        buffer.resize(length, 0.0);
        buffer
    }

    pub(crate) fn give(&self, buffer: Vec<f32>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_SPARE && buffer.capacity() > 0 {
            all.push(buffer);
        }
    }
}

impl Host {
    pub(crate) fn take(&self, rows: usize, width: usize) -> HostRows {
        HostRows {
            values: self.spare.take(rows.saturating_mul(width)),
            width,
            home: self.spare.clone(),
        }
    }
}

impl Place {
    /// The processor, with this many threads.
    pub(crate) fn host(threads: usize) -> Self {
        Self::Host(Host {
            compute: Arc::new(Compute::new(threads)),
            spare: Spare::default(),
        })
    }

    /// A device of burn's.
    pub(crate) fn device(device: Device, float: FloatDType) -> Self {
        Self::Device { device, float }
    }

    /// What computes, in a word or two.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Host(host) => format!("{} x{}", host.compute.name(), host.compute.threads()),
            Self::Device { device, float } => format!("burn {device:?} {float:?}").to_lowercase(),
        }
    }
}

/// Rows of numbers in main memory, whose buffer goes back to be used again.
pub(crate) struct HostRows {
    pub(crate) values: Vec<f32>,
    pub(crate) width: usize,
    home: Spare,
}

impl HostRows {
    pub(crate) fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Another buffer from the same place.
    pub(crate) fn another(&self, rows: usize, width: usize) -> Self {
        Self {
            values: self.home.take(rows.saturating_mul(width)),
            width,
            home: self.home.clone(),
        }
    }
}

impl Drop for HostRows {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.values));
    }
}
