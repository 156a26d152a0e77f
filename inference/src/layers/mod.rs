//! What model families are made of: each operation once, for the processor with our kernels and for any
//! device of burn's.
//!
//! [`Place`] says which of the two. On the processor, weights stay quantised and rows are plain slices; on
//! a device, everything is a burn tensor. A layer matches on the two and does the same in both; tests hold
//! them against one another. A family (`crate::families`) never looks inside.

// Either place's form of a layer, a few hundred in a model.
#![allow(clippy::large_enum_variant)]

mod activations;
mod attention;
mod fixed;
mod grouped;
mod linear;
mod mlp;
mod norm;
mod place;
mod pre_norm;
pub mod profile;
mod rope;
mod step;
mod trunk;
mod weights;

pub(crate) use activations::{Activations, Gate};
pub(crate) use attention::{Attention, LayerCache};
pub(crate) use fixed::{Fixed, FixedInputs};
pub(crate) use grouped::{GroupedAttention, GroupedShape};
pub(crate) use linear::Linear;
pub(crate) use mlp::{Groups, Mlp, Routing};
pub(crate) use norm::Norm;
pub(crate) use place::Place;
pub(crate) use pre_norm::{Feed, PreNorm};
pub(crate) use rope::Rope;
pub(crate) use step::Step;
pub(crate) use trunk::{Block, Run, Trunk};
pub(crate) use weights::{Totals, Weights, halves};
