//! The known questions, before a worker advertises anything.

use std::sync::Arc;
use std::time::Instant;

use cocoon_inference::Engine;
use cocoon_inference::canary::{self, Canary, CanaryError, QUESTIONS, Standing};
use cocoon_protocol::Digest;
use tracing::{info, warn};

use super::WiringError;
use crate::config::Config;

/// Puts the questions to the model and compares the answers: with the digest that the configuration pins, else with
/// what this program knows of the model. Gives back what goes into the evidence of this process.
///
/// A model that nobody has pinned is served with a warning: its digest is in the evidence all the same, for whoever
/// judges that.
pub(super) async fn check(config: &Config, engine: Arc<dyn Engine>) -> Result<Digest, WiringError> {
    let pinned = match &config.canary {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| WiringError::NotADigest(text.clone()))?,
        ),
    };
    info!(
        questions = QUESTIONS.len(),
        "asking the model what it must know"
    );
    let model = engine.describe().digest;
    let started = Instant::now();
    let asking = tokio::task::spawn_blocking(move || canary::ask(engine.as_ref()));
    let answers = asking.await.map_err(std::io::Error::other)?;
    let answers = answers.map_err(wrong)?;
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let standing = compare(&answers, model, pinned).map_err(wrong)?;
    let digest = answers.digest();
    if standing == Standing::Unknown && pinned.is_none() {
        warn!(
            %model,
            canary = %digest,
            took_ms,
            "nobody has pinned this model's answers: if they are right, keep them with `canary`, and give the \
             digest to those who write policies"
        );
    } else {
        info!(canary = %digest, took_ms, "the model answers as pinned");
    }
    Ok(digest)
}

fn wrong(error: CanaryError) -> WiringError {
    WiringError::Canary(Box::new(error))
}

/// The operator's pin comes before the program's: it may be of a device that the program does not know.
fn compare(
    answers: &Canary,
    model: Digest,
    pinned: Option<Digest>,
) -> Result<Standing, CanaryError> {
    match pinned {
        Some(pinned) => answers.check_pinned(pinned).map(|()| Standing::Unknown),
        None => answers.check_known(model),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_inference::canary::{Answer, PINS};

    use super::*;

    fn known() -> (Digest, Canary) {
        let pin = PINS.first().unwrap();
        let answers = QUESTIONS.iter().zip(pin.answers);
        let answers = answers.map(|(question, text)| Answer {
            question: question.name,
            text: text.to_owned(),
            tokens: 1,
        });
        let canary = Canary {
            answers: answers.collect(),
        };
        (pin.model.parse().unwrap(), canary)
    }

    #[test]
    fn a_known_model_that_answers_otherwise_does_not_start() {
        let (model, mut canary) = known();
        compare(&canary, model, None).unwrap();
        canary.answers.last_mut().unwrap().text.push('!');
        let said = compare(&canary, model, None).unwrap_err().to_string();
        assert!(said.contains("`sum`") && said.contains("42.!"), "{said}");
    }

    #[test]
    fn the_operators_pin_comes_before_what_the_program_knows() {
        let (model, mut canary) = known();
        canary.answers.last_mut().unwrap().text.push('!');
        compare(&canary, model, Some(canary.digest())).unwrap();
        assert!(matches!(
            compare(&canary, model, Some(Digest::ZERO)),
            Err(CanaryError::Pinned { .. })
        ));
    }

    #[test]
    fn a_model_that_nobody_pinned_may_start() {
        let (_, canary) = known();
        let standing = compare(&canary, Digest::sha256(b"another model"), None).unwrap();
        assert_eq!(standing, Standing::Unknown);
    }
}
