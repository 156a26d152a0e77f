//! A model's tokenizer and chat template without its weights: enough to count what a job is billed for.
//!
//! The engine counts with these when it answers, and [`Tokenizer::recount`] is the engine's rule again, for
//! whoever holds a receipt. So that both know that they count with the same one, a tokenizer has a digest:
//!
//! ```text
//! of a GGUF file   SHA-256("cocoon/tokenizer/v1" 00 "gguf" 00 ‖ entry₁ ‖ entry₂ ‖ …)
//! of a folder      SHA-256("cocoon/tokenizer/v1" 00 "folder" 00 ‖ D)
//! ```
//!
//! The entries are the metadata whose keys begin with `tokenizer.`, in order of their keys' bytes: length of
//! the key, key, kind (one byte), value. Kinds and values: 0 unsigned integer (8 bytes), 1 signed integer (8
//! bytes), 2 floating-point number (8 bytes, IEEE 754), 3 boolean (one byte, 0 or 1), 4 string (length,
//! bytes), 5 strings (count, then each as 4), 6 integers (count, then 8 bytes signed each), 7 floating-point
//! numbers (count, then 8 bytes each). Lengths and counts have 4 bytes; all integers are little-endian; every
//! number of the file is widened first. So a file with the weights and one with the vocabulary alone have the
//! same digest. D is [`folder_digest`] of those of `config.json`, `generation_config.json`,
//! `tokenizer_config.json`, `chat_template.jinja` and `tokenizer.json` that are there.

use std::path::Path;

use cocoon_protocol::Digest;
use ring::digest::{Context, SHA256};

use crate::checkpoint::{Checkpoint, folder_digest};
use crate::engine::Message;
use crate::error::EngineError;
use crate::gguf::{Header, Value};
use crate::stream::TextStream;
use crate::template::ChatTemplate;
use crate::upstream::Tokens;
use crate::vocabulary::Vocabulary;

const GGUF_DOMAIN: &[u8] = b"cocoon/tokenizer/v1\0gguf\0";
const FOLDER_DOMAIN: &[u8] = b"cocoon/tokenizer/v1\0folder\0";

/// See the module's doc.
pub struct Tokenizer {
    digest: Digest,
    vocabulary: Vocabulary,
    template: ChatTemplate,
}

/// What the engine would have made of an answer's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recount {
    /// Tokens that may be billed: those before the first that ends the turn or is not in the vocabulary, up to
    /// the one that completes a stop string.
    pub tokens: u32,
    /// Of these, the ones that say nothing: control tokens, and numbers that the vocabulary only reserves.
    pub silent: u32,
    /// What they say, as far as no stop string could still begin in it.
    pub text: String,
    /// The rest, which is said only when the answer ends: it could have begun a stop string, or is half a
    /// character. Empty after a stop string.
    pub held: String,
}

impl Tokenizer {
    /// Opens a GGUF file, with or without weights, or a Hugging Face folder. Reads no weights.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] and its neighbours; the files may be a stranger's.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        Checkpoint::open_tokenizer(path)
    }

    pub(crate) fn new(digest: Digest, vocabulary: Vocabulary, template: ChatTemplate) -> Self {
        Self {
            digest,
            vocabulary,
            template,
        }
    }

    /// What receipts call it; see the module's doc.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Counts an answer's tokens as the engine does while it makes them. `stop` are the request's stop strings.
    #[must_use]
    pub fn recount(&self, tokens: &[u32], stop: &[String]) -> Recount {
        let mut stream = TextStream::new(stop.to_vec());
        let mut recount = Recount::default();
        for &token in tokens {
            let known = usize::try_from(token).is_ok_and(|at| at < self.vocabulary.len());
            if self.vocabulary.ends_turn(token) || !known {
                break;
            }
            recount.tokens = recount.tokens.saturating_add(1);
            let bytes = self.vocabulary.bytes(token);
            if bytes.is_none() {
                recount.silent = recount.silent.saturating_add(1);
            }
            let delta = stream.push(bytes.unwrap_or_default());
            recount.text.push_str(&delta.text);
            if delta.stopped {
                return recount;
            }
        }
        recount.held = stream.finish();
        recount
    }
}

/// Says which, and nothing of what is in it.
impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("digest", &self.digest)
            .field("vocabulary", &self.vocabulary.len())
            .finish_non_exhaustive()
    }
}

impl Tokens for Tokenizer {
    fn prepare(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError> {
        let rendered = self.template.render(messages, self.vocabulary.markers())?;
        self.vocabulary.encode(&rendered)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut tokens = Vec::new();
        self.vocabulary.encode_plain(text, &mut tokens)?;
        Ok(tokens)
    }

    fn encode_whole(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.vocabulary.encode_text(text)
    }

    fn bytes(&self, token: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(token)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary.len()
    }
}

/// The digest of the tokenizer in a GGUF file's header.
pub(crate) fn digest_of_header(header: &Header) -> Digest {
    let mut hash = Hash::new(GGUF_DOMAIN);
    let entries = header
        .metadata
        .iter()
        .filter(|(key, _)| key.starts_with("tokenizer."));
    for (key, value) in entries {
        hash.bytes(key.as_bytes());
        hash.value(value);
    }
    hash.finish()
}

/// The digest of the tokenizer of a folder, from the digests of its small files.
pub(crate) fn digest_of_files(files: &mut [(String, u64, Digest)]) -> Digest {
    let mut hash = Hash::new(FOLDER_DOMAIN);
    hash.raw(folder_digest(files).as_bytes());
    hash.finish()
}

struct Hash(Context);

impl Hash {
    fn new(domain: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(domain);
        Self(context)
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The reader's limits on strings and arrays are far below 2³².
    fn count(&mut self, count: usize) {
        self.raw(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Unsigned(number) => self.one(0, &number.to_le_bytes()),
            Value::Signed(number) => self.one(1, &number.to_le_bytes()),
            Value::Float(number) => self.one(2, &number.to_le_bytes()),
            Value::Bool(flag) => self.one(3, &[u8::from(*flag)]),
            Value::Text(text) => {
                self.raw(&[4]);
                self.bytes(text.as_bytes());
            }
            Value::Texts(texts) => {
                self.raw(&[5]);
                self.count(texts.len());
                for text in texts {
                    self.bytes(text.as_bytes());
                }
            }
            Value::Integers(numbers) => {
                self.raw(&[6]);
                self.count(numbers.len());
                for number in numbers {
                    self.raw(&number.to_le_bytes());
                }
            }
            Value::Floats(numbers) => {
                self.raw(&[7]);
                self.count(numbers.len());
                for number in numbers {
                    self.raw(&number.to_le_bytes());
                }
            }
        }
    }

    fn one(&mut self, kind: u8, bytes: &[u8]) {
        self.raw(&[kind]);
        self.raw(bytes);
    }

    fn finish(self) -> Digest {
        let mut bytes = [0; Digest::LENGTH];
        for (to, from) in bytes.iter_mut().zip(self.0.finish().as_ref()) {
            *to = *from;
        }
        Digest::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name)
    }

    fn header(more: &[(&str, Value)]) -> Header {
        let all = [
            ("general.name", Value::Text("m".to_owned())),
            ("tokenizer.a", Value::Unsigned(1)),
            ("tokenizer.b", Value::Signed(-1)),
            ("tokenizer.c", Value::Float(0.5)),
            ("tokenizer.d", Value::Bool(true)),
            ("tokenizer.e", Value::Text("né".to_owned())),
            (
                "tokenizer.f",
                Value::Texts(vec!["x".to_owned(), String::new()]),
            ),
            ("tokenizer.g", Value::Integers(vec![3, -4])),
            ("tokenizer.h", Value::Floats(vec![-2.0])),
        ];
        let metadata: BTreeMap<String, Value> = all
            .iter()
            .chain(more)
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        Header {
            metadata,
            tensors: BTreeMap::new(),
        }
    }

    /// Computed by Python: `struct.pack` of the lines in the module's doc, and `hashlib`.
    #[test]
    fn the_digest_is_of_the_bytes_that_the_documentation_names() {
        assert_eq!(digest_of_header(&header(&[])).to_string(), GOLDEN);
    }

    const GOLDEN: &str = "042cb750ef38f8e765eff696850a8d4692f96b8569a1bfd9f523fbbe28e79dfc";

    #[test]
    fn the_digest_is_of_the_tokenizer_alone_and_of_all_of_it() {
        let plain = digest_of_header(&header(&[]));
        let renamed = header(&[("general.name", Value::Text("other".to_owned()))]);
        assert_eq!(digest_of_header(&renamed), plain);
        for more in [
            ("tokenizer.a", Value::Signed(1)),
            (
                "tokenizer.f",
                Value::Texts(vec![String::new(), "x".to_owned()]),
            ),
            ("tokenizer.chat_template", Value::Text(String::new())),
        ] {
            assert_ne!(digest_of_header(&header(&[more])), plain);
        }
    }

    #[test]
    fn a_folder_and_its_copy_without_weights_have_the_same_digest() {
        let whole = folder("tiny-llama");
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&whole).unwrap() {
            let entry = entry.unwrap();
            if entry.path().extension().is_some_and(|kind| kind == "json") {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        let checkpoint = Checkpoint::open(&whole, &mut |_, _| {}).unwrap();
        let alone = Tokenizer::open(copy.path()).unwrap();
        assert_eq!(alone.digest(), checkpoint.tokenizer().unwrap().digest());
        let config = copy.path().join("tokenizer_config.json");
        let mut text = std::fs::read_to_string(&config).unwrap();
        text.push('\n');
        std::fs::write(&config, text).unwrap();
        let changed = Tokenizer::open(copy.path()).unwrap();
        assert_ne!(changed.digest(), alone.digest());
    }

    #[test]
    fn an_answer_is_recounted_as_the_engine_counts() {
        let tokenizer = Tokenizer::open(&folder("tiny-llama")).unwrap();
        let text = "one END two";
        let tokens = tokenizer.encode(text).unwrap();
        let all = u32::try_from(tokens.len()).unwrap();
        let plain = tokenizer.recount(&tokens, &[]);
        assert_eq!(
            (plain.text.as_str(), plain.tokens, plain.silent),
            (text, all, 0)
        );
        // Up to the token that completes the stop string, and no further.
        let stopped = tokenizer.recount(&tokens, &["END".to_owned()]);
        assert_eq!(stopped.text, "one ");
        assert!(stopped.tokens < all && stopped.held.is_empty());
        // What may yet become a stop string is held.
        let held = tokenizer.recount(&tokenizer.encode("one E").unwrap(), &["END".to_owned()]);
        assert_eq!((held.text.as_str(), held.held.as_str()), ("one ", "E"));
        // A token that ends the turn, or none at all, and what comes after it, is nothing to be paid.
        let end = tokenizer.vocabulary.end_tokens()[0];
        for odd in [end, u32::MAX] {
            let mut padded = tokens.clone();
            padded.push(odd);
            padded.extend(&tokens);
            assert_eq!(tokenizer.recount(&padded, &[]), plain);
        }
    }
}
