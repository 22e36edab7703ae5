//! The format that the `Accept` field asks for (RFC 9110 section 12.5.1). Pure.

use std::str;

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format for these `Accept` fields: OpenMetrics if it is named, and not less wanted than
    /// text. A client that accepts neither gets text, since any response shows more than none.
    pub fn accepted<'v>(fields: impl Iterator<Item = &'v [u8]>) -> Self {
        let fields: Vec<&str> = fields.filter_map(|field| str::from_utf8(field).ok()).collect();
        let ranges = || fields.iter().flat_map(|field| field.split(',')).filter_map(Range::parse);
        let quality = |media: &str, version: &str| {
            let matching = ranges().filter(|range| range.media.eq_ignore_ascii_case(media));
            let matching = matching.filter(|range| range.version.is_none_or(|own| own == version));
            matching.map(|range| range.thousandths).max()
        };
        let open_metrics = quality("application/openmetrics-text", "1.0.0");
        let text = quality("text/plain", "0.0.4")
            .or_else(|| quality("text/*", ""))
            .or_else(|| quality("*/*", ""));
        match open_metrics {
            Some(wanted @ 1..) if wanted >= text.unwrap_or(0) => Self::OpenMetrics,
            _ => Self::Text,
        }
    }
}

/// A media range with its quality.
struct Range<'f> {
    media: &'f str,
    version: Option<&'f str>,
    /// The quality, from 0 to 1000.
    thousandths: u32,
}

impl<'f> Range<'f> {
    /// None if the quality is invalid.
    fn parse(text: &'f str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next()?;
        let (mut version, mut thousandths) = (None, 1000);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim();
            match name.trim() {
                name if name.eq_ignore_ascii_case("version") => {
                    version = Some(value.trim_matches('"'));
                }
                name if name.eq_ignore_ascii_case("q") => {
                    let quality = value.parse::<f64>().ok()?;
                    (0.0..=1.0).contains(&quality).then_some(())?;
                    thousandths = (quality * 1000.0) as u32;
                }
                _ => {}
            }
        }
        Some(Self { media, version, thousandths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_sent_to_clients_that_name_it_and_do_not_prefer_text() {
        use Format::{OpenMetrics, Text};
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (fields, format) in [
            (&[][..], Text),
            (&["*/*"], Text),
            (&["text/html, */*;q=0.1"], Text),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8"], OpenMetrics),
            (&["application/openmetrics-text;version=0.0.1"], Text),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=2"], Text),
            (&["application/openmetrics-text;q=0.5, text/plain"], Text),
            (&["application/openmetrics-text;q=0.5, text/plain;q=0.5"], OpenMetrics),
            (&["application/openmetrics-text;q=0.5, text/plain;version=0.0.1"], OpenMetrics),
            (&["application/openmetrics-text;q=0.5, text/*;q=0.9"], Text),
            (&["text/plain;q=0.2", "application/openmetrics-text; q=0.3"], OpenMetrics),
            (&[prometheus], OpenMetrics),
            (&["application/json"], Text),
        ] {
            let accepted = Format::accepted(fields.iter().map(|field| field.as_bytes()));
            assert_eq!(accepted, format, "{fields:?}");
        }
        assert_eq!(Format::accepted([&b"\xff"[..]].into_iter()), Text);
    }
}
