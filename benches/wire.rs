//! Micro-benchmarks of the wire layer: parse, frame, rewrite. `cargo bench`; see
//! `benches/README.md`.

use divan::{Bencher, black_box};
use lb_threads::wire::chunked::{self, Decoder, Piece};
use lb_threads::wire::head_end::HeadEnd;
use lb_threads::wire::request_id::RequestId;
use lb_threads::wire::rewrite::{
    self, ConnectionHeader, ForwardingInfo, RequestFraming, ResponseFields, ResponseFraming,
};
use lb_threads::wire::{fields, request, response};
use std::net::{IpAddr, Ipv4Addr};

const SMALL: &[u8] = b"GET /1k HTTP/1.1\r\nHost: 127.0.0.1:9090\r\n\r\n";

/// The request head of a browser.
const BROWSER: &[u8] = b"GET /articles/2026/load-balancing?ref=home HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\nSec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=all\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nContent-Type: text/html\r\n\
Content-Length: 1024\r\nLast-Modified: Fri, 20 Nov 2026 11:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"69aaaaaa-400\"\r\n\
Accept-Ranges: bytes\r\n\r\n";

const CLIENT: ForwardingInfo<'_> = ForwardingInfo {
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    trusted: false,
    request_id: &RequestId::Generated([b'7'; 32]),
};

fn main() {
    divan::main();
}

#[divan::bench(args = [SMALL.len(), BROWSER.len()])]
fn find_the_end_of_a_head(size: usize) -> Option<usize> {
    HeadEnd::default().find(black_box(request_of(size))).unwrap_or_default()
}

#[divan::bench(args = [SMALL.len(), BROWSER.len()])]
fn parse_a_request(size: usize) -> bool {
    let mut room = fields::field_storage();
    request::parse(black_box(request_of(size)), &mut room).is_ok()
}

#[divan::bench(args = [SMALL.len(), BROWSER.len()])]
fn rewrite_a_request(bencher: Bencher<'_, '_>, size: usize) {
    let mut room = fields::field_storage();
    let head = request::parse(request_of(size), &mut room).expect("the sample is right");
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        rewrite::request(&mut out, black_box(&head), CLIENT);
        rewrite::request_framing(&mut out, None, RequestFraming::Plain);
        out.len()
    });
}

#[divan::bench]
fn parse_a_response() -> bool {
    let mut room = fields::field_storage();
    response::parse(black_box(RESPONSE), &mut room, false).is_ok()
}

#[divan::bench]
fn rewrite_a_response(bencher: Bencher<'_, '_>) {
    let mut room = fields::field_storage();
    let head = response::parse(RESPONSE, &mut room, false).expect("the sample is right");
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        let fields = ResponseFields {
            connection: ConnectionHeader::Omit,
            date: "today",
            request_id: CLIENT.request_id,
        };
        rewrite::response(&mut out, black_box(&head), ResponseFraming::Plain, fields);
        out.len()
    });
}

#[divan::bench(args = [16, 1024, 16 * 1024])]
fn decode_64_kib_of_chunks(bencher: Bencher<'_, '_>, chunk: usize) {
    let mut body = Vec::new();
    for _ in 0..64 * 1024 / chunk {
        chunked::encode(&mut body, &vec![b'x'; chunk]);
    }
    chunked::encode_end(&mut body, b"").expect("there are no trailers");
    bencher.bench_local(|| {
        let (mut decoder, mut rest, mut length) = (Decoder::default(), black_box(&body[..]), 0);
        while let Ok((consumed, Piece::Data(data))) = decoder.next(rest) {
            length += data.len();
            rest = &rest[consumed..];
        }
        length
    });
}

#[divan::bench]
fn encode_16_kib_as_a_chunk(bencher: Bencher<'_, '_>) {
    let data = vec![b'x'; 16 * 1024];
    let mut out = Vec::with_capacity(32 * 1024);
    bencher.bench_local(|| {
        out.clear();
        chunked::encode(&mut out, black_box(&data));
        out.len()
    });
}

fn request_of(size: usize) -> &'static [u8] {
    if size == SMALL.len() { SMALL } else { BROWSER }
}
