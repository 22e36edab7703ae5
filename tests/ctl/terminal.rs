//! `lb-threads ctl` on a terminal: colours and progress, and neither without one.

use super::{JSON, api, command, row};
use crate::support::Origin;
use crate::support::terminal::run_in_terminal;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn a_state_has_a_colour_on_a_terminal_unless_no_color_is_set() {
    let origin = api(json!([row("http://a:1", "up", 0), row("http://b:1", "down", 0)]));
    for (name, value, is_coloured) in [
        ("TERM", "xterm", true),
        ("NO_COLOR", "", true),
        ("NO_COLOR", "1", false),
        ("TERM", "dumb", false),
    ] {
        let mut command = command(origin.address(), &["list"]);
        command.env(name, value);
        let (code, shown) = run_in_terminal(command);
        assert_eq!(code, Some(0));
        assert_eq!(
            shown.contains("\u{1b}[32mup\u{1b}[0m"),
            is_coloured,
            "{name}={value}: {shown:?}"
        );
        assert_eq!(shown.contains('\u{1b}'), is_coloured, "{name}={value}: {shown:?}");
    }
}

#[test]
fn a_wait_shows_its_progress_on_a_terminal_and_erases_it() {
    let left = AtomicU64::new(2);
    let origin = Origin::serve(move |request, reply| {
        let row = row("http://a:1", "draining", left.fetch_sub(1, Ordering::Relaxed));
        let body = match request.method.as_str() {
            "POST" => row,
            _ => json!({ "algorithm": "rr", "backends": [row] }),
        };
        reply.respond(200, &JSON, body.to_string());
    });
    let (code, shown) =
        run_in_terminal(command(origin.address(), &["drain", "a:1", "--wait", "9s"]));
    assert_eq!(code, Some(0));
    assert!(shown.contains("\r\u{1b}[Khttp://a:1: 2 requests in flight, "), "{shown:?}");
    assert!(shown.contains("\r\u{1b}[Khttp://a:1: 1 request in flight, "), "{shown:?}");
    assert!(shown.contains("s left"), "{shown:?}");
    assert!(shown.ends_with("\r\u{1b}[Kdrained http://a:1: none in flight\r\n"), "{shown:?}");
}
