//! Was a job billed for what was there? Opens a receipt's commitments with the salt, renders and tokenises the
//! prompt again, counts the answer again, and says what should have been billed.
//!
//! With the numbers of the answer's tokens (`return_token_ids`) the count is exact: the receipt commits to them,
//! and they are counted by the engine's own rule. A number too many is then proven by the worker's own signature.
//! Without them the text is tokenised again. A model need not write a text in the tokens that a tokenizer would
//! choose, so that count is only near, and [`tolerance`] says how near. The prompt is always exact.
//!
//! What cannot be seen: whether the model could have answered in fewer tokens.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_actors::gateway_port::JobSubmission;
use cocoon_actors::job::chat::{EMBEDDING_OUTPUT_TOKENS, to_engine};
use cocoon_actors::job::embedding::encode;
use cocoon_attestation::FactorResult;
use cocoon_inference::upstream::Tokens;
use cocoon_inference::{EngineError, Tokenizer};
use cocoon_protocol::receipt::Receipt;
use cocoon_protocol::{Digest, NanoTon, Salt};
use serde::{Deserialize, Serialize};

use crate::http::openai::{embedding, request};
use crate::receipt_check::{Line, Lines, Opened};

/// Largest request or response that is read, bytes: more than the gateway ever sends.
pub const MAX_PAPER_BYTES: usize = 64 * 1024 * 1024;
/// Answers in one response.
const MAX_ANSWERS: usize = 8;

/// How a recount came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Exactly what was billed, or more.
    Agrees,
    /// As near to what was billed as text without its tokens can show.
    WithinTolerance,
    /// More was billed than was there.
    Overbilled,
    /// What the worker signed contradicts itself: the tokens do not say the text.
    Contradiction,
    /// These are not the request, the response, the salt or the model of this receipt.
    NotComparable,
}

impl Finding {
    /// Whether there is nothing to complain of.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Agrees | Self::WithinTolerance)
    }
}

/// A number of tokens, as billed and as counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// In the receipt.
    pub billed: u32,
    /// Here.
    pub recounted: u32,
    /// How many more may have been billed without a complaint; 0 where the count is exact.
    pub tolerance: u32,
}

impl Count {
    fn over(self) -> u32 {
        let most = self.recounted.saturating_add(self.tolerance);
        self.billed.saturating_sub(most)
    }

    /// What is not disputed.
    fn fair(self) -> u32 {
        self.billed.saturating_sub(self.over())
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Recounted {
    /// In one word.
    pub finding: Finding,
    /// Whether it follows from what the worker signed, with nothing left to estimate.
    pub proven: bool,
    /// Name of the receipt.
    pub receipt: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<Count>,
    /// Tokens of the answers.
    pub output_tokens: Option<Count>,
    /// Of these, the ones that say nothing; known only with their numbers.
    pub silent_tokens: Option<u32>,
    /// Billed, nanoTON.
    pub amount_nanoton: Option<u64>,
    /// Billed and not owed, nanoTON.
    pub overbilled_nanoton: Option<u64>,
    /// What was looked at, in order.
    pub factors: Vec<Line>,
}

/// What the client has kept of a job.
#[derive(Clone, Copy, Debug)]
pub struct Papers<'a> {
    /// The body that was sent to the gateway.
    pub request: &'a [u8],
    /// The body that came back, not streamed.
    pub response: &'a [u8],
    /// What opens the receipt; without it the one in the document.
    pub salt: Option<Salt>,
}

/// How far above a count of re-encoded text a bill may be: four tokens for each answer, one in twenty, and the
/// stop string, which is billed and not said.
#[must_use]
pub fn tolerance(recounted: u32, answers: u32, stop_tokens: u32) -> u32 {
    let near = recounted.div_ceil(20);
    let each = stop_tokens.saturating_add(4);
    near.saturating_add(each.saturating_mul(answers))
}

/// Recounts.
#[must_use]
pub fn recount(opened: &Opened, papers: &Papers<'_>, tokenizer: &Tokenizer) -> Recounted {
    let mut lines = Lines::default();
    let found = compare(opened, papers, tokenizer, &mut lines);
    let mut recounted = found.unwrap_or(Recounted {
        finding: Finding::NotComparable,
        proven: false,
        receipt: None,
        prompt_tokens: None,
        output_tokens: None,
        silent_tokens: None,
        amount_nanoton: None,
        overbilled_nanoton: None,
        factors: Vec::new(),
    });
    recounted.receipt = opened.leaf_of_signed();
    recounted.factors = lines.into_lines();
    recounted
}

/// `None` as soon as something shows that there is nothing to compare.
fn compare(
    opened: &Opened,
    papers: &Papers<'_>,
    tokenizer: &Tokenizer,
    lines: &mut Lines,
) -> Option<Recounted> {
    let receipt = signed(opened, lines)?;
    let salt = salt(opened, papers, lines)?;
    let job = asked(&receipt, &salt, papers.request, lines)?;
    let answers = answered(&receipt, &salt, papers.response, lines)?;
    same_tokenizer(receipt.tokenizer, tokenizer.digest(), lines)?;
    let prompt = Count {
        billed: receipt.prompt_tokens,
        recounted: prompt(&job, tokenizer, lines)?,
        tolerance: 0,
    };
    told(lines, "prompt_tokens", prompt);
    let output = output(&receipt, &salt, &job, &answers, tokenizer, lines)?;
    told(lines, "output_tokens", output.count);
    let owed = match output.count.fair() {
        0 => NanoTon::ZERO,
        tokens => receipt.price.cost(prompt.fair(), tokens)?,
    };
    let over = receipt.amount.saturating_sub(owed);
    let overbilled = prompt.over() > 0 || output.count.over() > 0;
    let finding = match (output.contradicts, overbilled, output.exact) {
        (true, ..) => Finding::Contradiction,
        (_, true, _) => Finding::Overbilled,
        (_, _, true) => Finding::Agrees,
        (_, _, false) if output.count.billed <= output.count.recounted => Finding::Agrees,
        _ => Finding::WithinTolerance,
    };
    Some(Recounted {
        finding,
        // The prompt alone convicts; the answer only where each of its tokens is known.
        proven: receipt.tokenizer.is_some() && (prompt.over() > 0 || output.exact),
        receipt: None,
        prompt_tokens: Some(prompt),
        output_tokens: Some(output.count),
        silent_tokens: output.exact.then_some(output.silent),
        amount_nanoton: Some(receipt.amount.nano()),
        overbilled_nanoton: Some(if overbilled { over.nano() } else { 0 }),
        factors: Vec::new(),
    })
}

fn signed(opened: &Opened, lines: &mut Lines) -> Option<Receipt> {
    match opened.receipt() {
        Ok(receipt) => {
            lines.pass(
                "receipt_signature",
                "signed by the receipt key that it names; whose key that is says `cocoon receipt verify`",
            );
            Some(receipt)
        }
        Err(error) => {
            lines.fail("receipt_signature", &error.to_string());
            None
        }
    }
}

fn salt(opened: &Opened, papers: &Papers<'_>, lines: &mut Lines) -> Option<Salt> {
    let stated = opened.salt().map(str::parse::<Salt>);
    match (papers.salt, stated) {
        (Some(salt), _) | (None, Some(Ok(salt))) => Some(salt),
        (None, Some(Err(error))) => {
            lines.fail("request_opens", &error.to_string());
            None
        }
        (None, None) => {
            lines.skip(
                "request_opens",
                "there is no salt: say --salt, or export the receipt with --open",
            );
            None
        }
    }
}

/// The request in the form that travelled, if the receipt commits to it.
fn asked(receipt: &Receipt, salt: &Salt, body: &[u8], lines: &mut Lines) -> Option<JobSubmission> {
    let forms = [
        request::parse(body).ok().map(|chat| chat.submission),
        embedding::parse(body).ok().map(|texts| texts.submission),
        JobSubmission::decode(body).ok(),
    ];
    let opens = |job: &JobSubmission| {
        let encoded = job.encode();
        encoded.is_ok_and(|bytes| salt.request(&bytes) == receipt.request_commitment)
    };
    let mut readable = forms.into_iter().flatten().peekable();
    if readable.peek().is_none() {
        lines.fail("request_opens", "it is no request that this gateway takes");
        return None;
    }
    let found = readable.find(opens);
    match &found {
        Some(_) => lines.pass("request_opens", "the receipt commits to this request"),
        None => lines.fail(
            "request_opens",
            "the receipt commits to another request, or under another salt",
        ),
    }
    found
}

/// The answers as the receipt commits to them.
struct Answers {
    texts: Vec<String>,
    /// Where the response has them.
    ids: Option<Vec<Vec<u32>>>,
}

/// What is read of a response: a chat completion, or a list of embeddings.
#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    data: Vec<Embedded>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: usize,
    message: Message,
    #[serde(default)]
    token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

#[derive(Deserialize)]
struct Embedded {
    embedding: Numbers,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Numbers {
    Floats(Vec<f32>),
    Base64(String),
}

impl Numbers {
    fn floats(self) -> Option<Vec<f32>> {
        match self {
            Self::Floats(numbers) => Some(numbers),
            Self::Base64(text) => {
                let bytes = BASE64.decode(text).ok()?;
                let (numbers, rest) = bytes.as_chunks::<4>();
                let floats = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes));
                rest.is_empty().then(|| floats.collect())
            }
        }
    }
}

fn read(body: &[u8]) -> Option<Answers> {
    let Response { mut choices, data } = serde_json::from_slice(body).ok()?;
    if choices.is_empty() {
        let embeddings: Option<Vec<_>> =
            data.into_iter().map(|one| one.embedding.floats()).collect();
        let text = encode(&embeddings.filter(|all| !all.is_empty())?).ok()?;
        return Some(Answers {
            texts: vec![text],
            ids: None,
        });
    }
    choices.sort_by_key(|choice| choice.index);
    let in_order = choices
        .iter()
        .enumerate()
        .all(|(at, choice)| choice.index == at);
    if !in_order || choices.len() > MAX_ANSWERS {
        return None;
    }
    let ids = choices
        .iter()
        .map(|choice| choice.token_ids.clone())
        .collect();
    let texts = choices.into_iter().map(|choice| choice.message.content);
    Some(Answers {
        texts: texts.collect(),
        ids,
    })
}

fn answered(receipt: &Receipt, salt: &Salt, body: &[u8], lines: &mut Lines) -> Option<Answers> {
    let Some(answers) = read(body) else {
        lines.fail(
            "response_opens",
            "it is neither a whole chat completion nor a list of embeddings",
        );
        return None;
    };
    if salt.response(&answers.texts) == receipt.response_commitment {
        lines.pass("response_opens", "the receipt commits to this answer");
        Some(answers)
    } else {
        lines.fail("response_opens", "the receipt commits to another answer");
        None
    }
}

fn same_tokenizer(named: Option<Digest>, here: Digest, lines: &mut Lines) -> Option<()> {
    match named {
        Some(named) if named == here => {
            lines.pass("tokenizer", "the model's tokenizer is the one that counted");
            Some(())
        }
        Some(named) => {
            let reason = format!("the receipt was counted with {named}, the model's is {here}");
            lines.fail("tokenizer", &reason);
            None
        }
        None => {
            lines.note(
                "tokenizer",
                "the receipt names none, so nothing found here is proven",
            );
            Some(())
        }
    }
}

/// Counts the prompt as an engine does.
fn prompt(job: &JobSubmission, tokenizer: &Tokenizer, lines: &mut Lines) -> Option<u32> {
    let counted = match &job.embedding {
        Some(wish) => wish.input.iter().try_fold(0_usize, |sum, text| {
            let tokens = tokenizer.encode_whole(text)?;
            Ok::<_, EngineError>(sum.saturating_add(tokens.len()))
        }),
        None => tokenizer.prepare(&to_engine(job).0).map(|all| all.len()),
    };
    match counted {
        Ok(tokens) => Some(u32::try_from(tokens).unwrap_or(u32::MAX)),
        Err(_) => {
            lines.fail("prompt_tokens", "the model's template refuses this request");
            None
        }
    }
}

struct Output {
    count: Count,
    exact: bool,
    silent: u32,
    contradicts: bool,
}

fn output(
    receipt: &Receipt,
    salt: &Salt,
    job: &JobSubmission,
    answers: &Answers,
    tokenizer: &Tokenizer,
    lines: &mut Lines,
) -> Option<Output> {
    let count = |recounted, tolerance| Count {
        billed: receipt.output_tokens,
        recounted,
        tolerance,
    };
    if job.embedding.is_some() {
        lines.note("tokens_open", "embeddings are billed as one token");
        return Some(Output {
            count: count(EMBEDDING_OUTPUT_TOKENS, 0),
            exact: true,
            silent: 0,
            contradicts: false,
        });
    }
    match (&answers.ids, receipt.tokens_commitment) {
        (Some(ids), Some(commitment)) => {
            if salt.tokens(ids) != commitment {
                lines.fail("tokens_open", "the receipt commits to other tokens");
                return None;
            }
            lines.pass("tokens_open", "the receipt commits to these tokens");
            let (mut tokens, mut silent, mut contradicts) = (0_u32, 0_u32, false);
            for (ids, text) in ids.iter().zip(&answers.texts) {
                let said = tokenizer.recount(ids, &job.stop);
                tokens = tokens.saturating_add(said.tokens);
                silent = silent.saturating_add(said.silent);
                // What is held back is said at an answer's end, and not where it broke off.
                contradicts |= *text != said.text && *text != format!("{}{}", said.text, said.held);
            }
            if contradicts {
                lines.fail(
                    "answer_text",
                    "the tokens say something else than the answer",
                );
            } else {
                lines.pass("answer_text", "the tokens say the answer");
            }
            Some(Output {
                count: count(tokens, 0),
                exact: true,
                silent,
                contradicts,
            })
        }
        (ids, commitment) => {
            let why = match (ids, commitment) {
                (None, Some(_)) => "the response has no `token_ids`; ask with return_token_ids",
                _ => "the worker's engine has no numbers of tokens",
            };
            lines.note(
                "tokens_open",
                &format!("{why}; the text is tokenised again"),
            );
            estimate(receipt, job, answers, tokenizer, lines)
        }
    }
}

fn estimate(
    receipt: &Receipt,
    job: &JobSubmission,
    answers: &Answers,
    tokenizer: &Tokenizer,
    lines: &mut Lines,
) -> Option<Output> {
    let tokens =
        |text: &String| Some(u32::try_from(tokenizer.encode(text).ok()?.len()).unwrap_or(u32::MAX));
    let all: Option<Vec<u32>> = answers.texts.iter().map(tokens).collect();
    let stops: Option<Vec<u32>> = job.stop.iter().map(tokens).collect();
    let Some((all, stops)) = all.zip(stops) else {
        lines.fail("output_tokens", "the answer cannot be tokenised");
        return None;
    };
    let recounted = all.iter().copied().fold(0, u32::saturating_add);
    let answers = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let stop = stops.into_iter().max().unwrap_or(0);
    Some(Output {
        count: Count {
            billed: receipt.output_tokens,
            recounted,
            tolerance: tolerance(recounted, answers, stop),
        },
        exact: false,
        silent: 0,
        contradicts: false,
    })
}

fn told(lines: &mut Lines, name: &str, count: Count) {
    let Count {
        billed,
        recounted,
        tolerance,
    } = count;
    let reason = match tolerance {
        0 => format!("{billed} billed, {recounted} counted"),
        _ => format!("{billed} billed, about {recounted} counted (up to {tolerance} more pass)"),
    };
    let result = if count.over() > 0 {
        FactorResult::Fail
    } else {
        FactorResult::Pass
    };
    lines.push(name, result, true, &reason);
}

#[cfg(test)]
#[path = "receipt_recount_tests.rs"]
mod tests;
