//! Error responses as bytes: the reply to a request that cannot be served.
//!
//! Pure. Sessions and the shedding of connections above the limits share it, so that all error
//! responses look alike.

use super::reply::{self, ALLOW, Reply};
use super::rewrite::ResponseFields;
use crate::error::{self, Cause};

/// The `Retry-After` of a 429 or 503, in seconds.
const RETRY_AFTER: &str = "1";

/// The format of an error response, by its request.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFormat {
    /// The request is a HEAD: the content is announced and omitted.
    pub is_head: bool,
    /// The client accepts JSON.
    pub accepts_json: bool,
}

/// Writes the whole response. `message` describes the failure and the remedy.
pub fn write(
    out: &mut Vec<u8>,
    cause: Cause,
    message: &str,
    format: ErrorFormat,
    added: ResponseFields<'_>,
) {
    let (status, phrase) = (cause.status(), error::phrase(cause.status()));
    let (kind, body) = if format.accepts_json {
        let json =
            serde_json::json!({ "status": status, "error": cause.code(), "message": message });
        ("application/json", format!("{json}\n"))
    } else {
        ("text/plain; charset=utf-8", format!("{status} {phrase}\n{cause}: {message}\n"))
    };
    let code = ("X-LB-Error", cause.code());
    let fields: &[(&str, &str)] = match status {
        429 | 503 => &[code, ("Retry-After", RETRY_AFTER)],
        405 => &[code, ("Allow", ALLOW)],
        _ => &[code],
    };
    let reply = Reply { status, fields, content: Some((kind, &body)) };
    reply::write(out, reply, format.is_head, added);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request_id::RequestId;
    use crate::wire::rewrite::ConnectionHeader;

    const PLAIN: ErrorFormat = ErrorFormat { is_head: false, accepts_json: false };

    fn response(cause: Cause, message: &str, format: ErrorFormat) -> String {
        let request_id = &RequestId::Generated([b'7'; 32]);
        let added =
            ResponseFields { connection: ConnectionHeader::Close, date: "today", request_id };
        let mut out = Vec::new();
        write(&mut out, cause, message, format, added);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_error_response_has_a_code_a_description_and_the_request_id() {
        assert_eq!(
            response(Cause::Overload, "look there", PLAIN),
            "HTTP/1.1 503 Service Unavailable\r\nDate: today\r\nServer: lb-threads\r\n\
             X-LB-Error: overload\r\nRetry-After: 1\r\n\
             X-Request-Id: 77777777777777777777777777777777\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 45\r\n\
             Connection: close\r\n\r\n503 Service Unavailable\noverload: look there\n"
        );
    }

    #[test]
    fn a_response_to_head_announces_the_body_that_it_omits() {
        let whole = response(Cause::BadHost, "look there", PLAIN);
        let head = response(Cause::BadHost, "look there", ErrorFormat { is_head: true, ..PLAIN });
        assert!(head.ends_with("\r\n\r\n") && whole.starts_with(&head) && whole.len() > head.len());
    }

    #[test]
    fn json_is_escaped_for_every_message() {
        let format = ErrorFormat { accepts_json: true, ..PLAIN };
        let text = response(Cause::NoBackend, "\"quoted\"\n", format);
        let body: serde_json::Value =
            serde_json::from_str(text.split("\r\n\r\n").last().unwrap()).unwrap();
        assert_eq!(
            (&body["error"], &body["message"], &body["status"]),
            (&"no_backend".into(), &"\"quoted\"\n".into(), &503.into())
        );
    }

    #[test]
    fn a_405_lists_the_supported_methods() {
        let response = response(Cause::MethodNotAllowed, "look there", PLAIN);
        assert!(response.contains("\r\nAllow: GET, HEAD,"));
    }
}
