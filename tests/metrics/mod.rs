//! `GET /metrics` through real sockets, by a strict parser: formats, numbers, changes under load,
//! size.

mod changes;
mod formats;
mod numbers;
mod size;

use crate::support::prometheus::Exposition;
use crate::support::{Lb, Origin, Response, exchange, until_some};

/// The response for this `Accept`.
#[track_caller]
fn get_metrics(lb: &Lb, accept: &str) -> Response {
    let response = exchange(
        lb.admin(),
        format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {accept}\r\n\r\n"
        ),
    );
    response.expect_status(200);
    response
}

/// The families now.
#[track_caller]
fn scrape(lb: &Lb) -> Exposition {
    Exposition::parse(&get_metrics(lb, "text/plain").text())
}

/// The families once so many requests are over.
#[track_caller]
fn scrape_after(lb: &Lb, requests: u64) -> Exposition {
    until_some("all requests are counted", || {
        let families = scrape(lb);
        let counted = families.sum("lbthreads_requests_total", &[]).unwrap_or(0.0);
        (counted == requests as f64).then_some(families)
    })
}

/// The label of a backend.
fn label(origin: &Origin) -> String {
    origin.address().to_string()
}
