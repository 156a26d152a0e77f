//! The image of a simulated guest. No guest has these measurements: they are one byte repeated.

use super::{Image, Policy, TcbPolicy};
use crate::Measurement;

/// Name of the only simulated image.
pub const IMAGE_NAME: &str = "simulated guest";
/// Firmware of the simulated image.
pub const MRTD: Measurement = Measurement::from_bytes([0xd0; 48]);
/// Firmware configuration of the simulated image.
pub const RTMR0: Measurement = Measurement::from_bytes([0xd1; 48]);
/// Kernel of the simulated image.
pub const RTMR1: Measurement = Measurement::from_bytes([0xd2; 48]);
/// Command line and initial file system of the simulated image.
pub const RTMR2: Measurement = Measurement::from_bytes([0xd3; 48]);
/// The evaluation number that the simulator writes into its collateral.
pub const TCB_EVALUATION: u32 = 20;

/// The simulated image.
#[must_use]
pub fn image() -> Image {
    Image {
        name: IMAGE_NAME.to_owned(),
        mrtd: MRTD,
        rtmr0: RTMR0,
        rtmr1: RTMR1,
        rtmr2: RTMR2,
    }
}

/// The policy of a simulated network: as strict as the default one, and it allows the
/// simulated image.
#[must_use]
pub fn policy() -> Policy {
    Policy {
        name: "simulated network".to_owned(),
        tcb: TcbPolicy {
            min_evaluation: TCB_EVALUATION,
            ..TcbPolicy::default()
        },
        images: vec![image().into()],
        ..Policy::default()
    }
}
