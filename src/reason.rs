//! How a client connection ended: one table of reasons.
//!
//! Every connection ends with exactly one of these. Its counter, its word in the log and its
//! sentence come from this table.

macro_rules! reasons {
    ($($name:ident, $level:ident, $word:literal, $sentence:literal;)*) => {
        /// How a client connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[doc = $sentence] $name,)* }

        impl Reason {
            /// Every reason, in the order of the table; a reason's place is its counter's index.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The word for counters and logs.
            pub fn word(self) -> &'static str { match self { $(Reason::$name => $word),* } }

            /// What it means, for people.
            pub fn sentence(self) -> &'static str { match self { $(Reason::$name => $sentence),* } }

            /// Whether something went wrong, so that the log should say it.
            pub fn is_error(self) -> bool { match self { $(Reason::$name => reasons!(@ $level)),* } }
        }
    };
    (@ ok) => { false };
    (@ error) => { true };
}

reasons! {
    ClientDone, ok, "client_done", "the client closed its idle connection";
    AnsweredLast, ok, "answered_last", "the last answer was sent: the client or the answer asked for a close, or it ended before its request";
    IdleTimeout, ok, "idle_timeout", "the client was idle for too long (--idle-timeout)";
    TunnelDone, ok, "tunnel_done", "both directions of the tunnel ended";
    Drained, ok, "drained", "the balancer is stopping and the connection was idle or done";
    Refused, error, "refused", "the request was refused with an error, and the connection with it";
    ClientReset, error, "client_reset", "the client reset the connection";
    ClientAborted, error, "client_aborted", "the client closed inside a request";
    SlowReader, error, "slow_reader", "the client did not read its answer in time (--body-timeout)";
    AnswerTruncated, error, "answer_truncated", "the backend died or broke the framing inside the answer's body";
    AnswerTimeout, error, "answer_timeout", "the backend's answer made no progress (--body-timeout)";
    EarlyAnswer, ok, "early_answer", "the backend answered before the request body was complete";
    TunnelIdle, error, "tunnel_idle", "nothing moved through the tunnel for too long (--tunnel-timeout)";
    TunnelBroken, error, "tunnel_broken", "one side of the tunnel was reset";
    Overload, error, "overload", "there were too many connections, in all or from this client";
    DrainCut, error, "drain_cut", "the time to finish passed with the connection still busy (--drain-timeout)";
    Panicked, error, "panicked", "a bug in the balancer: the step panicked and this connection paid for it";
}
