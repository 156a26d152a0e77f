//! Our own client, which `cocoon chat` is made of, against our own server.

use cocoon_actors::gateway_port::GatewayError;
use futures::StreamExt;

use super::scripted::*;
use crate::gateway_client::{ChatPart, ClientError, GatewayClient};

#[tokio::test]
async fn it_reads_a_stream_to_its_end() {
    let server = serve(vec![hello()]).await;
    let client = GatewayClient::new(&server.url, None).unwrap();
    let mut body = streamed();
    body["stream_options"] = serde_json::json!({"include_usage": true});
    let parts: Vec<_> = client
        .stream(&body)
        .await
        .unwrap()
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(parts[0], ChatPart::Text("Hel".to_owned()));
    assert_eq!(parts[1], ChatPart::Text("lo".to_owned()));
    let ChatPart::Finished { reason, details } = &parts[2] else {
        panic!("{parts:?}")
    };
    assert_eq!(
        (reason.as_str(), details.cost_nanoton.as_str()),
        ("stop", "540")
    );
    assert_eq!(parts[3], ChatPart::Usage(11, 2));
}

#[tokio::test]
async fn it_tells_an_answer_that_broke_off_from_one_that_ended() {
    let lost = GatewayError::WorkerLost {
        peer: worker(),
        tokens_received: 1,
    };
    let server = serve(vec![Script::Play(vec![
        accepted(),
        delta("Hel"),
        failed(lost),
    ])])
    .await;
    let client = GatewayClient::new(&server.url, None).unwrap();
    let mut parts: Vec<_> = client.stream(&streamed()).await.unwrap().collect().await;
    let Some(Err(ClientError::Refused { code, .. })) = parts.pop() else {
        panic!("{parts:?}")
    };
    assert_eq!(code, "worker_lost");
    assert!(parts.iter().all(Result::is_ok));
}

#[tokio::test]
async fn it_reads_models_status_and_receipts() {
    let server = serve(vec![Script::Refuse(GatewayError::ShuttingDown)]).await;
    let client = GatewayClient::new(&server.url, None).unwrap();
    assert_eq!(client.models().await.unwrap(), ["org/model"]);
    assert_eq!(client.status().await.unwrap().role, "client");
    assert_eq!(
        client.receipt(&"ab".repeat(16)).await.unwrap().job,
        "ab".repeat(16)
    );
    let error = client.chat(&chat()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "this node is shutting down [shutting_down]"
    );
}
