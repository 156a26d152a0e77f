//! A scenario: one TOML file that says how large, how busy and how unreliable the network is.

use serde::Deserialize;
use thiserror::Error;

use crate::link::LinkConfig;
use crate::random::Range;

/// Most nodes of one kind in a scenario.
pub const MAX_NODES: u64 = 5_000;
/// Longest virtual time of a scenario: a week.
pub const MAX_DURATION_MS: u64 = 7 * 24 * 3_600_000;

/// Everything a run depends on besides its seed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What the report calls it.
    pub name: String,
    /// The seed if none is given on the command line.
    pub seed: u64,
    /// How long new jobs arrive, in milliseconds of virtual time. Jobs that are running then are
    /// finished.
    pub duration_ms: u64,
    /// Who works.
    pub workers: Workers,
    /// Who asks.
    pub clients: Clients,
    /// What lies between them.
    pub link: LinkConfig,
    /// What goes wrong.
    pub faults: Faults,
}

/// The workers of a scenario. Ranges are drawn from once per worker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// How many.
    pub count: u64,
    /// Jobs a worker runs at once.
    pub slots: Range,
    /// Price of a prompt token, in nanoTON.
    pub input_price_nano: Range,
    /// Price of a generated token, in nanoTON.
    pub output_price_nano: Range,
    /// Prompt tokens a worker reads in a second.
    pub prompt_tokens_per_second: Range,
    /// Tokens a worker generates in a second, for each job.
    pub tokens_per_second: Range,
    /// How many generated tokens a worker sends before it wants a voucher for the first of them.
    pub credit_window_tokens: u64,
    /// Time between two adverts of a worker, in milliseconds.
    pub advert_interval_ms: u64,
    /// How long an advert is believed, in milliseconds.
    pub advert_lifetime_ms: u64,
    /// How long an offer binds, in milliseconds.
    pub offer_lifetime_ms: u64,
    /// How long the evidence of a worker is valid, in milliseconds.
    pub evidence_lifetime_ms: u64,
}

/// The clients of a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// How many.
    pub count: u64,
    /// Mean time between two jobs of one client (Poisson), in milliseconds.
    pub job_interval_ms: u64,
    /// Workers asked for an offer.
    pub ask: u64,
    /// Tokens of a prompt.
    pub prompt_tokens: Range,
    /// Tokens of an answer.
    pub output_tokens: Range,
    /// How many milliseconds of waiting a client would give to save one milli-TON.
    pub wait_ms_per_milliton: u64,
    /// How long a client waits for the next tokens before it gives a worker up, in milliseconds.
    pub patience_ms: u64,
}

/// What goes wrong in a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// Of a thousand jobs, in how many the worker's process dies at a random moment of the answer.
    pub worker_stops_permille: u64,
    /// Of a thousand jobs, in how many the client's process dies at a random moment of the answer.
    pub client_stops_permille: u64,
    /// Of a thousand jobs, in how many the client goes on reading but stops signing.
    pub client_stops_paying_permille: u64,
    /// Of a thousand jobs, in how many the client tries to redeem its offer twice.
    pub job_sent_twice_permille: u64,
    /// Of a thousand workers, how many have evidence that is refused.
    pub bad_evidence_permille: u64,
    /// How long a dead process stays dead, in milliseconds.
    pub restart_ms: u64,
    /// How long a worker waits for a voucher, or any sign of life, before it ends a job, in
    /// milliseconds.
    pub worker_patience_ms: u64,
}

/// Why a scenario cannot be run.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// It is not TOML, or not a scenario.
    #[error("not a scenario: {0}")]
    Toml(#[from] toml::de::Error),
    /// A number is outside what makes sense.
    #[error("{field} is {value}, which is outside {low}..={high}")]
    OutOfRange {
        /// Its name in the file.
        field: &'static str,
        /// What it is.
        value: u64,
        /// The least it may be.
        low: u64,
        /// The most it may be.
        high: u64,
    },
    /// A range ends before it starts.
    #[error("{field} is [{low}, {high}], which is empty")]
    EmptyRange {
        /// Its name in the file.
        field: &'static str,
        /// Its first number.
        low: u64,
        /// Its second number.
        high: u64,
    },
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let (workers, clients) = (&self.workers, &self.clients);
        let (link, faults) = (&self.link, &self.faults);
        let hour = 3_600_000;
        for (field, value, low, high) in [
            ("duration_ms", self.duration_ms, 1, MAX_DURATION_MS),
            ("workers.count", workers.count, 1, MAX_NODES),
            (
                "workers.credit_window_tokens",
                workers.credit_window_tokens,
                1,
                1 << 20,
            ),
            (
                "workers.advert_interval_ms",
                workers.advert_interval_ms,
                100,
                hour,
            ),
            (
                "workers.advert_lifetime_ms",
                workers.advert_lifetime_ms,
                100,
                hour,
            ),
            (
                "workers.offer_lifetime_ms",
                workers.offer_lifetime_ms,
                1,
                hour,
            ),
            (
                "workers.evidence_lifetime_ms",
                workers.evidence_lifetime_ms,
                1,
                MAX_DURATION_MS,
            ),
            ("clients.count", clients.count, 1, MAX_NODES),
            (
                "clients.job_interval_ms",
                clients.job_interval_ms,
                1,
                MAX_DURATION_MS,
            ),
            ("clients.ask", clients.ask, 1, 16),
            (
                "clients.wait_ms_per_milliton",
                clients.wait_ms_per_milliton,
                0,
                1 << 32,
            ),
            ("clients.patience_ms", clients.patience_ms, 1, hour),
            ("link.jitter_ms", link.jitter_ms, 0, 60_000),
            ("link.loss_permille", link.loss_permille, 0, 900),
            ("link.retransmit_ms", link.retransmit_ms, 1, 60_000),
            (
                "faults.worker_stops_permille",
                faults.worker_stops_permille,
                0,
                1000,
            ),
            (
                "faults.client_stops_permille",
                faults.client_stops_permille,
                0,
                1000,
            ),
            (
                "faults.client_stops_paying_permille",
                faults.client_stops_paying_permille,
                0,
                1000,
            ),
            (
                "faults.job_sent_twice_permille",
                faults.job_sent_twice_permille,
                0,
                1000,
            ),
            (
                "faults.bad_evidence_permille",
                faults.bad_evidence_permille,
                0,
                1000,
            ),
            ("faults.restart_ms", faults.restart_ms, 1, hour),
            (
                "faults.worker_patience_ms",
                faults.worker_patience_ms,
                1,
                hour,
            ),
        ] {
            if !(low..=high).contains(&value) {
                return Err(ScenarioError::OutOfRange {
                    field,
                    value,
                    low,
                    high,
                });
            }
        }
        for (field, [low, high], most) in [
            ("workers.slots", workers.slots, 1024),
            (
                "workers.input_price_nano",
                workers.input_price_nano,
                1 << 40,
            ),
            (
                "workers.output_price_nano",
                workers.output_price_nano,
                1 << 40,
            ),
            (
                "workers.prompt_tokens_per_second",
                workers.prompt_tokens_per_second,
                1 << 32,
            ),
            (
                "workers.tokens_per_second",
                workers.tokens_per_second,
                1 << 32,
            ),
            ("clients.prompt_tokens", clients.prompt_tokens, 1 << 20),
            ("clients.output_tokens", clients.output_tokens, 1 << 20),
            ("link.latency_ms", link.latency_ms, 60_000),
        ] {
            if low > high {
                return Err(ScenarioError::EmptyRange { field, low, high });
            }
            let least = u64::from(field != "link.latency_ms");
            if low < least || high > most {
                let value = if low < least { low } else { high };
                return Err(ScenarioError::OutOfRange {
                    field,
                    value,
                    low: least,
                    high: most,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CALM: &str = include_str!("../scenarios/calm.toml");

    #[test]
    fn the_scenarios_in_the_folder_are_scenarios() {
        for text in [
            CALM,
            include_str!("../scenarios/rough.toml"),
            include_str!("../scenarios/crowd.toml"),
        ] {
            Scenario::from_toml(text).unwrap();
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        let with = |from: &str, to: &str| {
            assert!(CALM.contains(from), "{from}");
            Scenario::from_toml(&CALM.replace(from, to)).unwrap_err()
        };
        assert!(matches!(
            with("loss_permille = 5", "loss_permille = 1000"),
            ScenarioError::OutOfRange {
                field: "link.loss_permille",
                value: 1000,
                ..
            }
        ));
        assert!(matches!(
            with("latency_ms = [15, 120]", "latency_ms = [120, 15]"),
            ScenarioError::EmptyRange {
                field: "link.latency_ms",
                ..
            }
        ));
        assert!(matches!(
            with("loss_permille = 5", "loss_permile = 5"),
            ScenarioError::Toml(_)
        ));
    }
}
