//! `cocoon gpu rims FILES --out MANIFEST`.

use std::path::PathBuf;
use std::process::ExitCode;

use cocoon_attestation::gpu::rim::{self, MAX_RIM_BYTES};
use cocoon_attestation::gpu::{GpuManifest, GpuTrust, time};
use comfy_table::{ContentArrangement, Table};

use super::{CommandError, CommandResult, GpuFileError, instant, now, read};
use crate::terminal::{HEADER_LINE, plain};

/// Flags of `cocoon gpu rims`.
#[derive(Clone, Debug, clap::Args)]
pub struct RimsArgs {
    /// RIM files of drivers and of VBIOS versions, as NVIDIA's RIM service gives them out
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where to write the manifest
    #[arg(long, value_name = "MANIFEST")]
    pub out: PathBuf,
    /// Take RIM files whose signer's certificate has expired, too, and mark them so
    #[arg(long)]
    pub allow_expired_signers: bool,
    /// The time to check certificates at, such as 2025-06-22T07:14:52Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub at: Option<u64>,
}

/// Checks every file, then writes the manifest; nothing is written if one does not count.
pub(super) fn run(args: &RimsArgs) -> CommandResult {
    let at = args.at.unwrap_or_else(now);
    let mut rims = Vec::new();
    for path in &args.files {
        let bytes = read(path, MAX_RIM_BYTES)?;
        let file = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let imported = rim::import(
            &file,
            &bytes,
            &GpuTrust::Nvidia,
            at,
            args.allow_expired_signers,
        );
        rims.push(imported.map_err(|source| GpuFileError::Rim {
            file: path.display().to_string(),
            source,
        })?);
    }
    let manifest = GpuManifest::new(rims).map_err(GpuFileError::from)?;
    let text = toml::to_string(&manifest).map_err(|error| GpuFileError::NoManifest {
        file: args.out.display().to_string(),
        why: error.to_string(),
    })?;
    std::fs::write(&args.out, text).map_err(CommandError::io(format!(
        "cannot write {}",
        args.out.display()
    )))?;
    print!("{}", render(&manifest));
    println!("written to {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn render(manifest: &GpuManifest) -> String {
    let mut table = Table::new();
    table
        .load_preset(HEADER_LINE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["KIND", "CHIP", "VERSION", "VALUES", "SIGNER UNTIL", "FILE"]);
    for rim in manifest.rims() {
        let mut until = time::shown(rim.signer.valid_until);
        if rim.signer_expired_at_import {
            until.push_str(" (expired)");
        }
        table.add_row([
            rim.kind.to_string(),
            plain(&rim.product).into_owned(),
            plain(&rim.version).into_owned(),
            rim.measurements.len().to_string(),
            until,
            plain(&rim.file).into_owned(),
        ]);
    }
    format!("{table}\n")
}
