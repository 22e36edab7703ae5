//! Responses, read from a stream: those at the clients, and those in the origin's script.

use crate::script;
use lb_threads::config;
use lb_threads::wire::chunked::{Decoder, Piece};
use lb_threads::wire::head_end::HeadEnd;
use lb_threads::wire::{Body, fields, response};
use lb_threads_fuzz::assert_unambiguous;
use std::collections::HashSet;

/// One response, interim or final.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Whether it is the balancer's own.
    pub is_own: bool,
    /// Whether it is the last one.
    pub closes: bool,
    /// Its body; none if it is truncated.
    pub body: Option<Vec<u8>>,
    /// The body ends with the stream: it may be truncated or not.
    pub ends_by_close: bool,
}

impl Response {
    /// Takes a response off the front. None if its head is truncated.
    pub fn take(bytes: &mut &[u8], to_head: bool) -> Result<Option<Self>, &'static str> {
        let Some(length) = HeadEnd::default().find(bytes).map_err(|_| "a bare LF")? else {
            return Ok(None);
        };
        let (head, rest) = bytes.split_at(length);
        let mut room = fields::field_storage();
        let response = response::parse(head, &mut room, to_head).map_err(|_| "a bad head")?;
        assert_unambiguous(head);
        let mut other = [httparse::EMPTY_HEADER; config::MAX_HEAD_FIELDS];
        assert!(
            httparse::Response::new(&mut other)
                .parse(head)
                .is_ok_and(|parsed| parsed.is_complete())
        );
        let found = match response.body {
            Body::None => Some((Vec::new(), 0)),
            Body::Length(length) => {
                usize::try_from(length).ok().and_then(|end| Some((rest.get(..end)?.to_vec(), end)))
            }
            Body::Chunked => chunked(rest)?,
            Body::UntilClose => Some((rest.to_vec(), rest.len())),
        };
        *bytes = found.as_ref().map_or(&[], |(_, end)| &rest[*end..]);
        Ok(Some(Self {
            status: response.status,
            is_own: response
                .fields
                .windows(2)
                .any(|two| two[0].value == b"lb-threads" && two[1].name == "X-LB-Error"),
            closes: response.connection.close,
            body: found.map(|(body, _)| body),
            ends_by_close: response.body == Body::UntilClose,
        }))
    }

    /// Whether a final one is still to come.
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// The body and where it ends; none if it is truncated.
fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut decoder, mut done, mut body) = (Decoder::default(), 0, Vec::new());
    loop {
        let (consumed, piece) = decoder.next(&bytes[done..]).map_err(|_| "bad chunks")?;
        done += consumed;
        match piece {
            Piece::NeedMore => return Ok(None),
            Piece::Data(data) => body.extend_from_slice(data),
            Piece::End(_) => return Ok(Some((body, done))),
        }
    }
}

/// Statuses and bodies of all responses in the origin's script. None if it has more than one
/// response to a request, or a malformed one: the outcome is undefined then.
pub fn scripted(script: &[script::Response], plain: &[u8]) -> Option<HashSet<(u16, Vec<u8>)>> {
    let mut scripted = HashSet::new();
    for bytes in script.iter().map(|response| response.pieces.concat()).chain([plain.to_vec()]) {
        let mut rest = &bytes[..];
        while let Some(response) = Response::take(&mut rest, false).ok()? {
            if response.status == 101 || !response.is_interim() && !rest.is_empty() {
                return None;
            }
            scripted.extend(response.body.map(|body| (response.status, body)));
        }
    }
    Some(scripted)
}
