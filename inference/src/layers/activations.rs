//! What flows between layers: a row of numbers per token, on the host or on a device.

// Sizes here are the model's, which `Weights` has checked against the tensors, and burn's operators.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::ops::Range;

use burn::tensor::{FloatDType, Int, Tensor, TensorData, activation};

use super::place::{HostRows, Place};
use super::profile::{Part, timed};
use crate::EngineError;

/// A row of numbers for each token.
pub(crate) enum Activations {
    Host(HostRows),
    Device(Tensor<2>),
}

/// What stands between the two halves of a gated feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// x·σ(x), as in SwiGLU.
    Silu,
    /// GELU by the tangent, as in GeGLU.
    GeluTanh,
}

impl Activations {
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Host(rows) => rows.width,
            Self::Device(rows) => rows.dims()[1],
        }
    }

    /// The numbers, row by row.
    pub(crate) fn into_values(self) -> Result<Vec<f32>, EngineError> {
        match self {
            Self::Host(mut rows) => Ok(std::mem::take(&mut rows.values)),
            Self::Device(rows) => rows
                .cast(FloatDType::F32)
                .into_data()
                .try_into_vec::<f32>()
                .map_err(|error| EngineError::Tensor(Box::new(error))),
        }
    }

    pub(crate) fn copy(&self) -> Self {
        match self {
            Self::Host(rows) => {
                let mut other = rows.another(rows.rows(), rows.width);
                other.values.copy_from_slice(&rows.values);
                Self::Host(other)
            }
            Self::Device(rows) => Self::Device(rows.clone()),
        }
    }

    /// The sum of two of the same shape.
    pub(crate) fn plus(self, place: &Place, other: Self) -> Self {
        match (self, other, place) {
            (Self::Host(mut x), Self::Host(y), Place::Host(host)) => {
                timed(Part::Rest, || host.compute.add(&mut x.values, &y.values));
                Self::Host(x)
            }
            (Self::Device(x), Self::Device(y), _) => Self::Device(x + y),
            _ => unreachable!("activations of one model are all in one place"),
        }
    }

    pub(crate) fn scaled(self, factor: f32) -> Self {
        match self {
            Self::Host(mut rows) => {
                rows.values.iter_mut().for_each(|x| *x *= factor);
                Self::Host(rows)
            }
            Self::Device(rows) => Self::Device(rows.mul_scalar(factor)),
        }
    }

    /// `cap · tanh(x / cap)`.
    pub(crate) fn softcapped(self, cap: f32) -> Self {
        match self {
            Self::Host(mut rows) => {
                let squash = |x: &mut f32| *x = cap * (*x / cap).tanh();
                rows.values.iter_mut().for_each(squash);
                Self::Host(rows)
            }
            Self::Device(rows) => Self::Device(rows.div_scalar(cap).tanh().mul_scalar(cap)),
        }
    }

    /// Some of the columns of every row.
    pub(crate) fn columns(&self, range: Range<usize>) -> Self {
        match self {
            Self::Host(rows) => timed(Part::Rest, || {
                let mut part = rows.another(rows.rows(), range.len());
                let of = rows.values.chunks_exact(rows.width);
                for (to, from) in part.values.chunks_exact_mut(range.len()).zip(of) {
                    to.copy_from_slice(&from[range.clone()]);
                }
                Self::Host(part)
            }),
            Self::Device(rows) => {
                let [count, _] = rows.dims();
                Self::Device(rows.clone().slice([0..count, range]))
            }
        }
    }

    /// All of them side by side. At least one; of the same number of rows.
    pub(crate) fn beside(parts: Vec<Self>) -> Self {
        let width = parts.iter().map(Self::width).sum();
        let mut tensors = Vec::new();
        let mut joined: Option<HostRows> = None;
        let mut at = 0;
        for part in parts {
            match part {
                Self::Device(tensor) => tensors.push(tensor),
                Self::Host(part) => {
                    let all = joined.get_or_insert_with(|| part.another(part.rows(), width));
                    let end = at + part.width;
                    let to = all.values.chunks_exact_mut(width);
                    for (to, from) in to.zip(part.values.chunks_exact(part.width)) {
                        to[at..end].copy_from_slice(from);
                    }
                    at = end;
                }
            }
        }
        joined.map_or_else(|| Self::Device(Tensor::cat(tensors, 1)), Self::Host)
    }

    /// These rows, in this order. Consumes nothing, copies what it takes.
    pub(crate) fn select(&self, indices: &[usize]) -> Self {
        match self {
            Self::Host(rows) => {
                let mut chosen = rows.another(indices.len(), rows.width);
                let to = chosen.values.chunks_exact_mut(rows.width);
                for (to, &index) in to.zip(indices) {
                    let start = index * rows.width;
                    to.copy_from_slice(&rows.values[start..start + rows.width]);
                }
                Self::Host(chosen)
            }
            Self::Device(rows) => {
                let indices = int_tensor(indices, &rows.device());
                Self::Device(rows.clone().select(0, indices))
            }
        }
    }

    /// Adds `weights[i] · part[i]` to row `indices[i]`, which are all different.
    pub(crate) fn add_at(self, indices: &[usize], weights: &[f32], part: Self) -> Self {
        match (self, part) {
            (Self::Host(mut rows), Self::Host(part)) => {
                let width = rows.width;
                let from = part.values.chunks_exact(width);
                for ((from, &index), &weight) in from.zip(indices).zip(weights) {
                    let to = &mut rows.values[index * width..(index + 1) * width];
                    to.iter_mut().zip(from).for_each(|(x, y)| *x += weight * y);
                }
                Self::Host(rows)
            }
            (Self::Device(rows), Self::Device(part)) => {
                let device = rows.device();
                let weights = TensorData::new(weights.to_vec(), [weights.len(), 1]);
                let weights = Tensor::<2>::from_data(weights, &device).cast(rows.dtype());
                let indices = int_tensor(indices, &device);
                let add = burn::tensor::IndexingUpdateOp::Add;
                Self::Device(rows.select_assign(0, indices, part * weights, add))
            }
            _ => unreachable!("activations of one model are all in one place"),
        }
    }

    /// `gate(x) · y` where each row is x followed by y, of `width` each.
    pub(crate) fn gated(self, place: &Place, gate: Gate, width: usize) -> Self {
        match (self, place) {
            (Self::Host(both), Place::Host(host)) => {
                let mut out = both.another(both.rows(), width);
                timed(Part::Gate, || match gate {
                    Gate::Silu => host
                        .compute
                        .silu_product(&both.values, width, &mut out.values),
                    Gate::GeluTanh => {
                        host.compute
                            .gelu_tanh_product(&both.values, width, &mut out.values);
                    }
                });
                Self::Host(out)
            }
            (Self::Device(both), _) => {
                let [count, _] = both.dims();
                let x = both.clone().slice([0..count, 0..width]);
                let y = both.slice([0..count, width..2 * width]);
                let x = match gate {
                    Gate::Silu => activation::silu(x),
                    Gate::GeluTanh => gelu_tanh(x),
                };
                Self::Device(x * y)
            }
            _ => unreachable!("activations of one model are all in one place"),
        }
    }
}

/// Hendrycks and Gimpel, *Gaussian Error Linear Units* (2016), the approximation with a tangent.
fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    let cubic = x.clone().powf_scalar(3.0).mul_scalar(0.044_715);
    let inner = (x.clone() + cubic).mul_scalar(std::f32::consts::FRAC_2_PI.sqrt());
    x.mul_scalar(0.5) * inner.tanh().add_scalar(1.0)
}

/// Numbers of rows as a tensor.
pub(crate) fn int_tensor(values: &[usize], device: &burn::tensor::Device) -> Tensor<1, Int> {
    // Rows, slots and tokens are far below i32's range: `Place` and `Weights` bound them.
    let values: Vec<i32> = values
        .iter()
        .map(|&n| i32::try_from(n).unwrap_or(i32::MAX))
        .collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
