//! A strict parser of the text formats of Prometheus: 0.0.4, and OpenMetrics 1.0.
//!
//! Written after the two specifications, and independent of the encoder. A violation panics with the
//! line: order, names, types, escapes, duplicates, histograms that do not add up.

use std::collections::{BTreeMap, BTreeSet};

/// One response of `/metrics`.
#[derive(Debug)]
pub struct Exposition {
    /// In the order of the response.
    pub families: Vec<Family>,
}

/// A family and its samples.
#[derive(Debug)]
pub struct Family {
    /// The name in its HELP and TYPE.
    pub name: String,
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    /// By name, without order.
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    fn series(&self) -> String {
        format!("{}{:?}", self.name, self.labels)
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        let is =
            |(name, value): &(&str, &str)| self.labels.get(*name).is_some_and(|own| own == value);
        labels.iter().all(is)
    }
}

impl Exposition {
    /// Parses format 0.0.4.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        Self::parse_lines(text, false)
    }

    /// Parses OpenMetrics 1.0.
    #[track_caller]
    pub fn parse_open_metrics(text: &str) -> Self {
        let text = text.strip_suffix("# EOF\n").expect("OpenMetrics ends with # EOF");
        Self::parse_lines(text, true)
    }

    #[track_caller]
    fn parse_lines(text: &str, is_open_metrics: bool) -> Self {
        assert!(text.is_empty() || text.ends_with('\n'), "the last line has an end");
        let (mut families, mut names, mut series) =
            (Vec::<Family>::new(), BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("HELP has a name and a text");
                assert!(is_name(name, ":") && !help.is_empty(), "{line}");
                assert!(names.insert(name.to_owned()), "HELP comes once: {line}");
                let (name, help) = (name.to_owned(), help.to_owned());
                families.push(Family { name, kind: String::new(), help, samples: Vec::new() });
                continue;
            }
            let family = families.last_mut().expect("HELP is the first line");
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("TYPE has a name and a type");
                assert_eq!(name, family.name, "TYPE follows HELP: {line}");
                let kinds = ["counter", "gauge", "histogram"];
                assert!(kinds.contains(&kind) || is_open_metrics && kind == "unknown", "{line}");
                assert!(family.kind.is_empty() && family.samples.is_empty(), "once: {line}");
                kind.clone_into(&mut family.kind);
                continue;
            }
            assert!(!line.is_empty() && !line.starts_with('#'), "no other line: {line:?}");
            let sample = parse_sample(line);
            check_sample(&sample, family, is_open_metrics);
            assert!(series.insert(sample.series()), "a series comes once: {line}");
            family.samples.push(sample);
        }
        let exposition = Self { families };
        exposition.families.iter().for_each(Family::check);
        exposition
    }

    /// The family of this name, with or without `_total`.
    #[track_caller]
    pub fn family(&self, name: &str) -> &Family {
        let base = name.strip_suffix("_total");
        let of = |name: &str| self.families.iter().find(|family| family.name == name);
        of(name).or_else(|| of(base?)).unwrap_or_else(|| panic!("there is no family {name}"))
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let samples = self.families.iter().flat_map(|family| &family.samples);
        let matching = samples.filter(|sample| sample.name == name && sample.has(labels));
        matching.map(|sample| sample.value).collect()
    }

    /// The sum of the samples with this name and these labels among theirs; none without a sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matching = self.matching(name, labels);
        (!matching.is_empty()).then(|| matching.iter().sum())
    }

    /// The value of the only sample with this name and these labels among its own.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matching = self.matching(name, labels);
        assert_eq!(matching.len(), 1, "{name}{labels:?}: {matching:?}");
        matching[0]
    }

    /// The values of a label in all samples.
    pub fn label_values(&self, label: &str) -> BTreeSet<&str> {
        let samples = self.families.iter().flat_map(|family| &family.samples);
        samples.filter_map(|sample| Some(sample.labels.get(label)?.as_str())).collect()
    }

    /// Fails if a counter, or a part of a histogram, is lower than in an earlier response, or gone.
    #[track_caller]
    pub fn assert_none_fell_since(&self, earlier: &Self) {
        let now = self.rising();
        for (series, before) in earlier.rising() {
            let value = now.get(&series).unwrap_or_else(|| panic!("{series} is gone"));
            assert!(*value >= before, "{series} fell from {before} to {value}");
        }
    }

    fn rising(&self) -> BTreeMap<String, f64> {
        let families = self.families.iter().filter(|family| family.kind != "gauge");
        let samples = families.flat_map(|family| &family.samples);
        samples.map(|sample| (sample.series(), sample.value)).collect()
    }
}

impl Family {
    #[track_caller]
    fn check(&self) {
        assert!(!self.kind.is_empty(), "{} has a type", self.name);
        if self.kind == "histogram" {
            let mut groups = BTreeMap::<_, Vec<&Sample>>::new();
            for sample in &self.samples {
                let mut labels = sample.labels.clone();
                labels.remove("le");
                groups.entry(labels).or_default().push(sample);
            }
            groups.values().for_each(|samples| check_histogram(&self.name, samples));
        }
        let label_names = |sample: &Sample| {
            let names = sample.labels.keys().filter(|name| *name != "le");
            names.cloned().collect::<Vec<_>>()
        };
        let all: BTreeSet<_> = self.samples.iter().map(label_names).collect();
        assert!(all.len() <= 1, "all series of {} have the same labels: {all:?}", self.name);
    }
}

/// Buckets ascend and are cumulative, the last one is +Inf and has the count, and there is a sum.
#[track_caller]
fn check_histogram(family: &str, samples: &[&Sample]) {
    let one = |suffix: &str| {
        let name = format!("{family}_{suffix}");
        let found: Vec<f64> =
            samples.iter().filter(|one| one.name == name).map(|one| one.value).collect();
        assert_eq!(found.len(), 1, "{name} comes once");
        found[0]
    };
    let (sum, count) = (one("sum"), one("count"));
    let buckets = samples.iter().filter_map(|sample| Some((sample.labels.get("le")?, sample)));
    let buckets: Vec<(f64, f64)> =
        buckets.map(|(le, sample)| (le.parse().expect("le is a number"), sample.value)).collect();
    let ascend = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
    assert!(buckets.windows(2).all(ascend), "{family}: {buckets:?}");
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{family}: {buckets:?}");
    assert!(sum >= 0.0 && (count > 0.0 || sum == 0.0), "{family}: {count} of {sum}");
}

#[track_caller]
fn check_sample(sample: &Sample, family: &Family, is_open_metrics: bool) {
    let Family { name, kind, .. } = family;
    let total = format!("{name}_total");
    let names = match (kind.as_str(), is_open_metrics) {
        ("counter", true) => vec![total],
        ("histogram", _) => ["bucket", "sum", "count"].map(|end| format!("{name}_{end}")).into(),
        _ => vec![name.clone()],
    };
    assert!(names.contains(&sample.name), "{} belongs to {names:?}", sample.name);
    if kind == "counter" && !is_open_metrics {
        assert!(name.ends_with("_total"), "{name} is a counter");
    }
    assert!(!is_open_metrics || kind != "counter" || !name.ends_with("_total"), "{name}");
    let is_finite = sample.value.is_finite() && (kind == "gauge" || sample.value >= 0.0);
    assert!(is_finite, "{sample:?}");
    let is_bucket = sample.name.ends_with("_bucket");
    assert_eq!(sample.labels.contains_key("le"), kind == "histogram" && is_bucket, "{sample:?}");
    if let Some(le) = sample.labels.get("le").filter(|_| is_open_metrics) {
        assert!(le == "+Inf" || le.contains('.'), "a canonical number: {le}");
    }
}

/// Whether a name has letters, digits, underscores and these, and begins with no digit.
fn is_name(name: &str, others: &str) -> bool {
    let is_part = |one: char| one.is_ascii_alphanumeric() || one == '_' || others.contains(one);
    !name.is_empty() && name.chars().all(is_part) && !name.starts_with(|one: char| one.is_numeric())
}

/// Parses `name{label="value",..} value`, without a timestamp.
#[track_caller]
fn parse_sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("a name and a value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, ":"), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inside.split_once("=\"").expect("a label has a value");
            assert!(is_name(label, "") && !label.starts_with("__"), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "labels differ: {line}");
            match after.strip_prefix(',') {
                Some(more) => inside = more,
                None => {
                    rest = after.strip_prefix('}').expect("labels end");
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    assert!(!value.contains(' '), "no timestamp: {line}");
    let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
    Sample { name: name.to_owned(), labels, value }
}

/// The value up to its closing quotation mark, and the text after it.
#[track_caller]
fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('"' | '\\'))) => escaped,
                other => panic!("no such escape: {other:?} in {text}"),
            }),
            letter => value.push(letter),
        }
    }
    panic!("a value without an end: {text}");
}
