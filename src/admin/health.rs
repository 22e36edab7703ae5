//! The health pages: `/livez`, `/readyz`, `/healthz`. Pure, except for [`Readiness::of`].

use super::message::Response;
use super::rows::Row;
use crate::clock::Calendar;
use crate::server::Balancer;
use crate::server::Reloads;

/// The facts on which readiness depends.
#[derive(Debug)]
pub(super) struct Readiness {
    is_serving: bool,
    is_draining: bool,
    up: usize,
    backends: Vec<Row>,
    /// The line about the configuration file, if there is one.
    config: Option<String>,
}

impl Readiness {
    /// The readiness of a balancer now.
    pub(super) fn of(balancer: &Balancer) -> Self {
        let statuses = balancer.registry().statuses();
        Self {
            is_serving: balancer.is_serving(),
            is_draining: balancer.is_draining(),
            up: balancer.cluster().up(),
            backends: statuses.iter().map(|one| Row::new(one, 0.0, balancer.calendar())).collect(),
            config: balancer.reloads().map(|reloads| described(&reloads, balancer.calendar())),
        }
    }

    /// Why it is not ready, if it is not.
    fn obstacle(&self) -> Option<&'static str> {
        match self {
            Self { is_draining: true, .. } => Some("draining"),
            Self { is_serving: false, .. } => Some("starting"),
            Self { backends, .. } if backends.is_empty() => Some("no backends yet"),
            Self { up: 0, .. } => Some("no backend is up"),
            _ => None,
        }
    }

    /// The page, with all reasons if it is `verbose`.
    pub(super) fn response(&self, verbose: bool) -> Response {
        let obstacle = self.obstacle();
        let mut text = match obstacle {
            Some(obstacle) => format!("not ready: {obstacle}\n"),
            None => "ready\n".to_owned(),
        };
        if verbose {
            let yes = |is_so: bool| if is_so { "yes" } else { "no" };
            let (serving, draining) = (yes(self.is_serving), yes(self.is_draining));
            let (up, all) = (self.up, self.backends.len());
            text +=
                &format!("serving: {serving}\ndraining: {draining}\nbackends up: {up} of {all}\n");
            // A file with a problem is no reason to get no requests: the settings in use stay.
            if let Some(config) = &self.config {
                text += &format!("config: {config}\n");
            }
            for Row { url, state, since, why, .. } in &self.backends {
                text += &format!("backend {url} {state} since {since}: {why}\n");
            }
        }
        Response::text(if obstacle.is_some() { 503 } else { 200 }, text)
    }
}

fn described(reloads: &Reloads, calendar: &Calendar) -> String {
    match &reloads.failure {
        Some((at, problem)) => {
            format!("reload failed at {}: {problem}", calendar.rfc3339(*at))
        }
        None => format!("loaded at {}", calendar.rfc3339(reloads.last_success)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            url: "http://127.0.0.1:8001".to_owned(),
            address: None,
            weight: 1,
            healthy: false,
            state: "down",
            since: "2026-01-02T03:04:05.006Z".to_owned(),
            why: "GET /health returned 503".to_owned(),
            in_flight: 0,
            share: 0.0,
            warning: None,
        }
    }

    #[test]
    fn it_is_ready_while_it_serves_does_not_drain_and_a_backend_is_up() {
        for (is_serving, is_draining, up, backends, status, first_line) in [
            (true, false, 1, 1, 200, "ready"),
            (false, false, 1, 1, 503, "not ready: starting"),
            (true, true, 1, 1, 503, "not ready: draining"),
            (true, false, 0, 1, 503, "not ready: no backend is up"),
            (true, false, 0, 0, 503, "not ready: no backends yet"),
        ] {
            let backends = vec![row(); backends];
            let config = Some("reload failed".to_owned());
            let readiness = Readiness { is_serving, is_draining, up, backends, config };
            let response = readiness.response(false);
            assert_eq!((response.status, response.body.trim_end()), (status, first_line));
        }
    }

    #[test]
    fn a_verbose_page_has_each_fact_and_each_backend_with_its_reason() {
        let readiness = Readiness {
            is_serving: true,
            is_draining: false,
            up: 0,
            backends: vec![row()],
            config: Some("reload failed".to_owned()),
        };
        assert_eq!(
            readiness.response(true).body,
            "not ready: no backend is up\nserving: yes\ndraining: no\nbackends up: 0 of 1\n\
             config: reload failed\nbackend http://127.0.0.1:8001 down since 2026-01-02T03:04:05.006Z: GET /health returned 503\n"
        );
    }
}
