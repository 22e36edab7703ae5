//! The values of flags: durations, sizes, levels, networks. Each parser says in one sentence how
//! the value is written.

use ipnet::IpNet;
use log::LevelFilter;
use std::net::IpAddr;
use std::time::Duration;

/// `250ms`, `5s`, `1m`, `1h`; a bare number is seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let number_end =
        text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let seconds_a_unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => {
            return Err(format!(
                "`{text}` is not a duration; write it like 10, 250ms, 5s, 1m or 1h"
            ));
        }
    };
    let seconds = number
        .parse::<f64>()
        .ok()
        .filter(|number| number.is_finite() && *number >= 0.0)
        .map(|number| number * seconds_a_unit);
    match seconds {
        Some(seconds) if seconds <= 365.0 * 86_400.0 => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err(format!("`{text}` is longer than a year")),
        None => Err(format!("`{text}` is not a duration; write it like 10, 250ms, 5s, 1m or 1h")),
    }
}

/// A duration that is not zero: nothing can be done in no time.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => {
            Err("a timeout of 0 would refuse everything; write it like 250ms, 5s or 1m".to_owned())
        }
        timeout => Ok(timeout),
    }
}

/// Level names in any case, with the ones that Python users type.
pub(super) fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_lowercase().as_str() {
        "warning" => Ok(LevelFilter::Warn),
        "critical" | "fatal" => Ok(LevelFilter::Error),
        name => name.parse().map_err(|_| {
            format!("`{text}` is not a log level; use off, error, warn, info, debug or trace")
        }),
    }
}

pub(super) fn parse_path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && crate::wire::target::parse(text, "GET").is_some();
    is_path
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not a path; it starts with / and has no spaces"))
}

/// A network, or one address.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text
        .trim()
        .parse::<IpNet>()
        .ok()
        .or_else(|| text.trim().parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| {
        format!("`{text}` is not a network; write it like 10.0.0.0/8 or 192.168.1.7")
    })
}

/// Bytes; `K`, `M` and `G` stand for 1024 and its powers.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
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

pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a share; write a number from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
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
    fn sizes_and_networks_are_read() {
        assert_eq!((parse_size("65536"), parse_size("10M")), (Ok(65_536), Ok(10 << 20)));
        for bad in ["", "M", "-1", "+1", "1.5M", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_network("::1").unwrap().to_string(), "::1/128");
        assert!(parse_network("10.0.0.0/33").is_err());
    }
}
