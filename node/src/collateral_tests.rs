#![allow(clippy::unwrap_used)]

use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use cocoon_protocol::collateral::PckAuthority;
use serde_json::Value;
use std::collections::BTreeMap;

use super::*;

const SAMPLE: &str = include_str!("../../attestation/tests/fixtures/tdx_quote_collateral.json");

fn family() -> PlatformFamily {
    PlatformFamily {
        fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0],
        authority: PckAuthority::Platform,
    }
}

fn sample() -> Value {
    let mut sample: Value = serde_json::from_str(SAMPLE).unwrap();
    sample
        .as_object_mut()
        .unwrap()
        .remove("pck_certificate_chain");
    sample
}

fn text(name: &str) -> String {
    sample()[name].as_str().unwrap().to_owned()
}

fn bytes(name: &str) -> Vec<u8> {
    hex::decode(text(name)).unwrap()
}

fn issuers(header: &'static str, name: &str) -> HeaderMap {
    let encoded: String = text(name)
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    [(
        axum::http::HeaderName::try_from(header.to_ascii_lowercase()).unwrap(),
        encoded.parse().unwrap(),
    )]
    .into_iter()
    .collect()
}

fn signed(field: &str, name: &str) -> String {
    let signature = hex::encode(bytes(&format!("{name}_signature")));
    format!(
        "{{\"{field}\":{},\"signature\":\"{signature}\"}}",
        text(name)
    )
}

/// Intel's sample as a caching service serves it: the root's list in hexadecimal.
fn service() -> Router {
    type Asked = Query<BTreeMap<String, String>>;
    Router::new()
        .route(
            "/tdx/certification/v4/tcb",
            get(async |asked: Asked| {
                if asked.get("fmspc").map(String::as_str) != Some("B0C06F000000") {
                    return Err(StatusCode::NOT_FOUND);
                }
                Ok((
                    issuers("TCB-Info-Issuer-Chain", "tcb_info_issuer_chain"),
                    signed("tcbInfo", "tcb_info"),
                ))
            }),
        )
        .route(
            "/tdx/certification/v4/qe/identity",
            get(async || {
                (
                    issuers(
                        "SGX-Enclave-Identity-Issuer-Chain",
                        "qe_identity_issuer_chain",
                    ),
                    signed("enclaveIdentity", "qe_identity"),
                )
            }),
        )
        .route(
            "/sgx/certification/v4/pckcrl",
            get(async |asked: Asked| {
                assert_eq!(asked.get("ca").map(String::as_str), Some("platform"));
                (
                    issuers("SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain"),
                    bytes("pck_crl"),
                )
            }),
        )
        .route(
            "/sgx/certification/v4/rootcacrl",
            get(async || hex::encode(bytes("root_ca_crl"))),
        )
}

/// A running service and what `ask` makes of its address.
async fn with_service<T: Send + 'static>(ask: impl FnOnce(&str) -> T + Send + 'static) -> T {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, service()).await });
    let answer = tokio::task::spawn_blocking(move || ask(&base)).await;
    serving.abort();
    answer.unwrap()
}

#[tokio::test]
async fn a_services_answers_become_the_collateral() {
    let json = with_service(|base| fetch(base, &family())).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), sample());
    assert_eq!(facts(&json).unwrap().family, family());
}

#[tokio::test]
async fn what_a_service_does_not_have_is_an_error_with_its_address() {
    let other = PlatformFamily {
        fmspc: [0; 6],
        ..family()
    };
    let error = with_service(move |base| fetch(base, &other))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/tdx/certification/v4/tcb?fmspc=000000000000") && error.contains("404"),
        "{error}"
    );
}

#[tokio::test]
async fn files_come_before_the_service_and_others_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let kept = directory(folder.path());
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("note.txt"), SAMPLE).unwrap();
    fs::write(kept.join("garbage.json"), "{}").unwrap();
    let data_dir = folder.path().to_owned();
    let found = with_service(move |base| {
        let operators = OperatorsCollateral {
            data_dir,
            service: Some(base.to_owned()),
        };
        let without = Provisioning::fetch(&operators, &family());
        fs::write(kept.join("mine.json"), SAMPLE).unwrap();
        let with = Provisioning::fetch(&operators, &family());
        (without, with)
    })
    .await;
    assert_eq!(found.0.len(), 1, "the service's alone");
    assert_eq!(found.1.len(), 2);
    assert_eq!(found.1.first().map(Vec::as_slice), Some(SAMPLE.as_bytes()));
}
