//! Changes by the control API while clients send requests: none is lost.

use super::{SetAtDrop, post, post_url};
use crate::support::{Lb, Origin};
use lb_threads::config::Algorithm;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

const CLIENTS: usize = 8;
const ROUNDS: usize = 25;

#[test]
fn additions_drains_removals_and_new_algorithms_under_load_lose_no_request() {
    let origins: Vec<Origin> = (0..3).map(|_| Origin::responding("served")).collect();
    let lb = Lb::controlled(&[&origins[0], &origins[1]]);
    lb.wait_for_up(2);
    let (ended, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = lb.connect();
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/").text(), "served");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = SetAtDrop(&ended);
        for round in 0..ROUNDS {
            let (changing, added) = (&origins[round % 2], &origins[2]);
            assert_eq!(post_url(&lb, "add", added).0, 201);
            assert_eq!(post_url(&lb, "drain", changing).0, 200);
            let algorithm = Algorithm::ALL[round % Algorithm::ALL.len()].name();
            let (status, json) =
                post(&lb, "scheduler", &format!("{{\"algorithm\": {algorithm:?}}}"));
            assert_eq!((status, &json["algorithm"]), (200, &algorithm.into()));
            assert_eq!(post_url(&lb, "resume", changing).0, 200);
            assert_eq!(post_url(&lb, "remove", changing).0, 200);
            assert_eq!(post_url(&lb, "add", changing).0, 201);
            assert_eq!(post_url(&lb, "drain", added).0, 200);
            assert_eq!(post_url(&lb, "remove", added).0, 200);
        }
    });
    let at_backends: usize = origins.iter().map(Origin::count).sum();
    assert!(
        served.load(Ordering::Relaxed) > CLIENTS && at_backends >= served.load(Ordering::Relaxed)
    );
    assert!(origins.iter().all(|origin| origin.count() > 0), "each had its share");
}
