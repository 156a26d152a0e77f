//! What a node counts. Actors increment, `node/` registers and serves it at `/metrics`.
//!
//! Names and labels are an interface: dashboards are built on them. No label takes a value that a
//! stranger chooses, so the number of series is bounded.

use std::fmt::Write as _;

use cocoon_protocol::units::{NanoTon, UnixMillis};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Upper bounds of the time-to-first-token buckets, seconds: from a warm small model on loopback to
/// a long prompt on a loaded worker.
const FIRST_TOKEN_BUCKETS_S: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0,
];

/// Which end of a job counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client's gateway.
    Client,
    /// The worker's engine.
    Worker,
}

impl EncodeLabelValue for Side {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(match self {
            Self::Client => "client",
            Self::Worker => "worker",
        })
    }
}

/// Labels of [`Metrics::jobs`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabels {
    /// Which end counted it.
    pub role: Side,
    /// `Outcome::label()`: exactly one for each job and side.
    pub outcome: &'static str,
}

/// Labels of what both sides count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SideLabels {
    /// Which end counted it.
    pub role: Side,
}

/// Kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Read.
    Prompt,
    /// Generated.
    Completion,
}

impl EncodeLabelValue for TokenKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(match self {
            Self::Prompt => "prompt",
            Self::Completion => "completion",
        })
    }
}

/// Labels of [`Metrics::tokens`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    /// Which end counted them.
    pub role: Side,
    /// Read or generated.
    pub kind: TokenKind,
}

/// Labels of [`Metrics::funds_nanoton`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FundsLabels {
    /// Where they are: `wallet`, `opening`, `promised`, `free`, `kept`, `returning` (client); `uncovered`,
    /// `claimable`, `credit`, `ledger` (worker). `docs/money.md` says what each means.
    pub state: &'static str,
}

/// Labels of [`Metrics::first_contact_nanoton`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FirstContactLabels {
    /// `outstanding` now, and since the process began `given` in all and of that `lost`.
    pub state: &'static str,
}

/// Labels of [`Metrics::tcb_expires_s`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PlatformLabels {
    /// `own`, or `first_peer` for the verified worker whose platform is first.
    pub of: &'static str,
}

/// Labels of [`Metrics::build`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BuildLabels {
    /// Version of the binary.
    pub version: &'static str,
    /// Commit it was built from, or `unknown`.
    pub commit: &'static str,
    /// `true` if simulated evidence is compiled in. Alert on it in production.
    pub simulated_evidence: &'static str,
}

/// All counters of a node. Clones share the same numbers and are cheap (reference counts).
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Peers connected now.
    pub peers: Gauge,
    /// Workers whose evidence is verified now.
    pub verified_workers: Gauge,
    /// Jobs running now.
    pub running_jobs: Family<SideLabels, Gauge>,
    /// Ended jobs by terminal outcome; prefer [`Metrics::job_ended`].
    pub jobs: Family<JobLabels, Counter>,
    /// From the request's arrival to the first text, seconds.
    pub time_to_first_token_s: Family<SideLabels, Histogram, fn() -> Histogram>,
    /// Tokens read and generated.
    pub tokens: Family<TokenLabels, Counter>,
    /// Vouchers signed (client) or stored (worker).
    pub vouchers: Family<SideLabels, Counter>,
    /// Vouchers refused by a worker.
    pub vouchers_refused: Counter,
    /// nanoTON claimed on chain and confirmed.
    pub settled_nanoton: Counter,
    /// Batches confirmed on chain.
    pub batches_confirmed: Counter,
    /// nanoTON by where they are; see [`FundsLabels`].
    pub funds_nanoton: Family<FundsLabels, Gauge>,
    /// nanoTON served before a channel was on chain; see [`FirstContactLabels`].
    pub first_contact_nanoton: Family<FirstContactLabels, Gauge>,
    /// Jobs that a worker sent away until their channel is on chain. They come again, and end then.
    pub first_contact_refusals: Counter,
    /// 0 while the chain's head cannot be verified.
    pub chain_verified: Gauge,
    /// 1 from the moment that two logs of guest images were seen under the rebuilders' keys.
    pub log_split_view: Gauge,
    /// When Intel's word that a platform is up to date runs out, seconds since 1970.
    pub tcb_expires_s: Family<PlatformLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Fresh counters, not registered anywhere: what a unit test of an actor wants.
    #[must_use]
    pub fn new() -> Self {
        Self {
            peers: Gauge::default(),
            verified_workers: Gauge::default(),
            running_jobs: Family::default(),
            jobs: Family::default(),
            time_to_first_token_s: Family::new_with_constructor(|| {
                Histogram::new(FIRST_TOKEN_BUCKETS_S)
            }),
            tokens: Family::default(),
            vouchers: Family::default(),
            vouchers_refused: Counter::default(),
            settled_nanoton: Counter::default(),
            batches_confirmed: Counter::default(),
            funds_nanoton: Family::default(),
            first_contact_nanoton: Family::default(),
            first_contact_refusals: Counter::default(),
            chain_verified: Gauge::default(),
            log_split_view: Gauge::default(),
            tcb_expires_s: Family::default(),
        }
    }

    /// Puts everything into `registry` under the prefix `cocoon_`.
    pub fn register(&self, registry: &mut Registry, build: BuildLabels) {
        let registry = registry.sub_registry_with_prefix("cocoon");
        registry.register("build", "What this binary is", Info::new(build));
        registry.register("peers", "Peers connected now", self.peers.clone());
        registry.register(
            "verified_workers",
            "Workers whose evidence is verified now",
            self.verified_workers.clone(),
        );
        registry.register(
            "running_jobs",
            "Jobs running now",
            self.running_jobs.clone(),
        );
        registry.register("jobs", "Ended jobs by terminal outcome", self.jobs.clone());
        registry.register(
            "time_to_first_token_seconds",
            "From the request to the first text",
            self.time_to_first_token_s.clone(),
        );
        registry.register("tokens", "Tokens read and generated", self.tokens.clone());
        registry.register(
            "vouchers",
            "Vouchers signed or stored",
            self.vouchers.clone(),
        );
        registry.register(
            "vouchers_refused",
            "Vouchers a worker refused",
            self.vouchers_refused.clone(),
        );
        registry.register(
            "settled_nanoton",
            "nanoTON claimed on chain and confirmed",
            self.settled_nanoton.clone(),
        );
        registry.register(
            "batches_confirmed",
            "Settlement batches confirmed on chain",
            self.batches_confirmed.clone(),
        );
        registry.register(
            "funds_nanoton",
            "nanoTON by where they are",
            self.funds_nanoton.clone(),
        );
        registry.register(
            "first_contact_nanoton",
            "nanoTON served before the channel was on chain",
            self.first_contact_nanoton.clone(),
        );
        registry.register(
            "first_contact_refusals",
            "Jobs sent away until their channel is on chain",
            self.first_contact_refusals.clone(),
        );
        registry.register(
            "chain_verified",
            "0 while the chain's head cannot be verified",
            self.chain_verified.clone(),
        );
        registry.register(
            "log_split_view",
            "1 if the rebuilders' keys signed two logs of guest images",
            self.log_split_view.clone(),
        );
        registry.register(
            "tcb_expires_timestamp_seconds",
            "When Intel's word that a platform is up to date runs out, unless it is renewed",
            self.tcb_expires_s.clone(),
        );
    }

    /// Notes when Intel's word on a platform runs out; see [`PlatformLabels`].
    pub fn tcb_expires(&self, of: &'static str, at: Option<UnixMillis>) {
        let Some(at) = at else { return };
        self.tcb_expires_s
            .get_or_create(&PlatformLabels { of })
            .set(i64::try_from(at.seconds()).unwrap_or(i64::MAX));
    }

    /// Counts a job as running for as long as the guard lives.
    #[must_use]
    pub fn running(&self, role: Side) -> Running {
        let gauge = self
            .running_jobs
            .get_or_create(&SideLabels { role })
            .clone();
        gauge.inc();
        Running(gauge)
    }

    /// Counts a job that ended; call it once for each job and side.
    pub fn job_ended(&self, role: Side, outcome: &'static str) {
        self.jobs.get_or_create(&JobLabels { role, outcome }).inc();
    }

    /// Ended jobs by outcome, both sides together; those too that the end of an earlier process cut off.
    #[must_use]
    pub fn ended_jobs(&self) -> std::collections::BTreeMap<String, u64> {
        let mut ended = std::collections::BTreeMap::new();
        let labels = cocoon_protocol::job::Outcome::LABELS.into_iter();
        for outcome in labels.chain([cocoon_settlement::ledger::INTERRUPTED]) {
            let count = [Side::Client, Side::Worker]
                .into_iter()
                .map(|role| self.jobs.get_or_create(&JobLabels { role, outcome }).get())
                .fold(0, u64::saturating_add);
            if count > 0 {
                ended.insert(outcome.to_owned(), count);
            }
        }
        ended
    }

    /// Notes the first text of a job, `elapsed_ms` after its request arrived.
    pub fn first_token(&self, role: Side, elapsed_ms: u64) {
        let seconds = std::time::Duration::from_millis(elapsed_ms).as_secs_f64();
        self.time_to_first_token_s
            .get_or_create(&SideLabels { role })
            .observe(seconds);
    }

    /// Counts tokens.
    pub fn count_tokens(&self, role: Side, kind: TokenKind, count: u32) {
        self.tokens
            .get_or_create(&TokenLabels { role, kind })
            .inc_by(u64::from(count));
    }

    /// Counts a voucher signed (client) or stored (worker).
    pub fn voucher(&self, role: Side) {
        self.vouchers.get_or_create(&SideLabels { role }).inc();
    }

    /// Counts a voucher that a worker refused.
    pub fn voucher_refused(&self) {
        self.vouchers_refused.inc();
    }

    /// Counts a settlement batch that was confirmed on chain.
    pub fn batch_confirmed(&self) {
        self.batches_confirmed.inc();
    }

    /// Says how many nanoTON are in a state; see [`FundsLabels`].
    pub fn funds(&self, state: &'static str, nano: u64) {
        self.funds_nanoton
            .get_or_create(&FundsLabels { state })
            .set(i64::try_from(nano).unwrap_or(i64::MAX));
    }

    /// Says how many nanoTON of first contact credit are in a state; see [`FirstContactLabels`].
    pub fn first_contact(&self, state: &'static str, nano: u64) {
        self.first_contact_nanoton
            .get_or_create(&FirstContactLabels { state })
            .set(i64::try_from(nano).unwrap_or(i64::MAX));
    }

    /// Counts money that arrived on chain.
    pub fn settled(&self, amount: NanoTon) {
        self.settled_nanoton.inc_by(amount.nano());
    }
}

/// A job that runs; see [`Metrics::running`].
#[derive(Debug)]
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_a_clone_counts_is_served_under_the_documented_names() {
        let metrics = Metrics::new();
        let mut registry = Registry::default();
        metrics.register(
            &mut registry,
            BuildLabels {
                version: "1.2.3",
                commit: "unknown",
                simulated_evidence: "false",
            },
        );
        let actor = metrics.clone();
        actor.peers.set(4);
        actor.verified_workers.set(3);
        actor.job_ended(Side::Client, "completed");
        actor.job_ended(Side::Client, "completed");
        actor.job_ended(Side::Worker, "client_lost");
        actor.job_ended(Side::Worker, cocoon_settlement::ledger::INTERRUPTED);
        actor.first_token(Side::Client, 120);
        actor.count_tokens(Side::Worker, TokenKind::Completion, 17);
        actor
            .vouchers
            .get_or_create(&SideLabels { role: Side::Client })
            .inc();
        actor.settled(NanoTon::from_nano(1_500));
        actor.funds("promised", 9_007_199_254_740_993);

        let ended = [("client_lost", 1), ("completed", 2), ("interrupted", 1)];
        let ended = ended.map(|(outcome, count)| (outcome.to_owned(), count));
        assert_eq!(metrics.ended_jobs(), ended.into());

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "cocoon_peers 4",
            "cocoon_verified_workers 3",
            "cocoon_jobs_total{role=\"client\",outcome=\"completed\"} 2",
            "cocoon_jobs_total{role=\"worker\",outcome=\"client_lost\"} 1",
            "cocoon_time_to_first_token_seconds_count{role=\"client\"} 1",
            "cocoon_tokens_total{role=\"worker\",kind=\"completion\"} 17",
            "cocoon_vouchers_total{role=\"client\"} 1",
            "cocoon_settled_nanoton_total 1500",
            "cocoon_funds_nanoton{state=\"promised\"} 9007199254740993",
            "cocoon_build_info{version=\"1.2.3\",commit=\"unknown\",simulated_evidence=\"false\"} 1",
        ] {
            assert!(text.contains(line), "missing {line:?} in:\n{text}");
        }
    }
}
