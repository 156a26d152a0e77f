#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;
use cocoon_actors::gateway_port::AnswerFormat;
use serde_json::json;

fn request() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
}

fn with(name: &str, value: Value) -> Value {
    let mut request = request();
    request[name] = value;
    request
}

fn parsed(value: &Value) -> Result<ChatRequest, RequestError> {
    parse(value.to_string().as_bytes())
}

fn refusal(value: &Value) -> (&'static str, Option<String>) {
    let error = parsed(value).unwrap_err();
    (error.code(), error.param().map(str::to_owned))
}

#[test]
fn every_honoured_parameter_reaches_the_job() {
    let request = parsed(&json!({
        "model": "m",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": null},
        ],
        "stream": true,
        "stream_options": {"include_usage": true, "include_obfuscation": false},
        "max_completion_tokens": 12,
        "max_tokens": 12,
        "temperature": 0,
        "top_p": 0.5,
        "seed": -1,
        "stop": ["x", "y"],
        "n": 3,
        "top_k": 40,
        "min_p": 0.125,
        "repetition_penalty": 1.25,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"50256": -100, "7": 0.5},
        "logprobs": true,
        "top_logprobs": 4,
        "guided_regex": "a+",
    }))
    .unwrap();
    assert!(request.stream && request.include_usage);
    let job = request.submission;
    let said: Vec<_> = job
        .messages
        .iter()
        .map(|m| (m.role, m.content.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (Role::System, "be brief"),
            (Role::User, "a\nb"),
            (Role::Assistant, "c")
        ]
    );
    assert_eq!(job.max_tokens, Some(12));
    assert_eq!(job.temperature, Some(0.0));
    assert_eq!(job.top_p, Some(0.5));
    assert_eq!(job.seed, Some(u64::MAX));
    assert_eq!(job.stop, ["x", "y"]);
    assert_eq!(
        (job.n, job.top_k, job.min_p),
        (Some(3), Some(40), Some(0.125))
    );
    assert_eq!(job.repetition_penalty, Some(1.25));
    assert_eq!(job.frequency_penalty, Some(0.5));
    assert_eq!(job.presence_penalty, Some(-0.5));
    let biases: Vec<_> = job.logit_bias.into_iter().collect();
    assert_eq!(biases, [(7, 0.5), (50_256, -100.0)]);
    assert_eq!(job.top_logprobs, Some(4));
    let pattern = "a+".to_owned();
    assert_eq!(job.response_format, Some(AnswerFormat::Regex { pattern }));
}

#[test]
fn each_way_to_ask_for_a_format_reaches_the_job() {
    let schema = json!({"type": "object", "properties": {"z": {}, "a": {}}});
    let asked = json!({"type": "json_schema", "json_schema":
        {"name": "some_thing-1", "strict": false, "description": null, "schema": schema}});
    let format = |name: &str, value: Value| {
        parsed(&with(name, value))
            .unwrap()
            .submission
            .response_format
    };
    let Some(AnswerFormat::JsonSchema { schema: carried }) = format("response_format", asked)
    else {
        unreachable!("no schema")
    };
    // The order of the fields is part of what a schema says.
    assert_eq!(serde_json::to_string(&carried).unwrap(), schema.to_string());
    assert!(schema.to_string().find("\"z\"") < schema.to_string().find("\"a\""));
    assert_eq!(
        format("response_format", json!({"type": "json_object"})),
        Some(AnswerFormat::JsonObject)
    );
    let lark = "start: /a/".to_owned();
    assert_eq!(
        format("guided_grammar", json!("start: /a/")),
        Some(AnswerFormat::Grammar { lark })
    );
}

#[test]
fn log_probabilities_are_asked_for_by_logprobs_and_counted_by_top_logprobs() {
    let mut request = with("logprobs", json!(true));
    assert_eq!(parsed(&request).unwrap().submission.top_logprobs, Some(0));
    request["top_logprobs"] = json!(20);
    assert_eq!(parsed(&request).unwrap().submission.top_logprobs, Some(20));
    request["logprobs"] = json!(false);
    let refused = ("invalid_value", Some("top_logprobs".to_owned()));
    assert_eq!(refusal(&request), refused);
}

#[test]
fn null_is_absent_for_every_parameter() {
    let mut value = request();
    for name in HONOURED
        .iter()
        .skip(2)
        .chain(REFUSED.iter().map(|refused| &refused.name))
    {
        value[*name] = Value::Null;
    }
    assert_eq!(parsed(&value), parsed(&request()));
}

#[test]
fn a_value_that_asks_for_nothing_is_accepted() {
    for (name, value) in [
        ("n", json!(1)),
        ("top_logprobs", json!(0)),
        ("top_k", json!(-1)),
        ("top_k", json!(0)),
        ("logit_bias", json!({})),
        ("logprobs", json!(false)),
        ("response_format", json!({"type": "text"})),
        ("tools", json!([])),
        ("tool_choice", json!("none")),
        ("modalities", json!(["text"])),
        ("service_tier", json!("auto")),
        ("store", json!(false)),
    ] {
        assert_eq!(parsed(&with(name, value)), parsed(&request()), "{name}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (name, value) in [
        ("tools", json!([{"type": "function"}])),
        ("tool_choice", json!("auto")),
        ("user", json!("alice")),
        ("metadata", json!({"a": "b"})),
        ("store", json!(true)),
    ] {
        assert_eq!(
            refusal(&with(name, value)),
            ("unsupported_parameter", Some(name.to_owned()))
        );
    }
}

#[test]
fn an_unknown_parameter_is_refused_with_a_suggestion() {
    let error = parsed(&with("temprature", json!(1))).unwrap_err();
    assert_eq!(error.code(), "unknown_parameter");
    assert_eq!(
        error.to_string(),
        "unknown parameter `temprature`; did you mean `temperature`?"
    );
}

#[test]
fn each_bad_value_is_refused_with_its_place() {
    let message = |value: Value| with("messages", json!([value]));
    let schema = |value: Value| {
        with(
            "response_format",
            json!({"type": "json_schema", "json_schema": value}),
        )
    };
    for (value, code, param) in [
        (
            json!({"messages": [{"role": "user", "content": "hi"}]}),
            "missing_required_parameter",
            "model",
        ),
        (
            json!({"model": "m"}),
            "missing_required_parameter",
            "messages",
        ),
        (with("messages", json!([])), "invalid_value", "messages"),
        (with("messages", json!("hi")), "invalid_type", "messages"),
        (message(json!("hi")), "invalid_type", "messages[0]"),
        (
            message(json!({"content": "hi"})),
            "missing_required_parameter",
            "messages[0].role",
        ),
        (
            message(json!({"role": "user"})),
            "missing_required_parameter",
            "messages[0].content",
        ),
        (
            message(json!({"role": "king", "content": "hi"})),
            "invalid_value",
            "messages[0].role",
        ),
        (
            message(json!({"role": "tool", "content": "hi"})),
            "unsupported_parameter",
            "messages[0].role",
        ),
        (
            message(json!({"role": "user", "content": 1})),
            "invalid_type",
            "messages[0].content",
        ),
        (
            message(json!({"role": "user", "content": []})),
            "invalid_value",
            "messages[0].content",
        ),
        (
            message(json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})),
            "unsupported_parameter",
            "messages[0].content[0].type",
        ),
        (
            message(json!({"role": "user", "content": "x", "name": "bob"})),
            "unsupported_parameter",
            "messages[0].name",
        ),
        (
            message(json!({"role": "user", "content": "x", "colour": 1})),
            "unknown_parameter",
            "messages[0].colour",
        ),
        (with("model", json!(7)), "invalid_type", "model"),
        (with("model", json!("")), "invalid_value", "model"),
        (with("max_tokens", json!(0)), "invalid_value", "max_tokens"),
        (with("max_tokens", json!(-1)), "invalid_value", "max_tokens"),
        (
            with("max_tokens", json!(1.5)),
            "invalid_value",
            "max_tokens",
        ),
        (with("max_tokens", json!("1")), "invalid_type", "max_tokens"),
        (
            with("temperature", json!(2.1)),
            "invalid_value",
            "temperature",
        ),
        (
            with("temperature", json!(1e300)),
            "invalid_value",
            "temperature",
        ),
        (
            with("temperature", json!("hot")),
            "invalid_type",
            "temperature",
        ),
        (with("top_p", json!(0)), "invalid_value", "top_p"),
        (with("seed", json!(1.5)), "invalid_type", "seed"),
        (
            with("stop", json!(["a", "b", "c", "d", "e"])),
            "invalid_value",
            "stop",
        ),
        (with("stop", json!([1])), "invalid_type", "stop[0]"),
        (with("stop", json!("")), "invalid_value", "stop"),
        (with("n", json!(0)), "invalid_value", "n"),
        (with("n", json!(9)), "invalid_value", "n"),
        (with("n", json!("2")), "invalid_type", "n"),
        (with("top_k", json!(-2)), "invalid_value", "top_k"),
        (with("top_k", json!(1.5)), "invalid_value", "top_k"),
        (with("top_k", json!(u64::MAX)), "invalid_value", "top_k"),
        (with("top_k", json!("all")), "invalid_type", "top_k"),
        (with("min_p", json!(1)), "invalid_value", "min_p"),
        (
            with("repetition_penalty", json!(0)),
            "invalid_value",
            "repetition_penalty",
        ),
        (
            with("frequency_penalty", json!(2.5)),
            "invalid_value",
            "frequency_penalty",
        ),
        (
            with("presence_penalty", json!("much")),
            "invalid_type",
            "presence_penalty",
        ),
        (with("logit_bias", json!([1])), "invalid_type", "logit_bias"),
        (
            with("logit_bias", json!({"x": 1})),
            "invalid_value",
            "logit_bias",
        ),
        (
            with("logit_bias", json!({"-1": 1})),
            "invalid_value",
            "logit_bias",
        ),
        (
            with("logit_bias", json!({"+1": 1})),
            "invalid_value",
            "logit_bias",
        ),
        (
            with("logit_bias", json!({"4294967296": 1})),
            "invalid_value",
            "logit_bias",
        ),
        (
            with("logit_bias", json!({"1": 101})),
            "invalid_value",
            "logit_bias",
        ),
        (
            with("logit_bias", json!({"1": "much"})),
            "invalid_type",
            "logit_bias.1",
        ),
        (with("logprobs", json!(3)), "invalid_type", "logprobs"),
        (
            with("top_logprobs", json!(3)),
            "invalid_value",
            "top_logprobs",
        ),
        (
            with("top_logprobs", json!(21)),
            "invalid_value",
            "top_logprobs",
        ),
        (
            with("top_logprobs", json!("3")),
            "invalid_type",
            "top_logprobs",
        ),
        (
            with("guided_regex", json!(1)),
            "invalid_type",
            "guided_regex",
        ),
        (
            with("guided_regex", json!("")),
            "invalid_value",
            "guided_regex",
        ),
        (
            with("guided_grammar", json!({})),
            "invalid_type",
            "guided_grammar",
        ),
        (
            with("response_format", json!("json")),
            "invalid_type",
            "response_format",
        ),
        (
            with("response_format", json!({})),
            "missing_required_parameter",
            "response_format.type",
        ),
        (
            with("response_format", json!({"type": "yaml"})),
            "invalid_value",
            "response_format.type",
        ),
        (
            with("response_format", json!({"type": "text", "schema": {}})),
            "unknown_parameter",
            "response_format.schema",
        ),
        (
            with("response_format", json!({"type": "json_schema"})),
            "missing_required_parameter",
            "response_format.json_schema",
        ),
        (
            schema(json!({"schema": {}})),
            "missing_required_parameter",
            "response_format.json_schema.name",
        ),
        (
            schema(json!({"name": "a b", "schema": {}})),
            "invalid_value",
            "response_format.json_schema.name",
        ),
        (
            schema(json!({"name": "a"})),
            "missing_required_parameter",
            "response_format.json_schema.schema",
        ),
        (
            schema(json!({"name": "a", "schema": true})),
            "invalid_type",
            "response_format.json_schema.schema",
        ),
        (
            schema(json!({"name": "a", "schema": {}, "strict": 1})),
            "invalid_type",
            "response_format.json_schema.strict",
        ),
        (
            schema(json!({"name": "a", "schema": {}, "description": "d"})),
            "unsupported_parameter",
            "response_format.json_schema.description",
        ),
        (
            schema(json!({"name": "a", "schema": {}, "colour": 1})),
            "unknown_parameter",
            "response_format.json_schema.colour",
        ),
        (
            schema(json!({"name": "a", "schema": {"x": "y".repeat(70_000)}})),
            "invalid_value",
            "response_format",
        ),
        (with("stream", json!("yes")), "invalid_type", "stream"),
        (
            with("stream_options", json!({"include_usage": true})),
            "invalid_value",
            "stream_options",
        ),
    ] {
        assert_eq!(refusal(&value), (code, Some(param.to_owned())), "{value}");
    }
    let mut two = with("guided_regex", json!("a"));
    two["response_format"] = json!({"type": "json_object"});
    assert_eq!(
        refusal(&two),
        ("invalid_value", Some("guided_regex".to_owned()))
    );
    let both = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1, "max_completion_tokens": 2});
    assert_eq!(
        refusal(&both),
        ("invalid_value", Some("max_completion_tokens".to_owned()))
    );
    let mut options = with("stream", json!(true));
    options["stream_options"] = json!({"include_obfuscation": true});
    assert_eq!(
        refusal(&options),
        (
            "unsupported_parameter",
            Some("stream_options.include_obfuscation".to_owned())
        )
    );
}

#[test]
fn a_parameter_given_twice_is_refused() {
    let error = parse(br#"{"model":"a","model":"b","messages":[]}"#).unwrap_err();
    assert_eq!(
        error,
        RequestError::Repeated {
            param: "model".to_owned()
        }
    );
}

#[test]
fn what_is_no_json_object_is_refused_without_quoting_it() {
    let error = parse(b"{\"planted-secret").unwrap_err();
    assert!(matches!(error, RequestError::NotJson { .. }));
    assert!(!error.to_string().contains("planted-secret"));
    assert_eq!(parse(b"[1]").unwrap_err(), RequestError::NotAnObject);
    assert_eq!(
        parse(b"\"planted-secret\"").unwrap_err(),
        RequestError::NotAnObject
    );
    assert!(matches!(
        parse(b"").unwrap_err(),
        RequestError::NotJson { .. }
    ));
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let nested = format!("{{\"model\":{deep}}}");
    assert!(matches!(
        parse(nested.as_bytes()).unwrap_err(),
        RequestError::NotJson { .. }
    ));
}

#[test]
fn a_conversation_beyond_the_wires_bound_is_refused() {
    let big = "x".repeat(cocoon_actors::gateway_port::MAX_SUBMISSION_BYTES);
    assert_eq!(
        refusal(&with("messages", json!([{"role": "user", "content": big}]))),
        ("invalid_value", Some("messages".to_owned()))
    );
}

#[test]
fn fuzz_a_strangers_bytes_never_panic_and_what_passes_obeys_every_rule() {
    bolero::check!().with_iterations(20_000).for_each(|bytes| {
        if let Ok(request) = parse(bytes) {
            request.submission.validate().unwrap();
        }
    });
}

#[test]
fn fuzz_near_valid_requests_never_panic() {
    // Random bytes seldom get past the JSON parser; here only the values are random.
    let names: Vec<&str> = HONOURED
        .iter()
        .copied()
        .chain(REFUSED.iter().map(|refused| refused.name))
        .collect();
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e308),
        json!(u64::MAX),
        json!(""),
        json!("text"),
        json!([]),
        json!([null]),
        json!([{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
        json!({}),
        json!({"include_usage": 1}),
        json!({"type": "text"}),
        json!({"type": "json_object"}),
        json!({"1": 1, "01": 1}),
    ];
    bolero::check!()
        .with_iterations(5_000)
        .with_type::<Vec<(u8, u8)>>()
        .for_each(|picks| {
            let mut value = request();
            for (name, pick) in picks {
                let name = names[usize::from(*name) % names.len()];
                value[name] = values[usize::from(*pick) % values.len()].clone();
            }
            if let Ok(request) = parsed(&value) {
                request.submission.validate().unwrap();
            }
        });
}
