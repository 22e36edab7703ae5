//! The parser of `/metrics` accepts what the specifications allow and nothing else.

use crate::support::prometheus::Exposition;
use std::panic::catch_unwind;

const COUNTER: &str = "# HELP a_total b\n# TYPE a_total counter\n";
const HISTOGRAM: &str = "# HELP h b\n# TYPE h histogram\n";

#[test]
fn values_and_escaped_labels_are_parsed() {
    let text = format!("{COUNTER}a_total{{x=\"q\\\"\\\\\\n,}}\",y=\"\"}} 1e3\n");
    let exposition = Exposition::parse(&text);
    assert_eq!(exposition.value("a_total", &[("x", "q\"\\\n,}"), ("y", "")]), 1000.0);
    let histogram = format!(
        "{HISTOGRAM}h_sum 3.0\nh_count 2\nh_bucket{{le=\"0.5\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\n"
    );
    assert_eq!(Exposition::parse(&histogram).value("h_count", &[]), 2.0);
    let open = "# HELP a b\n# TYPE a counter\na_total 1\n# EOF\n";
    assert_eq!(Exposition::parse_open_metrics(open).sum("a_total", &[]), Some(1.0));
    assert_eq!(Exposition::parse_open_metrics(open).sum("b_total", &[]), None);
}

#[test]
fn violations_are_found() {
    let whole = "h_sum 1.0\nh_count 1\n";
    for text in [
        "a_total 1\n".to_owned(),
        "# TYPE a_total counter\n# HELP a_total b\na_total 1\n".to_owned(),
        format!("{COUNTER}{COUNTER}"),
        "# HELP a b\n# TYPE a counter\na 1\n".to_owned(),
        format!("{COUNTER}a_total 1"),
        format!("{COUNTER}\na_total 1\n"),
        format!("{COUNTER}b_total 1\n"),
        format!("{COUNTER}a_total 1\na_total 2\n"),
        format!("{COUNTER}a_total{{x=\"1\"}} 1\na_total{{x=\"1\"}} 1\n"),
        format!("{COUNTER}a_total{{x=\"1\"}} 1\na_total{{y=\"1\"}} 1\n"),
        format!("{COUNTER}a_total{{x=\"1\",x=\"2\"}} 1\n"),
        format!("{COUNTER}a_total{{1x=\"1\"}} 1\n"),
        format!("{COUNTER}a_total{{x=\"\\t\"}} 1\n"),
        format!("{COUNTER}a_total{{x=\"1}} 1\n"),
        format!("{COUNTER}a_total -1\n"),
        format!("{COUNTER}a_total NaN\n"),
        format!("{COUNTER}a_total 1 1700000000\n"),
        format!("{HISTOGRAM}{whole}"),
        format!("{HISTOGRAM}{whole}h_bucket{{le=\"1\"}} 1\n"),
        format!("{HISTOGRAM}{whole}h_bucket{{le=\"+Inf\"}} 2\n"),
        format!("{HISTOGRAM}h_count 1\nh_bucket{{le=\"+Inf\"}} 1\n"),
        format!("{HISTOGRAM}{whole}h_bucket{{le=\"1\"}} 2\nh_bucket{{le=\"+Inf\"}} 1\n"),
        format!(
            "{HISTOGRAM}{whole}h_bucket{{le=\"2\"}} 0\nh_bucket{{le=\"1\"}} 0\nh_bucket{{le=\"+Inf\"}} 1\n"
        ),
    ] {
        assert!(catch_unwind(|| Exposition::parse(&text)).is_err(), "{text}");
    }
    for text in [
        "# HELP a b\n# TYPE a counter\na_total 1\n",
        "# HELP a_total b\n# TYPE a_total counter\na_total 1\n# EOF\n",
        "# HELP a b\n# TYPE a counter\na 1\n# EOF\n",
        "# HELP h b\n# TYPE h histogram\nh_sum 0.0\nh_count 0\nh_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 0\n# EOF\n",
    ] {
        assert!(catch_unwind(|| Exposition::parse_open_metrics(text)).is_err(), "{text}");
    }
}

#[test]
fn a_counter_that_falls_or_vanishes_is_found() {
    let of = |value: &str| Exposition::parse(&format!("{COUNTER}{value}"));
    of("a_total 2\n").assert_none_fell_since(&of("a_total 2\n"));
    of("a_total 2\n").assert_none_fell_since(&of(""));
    for (now, before) in [("a_total 1\n", "a_total 2\n"), ("", "a_total 0\n")] {
        let compared = catch_unwind(|| of(now).assert_none_fell_since(&of(before)));
        assert!(compared.is_err(), "{now} after {before}");
    }
}
