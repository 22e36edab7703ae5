//! Statistics as operators see them. Plain values, whose order of fields is the order in JSON.
//!
//! Errors and response times are defined in `stats/sample.rs`. Each field is always there: without a
//! request, or without a response time, it is zero. Rates and shares are from 0 to 1.

use crate::config::Algorithm;
use crate::stats::{Period, PeriodStats, Report, Summary};
use crate::upstream::backend::Backend;
use crate::upstream::registry::BackendStatus;
use serde::{Serialize, Serializer};
use std::time::Duration;

/// A JSON object whose keys have an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Ordered<K, V>(pub Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Ordered<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// The statistics of some periods.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// By the name of the period, in the order in which they were asked for.
    pub periods: Ordered<&'static str, PeriodNumbers>,
}

/// The statistics of one period.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeriodNumbers {
    /// All requests, also those that reached no backend, and those to removed backends.
    pub total: Numbers,
    /// By URL: the members in the order of their configuration, then removed backends.
    pub backends: Ordered<String, Numbers>,
}

/// The numbers of one backend, or of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Numbers {
    /// The number of requests.
    pub requests: u64,
    /// The share of all requests.
    pub share: f64,
    /// The number of errors.
    pub errors: u64,
    /// The errors per request.
    pub error_rate: f64,
    /// The requests per second.
    pub requests_per_second: f64,
    /// The number of bytes from clients.
    pub bytes_in: u64,
    /// The number of bytes to clients.
    pub bytes_out: u64,
    /// The average response time, in milliseconds, as the following ones.
    pub avg_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The maximum.
    pub max_ms: f64,
}

/// The statistics since the start, in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// The algorithm.
    pub algorithm: &'static str,
    /// The number of requests.
    pub requests: u64,
    /// The number of errors.
    pub errors: u64,
    /// The errors per request.
    pub error_rate: f64,
    /// The members, in the order of their configuration.
    pub backends: Vec<OverviewRow>,
}

/// A backend of the overview.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OverviewRow {
    /// Its identity, normalised.
    pub url: String,
    /// Whether its health alone allows requests.
    pub healthy: bool,
    /// The number of its requests.
    pub requests: u64,
    /// The number of its errors.
    pub errors: u64,
    /// The errors per request.
    pub error_rate: f64,
    /// Its average response time, in milliseconds.
    pub avg_response_ms: f64,
    /// Its requests in flight.
    pub active_connections: usize,
}

impl Statistics {
    /// The statistics of a report, with all members.
    pub fn new(report: &Report, members: &[BackendStatus]) -> Self {
        let one = |(period, stats): &(Period, PeriodStats)| {
            (period.name(), PeriodNumbers::new(stats, members))
        };
        Self { periods: Ordered(report.periods.iter().map(one).collect()) }
    }
}

impl PeriodNumbers {
    fn new(stats: &PeriodStats, members: &[BackendStatus]) -> Self {
        let members = members.iter().map(|status| &*status.backend);
        let is_member =
            |backend: &Backend| members.clone().any(|member| member.authority == backend.authority);
        let removed = stats.backends.iter().map(|(backend, _)| &**backend);
        let removed = removed.filter(|backend| !is_member(backend));
        let backends = members.clone().chain(removed);
        let numbers =
            |backend: &Backend| (backend.authority.url(), Numbers::from(&stats.of(backend.id)));
        Self {
            total: Numbers::from(&stats.total),
            backends: Ordered(backends.map(numbers).collect()),
        }
    }
}

impl From<&Summary> for Numbers {
    fn from(summary: &Summary) -> Self {
        let times = summary.response_time;
        let [avg_ms, p50_ms, p95_ms, p99_ms, max_ms] = times.map_or([0.0; 5], |times| {
            [times.avg, times.p50, times.p95, times.p99, times.max].map(milliseconds)
        });
        Self {
            requests: summary.requests,
            share: rounded(summary.share),
            errors: summary.errors,
            error_rate: rounded(summary.error_rate),
            requests_per_second: rounded(summary.requests_per_second),
            bytes_in: summary.bytes_in,
            bytes_out: summary.bytes_out,
            avg_ms,
            p50_ms,
            p95_ms,
            p99_ms,
            max_ms,
        }
    }
}

impl Overview {
    /// The overview of a report since the start.
    pub fn new(algorithm: Algorithm, report: &Report, members: &[BackendStatus]) -> Self {
        let stats = report.periods.first().map(|(_, stats)| stats);
        let total = stats.map_or_else(Summary::default, |stats| stats.total);
        let row = |BackendStatus { backend, .. }: &BackendStatus| {
            let numbers = stats.map_or_else(Summary::default, |stats| stats.of(backend.id));
            let Numbers { requests, errors, error_rate, avg_ms, .. } = Numbers::from(&numbers);
            OverviewRow {
                url: backend.authority.url(),
                healthy: backend.is_serving(),
                requests,
                errors,
                error_rate,
                avg_response_ms: avg_ms,
                active_connections: backend.in_flight(),
            }
        };
        Self {
            algorithm: algorithm.name(),
            requests: total.requests,
            errors: total.errors,
            error_rate: rounded(total.error_rate),
            backends: members.iter().map(row).collect(),
        }
    }
}

/// A number with six decimals: shorter than the nearest fraction, and one in a million is seen.
pub fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// Milliseconds with three decimals.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::ResponseTimes;

    #[test]
    fn numbers_are_rounded_for_people_and_without_a_response_time_they_are_zero() {
        let response_time = ResponseTimes {
            avg: Duration::from_nanos(1_234_567),
            p50: Duration::from_micros(2),
            p95: Duration::from_secs(2),
            p99: Duration::from_secs(3),
            max: Duration::from_secs(4),
        };
        let summary = Summary {
            requests: 3,
            share: 1.0 / 3.0,
            requests_per_second: 2.0 / 86_400.0,
            response_time: Some(response_time),
            ..Summary::default()
        };
        let numbers = Numbers::from(&summary);
        assert_eq!((numbers.share, numbers.requests_per_second), (0.333_333, 0.000_023));
        let times = [numbers.avg_ms, numbers.p50_ms, numbers.p95_ms, numbers.p99_ms];
        assert_eq!((times, numbers.max_ms), ([1.235, 0.002, 2000.0, 3000.0], 4000.0));
        let numbers = Numbers::from(&Summary { response_time: None, ..summary });
        assert_eq!((numbers.avg_ms, numbers.max_ms), (0.0, 0.0));
    }

    #[test]
    fn keys_keep_their_order() {
        let json = serde_json::to_string(&Ordered(vec![("b", 1), ("a", 2)])).unwrap();
        assert_eq!(json, r#"{"b":1,"a":2}"#);
    }
}
