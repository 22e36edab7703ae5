//! The causes of failed requests: one table. Plain values.
//!
//! Every cause has a side (client, backend or balancer), the status of the error response, a code
//! (`X-LB-Error`, logs, counters) and a description with the setting to look at. Status and wording
//! of error responses come from this table alone.

use std::fmt;

/// The side at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client sent an invalid request, or was too slow.
    Client,
    /// The backend failed, or violated the protocol.
    Backend,
    /// The balancer has no healthy backend, or a resource is exhausted.
    Balancer,
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident, $side:ident, $status:literal, $code:literal, $description:literal;)*) => {
        /// The cause of a failed request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* #[doc = $description] $name,)* }

        impl Cause {
            /// Every cause, in the order of the table.
            pub const ALL: &'static [Cause] = &[$(Cause::$name),*];

            /// The side at fault.
            pub fn side(self) -> Side { match self { $(Cause::$name => Side::$side),* } }

            /// The status code of the error response.
            pub fn status(self) -> u16 { match self { $(Cause::$name => $status),* } }

            /// The stable code for `X-LB-Error`, logs and counters.
            pub fn code(self) -> &'static str { match self { $(Cause::$name => $code),* } }

            /// The event and the setting to look at, in one clause.
            pub fn description(self) -> &'static str {
                match self { $(Cause::$name => $description),* }
            }
        }
    };
}

causes! {
    BadLineEnd, Client, 400, "bad_line_end", "a line of the request head does not end in CR LF";
    BadRequestLine, Client, 400, "bad_request_line", "the request line is not `METHOD target HTTP/1.1`";
    BadTarget, Client, 400, "bad_target", "the request target is empty, of an unknown form, or holds a character that must be percent-encoded";
    BadField, Client, 400, "bad_field", "a header field has an invalid name or value (a space before the colon, a folded line, a control character, a malformed Max-Forwards)";
    BadHost, Client, 400, "bad_host", "the Host field is missing, repeated, or not `name[:port]`";
    BadLength, Client, 400, "bad_content_length", "Content-Length must be one plain decimal number, given once";
    BadCoding, Client, 400, "bad_transfer_encoding", "Transfer-Encoding must be exactly `chunked`, once, in HTTP/1.1";
    LengthAndCoding, Client, 400, "length_and_coding", "Content-Length and Transfer-Encoding exclude each other";
    BadChunk, Client, 400, "bad_chunk", "the chunked body has an invalid chunk size, line end or trailer";
    MethodNotAllowed, Client, 405, "method_not_allowed", "CONNECT and TRACE are not supported";
    HeadTimeout, Client, 408, "head_timeout", "the request head did not arrive in time (--head-timeout)";
    RequestBodyTimeout, Client, 408, "request_body_timeout", "the request body made no progress (--body-timeout)";
    LengthRequired, Client, 411, "length_required", "the backend supports HTTP/1.0 only, so a body over 64 KiB needs a Content-Length";
    BodyTooLarge, Client, 413, "body_too_large", "the request body is larger than the limit (--max-body)";
    TargetTooLong, Client, 414, "target_too_long", "the request target is longer than 8 KiB";
    ExpectationUnknown, Client, 417, "expectation_unknown", "the only supported expectation is `100-continue`";
    ClientLimit, Client, 429, "client_limit", "too many connections from this client address (--max-connections-per-client)";
    HeadTooLarge, Client, 431, "head_too_large", "the request head is larger than 16 KiB or has more than 100 fields";
    CodingUnknown, Client, 501, "transfer_encoding_unknown", "the only supported transfer coding is `chunked`";
    VersionUnknown, Client, 505, "version_unknown", "only HTTP/1 is supported";
    NoBackend, Balancer, 503, "no_backend", "no backend is healthy";
    BackendFull, Balancer, 503, "backend_full", "every healthy backend is at its limit of requests (--backend-max-requests), and no slot became free in time (--queue-timeout)";
    Overload, Balancer, 503, "overload", "the balancer is at its limit of connections or file descriptors";
    ConnectFailed, Backend, 502, "connect_failed", "the connection to the backend failed";
    ConnectTimeout, Backend, 504, "connect_timeout", "the backend did not accept the connection in time (--connect-timeout)";
    SendTimeout, Backend, 504, "send_timeout", "the backend did not read the request in time (--body-timeout)";
    BackendClosed, Backend, 502, "backend_closed", "the backend closed the connection before its response";
    BadResponse, Backend, 502, "bad_response", "the backend's response is not valid HTTP/1.1";
    FirstByteTimeout, Backend, 504, "first_byte_timeout", "the backend did not respond in time (--first-byte-timeout)";
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The reason phrase of a status in a response of ours.
pub fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_cause_has_a_code_of_its_own_and_a_status_with_a_phrase() {
        let codes: HashSet<_> = Cause::ALL.iter().map(|cause| cause.code()).collect();
        assert_eq!(codes.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            assert_ne!(phrase(cause.status()), "Error", "{cause:?}");
        }
    }

    #[test]
    fn the_status_matches_the_side_at_fault() {
        for cause in Cause::ALL {
            let status = cause.status();
            match cause.side() {
                Side::Client => assert!(status < 500 || matches!(status, 501 | 505), "{cause:?}"),
                Side::Backend => assert!(matches!(status, 502 | 504), "{cause:?}"),
                Side::Balancer => assert_eq!(status, 503, "{cause:?}"),
            }
        }
    }
}
