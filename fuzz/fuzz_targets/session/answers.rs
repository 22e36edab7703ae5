//! Answers, read from a stream: what clients get, and what the script lets the origin say.

use crate::script;
use lb_threads::config;
use lb_threads::wire::chunked::{Decoder, Piece};
use lb_threads::wire::head_end::HeadEnd;
use lb_threads::wire::{Body, fields, response};
use lb_threads_fuzz::assert_unambiguous;
use std::collections::HashSet;

/// One answer, interim ones included.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Whether the balancer says it.
    pub is_own: bool,
    /// Whether it is the last one.
    pub closes: bool,
    /// Its body; none if it is cut short.
    pub body: Option<Vec<u8>>,
    /// The body ends with the stream: what is there of it may be cut short or not.
    pub ends_by_close: bool,
}

impl Answer {
    /// Takes an answer off the front. None if its head is cut short.
    pub fn take(bytes: &mut &[u8], to_head: bool) -> Result<Option<Self>, &'static str> {
        let Some(length) = HeadEnd::default().find(bytes).map_err(|_| "a bare LF")? else {
            return Ok(None);
        };
        let (head, behind) = bytes.split_at(length);
        let mut room = fields::room();
        let answer = response::parse(head, &mut room, to_head).map_err(|_| "a bad head")?;
        assert_unambiguous(head);
        let mut other = [httparse::EMPTY_HEADER; config::MAX_HEAD_FIELDS];
        assert!(
            httparse::Response::new(&mut other)
                .parse(head)
                .is_ok_and(|parsed| parsed.is_complete())
        );
        let found = match answer.body {
            Body::None => Some((Vec::new(), 0)),
            Body::Length(length) => usize::try_from(length)
                .ok()
                .and_then(|end| Some((behind.get(..end)?.to_vec(), end))),
            Body::Chunked => chunked(behind)?,
            Body::UntilClose => Some((behind.to_vec(), behind.len())),
        };
        *bytes = found.as_ref().map_or(&[], |(_, end)| &behind[*end..]);
        Ok(Some(Self {
            status: answer.status,
            is_own: answer
                .fields
                .windows(2)
                .any(|two| two[0].value == b"lb-threads" && two[1].name == "X-LB-Error"),
            closes: answer.connection.close,
            body: found.map(|(body, _)| body),
            ends_by_close: answer.body == Body::UntilClose,
        }))
    }

    /// Whether a final one is still to come.
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// The body and where it ends; none if it is cut short.
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

/// Statuses and bodies of all that the origin can say. None if it may say more than one answer to a
/// request, or something malformed: then nobody can tell what comes of it.
pub fn said(script: &[script::Answer], plain: &[u8]) -> Option<HashSet<(u16, Vec<u8>)>> {
    let mut said = HashSet::new();
    for bytes in script.iter().map(|answer| answer.pieces.concat()).chain([plain.to_vec()]) {
        let mut rest = &bytes[..];
        while let Some(answer) = Answer::take(&mut rest, false).ok()? {
            if answer.status == 101 || !answer.is_interim() && !rest.is_empty() {
                return None;
            }
            said.extend(answer.body.map(|body| (answer.status, body)));
        }
    }
    Some(said)
}
