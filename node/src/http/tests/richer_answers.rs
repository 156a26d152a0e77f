//! Answers with more than text, and more than one.

use cocoon_actors::gateway_port::{
    Delta, Finish, GatewayError, JobEvent, PositionLogprobs, TokenLogprob,
};
use serde_json::{Value, json};

use super::scripted::*;

/// Half of a character of two bytes, and what stood beside it.
fn position() -> PositionLogprobs {
    PositionLogprobs {
        chosen: TokenLogprob::new(vec![b'H', 0xc3], -0.25),
        top: vec![TokenLogprob::new(b"Ha".to_vec(), -1.5)],
    }
}

fn likely() -> Script {
    Script::Play(vec![
        accepted(),
        Step::Emit(JobEvent::Delta(Delta {
            logprobs: vec![position()],
            ..Delta::default()
        })),
        Step::Emit(JobEvent::Delta(Delta {
            logprobs: vec![position()],
            ..Delta::of("H\u{e9}")
        })),
        finished(Finish::Stop),
    ])
}

fn told() -> Value {
    json!({
        "token": "H\u{fffd}", "logprob": -0.25, "bytes": [72, 195],
        "top_logprobs": [{"token": "Ha", "logprob": -1.5, "bytes": [72, 97]}],
    })
}

fn asking() -> Value {
    let mut body = chat();
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(1);
    body
}

#[tokio::test]
async fn log_probabilities_come_whole() {
    let server = serve(vec![likely()]).await;
    let answer: Value = server.post(&asking()).await.json().await.unwrap();
    assert_eq!(
        answer["choices"][0]["logprobs"],
        json!({"content": [told(), told()], "refusal": null})
    );
    assert_eq!(answer["choices"][0]["message"]["content"], "H\u{e9}");
    let submissions = server.scripted.submissions.lock().unwrap();
    assert_eq!(submissions[0].top_logprobs, Some(1));
}

#[tokio::test]
async fn log_probabilities_come_with_the_chunks_of_a_stream() {
    let server = serve(vec![likely()]).await;
    let mut body = asking();
    body["stream"] = json!(true);
    let mut events = events(server.post(&body).await).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let choices: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str::<Value>(event).unwrap()["choices"][0].clone())
        .collect();
    let contents: Vec<_> = choices
        .iter()
        .map(|choice| &choice["delta"]["content"])
        .collect();
    assert_eq!(
        contents,
        [&json!(""), &json!(""), &json!("H\u{e9}"), &Value::Null]
    );
    let logprobs: Vec<_> = choices.iter().map(|choice| &choice["logprobs"]).collect();
    let one = json!({"content": [told()], "refusal": null});
    assert_eq!(logprobs, [&Value::Null, &one, &one, &Value::Null]);
}

fn of(choice: u8, text: &str) -> Step {
    Step::Emit(JobEvent::Delta(Delta {
        choice,
        ..Delta::of(text)
    }))
}

fn two() -> Script {
    Script::Play(vec![
        accepted(),
        of(1, "wo"),
        of(0, "Hel"),
        of(1, "rld"),
        of(0, "lo"),
        all_finished(vec![Finish::Stop, Finish::Length]),
    ])
}

#[tokio::test]
async fn several_answers_come_whole_and_in_order() {
    let server = serve(vec![two()]).await;
    let mut body = chat();
    body["n"] = json!(2);
    let answer: Value = server.post(&body).await.json().await.unwrap();
    let choices = answer["choices"].as_array().unwrap();
    let said: Vec<_> = choices
        .iter()
        .map(|choice| {
            (
                &choice["index"],
                &choice["message"]["content"],
                &choice["finish_reason"],
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            (&json!(0), &json!("Hello"), &json!("stop")),
            (&json!(1), &json!("world"), &json!("length"))
        ]
    );
}

#[tokio::test]
async fn several_answers_are_interleaved_in_a_stream_and_each_ends() {
    let server = serve(vec![two()]).await;
    let mut body = streamed();
    body["n"] = json!(2);
    body["stream_options"] = json!({"include_usage": true});
    let mut events = events(server.post(&body).await).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    let mut answers = [String::new(), String::new()];
    let (mut roles, mut ends) = ([0; 2], Vec::new());
    for chunk in &chunks {
        let Some(choice) = chunk["choices"].get(0) else {
            assert_eq!(chunk["usage"]["total_tokens"], 13);
            continue;
        };
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        let delta = &choice["delta"];
        answers[index].push_str(delta["content"].as_str().unwrap_or_default());
        roles[index] += u32::from(delta.get("role").is_some());
        if !choice["finish_reason"].is_null() {
            ends.push((
                index,
                choice["finish_reason"].clone(),
                chunk.get("cocoon").is_some(),
            ));
        }
    }
    assert_eq!(answers, ["Hello", "world"]);
    assert_eq!(roles, [1, 1]);
    assert_eq!(
        ends,
        [(0, json!("stop"), false), (1, json!("length"), true)]
    );
}

#[tokio::test]
async fn a_schema_that_a_worker_refused_is_a_bad_request_that_names_the_parameter() {
    let refused = GatewayError::BadRequest {
        field: Some("response_format".to_owned()),
        message: "response_format: the schema allows nothing".to_owned(),
    };
    let server = serve(vec![Script::Play(vec![failed(refused)])]).await;
    let mut body = streamed();
    body["response_format"] = json!({
        "type": "json_schema",
        "json_schema": {"name": "nothing", "strict": true, "schema": {"not": {}}},
    });
    let response = server.post(&body).await;
    assert_eq!(response.status(), 400);
    let said: Value = response.json().await.unwrap();
    assert_eq!(said["error"]["param"], "response_format");
    let submissions = server.scripted.submissions.lock().unwrap();
    assert!(submissions[0].response_format.is_some());
}
