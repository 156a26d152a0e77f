//! Where the evidence of the mix matrix comes from.
#![allow(dead_code, reason = "two tests share it, and each uses a part")]

use cocoon_attestation::launch::LaunchEvents;
use cocoon_attestation::policy::{TcbPolicy, simulated};
use cocoon_attestation::{Expectation, Policy, Trust, Verdict, Verifier};
use cocoon_protocol::evidence::{Attached, Beacon, Claims, EvidenceBundle};
use cocoon_protocol::units::UnixMillis;
use cocoon_tdx_simulator::{CollateralTerms, Machine, Report, Simulator, TdReport15, td_report};

use crate::support;

const REAL_V4: (&[u8], &[u8]) = (
    include_bytes!("../fixtures/tdx_quote"),
    include_bytes!("../fixtures/tdx_quote_collateral.json"),
);
const REAL_V5: (&[u8], &[u8]) = (
    include_bytes!("../fixtures/tdx_quote_td15ex"),
    include_bytes!("../fixtures/tdx_quote_td15ex_collateral.json"),
);

/// Who made the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A simulated TD 1.0 on machine 1, quote version 4.
    SimulatedA,
    /// A simulated TD 1.5 on machine 2, quote version 5.
    SimulatedB,
    /// As A, under a root that nobody trusts.
    Forged,
    /// Intel's hardware, TD 1.0, quote version 4.
    IntelV4,
    /// Intel's hardware, TD 1.5 extended, quote version 5.
    IntelV5,
}

impl Source {
    pub(crate) const ALL: [Self; 5] = [
        Self::SimulatedA,
        Self::SimulatedB,
        Self::Forged,
        Self::IntelV4,
        Self::IntelV5,
    ];

    /// Whether reports, claims and collateral can be made and not only be altered.
    pub(crate) fn is_made(self) -> bool {
        !matches!(self, Self::IntelV4 | Self::IntelV5)
    }

    /// Whether its report has the fields of TD 1.5.
    pub(crate) fn is_td15(self) -> bool {
        matches!(self, Self::SimulatedB | Self::IntelV5)
    }

    /// The root that it verifies under, if any verifier has it.
    pub(crate) fn right_root(self) -> Option<Trust> {
        match self {
            Self::SimulatedA | Self::SimulatedB => Some(Trust::Simulated),
            Self::Forged => None,
            Self::IntelV4 | Self::IntelV5 => Some(Trust::Intel),
        }
    }

    /// A time at which its collateral is in force, seconds since 1970.
    fn time(self) -> u64 {
        match self {
            Self::IntelV4 => 1_752_919_234,
            Self::IntelV5 => 1_791_504_586,
            _ => support::NOW_SECONDS,
        }
    }

    fn real(self) -> Option<(&'static [u8], &'static [u8])> {
        match self {
            Self::IntelV4 => Some(REAL_V4),
            Self::IntelV5 => Some(REAL_V5),
            _ => None,
        }
    }
}

/// What a client was told, owned so that a defect can change it.
pub(crate) struct Told {
    pub(crate) claims: Claims,
    pub(crate) evidence: cocoon_protocol::ids::Digest,
    pub(crate) beacons: Vec<Beacon>,
    pub(crate) evaluation_floor: u32,
}

/// Everything that a verdict depends on, before it is made.
pub(crate) struct Scene {
    pub(crate) source: Source,
    pub(crate) seconds: u64,
    pub(crate) claims: Claims,
    pub(crate) report: TdReport15,
    pub(crate) machine: Machine,
    pub(crate) terms: CollateralTerms,
    pub(crate) policy: Policy,
    pub(crate) attached: Attached,
}

impl Scene {
    /// Nothing is wrong.
    pub(crate) fn new(source: Source) -> Self {
        let seconds = source.time();
        let mut claims = support::claims();
        claims.epoch = seconds / 3_600;
        let image = simulated::image();
        let registers = [
            image.rtmr0,
            image.rtmr1,
            image.rtmr2,
            LaunchEvents::claimed(&claims).rtmr3(),
        ];
        let base = td_report(
            *image.mrtd.as_bytes(),
            registers.map(|register| *register.as_bytes()),
            claims.report_data(),
        );
        let machine = match source {
            Source::SimulatedB => Machine::from_seed(b"machine 2"),
            _ => Machine::from_seed(b"machine 1"),
        };
        Self {
            source,
            seconds,
            claims,
            report: TdReport15 {
                base,
                tee_tcb_svn2: base.tee_tcb_svn,
                mr_service_td: [0; 48],
            },
            machine,
            terms: CollateralTerms::healthy(seconds - 24 * 3_600),
            policy: Policy {
                tcb: TcbPolicy {
                    min_evaluation: 17,
                    ..TcbPolicy::default()
                },
                ..simulated::policy()
            },
            attached: Attached::default(),
        }
    }

    /// The claims are others, and the guest was launched for them and binds them.
    pub(crate) fn claim(&mut self, change: impl FnOnce(&mut Claims)) {
        change(&mut self.claims);
        self.report.base.rt_mr3 = *LaunchEvents::claimed(&self.claims).rtmr3().as_bytes();
        self.report.base.report_data = self.claims.report_data();
    }

    pub(crate) fn bundle(&self) -> EvidenceBundle {
        let (quote, collateral_json) = match self.source.real() {
            Some((quote, collateral)) => (quote.to_vec(), collateral.to_vec()),
            None => self.made(),
        };
        EvidenceBundle {
            quote,
            collateral_json,
            claims: self.claims.clone(),
            attached: self.attached.clone(),
        }
    }

    fn made(&self) -> (Vec<u8>, Vec<u8>) {
        let forger;
        let simulator = if self.source == Source::Forged {
            forger = Simulator::from_seed([8; 32]).unwrap();
            &forger
        } else {
            Simulator::public().unwrap()
        };
        let report = if self.source.is_td15() {
            Report::TD15(self.report)
        } else {
            Report::TD10(self.report.base)
        };
        let collateral = simulator.collateral(&self.terms).unwrap();
        (
            simulator.quote_of(&self.machine, report).unwrap(),
            serde_json::to_vec(&collateral).unwrap(),
        )
    }

    pub(crate) fn told(&self, bundle: &EvidenceBundle) -> Told {
        Told {
            claims: bundle.claims.clone(),
            evidence: bundle.claims.digest(),
            beacons: support::beacons(),
            evaluation_floor: 0,
        }
    }

    /// `everything`: do not stop at the first stage with a failure.
    pub(crate) fn judge(
        &self,
        trust: Trust,
        bundle: &EvidenceBundle,
        told: &Told,
        everything: bool,
    ) -> Verdict {
        let verifier = Verifier::new(trust, self.policy.clone()).unwrap();
        let expectation = Expectation {
            evaluation_floor: told.evaluation_floor,
            ..Expectation::new(
                told.claims.peer,
                told.claims.model,
                told.evidence,
                &told.beacons,
            )
        };
        let now = UnixMillis::from_millis(self.seconds * 1_000);
        if everything {
            verifier.examine(now, bundle, &expectation)
        } else {
            verifier.verify(now, bundle, &expectation)
        }
    }
}
