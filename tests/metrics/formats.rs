//! The two formats, and what they must never show.

use super::{get_metrics, label, scrape, scrape_after};
use crate::support::prometheus::Exposition;
use crate::support::{Lb, Origin, exchange, get, with_admin};
use lb_threads::admin::FAMILIES;
use lb_threads::config::DataPortControl;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[test]
fn both_formats_have_every_family_of_the_table_in_its_order() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    lb.wait_for_up(1);
    get(lb.address(), "/");
    scrape_after(&lb, 1);
    let text = get_metrics(&lb, "*/*");
    let open = get_metrics(&lb, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert_eq!(text.header("Content-Type"), Some(TEXT));
    assert_eq!(open.header("Content-Type"), Some(OPEN_METRICS));
    let shown = [Exposition::parse(&text.text()), Exposition::parse_open_metrics(&open.text())];
    for family in FAMILIES {
        for exposition in &shown {
            let found = exposition.family(family.name);
            let kind = match (&*found.kind, family.name) {
                // OpenMetrics has the gauge of the same name.
                ("unknown", "lbthreads_connections_total") => "counter",
                (kind, _) => kind,
            };
            assert_eq!(kind, family.kind.name(), "{}", family.name);
            assert_eq!(found.help, family.help);
            let is_own = |name: &str| name.starts_with(family.name) || name.ends_with("_total");
            assert!(found.samples.iter().all(|sample| is_own(&sample.name)), "{found:?}");
            let labels: Vec<&str> =
                family.labels.split(", ").filter(|label| !label.is_empty()).collect();
            for sample in &found.samples {
                let names = sample.labels.keys().filter(|name| *name != "le");
                let mut expected = labels.clone();
                expected.sort_unstable();
                assert_eq!(names.collect::<Vec<_>>(), expected, "{}", family.name);
            }
            // Without a configuration file there is no reload.
            let has_none = family.name.starts_with("lbthreads_config_");
            assert_eq!(found.samples.is_empty(), has_none, "{}", family.name);
        }
    }
    let order: Vec<&str> = shown[0].families.iter().map(|family| family.name.as_str()).collect();
    assert_eq!(order, FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>());
}

#[test]
fn a_histogram_has_the_same_buckets_in_both_formats() {
    let lb = Lb::controlled(&[]);
    let text = get_metrics(&lb, "*/*").text();
    let open = get_metrics(&lb, "application/openmetrics-text").text();
    let shown = [Exposition::parse(&text), Exposition::parse_open_metrics(&open)];
    let histogram = "lbthreads_request_duration_seconds";
    let bounds = |exposition: &Exposition| {
        let samples = &exposition.family(histogram).samples;
        let bounds = samples.iter().filter_map(|sample| sample.labels.get("le")?.parse().ok());
        bounds.collect::<Vec<f64>>()
    };
    let expected = [
        0.001,
        0.0025,
        0.005,
        0.01,
        0.025,
        0.05,
        0.1,
        0.25,
        0.5,
        1.0,
        2.5,
        5.0,
        10.0,
        f64::INFINITY,
    ];
    assert_eq!(shown.each_ref().map(bounds), [expected.to_vec(), expected.to_vec()]);
}

#[test]
fn a_head_request_has_the_length_of_the_text() {
    let lb = Lb::controlled(&[]);
    let request = "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut client = crate::support::Client::connect(lb.admin());
    client.send(request);
    let response = client.read_response_to("HEAD");
    assert_eq!((response.status, response.header("Content-Type")), (200, Some(TEXT)));
    let length: usize = response.header("Content-Length").unwrap().parse().unwrap();
    assert!(length > 1000, "{length}");
}

#[test]
fn no_text_of_a_client_becomes_a_label() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    lb.wait_for_up(1);
    let requests = [
        "SECRET-METHOD /secret-path?secret-query HTTP/1.1\r\nHost: secret-host\r\nUser-Agent: \
         secret-agent\r\n\r\n",
        "GET /secret-path HTTP/1.1\r\nHost: secret host\r\n\r\n",
    ];
    for request in requests {
        exchange(lb.address(), request);
    }
    let families = scrape_after(&lb, 2);
    assert!(!get_metrics(&lb, TEXT).text().contains("secret"));
    let none = "none".to_owned();
    assert_eq!(families.label_values("backend"), [&*label(&origin), &none].into());
    for code in families.label_values("code") {
        assert!((100..600).contains(&code.parse::<u16>().unwrap()), "{code}");
    }
}

#[test]
fn the_data_port_has_the_statistics_but_not_the_metrics() {
    let origin = Origin::named("origin");
    let lb = Lb::with(&[&origin], |config| {
        with_admin(config);
        config.boot.control.on_data_port = Some(DataPortControl::Read);
    });
    assert_eq!(get(lb.address(), "/metrics").text(), "origin");
    for path in ["/lb/stats", "/_control/stats?periods=5m"] {
        let response = get(lb.address(), path);
        response.expect_status(200);
        assert!(response.text().contains("\"requests\""), "{}", response.text());
    }
    scrape(&lb);
}
