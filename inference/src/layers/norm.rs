//! RMSNorm (Zhang and Sennrich, *Root Mean Square Layer Normalization*, 2019).

#![allow(clippy::arithmetic_side_effects)] // burn's operators

use burn::tensor::{FloatDType, Tensor};

use super::activations::Activations;
use super::place::Place;
use super::profile::{Part, timed};

/// Divides by the root of the mean square and multiplies by a weight per column. Rows that are wider than
/// the weight are normalised piece by piece: that is how heads are.
pub(crate) struct Norm {
    pub(crate) weight: NormWeight,
    pub(crate) epsilon: f32,
}

pub(crate) enum NormWeight {
    Host(Vec<f32>),
    /// `[1, width]`, f32.
    Device(Tensor<2>),
}

impl Norm {
    pub(crate) fn forward(&self, place: &Place, x: &Activations) -> Activations {
        match (&self.weight, x, place) {
            (NormWeight::Host(weight), Activations::Host(x), Place::Host(host)) => {
                let mut out = x.another(x.rows(), x.width);
                timed(Part::Norm, || {
                    host.compute
                        .rms_norm(&x.values, weight, self.epsilon, &mut out.values);
                });
                Activations::Host(out)
            }
            (NormWeight::Device(weight), Activations::Device(x), _) => {
                let [rows, width] = x.dims();
                let [_, piece] = weight.dims();
                let pieces = rows.saturating_mul(width).checked_div(piece).unwrap_or(0);
                let float = x.dtype();
                let x = x.clone().reshape([pieces, piece]).cast(FloatDType::F32);
                let mean_square = x.clone().powi_scalar(2).mean_dim(1);
                let root = mean_square.add_scalar(self.epsilon).sqrt();
                let out = x / root * weight.clone();
                Activations::Device(out.cast(float).reshape([rows, width]))
            }
            _ => unreachable!("weights and activations of one model are in one place"),
        }
    }
}
