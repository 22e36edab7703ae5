//! The values of flags that are not settings: log levels, shares. Each error names the right form.

use log::LevelFilter;

/// A log level in any case; the names of Python's levels are accepted too.
pub(super) fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_lowercase().as_str() {
        "warning" => Ok(LevelFilter::Warn),
        "critical" | "fatal" => Ok(LevelFilter::Error),
        name => name.parse().map_err(|_| {
            format!("`{text}` is not a log level; use off, error, warn, info, debug or trace")
        }),
    }
}

/// A share from 0 to 1.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a share; write a number from 0 to 1"))
}
