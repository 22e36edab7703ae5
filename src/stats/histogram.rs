//! The buckets of a histogram of durations, and percentiles over them. Pure.
//!
//! Durations are whole microseconds. Below 32 us each value has a bucket of its own; above, each
//! octave (a power of two up to the next) is divided into 17 equal buckets. A bucket from `l` to `u`
//! is represented by `2lu / (l + u)`, which is off by `(u - l) / (u + l)` of the exact value at
//! most: 1/35, or 2.9 %. 17 is the least number for 3 %. Durations above an hour are in the last
//! bucket.

use std::time::Duration;

/// The buckets of each octave.
const PER_OCTAVE: u64 = 17;
/// The values below this one, a power of two, have buckets of their own.
const EXACT: u64 = 32;
/// The longest distinguished duration, in microseconds: an hour.
pub const MAX_MICROS: u64 = 3_600_000_000;
/// The number of buckets.
pub const BUCKETS: usize = bucket(MAX_MICROS) + 1;

/// The bucket of a duration in microseconds.
pub const fn bucket(micros: u64) -> usize {
    let micros = if micros < MAX_MICROS { micros } else { MAX_MICROS };
    if micros < EXACT {
        return micros as usize;
    }
    let octave = micros.ilog2();
    let earlier_octaves = (octave - EXACT.ilog2()) as u64;
    let offset = micros - (1 << octave);
    (EXACT + earlier_octaves * PER_OCTAVE + ((offset * PER_OCTAVE) >> octave)) as usize
}

/// The duration that represents a bucket.
pub fn representative(bucket: usize) -> Duration {
    let (low, high) = (lowest(bucket) as f64, (lowest(bucket + 1) - 1) as f64);
    let micros = if bucket == 0 { 0.0 } else { 2.0 * low * high / (low + high) };
    Duration::from_nanos((micros * 1000.0) as u64)
}

/// The lowest value of a bucket, in microseconds.
fn lowest(bucket: usize) -> u64 {
    let Some(above) = (bucket as u64).checked_sub(EXACT) else {
        return bucket as u64;
    };
    let (octave, part) = (EXACT.ilog2() as u64 + above / PER_OCTAVE, above % PER_OCTAVE);
    (1 << octave) + (part << octave).div_ceil(PER_OCTAVE)
}

/// The percentiles of the durations that are counted per bucket, by the nearest rank; none if there
/// are no durations. `percents` ascend.
pub fn percentiles<const N: usize>(
    counts: &[u64; BUCKETS],
    percents: [u64; N],
) -> Option<[Duration; N]> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let (mut bucket, mut counted) = (0, counts[0]);
    Some(percents.map(|percent| {
        let rank = (u128::from(total) * u128::from(percent)).div_ceil(100).max(1);
        while u128::from(counted) < rank {
            bucket += 1;
            counted += counts[bucket];
        }
        representative(bucket)
    }))
}

/// The representative of the highest bucket that has a duration.
pub fn highest(counts: &[u64; BUCKETS]) -> Option<Duration> {
    counts.iter().rposition(|count| *count > 0).map(representative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_begins_where_the_one_before_ends() {
        assert_eq!((BUCKETS, lowest(0)), (486, 0));
        for index in 0..BUCKETS {
            let low = lowest(index);
            assert_eq!(bucket(low), index);
            assert!(low == 0 || bucket(low - 1) == index - 1, "{low}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_representative_is_within_3_percent_of_each_value_of_its_bucket() {
        for index in 1..BUCKETS {
            let shown = representative(index).as_secs_f64() * 1e6;
            for exact in [lowest(index), (lowest(index + 1) - 1).min(MAX_MICROS)] {
                let error = (shown - exact as f64).abs() / exact as f64;
                assert!(error < 0.029, "{exact} us are shown as {shown}");
            }
        }
    }

    #[test]
    fn percentiles_are_within_3_percent_of_those_of_the_sorted_durations() {
        for seed in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let length: u64 = [1, 2, 10, 999, 10_000][seed as usize % 5];
            let exponents = rng.f64() * 22.0;
            let mut sorted: Vec<u64> = (0..length)
                .map(|_| ((rng.f64() * exponents).exp() as u64).clamp(1, MAX_MICROS))
                .collect();
            sorted.sort_unstable();
            let mut counts = [0; BUCKETS];
            sorted.iter().for_each(|micros| counts[bucket(*micros)] += 1);
            let percents = [1, 25, 50, 90, 95, 99, 100];
            for (percent, shown) in percents.iter().zip(percentiles(&counts, percents).unwrap()) {
                let rank = (length * percent).div_ceil(100) as usize;
                let exact = sorted[rank - 1] as f64;
                let error = (shown.as_secs_f64() * 1e6 - exact).abs() / exact;
                assert!(error < 0.03, "seed {seed}: p{percent} of {exact} us is {shown:?}");
            }
        }
    }

    #[test]
    fn without_durations_there_are_no_percentiles() {
        assert_eq!((percentiles(&[0; BUCKETS], [50]), highest(&[0; BUCKETS])), (None, None));
    }
}
