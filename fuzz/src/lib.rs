//! Shared by the targets: an input's layout, splitting bytes into pieces, and the invariants of
//! every accepted head.

use lb_threads::error::Cause;
use lb_threads::wire::fields::{Field, Name};
use lb_threads::wire::head_end::HeadEnd;

/// An input of the targets that take bytes: `flags`, three lengths of pieces, then the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Input<'i> {
    /// Their meaning depends on the target.
    pub flags: u8,
    /// How long the pieces are, in turn: one more than the byte. 255 is everything that is
    /// left.
    pub cuts: [u8; 3],
    /// The bytes themselves.
    pub bytes: &'i [u8],
}

impl<'i> Input<'i> {
    /// None if it is too short.
    pub fn of(input: &'i [u8]) -> Option<Self> {
        let ([flags, cuts @ ..], bytes) = input.split_first_chunk::<4>()?;
        Some(Self { flags: *flags, cuts: *cuts, bytes })
    }
}

/// The bytes in pieces, in turn as long as the cuts.
pub fn pieces(bytes: &[u8], cuts: [u8; 3]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    cuts.into_iter().cycle().map_while(move |cut| {
        let length = if cut == u8::MAX { rest.len() } else { rest.len().min(usize::from(cut) + 1) };
        let (piece, remaining) = rest.split_at(length);
        rest = remaining;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Looks for the end of a head that grows piece by piece, until the result is known.
pub fn find_head_end(bytes: &[u8], cuts: [u8; 3]) -> Result<Option<usize>, Cause> {
    let (mut end, mut have) = (HeadEnd::default(), 0);
    for piece in pieces(bytes, cuts) {
        have += piece.len();
        if let Some(length) = end.find(&bytes[..have])? {
            assert!(length <= have, "the head ends beyond its bytes");
            return Ok(Some(length));
        }
    }
    Ok(None)
}

/// Bytes that no accepted head may have: line ends or NUL that a peer could read differently, and
/// folded lines.
pub fn assert_unambiguous(head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n"), "it ends with an empty line");
    assert!(!head.contains(&0), "NUL");
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "a bare CR at {at}"),
            b'\n' => {
                assert!(at > 0 && head[at - 1] == b'\r', "a bare LF at {at}");
                assert!(!matches!(head.get(at + 1), Some(b' ' | b'\t')), "a folded line at {at}");
            }
            _ => {}
        }
    }
}

/// The fields that mean nothing to a proxy and are not named by `Connection`: they pass as they
/// are, in their order.
pub fn passing<'h, 'b>(fields: &'h [Field<'b>]) -> Vec<(&'b str, &'b [u8])> {
    let is_named = |name: &str| {
        named_by_connection(fields).any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    };
    let passes = |field: &&Field<'b>| {
        matches!(Name::of(field.name), Name::Other | Name::Accept) && !is_named(field.name)
    };
    fields.iter().filter(passes).map(|field| (field.name, field.value)).collect()
}

/// Every option of every `Connection` line, read without the balancer's help.
fn named_by_connection<'h, 'b>(
    fields: &'h [Field<'b>],
) -> impl Iterator<Item = &'b [u8]> + use<'h, 'b> {
    let lines = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
    lines.flat_map(|line| line.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}
