//! What a burn device can do at most: reading memory, multiplying matrices. The ceilings that
//! measurements of a model on it are shares of.

use std::time::{Duration, Instant};

use burn::tensor::{Distribution, FloatDType, Tensor};

use crate::decoder::Target;
use crate::layers::Place;

/// Numbers of the vector that is read and written.
const STREAM: usize = 1 << 28;
/// Rows and columns of the matrices that are multiplied.
const SQUARE: usize = 8_192;
/// Repetitions that are measured, after one that is not.
const ROUNDS: u32 = 10;

/// A device's ceilings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceCeiling {
    /// Bytes moved per second, reading and writing together.
    pub bytes_per_second: f64,
    /// Floating-point operations per second, two for a multiply-add, in the numbers of the weights.
    pub flops_per_second: f64,
}

/// Measures a device; `None` for the processor, which has `kernel::ceiling`. `scale` (1 for a large device)
/// divides the sizes.
pub fn measure(target: &Target, scale: usize) -> Option<DeviceCeiling> {
    let Place::Device { device, float } = target.place() else {
        return None;
    };
    let bytes = match float {
        FloatDType::F16 | FloatDType::BF16 => 2.0,
        _ => 4.0,
    };
    let scale = scale.max(1);
    let length = STREAM.checked_div(scale)?;
    let vector = Tensor::<1>::ones([length], &device).cast(float);
    let stream = time(|| vector.clone().add_scalar(1.0).narrow(0, 0, 1));
    let side = SQUARE.checked_div(scale)?;
    let matrix =
        || Tensor::<2>::random([side, side], Distribution::Uniform(-1.0, 1.0), &device).cast(float);
    let (a, b) = (matrix(), matrix());
    let product = time(|| a.clone().matmul(b.clone()).slice([0..1, 0..1]).reshape([1]));
    Some(DeviceCeiling {
        bytes_per_second: 2.0 * bytes * length as f64 / stream.as_secs_f64(),
        flops_per_second: 2.0 * (side as f64).powi(3) / product.as_secs_f64(),
    })
}

/// The time of one, from many whose results are read: a lazy device has nothing done before that.
fn time(work: impl Fn() -> Tensor<1>) -> Duration {
    let read = |tensor: Tensor<1>| {
        let _ = tensor.cast(FloatDType::F32).into_data().try_to_vec::<f32>();
    };
    read(work());
    let start = Instant::now();
    for _ in 0..ROUNDS {
        read(work());
    }
    start.elapsed().checked_div(ROUNDS).unwrap_or_default()
}
