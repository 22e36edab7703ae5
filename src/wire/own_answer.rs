//! Error responses of our own: what a request gets that cannot be served, as bytes.
//!
//! Whoever refuses (a session, or a listener that is flooded) says the same in the same words.

use super::reply::{self, ALLOW, Manner, Reply};
use crate::error::{self, Cause};

/// When a client may come back after a 429 or 503, in seconds.
const RETRY_AFTER: &str = "1";

/// Writes the whole response. `message` says what happened and what to look at; `as_json` that the
/// client takes JSON.
pub fn write(out: &mut Vec<u8>, cause: Cause, message: &str, as_json: bool, manner: Manner<'_>) {
    let (status, phrase) = (cause.status(), error::phrase(cause.status()));
    let (kind, body) = if as_json {
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
    reply::write(out, Reply { status, fields, content: Some((kind, &body)) }, manner);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rewrite::ConnectionLine;

    const PLAIN: Manner<'_> =
        Manner { to_head: false, connection: ConnectionLine::Close, date: "today" };

    fn answer(cause: Cause, manner: Manner<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, cause, "look there", false, manner);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_says_who_speaks_and_why() {
        assert_eq!(
            answer(Cause::Overload, PLAIN),
            "HTTP/1.1 503 Service Unavailable\r\nDate: today\r\nServer: lb-threads\r\nX-LB-Error: overload\r\n\
             Retry-After: 1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 45\r\nConnection: close\r\n\r\n\
             503 Service Unavailable\noverload: look there\n"
        );
    }

    #[test]
    fn an_answer_to_head_announces_the_body_it_leaves_out() {
        let whole = answer(Cause::BadHost, PLAIN);
        let head = answer(Cause::BadHost, Manner { to_head: true, ..PLAIN });
        assert!(head.ends_with("\r\n\r\n") && whole.starts_with(&head) && whole.len() > head.len());
    }

    #[test]
    fn json_is_whole_whatever_the_message_says() {
        let mut out = Vec::new();
        write(&mut out, Cause::NoBackend, "\"quoted\"\n", true, PLAIN);
        let text = String::from_utf8(out).unwrap();
        let body: serde_json::Value =
            serde_json::from_str(text.split("\r\n\r\n").last().unwrap()).unwrap();
        assert_eq!(
            (&body["error"], &body["message"], &body["status"]),
            (&"no_backend".into(), &"\"quoted\"\n".into(), &503.into())
        );
    }

    #[test]
    fn a_refused_method_is_told_which_are_served() {
        assert!(answer(Cause::MethodNotAllowed, PLAIN).contains("\r\nAllow: GET, HEAD,"));
    }
}
