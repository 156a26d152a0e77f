//! Products with weights, and the table of embeddings.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // as in `activations`

use burn::tensor::{Int, Tensor};

use super::activations::{Activations, int_tensor};
use super::place::{Host, Place};
use super::profile::{Part, timed};
use crate::kernel::Matrix;

/// `x · Wᵀ + b`, with W of `[out, in]`.
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    /// One number per output.
    pub(crate) bias: Option<Bias>,
}

pub(crate) enum Weight {
    /// In the file's format, for our kernels.
    Packed(Matrix),
    /// Dense, `[out, in]`: the layout that is faster for one row at a time.
    Dense(Tensor<2>),
}

pub(crate) enum Bias {
    Host(Vec<f32>),
    Device(Tensor<2>),
}

impl Linear {
    /// Rows of `in` numbers to rows of `out` numbers.
    pub(crate) fn forward(&self, place: &Place, x: &Activations) -> Activations {
        self.forward_as(Part::Linear, place, x)
    }

    /// The same, counted as something of its own.
    pub(crate) fn forward_as(&self, part: Part, place: &Place, x: &Activations) -> Activations {
        match (&self.weight, x, place) {
            (Weight::Packed(matrix), Activations::Host(x), Place::Host(host)) => {
                let mut y = x.another(x.rows(), matrix.rows());
                timed(part, || {
                    host.compute.multiply(matrix, &x.values, &mut y.values);
                });
                if let Some(Bias::Host(bias)) = &self.bias {
                    for row in y.values.chunks_exact_mut(bias.len()) {
                        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                    }
                }
                Activations::Host(y)
            }
            (Weight::Dense(weight), Activations::Device(x), _) => {
                let y = x.clone().matmul(weight.clone().swap_dims(0, 1));
                Activations::Device(match &self.bias {
                    Some(Bias::Device(bias)) => y + bias.clone(),
                    _ => y,
                })
            }
            _ => unreachable!("weights and activations of one model are in one place"),
        }
    }

    /// As [`Self::look_up`], for tokens on the device that the weights are on.
    pub(crate) fn look_up_on_device(&self, tokens: Tensor<1, Int>) -> Activations {
        match &self.weight {
            Weight::Dense(table) => Activations::Device(table.clone().select(0, tokens)),
            Weight::Packed(_) => unreachable!("tokens on a device are for weights on it"),
        }
    }

    /// Rows of the matrix itself: the embeddings of tokens.
    pub(crate) fn look_up(&self, place: &Place, tokens: &[usize]) -> Activations {
        match (&self.weight, place) {
            (Weight::Packed(matrix), Place::Host(host)) => timed(Part::Rest, || {
                Activations::Host(look_up(host, matrix, tokens))
            }),
            (Weight::Dense(table), Place::Device { device, .. }) => {
                Activations::Device(table.clone().select(0, int_tensor(tokens, device)))
            }
            _ => unreachable!("weights and activations of one model are in one place"),
        }
    }
}

fn look_up(host: &Host, matrix: &Matrix, tokens: &[usize]) -> super::place::HostRows {
    let mut rows = host.take(tokens.len(), matrix.columns());
    let to = rows.values.chunks_exact_mut(matrix.columns());
    for (to, &token) in to.zip(tokens) {
        matrix.row(token, to);
    }
    rows
}
