//! What this binary is: version, commit, and whether it can make simulated evidence.

use cocoon_actors::metrics::BuildLabels;

/// Version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, when the build was told it (`COCOON_BUILD_COMMIT` at compile time).
pub const COMMIT: &str = match option_env!("COCOON_BUILD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// True if this binary can make and accept evidence from the simulated attestation root.
pub const SIMULATED_EVIDENCE: bool = cfg!(feature = "simulated-evidence");

/// True if this binary can be told to kill itself at a crash point, for tests.
pub const CRASH_POINTS: bool = cfg!(feature = "failpoints");

/// What `cocoon --version` prints after the name.
#[must_use]
pub fn long_version() -> String {
    format!(
        "{VERSION}\ncommit:             {COMMIT}\nprofile:            {}\ntarget:             {}-{}\nsimulated evidence: {}\ncrash points:       {}",
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        std::env::consts::ARCH,
        std::env::consts::OS,
        compiled_in(SIMULATED_EVIDENCE),
        compiled_in(CRASH_POINTS),
    )
}

const fn compiled_in(feature: bool) -> &'static str {
    if feature {
        "COMPILED IN (not for production)"
    } else {
        "not compiled in"
    }
}

/// The labels of the metric `cocoon_build_info`.
#[must_use]
pub const fn labels() -> BuildLabels {
    BuildLabels {
        version: VERSION,
        commit: COMMIT,
        simulated_evidence: if SIMULATED_EVIDENCE { "true" } else { "false" },
    }
}
