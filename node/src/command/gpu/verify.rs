//! `cocoon gpu verify EVIDENCE`.

use std::path::PathBuf;
use std::process::ExitCode;

use cocoon_attestation::FactorResult;
use cocoon_attestation::gpu::manifest::MAX_MANIFEST_BYTES;
use cocoon_attestation::gpu::nras::MAX_NRAS_KEYS_BYTES;
use cocoon_attestation::gpu::{
    ExpiredRimSigners, GpuExpectation, GpuManifest, GpuPolicy, GpuTrust, GpuVerdict, NrasKeys,
    chain, verify,
};
use cocoon_protocol::gpu::{
    Gpu, GpuEvidence, MAX_GPU_EVIDENCE_BYTES, MAX_NRAS_TOKEN_BYTES, MAX_OCSP_RESPONSE_BYTES,
};
use cocoon_protocol::units::UnixMillis;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::json;

use super::{CommandError, CommandResult, GpuFileError, instant, now, read, read_report};
use crate::command::FAILURE;
use crate::terminal::plain;

/// Most bytes of certificates as PEM.
const MAX_PEM_BYTES: usize = 64 * 1024;

/// Flags of `cocoon gpu verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// GPU evidence as it goes over the wire; with --chain, a report as the driver gives it out, or as
    /// hexadecimal digits. - for standard input
    #[arg(value_name = "EVIDENCE")]
    pub evidence: PathBuf,
    /// The report's certificates as PEM, the one that signed it first
    #[arg(long, value_name = "PEM")]
    pub chain: Option<PathBuf>,
    /// Golden values, from `cocoon gpu rims`
    #[arg(long, value_name = "MANIFEST")]
    pub manifest: PathBuf,
    /// The nonce that the GPU was asked to sign, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    pub nonce: [u8; 32],
    /// The time to judge at, such as 2025-06-22T07:14:52Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub at: Option<u64>,
    /// Which RIM files count once their signer has expired
    #[arg(long, value_enum, default_value = "allow-if-valid-at-import")]
    pub expired_rim_signers: ExpiredSigners,
    /// Do not insist on a report that says its mode; drivers before 590 do not
    #[arg(long)]
    pub allow_unknown_mode: bool,
    /// An OCSP response (DER) for one of the certificates; may be repeated
    #[arg(long, value_name = "DER", requires = "chain")]
    pub ocsp: Vec<PathBuf>,
    /// Insist on good OCSP responses for all certificates
    #[arg(long)]
    pub require_ocsp: bool,
    /// A token of NVIDIA's attestation service (JSON)
    #[arg(long, value_name = "JSON", requires = "chain")]
    pub nras: Option<PathBuf>,
    /// The service's keys (JSON Web Key Set)
    #[arg(long, value_name = "JWKS")]
    pub nras_keys: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// [`ExpiredRimSigners`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExpiredSigners {
    /// None
    Refuse,
    /// Those whose signer was in force when they were imported
    AllowIfValidAtImport,
    /// All
    Allow,
}

impl From<ExpiredSigners> for ExpiredRimSigners {
    fn from(signers: ExpiredSigners) -> Self {
        match signers {
            ExpiredSigners::Refuse => Self::Refuse,
            ExpiredSigners::AllowIfValidAtImport => Self::AllowIfValidAtImport,
            ExpiredSigners::Allow => Self::Allow,
        }
    }
}

/// Reads, judges, prints.
pub(super) fn run(args: &VerifyArgs) -> CommandResult {
    let evidence = evidence(args)?;
    let manifest = manifest(args)?;
    let keys = match &args.nras_keys {
        None => NrasKeys::default(),
        Some(path) => NrasKeys::from_json(&read(path, MAX_NRAS_KEYS_BYTES)?).map_err(|source| {
            GpuFileError::Keys {
                file: path.display().to_string(),
                source,
            }
        })?,
    };
    let policy = GpuPolicy {
        require_mode: !args.allow_unknown_mode,
        require_ocsp: args.require_ocsp,
        require_nras: args.nras.is_some(),
        expired_rim_signers: args.expired_rim_signers.into(),
        ..GpuPolicy::default()
    };
    let at = args.at.unwrap_or_else(now);
    let verdict = verify(
        UnixMillis::from_millis(at.saturating_mul(1_000)),
        &evidence,
        &GpuExpectation {
            nonce: args.nonce,
            manifest: &manifest,
            policy: &policy,
            trust: &GpuTrust::Nvidia,
            nras_keys: &keys,
        },
    );
    if args.json {
        let shown = json!({
            "accepted": verdict.accepted(),
            "evidence": evidence.digest().to_string(),
            "gpus": verdict.gpus,
            "factors": verdict.factors,
        });
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        print!("{}", render(&verdict));
    }
    Ok(if verdict.accepted() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

fn evidence(args: &VerifyArgs) -> Result<GpuEvidence, CommandError> {
    let Some(path) = &args.chain else {
        let bytes = read(&args.evidence, MAX_GPU_EVIDENCE_BYTES)?;
        return GpuEvidence::decode(&bytes).map_err(|source| {
            GpuFileError::Evidence {
                file: args.evidence.display().to_string(),
                source,
            }
            .into()
        });
    };
    let pem = read(path, MAX_PEM_BYTES)?;
    let certificates =
        chain::from_pem(&String::from_utf8_lossy(&pem)).map_err(|source| GpuFileError::Chain {
            file: path.display().to_string(),
            source,
        })?;
    Ok(GpuEvidence {
        gpus: vec![Gpu {
            report: read_report(&args.evidence)?,
            certificates,
        }],
        ocsp_responses: args
            .ocsp
            .iter()
            .map(|path| read(path, MAX_OCSP_RESPONSE_BYTES))
            .collect::<Result<_, _>>()?,
        nras_token: args
            .nras
            .as_ref()
            .map(|path| read(path, MAX_NRAS_TOKEN_BYTES))
            .transpose()?
            .unwrap_or_default(),
    })
}

fn manifest(args: &VerifyArgs) -> Result<GpuManifest, CommandError> {
    let bytes = read(&args.manifest, MAX_MANIFEST_BYTES)?;
    toml::from_str(&String::from_utf8_lossy(&bytes)).map_err(|error| {
        GpuFileError::NoManifest {
            file: args.manifest.display().to_string(),
            why: error.message().to_owned(),
        }
        .into()
    })
}

/// `--nonce`.
fn nonce(text: &str) -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes)
        .map(|()| bytes)
        .map_err(|_| "not 64 hexadecimal digits".to_owned())
}

/// For people.
fn render(verdict: &GpuVerdict) -> String {
    let mut out = String::new();
    for (number, gpu) in verdict.gpus.iter().enumerate() {
        let title = gpu.as_ref().map_or_else(
            || format!("GPU {number}"),
            |gpu| {
                format!(
                    "GPU {number}: {}, driver {}, VBIOS {}, device {}",
                    plain(&gpu.chip),
                    plain(&gpu.driver),
                    plain(&gpu.vbios),
                    plain(&gpu.device_serial)
                )
            },
        );
        let mut table = Table::new();
        table
            .load_preset(NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic);
        for factor in verdict.factors.iter().filter(|factor| factor.gpu == number) {
            table.add_row([
                factor.result.to_string(),
                factor.name.to_owned(),
                plain(&factor.reason).into_owned(),
            ]);
            if factor.result == FactorResult::Fail {
                for (what, value) in [("seen", &factor.seen), ("wanted", &factor.wanted)] {
                    if !value.is_empty() {
                        table.add_row([
                            String::new(),
                            String::new(),
                            format!("{what}: {}", plain(value)),
                        ]);
                    }
                }
            }
        }
        out.push_str(&format!("{title}\n{table}\n"));
    }
    let count = |result| {
        verdict
            .factors
            .iter()
            .filter(|factor| factor.result == result)
            .count()
    };
    out.push_str(&format!(
        "{}: {} passed, {} failed, {} skipped\n",
        if verdict.accepted() {
            "ACCEPTED"
        } else {
            "REFUSED"
        },
        count(FactorResult::Pass),
        count(FactorResult::Fail),
        count(FactorResult::Skip),
    ));
    out
}
