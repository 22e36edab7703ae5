//! Tables of statistics for people: one per period, with shares as bars. Pure.
//!
//! In a line that is too narrow, the columns that matter least are left out, then names are cut.

use super::rows::{Numbers, PeriodNumbers, Statistics};
use super::table::{self, Column, GAP, printable};
use std::borrow::Cow;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The columns of a bar.
const BAR_WIDTH: usize = 10;
/// The columns to which names are cut before a column is left out, and if nothing else helps.
const SHORT_NAME_WIDTH: usize = 20;
const MIN_NAME_WIDTH: usize = 8;

/// The cells of a line.
type Cells<'r> = Vec<Cow<'r, str>>;

/// A column of numbers.
struct NumberColumn {
    title: &'static str,
    is_number: bool,
    /// The one of the lowest rank is left out first.
    rank: u8,
    cell: fn(&Numbers) -> String,
}

macro_rules! columns {
    ($($title:literal $is_number:literal $rank:literal $cell:expr;)*) => {
        const COLUMNS: &[NumberColumn] = &[$(NumberColumn {
            title: $title, is_number: $is_number, rank: $rank, cell: $cell,
        }),*];
    };
}

columns! {
    "REQUESTS" true 9 |numbers| numbers.requests.to_string();
    "SHARE" true 7 |numbers| percent(numbers.share);
    "" false 0 |numbers| bar(numbers.share);
    "ERRORS" true 5 |numbers| numbers.errors.to_string();
    "ERROR RATE" true 8 |numbers| percent(numbers.error_rate);
    "REQ/S" true 6 |numbers| short(numbers.requests_per_second);
    "AVG" true 3 |numbers| time(numbers, numbers.avg_ms);
    "P50" true 1 |numbers| time(numbers, numbers.p50_ms);
    "P95" true 2 |numbers| time(numbers, numbers.p95_ms);
    "P99" true 4 |numbers| time(numbers, numbers.p99_ms);
    "MAX" true 1 |numbers| time(numbers, numbers.max_ms);
}

/// The tables, in lines of `width` columns at most, if there is a limit.
pub fn report(statistics: &Statistics, width: Option<usize>) -> String {
    let tables = statistics.periods.0.iter().map(|(period, numbers)| {
        let title = match period.as_str() {
            "all" => "since the start".to_owned(),
            period => format!("last {}", printable(period)),
        };
        format!("{title}, times in ms\n{}", period_table(numbers, width))
    });
    tables.collect::<Vec<_>>().join("\n")
}

fn period_table(numbers: &PeriodNumbers, width: Option<usize>) -> String {
    let backends = numbers.backends.0.iter();
    let named = backends.map(|(url, numbers)| (printable(url), numbers));
    let rows: Vec<(Cow<'_, str>, &Numbers)> =
        named.chain([("total".into(), &numbers.total)]).collect();
    let mut shown: Vec<&NumberColumn> = COLUMNS.iter().collect();
    let limit = width.unwrap_or(usize::MAX);
    let fits = |shown: &[&NumberColumn]| {
        let (_, mut columns) = columns(&rows, shown);
        columns[0].1 = columns[0].1.min(SHORT_NAME_WIDTH);
        width_of(&columns) <= limit
    };
    while shown.len() > 1 && !fits(&shown) {
        let least = (0..shown.len()).min_by_key(|index| shown[*index].rank);
        least.map(|index| shown.remove(index));
    }
    let (mut rows, mut columns) = columns(&rows, &shown);
    let over = width_of(&columns).saturating_sub(limit);
    let (name_width, min_width) = (columns[0].1, MIN_NAME_WIDTH.min(columns[0].1));
    let name_width = name_width.saturating_sub(over).max(min_width);
    columns[0].1 = name_width;
    rows.iter_mut().for_each(|row| row[0] = cut(&row[0], name_width).into());
    let titles: Vec<Cow<'_, str>> = columns.iter().map(|(column, _)| column.title.into()).collect();
    let lines = [titles].into_iter().chain(rows);
    lines.map(|cells| table::line(&cells, &columns, None)).collect()
}

/// The width of a line.
fn width_of(columns: &[(Column, usize)]) -> usize {
    let widths: usize = columns.iter().map(|(_, width)| width + GAP.len()).sum();
    widths.saturating_sub(GAP.len())
}

/// The cells of the rows in these columns, and the columns with their widths.
fn columns<'r>(
    rows: &[(Cow<'r, str>, &Numbers)],
    shown: &[&NumberColumn],
) -> (Vec<Cells<'r>>, Vec<(Column, usize)>) {
    let name = Column { title: "BACKEND", is_number: false };
    let numbers = shown.iter().map(|one| Column { title: one.title, is_number: one.is_number });
    let columns: Vec<Column> = [name].into_iter().chain(numbers).collect();
    let cells = |(name, numbers): &(Cow<'r, str>, &Numbers)| {
        let numbers = shown.iter().map(|column| (column.cell)(numbers).into());
        [name.clone()].into_iter().chain(numbers).collect()
    };
    let cells: Vec<Cells<'r>> = rows.iter().map(cells).collect();
    let widths = table::widths(&columns, &cells);
    (cells, columns.into_iter().zip(widths).collect())
}

/// The text in at most so many columns, with an ellipsis if it was longer.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let fits = |letter: &char| {
        let wide = letter.width().unwrap_or_default();
        wide <= left && {
            left -= wide;
            true
        }
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

fn percent(rate: f64) -> String {
    format!("{:.1} %", rate * 100.0)
}

/// A number with about three digits.
fn short(number: f64) -> String {
    let decimals = match number {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$}")
}

/// A time, or a dash without requests.
fn time(numbers: &Numbers, milliseconds: f64) -> String {
    if numbers.requests == 0 { "-".to_owned() } else { short(milliseconds) }
}

/// A share as a bar, in eighths of a column.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR_WIDTH * 8) as f64).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + rest
}

#[cfg(test)]
mod tests {
    use super::super::rows::Ordered;
    use super::*;

    fn numbers(requests: u64, share: f64) -> Numbers {
        Numbers {
            requests,
            share,
            errors: 1,
            error_rate: 0.125,
            requests_per_second: 1234.5,
            avg_ms: 0.517,
            p50_ms: 9.994,
            p95_ms: 12.34,
            p99_ms: 99.96,
            max_ms: 2345.6,
        }
    }

    fn shown(name: &str, width: Option<usize>) -> String {
        let idle = (format!("{name}2"), Numbers::default());
        let backends = Ordered(vec![(name.to_owned(), numbers(6, 0.76)), idle]);
        let period = PeriodNumbers { total: numbers(8, 1.0), backends };
        report(&Statistics { periods: Ordered(vec![("5m".to_owned(), period)]) }, width)
    }

    #[test]
    fn a_table_has_each_backend_and_the_total() {
        assert_eq!(
            shown("http://a", None),
            "\
last 5m, times in ms
BACKEND    REQUESTS    SHARE              ERRORS  ERROR RATE  REQ/S   AVG   P50   P95  P99   MAX
http://a          6   76.0 %  ███████▋         1      12.5 %   1234  0.52  9.99  12.3  100  2346
http://a2         0    0.0 %                   0       0.0 %   0.00     -     -     -    -     -
total             8  100.0 %  ██████████       1      12.5 %   1234  0.52  9.99  12.3  100  2346
"
        );
    }

    #[test]
    fn lines_fit_into_the_width_and_what_matters_least_is_left_out_first() {
        for width in 20..130 {
            let text = shown("http://a.long.name.of.a.backend:8080", Some(width));
            let table = text.lines().skip(1);
            let widest = table.map(UnicodeWidthStr::width).max().unwrap();
            assert!(widest <= width, "{width}: {text}");
        }
        let eighty = shown("http://127.0.0.1:8001", Some(80));
        let titles = eighty.lines().nth(1).unwrap();
        for title in ["REQUESTS", "SHARE", "ERROR RATE", "REQ/S", "P99"] {
            assert!(titles.contains(title), "{titles}");
        }
        assert!(!eighty.contains('█') && !eighty.contains("MAX"), "{eighty}");
        let narrow = shown("http://127.0.0.1:8001", Some(24));
        assert!(narrow.contains("\nhttp://127.0.…         6\n"), "{narrow}");
    }

    #[test]
    fn a_bar_grows_by_eighths_and_stays_within_its_columns() {
        assert_eq!([bar(0.0), bar(0.013), bar(0.5)], ["", "▏", "█████"]);
        assert_eq!([bar(1.0), bar(7.0)], ["██████████", "██████████"]);
        assert_eq!(bar(f64::NAN), "");
    }

    #[test]
    fn control_characters_of_a_response_never_reach_the_terminal() {
        let text = shown("a\u{1b}]0;x", None);
        assert!(text.contains(r"a\u{1b}]0;x") && !text.contains('\u{1b}'), "{text:?}");
    }
}
