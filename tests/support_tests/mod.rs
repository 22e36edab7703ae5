//! The test support against itself: the client talks to the origin with no balancer in between.

mod exchanges;
mod origins;
mod prometheus;
mod waiting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const MS: Duration = Duration::from_millis(1);

fn panic_of(act: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("it should have panicked");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().expect("a text").to_string(),
    }
}
