//! Chunked bodies: decoded in one piece and in many, encoded and decoded again.
//!
//! Holds: body, trailers, end and rejection do not depend on how the bytes are split. The decoder
//! never consumes more than its input, never returns more than it consumed, and finds the same body
//! as httparse's sizes where those reach an end. The re-encoded body decodes to the same bytes, and
//! its trailers do not change the second time.
//!
//! Flags: the size of the decoded pieces, and of the chunks they are re-encoded into.

#![no_main]

use lb_threads::wire::chunked::{self, Decoder, Piece};
use lb_threads_fuzz::{Input, pieces};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(input) = Input::of(input) else { return };
    let most = usize::from(input.flags) + 1;
    let whole = decode(input.bytes, [u8::MAX; 3], usize::MAX);
    assert_eq!(
        whole,
        decode(input.bytes, input.cuts, most),
        "the decoded body depends on the split"
    );
    let Some(trailers) = &whole.trailers else { return };
    if let Some(body) = by_httparse(input.bytes) {
        assert_eq!(whole.body, body, "httparse reads other chunks");
    }
    let cuts = [input.flags, 0, input.flags];
    let Some(encoded) = encode(&whole.body, cuts, trailers) else { return };
    let again = decode(&encoded, [u8::MAX; 3], usize::MAX);
    assert_eq!(again.body, whole.body);
    assert_eq!(again.consumed, encoded.len(), "bytes follow the encoded body");
    let trailers = again.trailers.expect("the encoded body has an end");
    assert_eq!(
        encode(&whole.body, cuts, &trailers),
        Some(encoded),
        "the canonical form is not stable"
    );
});

/// The result of an input.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    body: Vec<u8>,
    /// If the end was seen.
    trailers: Option<Vec<u8>>,
    /// The consumed length; none for a rejected input.
    consumed: usize,
    is_bad: bool,
}

/// Passes the pieces in as a session does: the rest comes again, with more. At most so much body is
/// taken at once.
fn decode(bytes: &[u8], cuts: [u8; 3], most: usize) -> Decoded {
    let (mut decoder, mut decoded, mut have) = (Decoder::default(), Decoded::default(), 0);
    for piece in pieces(bytes, cuts) {
        have += piece.len();
        loop {
            let pending = &bytes[decoded.consumed..have];
            let Ok((consumed, found)) = decoder.next_up_to(most, pending) else {
                return Decoded { is_bad: true, consumed: 0, ..decoded };
            };
            assert!(consumed <= pending.len(), "it consumed more than there was");
            decoded.consumed += consumed;
            match found {
                Piece::NeedMore if consumed > 0 => {}
                Piece::NeedMore => break,
                Piece::Data(data) => {
                    assert!(
                        !data.is_empty() && data.len() <= consumed.min(most),
                        "it gave more than it took"
                    );
                    decoded.body.extend_from_slice(data);
                }
                Piece::End(trailers) => {
                    assert!(trailers.len() < consumed);
                    return Decoded { trailers: Some(trailers.to_vec()), ..decoded };
                }
            }
        }
    }
    decoded
}

/// None for trailers that may not be passed on.
fn encode(body: &[u8], cuts: [u8; 3], trailers: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for piece in pieces(body, cuts) {
        chunked::encode(&mut out, piece);
    }
    chunked::encode_end(&mut out, trailers).ok()?;
    Some(out)
}

/// The body as httparse would have the sizes. It is laxer in some ways and stricter in others, so
/// it need not get to the end.
fn by_httparse(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(bytes) else {
            return None;
        };
        if size == 0 {
            return Some(body);
        }
        let (data, rest) = bytes[line..].split_at_checked(usize::try_from(size).ok()?)?;
        body.extend_from_slice(data);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
}
