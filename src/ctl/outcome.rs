//! The outcome of a change as a sentence. Pure.

use super::grammar::Command;
use super::rows::{Reload, Row};
use super::table::printable;

/// The outcome of a command that changed this backend.
pub fn sentence(command: &Command, row: &Row) -> String {
    let url = printable(&row.url);
    let state = match &row.why {
        Some(why) => format!("{} ({})", printable(&row.state), printable(why)),
        None => printable(&row.state).into_owned(),
    };
    match command {
        Command::Add { .. } => format!("added {url}, weight {}: {state}", row.weight),
        Command::Remove(_) if row.in_flight > 0 => {
            format!("removed {url}: its {} in flight will finish", requests(row.in_flight))
        }
        Command::Remove(_) => format!("removed {url}"),
        Command::Drain { .. } if row.in_flight == 0 => format!("drained {url}: none in flight"),
        Command::Drain { .. } => {
            format!("draining {url}: {} in flight", requests(row.in_flight))
        }
        Command::Resume(_) => format!("resumed {url}: {state}"),
        _ => format!("{url} has weight {}: {state}", row.weight),
    }
}

/// The effects of a reload, in lines.
pub fn reload(effects: &Reload) -> String {
    let Reload { changes, next_start, kept } = effects;
    let changes = if changes.is_empty() { "no changes".to_owned() } else { changes.join("; ") };
    let mut text = format!("reloaded: {}\n", printable(&changes));
    for (head, parts) in [("at the next start", next_start), ("kept from the control API", kept)] {
        if !parts.is_empty() {
            text += &format!("{head}: {}\n", printable(&parts.join("; ")));
        }
    }
    text
}

/// A number of requests with its noun.
pub fn requests(count: u64) -> String {
    match count {
        1 => "1 request".to_owned(),
        count => format!("{count} requests"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::grammar::parse_line;
    use super::*;

    #[test]
    fn a_reload_has_a_line_for_each_kind_of_effect() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let none = Reload { changes: vec![], next_start: vec![], kept: vec![] };
        assert_eq!(reload(&none), "reloaded: no changes\n");
        let all = Reload {
            changes: texts(&["servers: +1 -1", "rise: 1 → 2"]),
            next_start: texts(&["port: 1 → 2"]),
            kept: texts(&["algorithm: p2c"]),
        };
        assert_eq!(
            reload(&all),
            "reloaded: servers: +1 -1; rise: 1 → 2\nat the next start: port: 1 → 2\nkept from the \
             control API: algorithm: p2c\n"
        );
    }

    #[test]
    fn a_sentence_has_the_backend_and_its_state_after_the_change() {
        let row = |state: &str, in_flight| Row {
            url: "http://a:1".to_owned(),
            weight: 2,
            healthy: true,
            state: state.to_owned(),
            since: None,
            why: (state == "up").then(|| "GET /health returned 200".to_owned()),
            in_flight,
            share: None,
            warning: None,
        };
        let up = "up (GET /health returned 200)";
        for (line, row, expected) in [
            ("add a 1", row("up", 0), format!("added http://a:1, weight 2: {up}")),
            ("add a 1", row("down", 0), "added http://a:1, weight 2: down".to_owned()),
            ("remove a 1", row("removed", 0), "removed http://a:1".to_owned()),
            (
                "remove a 1",
                row("removed", 3),
                "removed http://a:1: its 3 requests in flight will finish".to_owned(),
            ),
            (
                "drain a 1",
                row("draining", 1),
                "draining http://a:1: 1 request in flight".to_owned(),
            ),
            ("drain a 1", row("draining", 0), "drained http://a:1: none in flight".to_owned()),
            ("resume a 1", row("up", 0), format!("resumed http://a:1: {up}")),
            ("weight a 1 2", row("up", 0), format!("http://a:1 has weight 2: {up}")),
        ] {
            assert_eq!(sentence(&parse_line(line).unwrap(), &row), expected, "{line}");
        }
    }
}
