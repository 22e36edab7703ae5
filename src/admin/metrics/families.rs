//! The table of families: name, type, labels, help, and how their series are made of the facts.
//!
//! Labels have bounded values: backends by `host:port`, worker numbers, and codes of our own tables.

use super::facts::Facts;
use crate::config::DURATION_BOUNDS as BOUNDS;
use crate::error::{Cause, Side};
use crate::reason::Reason;
use crate::stats::{BackendTotals, Distribution};
use crate::upstream::registry::BackendStatus;
use prometheus_client::encoding::{
    EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::time::Duration;

/// A family of series.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name, with the `_total` of a counter.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The names of its labels, separated by commas.
    pub labels: &'static str,
    /// The meaning, in one line.
    pub help: &'static str,
    pub(super) series: fn(&Facts, &mut Series<'_>) -> fmt::Result,
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that never falls while the balancer runs.
    Counter,
    /// A number of this moment.
    Gauge,
    /// Durations by bucket.
    Histogram,
}

impl Kind {
    /// The name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    pub(super) fn encoded(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

impl Family {
    /// The name without the `_total` of a counter, which the encoder adds.
    pub(super) fn base_name(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }

    /// Whether it is a counter and another family has its name without `_total`.
    pub(super) fn has_namesake(&self) -> bool {
        let base = self.base_name();
        base != self.name && FAMILIES.iter().any(|other| other.name == base)
    }
}

/// The states of a member in `lbthreads_backend_state`.
const STATES: [&str; 4] = ["up", "down", "ejected", "draining"];

macro_rules! families {
    ($($name:literal $kind:ident [$labels:literal] $help:literal = $series:expr;)*) => {
        /// Every family, in the order of the response.
        pub const FAMILIES: &[Family] = &[$(Family {
            name: $name, kind: Kind::$kind, labels: $labels, help: $help, series: $series,
        }),*];
    };
}

families! {
    "lbthreads_build_info" Gauge ["version, rustc"] "Version and compiler of the program; always 1"
        = |_, to| {
            let rustc = env!("LB_THREADS_RUSTC").trim_start_matches("rustc ");
            to.gauge(&[("version", env!("CARGO_PKG_VERSION")), ("rustc", rustc)], 1)
        };
    "lbthreads_requests_total" Counter ["backend, code"] "Requests that are over, by the status code of the response, or none if the client went away before; backend none: they reached no backend"
        = requests;
    "lbthreads_request_duration_seconds" Histogram ["backend"] "Response times: from the request's last byte to the response's last byte"
        = |facts, to| facts.requests().try_for_each(|(name, totals)| {
            to.distribution(&[("backend", name)], &totals.response_time)
        });
    "lbthreads_response_first_byte_seconds" Histogram ["backend"] "From the request's last byte to the head of the backend's response"
        = |facts, to| facts.backends.iter().try_for_each(|(name, totals)| {
            to.distribution(&[("backend", name)], &totals.first_byte)
        });
    "lbthreads_request_errors_total" Counter ["backend"] "Requests with a 5xx response, of the backend or our own, or with a truncated one"
        = |facts, to| to.counts(facts, |totals| totals.errors);
    "lbthreads_request_bytes_total" Counter ["backend"] "Bytes of requests from clients, heads included"
        = |facts, to| to.counts(facts, |totals| totals.bytes_in);
    "lbthreads_response_bytes_total" Counter ["backend"] "Bytes of responses to clients, heads included"
        = |facts, to| to.counts(facts, |totals| totals.bytes_out);
    "lbthreads_backend_up" Gauge ["backend"] "Whether the backend's health alone allows requests: 1, else 0"
        = |facts, to| to.of_members(facts, |status| u64::from(status.backend.is_serving()));
    "lbthreads_backend_state" Gauge ["backend, state"] "1 for the backend's state, 0 for the others: up, down, ejected, draining"
        = states;
    "lbthreads_backend_weight" Gauge ["backend"] "The share of requests relative to other backends"
        = |facts, to| to.of_members(facts, |status| u64::from(status.backend.weight()));
    "lbthreads_backend_inflight" Gauge ["backend"] "Requests in flight"
        = |facts, to| to.of_members(facts, |status| status.backend.in_flight() as u64);
    "lbthreads_backend_connects_total" Counter ["backend"] "Connects that were begun"
        = |facts, to| to.attempts(facts, |totals| totals.connects);
    "lbthreads_backend_connect_errors_total" Counter ["backend, cause"] "Connects that failed"
        = connect_errors;
    "lbthreads_backend_reuses_total" Counter ["backend"] "Attempts on an idle connection"
        = |facts, to| to.attempts(facts, |totals| totals.reuses);
    "lbthreads_backend_stale_reuses_total" Counter ["backend"] "Attempts on an idle connection that ended before a byte of the response"
        = |facts, to| to.attempts(facts, |totals| totals.stale_reuses);
    "lbthreads_health_checks_total" Counter ["backend, result"] "Health checks: passed, failed, or unreachable (refused or broken connections)"
        = health_checks;
    "lbthreads_health_check_duration_seconds" Histogram ["backend"] "Durations of health checks"
        = |facts, to| facts.members.iter().try_for_each(|status| {
            let (counts, labels) = (&status.counts, [("backend", &*status.backend.name)]);
            to.histogram(&labels, &counts.durations, counts.duration_sum)
        });
    "lbthreads_health_transitions_total" Counter ["backend, to"] "Changes of state to up, down or ejected"
        = health_transitions;
    "lbthreads_retries_total" Counter ["cause"] "Attempts after the first one of a request, by the failure of the attempt before"
        = |facts, to| Cause::ALL.iter().try_for_each(|cause| match facts.totals.retried(*cause) {
            0 if cause.side() != Side::Backend => Ok(()),
            count => to.counter(&[("cause", cause.code())], count),
        });
    "lbthreads_retry_budget_exhausted_total" Counter [""] "Requests that were not retried because the retry budget was used up"
        = |facts, to| to.counter(&[], facts.totals.retries_over_budget);
    "lbthreads_queue_length" Gauge [""] "Requests that wait for a slot at a backend"
        = |facts, to| to.gauge(&[], facts.queue_length as u64);
    "lbthreads_queue_wait_seconds" Histogram [""] "Times in the queue, of requests that were queued"
        = |facts, to| to.distribution(&[], &facts.all.queue_wait);
    "lbthreads_connections" Gauge [""] "Open client connections"
        = |facts, to| to.gauge(&[], facts.connections as u64);
    "lbthreads_connections_total" Counter [""] "Client connections accepted, those that were rejected included"
        = |facts, to| to.counter(&[], facts.totals.connections);
    "lbthreads_connections_rejected_total" Counter ["reason"] "Client connections over a limit: overload (503) or client_limit (429)"
        = |facts, to| {
            to.counter(&[("reason", Cause::Overload.code())], facts.totals.rejected_overload)?;
            to.counter(&[("reason", Cause::ClientLimit.code())], facts.totals.rejected_client_limit)
        };
    "lbthreads_tunnels" Gauge [""] "Open tunnels"
        = |facts, to| to.gauge(&[], facts.totals.tunnels_opened.saturating_sub(facts.totals.tunnels_closed));
    "lbthreads_workers" Gauge [""] "Worker threads"
        = |facts, to| to.gauge(&[], facts.workers as u64);
    "lbthreads_errors_total" Counter ["cause"] "Error responses of our own, by the code in X-LB-Error"
        = |facts, to| Cause::ALL.iter().try_for_each(|cause| {
            to.counter(&[("cause", cause.code())], facts.totals.failed(*cause))
        });
    "lbthreads_connection_ends_total" Counter ["reason"] "Client connections that ended, by close reason"
        = |facts, to| Reason::ALL.iter().try_for_each(|reason| {
            to.counter(&[("reason", reason.code())], facts.totals.closed(*reason))
        });
    "lbthreads_config_reloads_total" Counter ["result"] "Reloads of the configuration file: success or failure"
        = |facts, to| facts.reloads.iter().try_for_each(|reloads| {
            to.counter(&[("result", "success")], reloads.succeeded)?;
            to.counter(&[("result", "failure")], reloads.failed)
        });
    "lbthreads_config_last_reload_success" Gauge [""] "Whether the last load of the configuration file was successful: 1, else 0"
        = |facts, to| facts.reloads.iter().try_for_each(|reloads| {
            to.gauge(&[], u64::from(reloads.failure.is_none()))
        });
    "lbthreads_config_last_reload_success_timestamp_seconds" Gauge [""] "The last successful load of the configuration file, in seconds since 1970-01-01"
        = |facts, to| facts.loaded.iter().try_for_each(|loaded| to.gauge(&[], loaded.as_secs_f64()));
    "process_cpu_seconds_total" Counter [""] "CPU time of all threads, in seconds"
        = |facts, to| to.counter(&[], facts.process.cpu_seconds);
    "process_resident_memory_bytes" Gauge [""] "Resident memory"
        = |facts, to| to.known(facts.process.resident_bytes);
    "process_open_fds" Gauge [""] "Open descriptors"
        = |facts, to| to.known(facts.process.open_files);
    "process_max_fds" Gauge [""] "The limit of open descriptors"
        = |facts, to| to.known(facts.process.max_files);
    "process_start_time_seconds" Gauge [""] "The start, in seconds since 1970-01-01"
        = |facts, to| to.gauge(&[], facts.started.as_secs_f64());
    "process_threads" Gauge [""] "Threads"
        = |facts, to| to.known(facts.process.threads);
}

fn requests(facts: &Facts, to: &mut Series<'_>) -> fmt::Result {
    for (backend, totals) in facts.requests() {
        for (status, count) in &totals.by_status {
            to.counter(&[("backend", backend), ("code", &status.to_string())], *count)?;
        }
        if totals.without_status > 0 {
            to.counter(&[("backend", backend), ("code", "none")], totals.without_status)?;
        }
    }
    Ok(())
}

fn states(facts: &Facts, to: &mut Series<'_>) -> fmt::Result {
    for status in &facts.members {
        let current = crate::admin::rows::state(status);
        for state in STATES {
            let labels = [("backend", &*status.backend.name), ("state", state)];
            to.gauge(&labels, u64::from(state == current))?;
        }
    }
    Ok(())
}

fn connect_errors(facts: &Facts, to: &mut Series<'_>) -> fmt::Result {
    for (backend, totals) in &facts.backends {
        for (cause, count) in [
            (Cause::ConnectFailed, totals.connects_failed),
            (Cause::ConnectTimeout, totals.connects_timed_out),
        ] {
            to.counter(&[("backend", backend), ("cause", cause.code())], count)?;
        }
    }
    Ok(())
}

fn health_checks(facts: &Facts, to: &mut Series<'_>) -> fmt::Result {
    for BackendStatus { backend, counts, .. } in &facts.members {
        for (result, count) in [
            ("passed", counts.passed),
            ("failed", counts.failed),
            ("unreachable", counts.unreachable),
        ] {
            to.counter(&[("backend", &backend.name), ("result", result)], count)?;
        }
    }
    Ok(())
}

fn health_transitions(facts: &Facts, to: &mut Series<'_>) -> fmt::Result {
    for BackendStatus { backend, counts, .. } in &facts.members {
        for (state, count) in
            [("up", counts.to_up), ("down", counts.to_down), ("ejected", counts.to_ejected)]
        {
            to.counter(&[("backend", &backend.name), ("to", state)], count)?;
        }
    }
    Ok(())
}

/// The names and values of labels.
type Labels<'l> = &'l [(&'static str, &'l str)];

/// The series of one family, as they are encoded.
#[derive(Debug)]
pub struct Series<'e> {
    pub(super) encoder: MetricEncoder<'e>,
    /// Whether counters are encoded without a type.
    pub(super) is_untyped: bool,
}

impl Series<'_> {
    fn counter<V>(&mut self, labels: Labels<'_>, value: V) -> fmt::Result
    where
        V: EncodeCounterValue + EncodeGaugeValue + Copy,
    {
        let mut series = self.encoder.encode_family(&labels)?;
        match self.is_untyped {
            true => series.encode_gauge(&value),
            false => series.encode_counter::<NoLabelSet, _, f64>(&value, None),
        }
    }

    fn gauge(&mut self, labels: Labels<'_>, value: impl EncodeGaugeValue + Copy) -> fmt::Result {
        self.encoder.encode_family(&labels)?.encode_gauge(&value)
    }

    /// A gauge without labels that may be unknown.
    fn known(&mut self, value: Option<u64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.gauge(&[], value))
    }

    /// A gauge of each member.
    fn of_members(&mut self, facts: &Facts, value: fn(&BackendStatus) -> u64) -> fmt::Result {
        let mut members = facts.members.iter();
        members.try_for_each(|one| self.gauge(&[("backend", &one.backend.name)], value(one)))
    }

    /// A counter of requests, also of those that reached no backend.
    fn counts(&mut self, facts: &Facts, count: fn(&BackendTotals) -> u64) -> fmt::Result {
        let mut rows = facts.requests();
        rows.try_for_each(|(name, totals)| self.counter(&[("backend", name)], count(totals)))
    }

    /// A counter of attempts at backends.
    fn attempts(&mut self, facts: &Facts, count: fn(&BackendTotals) -> u64) -> fmt::Result {
        let mut rows = facts.backends.iter();
        rows.try_for_each(|(name, totals)| self.counter(&[("backend", name)], count(totals)))
    }

    fn distribution(&mut self, labels: Labels<'_>, of: &Distribution) -> fmt::Result {
        let upper = |index: usize| of.buckets.get(index).copied().unwrap_or(of.count);
        let lower = |index: usize| index.checked_sub(1).map_or(0, upper);
        self.histogram(labels, &std::array::from_fn(|index| upper(index) - lower(index)), of.sum)
    }

    /// A histogram of these counts, which are not cumulative; the last one is above every bound.
    fn histogram(
        &mut self,
        labels: Labels<'_>,
        counts: &[u64; BOUNDS.len() + 1],
        sum: Duration,
    ) -> fmt::Result {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        let count = counts.iter().sum();
        let mut series = self.encoder.encode_family(&labels)?;
        series.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
    }
}
