//! `cocoon bench verify`: what a verdict costs, beside `dcap-qvl` alone on the same bytes in the same
//! run.
//!
//! Every kind is measured from bytes: ours begins with the bundle as it came over the wire, the
//! library's with quote and collateral as they stand in it. The rounds interleave, so that all kinds
//! see the same machine, and the median of each counts.

use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cocoon_attestation::{Expectation, Memory, Policy, Trust, Verifier};
use cocoon_protocol::evidence::{Attached, Beacon, Claims, EvidenceBundle};
use cocoon_protocol::ids::{Digest, Keypair};
use cocoon_protocol::units::UnixMillis;
use comfy_table::{Cell, Table};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;

use super::{Figure, right_aligned};
use crate::command::{CommandError, CommandResult};
use crate::terminal::HEADER_LINE;
use crate::trust::PolicySetupError;

const HOUR_SECONDS: u64 = 3_600;

/// Flags of `cocoon bench verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyBenchArgs {
    /// Rounds; the median of each kind counts
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Measure with this quote of Intel's hardware instead of a simulated one. It binds nobody's claims,
    /// so only full examinations can be measured
    #[arg(long, value_name = "FILE", requires_all = ["collateral", "at"])]
    pub quote: Option<PathBuf>,
    /// Its collateral, JSON
    #[arg(long, value_name = "FILE", requires = "quote")]
    pub collateral: Option<PathBuf>,
    /// A time at which that is in force, seconds since 1970
    #[arg(long, value_name = "SECONDS", requires = "quote")]
    pub at: Option<u64>,
    /// Only the closing line of JSON
    #[arg(long)]
    pub json: bool,
}

/// One bundle, and what is needed to judge it.
struct Subject {
    wire: Vec<u8>,
    bundle: EvidenceBundle,
    beacons: Vec<Beacon>,
    verifier: Verifier,
    now: UnixMillis,
}

/// A kind of verification, by name, and how long each of its rounds took.
struct Kind {
    name: &'static str,
    what: &'static str,
    took: Vec<Duration>,
}

pub(super) fn run(args: &VerifyBenchArgs) -> CommandResult {
    let subject = match (&args.quote, &args.collateral, args.at) {
        (Some(quote), Some(collateral), Some(at)) => real(quote, collateral, at)?,
        _ => simulated()?,
    };
    let is_real = args.quote.is_some();
    let mut kinds = if is_real {
        vec![
            Kind::new("examination_ms", "every factor of a real quote"),
            Kind::new("raw_dcap_qvl_ms", "dcap-qvl alone"),
        ]
    } else {
        vec![
            Kind::new("first_contact_ms", "a worker that was never seen"),
            Kind::new("warm_ms", "the same evidence again"),
            Kind::new("refused_early_ms", "a quote for other claims"),
            Kind::new("raw_dcap_qvl_ms", "dcap-qvl alone"),
        ]
    };
    let mut memory = Memory::new(1);
    for _ in 0..args.rounds {
        for kind in &mut kinds {
            let started = Instant::now();
            subject.once(kind.name, &mut memory);
            kind.took.push(started.elapsed());
        }
    }
    let raw = median(&kinds, "raw_dcap_qvl_ms");
    let first = if is_real {
        "examination_ms"
    } else {
        "first_contact_ms"
    };
    let mut figures: Vec<_> = kinds
        .iter()
        .map(|kind| Figure::new(kind.name, median(&kinds, kind.name), "ms"))
        .collect();
    figures.push(Figure::new("vs_dcap_qvl", median(&kinds, first) / raw, "×"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (name, kind) in [
        ("per_second_per_core", first),
        ("raw_dcap_qvl_per_second_per_core", "raw_dcap_qvl_ms"),
    ] {
        let value = subject.per_second_per_core(kind, cores, args.rounds);
        figures.push(Figure::new(name, value, "1/s"));
    }
    if !args.json {
        eprintln!("{}", table(&kinds, &figures, cores));
    }
    println!(
        "{}",
        serde_json::json!({ "bench": "verify", "figures": figures })
    );
    Ok(ExitCode::SUCCESS)
}

impl Kind {
    const fn new(name: &'static str, what: &'static str) -> Self {
        Self {
            name,
            what,
            took: Vec::new(),
        }
    }
}

impl Subject {
    fn expectation(&self) -> Expectation<'_> {
        let claims = &self.bundle.claims;
        Expectation::new(claims.peer, claims.model, claims.digest(), &self.beacons)
    }

    /// One verification from bytes.
    fn once(&self, kind: &str, memory: &mut Memory) {
        if kind == "raw_dcap_qvl_ms" {
            return self.raw();
        }
        let Ok(mut bundle) = EvidenceBundle::decode(&self.wire) else {
            return;
        };
        let expectation = self.expectation();
        let verdict = match kind {
            "first_contact_ms" => {
                *memory = Memory::new(1);
                self.verifier
                    .verify_remembering(self.now, &bundle, &expectation, memory)
            }
            "warm_ms" => self
                .verifier
                .verify_remembering(self.now, &bundle, &expectation, memory),
            "refused_early_ms" => {
                bundle.claims.noise_key = [8; 32];
                self.verifier.verify(self.now, &bundle, &expectation)
            }
            _ => self.verifier.examine(self.now, &bundle, &expectation),
        };
        black_box(verdict);
    }

    /// What the library does by itself: collateral out of JSON, then quote and chain.
    fn raw(&self) {
        let collateral = serde_json::from_slice::<QuoteCollateralV3>(&self.bundle.collateral_json);
        let root = self.verifier.trust().root_der();
        if let (Ok(collateral), Ok(root)) = (collateral, root) {
            let outcome = QuoteVerifier::new(root.to_vec()).verify(
                &self.bundle.quote,
                &collateral,
                self.now.seconds(),
            );
            black_box(outcome.is_ok());
        }
    }

    /// With all cores at it: the machine's rate, divided by its cores.
    fn per_second_per_core(&self, kind: &str, cores: usize, rounds: u32) -> f64 {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    let mut memory = Memory::new(1);
                    for _ in 0..rounds {
                        self.once(kind, &mut memory);
                    }
                });
            }
        });
        f64::from(rounds) / started.elapsed().as_secs_f64()
    }
}

/// A bundle of the simulator, made now.
#[cfg(feature = "simulated-evidence")]
fn simulated() -> Result<Subject, CommandError> {
    use cocoon_attestation::{EvidenceSource as _, SimulatedSource, policy};
    let now = UnixMillis::from_millis(
        u64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis(),
        )
        .unwrap_or(u64::MAX),
    );
    let claims = claims(now.seconds());
    let bundle = SimulatedSource::new(b"bench")
        .and_then(|source| source.make(now, &claims))
        .map_err(|source| CommandError::Wiring(source.into()))?;
    subject(Trust::Simulated, policy::simulated::policy(), bundle, now)
}

#[cfg(not(feature = "simulated-evidence"))]
fn simulated() -> Result<Subject, CommandError> {
    Err(PolicySetupError::NoSimulator.into())
}

/// A real quote with claims that it does not bind.
fn real(quote: &PathBuf, collateral: &PathBuf, at: u64) -> Result<Subject, CommandError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(CommandError::io(format!("cannot read {}", path.display())))
    };
    let bundle = EvidenceBundle {
        quote: read(quote)?,
        collateral_json: read(collateral)?,
        claims: claims(at),
        attached: Attached::default(),
    };
    let mut policy = Policy {
        images: vec![no_image().into()],
        ..Policy::default()
    };
    policy.tcb.min_evaluation = 0;
    let now = UnixMillis::from_millis(at.saturating_mul(1_000));
    subject(Trust::Intel, policy, bundle, now)
}

fn no_image() -> cocoon_attestation::Image {
    use cocoon_attestation::Measurement;
    cocoon_attestation::Image {
        name: "none".to_owned(),
        mrtd: Measurement::ZERO,
        rtmr0: Measurement::ZERO,
        rtmr1: Measurement::ZERO,
        rtmr2: Measurement::ZERO,
    }
}

fn subject(
    trust: Trust,
    policy: Policy,
    bundle: EvidenceBundle,
    now: UnixMillis,
) -> Result<Subject, CommandError> {
    Ok(Subject {
        wire: bundle.encode(),
        beacons: vec![bundle.claims.beacon],
        bundle,
        verifier: Verifier::new(trust, policy).map_err(PolicySetupError::Refused)?,
        now,
    })
}

fn claims(seconds: u64) -> Claims {
    Claims {
        noise_key: [9; 32],
        mlkem_key: vec![0; 1_184],
        receipt_key: ed25519_dalek::SigningKey::from_bytes(&[5; 32])
            .verifying_key()
            .to_bytes(),
        peer: Keypair::generate_ed25519().public().to_peer_id(),
        model: Digest::sha256(b"model"),
        config: Digest::sha256(b"configuration"),
        gpu_evidence: Digest::ZERO,
        canary: Digest::ZERO,
        beacon: Beacon {
            seqno: 1,
            hash: Digest::sha256(b"block"),
        },
        epoch: seconds.checked_div(HOUR_SECONDS).unwrap_or_default(),
    }
}

/// Median of a kind, milliseconds.
fn median(kinds: &[Kind], name: &str) -> f64 {
    let mut took: Vec<_> = kinds
        .iter()
        .filter(|kind| kind.name == name)
        .flat_map(|kind| kind.took.iter().copied())
        .collect();
    took.sort_unstable();
    let middle = took.get(took.len().checked_div(2).unwrap_or_default());
    middle.map_or(f64::NAN, |took| took.as_secs_f64() * 1_000.0)
}

fn table(kinds: &[Kind], figures: &[Figure], cores: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(["", "median"]);
    for kind in kinds {
        let value = median(kinds, kind.name);
        table.add_row([Cell::new(kind.what), Cell::new(format!("{value:.3} ms"))]);
    }
    for figure in figures {
        let what = match figure.name.as_str() {
            "vs_dcap_qvl" => "first of them, against dcap-qvl alone".to_owned(),
            "per_second_per_core" => format!("first of them, a second and core, {cores} cores"),
            "raw_dcap_qvl_per_second_per_core" => "dcap-qvl alone, a second and core".to_owned(),
            _ => continue,
        };
        table.add_row([
            Cell::new(what),
            Cell::new(format!("{:.2} {}", figure.value, figure.unit)),
        ]);
    }
    right_aligned(table)
}
