//! Requests, read from a stream as strictly as the balancer reads them: at the client and at the
//! origin.

use lb_threads::config;
use lb_threads::wire::chunked::{self, Decoder, Piece};
use lb_threads::wire::head_end::HeadEnd;
use lb_threads::wire::{Body, Version, fields, request};
use lb_threads_fuzz::assert_unambiguous;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// Its version.
    pub version: Version,
    /// Whether a 101 is a valid response.
    pub websocket: bool,
    /// Its body, as far as it came.
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub whole: bool,
}

impl Request {
    /// Its identity.
    pub fn words(&self) -> (&str, &str, &[u8]) {
        (&self.method, &self.path, &self.body)
    }
}

/// The next item of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// More must come first.
    More,
    /// A request's head; its body follows.
    Head,
    /// The end of the request whose head came last.
    End,
}

/// Reads requests from a stream that arrives in pieces.
#[derive(Debug, Default)]
pub struct Requests {
    /// The unparsed rest.
    pub pending: Vec<u8>,
    /// All requests so far; only the last one may be in progress.
    pub all: Vec<Request>,
    /// Whether a rejection is valid.
    pub is_malformed: bool,
    rest: Rest,
}

#[derive(Debug, Default)]
enum Rest {
    #[default]
    Head,
    Length(u64),
    Chunked(Decoder),
}

impl Requests {
    /// All requests of bytes that are all there, up to the first rejected one.
    pub fn of(bytes: &[u8]) -> Self {
        let mut requests = Self { pending: bytes.to_vec(), ..Self::default() };
        loop {
            match requests.next() {
                Ok(Next::Head | Next::End) => {}
                Ok(Next::More) => return requests,
                Err(_) => return Self { is_malformed: true, ..requests },
            }
        }
    }

    /// Parses one item; an error names the malformed part.
    pub fn next(&mut self) -> Result<Next, String> {
        match &mut self.rest {
            Rest::Head => return self.next_head(),
            Rest::Length(left) => {
                let take = self.pending.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= take as u64;
                let is_end = *left == 0;
                let request = self.all.last_mut().expect("a body has a head");
                request.body.extend(self.pending.drain(..take));
                if is_end {
                    return Ok(self.end());
                }
            }
            Rest::Chunked(decoder) => loop {
                let (consumed, piece) =
                    decoder.next(&self.pending).map_err(|_| "bad chunks".to_owned())?;
                let (is_end, more) =
                    (matches!(piece, Piece::End(_)), !matches!(piece, Piece::NeedMore));
                match piece {
                    Piece::NeedMore => {}
                    Piece::Data(data) => {
                        self.all.last_mut().expect("a body has a head").body.extend_from_slice(data)
                    }
                    Piece::End(trailers) => chunked::encode_end(&mut Vec::new(), trailers)
                        .map_err(|_| "bad trailers")?,
                }
                self.pending.drain(..consumed);
                if is_end {
                    return Ok(self.end());
                }
                if !more {
                    break;
                }
            },
        }
        Ok(Next::More)
    }

    fn end(&mut self) -> Next {
        self.rest = Rest::Head;
        self.all.last_mut().expect("a body has a head").whole = true;
        Next::End
    }

    fn next_head(&mut self) -> Result<Next, String> {
        let empty_lines = request::leading_empty_lines(&self.pending);
        self.is_malformed |= empty_lines > config::MAX_LEADING_EMPTY_LINES;
        self.pending.drain(..2 * empty_lines);
        let mut end = HeadEnd::default();
        let Some(length) = end.find(&self.pending).map_err(|cause| cause.to_string())? else {
            // There is no need to wait after an invalid start.
            self.is_malformed |= match end.first_line(&self.pending) {
                Some(line) => request::check_line(line).is_err(),
                None => self
                    .pending
                    .first()
                    .is_some_and(|first| !fields::is_token(&[*first]) && self.pending != b"\r"),
            };
            return Ok(Next::More);
        };
        let line = end.first_line(&self.pending).map_or(0, <[u8]>::len);
        request::lower_minor_version(&mut self.pending[..line]);
        let mut room = fields::field_storage();
        let head = request::parse(&self.pending[..length], &mut room)
            .map_err(|cause| cause.to_string())?;
        let mut other = [httparse::EMPTY_HEADER; config::MAX_HEAD_FIELDS];
        let agrees = httparse::Request::new(&mut other).parse(&self.pending[..length]);
        assert_eq!(
            agrees,
            Ok(httparse::Status::Complete(length)),
            "httparse rejects an accepted head"
        );
        assert_unambiguous(&self.pending[..length]);
        let slash = if head.target.path.starts_with('?') { "/" } else { "" };
        self.rest = match head.body {
            Body::None | Body::UntilClose => Rest::Length(0),
            Body::Length(length) => Rest::Length(length),
            Body::Chunked => Rest::Chunked(Decoder::default()),
        };
        self.all.push(Request {
            method: head.method.to_owned(),
            path: format!("{slash}{}", head.target.path),
            version: head.version,
            websocket: head.websocket,
            body: Vec::new(),
            whole: false,
        });
        self.pending.drain(..length);
        Ok(Next::Head)
    }
}
