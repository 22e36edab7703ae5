//! The values of flags that are no settings: log levels, shares. Each error says how the value is
//! written.

use log::LevelFilter;

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

pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a share; write a number from 0 to 1"))
}
