//! Address hash: the same backend for the same client, by weighted rendezvous hashing.
//!
//! Each backend has a score of its own for each client, made of the client's address and the
//! backend's name, and the lowest wins. So a lost backend's clients move, and no others; a client
//! whose backend is full or was tried goes to its next one; and equal balancers agree.

use super::choice::Choice;
use crate::upstream::backend::Backend;
use crate::upstream::hash;
use fastrand::Rng;
use std::net::IpAddr;
use std::sync::Arc;

/// None is needed.
pub(super) fn cycle(_: &[Arc<Backend>]) -> Box<[u32]> {
    Box::default()
}

/// The usable backend with the client's lowest score.
pub(super) fn choose(choice: &Choice<'_>, _: &mut Rng) -> Option<usize> {
    let client = client_hash(choice.client);
    choice.lowest(|backend| {
        // Exponentially distributed with the weight as rate: the probability to be the lowest is the
        // share of the weight.
        -unit(hash::mix(client ^ backend.name_hash)).ln() / f64::from(backend.weight())
    })
}

/// A hash of an address. IPv4 is hashed as IPv4 inside IPv6, so that both forms are one client.
fn client_hash(client: IpAddr) -> u64 {
    let address = match client {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let bits = address.to_bits();
    hash::mix(hash::mix((bits >> 64) as u64) ^ bits as u64)
}

/// A number between 0 and 1, neither of them, from the high bits of a hash.
fn unit(hash: u64) -> f64 {
    ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}
