//! Kernels for the CPU: products with weights that stay quantised, attention over pages, and the small
//! operations between them.
//!
//! Nothing here knows of models or tensors; everything works on slices of f32, row-major unless said otherwise.
//!
//! ```text
//! compute      shapes checked once, work given to threads
//! ├─ pool        fork and join
//! ├─ pack        a file's blocks → panels of 16 rows      ┐
//! ├─ matrix      panels in memory (store)                 ├─ product
//! ├─ activations rows → tiles, quantised to 8 bits        ┘
//! ├─ cache       pages of keys and values                 ── attention, softmax
//! └─ elementwise norms, rotations, gates
//! lanes        sixteen numbers at a time, in which all of them are written:
//!              scalar (portable), x86_256 (AVX2), x86_512 (AVX-512 VNNI)
//! ceiling      what the machine could do at most
//! ```
//!
//! A result is bitwise the same whatever the number of threads, the other rows of the batch and the
//! instruction set. Shapes that contradict one another are mistakes of the caller and panic; the layers check what
//! comes from a file. Numbers that are not finite are nobody's mistake here: they come out as they do.
//!
//! Unsafe code is confined to this room: pointers into panels and tiles whose bounds are checked where a
//! piece of work begins, and instructions whose presence is checked where [`Compute`] is made.

#![allow(unsafe_code)]
// see above
// Indices and products of dimensions are bounded by buffers that exist; dimensions from files are checked in
// `Matrix::pack` with checked arithmetic.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
// Index loops over several small arrays at once read better than zips, and unroll.
#![allow(clippy::needless_range_loop)]

mod activations;
mod attention;
mod cache;
pub mod ceiling;
mod compute;
mod elementwise;
mod lanes;
mod matrix;
mod pack;
mod pool;
mod product;
mod scalar;
mod softmax;
mod store;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_256;
#[cfg(target_arch = "x86_64")]
mod x86_512;

pub use attention::Attend;
pub use cache::{KvCache, PAGE_TOKENS, Precision, Sequence};
pub use compute::Compute;
pub use lanes::Isa;
pub use matrix::{KernelError, Matrix, Part};
pub use pool::MAX_THREADS;
