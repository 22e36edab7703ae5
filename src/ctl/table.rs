//! Tables for people: aligned columns, the colour of a state, the age of a state. Pure.

use super::rows::{Listing, Row};
use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use std::borrow::Cow;
use unicode_width::UnicodeWidthStr;

/// The space between two columns.
pub(super) const GAP: &str = "  ";

/// A column: its title, and whether its cells end at the same place.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) is_number: bool,
}

const COLUMNS: [Column; 7] = [
    Column { title: "BACKEND", is_number: false },
    Column { title: "STATE", is_number: false },
    Column { title: "SINCE", is_number: true },
    Column { title: "WEIGHT", is_number: true },
    Column { title: "IN FLIGHT", is_number: true },
    Column { title: "SHARE", is_number: true },
    Column { title: "WHY", is_number: false },
];

/// The backends, one in each line, with the algorithm below.
pub fn listing(listing: &Listing, now: Timestamp, has_colours: bool) -> String {
    let algorithm = printable(&listing.algorithm);
    if listing.backends.is_empty() {
        return format!("no backends yet, algorithm {algorithm}\n");
    }
    let rows: Vec<_> = listing.backends.iter().map(|row| cells(row, now)).collect();
    let widths = widths(&COLUMNS, &rows);
    let columns: Vec<(Column, usize)> = COLUMNS.into_iter().zip(widths).collect();
    let mut text = line(&COLUMNS.map(|column| column.title.into()), &columns, None);
    for (row, cells) in listing.backends.iter().zip(&rows) {
        text.push_str(&line(cells, &columns, has_colours.then(|| style(&row.state))));
    }
    let up = listing.backends.iter().filter(|row| row.state == "up").count();
    text.push_str(&format!("\n{up} of {} up, algorithm {algorithm}\n", rows.len()));
    text
}

/// The time since a moment in its two largest units.
pub fn age(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let largest = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(units.len() - 1);
    let (size, unit) = units[largest];
    let rest = seconds % size;
    match units.get(largest + 1).filter(|(size, _)| rest >= *size) {
        Some((smaller, name)) => format!("{}{unit} {}{name}", seconds / size, rest / smaller),
        None => format!("{}{unit}", seconds / size),
    }
}

/// A text of the API without control characters, which would act on the terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let escaped = text.chars().map(|letter| match letter {
        letter if letter.is_control() => letter.escape_default().to_string(),
        letter => letter.to_string(),
    });
    escaped.collect::<String>().into()
}

fn cells(row: &Row, now: Timestamp) -> [Cow<'_, str>; COLUMNS.len()] {
    let since = row.since.as_ref().and_then(|since| since.parse::<Timestamp>().ok());
    let seconds = since.map(|since| now.as_second().saturating_sub(since.as_second()));
    [
        printable(&row.url),
        match (row.state.as_str(), row.healthy) {
            // Its state hides whether its checks pass, which a resume depends on.
            ("draining", false) => "draining, unhealthy".into(),
            (state, _) => printable(state),
        },
        // Clocks of two machines differ: a moment in the future was just now.
        seconds.map_or("-".into(), |seconds| age(seconds.try_into().unwrap_or(0)).into()),
        row.weight.to_string().into(),
        row.in_flight.to_string().into(),
        row.share.map_or("-".into(), |share| format!("{:.1} %", share * 100.0).into()),
        row.why.as_deref().map_or("-".into(), printable),
    ]
}

fn style(state: &str) -> Style {
    let colour = match state {
        "up" => AnsiColor::Green,
        "draining" => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    colour.on_default()
}

/// The widths of columns with these rows.
pub(super) fn widths<'r>(columns: &[Column], rows: &[impl AsRef<[Cow<'r, str>]>]) -> Vec<usize> {
    let width = |(index, column): (usize, &Column)| {
        let cells = rows.iter().map(|row| row.as_ref()[index].width());
        cells.chain([column.title.width()]).max().unwrap_or_default()
    };
    columns.iter().enumerate().map(width).collect()
}

/// A line of cells in columns of these widths; the style is for the state.
pub(super) fn line(
    cells: &[Cow<'_, str>],
    columns: &[(Column, usize)],
    style: Option<Style>,
) -> String {
    let mut text = String::new();
    for (cell, (column, width)) in cells.iter().zip(columns) {
        let space = " ".repeat(width - cell.width());
        let cell = match style.filter(|_| column.title == "STATE") {
            Some(style) => format!("{style}{cell}{style:#}"),
            None => cell.to_string(),
        };
        let [first, second] = if column.is_number { [&space, &cell] } else { [&cell, &space] };
        text.extend([first, second, GAP]);
    }
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(url: &str, state: &str, why: &str) -> Row {
        Row {
            url: url.to_owned(),
            weight: 1,
            healthy: state == "up",
            state: state.to_owned(),
            since: Some("2026-11-26T10:00:00.250Z".to_owned()),
            why: Some(why.to_owned()),
            in_flight: 0,
            share: Some(0.5),
            warning: None,
        }
    }

    fn shown(backends: Vec<Row>, has_colours: bool) -> String {
        let now = "2026-11-26T10:03:12Z".parse().unwrap();
        listing(&Listing { algorithm: "round_robin".to_owned(), backends }, now, has_colours)
    }

    #[test]
    fn columns_are_aligned_and_numbers_end_at_the_same_place() {
        let long = Row {
            weight: 1000,
            in_flight: 12,
            share: None,
            healthy: true,
            ..row("http://long.name:8080", "draining", "drained")
        };
        let short = Row { since: None, why: None, ..row("http://a", "up", "") };
        assert_eq!(
            shown(vec![long, short], false),
            "\
BACKEND                STATE      SINCE  WEIGHT  IN FLIGHT   SHARE  WHY
http://long.name:8080  draining  3m 12s    1000         12       -  drained
http://a               up             -       1          0  50.0 %  -

1 of 2 up, algorithm round_robin
"
        );
    }

    #[test]
    fn a_draining_backend_shows_its_health_too() {
        let unhealthy = row("http://a", "draining", "drained");
        let healthy = Row { healthy: true, ..unhealthy.clone() };
        assert!(shown(vec![unhealthy], false).contains("draining, unhealthy  "));
        assert!(!shown(vec![healthy], false).contains("unhealthy"));
    }

    #[test]
    fn wide_letters_count_as_two_columns() {
        let text = shown(vec![row("http://日本", "up", "x"), row("http://abcd", "up", "x")], false);
        let ends: Vec<usize> = text
            .lines()
            .skip(1)
            .take(2)
            .map(|line| line.split(" up").next().unwrap().width())
            .collect();
        assert_eq!(ends[0], ends[1], "{text}");
    }

    #[test]
    fn only_the_state_is_coloured_and_colours_do_not_shift_columns() {
        let rows = || vec![row("http://a", "up", "up"), row("http://b", "down", "refused connect")];
        let coloured = shown(rows(), true);
        assert!(coloured.contains("\u{1b}[32mup\u{1b}[0m"), "{coloured:?}");
        assert!(coloured.contains("\u{1b}[31mdown\u{1b}[0m"), "{coloured:?}");
        let plain = ["\u{1b}[32m", "\u{1b}[31m", "\u{1b}[0m"]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, shown(rows(), false));
    }

    #[test]
    fn control_characters_of_a_response_never_reach_the_terminal() {
        let text = shown(vec![row("http://a", "up\u{1b}]0;x\u{7}", "a\nb\u{9b}2J")], false);
        assert!(text.contains(r"up\u{1b}]0;x\u{7}") && text.contains(r"a\nb\u{9b}2J"), "{text:?}");
        assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
    }

    #[test]
    fn without_backends_there_is_no_table() {
        assert_eq!(shown(vec![], true), "no backends yet, algorithm round_robin\n");
    }

    #[test]
    fn an_age_has_its_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (192, "3m 12s"),
            (3600, "1h"),
            (3659, "1h"),
            (7500, "2h 5m"),
            (86_400, "1d"),
            (200_000, "2d 7h"),
            (40_000_000, "462d 23h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_moment_in_the_future_was_just_now() {
        let row =
            Row { since: Some("2026-11-26T10:09:00Z".to_owned()), ..row("http://a", "up", "") };
        assert!(shown(vec![row], false).contains(" 0s "));
    }
}
