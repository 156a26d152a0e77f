//! What a run found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use cocoon_protocol::{ids::Digest, units::NanoTon};
use serde::Serialize;

use crate::distribution::Distribution;
use crate::violation::Violation;

/// The result of one run. It depends on the scenario and the seed alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// Virtual time from the first event to the last, in milliseconds.
    pub virtual_ms: u64,
    /// How many events happened.
    pub events: u64,
    /// Fingerprint of all of them in order.
    pub trace: Digest,
    /// How the directories filled.
    pub directory: DirectoryReport,
    /// What became of the jobs.
    pub jobs: JobsReport,
    /// What became of the slots.
    pub leases: LeaseReport,
    /// What became of the money.
    pub money: MoneyReport,
    /// Everything that must never happen and did.
    pub violations: Vec<Violation>,
}

/// How the directories filled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DirectoryReport {
    /// Adverts sent to a client.
    pub adverts_sent: u64,
    /// Adverts the network lost on the way.
    pub adverts_lost: u64,
    /// Adverts a directory judged fresh.
    pub fresh: u64,
    /// Adverts a directory judged known already.
    pub duplicate: u64,
    /// Adverts a directory refused.
    pub invalid: u64,
    /// Evidence fetched.
    pub evidence_fetched: u64,
    /// Evidence refused.
    pub evidence_refused: u64,
    /// From a worker's first advert to a client having it verified, in milliseconds.
    pub verified_after_ms: Distribution,
}

/// What became of the jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct JobsReport {
    /// Jobs that clients wanted.
    pub wanted: u64,
    /// Their ends as the clients saw them; the sum is `wanted`.
    pub client_outcomes: BTreeMap<String, u64>,
    /// Their ends as the workers saw them; the sum is the number of leases.
    pub worker_outcomes: BTreeMap<String, u64>,
    /// From wanting an answer to a chosen offer, in milliseconds.
    pub chosen_after_ms: Distribution,
    /// From wanting an answer to its first token, in milliseconds.
    pub first_token_after_ms: Distribution,
    /// From wanting an answer to its end, in milliseconds; completed jobs only.
    pub completed_after_ms: Distribution,
}

/// What became of the slots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LeaseReport {
    /// Slots of all workers together.
    pub slots: u64,
    /// Offers made.
    pub offered: u64,
    /// Requests refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Offers redeemed.
    pub granted: u64,
    /// Offers that could not be redeemed, by reason.
    pub redeem_failed: BTreeMap<String, u64>,
    /// Leases given back.
    pub released: u64,
    /// Leases that ended with their worker's process.
    pub died: u64,
    /// Leases left at the end; must be zero.
    pub left: u64,
}

/// What became of the money. All of it is integers of nanoTON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct MoneyReport {
    /// Channels between a client and a worker that were used.
    pub channels: u64,
    /// Vouchers signed.
    pub vouchers: u64,
    /// Newest cumulative amounts that clients signed, summed over channels.
    pub signed: NanoTon,
    /// Newest cumulative amounts that workers hold, summed over channels.
    pub held: NanoTon,
    /// Signed by vouchers that were lost with a process and not replaced by a later one.
    pub undelivered: NanoTon,
    /// Cost of all tokens that clients received.
    pub received_cost: NanoTon,
    /// Cost of all tokens that workers sent.
    pub sent_cost: NanoTon,
    /// The largest amount any worker was ahead of its vouchers.
    pub max_exposure: NanoTon,
    /// The largest credit window in the scenario.
    pub largest_window: NanoTon,
    /// For every job, how far ahead of its vouchers the worker was at worst, in thousandths of the
    /// credit window.
    pub exposure_permille_of_window: Distribution,
}

impl Report {
    /// Whether everything held that must hold.
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "scenario {}, seed {}: {} events in {} s of virtual time",
            self.scenario,
            self.seed,
            self.events,
            self.virtual_ms / 1000
        )?;
        writeln!(f, "trace {}", self.trace)?;

        let directory = &self.directory;
        writeln!(f, "\ndirectory")?;
        writeln!(
            f,
            "  adverts           {} sent, {} lost, {} fresh, {} duplicate, {} invalid",
            directory.adverts_sent,
            directory.adverts_lost,
            directory.fresh,
            directory.duplicate,
            directory.invalid
        )?;
        writeln!(
            f,
            "  evidence          {} fetched, {} refused",
            directory.evidence_fetched, directory.evidence_refused
        )?;
        line(f, "verified after ms", &directory.verified_after_ms)?;

        let jobs = &self.jobs;
        writeln!(f, "\njobs                {} wanted", jobs.wanted)?;
        counts(f, "as clients saw them", &jobs.client_outcomes)?;
        counts(f, "as workers saw them", &jobs.worker_outcomes)?;
        line(f, "chosen after ms", &jobs.chosen_after_ms)?;
        line(f, "first token ms", &jobs.first_token_after_ms)?;
        line(f, "completed ms", &jobs.completed_after_ms)?;

        let leases = &self.leases;
        writeln!(f, "\nslots               {}", leases.slots)?;
        writeln!(
            f,
            "  leases            {} granted = {} released + {} died + {} left",
            leases.granted, leases.released, leases.died, leases.left
        )?;
        writeln!(f, "  offers            {} made", leases.offered)?;
        counts(f, "refused", &leases.refused)?;
        counts(f, "not redeemed", &leases.redeem_failed)?;

        let money = &self.money;
        writeln!(
            f,
            "\nmoney               {} channels, {} vouchers",
            money.channels, money.vouchers
        )?;
        writeln!(f, "  signed            {}", money.signed)?;
        writeln!(f, "  held              {}", money.held)?;
        writeln!(
            f,
            "  undelivered       {} (lost with a process)",
            money.undelivered
        )?;
        writeln!(f, "  tokens received   {}", money.received_cost)?;
        writeln!(f, "  tokens sent       {}", money.sent_cost)?;
        writeln!(
            f,
            "  worst exposure    {} (largest window {})",
            money.max_exposure, money.largest_window
        )?;
        line(f, "exposure ‰ window", &money.exposure_permille_of_window)?;

        if self.violations.is_empty() {
            write!(f, "\neverything held that must hold")
        } else {
            write!(f, "\n{} VIOLATIONS", self.violations.len())?;
            for violation in &self.violations {
                write!(f, "\n  {violation}")?;
            }
            Ok(())
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, shape: &Distribution) -> fmt::Result {
    writeln!(
        f,
        "  {name:<17} p50 {:>6}  p90 {:>6}  p99 {:>6}  max {:>6}  (n = {})",
        shape.p50, shape.p90, shape.p99, shape.max, shape.count
    )
}

fn counts(f: &mut fmt::Formatter<'_>, name: &str, counts: &BTreeMap<String, u64>) -> fmt::Result {
    if counts.is_empty() {
        return Ok(());
    }
    write!(f, "  {name}:")?;
    for (label, count) in counts {
        write!(f, "  {label} {count}")?;
    }
    writeln!(f)
}
