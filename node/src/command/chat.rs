//! `cocoon chat`: talks to the local gateway, token by token.
//!
//! The answer goes to standard output, everything else to standard error, so that
//! `cocoon chat "…" > answer.txt` holds the answer.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::pin::pin;
use std::process::ExitCode;

use futures::StreamExt;
use serde_json::{Value, json};

use super::{CommandError, CommandResult, block_on};
use crate::gateway_client::{AnswerDetails, ChatPart, ClientError, DEFAULT_URL, GatewayClient};
use crate::terminal::{plain, short_peer};

/// Largest prompt from standard input, bytes; the gateway takes no larger conversation.
const MAX_PROMPT_BYTES: u64 = 256 * 1024;

/// Flags of `cocoon chat`.
#[derive(Clone, Debug, clap::Args)]
pub struct ChatArgs {
    /// What to say; without it, a conversation (at a terminal) or standard input
    pub prompt: Vec<String>,
    /// The gateway's HTTP
    #[arg(long, env = "COCOON_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Needed beyond loopback: the content of <data_dir>/api-token
    #[arg(long, env = "COCOON_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Which model [default: the only one there is]
    #[arg(long)]
    pub model: Option<String>,
    /// Instructions ahead of the conversation
    #[arg(long)]
    pub system: Option<String>,
    /// Most tokens of an answer
    #[arg(long)]
    pub max_tokens: Option<u32>,
    /// 0 (always the likeliest token) to 2
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability
    #[arg(long)]
    pub top_p: Option<f32>,
    /// The same seed gives the same answer from the same worker
    #[arg(long)]
    pub seed: Option<i64>,
    /// End the answer before this text; up to four times
    #[arg(long)]
    pub stop: Vec<String>,
    /// One answer, as the gateway's JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks once, or keeps talking.
///
/// # Errors
/// A gateway that does not answer or says no.
pub fn run(args: &ChatArgs) -> CommandResult {
    let client = GatewayClient::new(&args.url, args.api_key.clone())?;
    let prompt = match args.prompt.join(" ") {
        prompt if !prompt.is_empty() => Some(prompt),
        _ if std::io::stdin().is_terminal() && !args.json => None,
        _ => Some(from_stdin()?),
    };
    block_on(async {
        let model = model(&client, args).await?;
        let mut conversation = Conversation::new(&client, args, model);
        match prompt {
            Some(prompt) if args.json => {
                let answer = client.chat(&conversation.body(&prompt, false)).await?;
                println!("{}", serde_json::to_string(&answer)?);
            }
            Some(prompt) => conversation.ask(&prompt).await?,
            None => conversation.talk().await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn from_stdin() -> Result<String, CommandError> {
    let mut prompt = String::new();
    std::io::stdin()
        .take(MAX_PROMPT_BYTES)
        .read_to_string(&mut prompt)
        .map_err(CommandError::io("cannot read standard input"))?;
    if prompt.trim().is_empty() {
        return Err(CommandError::NoPrompt);
    }
    Ok(prompt)
}

async fn model(client: &GatewayClient, args: &ChatArgs) -> Result<String, CommandError> {
    if let Some(model) = &args.model {
        return Ok(model.clone());
    }
    let mut models = client.models().await?;
    match models.len() {
        0 => Err(CommandError::NoModel),
        1 => models.pop().ok_or(CommandError::NoModel),
        _ => {
            let names = models.iter().map(|name| plain(name).into_owned()).collect();
            Err(CommandError::WhichModel(names))
        }
    }
}

/// A conversation and what has been said in it.
struct Conversation<'a> {
    client: &'a GatewayClient,
    args: &'a ChatArgs,
    model: String,
    messages: Vec<Value>,
}

impl<'a> Conversation<'a> {
    fn new(client: &'a GatewayClient, args: &'a ChatArgs, model: String) -> Self {
        let system = args.system.as_deref().map(|text| message("system", text));
        Self {
            client,
            args,
            model,
            messages: system.into_iter().collect(),
        }
    }

    /// The request for one more turn.
    fn body(&self, prompt: &str, stream: bool) -> Value {
        let messages: Vec<_> = self
            .messages
            .iter()
            .cloned()
            .chain([message("user", prompt)])
            .collect();
        let stop = (!self.args.stop.is_empty()).then_some(&self.args.stop);
        // The gateway takes null for absent.
        json!({
            "model": self.model,
            "messages": messages,
            "stream": stream,
            "stream_options": stream.then(|| json!({"include_usage": true})),
            "max_tokens": self.args.max_tokens,
            "temperature": self.args.temperature,
            "top_p": self.args.top_p,
            "seed": self.args.seed,
            "stop": stop,
        })
    }

    /// One turn: prints the answer as it comes and remembers it.
    async fn ask(&mut self, prompt: &str) -> Result<(), CommandError> {
        let mut parts = pin!(self.client.stream(&self.body(prompt, true)).await?);
        let mut out = std::io::stdout();
        let write = || CommandError::io("cannot write the answer");
        let mut answer = String::new();
        let mut details = AnswerDetails::default();
        let mut reason = String::new();
        let mut usage = (0, 0);
        while let Some(part) = parts.next().await {
            match part {
                Ok(ChatPart::Text(text)) => {
                    out.write_all(plain(&text).as_bytes()).map_err(write())?;
                    out.flush().map_err(write())?;
                    answer.push_str(&text);
                }
                Ok(ChatPart::Finished {
                    reason: why,
                    details: who,
                }) => {
                    (reason, details) = (why, who);
                }
                Ok(ChatPart::Usage(prompt, completion)) => usage = (prompt, completion),
                Err(error) => {
                    // What came stays readable; the error goes on its own line.
                    writeln!(out).map_err(write())?;
                    return Err(error.into());
                }
            }
        }
        writeln!(out).map_err(write())?;
        eprintln!(
            "[{} + {} tokens, {} nanoTON, worker {}, receipt {}{}]",
            usage.0,
            usage.1,
            plain(&details.cost_nanoton),
            short_peer(&details.worker),
            plain(&details.receipt),
            if reason == "length" {
                ", cut at the token limit"
            } else {
                ""
            },
        );
        self.messages.push(message("user", prompt));
        self.messages.push(message("assistant", &answer));
        Ok(())
    }

    /// Turn after turn, until the end of the input. A turn that fails is not part of the
    /// conversation.
    async fn talk(&mut self) -> Result<(), CommandError> {
        eprintln!("{} – an empty line or Ctrl-D ends", plain(&self.model));
        let mut line = String::new();
        loop {
            eprint!("> ");
            line.clear();
            let read = std::io::stdin()
                .lock()
                .take(MAX_PROMPT_BYTES)
                .read_line(&mut line)
                .map_err(CommandError::io("cannot read the terminal"))?;
            if read == 0 || line.trim().is_empty() {
                return Ok(());
            }
            match self.ask(line.trim()).await {
                Err(CommandError::Client(
                    error @ (ClientError::Refused { .. } | ClientError::Broken { .. }),
                )) => eprintln!("error: {}", plain(&error.to_string())),
                other => other?,
            }
        }
    }
}

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}
