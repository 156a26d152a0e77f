//! A machine made of files, and what it would say if it ran.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cocoon_protocol::Digest;
use cocoon_protocol::units::{NanoTon, UnixMillis};
use cocoon_settlement::chain::{BlockRef, ChainStanding, ServerState};

use super::tiny;
use crate::config::{Config, EvidenceSource, NodeRole, Problem};
use crate::doctor::{
    ChainView, Finding, Machine, Outcome, Patient, Place, Ran, Report, Transport, TsmReport,
    Wallet, examine,
};

/// Intel's sample quote and the collateral of its time, in force until 2025-07-19T10:00:35Z.
pub(super) const QUOTE: &[u8] = include_bytes!("../../../../attestation/tests/fixtures/tdx_quote");
pub(super) const COLLATERAL: &[u8] =
    include_bytes!("../../../../attestation/tests/fixtures/tdx_quote_collateral.json");
/// 2025-07-01T00:00:00Z.
pub(super) const NOW_S: u64 = 1_751_328_000;
pub(super) const DATA: &str = "/var/lib/cocoon";
pub(super) const MODEL: &str = "/models/Tiny.Q4.gguf";
pub(super) const POLICY: &str = "/etc/cocoon/policy.toml";

const REPORTS: &str = "/sys/kernel/config/tsm/report";
pub(super) const RTMR3: &str = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";
pub(super) const EVENT_LOG: &str = "/sys/firmware/acpi/tables/data/CCEL";

/// Provider and quote.
type TdxReport = (&'static str, Result<Vec<u8>, io::ErrorKind>);

/// What the machine says.
#[derive(Default)]
pub(super) struct Says {
    pub(super) commands: BTreeMap<&'static str, Result<Ran, io::ErrorKind>>,
    /// Provider and quote, or why there is no report.
    pub(super) report: Option<Result<TdxReport, io::ErrorKind>>,
    pub(super) refused: Vec<(Transport, io::ErrorKind)>,
}

impl Machine for Says {
    fn run(&self, program: &str, _: &[&str]) -> Option<io::Result<Ran>> {
        let answer = self.commands.get(program).cloned();
        Some(
            answer
                .unwrap_or(Err(io::ErrorKind::NotFound))
                .map_err(io::Error::from),
        )
    }

    fn tsm_report(&self, reports: &Path, provider: &str) -> Option<io::Result<TsmReport>> {
        assert!(reports.ends_with(REPORTS.trim_start_matches('/')));
        let report = self.report.clone()?;
        Some(match report {
            Err(kind) => Err(kind.into()),
            Ok((found, quote)) => Ok(TsmReport {
                provider: found.to_owned(),
                quote: (found == provider).then(|| quote.map_err(io::Error::from)),
            }),
        })
    }

    fn bind(&self, at: Transport) -> Option<io::Result<()>> {
        let refused = self.refused.iter().find(|(refused, _)| *refused == at);
        Some(match refused {
            Some((_, kind)) => Err((*kind).into()),
            None => Ok(()),
        })
    }
}

pub(super) struct World {
    root: tempfile::TempDir,
    pub(super) config: Config,
    pub(super) says: Says,
    pub(super) problems: Vec<Problem>,
    pub(super) chain: Option<ChainView>,
    pub(super) now_s: u64,
    pub(super) thorough: bool,
}

pub(super) fn ran(said: &str) -> Result<Ran, io::ErrorKind> {
    Ok(Ran {
        ok: true,
        said: said.to_owned(),
    })
}

pub(super) fn df(free_kib: u64) -> Result<Ran, io::ErrorKind> {
    ran(&format!(
        "Filesystem     1024-blocks     Used Available Capacity Mounted on\n/dev/vda1 50000000 1000 {free_kib} 1% /\n"
    ))
}

impl World {
    /// A TDX guest in which nothing is missing, and a worker that started once.
    pub(super) fn healthy() -> Self {
        let world = Self {
            root: tempfile::tempdir().unwrap(),
            config: Config {
                role: Some(NodeRole::Worker),
                data_dir: DATA.into(),
                model_path: Some(MODEL.into()),
                policy_path: Some(POLICY.into()),
                evidence: EvidenceSource::Tdx,
                cache_mib: 64,
                canary: Some("0a".repeat(32)),
                ..Config::default()
            },
            says: Says {
                commands: [("df", df(10 << 20))].into(),
                report: Some(Ok(("tdx_guest", Ok(QUOTE.to_vec())))),
                refused: Vec::new(),
            },
            problems: Vec::new(),
            chain: Some(ChainView {
                head: Ok(BlockRef {
                    seqno: 7,
                    hash: Digest::ZERO,
                    unix: u32::try_from(NOW_S - 3).unwrap(),
                }),
                wallet: Some(Ok(Wallet {
                    address: "0:ab".to_owned(),
                    balance: NanoTon::from_nano(NanoTon::PER_TON),
                })),
                standing: ChainStanding::Verified,
                servers: vec![ServerState {
                    address: "192.0.2.1:4000".to_owned(),
                    seqno: Some(7),
                    latency_ms: Some(3),
                    demoted: None,
                }],
            }),
            now_s: NOW_S,
            thorough: false,
        };
        world.cpu("fpu vme sse2 hypervisor avx512f amx_tile tdx_guest");
        world.write("/proc/sys/kernel/osrelease", "6.17.0-5-generic\n");
        world.write(
            "/proc/mounts",
            "proc /proc proc rw 0 0\nconfigfs /sys/kernel/config configfs rw,nosuid,nodev,noexec,relatime 0 0\n",
        );
        world.write(
            "/proc/meminfo",
            "MemTotal:       24684084 kB\nMemFree:        1 kB\nMemAvailable:   21091896 kB\n",
        );
        std::fs::create_dir_all(world.path(REPORTS)).unwrap();
        world.write(RTMR3, [0; 48]);
        let mut log = vec![0; 32];
        log.extend_from_slice(b"Spec ID Event03\0");
        log.resize(64 * 1024, 0xff);
        world.write(EVENT_LOG, log);
        world.write(
            "/sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
        );
        world.write("/run/systemd/timesync/synchronized", "");
        world.write("/var/lib/cocoon/collateral.json", COLLATERAL);
        for secret in ["peer-key", "wallet-key"] {
            let file = format!("{DATA}/{secret}");
            world.write(&file, "ab".repeat(32));
            world.mode(&file, 0o600);
        }
        world.mode(DATA, 0o700);
        world.policy(17);
        world.write(MODEL, tiny::model().bytes().0);
        world
    }

    /// A virtual machine like any cloud's, without TDX.
    pub(super) fn plain_vm() -> Self {
        let mut world = Self::healthy();
        world.cpu("fpu vme sse2 hypervisor avx512f");
        world.write("/proc/sys/kernel/osrelease", "6.1.0-28-cloud-amd64\n");
        world.write("/proc/mounts", "proc /proc proc rw 0 0\n");
        world.remove("/sys/kernel/config");
        world.remove("/sys/devices");
        world.remove("/sys/firmware");
        world.remove("/var/lib/cocoon/collateral.json");
        world.says.report = None;
        world
    }

    pub(super) fn path(&self, on_the_machine: &str) -> PathBuf {
        self.root
            .path()
            .join(on_the_machine.trim_start_matches('/'))
    }

    pub(super) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }

    pub(super) fn mode(&self, path: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(path), mode).unwrap();
    }

    pub(super) fn cpu(&self, flags: &str) {
        let one = format!(
            "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: {flags}\nbugs\t\t:\n\n"
        );
        self.write("/proc/cpuinfo", one.repeat(2));
    }

    pub(super) fn policy(&self, min_tcb_evaluation: u32) {
        let zeros = "0".repeat(96);
        self.write(
            POLICY,
            format!(
                "version = 2\n[tcb]\nmin_evaluation = {min_tcb_evaluation}\n[[images]]\nname = \"release 1\"\nmrtd = \"{zeros}\"\n\
                 rtmr0 = \"{zeros}\"\nrtmr1 = \"{zeros}\"\nrtmr2 = \"{zeros}\"\n"
            ),
        );
    }

    pub(super) fn report(&self) -> Report {
        self.report_by(&self.says)
    }

    pub(super) fn report_by(&self, machine: &dyn Machine) -> Report {
        examine(&Patient {
            place: &Place::new(self.root.path()),
            machine,
            config: &self.config,
            problems: &self.problems,
            chain: self.chain.as_ref(),
            now: UnixMillis::from_millis(self.now_s * 1_000),
            thorough: self.thorough,
        })
    }

    pub(super) fn find(&self, check: &str) -> Finding {
        self.report().find(check).unwrap().clone()
    }

    /// The check comes out so, says this, and, if it is not in order, what to do.
    pub(super) fn expect(&self, check: &str, outcome: Outcome, said: &str) {
        let finding = self.find(check);
        assert_eq!(finding.outcome, outcome, "{finding:?}");
        assert!(finding.found.contains(said), "{finding:?}");
        let needs_mending = matches!(outcome, Outcome::Missing | Outcome::Warning);
        assert_eq!(finding.next.is_empty(), !needs_mending, "{finding:?}");
        assert!(!finding.looked_at.is_empty() && !finding.why.is_empty());
    }
}
