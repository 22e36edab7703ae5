//! The reasons for which client connections end: one table. Plain values.
//!
//! Every connection ends with exactly one reason. Its counter, its code in the log and its
//! description come from this table.

macro_rules! reasons {
    ($($name:ident, $level:ident, $code:literal, $description:literal;)*) => {
        /// The reason for the end of a client connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[doc = $description] $name,)* }

        impl Reason {
            /// Every reason, in the order of the table; `as usize` is a reason's index.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The stable code for counters and logs.
            pub fn code(self) -> &'static str { match self { $(Reason::$name => $code),* } }

            /// The meaning in one clause.
            pub fn description(self) -> &'static str {
                match self { $(Reason::$name => $description),* }
            }

            /// Whether the end is an error, which is logged at level info.
            pub fn is_error(self) -> bool { match self { $(Reason::$name => reasons!(@ $level)),* } }
        }
    };
    (@ ok) => { false };
    (@ error) => { true };
}

reasons! {
    ClientClosed, ok, "client_closed", "the client closed its idle connection";
    ClosedAfterResponse, ok, "closed_after_response", "the last response was sent: the client or the response asked for a close, or it ended before its request";
    IdleTimeout, ok, "idle_timeout", "the client was idle for too long (--idle-timeout)";
    TunnelDone, ok, "tunnel_done", "both directions of the tunnel ended";
    Drained, ok, "drained", "the balancer is stopping and the connection was idle";
    Rejected, error, "rejected", "the request was rejected with an error response";
    ClientReset, error, "client_reset", "the client reset the connection";
    ClientAborted, error, "client_aborted", "the client closed inside a request";
    SlowReader, error, "slow_reader", "the client did not read its response in time (--body-timeout)";
    ResponseTruncated, error, "response_truncated", "the backend closed or broke the framing inside the response body";
    ResponseTimeout, error, "response_timeout", "the response body made no progress (--body-timeout)";
    EarlyResponse, ok, "early_response", "the backend responded before the request body was complete";
    TunnelIdle, error, "tunnel_idle", "the tunnel was silent for too long (--tunnel-timeout)";
    BackendRemoved, error, "backend_removed", "the backend was removed, and the tunnel did not end in time (--tunnel-drain)";
    TunnelBroken, error, "tunnel_broken", "one side of the tunnel was reset";
    Overload, error, "overload", "too many connections, in total or from this client address";
    DrainAborted, error, "drain_aborted", "the connection was still busy at the end of the drain (--drain-timeout)";
    Panicked, error, "panicked", "a bug in the balancer: the step panicked, and this connection was closed";
}
