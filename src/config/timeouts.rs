//! Timeouts: one table of names, flags, defaults and meanings. Plain values.
//!
//! A timeout may belong to a *stage* of a session, which then waits with a [`Deadline`] of that
//! class; each class has a list of its own in `net::Timers`.

use std::time::{Duration, Instant};

/// A timeout with a flag.
#[derive(Debug)]
pub struct TimeoutFlag {
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The meaning, for `--help`.
    pub help: &'static str,
    /// Whether 0 is a valid value.
    pub may_be_zero: bool,
    /// The field of the value.
    pub field: fn(&mut Timeouts) -> &mut Duration,
}

macro_rules! timeouts {
    (
        stages with a flag { $($stage:ident, $field:ident, $flag:literal, $ms:literal, $help:literal;)* }
        stages with a flag that may be 0 { $($zero_stage:ident, $zero_field:ident, $zero_flag:literal, $zero_ms:literal, $zero_help:literal;)* }
        stages { $($fixed_stage:ident, $fixed_field:ident, $fixed_ms:literal, $fixed_help:literal;)* }
        flags { $($flag_field:ident, $other_flag:literal, $flag_ms:literal, $flag_help:literal;)* }
        others { $($other_field:ident, $other_ms:literal, $other_help:literal;)* }
    ) => {
        /// The timeout of a stage.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Timeout {
            $(#[doc = $help] $stage,)*
            $(#[doc = $zero_help] $zero_stage,)*
            $(#[doc = $fixed_help] $fixed_stage,)*
        }

        impl Timeout {
            /// Every timeout of a stage; `as usize` is its index.
            pub const ALL: &'static [Timeout] = &[
                $(Timeout::$stage,)* $(Timeout::$zero_stage,)* $(Timeout::$fixed_stage,)*
            ];
            /// The number of timeouts of stages.
            pub const COUNT: usize = Self::ALL.len();
        }

        /// Every timeout.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Timeouts {
            $(#[doc = $help] pub $field: Duration,)*
            $(#[doc = $zero_help] pub $zero_field: Duration,)*
            $(#[doc = $fixed_help] pub $fixed_field: Duration,)*
            $(#[doc = $flag_help] pub $flag_field: Duration,)*
            $(#[doc = $other_help] pub $other_field: Duration,)*
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Self {
                    $($field: Duration::from_millis($ms),)*
                    $($zero_field: Duration::from_millis($zero_ms),)*
                    $($fixed_field: Duration::from_millis($fixed_ms),)*
                    $($flag_field: Duration::from_millis($flag_ms),)*
                    $($other_field: Duration::from_millis($other_ms),)*
                }
            }
        }

        impl Timeouts {
            /// The timeouts that have a flag.
            pub const FLAGS: &'static [TimeoutFlag] = &[
                $(TimeoutFlag {
                    flag: $flag, help: $help, may_be_zero: false, field: |all| &mut all.$field,
                },)*
                $(TimeoutFlag {
                    flag: $zero_flag, help: $zero_help, may_be_zero: true,
                    field: |all| &mut all.$zero_field,
                },)*
                $(TimeoutFlag {
                    flag: $other_flag, help: $flag_help, may_be_zero: true,
                    field: |all| &mut all.$flag_field,
                },)*
            ];

            /// The duration of a timeout.
            pub fn of(&self, timeout: Timeout) -> Duration {
                match timeout {
                    $(Timeout::$stage => self.$field,)*
                    $(Timeout::$zero_stage => self.$zero_field,)*
                    $(Timeout::$fixed_stage => self.$fixed_field,)*
                }
            }
        }
    };
}

// Defaults in milliseconds.
timeouts! {
    stages with a flag {
        Head, head, "head-timeout", 10_000, "Time for a request head, from its first byte to its end";
        Idle, idle, "idle-timeout", 75_000, "Time between two requests on a client connection";
        Queue, queue, "queue-timeout", 5_000, "Time to wait for a free backend";
        Connect, connect, "connect-timeout", 2_000, "Time to connect to a backend";
        FirstByte, first_byte, "first-byte-timeout", 30_000, "Time from the end of a request to the response head, over all attempts";
        Body, body, "body-timeout", 30_000, "Time without progress of a body, in either direction";
        Tunnel, tunnel, "tunnel-timeout", 3_600_000, "Time without a byte in either direction after an upgrade";
    }
    stages with a flag that may be 0 {
        TunnelDrain, tunnel_drain, "tunnel-drain", 300_000, "Time for the tunnels of a backend, from its removal";
    }
    stages {
        Linger, linger, 2_000, "Time without a byte from the client in a lingering close";
        Grace, grace, 1_000, "Time for one more request on an idle connection while the balancer stops";
        Rejection, rejection, 400, "Time for the request, or the rest of it, on a connection over a limit";
    }
    flags {
        drain, "drain-timeout", 30_000, "Time for requests in flight when the balancer stops";
    }
    others {
        linger_total, 30_000, "Time for a lingering close as a whole";
        backend_idle, 4_000, "Time for which an unused backend connection is kept, unless the backend's `Keep-Alive` field has another timeout";
    }
}

/// The end of a stage's time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The timeout that has passed then.
    pub timeout: Timeout,
    /// The time at which it has passed.
    pub at: Instant,
}

impl Deadline {
    /// Whether the deadline has passed.
    pub fn has_passed(self, now: Instant) -> bool {
        self.at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_and_each_flag_has_a_field_of_its_own() {
        let mut timeouts = Timeouts::default();
        for (number, flag) in Timeouts::FLAGS.iter().enumerate() {
            *(flag.field)(&mut timeouts) = Duration::from_secs(1000 + number as u64);
        }
        let seconds: Vec<u64> =
            Timeouts::FLAGS.iter().map(|flag| (flag.field)(&mut timeouts).as_secs()).collect();
        assert!(seconds.iter().copied().eq(1000..1000 + Timeouts::FLAGS.len() as u64));
        for (index, stage) in Timeout::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, index);
        }
        assert_eq!(timeouts.of(Timeout::Head), Duration::from_secs(1000));
    }
}
