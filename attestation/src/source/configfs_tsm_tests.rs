#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeSet;

use cocoon_protocol::evidence::Beacon;
use cocoon_protocol::ids::{Digest, Keypair};
use tempfile::TempDir;

use super::*;
use crate::Measurement;
use crate::launch::{LaunchError, LaunchEvents, Register};

/// Intel's sample quote stands for what a kernel would hand out.
const QUOTE: &[u8] = include_bytes!("../../tests/fixtures/tdx_quote");

fn claims() -> Claims {
    Claims {
        noise_key: [1; 32],
        mlkem_key: vec![0; 1184],
        receipt_key: [3; 32],
        peer: Keypair::ed25519_from_bytes([4; 32])
            .unwrap()
            .public()
            .to_peer_id(),
        model: Digest::sha256(b"model"),
        config: Digest::sha256(b"config"),
        gpu_evidence: Digest::ZERO,
        canary: Digest::ZERO,
        beacon: Beacon {
            seqno: 7,
            hash: Digest::sha256(b"block"),
        },
        epoch: 488_889,
    }
}

fn bound_by_sample() -> [u8; 64] {
    Quote::parse(QUOTE)
        .unwrap()
        .report
        .as_td10()
        .unwrap()
        .report_data
}

/// The attributes of one report, as files.
fn report(provider: &str, generation: &str, outblob: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("provider", provider.as_bytes()),
        ("generation", generation.as_bytes()),
        ("inblob", b"".as_slice()),
        ("outblob", outblob),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

type Sign = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// The kernel's half of the contract over plain files.
struct KernelLike {
    /// What `outblob` will hold for what was written to `inblob`.
    sign: Box<Sign>,
    /// How far `generation` moves on a write; one, unless somebody else writes too.
    steps: u64,
}

impl Files for KernelLike {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        fs::write(path.join("provider"), "tdx_guest\n")?;
        fs::write(path.join("generation"), "0\n")?;
        fs::write(path.join("inblob"), "")
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        SystemFiles.read(path, limit)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        SystemFiles.write(path, bytes)?;
        let report = path.parent().unwrap();
        let counted = fs::read_to_string(report.join("generation"))?;
        let next = counted.trim().parse::<u64>().unwrap() + self.steps;
        fs::write(report.join("generation"), format!("{next}\n"))?;
        fs::write(report.join("outblob"), (self.sign)(bytes))
    }
}

fn kernel_like(
    folder: &Path,
    sign: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    steps: u64,
) -> ConfigfsTsmSource {
    let sign = Box::new(sign);
    let collateral = folder.join("collateral.json");
    fs::write(&collateral, "{}").unwrap();
    ConfigfsTsmSource {
        files: Box::new(KernelLike { sign, steps }),
        ..ConfigfsTsmSource::new(folder, collateral)
    }
}

/// The sample quote with other report data. Its signature no longer holds, which is not looked at
/// here.
fn sample_for(report_data: &[u8]) -> Vec<u8> {
    let at = 48 + 520;
    let mut quote = QUOTE.to_vec();
    quote.splice(at..at + 64, report_data.iter().copied());
    quote
}

#[test]
fn the_quote_of_a_kernel_that_keeps_the_contract_is_taken_and_the_report_removed() {
    let folder = tempfile::tempdir().unwrap();
    let source = kernel_like(folder.path(), sample_for, 1);
    let bundle = source.make(UnixMillis::from_millis(0), &claims()).unwrap();
    assert_eq!(bundle.quote, sample_for(&claims().report_data()));
    assert_eq!(bundle.collateral_json, b"{}");
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "only the collateral is left");
}

#[test]
fn a_report_that_somebody_else_wrote_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error =
        kernel_like(folder.path(), sample_for, 2).make(UnixMillis::from_millis(0), &claims());
    assert!(
        matches!(
            error,
            Err(EvidenceError::Raced {
                before: 0,
                after: 2
            })
        ),
        "{error:?}"
    );
}

#[test]
fn a_quote_for_other_data_is_refused_even_if_the_generation_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let error = kernel_like(folder.path(), |_| QUOTE.to_vec(), 1)
        .make(UnixMillis::from_millis(0), &claims());
    assert!(matches!(error, Err(EvidenceError::NotBound)), "{error:?}");
}

#[test]
fn a_report_left_behind_by_a_crash_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(
        folder
            .path()
            .join(format!("cocoon-{}-0", std::process::id())),
    )
    .unwrap();
    let source = kernel_like(folder.path(), sample_for, 1);
    source.make(UnixMillis::from_millis(0), &claims()).unwrap();
}

#[test]
fn another_provider_is_refused_by_name() {
    let folder = report("sev_guest\n", "0\n", QUOTE);
    let source = ConfigfsTsmSource::new(folder.path(), "unused");
    let error = source.quote(folder.path(), &bound_by_sample()).unwrap_err();
    assert!(matches!(error, EvidenceError::Provider { found, .. } if found == "sev_guest"));
}

#[test]
fn a_generation_that_does_not_move_is_refused_though_the_quote_would_fit() {
    let folder = report("tdx_guest\n", "4\n", QUOTE);
    let source = ConfigfsTsmSource::new(folder.path(), "unused");
    let error = source.quote(folder.path(), &bound_by_sample()).unwrap_err();
    assert!(
        matches!(
            error,
            EvidenceError::Raced {
                before: 4,
                after: 4
            }
        ),
        "{error}"
    );
    let written = fs::read(folder.path().join("inblob")).unwrap();
    assert_eq!(written, bound_by_sample(), "64 bytes went to inblob");
}

#[test]
fn a_quote_beyond_the_limit_is_not_read_to_its_end() {
    let folder = report("tdx_guest\n", "0\n", &vec![0; MAX_QUOTE_BYTES + 1]);
    let source = ConfigfsTsmSource::new(folder.path(), "unused");
    let error = source.quote(folder.path(), &[0; 64]).unwrap_err();
    assert!(matches!(error, EvidenceError::TooLarge { .. }), "{error}");
}

#[test]
fn a_generation_that_is_no_number_is_refused() {
    let folder = report("tdx_guest\n", "many\n", QUOTE);
    let source = ConfigfsTsmSource::new(folder.path(), "unused");
    let error = source.quote(folder.path(), &[0; 64]).unwrap_err();
    assert!(matches!(error, EvidenceError::Generation { found } if found == "many"));
}

#[test]
fn a_machine_without_the_interface_says_which_path_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("tsm/report");
    let source = ConfigfsTsmSource::new(&missing, "unused");
    let error = source
        .make(UnixMillis::from_millis(0), &claims())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&missing.display().to_string()),
        "{error}"
    );
}

#[test]
fn a_plain_folder_is_not_mistaken_for_configfs() {
    let folder = tempfile::tempdir().unwrap();
    let source = ConfigfsTsmSource::new(folder.path(), "unused");
    let error = source
        .make(UnixMillis::from_millis(0), &claims())
        .unwrap_err();
    assert!(matches!(error, EvidenceError::Io { .. }), "{error}");
}

#[test]
fn without_a_file_the_bundle_has_no_collateral_and_an_unreadable_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let source = kernel_like(folder.path(), sample_for, 1);
    let file = folder.path().join("collateral.json");
    fs::remove_file(&file).unwrap();
    let bundle = source.make(UnixMillis::from_millis(0), &claims()).unwrap();
    assert!(bundle.collateral_json.is_empty());
    fs::create_dir(&file).unwrap();
    let error = source.make(UnixMillis::from_millis(0), &claims());
    assert!(matches!(error, Err(EvidenceError::Io { .. })), "{error:?}");
}

/// A guest's RTMR3 as the kernel shows it: a file of 48 bytes that a write extends.
struct RegisterFile(PathBuf);

impl Register for RegisterFile {
    fn read(&self) -> Result<Measurement, LaunchError> {
        let bytes = fs::read(&self.0).unwrap();
        Ok(Measurement::from_bytes(bytes.try_into().unwrap()))
    }

    fn extend(&self, digest: Measurement) -> Result<(), LaunchError> {
        fs::write(&self.0, self.read()?.extended(digest).as_bytes()).unwrap();
        Ok(())
    }
}

/// The folders of a guest: registers below `sys/devices`, reports below `sys/kernel/config`. A quote
/// holds RTMR3 as it is when the quote is made.
fn guest(root: &Path) -> (RegisterFile, ConfigfsTsmSource) {
    let measurements = root.join("sys/devices/virtual/misc/tdx_guest/measurements");
    fs::create_dir_all(&measurements).unwrap();
    for register in 0..4 {
        fs::write(measurements.join(format!("rtmr{register}:sha384")), [0; 48]).unwrap();
    }
    let register = measurements.join("rtmr3:sha384");
    let reports = root.join("sys/kernel/config/tsm/report");
    fs::create_dir_all(&reports).unwrap();
    let quoted = register.clone();
    let source = kernel_like(
        &reports,
        move |report_data| {
            let at = 48 + 472;
            let mut quote = sample_for(report_data);
            quote.splice(at..at + 48, fs::read(&quoted).unwrap());
            quote
        },
        1,
    );
    (RegisterFile(register), source)
}

fn quoted_rtmr3(bundle: &EvidenceBundle) -> Measurement {
    let quote = Quote::parse(&bundle.quote).unwrap();
    Measurement::from_bytes(quote.report.as_td10().unwrap().rt_mr3)
}

#[test]
fn what_is_measured_at_boot_is_in_every_quote_of_every_hour() {
    let root = tempfile::tempdir().unwrap();
    let (register, source) = guest(root.path());
    let launch = LaunchEvents::claimed(&claims());
    launch.measure_through(&register).unwrap();
    let mut report_data = BTreeSet::new();
    for hour in 0..3 {
        // New keys every hour.
        let claims = Claims {
            noise_key: [hour; 32],
            epoch: u64::from(hour),
            ..claims()
        };
        let bundle = source.make(UnixMillis::from_millis(0), &claims).unwrap();
        assert_eq!(quoted_rtmr3(&bundle), launch.rtmr3());
        report_data.insert(claims.report_data());
    }
    assert_eq!(report_data.len(), 3);
}

#[test]
fn a_quote_from_before_the_launch_was_measured_shows_it() {
    let root = tempfile::tempdir().unwrap();
    let (register, source) = guest(root.path());
    let early = source.make(UnixMillis::from_millis(0), &claims()).unwrap();
    let launch = LaunchEvents::claimed(&claims());
    launch.measure_through(&register).unwrap();
    assert_eq!(quoted_rtmr3(&early), Measurement::ZERO);
    // And what is measured afterwards shows too: the register cannot be taken back.
    register.extend(Measurement::of(b"later")).unwrap();
    let late = source.make(UnixMillis::from_millis(0), &claims()).unwrap();
    assert_ne!(quoted_rtmr3(&late), launch.rtmr3());
}
