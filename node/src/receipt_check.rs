//! Is a receipt what it seems? Factor by factor, with nothing believed but two keys: the pinned
//! attestation root and the chain's blocks.
//!
//! 1. The document can be read, and its labels agree with what is signed.
//! 2. The receipt key signed the receipt (Ed25519 over canonical bytes).
//! 3. The sums are right: price × tokens = amount, and time runs forward.
//! 4. The evidence binds that key to an enclave: it is the evidence the receipt names, for the same
//!    worker and the same model, appraised as of the moment the job ended, with the collateral in
//!    the document. So a document is as good years later, when Intel no longer serves that collateral.
//!
//! What needs the chain is one block: that the evidence was not made before it. Without a chain
//! and without a block from its owner that factor is skipped, and a receipt with a skipped factor
//! is not verified.
//!
//! What it does not show: that the moment is true (the worker wrote it, within the hours that the
//! evidence was valid), and what was asked and answered, to which the receipt holds only salted
//! commitments; [`crate::receipt_recount`] opens them. A factor that was not looked at never
//! counts as passed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_actors::gateway_port::{BeaconReference, RECEIPT_FORMAT, ReceiptDocument};
use cocoon_attestation::{Check, Expectation, FactorResult, Verifier};
use cocoon_protocol::evidence::{Beacon, EvidenceBundle};
use cocoon_protocol::receipt::{Receipt, SignedReceipt};
use cocoon_protocol::units::NanoTon;
use serde::Serialize;

/// Largest receipt document, bytes: evidence in base64 and some labels.
pub const MAX_DOCUMENT_BYTES: usize = 512 * 1024;

/// One line of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub result: FactorResult,
    /// True if the receipt cannot be verified without it.
    pub required: bool,
    /// Why.
    pub reason: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// True only if every required factor was looked at and passed.
    pub verified: bool,
    /// The root the evidence was judged under: `intel` or `simulated`.
    pub trust: String,
    /// What the receipt says, once it could be read.
    pub receipt: Option<Statement>,
    /// In order.
    pub factors: Vec<Line>,
}

/// A receipt's content for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statement {
    job: String,
    worker: String,
    client: String,
    model: String,
    model_digest: String,
    prompt_tokens: u32,
    output_tokens: u32,
    price_input_nanoton: u64,
    price_output_nanoton: u64,
    amount_nanoton: u64,
    channel: String,
    cumulative_nanoton: u64,
    ending: &'static str,
    started_unix_ms: u64,
    ended_unix_ms: u64,
    evidence: String,
    request_commitment: String,
    response_commitment: String,
    tokens_commitment: Option<String>,
    tokenizer: Option<String>,
    receipt_key: String,
    leaf: String,
}

impl Statement {
    /// Name and value of each line, in order.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        vec![
            ("receipt", self.leaf.clone()),
            ("job", self.job.clone()),
            ("worker", self.worker.clone()),
            ("client", self.client.clone()),
            ("model", self.model.clone()),
            ("model digest", self.model_digest.clone()),
            ("tokenizer", none(&self.tokenizer)),
            ("prompt tokens", self.prompt_tokens.to_string()),
            ("output tokens", self.output_tokens.to_string()),
            (
                "price",
                format!(
                    "{} and {} nanoTON a token",
                    self.price_input_nanoton, self.price_output_nanoton
                ),
            ),
            ("amount", format!("{} nanoTON", self.amount_nanoton)),
            ("channel", self.channel.clone()),
            (
                "channel's total",
                format!("{} nanoTON", self.cumulative_nanoton),
            ),
            ("ending", self.ending.to_owned()),
            ("started", format!("{} ms since 1970", self.started_unix_ms)),
            ("ended", format!("{} ms since 1970", self.ended_unix_ms)),
            ("evidence", self.evidence.clone()),
            ("receipt key", self.receipt_key.clone()),
            ("request commitment", self.request_commitment.clone()),
            ("response commitment", self.response_commitment.clone()),
            ("tokens commitment", none(&self.tokens_commitment)),
        ]
    }
}

/// What is known of the block that the evidence names.
#[derive(Clone, Debug)]
pub enum Block {
    /// This is the block of that number, says the chain or the person who asks.
    Known(Beacon),
    /// Nobody was asked, or nobody answered: why.
    Unknown(String),
}

/// The document's parts, before anything is believed.
#[derive(Debug)]
pub struct Opened {
    document: ReceiptDocument,
    signed: SignedReceipt,
    bundle: Option<EvidenceBundle>,
}

/// Why the document cannot even be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Larger than any receipt.
    #[error("the document has {bytes} bytes, a receipt has at most {MAX_DOCUMENT_BYTES}")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// Not JSON of the right shape.
    #[error("not a receipt document: {0}")]
    NotADocument(#[from] serde_json::Error),
    /// Another format or version.
    #[error("format `{found}`, this version reads `{RECEIPT_FORMAT}`")]
    Format {
        /// What it says.
        found: String,
    },
    /// Base64 that is none.
    #[error("`{field}` is not base64: {source}")]
    NotBase64 {
        /// Which.
        field: &'static str,
        /// Why.
        source: base64::DecodeError,
    },
    /// Bytes that are no receipt or no evidence.
    #[error("`{field}` does not decode: {source}")]
    NotWire {
        /// Which.
        field: &'static str,
        /// Why.
        source: cocoon_protocol::wire::WireError,
    },
}

impl Opened {
    /// Takes a document apart.
    ///
    /// # Errors
    /// [`OpenError`]. Whoever made the document made no receipt.
    pub fn read(bytes: &[u8]) -> Result<Self, OpenError> {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(OpenError::TooLarge { bytes: bytes.len() });
        }
        Self::from_document(serde_json::from_slice(bytes)?)
    }

    /// The same, for a document that is already parsed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn from_document(document: ReceiptDocument) -> Result<Self, OpenError> {
        if document.format != RECEIPT_FORMAT {
            return Err(OpenError::Format {
                found: document.format.chars().take(64).collect(),
            });
        }
        let decode = |field, text: &str| {
            BASE64
                .decode(text)
                .map_err(|source| OpenError::NotBase64 { field, source })
        };
        let field = "signed_receipt";
        let signed = SignedReceipt::decode(&decode(field, &document.signed_receipt)?)
            .map_err(|source| OpenError::NotWire { field, source })?;
        let field = "evidence";
        let bundle = match &document.evidence {
            None => None,
            Some(text) => Some(
                EvidenceBundle::decode(&decode(field, text)?)
                    .map_err(|source| OpenError::NotWire { field, source })?,
            ),
        };
        Ok(Self {
            document,
            signed,
            bundle,
        })
    }

    /// The block that the evidence says it was made after: to be fetched from the chain.
    #[must_use]
    pub fn claimed_beacon(&self) -> Option<Beacon> {
        self.bundle.as_ref().map(|bundle| bundle.claims.beacon)
    }

    /// The receipt, if the key that it names has signed it.
    ///
    /// # Errors
    /// Why it is none.
    pub fn receipt(&self) -> Result<Receipt, cocoon_protocol::WireError> {
        self.signed
            .verify()
            .map(cocoon_protocol::Verified::into_inner)
    }

    /// What the receipt says, if it can be read at all; whether anybody signed it is another matter.
    #[must_use]
    pub fn statement(&self) -> Option<Statement> {
        let receipt = Receipt::decode(&self.signed.receipt).ok()?;
        Some(statement(self, &receipt))
    }

    /// Its name, if the key that it names has signed it.
    #[must_use]
    pub fn leaf_of_signed(&self) -> Option<String> {
        self.signed
            .verify()
            .ok()
            .map(|_| self.signed.leaf().to_string())
    }

    /// What opens the commitments, if the document says it.
    #[must_use]
    pub fn salt(&self) -> Option<&str> {
        self.document.salt.as_deref()
    }
}

/// Checks everything.
#[must_use]
pub fn check(opened: &Opened, verifier: &Verifier, block: &Block) -> Report {
    let mut lines = Lines::default();
    let receipt = match opened.signed.verify() {
        Ok(receipt) => {
            lines.pass(
                "receipt_signature",
                "signed by the receipt key that it names",
            );
            Some(receipt)
        }
        Err(error) => {
            lines.fail("receipt_signature", &error.to_string());
            None
        }
    };
    if let Some(receipt) = receipt.as_deref() {
        labels(&mut lines, opened, receipt);
        sums(&mut lines, receipt);
        evidence(&mut lines, opened, receipt, verifier, block);
    } else {
        for name in [
            "document_labels",
            "receipt_amount",
            "receipt_times",
            "receipt_key_attested",
        ] {
            lines.skip(name, "not reached: the signature is wrong");
        }
    }
    Report {
        verified: lines.0.iter().all(|line| match line.result {
            FactorResult::Pass => true,
            FactorResult::Fail => false,
            FactorResult::Skip => !line.required,
        }),
        trust: verifier.trust().name().to_owned(),
        // Shown even when the signature is wrong, and judged only when it is right.
        receipt: opened.statement(),
        factors: lines.0,
    }
}

fn labels(lines: &mut Lines, opened: &Opened, receipt: &Receipt) {
    let leaf = opened.signed.leaf().to_string();
    let document = &opened.document;
    let beacon = opened.claimed_beacon().map(BeaconReference::from);
    if document.beacon.is_some() && document.beacon != beacon {
        lines.fail(
            "document_labels",
            "the document names another block than its evidence",
        );
    } else if document.id == leaf && document.job == receipt.job.to_string() {
        lines.pass(
            "document_labels",
            "id and job are those of the signed receipt",
        );
    } else {
        let reason = format!("the signed receipt is {leaf} of job {}", receipt.job);
        lines.fail("document_labels", &reason);
    }
}

fn sums(lines: &mut Lines, receipt: &Receipt) {
    // The prompt is charged with the first token of the answer: no answer, no charge.
    let total = match receipt.output_tokens {
        0 => Some(NanoTon::ZERO),
        output => receipt.price.cost(receipt.prompt_tokens, output),
    };
    let says = format!(
        "{} × {} + {} × {} nanoTON",
        receipt.prompt_tokens,
        receipt.price.input.nano(),
        receipt.output_tokens,
        receipt.price.output.nano()
    );
    if total == Some(receipt.amount) {
        lines.pass(
            "receipt_amount",
            &format!("{says} = {}", receipt.amount.nano()),
        );
    } else {
        lines.fail(
            "receipt_amount",
            &format!("{says} is not {}", receipt.amount.nano()),
        );
    }
    let took = receipt.ended.millis().checked_sub(receipt.started.millis());
    match took {
        Some(took) => lines.pass("receipt_times", &format!("took {took} ms")),
        None => lines.fail("receipt_times", "it ended before it started"),
    }
}

fn evidence(
    lines: &mut Lines,
    opened: &Opened,
    receipt: &Receipt,
    verifier: &Verifier,
    block: &Block,
) {
    let Some(bundle) = &opened.bundle else {
        lines.skip("receipt_key_attested", "the document holds no evidence");
        return;
    };
    if bundle.claims.receipt_key == *receipt.receipt_key.as_bytes() {
        lines.pass(
            "receipt_key_attested",
            "the evidence claims the key that signed the receipt",
        );
    } else {
        lines.fail(
            "receipt_key_attested",
            "the evidence claims another receipt key",
        );
    }
    // Where the block cannot be compared it is assumed here, so that all that comes after it is
    // looked at; below it is said that it was not.
    let beacon = match block {
        Block::Known(beacon) => *beacon,
        Block::Unknown(_) => bundle.claims.beacon,
    };
    let beacons = [beacon];
    let expectation = Expectation::new(
        receipt.worker,
        receipt.model_digest,
        receipt.evidence,
        &beacons,
    );
    let verdict = verifier.examine(receipt.ended, bundle, &expectation);
    lines.0.extend(verdict.factors.iter().map(|factor| {
        if let Block::Unknown(why) = block
            && factor.name == Check::Beacon.name()
            && factor.result == FactorResult::Pass
        {
            return Line {
                name: format!("evidence.{}", factor.name),
                result: FactorResult::Skip,
                required: true,
                reason: format!(
                    "block {} {} was not compared with the chain: {why}",
                    beacon.seqno, beacon.hash
                ),
            };
        }
        let differs = if factor.result == FactorResult::Fail && !factor.seen.is_empty() {
            format!(" (seen {}, wanted {})", factor.seen, factor.wanted)
        } else {
            String::new()
        };
        Line {
            name: format!("evidence.{}", factor.name),
            result: factor.result,
            required: factor.required,
            reason: format!("{}{differs}", factor.reason),
        }
    }));
    // The verdict's own rule is stricter than a sum of its lines: none may be missing.
    match (verdict.accepted(), block) {
        (true, Block::Known(_)) => lines.pass("evidence", "accepted as of the end of the job"),
        (true, Block::Unknown(_)) => lines.skip(
            "evidence",
            "as of the end of the job all is in order but the block, which was not compared",
        ),
        (false, _) => lines.fail("evidence", "refused"),
    }
}

fn statement(opened: &Opened, receipt: &Receipt) -> Statement {
    Statement {
        job: receipt.job.to_string(),
        worker: receipt.worker.to_string(),
        client: receipt.client.to_string(),
        model: receipt.model.clone(),
        model_digest: receipt.model_digest.to_string(),
        prompt_tokens: receipt.prompt_tokens,
        output_tokens: receipt.output_tokens,
        price_input_nanoton: receipt.price.input.nano(),
        price_output_nanoton: receipt.price.output.nano(),
        amount_nanoton: receipt.amount.nano(),
        channel: receipt.channel.to_string(),
        cumulative_nanoton: receipt.cumulative.nano(),
        ending: receipt.ending.label(),
        started_unix_ms: receipt.started.millis(),
        ended_unix_ms: receipt.ended.millis(),
        evidence: receipt.evidence.to_string(),
        request_commitment: receipt.request_commitment.to_string(),
        response_commitment: receipt.response_commitment.to_string(),
        tokens_commitment: receipt.tokens_commitment.map(|digest| digest.to_string()),
        tokenizer: receipt.tokenizer.map(|digest| digest.to_string()),
        receipt_key: receipt.receipt_key.to_string(),
        leaf: opened.signed.leaf().to_string(),
    }
}

/// The lines of a report as they are found.
#[derive(Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    pub(crate) fn pass(&mut self, name: &str, reason: &str) {
        self.push(name, FactorResult::Pass, true, reason);
    }

    pub(crate) fn fail(&mut self, name: &str, reason: &str) {
        self.push(name, FactorResult::Fail, true, reason);
    }

    /// Required, and not looked at.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.push(name, FactorResult::Skip, true, reason);
    }

    /// Not looked at, and not required.
    pub(crate) fn note(&mut self, name: &str, reason: &str) {
        self.push(name, FactorResult::Skip, false, reason);
    }

    pub(crate) fn push(&mut self, name: &str, result: FactorResult, required: bool, reason: &str) {
        self.0.push(Line {
            name: name.to_owned(),
            result,
            required,
            reason: reason.to_owned(),
        });
    }

    pub(crate) fn into_lines(self) -> Vec<Line> {
        self.0
    }
}

#[cfg(test)]
#[path = "receipt_check_tests.rs"]
mod tests;
