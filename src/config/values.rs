//! The text form of values: durations, counts, sizes, paths, networks. Pure; each error names the
//! right form.

use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

const DURATION_FORM: &str = "write it like 10, 250ms, 5s, 1m or 1h";
/// The longest duration; a longer one is likely a typing error.
const MAX_SECONDS: f64 = 365.0 * 86_400.0;

/// The text form of a value, as its parser accepts it.
pub trait Show {
    /// The text; none for an unset value.
    fn show(&self) -> Option<String>;
}

/// A duration: `250ms`, `5s`, `1m`, `1h`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration; {DURATION_FORM}");
    let number_end =
        text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    let number = number.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    match number.map(|number| number * seconds_per_unit) {
        Some(seconds) if seconds <= MAX_SECONDS => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err(format!("`{text}` is longer than a year")),
        None => Err(bad()),
    }
}

/// A duration other than 0, which would reject every request.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => {
            Err("a timeout of 0 would reject every request; write it like 250ms, 5s or 1m"
                .to_owned())
        }
        timeout => Ok(timeout),
    }
}

/// A whole number of this range.
pub fn parse_count(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let count = text.parse::<u32>().ok().filter(|count| is_number && (min..=max).contains(count));
    count.ok_or_else(|| format!("`{text}` is not a whole number from {min} to {max}"))
}

/// A limit: at least 1.
pub fn parse_limit(text: &str) -> Result<usize, String> {
    parse_count(text, 1, u32::MAX).map(|limit| limit as usize)
}

/// The path of a request: `/` and visible ASCII, without what must be percent-encoded.
pub fn parse_path(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"<>#".contains(&byte);
    if text.starts_with('/') && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a path; it starts with / and has no spaces"))
    }
}

/// Networks or addresses, separated by commas.
pub fn parse_networks(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',').map(|part| parse_network(part.trim())).collect()
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| {
        format!("`{text}` is not a network; write it like 10.0.0.0/8 or 192.168.1.7")
    })
}

/// A size in bytes; the suffixes `K`, `M` and `G` are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = number
        .parse::<u64>()
        .ok()
        .filter(|_| is_number)
        .and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("`{text}` is not a size; write it like 65536, 512K, 10M or 1G"))
}

impl Show for Duration {
    /// The duration in the largest unit that divides it.
    fn show(&self) -> Option<String> {
        let milliseconds = self.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
        let (size, unit) = units
            .into_iter()
            .find(|(size, _)| milliseconds >= *size && milliseconds.is_multiple_of(*size))
            .unwrap_or((1000, "s"));
        Some(format!("{}{unit}", milliseconds / size))
    }
}

impl Show for String {
    fn show(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl Show for u32 {
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Show for u64 {
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Show for usize {
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Show for bool {
    fn show(&self) -> Option<String> {
        None
    }
}

impl Show for Vec<IpNet> {
    fn show(&self) -> Option<String> {
        let networks: Vec<String> = self.iter().map(IpNet::to_string).collect();
        (!networks.is_empty()).then(|| networks.join(","))
    }
}

impl<T: Show> Show for Option<T> {
    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_with_an_optional_unit() {
        let rows = [
            ("250ms", 250),
            ("5s", 5_000),
            ("1m", 60_000),
            ("1h", 3_600_000),
            ("10", 10_000),
            ("0.5", 500),
        ];
        for (text, milliseconds) in rows {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "abc", "-1", "5x", "1e999", "5 s", "nan", "inf", "99999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_networks_are_parsed() {
        assert_eq!((parse_size("65536"), parse_size("10M")), (Ok(65_536), Ok(10 << 20)));
        for bad in ["", "M", "-1", "+1", "1.5M", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        let networks = parse_networks("10.0.0.0/8, ::1").unwrap();
        assert_eq!(networks.show().unwrap(), "10.0.0.0/8,::1/128");
        assert!(parse_networks("10.0.0.0/33").is_err());
    }

    #[test]
    fn a_duration_is_shown_in_the_largest_unit_that_divides_it() {
        for text in ["250ms", "1500ms", "75s", "1m", "90s", "2h", "0s"] {
            assert_eq!(parse_duration(text).unwrap().show().unwrap(), text);
        }
    }

    #[test]
    fn counts_have_a_range_and_no_sign() {
        assert_eq!(parse_count("7", 1, 7), Ok(7));
        for bad in ["", "0", "8", "+7", "-7", "7.0", "99999999999"] {
            assert!(parse_count(bad, 1, 7).is_err(), "{bad}");
        }
    }
}
