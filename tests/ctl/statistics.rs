//! `lb-threads ctl stats`: against a real balancer, in a pipe and on a terminal.

use super::{command, ctl, done, failed};
use crate::support::terminal::run_in_terminal_of;
use crate::support::{Lb, Origin, get, until};
use serde_json::Value;

/// A balancer that has served two requests.
fn used() -> (Lb, Origin) {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    lb.wait_for_up(1);
    for _ in 0..2 {
        get(lb.address(), "/").expect_status(200);
    }
    until("both are counted", || done(lb.admin(), &["stats", "5m"]).contains("  2  100.0 %"));
    (lb, origin)
}

#[test]
fn each_period_is_a_table_with_bars_in_a_pipe() {
    let (lb, origin) = used();
    let output = done(lb.admin(), &["stats"]);
    let titles: Vec<&str> = output.lines().filter(|line| line.ends_with("times in ms")).collect();
    let spans = ["last 5m", "last 30m", "last 1h", "last 6h", "last 24h", "since the start"];
    assert_eq!(titles, spans.map(|span| format!("{span}, times in ms")));
    let lines: Vec<&str> = output.lines().take(4).collect();
    for title in ["BACKEND", "REQUESTS", "SHARE", "ERRORS", "ERROR RATE", "REQ/S", "P99", "MAX"] {
        assert!(lines[1].contains(title), "{output}");
    }
    assert!(lines[2].starts_with(&format!("http://{} ", origin.address())), "{output}");
    assert!(lines[2].contains("100.0 %  ██████████ "), "{output}");
    assert!(lines[3].starts_with("total "), "{output}");
    assert!(!output.contains('\u{1b}'), "{output:?}");
}

#[test]
fn periods_are_words_or_a_flag_and_json_is_that_of_the_api() {
    let (lb, _origin) = used();
    for words in [
        &["stats", "5m,all"][..],
        &["stats", "5m", "all"],
        &["stats", "--periods", "5m,all"],
        &["--periods=5m,all", "stats"],
    ] {
        let output = done(lb.admin(), words);
        assert_eq!(output.matches("times in ms").count(), 2, "{words:?}: {output}");
        let output = done(lb.admin(), &[words, &["--json"]].concat());
        let json: Value = serde_json::from_str(&output).expect("JSON");
        assert_eq!(json["periods"].as_object().map(serde_json::Map::len), Some(2));
        assert_eq!(json["periods"]["5m"]["total"]["requests"], 2);
    }
    let error = failed(&ctl(lb.admin(), &["stats", "7 m&x=1"]), 4);
    assert!(error.contains("\"7 m&x=1\" is no period"), "{error}");
    let error = failed(&ctl(lb.admin(), &["list", "--periods", "5m"]), 2);
    assert!(error.contains("--periods"), "{error}");
}

#[test]
fn a_table_fits_into_the_terminal() {
    let (lb, _origin) = used();
    let mut widest = Vec::new();
    for columns in [50, 80, 200] {
        let (code, shown) = run_in_terminal_of(columns, command(lb.admin(), &["stats", "5m"]));
        assert_eq!(code, Some(0), "{shown}");
        let lines = shown.lines().map(|line| line.trim_end().chars().count());
        widest.push(lines.max().expect("there are lines"));
        assert!(widest.last() <= Some(&usize::from(columns)), "{columns}: {shown}");
        assert_eq!(shown.contains('█'), columns == 200, "{columns}: {shown}");
    }
    assert!(widest.is_sorted() && widest[2] > 80, "{widest:?}");
}
