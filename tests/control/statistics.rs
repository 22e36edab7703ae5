//! `GET /_control/stats` and `GET /lb/stats`: periods, form, errors.

use super::{list, post_url, sent, url};
use crate::support::{Lb, Origin, get, until};
use serde_json::{Value, json};

const PERIODS: [&str; 6] = ["5m", "30m", "1h", "6h", "24h", "all"];
const NUMBERS: [&str; 12] = [
    "requests",
    "share",
    "errors",
    "error_rate",
    "requests_per_second",
    "bytes_in",
    "bytes_out",
    "avg_ms",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "max_ms",
];

fn get_stats(lb: &Lb, query: &str) -> (u16, Value, String) {
    let request = format!(
        "GET /_control/stats{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    let (response, json) = sent(lb.admin(), request);
    (response.status, json, response.text())
}

#[test]
fn each_period_has_the_total_and_every_backend_with_all_numbers() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::controlled(&[&one, &two]);
    lb.wait_for_up(2);
    get(lb.address(), "/");
    let served = if one.count() == 1 { &one } else { &two };
    until("the request is counted", || {
        get_stats(&lb, "?periods=all").1["periods"]["all"]["total"]["requests"] == 1
    });
    let (status, json, text) = get_stats(&lb, "");
    assert_eq!(status, 200);
    let periods = json["periods"].as_object().expect("an object");
    assert_eq!(periods.len(), 6);
    for period in PERIODS {
        let numbers = &periods[period];
        assert_eq!(
            (&numbers["total"]["requests"], &numbers["total"]["share"]),
            (&json!(1), &json!(1.0))
        );
        for name in NUMBERS {
            assert!(numbers["total"][name].is_number(), "{period} {name}");
        }
        let backends = numbers["backends"].as_object().expect("an object");
        assert_eq!(backends.len(), 2);
        for origin in [&one, &two] {
            let numbers = &backends[&url(origin)];
            assert_eq!(numbers["requests"], u64::from(origin.count() == 1), "{numbers}");
            assert_eq!(numbers.as_object().map(serde_json::Map::len), Some(NUMBERS.len()));
        }
        assert!(backends[&url(served)]["max_ms"].as_f64() > Some(0.0));
    }
    let positions =
        PERIODS.map(|period| text.find(&format!("\"{period}\":")).expect("it is there"));
    assert!(positions.is_sorted(), "{text}");
    let order = NUMBERS.map(|name| text.find(&format!("\"{name}\":")).expect("it is there"));
    assert!(order.is_sorted(), "{text}");
    assert!(text.find(&url(&one)) < text.find(&url(&two)), "in the order of the configuration");
    assert_eq!(list(&lb)["backends"][usize::from(two.count() == 1)]["share"], 1.0);
}

#[test]
fn periods_are_chosen_by_the_query_each_one_once_and_in_its_order() {
    let lb = Lb::controlled(&[]);
    for (query, expected) in [
        ("?periods=5m", &["5m"][..]),
        ("?periods=1h,5m", &["1h", "5m"]),
        ("?periods=5m,30m,5m", &["5m", "30m"]),
        ("?periods=5m&periods=all,5m", &["5m", "all"]),
        ("?periods=5m%2C30m", &["5m", "30m"]),
        ("?periods=5m,+30m", &["5m", "30m"]),
        ("?", &PERIODS),
    ] {
        let (status, json, text) = get_stats(&lb, query);
        let periods = json["periods"].as_object().expect("an object");
        assert_eq!((status, periods.len()), (200, expected.len()), "{query}: {text}");
        let found = expected.iter().map(|period| text.find(&format!("\"{period}\":")).unwrap());
        assert!(found.is_sorted(), "{query}: {text}");
    }
}

#[test]
fn an_unknown_or_empty_period_and_an_unknown_parameter_are_errors_with_the_fix() {
    let lb = Lb::controlled(&[]);
    for (query, value) in
        [("?periods=7m", "7m"), ("?periods=", ""), ("?periods=5m,", "5m,"), ("?periods=5M", "5M")]
    {
        let (status, json, _) = get_stats(&lb, query);
        assert_eq!((status, &json["code"]), (400, &"unknown_period".into()), "{query}");
        assert_eq!((&json["field"], &json["value"]), (&"periods".into(), &value.into()));
        assert_eq!(json["expected"], "one or more of 5m,30m,1h,6h,24h,all");
        assert!(json["error"].as_str().unwrap().ends_with("5m,30m,1h,6h,24h,all"), "{json}");
    }
    let (status, json, _) = get_stats(&lb, "?period=5m");
    assert_eq!((status, &json["code"]), (400, &"unknown_parameter".into()));
    assert_eq!((&json["field"], &json["nearest"]), (&"period".into(), &"periods".into()));
}

#[test]
fn a_removed_backend_is_listed_after_the_members_with_its_numbers() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::controlled(&[&one, &two]);
    lb.wait_for_up(2);
    for _ in 0..2 {
        get(lb.address(), "/").expect_status(200);
    }
    let requests = |name: &str| {
        get_stats(&lb, "?periods=5m").1["periods"]["5m"]["backends"][name]["requests"].clone()
    };
    until("both are counted", || requests(&url(&one)) == 1 && requests(&url(&two)) == 1);
    let first = lb.balancer().registry().statuses().remove(0).backend;
    assert!(lb.balancer().registry().remove(first.id));
    let (_, json, text) = get_stats(&lb, "?periods=5m");
    let numbers = &json["periods"]["5m"];
    assert_eq!((requests(&url(&one)), &numbers["total"]["requests"]), (json!(1), &json!(2)));
    assert!(text.find(&url(&two)) < text.find(&url(&one)), "{text}");
    let (_, overview) = sent(
        lb.admin(),
        "GET /lb/stats?_=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(overview["backends"].as_array().map(Vec::len), Some(1), "members only");
    assert_eq!(overview["requests"], 2);
}

#[test]
fn the_overview_has_exactly_its_fields_in_their_order() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    lb.wait_for_up(1);
    let request = "GET /lb/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (response, _) = sent(lb.admin(), request);
    let expected = format!(
        "{{\"algorithm\":\"round_robin\",\"requests\":0,\"errors\":0,\"error_rate\":0.0,\"backends\":\
         [{{\"url\":\"{}\",\"healthy\":true,\"requests\":0,\"errors\":0,\"error_rate\":0.0,\
         \"avg_response_ms\":0.0,\"active_connections\":0}}]}}\n",
        url(&origin)
    );
    assert_eq!(response.text(), expected);
}

#[test]
fn a_backend_that_is_removed_and_added_again_begins_at_zero_and_the_total_keeps_its_requests() {
    let one = Origin::named("one");
    let lb = Lb::controlled(&[&one]);
    lb.wait_for_up(1);
    get(lb.address(), "/").expect_status(200);
    let counts = || {
        let all = &get_stats(&lb, "?periods=all").1["periods"]["all"];
        let overview = "GET /lb/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let overview = sent(lb.admin(), overview).1;
        let rows = [&all["backends"][url(&one)]["requests"], &overview["backends"][0]["requests"]];
        let totals = [&all["total"]["requests"], &overview["requests"]];
        (rows.map(Value::as_u64), totals.map(Value::as_u64))
    };
    let both = |count| [Some(count); 2];
    until("the request is counted", || counts() == (both(1), both(1)));
    for operation in ["remove", "add"] {
        assert!(post_url(&lb, operation, &one).0 < 300, "{operation}");
    }
    assert_eq!(counts(), (both(0), both(1)));
    lb.wait_for_up(1);
    get(lb.address(), "/").expect_status(200);
    until("the second request is counted", || counts() == (both(1), both(2)));
}
