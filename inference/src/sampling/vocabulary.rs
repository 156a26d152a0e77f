//! A model's vocabulary as constraints see it.

use super::TokenBytes;
use crate::vocabulary::Vocabulary;

impl TokenBytes for Vocabulary {
    fn len(&self) -> usize {
        Vocabulary::len(self)
    }

    fn bytes(&self, token: u32) -> Option<&[u8]> {
        Vocabulary::bytes(self, token)
    }

    fn end_tokens(&self) -> Vec<u32> {
        Vocabulary::end_tokens(self).to_vec()
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::super::constraint::tests::{babble, schema, schemas};
    use super::super::{Grammars, TokenBytes};
    use crate::Constraint;
    use crate::checkpoint::Checkpoint;
    use crate::vocabulary::Vocabulary;

    /// The vocabulary of the model that `scripts/fetch-model.sh` fetches; `None` where it is not there.
    fn smollm() -> Option<Arc<Vocabulary>> {
        let models = std::env::var_os("COCOON_MODELS").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/cocoon/models"));
        let path = models
            .or_else(home)?
            .join("SmolLM2-135M-Instruct.Q4_1.gguf");
        let checkpoint = path
            .is_file()
            .then(|| Checkpoint::open(&path, &mut |_, _| {}).unwrap())?;
        Some(Arc::new(checkpoint.vocabulary().unwrap()))
    }

    #[test]
    fn a_real_vocabulary_writes_what_the_schema_says() {
        let Some(vocabulary) = smollm() else {
            println!("skipped: no model; scripts/fetch-model.sh fetches it");
            return;
        };
        assert!(!TokenBytes::end_tokens(&*vocabulary).is_empty());
        let grammars = Grammars::new(vocabulary.clone());
        for (text, matches) in schemas() {
            for dice in 0..12 {
                let (answer, ended) =
                    babble(&grammars, &*vocabulary, &schema(text), dice, 400).unwrap();
                assert!(ended, "{}", String::from_utf8_lossy(&answer));
                let value = serde_json::from_slice(&answer).unwrap();
                assert!(matches(&value), "{value} for {text}");
            }
        }
    }

    /// `cargo test -p cocoon-inference how_long -- --ignored --nocapture`
    #[test]
    #[ignore = "prints timings"]
    fn how_long_a_mask_of_a_real_vocabulary_takes() {
        let vocabulary = smollm().unwrap();
        let grammars = Grammars::new(vocabulary.clone());
        let start = std::time::Instant::now();
        grammars.compile(&Constraint::JsonObject).unwrap();
        println!(
            "first compilation, with the tree of tokens: {:?}",
            start.elapsed()
        );
        let (person, _) = schemas()[0];
        for (name, constraint) in [
            ("JSON object", Constraint::JsonObject),
            ("schema", schema(person)),
        ] {
            let start = std::time::Instant::now();
            let mut state = grammars.compile(&constraint).unwrap();
            println!("{name}: compiled in {:?}", start.elapsed());
            let mut spent = vec![];
            let text = br#"{"name":"Ada","age":36}"#;
            for &byte in text {
                let token = (0u32..)
                    .find(|&t| vocabulary.bytes(t) == Some(&[byte]))
                    .unwrap();
                let mut logits = vec![0.0; vocabulary.len()];
                let start = std::time::Instant::now();
                state.mask(&mut logits).unwrap();
                state.accept(token).unwrap();
                spent.push(start.elapsed());
            }
            spent.sort();
            println!(
                "{name}: a token in {:?} (median), {:?} (worst)",
                spent[spent.len() / 2],
                spent[spent.len() - 1]
            );
        }
    }
}
