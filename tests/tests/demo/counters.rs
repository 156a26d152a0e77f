//! `/metrics` of client and workers against what happened.

use std::collections::BTreeMap;

use cocoon_tests::books;
use cocoon_tests::chat::Answer;
use cocoon_tests::metrics::scrape;
use cocoon_tests::network::Network;

use crate::Interrupted;

pub(crate) async fn what_was_counted_is_what_happened(
    network: &Network,
    answers: &[Answer],
    interrupted: &Interrupted,
) {
    let client = scrape(&network.client).await;
    let required = [
        "cocoon_peers",
        "cocoon_verified_workers",
        "cocoon_jobs_total",
        "cocoon_time_to_first_token_seconds_bucket",
        "cocoon_time_to_first_token_seconds_count",
        "cocoon_tokens_total",
        "cocoon_vouchers_total",
        "cocoon_settled_nanoton_total",
        "cocoon_build_info",
    ];
    for name in required {
        assert!(client.has(name), "{name} is missing");
    }
    let jobs = u64::try_from(answers.len()).unwrap() + 1;
    let side = [("role", "client")];
    assert_eq!(client.sum("cocoon_peers", &[]), 4);
    assert_eq!(client.sum("cocoon_verified_workers", &[]), 3);
    assert_eq!(
        client.by("cocoon_jobs_total", &side, "outcome"),
        BTreeMap::from([
            ("completed".to_owned(), jobs - 1),
            ("worker_lost".to_owned(), 1)
        ])
    );
    assert_eq!(
        client.sum("cocoon_time_to_first_token_seconds_count", &side),
        jobs
    );
    let generated: u64 = answers
        .iter()
        .map(|answer| answer.usage.completion_tokens)
        .sum();
    let completion = [("role", "client"), ("kind", "completion")];
    assert_eq!(
        client.sum("cocoon_tokens_total", &completion),
        generated + interrupted.tokens
    );
    let read: u64 = answers
        .iter()
        .map(|answer| answer.usage.prompt_tokens)
        .sum();
    let prompt = [("role", "client"), ("kind", "prompt")];
    assert_eq!(client.sum("cocoon_tokens_total", &prompt), read);
    assert!(client.sum("cocoon_vouchers_total", &side) >= jobs);

    let channels = books::channels(network).await;
    for (index, worker) in network.workers.iter().enumerate() {
        let counted = scrape(worker).await;
        let claimed: u64 = channels
            .iter()
            .filter(|channel| channel.worker == index)
            .map(|channel| channel.chain.claimed.nano())
            .sum();
        assert_eq!(counted.sum("cocoon_settled_nanoton_total", &[]), claimed);
        // Counters begin anew with the process; the job that was cut off is counted by the new one.
        let mut outcomes = BTreeMap::new();
        let mut since = 0;
        if index == interrupted.worker {
            outcomes.insert("interrupted".to_owned(), 1);
            since = interrupted.before_restart;
        }
        let mine: Vec<_> = answers[since..]
            .iter()
            .filter(|answer| network.worker_of(&answer.details.worker) == index)
            .collect();
        if !mine.is_empty() {
            outcomes.insert("completed".to_owned(), u64::try_from(mine.len()).unwrap());
            let tokens: u64 = mine
                .iter()
                .map(|answer| answer.usage.completion_tokens)
                .sum();
            let completion = [("role", "worker"), ("kind", "completion")];
            assert_eq!(counted.sum("cocoon_tokens_total", &completion), tokens);
            for name in required {
                assert!(
                    counted.has(name),
                    "{name} is missing at worker {}",
                    index + 1
                );
            }
            let side = [("role", "worker")];
            assert!(counted.sum("cocoon_vouchers_total", &side) > 0);
            let firsts = counted.sum("cocoon_time_to_first_token_seconds_count", &side);
            assert_eq!(firsts, u64::try_from(mine.len()).unwrap());
        }
        let side = [("role", "worker")];
        assert_eq!(counted.by("cocoon_jobs_total", &side, "outcome"), outcomes);
    }
}
