//! Who may call.
//!
//! On loopback anybody on this machine may spend the wallet's money, as with any local gateway; but
//! a page in the machine's browser must not. So a request must name a loopback host (a page that
//! rebinds its own name to 127.0.0.1 does not), and jobs must come as JSON, which a browser sends
//! across origins only after asking; we never say yes.
//!
//! On any other address a bearer token is needed for all but `/health` and `/metrics`. Changing
//! something always needs the admin token.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::metrics::route;
use super::{HttpState, REQUEST_ID};

/// Longest request id that is echoed, bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Around every request: its id, the checks above, one log line, one count.
pub(super) async fn around(
    State(state): State<Arc<HttpState>>,
    request: Request,
    next: Next,
) -> Response {
    let id = request_id(request.headers());
    let route = route(request.uri().path());
    let method = request.method().clone();
    let started = std::time::Instant::now();
    let mut response = match check(&state, route, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    state.metrics.answered(route, response.status());
    tracing::debug!(
        request_id = id.to_str().unwrap_or_default(),
        %method,
        route,
        status = response.status().as_u16(),
        elapsed_ms = started.elapsed().as_millis(),
        "answered"
    );
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The caller's `X-Request-Id` if it is printable and short, else a fresh one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    headers
        .get(REQUEST_ID)
        .filter(|value| {
            !value.is_empty()
                && value.len() <= MAX_REQUEST_ID_BYTES
                && value.as_bytes().iter().all(u8::is_ascii_graphic)
        })
        .cloned()
        .unwrap_or_else(|| {
            let name = format!("req_{:032x}", rand::random::<u128>());
            HeaderValue::from_str(&name).unwrap_or_else(|_| HeaderValue::from_static("req_0"))
        })
}

fn check(state: &HttpState, route: &str, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    if state.loopback_only {
        require_loopback_name(request)?;
    } else if !matches!(route, "/health" | "/metrics") && !route.starts_with("/admin/") {
        let accepted = bearer(headers).is_some_and(|given| state.api_token.matches(given));
        if !accepted {
            return Err(unauthorized(
                "this gateway listens beyond loopback: use the content of <data_dir>/api-token \
                 as API key",
            ));
        }
    }
    if route.starts_with("/admin/") {
        let accepted = bearer(headers).is_some_and(|given| state.admin_token.matches(given));
        if !accepted {
            return Err(unauthorized(
                "send the content of <data_dir>/admin-token as `Authorization: Bearer …`",
            ));
        }
    }
    Ok(())
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::invalid(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

fn require_loopback_name(request: &Request) -> Result<(), ApiError> {
    let named = request.uri().host().or_else(|| {
        let host = request.headers().get(header::HOST)?.to_str().ok()?;
        Some(without_port(host))
    });
    if named.is_some_and(is_loopback_name) {
        Ok(())
    } else {
        Err(ApiError::invalid(
            StatusCode::FORBIDDEN,
            "host_not_allowed",
            "this gateway listens on loopback and answers to the host names localhost, 127.0.0.1 \
             and [::1] only",
        ))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_loopback_name(name: &str) -> bool {
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_loopback_are_loopback() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.0.0.1:10000",
            "[::1]:1",
            "[::1]",
        ] {
            assert!(is_loopback_name(without_port(host)), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1:80",
            "localhost.evil:1",
        ] {
            assert!(!is_loopback_name(without_port(host)), "{host}");
        }
    }

    #[test]
    fn a_strange_request_id_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("mine-1"));
        assert_eq!(request_id(&headers), "mine-1");
        headers.insert(REQUEST_ID, HeaderValue::from_static("with space"));
        assert_ne!(request_id(&headers), "with space");
    }
}
