//! Embeddings as the text of an answer: `{"embeddings":["…",…]}`, one string for each text in turn, base64 of
//! its numbers as little-endian `f32`. So the receipt's digest is of exactly what arrived.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_protocol::job::MAX_TEXT_BYTES;
use serde::{Deserialize, Serialize};

/// Most bytes of such an answer: [`MAX_EMBEDDED_TEXTS`](crate::gateway_port::MAX_EMBEDDED_TEXTS) of 12 000
/// numbers each, which is more than any model of today gives.
pub const MAX_EMBEDDING_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Most frames that it comes in: full ones and the rest.
pub const MAX_EMBEDDING_FRAMES: u32 = 257;
const _: () = assert!(MAX_EMBEDDING_ANSWER_BYTES / MAX_TEXT_BYTES < MAX_EMBEDDING_FRAMES as usize);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    embeddings: Vec<String>,
}

/// Why an answer is none. Quotes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingError {
    /// Larger than [`MAX_EMBEDDING_ANSWER_BYTES`].
    #[error(
        "embeddings of {bytes} bytes are more than the {MAX_EMBEDDING_ANSWER_BYTES} that an answer may have; send fewer texts"
    )]
    TooLarge {
        /// How large.
        bytes: usize,
    },
    /// Not what [`encode`] writes.
    #[error("it is no list of embeddings")]
    Malformed,
    /// Another number of embeddings than of texts.
    #[error("it holds {got} embeddings of {wanted} texts")]
    Count {
        /// Embeddings.
        got: usize,
        /// Texts.
        wanted: usize,
    },
    /// Embeddings of different lengths, or without a number.
    #[error("its embeddings differ in length, or are empty")]
    Uneven,
    /// Infinity, or not a number.
    #[error("it holds something that is no finite number")]
    NotFinite,
}

/// The text that carries these embeddings.
///
/// # Errors
/// [`EmbeddingError::TooLarge`].
pub fn encode(embeddings: &[Vec<f32>]) -> Result<String, EmbeddingError> {
    let embeddings = embeddings.iter().map(|numbers| base64(numbers)).collect();
    // A list of strings has an encoding.
    let text =
        serde_json::to_string(&Answer { embeddings }).map_err(|_| EmbeddingError::Malformed)?;
    if text.len() > MAX_EMBEDDING_ANSWER_BYTES {
        return Err(EmbeddingError::TooLarge { bytes: text.len() });
    }
    Ok(text)
}

/// Base64 of little-endian numbers, as `OpenAI` spells an embedding in `encoding_format: base64`.
#[must_use]
pub fn base64(numbers: &[f32]) -> String {
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    STANDARD.encode(bytes)
}

/// Reads what a stranger says are the embeddings of so many texts.
///
/// # Errors
/// [`EmbeddingError`].
pub fn decode(text: &str, texts: usize) -> Result<Vec<Vec<f32>>, EmbeddingError> {
    if text.len() > MAX_EMBEDDING_ANSWER_BYTES {
        return Err(EmbeddingError::TooLarge { bytes: text.len() });
    }
    let Answer { embeddings } =
        serde_json::from_str(text).map_err(|_| EmbeddingError::Malformed)?;
    if embeddings.len() != texts {
        return Err(EmbeddingError::Count {
            got: embeddings.len(),
            wanted: texts,
        });
    }
    let embeddings = embeddings
        .iter()
        .map(|text| numbers(text))
        .collect::<Result<Vec<_>, _>>()?;
    let width = embeddings.first().map_or(0, Vec::len);
    if width == 0 || embeddings.iter().any(|each| each.len() != width) {
        return Err(EmbeddingError::Uneven);
    }
    Ok(embeddings)
}

fn numbers(text: &str) -> Result<Vec<f32>, EmbeddingError> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| EmbeddingError::Malformed)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(EmbeddingError::Malformed);
    }
    let numbers: Vec<f32> = numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    if numbers.iter().all(|number| number.is_finite()) {
        Ok(numbers)
    } else {
        Err(EmbeddingError::NotFinite)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_bit_arrives(
            embeddings in (1..5_usize).prop_flat_map(|width| {
                let finite = any::<f32>().prop_filter("finite", |number| number.is_finite());
                prop::collection::vec(prop::collection::vec(finite, width), 1..5)
            }),
        ) {
            let text = encode(&embeddings).unwrap();
            let bits = |all: &[Vec<f32>]| -> Vec<u32> {
                all.iter().flatten().map(|number| number.to_bits()).collect()
            };
            let read = decode(&text, embeddings.len()).unwrap();
            prop_assert_eq!(bits(&read), bits(&embeddings));
        }

        #[test]
        fn a_strangers_text_never_panics(text in "\\PC{0,80}") {
            let _ = decode(&text, 1);
            let _ = decode(&format!("{{\"embeddings\":[\"{text}\"]}}"), 1);
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_for_what_it_is() {
        let good = encode(&[vec![1.0, -0.5], vec![0.0, 2.0]]).unwrap();
        assert_eq!(good, r#"{"embeddings":["AACAPwAAAL8=","AAAAAAAAAEA="]}"#);
        assert_eq!(decode(&good, 2).unwrap(), [[1.0, -0.5], [0.0, 2.0]]);
        let count = EmbeddingError::Count { got: 2, wanted: 3 };
        assert_eq!(decode(&good, 3), Err(count));
        let large = " ".repeat(MAX_EMBEDDING_ANSWER_BYTES + 1);
        for (text, error) in [
            (
                large.as_str(),
                EmbeddingError::TooLarge { bytes: large.len() },
            ),
            ("", EmbeddingError::Malformed),
            (r#"{"embeddings":["AACAPwAA"]}"#, EmbeddingError::Malformed),
            (r#"{"embeddings":["?"]}"#, EmbeddingError::Malformed),
            (r#"{"embeddings":[1]}"#, EmbeddingError::Malformed),
            (r#"{"embeddings":[""]}"#, EmbeddingError::Uneven),
            (r#"{"embeddings":["AADAfw=="]}"#, EmbeddingError::NotFinite),
            (r#"{"embeddings":["AACAfw=="]}"#, EmbeddingError::NotFinite),
        ] {
            assert_eq!(decode(text, 1), Err(error));
        }
        let uneven = encode(&[vec![1.0], vec![1.0, 2.0]]).unwrap();
        assert_eq!(decode(&uneven, 2), Err(EmbeddingError::Uneven));
    }

    #[test]
    fn more_numbers_than_an_answer_may_have_are_refused_where_they_are_made() {
        let numbers = vec![vec![0.0; 20_000]; 64];
        assert!(matches!(
            encode(&numbers),
            Err(EmbeddingError::TooLarge { .. })
        ));
    }
}
