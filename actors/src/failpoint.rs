//! Crash points for the tests that pull the plug.
//!
//! With the feature `failpoints`, `COCOON_FAILPOINT=name:n` makes the process kill itself with
//! SIGKILL the `n`-th time it reaches the point of that name. Without the feature (every build
//! that is not a test's) a point is nothing at all.

/// A voucher is durable; the tokens that it unlocks are not sent yet.
pub const VOUCHER_STORED: &str = "voucher-stored";
/// A batch's commit was handed to the chain; its confirmation was not seen yet.
pub const COMMIT_SUBMITTED: &str = "commit-submitted";

/// Marks a crash point.
#[cfg(not(feature = "failpoints"))]
pub fn reached(_name: &str) {}

/// Marks a crash point.
#[cfg(feature = "failpoints")]
pub fn reached(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static HITS: AtomicU32 = AtomicU32::new(0);
    let armed = ARMED.get_or_init(|| {
        let spec = std::env::var("COCOON_FAILPOINT").ok()?;
        let (name, count) = spec.split_once(':').unwrap_or((&spec, "1"));
        Some((name.to_owned(), count.parse().unwrap_or(1)))
    });
    if let Some((armed, count)) = armed
        && armed == name
        && HITS.fetch_add(1, Ordering::SeqCst).saturating_add(1) == *count
    {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
