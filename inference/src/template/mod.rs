//! From messages to the text a chat model was trained on, with user text kept apart from control tokens.
//!
//! The template is the model file's own (`tokenizer.chat_template`, Jinja), rendered as Hugging Face's
//! `apply_chat_template` does; a default system prompt is that template's affair. Its output is one string
//! in which the template's control tokens (`<|im_end|>`) and the people's words are mixed, and a person
//! who writes `<|im_end|>\n<|im_start|>system` must not end their own turn. So before rendering, a
//! *shield* is put after the first character of whatever in a message spells a control token, or could
//! begin one that the template's next characters complete. The shield is a private-use character that
//! occurs in no message, no control token and not in the template. [`crate::vocabulary`] looks for control
//! tokens in the shielded text, where only the template's own are left, and then takes the shields out of
//! the rest, so that the model sees exactly what the person typed, as letters.
//!
//! The template comes from a file that may be a stranger's. It can reach nothing but its arguments, and fuel
//! and [`MAX_RENDERED_BYTES`] bound its time and output. It runs on a stack of its own, because values can be
//! nested as deep as fuel allows. (A template that doubles a string in a loop can still ask for much memory
//! before its fuel is used up.)
//!
//! The same template, messages and date always give the same text: there is no clock here.

mod clock;
mod json;

use std::io;

use minijinja::{Environment, Error, ErrorKind, Value as Variable};
use serde_json::{Map, Value, json};

use crate::engine::{Message, Role};
use crate::error::EngineError;
use crate::vocabulary::Markers;

/// Bytes of all messages of a conversation together.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;
/// Bytes a template may write.
const MAX_RENDERED_BYTES: usize = 4 << 20;
/// Instructions a template may execute whatever the conversation; tools take some hundred each.
const FUEL: u64 = 50_000;
/// Instructions for each message. The most thorough templates take some two hundred.
const FUEL_PER_MESSAGE: u64 = 500;
/// Instructions for the longest conversation.
const MAX_FUEL: u64 = 300_000;
/// Bytes of stack; taken from the system as they are used. [`MAX_FUEL`] instructions can nest a value some
/// 50 000 deep, and printing and dropping it take a few kilobytes a level where nothing is optimised.
const STACK_BYTES: usize = 512 << 20;
/// How deep a message or tool may be nested.
const MAX_DEPTH: usize = 64;
const NAME: &str = "chat";

/// Rendered text. Every control token spelled in it was written by the template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shielded {
    pub(crate) text: String,
    pub(crate) shield: char,
}

/// The compiled chat template of a model.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

/// What a template is given besides the messages.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// Variables such as `tools`, `enable_thinking`, `date_string`. `add_generation_prompt` is true where
    /// it is not here.
    pub(crate) variables: Map<String, Value>,
    /// Seconds since 1970 (UTC) for templates that write the date. Where there is none, `strftime_now` is
    /// not defined, and templates write the fixed date that they have for this.
    pub(crate) now: Option<u64>,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of the tokens of those names, or empty.
    pub(crate) fn new(source: &str, bos: &str, eos: &str) -> Result<Self, EngineError> {
        let mut environment = Environment::new();
        // A debugging error holds the template's variables, which may be nested too deeply to be dropped.
        environment.set_debug(false);
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<String, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_filter("tojson", json::tojson);
        environment.add_template_owned(NAME, source.to_owned())?;
        Ok(Self {
            environment,
            source: source.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// Renders a conversation, ending where the assistant's answer begins. `markers` are the vocabulary's
    /// control tokens.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        markers: &Markers,
    ) -> Result<Shielded, EngineError> {
        let role = |role| match role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let turns: Vec<Value> = messages
            .iter()
            .map(|m| json!({"role": role(m.role), "content": m.content}))
            .collect();
        if turns.is_empty() {
            return Err(EngineError::EmptyMessages);
        }
        self.render_turns(turns, Extras::default(), markers)
    }

    /// Renders messages with whatever keys the template knows (`tool_calls`, `name`). Every string in them
    /// and in the variables is a person's words, keys included.
    pub(crate) fn render_turns(
        &self,
        messages: Vec<Value>,
        extras: Extras,
        markers: &Markers,
    ) -> Result<Shielded, EngineError> {
        let mut fuel = FUEL_PER_MESSAGE.saturating_mul(messages.len() as u64);
        fuel = fuel.saturating_add(FUEL).min(MAX_FUEL);
        let messages = Value::Array(messages);
        let variables = Value::Object(extras.variables);
        let mut texts = Texts::default();
        texts.add(&messages, 0)?;
        texts.add(&variables, 0)?;
        if texts.bytes > MAX_TEXT_BYTES {
            return Err(EngineError::TooMuchText {
                bytes: texts.bytes,
                limit: MAX_TEXT_BYTES,
            });
        }
        let taken = || {
            let texts = texts.all.iter().copied();
            texts.chain(markers.texts()).chain([self.source.as_str()])
        };
        // Plane 15 and 16 have more private-use characters than a conversation can hold bytes / 4; a
        // template and markers that use up the rest are not a real model's.
        let shield =
            free_character(taken).ok_or_else(|| refused("no private-use character is free"))?;
        let shield_all = |value| shield_strings(value, markers, shield);
        let mut context = Map::from_iter([("add_generation_prompt".to_owned(), json!(true))]);
        if let Value::Object(variables) = shield_all(variables) {
            context.extend(variables);
        }
        context.insert("messages".to_owned(), shield_all(messages));
        // The template's own words.
        context.insert("bos_token".to_owned(), json!(self.bos));
        context.insert("eos_token".to_owned(), json!(self.eos));
        let text = self.on_its_own_stack(context, extras.now, fuel)?;
        Ok(Shielded { text, shield })
    }

    fn on_its_own_stack(
        &self,
        context: Map<String, Value>,
        now: Option<u64>,
        fuel: u64,
    ) -> Result<String, EngineError> {
        let rendered = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("template".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || {
                    self.run(context, now, fuel).map_err(|e| plain(&e))
                })
                .map_err(|error| refused("no thread to render in").with_source(error))?
                .join()
                .unwrap_or_else(|_| Err(refused("the template could not be rendered")))
        });
        Ok(rendered?)
    }

    fn run(
        &self,
        context: Map<String, Value>,
        now: Option<u64>,
        fuel: u64,
    ) -> Result<String, Error> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        if let Some(now) = now {
            environment.add_function("strftime_now", move |format: &str| {
                clock::strftime(now, format).ok_or_else(|| refused("strftime_now: unknown format"))
            });
        }
        let mut output = Bounded { bytes: Vec::new() };
        environment.get_template(NAME)?.render_captured_to(
            Variable::from_serialize(Value::Object(context)),
            &mut output,
        )?;
        String::from_utf8(output.bytes)
            .map_err(|e| Error::new(ErrorKind::WriteFailure, "output is not UTF-8").with_source(e))
    }
}

/// The same error in words alone: what it holds besides is dropped where there is stack for it.
fn plain(error: &Error) -> Error {
    let words = error.detail().unwrap_or("failed");
    match error.line() {
        Some(line) => Error::new(error.kind(), format!("{words} (line {line})")),
        None => Error::new(error.kind(), words.to_owned()),
    }
}

fn refused(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// All strings of what a template is given.
#[derive(Default)]
struct Texts<'v> {
    all: Vec<&'v str>,
    bytes: usize,
}

impl<'v> Texts<'v> {
    fn add(&mut self, value: &'v Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(refused("a message or tool is nested too deeply"));
        }
        let deeper = depth.saturating_add(1);
        match value {
            Value::String(text) => self.push(text),
            Value::Array(items) => {
                for item in items {
                    self.add(item, deeper)?;
                }
            }
            Value::Object(entries) => {
                for (key, value) in entries {
                    match (key.as_str(), value) {
                        // Every message has these; the limit is on what is said.
                        ("role", Value::String(role)) => self.all.push(role),
                        ("content", value) => self.add(value, deeper)?,
                        (key, value) => {
                            self.push(key);
                            self.add(value, deeper)?;
                        }
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        Ok(())
    }

    fn push(&mut self, text: &'v str) {
        self.bytes = self.bytes.saturating_add(text.len());
        self.all.push(text);
    }
}

/// The same value with every string shielded.
fn shield_strings(value: Value, markers: &Markers, shield: char) -> Value {
    match value {
        Value::String(text) => Value::String(shielded(&text, markers, shield)),
        Value::Array(items) => items
            .into_iter()
            .map(|item| shield_strings(item, markers, shield))
            .collect(),
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| {
                let key = shielded(&key, markers, shield);
                (key, shield_strings(value, markers, shield))
            })
            .collect(),
        plain => plain,
    }
}

/// A private-use character that none of the texts holds.
fn free_character<'t, I: Iterator<Item = &'t str>>(taken: impl Fn() -> I) -> Option<char> {
    let private = '\u{f0000}'..='\u{10fffd}';
    // Almost always the first one is free; only otherwise is it worth collecting what is used.
    let first = *private.start();
    if !taken().any(|text| text.contains(first)) {
        return Some(first);
    }
    let used: std::collections::BTreeSet<char> = taken()
        .flat_map(str::chars)
        .filter(|c| private.contains(c))
        .collect();
    private.into_iter().find(|c| !used.contains(c))
}

/// The text with a shield after the first character of everything that is, or could become, a marker.
fn shielded(text: &str, markers: &Markers, shield: char) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        out.push(c);
        let rest = text.get(at..).unwrap_or_default();
        if markers.at_start(rest).is_some() || markers.continues(rest) {
            out.push(shield);
        }
    }
    out
}

/// A writer that refuses to grow past [`MAX_RENDERED_BYTES`].
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(piece.len()) > MAX_RENDERED_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the template writes too much",
            ));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;
    use proptest::prelude::*;

    /// The template inside SmolLM2-135M-Instruct's GGUF file.
    const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    const MARKERS: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];

    fn markers() -> Markers {
        Markers::new((0..).zip(MARKERS).map(|(i, m)| (m.to_owned(), i)))
    }

    fn say(role: Role, content: &str) -> Message {
        Message {
            role,
            content: content.to_owned(),
        }
    }

    fn render(source: &str, messages: &[Message]) -> Result<Shielded, EngineError> {
        let template = ChatTemplate::new(source, "<|im_start|>", "<|im_end|>")?;
        template.render(
            messages,
            &Markers::new((0..).zip(MARKERS).map(|(i, m)| (m.to_owned(), i))),
        )
    }

    #[test]
    fn a_conversation_without_system_prompt_gets_the_templates_own() {
        let got = render(SMOLLM2, &[say(Role::User, "Hello")]).unwrap();
        assert_eq!(
            got.text,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
             <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_system_prompt_replaces_the_templates_own() {
        let got = render(
            SMOLLM2,
            &[
                say(Role::System, "Be brief."),
                say(Role::User, "1+1?"),
                say(Role::Assistant, "2"),
                say(Role::User, "Sure?"),
            ],
        )
        .unwrap();
        assert_eq!(
            got.text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n\
             <|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn markers_written_by_a_person_are_shielded_and_the_templates_are_not() {
        let got = render(SMOLLM2, &[say(Role::User, "a<|im_end|>b <|im_")]).unwrap();
        let s = got.shield;
        assert!(
            got.text
                .contains(&format!("user\na<{s}|im_end|>b <{s}|im_<|im_end|>\n")),
            "{got:?}"
        );
    }

    #[test]
    fn a_shield_that_a_person_types_is_not_used() {
        let typed: String = ('\u{f0000}'..'\u{f0010}').collect();
        let got = render(SMOLLM2, &[say(Role::User, &typed)]).unwrap();
        assert_eq!(got.shield, '\u{f0010}');
        assert!(got.text.contains(&typed));
    }

    #[test]
    fn no_messages_and_too_much_text_are_refused() {
        assert!(matches!(
            render(SMOLLM2, &[]),
            Err(EngineError::EmptyMessages)
        ));
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        assert!(matches!(
            render(SMOLLM2, &[say(Role::User, &long)]),
            Err(EngineError::TooMuchText { bytes, limit: MAX_TEXT_BYTES }) if bytes == MAX_TEXT_BYTES + 1
        ));
    }

    #[test]
    fn a_template_that_never_ends_or_floods_is_stopped() {
        let user = [say(Role::User, "x")];
        let spin = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert!(matches!(render(spin, &user), Err(EngineError::Template(_))));
        let flood = "{% set big = 'x' * 100000 %}{% for a in range(9999) %}{{ big }}{% endfor %}";
        assert!(matches!(
            render(flood, &user),
            Err(EngineError::Template(_))
        ));
        assert!(matches!(
            render("{% if %}", &user),
            Err(EngineError::Template(_))
        ));
        assert!(matches!(
            render("{{ raise_exception('no') }}", &user),
            Err(EngineError::Template(_))
        ));
    }

    #[test]
    fn python_string_methods_work() {
        let got = render(
            "{{ messages[0].content.strip().upper() }}",
            &[say(Role::User, " hi ")],
        )
        .unwrap();
        assert_eq!(got.text, "HI");
    }

    #[test]
    fn what_nests_as_deep_as_fuel_allows_is_stopped_or_dropped_in_peace() {
        let user: Vec<Value> = (0..2_000).map(|_| json!({"role": "user"})).collect();
        let nest = "{% set n = namespace(x=0) %}{% for a in range(9999) %}{% for b in range(9999) %}\
                    {% set n.x = [n.x] %}{% endfor %}{% endfor %}{{ n.x }}";
        let once = "{% set n = namespace(x=0) %}{% for a in range(9999) %}{% set n.x = [n.x] %}{% endfor %}\
                    {{ n.x|tojson }}";
        for source in [nest, once] {
            let template = ChatTemplate::new(source, "", "").unwrap();
            let got = template.render_turns(user.clone(), Extras::default(), &markers());
            assert!(matches!(got, Err(EngineError::Template(_))), "{got:?}");
        }
    }

    /// What `reference/template_hard.py` has transformers render: real templates, tools and tool turns.
    #[test]
    fn real_templates_are_rendered_as_transformers_renders_them() {
        let fixture: Value =
            serde_json::from_slice(include_bytes!("../../tests/fixtures/template_hard.json"))
                .unwrap();
        // 2025-02-03T04:05:06, the fixture's `now`.
        let now = 1_738_555_506;
        let mut wrong = vec![];
        let mut compared = 0;
        for entry in fixture["templates"].as_array().unwrap() {
            let text = |key: &str| entry["tokens"][key].as_str().unwrap_or_default();
            let source = entry["template"].as_str().unwrap();
            let template = ChatTemplate::new(source, text("bos_token"), text("eos_token")).unwrap();
            for (name, wanted) in entry["rendered"].as_object().unwrap() {
                let mut variables = fixture["conversations"][name].as_object().unwrap().clone();
                let messages = variables.remove("messages").unwrap();
                let extras = Extras {
                    variables,
                    now: Some(now),
                };
                let got = template.render_turns(
                    messages.as_array().unwrap().clone(),
                    extras,
                    &Markers::default(),
                );
                let at = format!("{} / {name}", entry["name"]);
                match (wanted["text"].as_str(), got) {
                    // minijinja walks through nothing as through an empty list; no message of ours has no
                    // content.
                    (None, Ok(_)) if at == "\"gemma3\" / null content" => {}
                    // Python's way to write a list or None, which nobody need imitate.
                    (Some(_), _) if wanted.get("python").is_some() => {}
                    (Some(wanted), Ok(got)) if got.text == wanted => compared += 1,
                    (None, Err(_)) => compared += 1,
                    (wanted, got) => wrong.push((at, wanted, got)),
                }
            }
        }
        assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
        assert!(compared > 250, "{compared}");
    }

    #[test]
    fn without_a_date_templates_write_their_own() {
        let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(
            render(source, &[say(Role::User, "x")]).unwrap().text,
            "26 Jul 2024"
        );
    }

    #[test]
    fn no_template_makes_the_renderer_panic() {
        const PARTS: [&str; 24] = [
            "{% for m in messages %}",
            "{% endfor %}",
            "{% if m %}",
            "{% endif %}",
            "{{ m.content }}",
            "{{ m['role'] }}",
            "{% set x = 1 %}",
            "{{ x|tojson }}",
            "{{ messages|tojson(indent=2) }}",
            "{{ messages[-1].content[9:1:-1] }}",
            "{{ x / 0 }}",
            "{{ 9**999 }}",
            "{{ range(99999999) }}",
            "{{ 'x' * 99999999999 }}",
            "{{ m.content.split('')[-1] }}",
            "{% macro f() %}{{ f() }}{% endmacro %}",
            "{{ f() }}",
            "{{ raise_exception(m) }}",
            "{{ strftime_now('%Q%') }}",
            "{{ messages|join|upper|reverse }}",
            "{% break %}",
            "{{ -9223372036854775808 % -1 }}",
            "{{ 'é'[1:]|trim|indent(99999) }}",
            "{%",
        ];
        bolero::check!()
            .with_iterations(3_000)
            .with_type::<(Vec<u8>, String)>()
            .for_each(|(parts, loose)| {
                let mut source: String = parts
                    .iter()
                    .take(12)
                    .map(|part| PARTS[usize::from(*part) % PARTS.len()])
                    .collect();
                source.push_str(loose);
                let Ok(template) = ChatTemplate::new(&source, "", "") else {
                    return;
                };
                let turns = vec![json!({"role": "user", "content": loose})];
                if let Ok(got) = template.render_turns(turns, Extras::default(), &markers()) {
                    assert!(got.text.len() <= MAX_RENDERED_BYTES);
                }
            });
    }

    proptest! {
        #[test]
        fn people_cannot_add_markers(content in "(<\\|im_start\\|>|<\\|im_end\\|>|<\\|endoftext\\|>|<|\\||i|m|_|end|>|x|\u{f0000}){0,12}") {
            let got = render(SMOLLM2, &[say(Role::User, &content)]).unwrap();
            let count = |m| got.text.matches(m).count();
            prop_assert_eq!((count("<|im_start|>"), count("<|im_end|>"), count("<|endoftext|>")), (3, 2, 0));
            // And nothing of what they wrote is lost.
            let plain = got.text.replace(got.shield, "");
            let wanted = format!("user\n{content}<|im_end|>\n<|im_start|>assistant\n");
            prop_assert!(plain.ends_with(&wanted));
        }
    }
}
