//! The explorer's pages over HTTP, and the form of the faucet on the first of them.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use super::explorer;
use super::server::{Service, chain_now};
use crate::chain::ChainError;
use crate::chain::wire::{AccountQuery, BlockQuery, GiftRequest, TransactionQuery};

pub(super) fn routes() -> Router<Service> {
    Router::new()
        .route("/", get(home))
        .route("/block", get(block))
        .route("/account", get(account))
        .route("/transaction", get(transaction))
        .route("/faucet", post(give))
}

fn shown(page: Result<String, ChainError>) -> Response {
    match page {
        Ok(page) => Html(page).into_response(),
        Err(error @ ChainError::NoSuchBlock { .. }) => (
            StatusCode::NOT_FOUND,
            Html(explorer::failure(&error.to_string())),
        )
            .into_response(),
        Err(error) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            Html(explorer::failure(&error.to_string())),
        )
            .into_response(),
    }
}

fn unreadable(error: &QueryRejection) -> Response {
    (
        StatusCode::BAD_REQUEST,
        Html(explorer::failure(&error.body_text())),
    )
        .into_response()
}

async fn home(State(service): State<Service>) -> Response {
    let paused = service.paused.load(Ordering::Relaxed);
    shown(
        service
            .work(move |devnet| explorer::home(devnet, paused))
            .await,
    )
}

async fn block(
    State(service): State<Service>,
    query: Result<Query<BlockQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(query)) => shown(
            service
                .work(move |devnet| explorer::block(devnet, query.seqno))
                .await,
        ),
        Err(error) => unreadable(&error),
    }
}

async fn account(
    State(service): State<Service>,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(query)) => shown(explorer::account(&service.chain, query.address).await),
        Err(error) => unreadable(&error),
    }
}

async fn transaction(
    State(service): State<Service>,
    query: Result<Query<TransactionQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(query)) => {
            let page = service
                .work(move |devnet| explorer::transaction(devnet, query.account, query.lt))
                .await;
            shown(page.map(|page| {
                page.unwrap_or_else(|| explorer::failure("there is no such transaction"))
            }))
        }
        Err(error) => unreadable(&error),
    }
}

/// The faucet's form on the first page: `address=…&nanoton=…`.
async fn give(State(service): State<Service>, body: Bytes) -> Response {
    let query = std::str::from_utf8(&body)
        .ok()
        .and_then(|body| format!("/?{body}").parse::<Uri>().ok())
        .and_then(|uri| Query::<GiftRequest>::try_from_uri(&uri).ok());
    let Some(Query(request)) = query else {
        return (
            StatusCode::BAD_REQUEST,
            Html(explorer::failure(
                "an address like 0:5144… and a number of nanoTON are wanted",
            )),
        )
            .into_response();
    };
    let given = service
        .work(move |devnet| {
            let unix = chain_now(devnet);
            devnet.give(request.address, request.nanoton, unix)
        })
        .await;
    match given {
        Ok(transaction) => Redirect::to(&format!(
            "/transaction?account={}&lt={}",
            transaction.account, transaction.lt
        ))
        .into_response(),
        Err(error) => shown(Err(error)),
    }
}
