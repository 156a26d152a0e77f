//! Evidence of a simulated machine, under the simulator's public root.

use std::sync::{Mutex, PoisonError};

use cocoon_protocol::evidence::{Attached, Claims, EvidenceBundle};
use cocoon_protocol::units::UnixMillis;
use cocoon_tdx_simulator::{CollateralTerms, Machine, Simulator, TdReport, td_report};

use super::{EvidenceError, EvidenceSource};
use crate::launch::LaunchEvents;
use crate::policy::{Image, simulated};
use crate::{Trust, policy};

/// Collateral is issued at midnight UTC, a day ago, so that all workers of a day show the same.
const DAY_SECONDS: u64 = 24 * 3_600;

/// A last touch to the guest's report before it is signed, to play a guest that is not in order.
pub type GuestShape = fn(&mut TdReport);

/// One simulated guest on one simulated machine.
pub struct SimulatedSource {
    simulator: &'static Simulator,
    machine: Machine,
    image: Image,
    shape: Option<GuestShape>,
    /// Collateral already made, and the day it was made for.
    collateral: Mutex<Option<(u64, Vec<u8>)>>,
}

impl SimulatedSource {
    /// A guest with the simulated image, on the machine of `seed`. Each seed is a machine of its
    /// own, with its own platform id.
    ///
    /// # Errors
    /// If the simulated root cannot be built.
    pub fn new(seed: &[u8]) -> Result<Self, EvidenceError> {
        Ok(Self {
            simulator: Simulator::public()?,
            machine: Machine::from_seed(seed),
            image: simulated::image(),
            shape: None,
            collateral: Mutex::new(None),
        })
    }

    /// The same machine, with a guest that differs from an ordinary one as `shape` says: under
    /// debug, with another image, and so on. The verifier should refuse it.
    #[must_use]
    pub fn shaped(mut self, shape: GuestShape) -> Self {
        self.shape = Some(shape);
        self
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    fn quote(&self, claims: &Claims) -> Result<Vec<u8>, EvidenceError> {
        let registers = [
            self.image.rtmr0,
            self.image.rtmr1,
            self.image.rtmr2,
            LaunchEvents::claimed(claims).rtmr3(),
        ];
        let mut report = td_report(
            *self.image.mrtd.as_bytes(),
            registers.map(|register| *register.as_bytes()),
            claims.report_data(),
        );
        if let Some(shape) = self.shape {
            shape(&mut report);
        }
        Ok(self.simulator.quote(&self.machine, &report)?)
    }

    fn collateral(&self, now: UnixMillis) -> Result<Vec<u8>, EvidenceError> {
        let day = now.seconds() / DAY_SECONDS;
        let mut kept = self
            .collateral
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((of, json)) = kept.as_ref()
            && *of == day
        {
            return Ok(json.clone());
        }
        let issued = day.saturating_sub(1).saturating_mul(DAY_SECONDS);
        let terms = CollateralTerms {
            evaluation: policy::simulated::TCB_EVALUATION,
            ..CollateralTerms::healthy(issued)
        };
        let json = serde_json::to_vec(&self.simulator.collateral(&terms)?)?;
        *kept = Some((day, json.clone()));
        Ok(json)
    }
}

impl EvidenceSource for SimulatedSource {
    fn trust(&self) -> Trust {
        Trust::Simulated
    }

    fn make(&self, now: UnixMillis, claims: &Claims) -> Result<EvidenceBundle, EvidenceError> {
        Ok(EvidenceBundle {
            quote: self.quote(claims)?,
            collateral_json: self.collateral(now)?,
            claims: claims.clone(),
            attached: Attached::default(),
        })
    }
}
