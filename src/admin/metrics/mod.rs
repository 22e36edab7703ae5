//! `GET /metrics`: what is counted anyway, in the formats of Prometheus.
//!
//! Runs on the thread of a connection. [`FAMILIES`] is the one table of what is there; `facts` reads
//! all of it at one moment, so that what is in several families agrees. The encoder is
//! `prometheus-client`; its registry is made for each response, since nothing is counted in it. Must
//! never have a label whose values clients choose.

mod accept;
mod facts;
mod families;
mod process;

pub use families::{FAMILIES, Family, Kind};

use super::message::Response;
use crate::server::Balancer;
pub(super) use accept::Format;
use facts::Facts;
use families::Series;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// The response with all families.
pub(super) fn response(balancer: &Balancer, format: Format) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { facts: Facts::of(balancer), format }));
    let mut body = String::new();
    let encoded = match format {
        Format::Text => prometheus_text::encode(&mut body, &registry),
        Format::OpenMetrics => text::encode(&mut body, &registry),
    };
    encoded.expect("a string takes everything, and no value is invalid");
    Response { status: 200, content_type: format.content_type(), body, fields: Vec::new() }
}

/// The one collector of a registry.
#[derive(Debug)]
struct Scrape {
    facts: Facts,
    format: Format,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in FAMILIES {
            // OpenMetrics allows one family `connections`, and that is the gauge; without a type the
            // counter has the same series as in the other format.
            let is_untyped = self.format == Format::OpenMetrics && family.has_namesake();
            let (name, kind) = match is_untyped {
                true => (family.name, MetricType::Unknown),
                false => (family.base_name(), family.kind.encoded()),
            };
            let encoder = encoder.encode_descriptor(name, family.help, None, kind)?;
            (family.series)(&self.facts, &mut Series { encoder, is_untyped })?;
        }
        Ok(())
    }
}
