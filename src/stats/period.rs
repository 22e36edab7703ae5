//! The periods of a report: one table of their names and lengths. Plain values.

use std::fmt;
use std::time::Duration;

macro_rules! periods {
    ($($name:ident, $text:literal, $length:expr;)*) => {
        /// The time over which a report counts, up to now.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Period { $(#[doc = $text] $name,)* }

        impl Period {
            /// Every period, in ascending order.
            pub const ALL: &'static [Period] = &[$(Period::$name),*];

            /// The name that users type.
            pub fn name(self) -> &'static str { match self { $(Period::$name => $text),* } }

            /// The length; none for all the time since the start.
            pub fn length(self) -> Option<Duration> {
                let minutes: Option<u64> = match self { $(Period::$name => $length),* };
                minutes.map(|minutes| Duration::from_secs(minutes * 60))
            }
        }
    };
}

periods! {
    FiveMinutes, "5m", Some(5);
    HalfHour, "30m", Some(30);
    Hour, "1h", Some(60);
    SixHours, "6h", Some(6 * 60);
    Day, "24h", Some(24 * 60);
    All, "all", None;
}

/// A text that names no period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPeriod(String);

impl Period {
    /// The period of this name.
    pub fn parse(text: &str) -> Result<Self, UnknownPeriod> {
        let named = Self::ALL.iter().find(|period| period.name() == text);
        named.copied().ok_or_else(|| UnknownPeriod(text.to_owned()))
    }

    /// The periods of names separated by commas, each one once.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, UnknownPeriod> {
        let mut periods = Vec::new();
        for name in text.split(',') {
            let period = Self::parse(name.trim())?;
            if !periods.contains(&period) {
                periods.push(period);
            }
        }
        Ok(periods)
    }
}

impl fmt::Display for UnknownPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Period::ALL.iter().map(|period| period.name()).collect();
        write!(f, "periods: {:?} is no period; use one or more of {}", self.0, names.join(","))
    }
}

impl std::error::Error for UnknownPeriod {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_parsed_from_their_names_and_others_are_errors_with_the_list() {
        for period in Period::ALL {
            assert_eq!(Period::parse(period.name()), Ok(*period));
        }
        assert_eq!(Period::parse_list("1h, 5m,1h"), Ok(vec![Period::Hour, Period::FiveMinutes]));
        let error = Period::parse_list("5m,7m").unwrap_err().to_string();
        assert_eq!(error, "periods: \"7m\" is no period; use one or more of 5m,30m,1h,6h,24h,all");
        assert!(Period::parse_list("").is_err() && Period::parse_list("5m,").is_err());
    }
}
