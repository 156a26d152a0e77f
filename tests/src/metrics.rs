//! What a node counts, as Prometheus would read it.

use std::collections::BTreeMap;

use cocoon::local_mesh::Node;

/// One line of `/metrics`.
#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: String,
}

/// One scrape.
#[derive(Clone, Debug)]
pub struct Scrape(Vec<Sample>);

/// Reads a node's `/metrics`.
pub async fn scrape(node: &Node) -> Scrape {
    let url = format!("{}/metrics", node.url());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(url).send().await.expect("an answer");
    assert!(response.status().is_success());
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = response.text().await.expect("text");
    assert!(text.ends_with("# EOF\n"), "an unfinished scrape");
    Scrape(
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(sample)
            .collect(),
    )
}

/// `name{label="value",…} value`. None of our labels' values holds a comma or a quote.
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (name, rest.strip_suffix('}').expect("a closing brace")),
    };
    let labels = labels
        .split(',')
        .filter(|label| !label.is_empty())
        .map(|label| {
            let (name, value) = label.split_once('=').expect("a label");
            (name.to_owned(), value.trim_matches('"').to_owned())
        })
        .collect();
    Sample {
        name: name.to_owned(),
        labels,
        value: value.to_owned(),
    }
}

impl Scrape {
    /// Whether there is such a series, whatever its labels.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }

    /// Sum of all series of this name with at least these labels; whole numbers only.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.series(name, labels)
            .map(|sample| sample.value.parse::<u64>().expect("a whole number"))
            .sum()
    }

    /// Value by one label, of all series of this name with at least these labels.
    #[must_use]
    pub fn by(&self, name: &str, labels: &[(&str, &str)], label: &str) -> BTreeMap<String, u64> {
        self.series(name, labels)
            .map(|sample| (sample.labels[label].clone(), sample.value.parse().unwrap()))
            // A series that was looked at is there, even if nothing was ever counted.
            .filter(|(_, value)| *value > 0)
            .collect()
    }

    fn series<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|is| is == value))
        })
    }
}
