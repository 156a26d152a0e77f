//! Rotary positions (Su et al., *RoFormer*, 2021), with the ways to stretch them over longer contexts that
//! checkpoints ask for: linear, Llama 3's by frequency, and YaRN (Peng et al., 2023).

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // as in `activations`

use std::f64::consts::PI;

use burn::tensor::{FloatDType, Int, Tensor, TensorData};

use super::activations::Activations;
use super::place::Place;
use super::profile::{Part, timed};
use crate::EngineError;
use crate::families::Config;

/// The angles of one kind of layer. Element i of a head and element i + rotated/2 are turned together.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    /// Angle per position, for each pair.
    frequencies: Vec<f64>,
    /// Cosine and sine are multiplied by it (YaRN's attention factor); 1 without.
    magnitude: f64,
}

/// Cosines and sines for the positions of one step.
pub(crate) enum Rotation {
    /// `[rows, rotated / 2]` each.
    Host { cos: Vec<f32>, sin: Vec<f32> },
    /// `[rows, 1, rotated]` each, both halves alike, f32.
    Device { cos: Tensor<3>, sin: Tensor<3> },
}

impl Rope {
    /// Without stretching.
    pub(crate) fn plain(rotated: usize, base: f64) -> Self {
        let pairs = rotated / 2;
        let frequency = |i: usize| base.powf(-2.0 * i as f64 / rotated as f64);
        Self {
            frequencies: (0..pairs).map(frequency).collect(),
            magnitude: 1.0,
        }
    }

    /// As `rope_theta` and `rope_scaling` say, `rotated` elements of each head.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for ways to stretch that are not known here.
    pub(crate) fn from_config(config: &Config<'_>, rotated: usize) -> Result<Self, EngineError> {
        if config.float_or("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(EngineError::Unsupported {
                feature: "rotary positions",
                found: "partial_rotary_factor".to_owned(),
            });
        }
        let base = config.float_or("rope_theta", 10_000.0)?;
        let mut rope = Self::plain(rotated, base);
        let Some(scaling) = config.section("rope_scaling") else {
            return Ok(rope);
        };
        match scaling.text_or("rope_type", "default")? {
            // "factors": the checkpoint holds them as a tensor; see `Self::divided`.
            "default" | "factors" => {}
            "linear" => {
                let factor = scaling.float("factor")?;
                rope.frequencies.iter_mut().for_each(|f| *f /= factor);
            }
            "llama3" => {
                let factor = scaling.float("factor")?;
                let low = scaling.float("low_freq_factor")?;
                let high = scaling.float("high_freq_factor")?;
                let old = scaling.float("original_max_position_embeddings")?;
                for frequency in &mut rope.frequencies {
                    let turns = old * *frequency / (2.0 * PI);
                    // 1 for what turns often in the old context, 0 for what hardly turns.
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *frequency *= keep + (1.0 - keep) / factor;
                }
            }
            "yarn" => rope.stretch_by_yarn(&scaling, config, base)?,
            other => {
                return Err(EngineError::Unsupported {
                    feature: "rope scaling",
                    found: other.to_owned(),
                });
            }
        }
        Ok(rope)
    }

    /// With each pair's frequency divided, as GGUF files of Llama 3 ask for.
    pub(crate) fn divided(mut self, factors: &[f32]) -> Self {
        for (frequency, factor) in self.frequencies.iter_mut().zip(factors) {
            *frequency /= f64::from(*factor);
        }
        self
    }

    fn stretch_by_yarn(
        &mut self,
        scaling: &Config<'_>,
        config: &Config<'_>,
        base: f64,
    ) -> Result<(), EngineError> {
        let rotated = self.frequencies.len() * 2;
        let factor = scaling.float("factor")?;
        let old = scaling.float_or(
            "original_max_position_embeddings",
            config.float("max_position_embeddings")?,
        )?;
        let (fast, slow) = (
            scaling.float_or("beta_fast", 32.0)?,
            scaling.float_or("beta_slow", 1.0)?,
        );
        // The pair that turns `turns` times in the old context.
        let pair =
            |turns: f64| rotated as f64 * (old / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
        let last = rotated as f64 - 1.0;
        let first = pair(fast).floor().clamp(0.0, last);
        let end = pair(slow).ceil().clamp(0.0, last);
        let span = if first == end { 0.001 } else { end - first };
        for (i, frequency) in self.frequencies.iter_mut().enumerate() {
            let stretched = ((i as f64 - first) / span).clamp(0.0, 1.0);
            *frequency *= (1.0 - stretched) + stretched / factor;
        }
        let scale = |m: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * m * factor.ln() + 1.0
            }
        };
        let all = scaling.float_or("mscale_all_dim", 0.0)?;
        let given = scaling.float_or("mscale", 0.0)?;
        let default = if given > 0.0 && all > 0.0 {
            scale(given) / scale(all)
        } else {
            scale(1.0)
        };
        self.magnitude = scaling.float_or("attention_factor", default)?;
        Ok(())
    }

    /// Cosines and sines for positions that are on a device.
    pub(crate) fn on_device(&self, positions: &Tensor<1, Int>) -> Rotation {
        let [rows] = positions.dims();
        let pairs = self.frequencies.len();
        let frequencies: Vec<f32> = self.frequencies.iter().map(|f| *f as f32).collect();
        let both = [frequencies.clone(), frequencies].concat();
        let shape = [1, 1, 2 * pairs];
        let device = positions.device();
        let frequencies = Tensor::<3>::from_data(TensorData::new(both, shape), &device);
        let positions = positions.clone().reshape([rows, 1, 1]);
        let angles = positions.float().cast(FloatDType::F32) * frequencies;
        let magnitude = self.magnitude as f32;
        Rotation::Device {
            cos: angles.clone().cos().mul_scalar(magnitude),
            sin: angles.sin().mul_scalar(magnitude),
        }
    }

    /// Cosines and sines for these positions.
    pub(crate) fn at(&self, place: &Place, positions: &[usize]) -> Rotation {
        let angles = || {
            positions
                .iter()
                .map(|&position| self.frequencies.iter().map(move |f| position as f64 * f))
        };
        match place {
            Place::Host(_) => {
                let table = |function: fn(f64) -> f64| -> Vec<f32> {
                    let value = |angle| (function(angle) * self.magnitude) as f32;
                    angles().flatten().map(value).collect()
                };
                Rotation::Host {
                    cos: table(f64::cos),
                    sin: table(f64::sin),
                }
            }
            Place::Device { device, .. } => {
                let table = |function: fn(f64) -> f64| {
                    let value = |angle| (function(angle) * self.magnitude) as f32;
                    let row = |row: Vec<f32>| [row.clone(), row].concat();
                    let values: Vec<f32> = angles()
                        .flat_map(|angles| row(angles.map(value).collect()))
                        .collect();
                    let shape = [positions.len(), 1, self.frequencies.len() * 2];
                    Tensor::<3>::from_data(TensorData::new(values, shape), device)
                };
                Rotation::Device {
                    cos: table(f64::cos),
                    sin: table(f64::sin),
                }
            }
        }
    }
}

impl Rotation {
    /// Turns the first elements of each head, as many as the rope has.
    pub(crate) fn turn(&self, place: &Place, x: Activations, heads: usize) -> Activations {
        match (self, x, place) {
            (Self::Host { cos, sin }, Activations::Host(mut x), Place::Host(host)) => {
                let width = x.width / heads;
                timed(Part::Rotation, || {
                    host.compute.rotate(&mut x.values, heads, width, cos, sin);
                });
                Activations::Host(x)
            }
            (Self::Device { cos, sin }, Activations::Device(x), _) => {
                let [rows, all] = x.dims();
                let width = all / heads;
                let [_, _, rotated] = cos.dims();
                let float = x.dtype();
                let x = x.reshape([rows, heads, width]);
                let part = |from, to| x.clone().slice([0..rows, 0..heads, from..to]);
                let turned = part(0, rotated).cast(FloatDType::F32);
                let swapped = Tensor::cat(
                    vec![
                        part(rotated / 2, rotated).cast(FloatDType::F32).neg(),
                        part(0, rotated / 2).cast(FloatDType::F32),
                    ],
                    2,
                );
                let turned = (turned * cos.clone() + swapped * sin.clone()).cast(float);
                let whole = if rotated == width {
                    turned
                } else {
                    Tensor::cat(vec![turned, part(rotated, width)], 2)
                };
                Activations::Device(whole.reshape([rows, all]))
            }
            _ => unreachable!("activations of one model are all in one place"),
        }
    }
}
